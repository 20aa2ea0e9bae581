# Answers ARP, ICMP echo and UDP echo (port 7) for 10.77.2.100, until a datagram says "quit".

.include "start.inc"
.include "virtio.inc"

.set VIRTIO_NET, 1
.set NET_F_MAC, 1 << 5
.set HEADER_BYTES, 12                           # struct virtio_net_hdr with num_buffers
.set BUFFER_BYTES, 2048
.set ADDRESS, 10 | 77 << 8 | 2 << 16 | 100 << 24

.set ETH_TYPE, 12
.set ARP_OP, 20
.set ARP_SENDER, 22                             # MAC, then address
.set ARP_TARGET, 32
.set IP, 14
.set IP_FRAGMENT, 20
.set IP_PROTOCOL, 23
.set IP_SOURCE, 26
.set IP_TARGET, 30
.set L4, 34

main:
        mov $VIRTIO_NET, %edi
        mov $NET_F_MAC, %esi
        call virtio_find
        mov $text_none, %edi
        test %rax, %rax
        jz print
        xor %ecx, %ecx
1:      mov MMIO_CONFIG(%rax,%rcx), %dl
        mov %dl, mac(%rcx)
        inc %ecx
        cmp $6, %ecx
        jb 1b
        xor %edi, %edi
        mov $rx_queue, %esi
        call virtio_queue
        mov $1, %edi
        mov $tx_queue, %esi
        call virtio_queue
        call virtio_ready

        xor %ebx, %ebx
2:      mov $rx_queue, %edi
        mov %ebx, %esi
        mov %ebx, %edx
        imul $BUFFER_BYTES, %edx, %edx
        add $rx_buffers, %edx
        mov $BUFFER_BYTES, %ecx
        mov $DESC_WRITE, %r8d
        xor %r9d, %r9d
        call descriptor
        mov $rx_queue, %edi
        mov %ebx, %esi
        xor %edx, %edx
        call offer
        inc %ebx
        cmp $QUEUE_SIZE, %ebx
        jb 2b
        mov $text_ready, %edi
        call print

        # R12: used entries taken; R13: replies sent; RBX: the frame; RBP: its length.
        xor %r12d, %r12d
        xor %r13d, %r13d
3:      mov $rx_queue, %edi
        mov %r12d, %esi
        call await_used
        mov %r12d, %ecx
        and $QUEUE_SIZE - 1, %ecx
        mov rx_queue + QUEUE_USED_RING(,%rcx,8), %r14d
        mov rx_queue + QUEUE_USED_RING + 4(,%rcx,8), %ebp
        inc %r12w
        mov %r14d, %ebx
        and $QUEUE_SIZE - 1, %ebx
        imul $BUFFER_BYTES, %ebx, %ebx
        lea rx_buffers + HEADER_BYTES(%rbx), %ebx
        sub $HEADER_BYTES, %ebp
        jbe 4f
        call answer
        test %eax, %eax
        jz 4f
        call transmit
        inc %r13
4:      mov $rx_queue, %edi
        mov %r14d, %esi
        xor %edx, %edx
        call offer
        cmpb $0, finished
        je 3b
        mov $text_replies, %edi
        call print
        mov %r13, %rdi
        call print_decimal
        jmp newline

# Turns the frame at RBX, RBP bytes long, into its reply; RAX = 0 when there is none to give.
answer:
        cmp $42, %ebp
        jb 9f
        mov ETH_TYPE(%rbx), %ax
        cmp $0x0608, %ax                        # ARP, big endian
        je answer_arp
        cmp $0x0008, %ax                        # IPv4
        jne 9f
        cmpb $0x45, IP(%rbx)                    # no options
        jne 9f
        cmpl $ADDRESS, IP_TARGET(%rbx)
        jne 9f
        testw $0xff3f, IP_FRAGMENT(%rbx)        # no fragments
        jnz 9f
        mov IP_PROTOCOL(%rbx), %al
        cmp $1, %al
        je answer_icmp
        cmp $17, %al
        jne 9f
        cmpw $0x0700, L4 + 2(%rbx)              # UDP port 7, big endian
        jne 9f
        mov L4(%rbx), %ax                       # ports; the checksum stays right
        movw $0x0700, L4(%rbx)
        mov %ax, L4 + 2(%rbx)
        cmpw $0x0c00, L4 + 4(%rbx)              # "quit" and the 8 bytes of the header
        jne turn_ip
        cmp $46, %ebp
        jb turn_ip
        cmpl $0x74697571, L4 + 8(%rbx)
        jne turn_ip
        movb $1, finished
        jmp turn_ip
answer_icmp:
        cmpw $8, L4(%rbx)                       # echo request, code 0
        jne 9f
        movw $0, L4(%rbx)
        mov L4 + 2(%rbx), %ax                   # RFC 1624: the sum falls by 0800h
        add $8, %ax                             # little-endian view of the same carry-around sum
        adc $0, %ax
        mov %ax, L4 + 2(%rbx)
turn_ip:
        mov IP_SOURCE(%rbx), %eax
        mov %eax, IP_TARGET(%rbx)
        movl $ADDRESS, IP_SOURCE(%rbx)
turn_ethernet:
        mov 6(%rbx), %eax
        mov %eax, (%rbx)
        mov 10(%rbx), %ax
        mov %ax, 4(%rbx)
        mov mac, %eax
        mov %eax, 6(%rbx)
        mov mac + 4, %ax
        mov %ax, 10(%rbx)
        mov $1, %eax
        ret
answer_arp:
        cmpw $0x0100, ARP_OP(%rbx)              # request
        jne 9f
        cmpl $ADDRESS, ARP_TARGET + 6(%rbx)
        jne 9f
        movw $0x0200, ARP_OP(%rbx)
        mov ARP_SENDER(%rbx), %rax              # the asker becomes the target
        mov %rax, ARP_TARGET(%rbx)
        mov ARP_SENDER + 8(%rbx), %ax
        mov %ax, ARP_TARGET + 8(%rbx)
        mov mac, %eax
        mov %eax, ARP_SENDER(%rbx)
        mov mac + 4, %ax
        mov %ax, ARP_SENDER + 4(%rbx)
        movl $ADDRESS, ARP_SENDER + 6(%rbx)
        jmp turn_ethernet
9:      xor %eax, %eax
        ret

# Sends the frame in place, from its receive buffer with a header of zeros, and waits until it is gone.
transmit:
        movq $0, -HEADER_BYTES(%rbx)
        movl $0, -4(%rbx)
        mov $tx_queue, %edi
        xor %esi, %esi
        lea -HEADER_BYTES(%rbx), %edx
        lea HEADER_BYTES(%rbp), %ecx
        xor %r8d, %r8d
        xor %r9d, %r9d
        call descriptor
        movzwl tx_queue + QUEUE_USED_INDEX, %r15d
        mov $tx_queue, %edi
        xor %esi, %esi
        mov $1, %edx
        call offer
        mov $tx_queue, %edi
        mov %r15d, %esi
        jmp await_used

.data
text_none: .asciz "net: FAIL, no virtio network card\n"
text_ready: .asciz "net: ready\n"
text_replies: .asciz "net: replies="
.bss
.balign 4096
rx_queue: .skip 4096
tx_queue: .skip 4096
rx_buffers: .skip QUEUE_SIZE * BUFFER_BYTES
mac:    .skip 8
finished: .skip 8
