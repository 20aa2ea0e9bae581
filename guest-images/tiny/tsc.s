# A Linux program, not a guest: reads the time-stamp counter by RDTSC and by RDTSCP, 5000 times each, without asking
# whether it may. Says whether the counter ever went back, and ends with 1 if so.

.set COUNT,             5000
.set WRITE,             1
.set EXIT,              60

.globl _start
_start:
        mov $COUNT, %ebx
        xor %r12d, %r12d                        # the last reading
1:      rdtsc
        shl $32, %rdx
        or %rdx, %rax
        cmp %r12, %rax
        jb back
        mov %rax, %r12
        mov $-1, %ecx
        rdtscp
        test %ecx, %ecx                         # IA32_TSC_AUX, which is hidden
        jnz back
        shl $32, %rdx
        or %rdx, %rax
        cmp %r12, %rax
        jb back
        mov %rax, %r12
        dec %ebx
        jnz 1b
        lea text_ok(%rip), %rsi
        mov $text_ok_end - text_ok, %edx
        xor %ebx, %ebx
say:    mov $WRITE, %eax
        mov $1, %edi
        syscall
        mov $EXIT, %eax
        mov %ebx, %edi
        syscall
back:   lea text_back(%rip), %rsi
        mov $text_back_end - text_back, %edx
        mov $1, %ebx
        jmp say

text_ok: .ascii "tsc: ok\n"
text_ok_end:
text_back: .ascii "tsc: FAIL\n"
text_back_end:
