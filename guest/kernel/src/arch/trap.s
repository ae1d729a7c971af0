// The way into ring 0 and out of it. A stub saves the registers that a call may change; the Rust
// handler and the context switch keep the others. The layout is `trap::Frame`.
//
// Two paths save nothing, since where ring 0 is emulated a push or pop costs two instructions' time:
// a system call, which by contract leaves no caller-saved register alone (guest/abi), and an
// interrupt that ends `wait_for_interrupt`, the only place where ring 0 can be interrupted.
//
// On a processor, that is. QEMU 7.2, when it emulates AMD-V, has two ways of its own. It delivers an
// interrupt that KVM injects a second time, interrupts being off or not, if it is disturbed before
// it goes on: then the first one is being handled, and the second is dropped. And it forgets that
// `sti` keeps interrupts off until after `hlt`, if it leaves the guest in between: so no interrupt
// returns to `hlt`, but to the caller of `wait_for_interrupt`.

.macro SAVE
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq %rsp, %rdi
    cld
.endm

.macro RESTORE
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq
.endm

.macro STUB name, handler, vector, error_code
.global \name
\name:
    .if \error_code == 0
    pushq $0
    .endif
    pushq $\vector
    SAVE
    callq \handler
    RESTORE
.endm

.text
STUB stub_page_fault, trap_page_fault, 14, 1

// wait_for_interrupt(): turns interrupts on, sleeps until one has been handled, and returns with
// them off. `sti` takes effect after the instruction that follows it: none slips in before `hlt`.
.global wait_for_interrupt
wait_for_interrupt:
    sti
    hlt
    cli                             // a handler returns for us: here is who woke without one
    retq

// The end of the interrupt, said to the local APIC in its two modes (`apic.rs`). Interrupts stay
// off, so it may be said before anything is done; and a test of the mode would cost each interrupt
// two instructions' time, so each has stubs of its own.
.macro X2APIC_END
    movl $0x80b, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
.endm

.macro XAPIC_END
    movq LOCAL_APIC(%rip), %rax
    movl $0, 0xb0(%rax)
.endm

// What follows the vector in an interrupt's stub: `handler`, or `handler` with `_while_idle` after
// it, in case that the processor was in ring 0. That one gets the vector.
.macro INTERRUPT handler, end
    testb $3, 24(%rsp)
    jnz 1f
    testb $2, 33(%rsp)              // RFLAGS.IF of what was interrupted
    jz drop_interrupt
    \end
    movl (%rsp), %edi
    subq $8, %rsp                   // aligned as before a call
    callq \handler\()_while_idle
    movq 48(%rsp), %rsp             // as `wait_for_interrupt` had it
    retq
1:
    SAVE
    \end
    callq \handler
    RESTORE
.endm

.lcomm program_rcx, 8

drop_interrupt:
    addq $16, %rsp
    iretq

// Where the platform delivers `int 0x80` as an invalid opcode, `rip` is still at it.
.global stub_invalid_opcode
stub_invalid_opcode:
    testb $3, 8(%rsp)
    jz not_a_gate
    movq %rcx, program_rcx(%rip)    // a push would cost twice as much
    movq (%rsp), %rcx
    callq is_gate
    jne no_gate_after_all
    addq $2, (%rsp)

// The system-call gate: arguments in rdi, rsi, rdx, r10, r8, the number in rax.
.global stub_gate
stub_gate:
    movq %r10, %rcx
    movq %rax, %r9
    subq $8, %rsp                   // aligned as before a call
    cld
    callq trap_system_call
    addq $8, %rsp
    xorl %ecx, %ecx                 // nothing of the kernel's gets out
    xorl %edx, %edx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    iretq

no_gate_after_all:
    movq program_rcx(%rip), %rcx
not_a_gate:
    pushq $0
    pushq $6
    jmp stub_exception

// Where a new user thread begins: its frame is on its stack.
.global return_to_user
return_to_user:
    RESTORE

stub_exception:
    SAVE
    callq trap_exception
    RESTORE

.global stub_spurious
stub_spurious:
    iretq

// Exceptions, 16 bytes each.
.balign 16
.global exception_stubs
exception_stubs:
.set vector, 0
.rept 32
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp stub_exception
    .set vector, vector + 1
.endr

// The interrupts in one of the local APIC's modes: the timer, and the lines, 16 bytes each.
.macro INTERRUPT_STUBS mode, end
.global \mode\()_timer_stub
\mode\()_timer_stub:
    pushq $0
    pushq $0x40
    INTERRUPT trap_timer, \end

\mode\()_line:
    INTERRUPT trap_line, \end

.balign 16
.global \mode\()_line_stubs
\mode\()_line_stubs:
.set vector, 0x20
.rept 24
    .balign 16
    pushq $0
    pushq $vector
    jmp \mode\()_line
    .set vector, vector + 1
.endr
.endm

INTERRUPT_STUBS x2apic, X2APIC_END
INTERRUPT_STUBS xapic, XAPIC_END
