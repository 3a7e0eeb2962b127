/* Aligned blocks of memory. Large ones are mappings of their own, which ask for huge pages: a tenth of the page faults.
 * What is freed goes back to the system, page by page, whatever the heap keeps of its own. */
#ifndef FASTCONV_MEMORY_H
#define FASTCONV_MEMORY_H

#include <stddef.h>
#include <stdlib.h>
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#include <sys/mman.h>
#endif

#define FASTCONV_CACHE_LINE 64
#define FASTCONV_PAGE (1u << 12)
#define FASTCONV_HUGE_PAGE (2u << 20)
#define FASTCONV_LARGE (2 * FASTCONV_HUGE_PAGE)

static void *pages_allocate(size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (bytes >= FASTCONV_LARGE) {
        size_t whole = bytes + FASTCONV_HUGE_PAGE;
        char *mapping = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED)
            return NULL;
        size_t before = -(size_t)mapping % FASTCONV_HUGE_PAGE, after = FASTCONV_HUGE_PAGE - before;
        if (before)
            munmap(mapping, before);
        munmap(mapping + before + bytes, after);
        madvise(mapping + before, bytes, MADV_HUGEPAGE);
        return mapping + before;
    }
#endif
    void *block = NULL;
    return posix_memalign(&block, FASTCONV_CACHE_LINE, bytes) == 0 ? block : NULL;
}

/* `bytes`: as many as were asked for, of a large block whole pages. */
static void pages_free(void *block, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (bytes >= FASTCONV_LARGE) {
        munmap(block, bytes);
        return;
    }
    char *begin = (char *)block + -(size_t)block % FASTCONV_PAGE;
    size_t inside = (size_t)block + bytes > (size_t)begin ? (size_t)block + bytes - (size_t)begin : 0;
    if (inside >= FASTCONV_PAGE)
        madvise(begin, inside / FASTCONV_PAGE * FASTCONV_PAGE, MADV_DONTNEED);
#endif
    free(block);
}

/* Addresses whose pages come when they are touched; NULL where there are none to have. */
static void *range_reserve(size_t bytes)
{
#ifdef MADV_HUGEPAGE
    void *range = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return range == MAP_FAILED ? NULL : range;
#else
    (void)bytes;
    return NULL;
#endif
}

static void range_release(void *range, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    munmap(range, bytes);
#else
    (void)range;
    (void)bytes;
#endif
}

/* For those that `bytes` from `begin` on reach into, and that lie in the range whole: blocks side by side share them. */
static void ask_for_huge_pages(void *begin, size_t bytes, void *range, size_t span)
{
#ifdef MADV_HUGEPAGE
    size_t first = (size_t)range + -(size_t)range % FASTCONV_HUGE_PAGE, last = (size_t)range + span;
    size_t from = (size_t)begin / FASTCONV_HUGE_PAGE * FASTCONV_HUGE_PAGE;
    size_t to = ((size_t)begin + bytes + FASTCONV_HUGE_PAGE - 1) / FASTCONV_HUGE_PAGE * FASTCONV_HUGE_PAGE;
    from = from < first ? first : from;
    to = to > last ? last / FASTCONV_HUGE_PAGE * FASTCONV_HUGE_PAGE : to;
    if (from < to)
        madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)begin;
    (void)bytes;
    (void)range;
    (void)span;
#endif
}

/* Give the pages back, not the addresses. */
static void range_drop(void *begin, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    madvise(begin, bytes, MADV_DONTNEED);
#else
    (void)begin;
    (void)bytes;
#endif
}

#endif
