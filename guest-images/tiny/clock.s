# Reads the PM timer and the TSC port in turn and checks that neither runs backwards.
# Option: count=N (default 10000) readings of each.

.include "start.inc"

main:
        mov $word_count, %edi
        mov $10000, %esi
        call number
        mov %rax, %rbp

        # R12: last PM timer value, R13: last TSC, R14: checksum, RBX: readings.
        xor %ebx, %ebx
        xor %r14d, %r14d
        call read_pm
        mov %eax, %r12d
        call read_tsc
        mov %rax, %r13
1:      call read_pm
        mov %eax, %ecx
        sub %r12d, %ecx                         # modulo 2^32: the timer may wrap
        js backwards_pm
        mov %eax, %r12d
        rol $7, %r14
        xor %rax, %r14
        call read_tsc
        cmp %r13, %rax
        jb backwards_tsc
        mov %rax, %r13
        rol $7, %r14
        xor %rax, %r14
        inc %rbx
        cmp %rbp, %rbx
        jb 1b
        mov $text_ok, %edi
report: call print
        mov %rbx, %rdi
        call print_decimal
        mov $text_pm, %edi
        call print
        mov %r12d, %edi
        call print_decimal
        mov $text_tsc, %edi
        call print
        mov %r13, %rdi
        call print_decimal
        mov $text_checksum, %edi
        call print
        mov %r14, %rdi
        call print_hex
        jmp newline

backwards_pm:
        mov $text_fail_pm, %edi
        jmp report
backwards_tsc:
        mov $text_fail_tsc, %edi
        jmp report

read_pm:
        mov $PM_TMR, %edx
        in %dx, %eax
        ret

# IN EAX, TSC_PORT answers in EDX:EAX, as the rewritten RDTSC of a guest kernel expects.
read_tsc:
        in $TSC_PORT, %eax
        shl $32, %rdx
        mov %eax, %eax
        or %rdx, %rax
        ret

.data
word_count: .asciz "count="
text_ok: .asciz "clock: ok readings="
text_fail_pm: .asciz "clock: FAIL, PM timer went back, readings="
text_fail_tsc: .asciz "clock: FAIL, TSC went back, readings="
text_pm: .asciz " pm="
text_tsc: .asciz " tsc="
text_checksum: .asciz " checksum="
