/* Two processes and a node over one link, killed at random moments and at every fault point: what was posted is
 * taken, withdrawn or pending, no chunk is lost or overwritten under a view, and the survivor goes on to the end.
 * The seed is printed and may be given. */
#include "../fault.h"
#include "../shm_arena.h"
#include "../shm_bell.h"
#include "../shm_link.h"
#include "build.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGES_MAX = 1 << 20, CHUNK_BYTES = 640, ARENA_BYTES = 256 << 10 };
static const struct sira_link_shape SHAPE = {12, 6, 2};

/* What the three share besides the link. */
struct stage {
    uint64_t writer_is_dead, reader_is_dead, stop;
    uint64_t posted, withdrawn;  /* by the writer, written after the step */
    uint64_t taken, last;        /* by the reader: messages, id of the last */
    uint64_t held_at_end;        /* chunks that did not come back to a writer that ended by itself */
};
static struct stage *stage;
static uint64_t *memory;
static struct sira_link link_of;
static int writer_bell, reader_bell;
static struct sira_arena arena;
static struct sira_segment *segment;
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- fault points ---------------------------------------------------------------------------------------------- */
static const char *fault_name;
static uint32_t fault_after; /* that many times it is passed */

static void die_there(const char *name)
{
    if (strcmp(name, fault_name) == 0 && fault_after-- == 0) raise(SIGKILL);
}

/* ---- writer ---------------------------------------------------------------------------------------------------- */
static void release(void *owner, uint32_t chunk)
{
    sira_chunk_give((struct sira_shm_chunk){.segment = owner, .index = chunk});
}

static bool room_stirs(void *of)
{
    return __atomic_load_n(&stage->reader_is_dead, __ATOMIC_ACQUIRE)
           || sira_link_back_count(&((struct sira_link_writer *)of)->link) > 0;
}

static bool room_sleeps(void *of)
{
    return sira_link_writer_sleeps(of, 1) && !room_stirs(of);
}

static void post_some(struct sira_link_writer *writer, struct sira_spin *spin)
{
    struct sira_link_ticket last = {0};
    for (uint64_t id = 1; id < MESSAGES_MAX && !__atomic_load_n(&stage->stop, __ATOMIC_ACQUIRE);) {
        struct sira_post post = {.cell = 0, .inline_bytes = 8, .inline_data = (const uint8_t *)&id};
        if (id % 16 == 7) post.deadline_ns = 1; /* long past: the reader passes it over */
        struct sira_shm_chunk chunk;
        const bool has_chunk = id % 3 == 0 && sira_arena_take(&arena, CHUNK_BYTES, &chunk) == 0;
        if (has_chunk) {
            for (int i = 0; i < CHUNK_BYTES / 8; i++) ((uint64_t *)sira_chunk_data(chunk))[i] = id;
            post.owner = chunk.segment;
            post.chunk = chunk.index;
            post.offset = sira_chunk_offset(chunk);
            post.bytes = CHUNK_BYTES;
        }
        struct sira_link_ticket ticket;
        const enum sira_link_status status = sira_link_post(writer, &post, &ticket);
        CHECK(status != SIRA_LINK_CORRUPT);
        if (status == SIRA_LINK_OK) {
            stage->posted = id++;
            if (sira_link_calls_reader(writer)) sira_bell_ring(reader_bell);
            if (id % 5 == 0 && last.number
                && sira_link_withdraw(writer, last, SIRA_LINK_CANCELLED) == SIRA_LINK_OK) stage->withdrawn++;
            last = ticket;
            continue;
        }
        if (has_chunk) sira_chunk_give(chunk);
        if (__atomic_load_n(&stage->reader_is_dead, __ATOMIC_ACQUIRE)) break;
        const struct sira_sleeper sleeper = {room_stirs, room_sleeps, writer};
        CHECK(sira_bell_wait(spin, writer_bell, &sleeper, -1) != SIRA_WAIT_FAILED);
        sira_link_writer_wakes(writer);
    }
}

static void be_writer(void)
{
    struct sira_link_writer writer;
    struct sira_spin spin;
    sira_spin_init(&spin, next_random() % 2 ? 0 : 20000);
    CHECK_EQUAL(sira_link_writer_open(&writer, &link_of, release), SIRA_LINK_OK);
    sira_link_writer_cell(&writer, 0, 100, UINT64_MAX, 1 << 20);
    post_some(&writer, &spin);
    if (__atomic_load_n(&stage->reader_is_dead, __ATOMIC_ACQUIRE)) {
        CHECK_EQUAL(sira_link_collect(&writer, true), SIRA_LINK_OK);
        stage->withdrawn += sira_link_withdraw_all(&writer, SIRA_LINK_NONE, SIRA_LINK_PEER_LOST);
        CHECK_EQUAL(writer.free_count, SHAPE.slots);
        sira_link_writer_close(&writer);
        stage->held_at_end = arena.chunk_bytes;
    }
    _exit(0);
}

/* ---- reader ---------------------------------------------------------------------------------------------------- */
static bool message_stirs(void *of)
{
    return __atomic_load_n(&stage->writer_is_dead, __ATOMIC_ACQUIRE) || sira_link_stirs(of);
}

static bool reader_sleeps(void *of)
{
    return sira_link_reader_sleeps(of) && !message_stirs(of);
}

enum { VIEWS = 4 };
static struct { uint32_t hold; uint64_t id, offset; } views[VIEWS];

/* The oldest view goes, if it still reads what was written. */
static void drop_view(int i)
{
    if (!views[i].id) return;
    const uint64_t *words = (const uint64_t *)(segment->shm.base + views[i].offset);
    for (int k = 0; k < CHUNK_BYTES / 8; k++) CHECK_EQUAL(words[k], views[i].id);
    views[i].id = 0;
    if (sira_link_give_hold(&link_of, views[i].hold)) sira_bell_ring(writer_bell);
}

static void take_all(struct sira_link_reader *reader)
{
    struct sira_taken taken;
    enum sira_link_status status;
    while ((status = sira_link_take(reader, 0, now_ns(), &taken)) == SIRA_LINK_OK) {
        uint64_t id;
        CHECK_EQUAL(taken.inline_bytes, sizeof id);
        memcpy(&id, taken.inline_data, sizeof id);
        CHECK(id > stage->last && id % 16 != 7);
        stage->last = id;
        stage->taken++;
        if (taken.hold != SIRA_LINK_NONE) {
            const int i = (int)(next_random() % VIEWS);
            drop_view(i);
            views[i].hold = taken.hold, views[i].id = id, views[i].offset = taken.offset;
        }
        if (sira_link_calls_writer(&link_of)) sira_bell_ring(writer_bell);
    }
    CHECK_EQUAL(status, SIRA_LINK_EMPTY);
    for (int i = 0; i < VIEWS; i++) drop_view(i); /* nothing more to do: let go */
    if (sira_link_calls_writer(&link_of)) sira_bell_ring(writer_bell);
}

static void be_reader(void)
{
    struct sira_link_reader reader;
    struct sira_spin spin;
    sira_spin_init(&spin, next_random() % 2 ? 0 : 20000);
    CHECK_EQUAL(sira_link_reader_open(&reader, &link_of), SIRA_LINK_OK);
    for (;;) {
        const bool is_last = __atomic_load_n(&stage->writer_is_dead, __ATOMIC_ACQUIRE);
        CHECK_EQUAL(sira_link_look(&reader, is_last), SIRA_LINK_OK);
        take_all(&reader);
        if (is_last) _exit(0);
        const struct sira_sleeper sleeper = {message_stirs, reader_sleeps, &reader};
        CHECK(sira_bell_wait(&spin, reader_bell, &sleeper, -1) != SIRA_WAIT_FAILED);
    }
}

/* ---- node ------------------------------------------------------------------------------------------------------ */
static pid_t start(void (*be)(void), const char *fault, uint32_t after)
{
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid) return pid;
    alarm(60); /* a watchdog: who hangs is killed by another signal than SIGKILL */
    random_state ^= be == be_writer ? 0x5555 : 0xaaaa;
    fault_name = fault;
    fault_after = after;
    sira_fault_hook = fault ? die_there : NULL;
    be();
    _exit(1);
}

/* true: killed; false: it ended well. */
static bool join(pid_t pid)
{
    int status;
    CHECK_EQUAL(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return true;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return false;
}

static void tell_death(uint64_t *flag, int bell)
{
    __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
    sira_bell_ring(bell);
}

static void begin(void)
{
    memset(memory, 0, sira_link_bytes(&SHAPE));
    memset(stage, 0, sizeof *stage);
    sira_link_format(memory, &SHAPE, 1);
    CHECK_EQUAL(sira_link_open(memory, sira_link_bytes(&SHAPE), &SHAPE, 1, &link_of), SIRA_LINK_OK);
    writer_bell = sira_bell_make();
    reader_bell = sira_bell_make();
    CHECK(writer_bell >= 0 && reader_bell >= 0);
}

/* Both have ended, `writer_died` or not; so has the reader. Nothing may be unexplained. */
static void check_ledger(bool writer_died, bool reader_died)
{
    struct sira_link_counts counts[2];
    CHECK_EQUAL(sira_link_counts(&link_of, counts), SIRA_LINK_OK);
    const struct sira_link_counts *at = &counts[0];
    uint64_t withdrawn = 0;
    for (int r = 0; r < SIRA_LINK_REASONS; r++) withdrawn += at->withdrawn[r];
    CHECK_EQUAL(at->posted, at->taken + at->pending + withdrawn);
    CHECK_EQUAL(at->pending, 0); /* the survivor saw to it */
    CHECK(at->posted - stage->posted <= (writer_died ? 1 : 0)); /* the post that it died in */
    CHECK(at->taken - stage->taken <= (reader_died ? 1 : 0));   /* the take that it died in */
    CHECK(at->withdrawn[SIRA_LINK_CANCELLED] + at->withdrawn[SIRA_LINK_PEER_LOST] - stage->withdrawn
          <= (writer_died ? 1 : 0));
    CHECK_EQUAL(counts[1].posted, 0);
    if (!writer_died) CHECK_EQUAL(stage->held_at_end, 0);
    close(writer_bell);
    close(reader_bell);
}

/* Run both and kill one: at `fault` of it, or after `us` microseconds. */
static void run(bool kill_writer, const char *fault, uint32_t after, useconds_t us)
{
    begin();
    const pid_t writer = start(be_writer, kill_writer ? fault : NULL, after);
    const pid_t reader = start(be_reader, kill_writer ? NULL : fault, after);
    const pid_t victim = kill_writer ? writer : reader;
    if (!fault) {
        usleep(us);
        kill(victim, SIGKILL);
    }
    CHECK(join(victim)); /* each fault point is reached */
    if (kill_writer) {
        tell_death(&stage->writer_is_dead, reader_bell);
        CHECK(!join(reader));
    } else {
        tell_death(&stage->reader_is_dead, writer_bell);
        CHECK(!join(writer));
    }
    check_ledger(kill_writer, !kill_writer);
}

static const struct { const char *name; bool is_writers; } FAULTS[] = {
    {"post.claimed", true}, {"post.written", true}, {"post.committed", true}, {"post.counted", true},
    {"post.told", true}, {"withdraw.announced", true}, {"withdraw.committed", true}, {"withdraw.counted", true},
    {"expire.announced", true}, {"expire.committed", true}, {"writer.armed", true},
    {"take.copied", false}, {"take.committed", false}, {"take.told", false}, {"hold.viewed", false},
    {"hold.told", false}, {"reader.armed", false},
};

static void a_death_at_every_fault_point_loses_no_count_and_no_chunk(void)
{
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++)
        for (uint32_t after = 0; after < 40; after = after * 3 + 1)
            run(FAULTS[i].is_writers, FAULTS[i].name, after, 0);
}

static void a_death_at_any_moment_loses_no_count_and_no_chunk(void)
{
    for (int i = 0; i < 60; i++) run(i % 2, NULL, 0, (useconds_t)(next_random() % 4000));
}

int main(int argc, char **argv)
{
    const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    memory = mmap(NULL, sira_link_bytes(&SHAPE), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && stage != MAP_FAILED);
    struct sira_shm_chunk chunk; /* the only segment is made here, so that the reader has it mapped */
    sira_arena_open(&arena, ARENA_BYTES, ARENA_BYTES);
    CHECK_EQUAL(sira_arena_take(&arena, ARENA_BYTES, &chunk), 0);
    segment = chunk.segment;
    sira_chunk_give(chunk);
    a_death_at_every_fault_point_loses_no_count_and_no_chunk();
    a_death_at_any_moment_loses_no_count_and_no_chunk();
    sira_arena_close(&arena);
    return 0;
}
