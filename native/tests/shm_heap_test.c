/* Chunks of a segment: what is handed out never overlaps, wastes little, and joins again when it is given back. */
#include "../shm_heap.h"
#include "build.h"

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint32_t blocks_in_order(const struct sira_heap *heap)
{
    uint32_t first = SIRA_HEAP_NONE, count = 0;
    static bool is_unused[1 << 16];
    memset(is_unused, 0, sizeof is_unused);
    for (uint32_t i = heap->unused; i != SIRA_HEAP_NONE; i = heap->blocks[i].next) is_unused[i] = true;
    for (uint32_t i = 0; i < heap->room; i++)
        if (!is_unused[i] && heap->blocks[i].before == SIRA_HEAP_NONE) first = i;
    uint64_t at = 0;
    bool was_free = false;
    for (uint32_t i = first; i != SIRA_HEAP_NONE; i = heap->blocks[i].behind, count++) {
        CHECK_EQUAL(heap->blocks[i].at, at); /* no gap, no overlap */
        CHECK(heap->blocks[i].granules > 0);
        CHECK(!(was_free && heap->blocks[i].is_free)); /* neighbours that are free are one */
        was_free = heap->blocks[i].is_free;
        at += heap->blocks[i].granules;
    }
    CHECK_EQUAL(at, heap->granules);
    return count;
}

static void the_whole_segment_is_one_chunk_and_comes_back_as_one(void)
{
    struct sira_heap heap;
    CHECK(sira_heap_open(&heap, 1 << 20));
    const uint32_t chunk = sira_heap_take(&heap, 1 << 20);
    CHECK(chunk != SIRA_HEAP_NONE);
    CHECK_EQUAL(sira_heap_take(&heap, 1), SIRA_HEAP_NONE);
    sira_heap_give(&heap, chunk);
    CHECK_EQUAL(sira_heap_take(&heap, (1 << 20) + 1), SIRA_HEAP_NONE);
    CHECK_EQUAL(blocks_in_order(&heap), 1);
    sira_heap_close(&heap);
}

/* A size whose class begins below it is found all the same, in the only block there is. */
static void any_size_up_to_the_whole_is_found_in_an_empty_segment(void)
{
    for (uint64_t bytes = 1; bytes <= 256 << 10; bytes += 617) {
        struct sira_heap heap;
        CHECK(sira_heap_open(&heap, 256 << 10));
        const uint32_t chunk = sira_heap_take(&heap, bytes);
        CHECK(chunk != SIRA_HEAP_NONE);
        CHECK(sira_heap_bytes(&heap, chunk) - bytes < SIRA_HEAP_GRANULE_BYTES);
        sira_heap_close(&heap);
    }
}

static void what_was_freed_last_is_used_first(void)
{
    struct sira_heap heap;
    CHECK(sira_heap_open(&heap, 1 << 20));
    uint32_t chunks[8];
    for (int i = 0; i < 8; i++) chunks[i] = sira_heap_take(&heap, 4096);
    const uint64_t third = sira_heap_offset(&heap, chunks[2]), sixth = sira_heap_offset(&heap, chunks[5]);
    sira_heap_give(&heap, chunks[5]);
    sira_heap_give(&heap, chunks[2]);
    CHECK_EQUAL(sira_heap_offset(&heap, sira_heap_take(&heap, 4096)), third);
    CHECK_EQUAL(sira_heap_offset(&heap, sira_heap_take(&heap, 4096)), sixth);
    sira_heap_close(&heap);
}

static void a_trimmed_chunk_gives_its_end_to_others(void)
{
    struct sira_heap heap;
    CHECK(sira_heap_open(&heap, 1 << 20));
    const uint32_t chunk = sira_heap_take(&heap, 1 << 20);
    sira_heap_trim(&heap, chunk, 1000);
    CHECK_EQUAL(sira_heap_bytes(&heap, chunk), 1024);
    const uint32_t other = sira_heap_take(&heap, (1 << 20) - 1024);
    CHECK_EQUAL(sira_heap_offset(&heap, other), 1024);
    sira_heap_give(&heap, other);
    sira_heap_trim(&heap, chunk, 10); /* its rest joins the free block behind */
    CHECK_EQUAL(blocks_in_order(&heap), 2);
    sira_heap_give(&heap, chunk);
    CHECK_EQUAL(blocks_in_order(&heap), 1);
    CHECK_EQUAL(heap.used_granules, 0);
    sira_heap_close(&heap);
}

static void random_sizes_never_overlap_and_waste_less_than_a_sixteenth(void)
{
    enum { LIVE = 300, STEPS = 60000 };
    static struct { uint32_t chunk; uint64_t bytes; } live[LIVE];
    static uint8_t owners[(4 << 20) / SIRA_HEAP_GRANULE_BYTES];
    struct sira_heap heap;
    CHECK(sira_heap_open(&heap, 4 << 20));
    uint64_t asked = 0, handed = 0, refused = 0;
    for (int i = 0; i < LIVE; i++) live[i].chunk = SIRA_HEAP_NONE;
    for (int step = 0; step < STEPS; step++) {
        const uint32_t i = (uint32_t)(next_random() % LIVE);
        if (live[i].chunk != SIRA_HEAP_NONE) {
            const uint64_t at = sira_heap_offset(&heap, live[i].chunk) / SIRA_HEAP_GRANULE_BYTES;
            for (uint64_t g = 0; g < (live[i].bytes + 63) / 64; g++) {
                CHECK_EQUAL(owners[at + g], i % 255 + 1);
                owners[at + g] = 0;
            }
            sira_heap_give(&heap, live[i].chunk);
            live[i].chunk = SIRA_HEAP_NONE;
            continue;
        }
        const uint64_t bytes = (next_random() % 1024 + 1) << next_random() % 6;
        const uint32_t chunk = sira_heap_take(&heap, bytes);
        if (chunk == SIRA_HEAP_NONE) {
            refused++;
            continue;
        }
        live[i].chunk = chunk;
        live[i].bytes = bytes;
        if (bytes >= 1024) asked += bytes, handed += sira_heap_bytes(&heap, chunk);
        const uint64_t at = sira_heap_offset(&heap, chunk) / SIRA_HEAP_GRANULE_BYTES;
        for (uint64_t g = 0; g < (bytes + 63) / 64; g++) {
            CHECK_EQUAL(owners[at + g], 0);
            owners[at + g] = (uint8_t)(i % 255 + 1);
        }
        if (step % 1000 == 0) blocks_in_order(&heap);
    }
    CHECK(handed - asked <= handed / 16);
    CHECK(refused < STEPS / 4);
    for (int i = 0; i < LIVE; i++)
        if (live[i].chunk != SIRA_HEAP_NONE) sira_heap_give(&heap, live[i].chunk);
    CHECK_EQUAL(blocks_in_order(&heap), 1);
    sira_heap_close(&heap);
}

int main(void)
{
    the_whole_segment_is_one_chunk_and_comes_back_as_one();
    any_size_up_to_the_whole_is_found_in_an_empty_segment();
    what_was_freed_last_is_used_first();
    a_trimmed_chunk_gives_its_end_to_others();
    random_sizes_never_overlap_and_waste_less_than_a_sixteenth();
    return 0;
}
