# Echoes the serial line, interrupt by interrupt, until it has read a 'q'.

.include "start.inc"

.set SERIAL_VECTOR, 0x41

main:
        mov $SERIAL_VECTOR, %edi
        mov $serial_interrupt, %esi
        call set_gate
        mov $COM1_GSI, %edi
        mov $SERIAL_VECTOR, %esi
        call ioapic_route
        mov $text_ready, %edi
        call print
        mov $COM1 + 1, %edx
        mov $1, %al
        out %al, %dx                            # received data available
1:      cli
        cmpb $0, finished
        jne 2f
        sti                                     # takes effect behind hlt: no wake-up is lost
        hlt
        jmp 1b
2:      mov $text_bytes, %edi
        call print
        mov received, %rdi
        call print_decimal
        jmp newline

serial_interrupt:
        push %rax
        push %rcx
        push %rdx
        push %rdi
        push %rsi
1:      mov $COM1 + 2, %edx
        in %dx, %al                             # IIR, read as a driver does
        mov $COM1 + 5, %edx
        in %dx, %al
        test $1, %al
        jz 2f
        mov $COM1, %edx
        in %dx, %al
        incq received
        movzbl %al, %edi
        cmp $'q', %edi
        jne 3f
        movb $1, finished
3:      call put_char
        jmp 1b
2:      mov $APIC_EOI, %edi
        xor %esi, %esi
        call apic_write
        pop %rsi
        pop %rdi
        pop %rdx
        pop %rcx
        pop %rax
        iretq

.data
text_ready: .asciz "echo: ready\n"
text_bytes: .asciz "\necho: bytes="
.bss
.balign 8
received: .skip 8
finished: .skip 8
