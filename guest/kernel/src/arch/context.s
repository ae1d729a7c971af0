// switch_stacks(save: *mut u64, next: u64): leaves the caller's registers on its stack and goes on
// where the owner of the stack `next` left its own.

.text
.global switch_stacks
switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    retq

// Where a new thread's first switch returns to, the stack pointer at its frame.
.global start_user_thread
start_user_thread:
    callq thread_starts
    jmp return_to_user

// r12: the function to run, r13: its argument.
.global start_kernel_thread
start_kernel_thread:
    callq thread_starts
    movq %r13, %rdi
    callq *%r12
    callq thread_ends
    ud2
