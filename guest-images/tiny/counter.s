# Counts under a periodic timer interrupt, and prints what the interrupts saw.
#
# Every interrupt folds the place it landed on (RIP, RCX and the state of the loop) into a checksum,
# so two runs end with the same line only if each interrupt came at the same instruction.
# Options: count=N (default 200000), ticks=N (count until so many interrupts have come, instead),
# period=NS (default 1000000), spin (no exit in the loop, so that only asynchronous stops can deliver
# the interrupt; else the PM timer is read every 1024 counts).

.include "start.inc"

.set TIMER_VECTOR, 0x40

main:
        mov $TIMER_VECTOR, %edi
        mov $timer_interrupt, %esi
        call set_gate
        mov $word_count, %edi
        mov $200000, %esi
        call number
        mov %rax, %rbp
        mov $word_ticks, %edi
        xor %esi, %esi
        call number
        mov %rax, %r15
        mov $word_spin, %edi
        call option
        mov %eax, %r12d
        mov $word_period, %edi
        mov $1000000, %esi
        call number
        mov $TIMER_VECTOR, %edi
        mov %eax, %esi
        call timer_start
        sti

        # RBX: count; R13: a state that depends on every step before; R14: clock values read.
        xor %ebx, %ebx
        mov $0x9e3779b97f4a7c15, %r13
        xor %r14d, %r14d
1:      mov %ebx, %ecx
        and $63, %ecx
2:      rol $5, %r13
        add %rbx, %r13
        dec %ecx
        jns 2b
        inc %rbx
        test $1023, %ebx
        jnz 3f
        test %r12d, %r12d
        jnz 3f
        mov $PM_TMR, %edx
        in %dx, %eax
        rol $9, %r14
        xor %rax, %r14
3:      test %r15, %r15
        jnz 4f
        cmp %rbp, %rbx
        jb 1b
4:      cmp %r15, ticks
        jb 1b
        cli

        mov $text_count, %edi
        call print
        mov %rbx, %rdi
        call print_decimal
        mov $text_ticks, %edi
        call print
        mov ticks, %rdi
        call print_decimal
        mov $text_state, %edi
        call print
        mov %r13, %rdi
        call print_hex
        mov $text_clock, %edi
        call print
        mov %r14, %rdi
        call print_hex
        mov $text_checksum, %edi
        call print
        mov checksum, %rdi
        call print_hex
        jmp newline

timer_interrupt:
        push %rax
        push %rcx
        push %rdx
        push %rdi
        push %rsi
        mov checksum, %rax
        rol $7, %rax
        xor 40(%rsp), %rax                      # interrupted RIP
        rol $7, %rax
        xor %rcx, %rax
        rol $7, %rax
        xor %rbx, %rax
        rol $7, %rax
        xor %r13, %rax
        xor 56(%rsp), %rax                      # RFLAGS
        mov %rax, checksum
        incq ticks
        mov $APIC_EOI, %edi
        xor %esi, %esi
        call apic_write
        pop %rsi
        pop %rdi
        pop %rdx
        pop %rcx
        pop %rax
        iretq

.data
word_count: .asciz "count="
word_period: .asciz "period="
word_ticks: .asciz "ticks="
word_spin: .asciz "spin"
text_count: .asciz "counter: count="
text_ticks: .asciz " ticks="
text_state: .asciz " state="
text_clock: .asciz " clock="
text_checksum: .asciz " checksum="
.bss
.balign 8
checksum: .skip 8
ticks:  .skip 8
