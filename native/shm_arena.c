#include "shm_arena.h"

#include "fault.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* ---- segments -------------------------------------------------------------------------------------------- */
/* Ids of this process, never used twice, so that a message cannot point into what was put in another's place. */
static uint32_t last_id;

static void destroy(struct sira_segment *segment)
{
    sira_heap_close(&segment->heap);
    sira_shm_close(&segment->shm);
    free(segment);
}

static uint64_t round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* Size of the segment to make for a chunk of `bytes`, at most `left`; 0: no room. */
static uint64_t size_for(const struct sira_arena *arena, uint64_t bytes, uint64_t left)
{
    uint64_t size = arena->next_bytes;
    while (size < bytes && size < SIRA_SEGMENT_BYTES_MAX) size *= 2;
    if (size < bytes) size = round_up(bytes, SIRA_SEGMENT_UNIT_BYTES);
    if (size <= left) return size;
    size = round_up(bytes, SIRA_SEGMENT_BYTES_MIN); /* near the limit: what is needed, not what is usual */
    return size <= left ? size : 0;
}

static int make_segment(struct sira_arena *arena, uint64_t bytes, uint32_t *index)
{
    const uint64_t size = size_for(arena, bytes, arena->bytes_max - arena->segment_bytes);
    if (size == 0) return ENOSPC;
    if (arena->count == arena->room) {
        const uint32_t room = arena->room ? arena->room * 2 : 4;
        struct sira_segment **segments = realloc(arena->segments, room * sizeof *segments);
        if (!segments) return ENOMEM;
        arena->segments = segments;
        arena->room = room;
    }
    struct sira_segment *segment = calloc(1, sizeof *segment);
    if (!segment) return ENOMEM;
    segment->shm.fd = -1;
    int error = sira_heap_open(&segment->heap, size) ? 0 : ENOMEM;
    if (!error) error = sira_shm_make("sira-arena", size, true, &segment->shm);
    if (error) {
        destroy(segment);
        return error;
    }
    segment->arena = arena;
    segment->id = ++last_id;
    *index = arena->count;
    arena->segments[arena->count++] = segment;
    arena->segment_bytes += size;
    arena->made_total++;
    SIRA_FAULT_POINT("segment.made");
    if (size <= SIRA_SEGMENT_BYTES_MAX) arena->next_bytes = size < SIRA_SEGMENT_BYTES_MAX ? 2 * size : size;
    return 0;
}

/* Room to remember one more closed segment. */
static bool retired_room(struct sira_arena *arena)
{
    if (arena->retired_count < arena->retired_room) return true;
    const uint32_t room = arena->retired_room ? arena->retired_room * 2 : 8;
    uint32_t *retired = realloc(arena->retired, room * sizeof *retired);
    if (!retired) return false;
    arena->retired = retired;
    arena->retired_room = room;
    return true;
}

static void unlist(struct sira_arena *arena, uint32_t index)
{
    arena->segment_bytes -= arena->segments[index]->shm.bytes;
    arena->retired_total++;
    arena->segments[index] = arena->segments[--arena->count];
    arena->hot = 0;
    if (arena->count == 0) arena->next_bytes = SIRA_SEGMENT_BYTES_MIN;
}

/* Close an empty segment and remember its id for the readers. false: no memory to remember it; it stays. */
static bool retire(struct sira_arena *arena, uint32_t index)
{
    struct sira_segment *segment = arena->segments[index];
    assert(segment->heap.used_count == 0);
    if (!retired_room(arena)) return false;
    arena->retired[arena->retired_count++] = segment->id;
    unlist(arena, index);
    destroy(segment);
    SIRA_FAULT_POINT("segment.retired");
    return true;
}

void sira_segment_detach(struct sira_segment *segment)
{
    struct sira_arena *arena = segment->arena;
    if (!arena) return;
    uint32_t index = 0;
    while (arena->segments[index] != segment) index++;
    if (retired_room(arena)) arena->retired[arena->retired_count++] = segment->id; /* else readers keep their mapping */
    unlist(arena, index);
    arena->asked_bytes -= segment->asked_bytes;
    arena->chunk_bytes -= segment->heap.used_granules * SIRA_HEAP_GRANULE_BYTES;
    segment->arena = NULL;
    if (segment->heap.used_count == 0) destroy(segment);
}

/* ---- arenas ---------------------------------------------------------------------------------------------- */
void sira_arena_open(struct sira_arena *arena, uint64_t bytes_max, uint64_t warm_bytes)
{
    *arena = (struct sira_arena){.bytes_max = bytes_max, .warm_bytes = warm_bytes,
                                 .next_bytes = SIRA_SEGMENT_BYTES_MIN};
}

void sira_arena_close(struct sira_arena *arena)
{
    for (uint32_t i = 0; i < arena->count; i++) {
        arena->segments[i]->arena = NULL;
        if (arena->segments[i]->heap.used_count == 0) destroy(arena->segments[i]);
    }
    free(arena->segments);
    free(arena->retired);
    *arena = (struct sira_arena){0};
}

static bool take_from(struct sira_arena *arena, uint32_t index, uint64_t bytes, struct sira_shm_chunk *out)
{
    struct sira_segment *segment = arena->segments[index];
    const uint32_t chunk = sira_heap_take(&segment->heap, bytes);
    if (chunk == SIRA_HEAP_NONE) return false;
    segment->heap.blocks[chunk].holders = 1;
    segment->idle_since_ns = 0;
    segment->asked_bytes += bytes;
    const uint64_t taken = sira_heap_bytes(&segment->heap, chunk);
    arena->asked_bytes += bytes;
    arena->chunk_bytes += taken;
    arena->asked_bytes_total += bytes;
    arena->chunk_bytes_total += taken;
    arena->hot = index;
    SIRA_FAULT_POINT("chunk.taken");
    *out = (struct sira_shm_chunk){.segment = segment, .index = chunk};
    return true;
}

/* Close empty segments until one for `bytes` fits under the limit: they are too small, or it would be in one. */
static void make_way(struct sira_arena *arena, uint64_t bytes)
{
    for (uint32_t i = arena->count; i-- > 0;) {
        if (size_for(arena, bytes, arena->bytes_max - arena->segment_bytes)) return;
        if (arena->segments[i]->heap.used_count == 0 && !retire(arena, i)) return;
    }
}

bool sira_arena_reuse(struct sira_arena *arena, uint64_t bytes, struct sira_shm_chunk *out)
{
    assert(bytes > 0);
    if (bytes >> 39) return false;
    if (arena->count && take_from(arena, arena->hot, bytes, out)) return true;
    for (uint32_t i = 0; i < arena->count; i++)
        if (i != arena->hot && take_from(arena, i, bytes, out)) return true;
    return false;
}

int sira_arena_take(struct sira_arena *arena, uint64_t bytes, struct sira_shm_chunk *out)
{
    assert(bytes > 0);
    if (bytes > arena->bytes_max || bytes >> 39) return E2BIG;
    if (sira_arena_reuse(arena, bytes, out)) return 0;
    make_way(arena, bytes);
    uint32_t made;
    const int error = make_segment(arena, bytes, &made);
    if (error) return error;
    return take_from(arena, made, bytes, out) ? 0 : ENOMEM;
}

uint32_t sira_arena_retire(struct sira_arena *arena, uint64_t now_ns, uint64_t idle_ns)
{
    while (arena->segment_bytes > arena->warm_bytes) {
        uint32_t largest = UINT32_MAX;
        for (uint32_t i = 0; i < arena->count; i++) {
            struct sira_segment *segment = arena->segments[i];
            if (segment->heap.used_count) continue;
            if (segment->idle_since_ns == 0) segment->idle_since_ns = now_ns;
            if (now_ns - segment->idle_since_ns < idle_ns) continue;
            if (largest == UINT32_MAX || segment->shm.bytes > arena->segments[largest]->shm.bytes) largest = i;
        }
        if (largest == UINT32_MAX || !retire(arena, largest)) break;
    }
    uint32_t waiting = 0;
    for (uint32_t i = 0; arena->segment_bytes > arena->warm_bytes && i < arena->count; i++)
        waiting += arena->segments[i]->heap.used_count == 0;
    return waiting;
}

uint32_t sira_arena_retired(struct sira_arena *arena, uint32_t *ids, uint32_t room)
{
    uint32_t count = 0;
    while (count < room && arena->retired_count) ids[count++] = arena->retired[--arena->retired_count];
    return count;
}

/* ---- chunks ---------------------------------------------------------------------------------------------- */
static struct sira_heap_block *block_of(struct sira_shm_chunk chunk)
{
    assert(chunk.index < chunk.segment->heap.room);
    struct sira_heap_block *block = &chunk.segment->heap.blocks[chunk.index];
    assert(!block->is_free && block->holders > 0);
    return block;
}

uint8_t *sira_chunk_data(struct sira_shm_chunk chunk)
{
    return chunk.segment->shm.base + sira_chunk_offset(chunk);
}

uint64_t sira_chunk_offset(struct sira_shm_chunk chunk)
{
    return block_of(chunk)->at * SIRA_HEAP_GRANULE_BYTES;
}

uint64_t sira_chunk_bytes(struct sira_shm_chunk chunk)
{
    return block_of(chunk)->asked;
}

void sira_chunk_trim(struct sira_shm_chunk chunk, uint64_t bytes)
{
    struct sira_segment *segment = chunk.segment;
    struct sira_arena *arena = segment->arena;
    const uint64_t asked = block_of(chunk)->asked, taken = sira_heap_bytes(&segment->heap, chunk.index);
    assert(bytes <= asked);
    sira_heap_trim(&segment->heap, chunk.index, bytes);
    segment->asked_bytes -= asked - bytes;
    if (!arena) return;
    const uint64_t less = taken - sira_heap_bytes(&segment->heap, chunk.index);
    arena->asked_bytes -= asked - bytes;
    arena->asked_bytes_total -= asked - bytes;
    arena->chunk_bytes -= less;
    arena->chunk_bytes_total -= less;
}

void sira_chunk_hold(struct sira_shm_chunk chunk)
{
    block_of(chunk)->holders++;
}

void sira_chunk_give(struct sira_shm_chunk chunk)
{
    struct sira_segment *segment = chunk.segment;
    struct sira_heap_block *block = block_of(chunk);
    if (--block->holders) return;
    segment->asked_bytes -= block->asked;
    if (segment->arena) {
        segment->arena->asked_bytes -= block->asked;
        segment->arena->chunk_bytes -= sira_heap_bytes(&segment->heap, chunk.index);
    }
    sira_heap_give(&segment->heap, chunk.index);
    SIRA_FAULT_POINT("chunk.back");
    if (!segment->arena && segment->heap.used_count == 0) destroy(segment);
}
