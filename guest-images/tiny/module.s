# Gets code with RDTSC in it while it runs, as a kernel gets a module: copies it from data, has it made executable
# by a function of the name that Linux has for that, and calls it. The host's counter must not be seen: what the
# code reads lies between two readings of the TSC port. Once more with an RDTSC across the border of two pages.
# Option: count=N (default 100) readings each.

.include "start.inc"

.set PAGE,              4096

main:
        mov $word_count, %edi
        mov $100, %esi
        call number
        mov %rax, %rbp
        mov $module, %r12d                      # R12: where the code goes
        call load
        mov $module + 3 * PAGE - 1, %r12d
        call load
        mov $text_ok, %edi
        xor %ebx, %ebx
report: call print
        mov %rbp, %rdi
        call print_decimal
        mov $text_bytes, %edi
        call print
        mov (%r12), %edi
        call print_hex
        jmp newline

# Copies the code to R12, and calls it RBP times.
load:   mov $code, %esi
        mov %r12, %rdi
        mov $code_end - code, %ecx
        rep movsb
        mov $module, %edi
        mov $4, %esi
        call set_memory_x
        mov %rbp, %rbx
1:      in $TSC_PORT, %eax
        shl $32, %rdx
        lea (%rdx,%rax), %r13
        call *%r12
        cmp %r13, %rax
        jb seen
        mov %rax, %r14
        in $TSC_PORT, %eax
        shl $32, %rdx
        or %rdx, %rax
        cmp %r14, %rax
        jb seen
        dec %rbx
        jnz 1b
        ret
seen:   pop %rax
        mov $text_seen, %edi
        jmp report

# set_memory_x(address, pages): all of this guest's memory is executable already.
set_memory_x:
        xor %eax, %eax
        ret

.data
# What a module's code may be. It is data here, so that the loader leaves it alone.
code:   rdtsc
        shl $32, %rdx
        or %rdx, %rax
        mov $0x310f310f, %edx                   # no RDTSC: an operand
        ret
code_end:
word_count: .asciz "count="
text_ok: .asciz "module: ok readings="
text_seen: .asciz "module: FAIL, the host's counter was seen, readings="
text_bytes: .asciz " code="

.bss
.balign 4096
module: .skip 4 * PAGE
