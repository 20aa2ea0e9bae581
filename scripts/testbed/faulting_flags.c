// What an access to a page that is not there yet does to the flags: nothing, so that it leaves the same ones as when
// it is done again. `split` reads flags that another translation block has set; `rotate` faults twice, at its load and
// at its store.
#include <stdio.h>
#include <sys/mman.h>

enum { PAGES = 1000, PAGE = 4096, STATUS = 0x8d5 };

// The status flags that CODE leaves, with a value in %1 and an address in %2.
#define LEFT_BY(NAME, CODE)                                          \
    static unsigned long NAME(unsigned char *to, unsigned long a) {  \
        unsigned long flags;                                         \
        __asm__ volatile(CODE "; pushfq; popq %0"                    \
                         : "=r"(flags), "+r"(a)                      \
                         : "r"(to)                                   \
                         : "cc", "memory");                          \
        return flags & STATUS;                                       \
    }

LEFT_BY(whole, "addq $2, %1; setbe (%2)")
LEFT_BY(split, "cmpq $2, %1; jmp 1f; 1: setne (%2)")
LEFT_BY(rotate, "cmpq $500, %1; rclq $1, (%2)")

int main(void) {
    int same = 0;
    unsigned char *fresh = mmap(0, 3 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED || madvise(fresh, 3 * PAGES * PAGE, MADV_NOHUGEPAGE)) {
        perror("fresh pages");
        return 1;
    }
    for (int i = 0; i < PAGES; i++) {
        unsigned char *page = fresh + 3 * i * PAGE;
        unsigned long a = 0x7ffffffffffffff0ul + i % 32;
        unsigned long flags = whole(page, a);
        same += flags == whole(page, a);
        flags = split(page + PAGE, i);
        same += flags == split(page + PAGE, i);
        // The carry has gone into the page, once.
        unsigned char *rotated = page + 2 * PAGE;
        flags = rotate(rotated, i);
        same += *rotated == (i < 500) && flags == rotate(rotated, i);
    }
    printf("%d of %d the same\n", same, 3 * PAGES);
    return same != 3 * PAGES;
}
