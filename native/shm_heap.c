#include "shm_heap.h"

#include <assert.h>
#include <stdlib.h>

/* ---- lists ----------------------------------------------------------------------------------------------- */
/* Where a block of so many granules hangs: below 16 granules one list for each size, then 16 to a power of two. */
static void list_of(uint64_t granules, uint32_t *power, uint32_t *step)
{
    assert(granules > 0);
    if (granules < SIRA_HEAP_STEPS) {
        *power = 0;
        *step = (uint32_t)granules;
        return;
    }
    const uint32_t top = 63 - (uint32_t)__builtin_clzll(granules);
    *power = top - SIRA_HEAP_STEP_BITS + 1;
    *step = (uint32_t)(granules >> (top - SIRA_HEAP_STEP_BITS)) & (SIRA_HEAP_STEPS - 1);
}

static void hang(struct sira_heap *heap, uint32_t index)
{
    struct sira_heap_block *block = &heap->blocks[index];
    uint32_t power, step;
    list_of(block->granules, &power, &step);
    const uint32_t first = heap->lists[power][step];
    block->is_free = true;
    block->previous = SIRA_HEAP_NONE;
    block->next = first;
    if (first != SIRA_HEAP_NONE) heap->blocks[first].previous = index;
    heap->lists[power][step] = index;
    heap->steps[power] |= (uint16_t)(1u << step);
    heap->powers |= UINT64_C(1) << power;
}

static void unhang(struct sira_heap *heap, uint32_t index)
{
    struct sira_heap_block *block = &heap->blocks[index];
    uint32_t power, step;
    list_of(block->granules, &power, &step);
    block->is_free = false;
    if (block->next != SIRA_HEAP_NONE) heap->blocks[block->next].previous = block->previous;
    if (block->previous != SIRA_HEAP_NONE) {
        heap->blocks[block->previous].next = block->next;
        return;
    }
    heap->lists[power][step] = block->next;
    if (block->next != SIRA_HEAP_NONE) return;
    heap->steps[power] &= (uint16_t)~(1u << step);
    if (!heap->steps[power]) heap->powers &= ~(UINT64_C(1) << power);
}

/* ---- entries --------------------------------------------------------------------------------------------- */
/* One more entry may be needed: make room first, so that nothing fails half-way. */
static bool make_room(struct sira_heap *heap)
{
    if (heap->unused != SIRA_HEAP_NONE) return true;
    if (heap->room >= SIRA_HEAP_NONE / 2) return false;
    const uint32_t room = heap->room ? heap->room * 2 : 16;
    struct sira_heap_block *blocks = realloc(heap->blocks, room * sizeof *blocks);
    if (!blocks) return false;
    heap->blocks = blocks;
    for (uint32_t i = room; i-- > heap->room;) {
        blocks[i].next = heap->unused;
        heap->unused = i;
    }
    heap->room = room;
    return true;
}

static uint32_t new_entry(struct sira_heap *heap)
{
    const uint32_t index = heap->unused;
    heap->unused = heap->blocks[index].next;
    return index;
}

static void drop_entry(struct sira_heap *heap, uint32_t index)
{
    heap->blocks[index].next = heap->unused;
    heap->unused = index;
}

/* Cut block `index`, which hangs in no list, so that `granules` remain; the rest becomes a free block, joined with the
 * one behind it. Requires: an entry is there. */
static void cut(struct sira_heap *heap, uint32_t index, uint64_t granules)
{
    const uint32_t rest_index = new_entry(heap);
    struct sira_heap_block *block = &heap->blocks[index], *rest = &heap->blocks[rest_index];
    *rest = (struct sira_heap_block){.at = block->at + granules, .granules = block->granules - granules,
                                     .before = index, .behind = block->behind};
    block->granules = granules;
    block->behind = rest_index;
    const uint32_t behind = rest->behind;
    if (behind != SIRA_HEAP_NONE && heap->blocks[behind].is_free) {
        unhang(heap, behind);
        rest->granules += heap->blocks[behind].granules;
        rest->behind = heap->blocks[behind].behind;
        drop_entry(heap, behind);
    }
    if (rest->behind != SIRA_HEAP_NONE) heap->blocks[rest->behind].before = rest_index;
    hang(heap, rest_index);
}

/* ---- life ------------------------------------------------------------------------------------------------ */
bool sira_heap_open(struct sira_heap *heap, uint64_t bytes)
{
    assert(bytes > 0 && bytes % SIRA_HEAP_GRANULE_BYTES == 0 && bytes >> 40 == 0);
    *heap = (struct sira_heap){.unused = SIRA_HEAP_NONE, .granules = bytes / SIRA_HEAP_GRANULE_BYTES};
    for (uint32_t p = 0; p < SIRA_HEAP_POWERS; p++)
        for (uint32_t s = 0; s < SIRA_HEAP_STEPS; s++) heap->lists[p][s] = SIRA_HEAP_NONE;
    if (!make_room(heap)) return false;
    const uint32_t whole = new_entry(heap);
    heap->blocks[whole] = (struct sira_heap_block){.granules = heap->granules, .before = SIRA_HEAP_NONE,
                                                   .behind = SIRA_HEAP_NONE};
    hang(heap, whole);
    return true;
}

void sira_heap_close(struct sira_heap *heap)
{
    free(heap->blocks);
    heap->blocks = NULL;
}

/* ---- chunks ---------------------------------------------------------------------------------------------- */
static uint64_t granules_of(uint64_t bytes)
{
    return (bytes + SIRA_HEAP_GRANULE_BYTES - 1) / SIRA_HEAP_GRANULE_BYTES;
}

/* A free block of at least so many granules. Its own list may hold shorter ones: a few of it are tried, as they fit
 * best, then the first of the next list that is not empty, all of which fit. */
static uint32_t find(const struct sira_heap *heap, uint64_t granules)
{
    enum { TRIES = 8 };
    uint32_t power, step;
    list_of(granules, &power, &step);
    uint32_t index = heap->lists[power][step];
    for (int i = 0; i < TRIES && index != SIRA_HEAP_NONE; i++, index = heap->blocks[index].next)
        if (heap->blocks[index].granules >= granules) return index;
    const uint32_t steps = heap->steps[power] & ~((2u << step) - 1);
    if (steps) return heap->lists[power][__builtin_ctz(steps)];
    const uint64_t powers = heap->powers & ~((UINT64_C(2) << power) - 1);
    if (!powers) return SIRA_HEAP_NONE;
    power = (uint32_t)__builtin_ctzll(powers);
    return heap->lists[power][__builtin_ctz(heap->steps[power])];
}

uint32_t sira_heap_take(struct sira_heap *heap, uint64_t bytes)
{
    assert(bytes > 0);
    if (bytes > heap->granules * SIRA_HEAP_GRANULE_BYTES || !make_room(heap)) return SIRA_HEAP_NONE;
    const uint64_t granules = granules_of(bytes);
    const uint32_t index = find(heap, granules);
    if (index == SIRA_HEAP_NONE) return index;
    unhang(heap, index);
    if (heap->blocks[index].granules > granules) cut(heap, index, granules);
    heap->blocks[index].asked = bytes;
    heap->blocks[index].holders = 0;
    heap->used_count++;
    heap->used_granules += granules;
    return index;
}

void sira_heap_give(struct sira_heap *heap, uint32_t chunk)
{
    assert(chunk < heap->room && !heap->blocks[chunk].is_free);
    struct sira_heap_block *block = &heap->blocks[chunk];
    heap->used_count--;
    heap->used_granules -= block->granules;
    const uint32_t behind = block->behind, before = block->before;
    if (behind != SIRA_HEAP_NONE && heap->blocks[behind].is_free) {
        unhang(heap, behind);
        block->granules += heap->blocks[behind].granules;
        block->behind = heap->blocks[behind].behind;
        if (block->behind != SIRA_HEAP_NONE) heap->blocks[block->behind].before = chunk;
        drop_entry(heap, behind);
    }
    if (before != SIRA_HEAP_NONE && heap->blocks[before].is_free) {
        unhang(heap, before);
        heap->blocks[before].granules += block->granules;
        heap->blocks[before].behind = block->behind;
        if (block->behind != SIRA_HEAP_NONE) heap->blocks[block->behind].before = before;
        drop_entry(heap, chunk);
        chunk = before;
    }
    hang(heap, chunk);
}

void sira_heap_trim(struct sira_heap *heap, uint32_t chunk, uint64_t bytes)
{
    assert(chunk < heap->room && !heap->blocks[chunk].is_free && bytes > 0);
    const uint64_t granules = granules_of(bytes);
    assert(granules <= heap->blocks[chunk].granules);
    heap->blocks[chunk].asked = bytes;
    if (granules == heap->blocks[chunk].granules || !make_room(heap)) return;
    heap->used_granules -= heap->blocks[chunk].granules - granules;
    cut(heap, chunk, granules);
}

uint64_t sira_heap_offset(const struct sira_heap *heap, uint32_t chunk)
{
    return heap->blocks[chunk].at * SIRA_HEAP_GRANULE_BYTES;
}

uint64_t sira_heap_bytes(const struct sira_heap *heap, uint32_t chunk)
{
    return heap->blocks[chunk].granules * SIRA_HEAP_GRANULE_BYTES;
}
