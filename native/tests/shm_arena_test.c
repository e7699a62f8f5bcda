/* Arenas and maps: sizes of segments, limits, retiring, and that a reader can neither write, shrink nor leave them. */
#include "../shm_arena.h"
#include "../shm_map.h"
#include "build.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint64_t MIB = 1 << 20, S = 1000000000u;

static struct sira_shm_chunk take(struct sira_arena *arena, uint64_t bytes)
{
    struct sira_shm_chunk chunk;
    CHECK_EQUAL(sira_arena_take(arena, bytes, &chunk), 0);
    CHECK_EQUAL((uintptr_t)sira_chunk_data(chunk) % 64, 0);
    CHECK_EQUAL(sira_chunk_bytes(chunk), bytes);
    return chunk;
}

static void segments_double_and_what_is_larger_gets_its_own(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 1024 * MIB, 8 * MIB);
    CHECK_EQUAL(arena.segment_bytes, 0);
    struct sira_shm_chunk chunks[9];
    uint64_t size = 256 << 10;
    for (int i = 0; i < 9; i++, size *= 2) {
        chunks[i] = take(&arena, size);
        CHECK_EQUAL(chunks[i].segment->shm.bytes, size);
    }
    CHECK_EQUAL(arena.count, 9);
    const struct sira_shm_chunk large = take(&arena, 65 * MIB);
    CHECK_EQUAL(large.segment->shm.bytes, 66 * MIB);
    const struct sira_shm_chunk small = take(&arena, MIB); /* its rest serves others */
    CHECK(small.segment == large.segment);
    CHECK_EQUAL(arena.asked_bytes, arena.chunk_bytes);
    for (int i = 0; i < 9; i++) sira_chunk_give(chunks[i]);
    sira_chunk_give(large);
    sira_chunk_give(small);
    CHECK_EQUAL(arena.asked_bytes, 0);
    CHECK_EQUAL(arena.chunk_bytes, 0);
    sira_arena_close(&arena);
}

static void at_its_limit_an_arena_refuses_and_makes_way_by_what_is_empty(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 4 * MIB, 0);
    struct sira_shm_chunk chunk, other;
    CHECK_EQUAL(sira_arena_take(&arena, 4 * MIB + 1, &chunk), E2BIG);
    chunk = take(&arena, MIB / 4);
    other = take(&arena, 3 * MIB);
    CHECK_EQUAL(arena.count, 2);
    struct sira_shm_chunk more;
    CHECK_EQUAL(sira_arena_take(&arena, 2 * MIB, &more), ENOSPC);
    sira_chunk_give(chunk);
    sira_chunk_give(other);
    chunk = take(&arena, 4 * MIB); /* the others are closed for it */
    uint32_t ids[8];
    CHECK_EQUAL(sira_arena_retired(&arena, ids, 8), 2);
    CHECK_EQUAL(sira_arena_retired(&arena, ids, 8), 0);
    CHECK(arena.segment_bytes <= 4 * MIB);
    sira_chunk_give(chunk);
    sira_arena_close(&arena);
}

static void memory_that_is_there_is_used_again_without_making_more(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 64 * MIB, 0);
    struct sira_shm_chunk chunk, other;
    CHECK(!sira_arena_reuse(&arena, MIB, &chunk));
    CHECK_EQUAL(arena.made_total, 0);
    chunk = take(&arena, MIB);
    CHECK(!sira_arena_reuse(&arena, MIB, &other));
    CHECK(!sira_arena_reuse(&arena, UINT64_MAX, &other));
    sira_chunk_give(chunk);
    CHECK(sira_arena_reuse(&arena, MIB, &other));
    CHECK_EQUAL(arena.made_total, 1);
    sira_chunk_give(other);
    sira_arena_close(&arena);
}

static void a_chunk_is_free_when_its_last_holder_leaves(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 256 << 10, 0);
    const struct sira_shm_chunk chunk = take(&arena, 256 << 10);
    struct sira_shm_chunk other;
    sira_chunk_hold(chunk);
    sira_chunk_hold(chunk);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(sira_arena_take(&arena, 1, &other), ENOSPC);
        sira_chunk_give(chunk);
    }
    sira_chunk_give(take(&arena, 256 << 10));
    sira_arena_close(&arena);
}

static void idle_segments_go_after_their_time_down_to_the_warm_reserve(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 1024 * MIB, 8 * MIB);
    struct sira_shm_chunk chunks[6];
    for (int i = 0; i < 6; i++) chunks[i] = take(&arena, 4 * MIB << (i > 2));
    const uint64_t most = arena.segment_bytes;
    CHECK(most > 8 * MIB);
    CHECK_EQUAL(sira_arena_retire(&arena, 100 * S, 10 * S), 0); /* all in use */
    for (int i = 0; i < 6; i++) sira_chunk_give(chunks[i]);
    CHECK(sira_arena_retire(&arena, 101 * S, 10 * S) > 0);
    CHECK(sira_arena_retire(&arena, 110 * S, 10 * S) > 0);
    CHECK_EQUAL(arena.segment_bytes, most);
    CHECK_EQUAL(sira_arena_retire(&arena, 111 * S, 10 * S), 0);
    CHECK(arena.segment_bytes <= 8 * MIB);
    CHECK_EQUAL(arena.retired_total + arena.count, arena.made_total);
    sira_arena_close(&arena);
}

static void mixed_sizes_waste_less_than_fifteen_percent(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 1024 * MIB, 8 * MIB);
    struct sira_shm_chunk live[64];
    uint64_t seed = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        if (i >= 64) sira_chunk_give(live[i % 64]);
        live[i % 64] = take(&arena, 449 + (seed % 4096 << seed / 4096 % 8));
    }
    CHECK(arena.asked_bytes_total >= arena.chunk_bytes_total * 85 / 100);
    CHECK(arena.segment_bytes <= 64 * MIB); /* it does not crumble: 64 live chunks of 512 KiB at most */
    for (int i = 0; i < 64; i++) sira_chunk_give(live[i]);
    sira_arena_close(&arena);
}

static void a_closed_arena_keeps_what_is_held(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 16 * MIB, 0);
    const struct sira_shm_chunk held = take(&arena, MIB);
    sira_arena_close(&arena);
    memset(sira_chunk_data(held), 1, MIB);
    sira_chunk_give(held); /* ASan's leak check sees that it went */
}

static void a_detached_segment_hands_out_nothing_and_goes_with_its_last_chunk(void)
{
    struct sira_arena arena;
    sira_arena_open(&arena, 4 * MIB, 0);
    struct sira_shm_chunk read = take(&arena, 1000), other = take(&arena, 2000);
    CHECK(read.segment == other.segment);
    const uint32_t id = read.segment->id;
    const uint8_t *seen = memset(sira_chunk_data(read), 7, 1000);
    struct sira_shm_chunk far = take(&arena, 2 * MIB);
    sira_segment_detach(read.segment);
    sira_segment_detach(read.segment); /* nothing */
    uint32_t ids[4];
    CHECK_EQUAL(sira_arena_retired(&arena, ids, 4), 1);
    CHECK_EQUAL(ids[0], id);
    CHECK_EQUAL(arena.count, 1);
    CHECK_EQUAL(arena.segment_bytes, far.segment->shm.bytes);
    CHECK_EQUAL(arena.asked_bytes, 2 * MIB);
    CHECK_EQUAL(arena.chunk_bytes, 2 * MIB);
    CHECK_EQUAL(arena.retired_total + arena.count, arena.made_total);
    sira_chunk_trim(other, 64);
    sira_chunk_give(other);
    CHECK_EQUAL(arena.asked_bytes, 2 * MIB);
    struct sira_shm_chunk more = take(&arena, 2000);
    CHECK(more.segment != read.segment); /* not where somebody may still look */
    for (int i = 0; i < 1000; i++) CHECK_EQUAL(seen[i], 7);
    sira_chunk_give(read);
    sira_chunk_give(more);
    sira_segment_detach(far.segment);
    sira_chunk_give(far);
    CHECK_EQUAL(arena.asked_bytes, 0);
    CHECK_EQUAL(arena.chunk_bytes, 0);
    sira_arena_close(&arena);
}

static void a_reader_can_neither_write_nor_shrink_nor_leave_a_segment(void)
{
    struct sira_arena arena;
    struct sira_maps maps;
    struct sira_map *map;
    sira_arena_open(&arena, 16 * MIB, 0);
    sira_maps_open(&maps);
    const struct sira_shm_chunk chunk = take(&arena, 100000);
    const int fd = dup(chunk.segment->shm.fd);
    const uint64_t bytes = chunk.segment->shm.bytes;
    CHECK_EQUAL(sira_maps_add(&maps, 7, fd, bytes - 4096, 0), EPERM); /* not the size that was told */
    CHECK_EQUAL(sira_maps_add(&maps, 7, fd, bytes, 0), 0);
    CHECK_EQUAL(sira_maps_add(&maps, 7, fd, bytes, 0), EEXIST);
    memcpy(sira_chunk_data(chunk), "seen", 4);
    const uint8_t *seen = sira_maps_range(&maps, 7, sira_chunk_offset(chunk), 100000, &map);
    CHECK(seen && memcmp(seen, "seen", 4) == 0);

    CHECK(mprotect((void *)map->shm.base, bytes, PROT_READ | PROT_WRITE) < 0);
    CHECK(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    CHECK(ftruncate(fd, 4096) < 0);
    CHECK(write(fd, "x", 1) < 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int again = open(path, O_RDWR);
    CHECK(again < 0 || mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
    if (again >= 0) close(again);

    static const uint64_t BAD[][2] = {{0, UINT64_MAX}, {UINT64_MAX, 1}, {UINT64_MAX, UINT64_MAX}, {1u << 31, 0}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) CHECK(!sira_maps_range(&maps, 7, BAD[i][0], BAD[i][1], &map));
    CHECK(!sira_maps_range(&maps, 7, bytes - 9, 10, &map));
    CHECK(sira_maps_range(&maps, 7, bytes - 9, 9, &map));
    CHECK(!sira_maps_range(&maps, 8, 0, 1, &map));

    sira_map_hold(map);
    sira_maps_drop(&maps, 7); /* retired: nobody finds it, the view still reads */
    CHECK(!sira_maps_range(&maps, 7, 0, 1, &map));
    sira_chunk_give(chunk);
    sira_arena_close(&arena); /* its publisher is gone */
    CHECK(memcmp(seen, "seen", 4) == 0);
    sira_map_give(map);
    sira_maps_close(&maps);
}

static void memory_that_is_not_sealed_is_refused(void)
{
    struct sira_maps maps;
    struct sira_shm shm;
    sira_maps_open(&maps);
    const int open_fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(open_fd >= 0 && ftruncate(open_fd, 4096) == 0);
    CHECK_EQUAL(sira_maps_add(&maps, 1, open_fd, 4096, 0), EPERM);
    CHECK(fcntl(open_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    CHECK_EQUAL(sira_maps_add(&maps, 1, open_fd, 4096, 0), EPERM); /* its maker could map it for writing again */
    CHECK_EQUAL(sira_shm_map(open_fd, 4096, true, false, &shm), 0); /* what both sides write may be */
    sira_shm_close(&shm);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK_EQUAL(sira_maps_add(&maps, 1, pipes[0], 4096, 0), EPERM);
    CHECK_EQUAL(sira_maps_add(&maps, 1, -1, 4096, 0), EBADF);
    close(pipes[0]);
    close(pipes[1]);
    sira_maps_close(&maps);
}

int main(void)
{
    segments_double_and_what_is_larger_gets_its_own();
    at_its_limit_an_arena_refuses_and_makes_way_by_what_is_empty();
    memory_that_is_there_is_used_again_without_making_more();
    a_chunk_is_free_when_its_last_holder_leaves();
    idle_segments_go_after_their_time_down_to_the_warm_reserve();
    mixed_sizes_waste_less_than_fifteen_percent();
    a_closed_arena_keeps_what_is_held();
    a_detached_segment_hands_out_nothing_and_goes_with_its_last_chunk();
    a_reader_can_neither_write_nor_shrink_nor_leave_a_segment();
    memory_that_is_not_sealed_is_refused();
    return 0;
}
