# Overwrites the start of the virtio disk with a pattern, flushes, reads it back and compares.
# Options: count=N blocks of 4 KiB (default 16), as many as the disk holds at most; rounds=N times (default 1),
# each with another pattern.

.include "start.inc"
.include "virtio.inc"

.set BLOCK_BYTES, 4096
.set BLOCK_SECTORS, BLOCK_BYTES / 512
.set VIRTIO_BLK, 2
.set BLK_F_FLUSH, 1 << 9
.set BLK_T_IN, 0
.set BLK_T_OUT, 1
.set BLK_T_FLUSH, 4

main:
        mov $VIRTIO_BLK, %edi
        mov $BLK_F_FLUSH, %esi
        call virtio_find
        mov $text_none, %edi
        test %rax, %rax
        jz print
        mov %rax, %rbx
        xor %edi, %edi
        mov $queue, %esi
        call virtio_queue
        call virtio_ready
        mov $word_count, %edi
        mov $16, %esi
        call number
        mov %rax, %rbp
        mov MMIO_CONFIG(%rbx), %eax             # capacity in sectors
        mov MMIO_CONFIG + 4(%rbx), %edx
        shl $32, %rdx
        or %rdx, %rax
        mov %rax, capacity
        shr $3, %rax
        cmp %rax, %rbp
        jbe 1f
        mov %rax, %rbp

1:      mov $word_rounds, %edi
        mov $1, %esi
        call number
        mov %rax, rounds

        # R12: block, R13: checksum of what was read.
again:  xor %r12d, %r12d
        xor %r13d, %r13d
2:      cmp %rbp, %r12
        jae 3f
        mov $block, %edi
        call pattern
        mov $BLK_T_OUT, %edi
        mov $0, %esi
        call request
        jnz failed_write
        inc %r12
        jmp 2b
3:      xor %r12d, %r12d
        mov $BLK_T_FLUSH, %edi
        call request_flush
        jnz failed_flush
4:      cmp %rbp, %r12
        jae 7f
        mov $expected, %edi
        call pattern
        mov $BLK_T_IN, %edi
        mov $DESC_WRITE, %esi
        call request
        jnz failed_read
        xor %ecx, %ecx
5:      mov block(,%rcx,8), %rax
        cmp expected(,%rcx,8), %rax
        jne failed_compare
        rol $5, %r13
        xor %rax, %r13
        inc %ecx
        cmp $BLOCK_BYTES / 8, %ecx
        jb 5b
        inc %r12
        jmp 4b
7:      incq round
        mov round, %rax
        cmp rounds, %rax
        jb again
        mov $text_ok, %edi
report: call print
        mov %r12, %rdi
        call print_decimal
        mov $text_capacity, %edi
        call print
        mov capacity, %rdi
        call print_decimal
        mov $text_checksum, %edi
        call print
        mov %r13, %rdi
        call print_hex
        jmp newline
failed_write:
        mov $text_write, %edi
        jmp report
failed_flush:
        mov $text_flush, %edi
        jmp report
failed_read:
        mov $text_read, %edi
        jmp report
failed_compare:
        mov $text_compare, %edi
        jmp report

# pattern(buffer): block R12's contents in this round.
pattern:
        mov round, %rax
        shl $32, %rax
        lea 1(%rax,%r12), %rax
        mov $0x9e3779b97f4a7c15, %rdx
        mov $BLOCK_BYTES / 8, %ecx
1:      rol $13, %rax
        add %rdx, %rax
        mov %rax, (%rdi)
        add $8, %rdi
        dec %ecx
        jnz 1b
        ret

# request(type, data descriptor's flags) on block R12; ZF set when the device says it is done.
request:
        push %rsi
        mov %edi, header
        mov %r12, %rax
        shl $3, %rax
        mov %rax, header + 8
        mov $queue, %edi
        xor %esi, %esi
        mov $header, %edx
        mov $16, %ecx
        mov $DESC_NEXT, %r8d
        mov $1, %r9d
        call descriptor
        mov $queue, %edi
        mov $1, %esi
        mov $block, %edx
        mov $BLOCK_BYTES, %ecx
        pop %r8
        or $DESC_NEXT, %r8d
        mov $2, %r9d
        call descriptor
        jmp finish
request_flush:
        mov %edi, header
        movq $0, header + 8
        mov $queue, %edi
        xor %esi, %esi
        mov $header, %edx
        mov $16, %ecx
        mov $DESC_NEXT, %r8d
        mov $2, %r9d
        call descriptor
finish: movb $0xff, status
        mov $queue, %edi
        mov $2, %esi
        mov $status, %edx
        mov $1, %ecx
        mov $DESC_WRITE, %r8d
        xor %r9d, %r9d
        call descriptor
        movzwl queue + QUEUE_USED_INDEX, %r14d
        mov $queue, %edi
        xor %esi, %esi
        xor %edx, %edx
        call offer
        mov %r14d, %esi
        mov $queue, %edi
        call await_used
        cmpb $0, status
        ret

.data
word_count: .asciz "count="
word_rounds: .asciz "rounds="
text_none: .asciz "disk: FAIL, no virtio disk\n"
text_ok: .asciz "disk: ok blocks="
text_write: .asciz "disk: FAIL, write, block="
text_flush: .asciz "disk: FAIL, flush, block="
text_read: .asciz "disk: FAIL, read, block="
text_compare: .asciz "disk: FAIL, compare, block="
text_capacity: .asciz " sectors="
text_checksum: .asciz " checksum="
.bss
.balign 4096
queue:  .skip 4096
block:  .skip BLOCK_BYTES
expected: .skip BLOCK_BYTES
header: .skip 16
capacity: .skip 8
round:  .skip 8
rounds: .skip 8
status: .skip 8
