# Computes in all the ways in which an interrupt can find a vCPU, under a storm of timer interrupts at
# random moments: tight branches, repeated string instructions, page faults, user mode, sections
# with interrupts off, and calls that only their return addresses tell apart. There is no exit in it but for the
# timer's own.
#
# Every interrupt folds the place it landed on (RIP, CS, RFLAGS, RCX, RSI, RDI, the top of the stack and the state of
# the loops) into a checksum, so two runs end with the same line and the same RAM only if each interrupt
# came at the same instruction, and the same repetition of it.
# Options: ticks=N (interrupts, default 1000), period=NS (mean time between them, default 200000),
# kind=N (only this kind of work, 0 to 7), wait (stand still at the end, for RAM to be looked at).

.include "start.inc"

.set TIMER_VECTOR,      0x40
.set USER_VECTOR,       0x81
.set PAGE_FAULT,        14
.set USER_CODE,         0x23
.set USER_DATA,         0x2b
.set TSS,               0x30
.set EFER,              0xc0000080
.set STAR,              0xc0000081
.set LSTAR,             0xc0000082
.set SFMASK,            0xc0000084
.set FAULT_ADDRESS,     0x4000000               # above RAM: its page directory entry is ours
.set BLOCK_BYTES,       2048
.set FAULTING_PAGES,    256

main:
        call privileges
        mov $TIMER_VECTOR, %edi
        mov $timer_interrupt, %esi
        call set_gate
        mov $PAGE_FAULT, %edi
        mov $page_fault, %esi
        call set_gate
        mov $USER_VECTOR, %edi
        mov $user_done, %esi
        call set_gate
        movw $0xee00, idt + USER_VECTOR * 16 + 4 # user code may call it
        mov $word_ticks, %edi
        mov $1000, %esi
        call number
        mov %rax, wanted
        mov $word_period, %edi
        mov $200000, %esi
        call number
        mov %rax, period
        mov $word_kind, %edi
        mov $-1, %rsi
        call number
        mov %rax, %r15
        mov $APIC_LVT_TIMER, %edi
        mov $TIMER_VECTOR, %esi                 # one shot
        call apic_write
        mov $APIC_TIMER_DIV, %edi
        mov $0xb, %esi                          # divide by 1
        call apic_write
        call next_tick
        sti

        # RBX: rounds; R13: a state that depends on every step before.
        xor %ebx, %ebx
        mov $0x9e3779b97f4a7c15, %r13
again:  mov %r15, %rax
        cmp $8, %rax
        jb 1f
        mov %rbx, %rax
        xor %edx, %edx
        mov $5, %ecx
        div %rcx
        mov %rdx, %rax
1:      call *kinds(,%rax,8)
        inc %rbx
        mov wanted, %rax
        cmp %rax, ticks
        jb again
        cli

        mov $text_rounds, %edi
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
        mov $text_checksum, %edi
        call print
        mov checksum, %rdi
        call print_hex
        call newline
        mov $word_wait, %edi
        call option
        test %eax, %eax
        jnz 2f
        ret
2:      hlt                                     # no interrupt comes
        jmp 2b

# A branch for every few instructions, and the flags that BT leaves undefined: undefined is not different each time.
branches:
        mov $1000, %ecx
1:      rol $5, %r13
        add %rcx, %r13
        bt $3, %ecx
        pushfq
        pop %rax
        and $0x8d5, %eax                        # OF, SF, ZF, AF, PF, CF
        add %rax, %r13
        dec %ecx
        jnz 1b
        ret

# Long repetitions: an interrupt finds them half done.
strings:
        mov $block_a, %esi
        mov $block_b, %edi
        mov $BLOCK_BYTES, %ecx
        rep movsb
        mov $block_a, %edi
        mov $BLOCK_BYTES / 8, %ecx
        mov %r13, %rax
        rep stosq
        mov $block_b, %edi
        mov $BLOCK_BYTES, %ecx
        mov $0x100, %eax
        repne scasb
        add %rcx, %r13
        mov block_b, %rax
        rol $7, %r13
        xor %rax, %r13
        ret

# A page that is not there when it is touched.
faults:
        mov $20, %ecx
1:      movq $0, fault_table
        invlpg FAULT_ADDRESS
        mov FAULT_ADDRESS(,%rcx,8), %rax
        xor %rcx, %rax
        mov %rax, FAULT_ADDRESS(,%rcx,8)
        rol $11, %r13
        add %rax, %r13
        dec %ecx
        jnz 1b
        ret

# One repetition over pages of which none is there: behind each fault it goes on in its middle. (Not in the mix of
# kinds, since it takes longer than all of them.)
faulting:
        xor %eax, %eax
        mov $fault_table, %edi
        mov $FAULTING_PAGES, %ecx
        rep stosq
        mov %cr3, %rax
        mov %rax, %cr3
        mov $FAULT_ADDRESS, %edi
        mov $FAULTING_PAGES * 512, %ecx
        mov %r13, %rax
        rep stosq
        rol $13, %r13
        xor fault_page, %rax
        add %rdi, %rax
        xor %rax, %r13
        ret

# User mode and back.
user:
        mov %rsp, kernel_stack
        push $USER_DATA
        push $user_stack_top
        push $0x202                             # IF
        push $USER_CODE
        push $user_code
        iretq
user_code:
        mov $300, %ecx
1:      rol $3, %r13
        push %r13
        xor %rcx, (%rsp)
        pop %rax
        add %rax, %r13
        dec %ecx
        jnz 1b
        int $USER_VECTOR
user_done:
        mov kernel_stack, %rsp
        sti
        ret

# The same by a system call, which leaves no frame and from which nothing returns. (Not in the mix of kinds:
# some hosts emulate all of the kernel but this.)
calling:
        mov $EFER, %ecx
        rdmsr
        or $1, %eax                             # SCE
        wrmsr
        mov $STAR, %ecx
        xor %eax, %eax
        mov $0x10, %edx                         # kernel code, and data behind it
        wrmsr
        mov $LSTAR, %ecx
        mov $user_done, %eax
        xor %edx, %edx
        wrmsr
        mov $SFMASK, %ecx
        mov $0x700, %eax                        # TF, IF, DF
        wrmsr
        mov %rsp, kernel_stack
        push $USER_DATA
        push $user_stack_top
        push $0x202                             # IF
        push $USER_CODE
        push $calling_code
        iretq
calling_code:
        mov $300, %ecx
1:      rol $3, %r13
        push %r13
        xor %rcx, (%rsp)
        pop %rax
        add %rax, %r13
        dec %ecx
        jnz 1b
        syscall

# Interrupts off for most of the time, so that they wait for the window.
closed:
        mov $50, %edx
1:      cli
        mov $40, %ecx
2:      rol $9, %r13
        add %rcx, %r13
        dec %ecx
        jnz 2b
        sti
        xor %rdx, %r13
        dec %edx
        jnz 1b
        ret

# Code without a branch that calls the same function again and again, which leaves all registers alone. (Not in the mix
# of kinds: so many stops for each branch are no measure of other code.)
repeats:
        mov $100, %ecx
1:
.rept 16
        call same
.endr
        rol $13, %r13
        add %rcx, %r13
        dec %ecx
        jnz 1b
        ret
same:
.rept 8
        nop
.endr
        ret

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
        xor %rsi, %rax
        rol $7, %rax
        xor %rdi, %rax
        rol $7, %rax
        xor %rbx, %rax
        rol $7, %rax
        xor %r13, %rax
        xor 48(%rsp), %rax                      # CS
        xor 56(%rsp), %rax                      # RFLAGS
        xor 64(%rsp), %rax                      # RSP
        rol $7, %rax
        mov 64(%rsp), %rdx
        xor (%rdx), %rax                        # the top of the stack
        mov %rax, checksum
        # The last 512 are kept, for who looks for the first that differs.
        mov ticks, %ecx
        and $511, %ecx
        mov %rax, history(,%rcx,8)
        incq ticks
        call next_tick
        mov $APIC_EOI, %edi
        xor %esi, %esi
        call apic_write
        pop %rsi
        pop %rdi
        pop %rdx
        pop %rcx
        pop %rax
        iretq

# Starts the timer for a random time around the period.
next_tick:
        mov random, %rax
        mov $6364136223846793005, %rcx
        imul %rcx, %rax
        mov $1442695040888963407, %rcx
        add %rcx, %rax
        mov %rax, random
        shr $33, %rax
        xor %edx, %edx
        divq period
        mov period, %esi
        shr $1, %esi
        add %edx, %esi
        mov $APIC_TIMER_INIT, %edi
        jmp apic_write

# All pages are the same one. With branches in it, so that a repetition's beginning and its middle are told apart.
page_fault:
        push %rax
        push %rcx
        mov %cr2, %rax
        shr $12, %eax
        and $511, %eax
        movq $fault_page + 3, fault_table(,%rax,8)
        mov $50, %ecx
1:      dec %ecx
        jnz 1b
        pop %rcx
        pop %rax
        add $8, %rsp                            # the error code
        iretq

# User segments, a TSS, user access to the first 2 MiB, and a page table for the faults.
privileges:
        mov $tss, %eax
        movw $tss_end - tss - 1, gdt2 + TSS
        mov %ax, gdt2 + TSS + 2
        shr $16, %eax
        mov %al, gdt2 + TSS + 4
        movb $0x89, gdt2 + TSS + 5
        mov %ah, gdt2 + TSS + 7
        movq $interrupt_stack_top, tss + 4      # RSP0
        lgdt gdt2_register
        mov $TSS, %eax
        ltr %ax
        orb $4, pml4
        orb $4, pdpt
        orb $4, page_directories
        movq $fault_table + 3, page_directories + (FAULT_ADDRESS >> 21) * 8
        mov %cr3, %rax
        mov %rax, %cr3
        ret

.data
.balign 8
kinds:  .quad branches, strings, faults, user, closed, calling, faulting, repeats
gdt2:   .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
        .quad 0, 0                              # the TSS
gdt2_register:
        .word gdt2_register - gdt2 - 1
        .quad gdt2
random: .quad 0x123456789abcdef
word_ticks: .asciz "ticks="
word_period: .asciz "period="
word_kind: .asciz "kind="
word_wait: .asciz "wait"
text_rounds: .asciz "storm: rounds="
text_ticks: .asciz " ticks="
text_state: .asciz " state="
text_checksum: .asciz " checksum="
.bss
.balign 4096
fault_table: .skip 4096
fault_page: .skip 4096
block_a: .skip BLOCK_BYTES
block_b: .skip BLOCK_BYTES
        .skip 4096
user_stack_top:
        .skip 4096
interrupt_stack_top:
tss:    .skip 104
tss_end:
.balign 8
history: .skip 4096
checksum: .skip 8
ticks:  .skip 8
wanted: .skip 8
period: .skip 8
kernel_stack: .skip 8
