/* Chunks of a segment: two-level segregated fit.
 *
 * After Masmano, Ripoll, Crespo and Real, "TLSF: a new dynamic memory allocator for real-time systems" (ECRTS 2004):
 * free blocks hang in lists by size, 16 steps to each power of two; a bit map of the lists that are not empty gives one
 * that fits in constant time; neighbours that are free are joined. Here the books are private memory apart from the
 * segment (blocks are indices), so that readers of the segment cannot read or spoil them, and pages of free chunks are
 * never touched. Last freed, first used: what is warm in the cache is written next.
 *
 * Pure: the heap knows offsets only. One thread at a time. */
#ifndef SIRA_SHM_HEAP_H
#define SIRA_SHM_HEAP_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SIRA_HEAP_GRANULE_BYTES = 64,
    SIRA_HEAP_STEP_BITS = 4, /* 16 lists to a power of two: what is found is at most 1/16 larger before it is cut */
    SIRA_HEAP_STEPS = 1 << SIRA_HEAP_STEP_BITS,
    SIRA_HEAP_POWERS = 36,   /* 2^40 bytes and more */
};
#define SIRA_HEAP_NONE UINT32_MAX

struct sira_heap_block {
    uint64_t at, granules;       /* where it begins and how long it is, in granules */
    uint32_t before, behind;     /* neighbours in memory */
    uint32_t previous, next;     /* in its free list; `next` also of unused entries */
    uint64_t asked;              /* of a chunk: bytes it was taken for */
    uint32_t holders;            /* of a chunk: kept for the arena, 0 when it is taken */
    bool is_free;
};
struct sira_heap {
    struct sira_heap_block *blocks; /* owned */
    uint32_t room, unused;          /* entries; first of those that stand for nothing */
    uint32_t used_count;            /* chunks handed out */
    uint64_t granules, used_granules;
    uint64_t powers;                /* bit p: some list of power p is not empty */
    uint16_t steps[SIRA_HEAP_POWERS];
    uint32_t lists[SIRA_HEAP_POWERS][SIRA_HEAP_STEPS];
};

/* One free block of `bytes` (whole granules, at least one). false: no memory. Close with sira_heap_close. */
bool sira_heap_open(struct sira_heap *heap, uint64_t bytes);
void sira_heap_close(struct sira_heap *heap);
/* A chunk of at least `bytes` > 0, less than a granule more. SIRA_HEAP_NONE: none that long, or no memory. The number
 * holds until the chunk is freed. */
uint32_t sira_heap_take(struct sira_heap *heap, uint64_t bytes);
/* Requires: a chunk that was taken and not given since. */
void sira_heap_give(struct sira_heap *heap, uint32_t chunk);
/* Cut the end of a chunk off, so that `bytes` remain: for what was loaned larger than it became. */
void sira_heap_trim(struct sira_heap *heap, uint32_t chunk, uint64_t bytes);
/* Requires: a chunk that is taken. */
uint64_t sira_heap_offset(const struct sira_heap *heap, uint32_t chunk);
uint64_t sira_heap_bytes(const struct sira_heap *heap, uint32_t chunk);

#endif
