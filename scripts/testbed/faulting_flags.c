// What a store to a page that is not there yet does to the flags: nothing, so that it leaves the same ones as when it
// is done again. `split` reads flags that another translation block has set.
#include <stdio.h>
#include <sys/mman.h>

enum { PAGES = 1000, PAGE = 4096, STATUS = 0x8d5 };

static unsigned long whole(unsigned char *to, unsigned long a) {
    unsigned long flags;
    __asm__ volatile("addq $2, %1; setbe (%2); pushfq; popq %0"
                     : "=r"(flags), "+r"(a)
                     : "r"(to)
                     : "cc", "memory");
    return flags & STATUS;
}

static unsigned long split(unsigned char *to, unsigned long a) {
    unsigned long flags;
    __asm__ volatile("cmpq $2, %1; jmp 1f; 1: setne (%2); pushfq; popq %0"
                     : "=r"(flags), "+r"(a)
                     : "r"(to)
                     : "cc", "memory");
    return flags & STATUS;
}

int main(void) {
    int same = 0;
    unsigned char *fresh = mmap(0, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED || madvise(fresh, 2 * PAGES * PAGE, MADV_NOHUGEPAGE)) {
        perror("fresh pages");
        return 1;
    }
    for (int i = 0; i < PAGES; i++) {
        unsigned char *page = fresh + 2 * i * PAGE;
        unsigned long a = 0x7ffffffffffffff0ul + i % 32;
        same += whole(page, a) == whole(page, a);
        same += split(page + PAGE, i) == split(page + PAGE, i);
    }
    printf("%d of %d the same\n", same, 2 * PAGES);
    return same != 2 * PAGES;
}
