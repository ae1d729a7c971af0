// The way into ring 0 and out of it. A stub saves the registers that a call may change; the Rust
// handler and the context switch keep the others. The layout is `trap::Frame`.

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

// The five on the I/O paths have a stub of their own.
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
STUB stub_invalid_opcode, trap_invalid_opcode, 6, 0
STUB stub_page_fault, trap_page_fault, 14, 1
STUB stub_gate, trap_gate, 0x80, 0
STUB stub_timer, trap_timer, 0x40, 0

// Where a new user thread begins: its frame is on its stack.
.global return_to_user
return_to_user:
    RESTORE

stub_exception:
    SAVE
    callq trap_exception
    RESTORE

stub_line:
    SAVE
    callq trap_line
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

// Interrupt lines, 16 bytes each.
.balign 16
.global line_stubs
line_stubs:
.set vector, 0x20
.rept 24
    .balign 16
    pushq $0
    pushq $vector
    jmp stub_line
    .set vector, vector + 1
.endr
