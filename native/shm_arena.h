/* A publisher's memory for one topic and audience: segments that readers map read-only, and the chunks in them.
 *
 * Segments are 256 KiB, 512 KiB, ... 64 MiB; what fits none gets a segment of its own, a multiple of 2 MiB, which
 * serves others afterwards. Growing makes one, shrinking closes one; none changes its size. A chunk counts its holders:
 * the one who took it and each post that has not come back. The last one to leave frees it.
 *
 * No clock: time is given. One thread at a time (the GIL); populating pages may go on beside, on a held chunk. */
#ifndef SIRA_SHM_ARENA_H
#define SIRA_SHM_ARENA_H

#include "shm_file.h"
#include "shm_heap.h"

#define SIRA_SEGMENT_BYTES_MIN ((uint64_t)256 << 10)
#define SIRA_SEGMENT_BYTES_MAX ((uint64_t)64 << 20)
#define SIRA_SEGMENT_UNIT_BYTES ((uint64_t)2 << 20) /* what larger ones are a multiple of: a huge page */
#define SIRA_ARENA_WARM_BYTES ((uint64_t)8 << 20)   /* `arena_warm_bytes`: kept when idle, so that a pause costs no faults */
#define SIRA_ARENA_IDLE_NS ((uint64_t)10 * 1000000000u)

struct sira_arena;
struct sira_segment {
    struct sira_arena *arena;    /* NULL: the arena was closed; the last chunk closes the segment */
    struct sira_shm shm;
    struct sira_heap heap;
    uint64_t idle_since_ns;      /* 0: in use, or not yet looked at */
    uint64_t asked_bytes;        /* of its chunks */
    uint32_t id;
};
struct sira_arena {
    struct sira_segment **segments; /* owned, each at an address that stays */
    uint32_t count, room, hot;      /* hot: where the last chunk came from */
    uint64_t bytes_max, warm_bytes, next_bytes;
    uint64_t segment_bytes;         /* of all segments now */
    uint64_t asked_bytes, chunk_bytes;             /* of all chunks now: what was asked for, what they take */
    uint64_t asked_bytes_total, chunk_bytes_total; /* ever handed out */
    uint64_t made_total, retired_total;            /* segments */
    uint32_t *retired;              /* owned: ids that readers have not been told to forget */
    uint32_t retired_count, retired_room;
};
struct sira_shm_chunk {
    struct sira_segment *segment;
    uint32_t index;
};

/* `bytes_max`: most bytes of segments at a time; `warm_bytes`: what idleness leaves. No memory is made yet. */
void sira_arena_open(struct sira_arena *arena, uint64_t bytes_max, uint64_t warm_bytes);
/* Close every segment that holds no chunk; the others when their last chunk is given back. */
void sira_arena_close(struct sira_arena *arena);
/* A chunk of `bytes` > 0, at a multiple of 64, held once. 0; ENOSPC: bytes_max is reached, chunks must come back
 * first; E2BIG: larger than bytes_max; or an errno of making a segment. */
int sira_arena_take(struct sira_arena *arena, uint64_t bytes, struct sira_shm_chunk *out);
/* The same of memory that is there already. false: what is free is too small. */
bool sira_arena_reuse(struct sira_arena *arena, uint64_t bytes, struct sira_shm_chunk *out);
/* Close segments that held nothing since `idle_ns` before `now_ns`, largest first, until warm_bytes are left. What
 * was found empty for the first time is idle from now on. Returns how many are waiting for their time. */
uint32_t sira_arena_retire(struct sira_arena *arena, uint64_t now_ns, uint64_t idle_ns);
/* Ids of closed segments, to be told to readers, at most `room` a call; each is given once. */
uint32_t sira_arena_retired(struct sira_arena *arena, uint32_t *ids, uint32_t room);

/* Take a segment out of its arena, which hands out none of its memory again: somebody may still read there, and nobody
 * will say when that ends. Its last chunk closes it. Of an arena that was closed: nothing. */
void sira_segment_detach(struct sira_segment *segment);

uint8_t *sira_chunk_data(struct sira_shm_chunk chunk);
uint64_t sira_chunk_offset(struct sira_shm_chunk chunk); /* in its segment */
uint64_t sira_chunk_bytes(struct sira_shm_chunk chunk);  /* what it was taken for */
void sira_chunk_trim(struct sira_shm_chunk chunk, uint64_t bytes); /* less than it was taken for */
void sira_chunk_hold(struct sira_shm_chunk chunk);
/* One holder less; the last frees the chunk, and with it what a closed arena left. */
void sira_chunk_give(struct sira_shm_chunk chunk);

#endif
