# Prints a line a timer interrupt and sleeps in between, so that somebody who watches sees it live on.
#
# Options: count=N lines (default 100), period=NS (default 20000000).

.include "start.inc"

.set TIMER_VECTOR, 0x40

main:
        mov $TIMER_VECTOR, %edi
        mov $timer_interrupt, %esi
        call set_gate
        mov $word_count, %edi
        mov $100, %esi
        call number
        mov %rax, %rbp
        mov $word_period, %edi
        mov $20000000, %esi
        call number
        mov $TIMER_VECTOR, %edi
        mov %eax, %esi
        call timer_start

        # RBX: lines printed. An interrupt that comes while a line is printed waits for the HLT.
        xor %ebx, %ebx
1:      sti                                     # takes effect behind hlt: no wake-up is lost
        hlt
        cli
2:      cmp ticks, %rbx
        jae 1b
        inc %rbx
        mov $text_tick, %edi
        call print
        mov %rbx, %rdi
        call print_decimal
        call newline
        cmp %rbp, %rbx
        jb 2b
        mov $text_done, %edi
        call print
        mov %rbx, %rdi
        call print_decimal
        jmp newline

timer_interrupt:
        push %rax
        push %rcx
        push %rdx
        push %rdi
        push %rsi
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
text_tick: .asciz "tick "
text_done: .asciz "ticker: lines="
.bss
.balign 8
ticks:  .skip 8
