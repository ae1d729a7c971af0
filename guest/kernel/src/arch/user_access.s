// The only instructions that touch user memory from ring 0. A page fault on one of them is handled
// like the program's own; if the address turns out to be bad, the routine returns -1.

.text
.global user_access_start
user_access_start:

// copy_user(to, from, bytes) -> 0 or -1. Eight bytes at a time: a repeated instruction costs by
// its repetitions where ring 0 is emulated.
.global copy_user
copy_user:
    movq %rdx, %rcx
    shrq $3, %rcx
    rep movsq
    movl %edx, %ecx
    andl $7, %ecx
    rep movsb
    xorl %eax, %eax
    retq

// is_gate: do the two bytes at rcx encode `int 0x80`? Equal if so; keeps every register if so.
.global is_gate
is_gate:
    cmpw $0x80cd, (%rcx)
    retq

.global user_access_end
user_access_end:

.global user_access_failed
user_access_failed:
    orq $-1, %rax                   // and not equal
    retq
