// From the PVH entry point to `kernel_main`: 32-bit protected mode with paging off, the physical
// address of `hvm_start_info` in ebx (Xen, docs/misc/pvh.pandoc), to 64-bit mode in the top 2 GiB.
//
// The first gigabyte of physical memory is mapped twice here, at 0 and at KERNEL_BASE. The mapping
// is constant data: ring 0 may be emulated, where a loop that fills tables would cost a millisecond.
// `mm::paging` replaces it as soon as there are frames.

.set BASE, 0xffffffff80000000

.section .note.pvh, "a", @note
.balign 4
    .long 4                         // length of the name
    .long 8                         // length of the descriptor
    .long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start_physical

.section .boot.text, "ax"
.code32
.global pvh_start
pvh_start:
    cld
    movl $(boot_stack_top - BASE), %esp
    movl %ebx, %edi                 // kernel_main's argument

    movl $(boot_pml4 - BASE), %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx          // EFER
    rdmsr
    orl $0x900, %eax                // LME, NXE
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax          // not EM: user programs may use the FPU
    orl $0x80010003, %eax           // PG, WP, MP, PE
    movl %eax, %cr0
    lgdtl (boot_gdt_pointer - BASE)
    ljmpl $0x10, $(start64 - BASE)

.code64
start64:
    movabsq $start_high, %rax
    jmpq *%rax
start_high:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl $0x18, %eax
    movl %eax, %ss
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %edi, %edi                 // the upper half is undefined after the switch
    callq kernel_main
    ud2

.section .rodata.boot, "a"
.balign 8
boot_gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff        // 0x10: kernel code, 64 bits
    .quad 0x00cf93000000ffff        // 0x18: kernel data
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt - BASE

// Page tables are written by the processor (accessed bits), so they are data.
.section .data.boot, "aw"
.balign 4096
boot_pml4:
    .quad boot_pdpt_low - BASE + 3
    .fill 510, 8, 0
    .quad boot_pdpt_high - BASE + 3
boot_pdpt_low:
    .quad boot_pd - BASE + 3
    .fill 511, 8, 0
boot_pdpt_high:
    .fill 510, 8, 0
    .quad boot_pd - BASE + 3
    .quad 0
boot_pd:
    .set page, 0
    .rept 512
    .quad (page << 21) + 0x83       // present, writable, 2 MiB
    .set page, page + 1
    .endr

.section .bss.boot, "aw", @nobits
.balign 16
    .skip 32768
boot_stack_top:
