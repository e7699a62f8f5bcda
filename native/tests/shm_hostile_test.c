/* A peer that writes any bits anywhere, at any time: the honest end answers with a status, stays within its memory
 * (ASan looks), loses no chunk and gives none back twice, and always returns. The seed is printed and may be given. */
#include "../shm_link.h"
#include "build.h"

#include <pthread.h>
#include <time.h>

enum { CHUNKS = 4096, ROUNDS = 400, STEPS = 300 };
static uint64_t memory[(64 << 10) / 8] __attribute__((aligned(4096)));
static const struct sira_link_shape SHAPE = {70, 100, 5};
static size_t link_bytes;
static struct sira_link link_of;
static uint64_t random_state;
static uint8_t given[CHUNKS]; /* chunks that came back */

static uint64_t next_random_of(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t next_random(void)
{
    return next_random_of(&random_state);
}

static void release(void *owner, uint32_t chunk)
{
    CHECK(owner == memory && chunk < CHUNKS);
    CHECK_EQUAL(given[chunk], 0);
    given[chunk] = 1;
}

static void fresh_link(void)
{
    memset(memory, 0, sizeof memory);
    sira_link_format(memory, &SHAPE, 1);
    CHECK_EQUAL(sira_link_open(memory, link_bytes, &SHAPE, 1, &link_of), SIRA_LINK_OK);
}

/* One word of the link becomes something: random, nearly what it was, or nearly right. */
static void spoil(uint64_t *state)
{
    const size_t words = link_bytes / 8;
    uint64_t *word = &memory[next_random_of(state) % words];
    if (next_random_of(state) % 2) { /* where it matters: lines, holds, headers of slots */
        const uint64_t slot = next_random_of(state) % SHAPE.slots;
        word = next_random_of(state) % 3 ? (uint64_t *)&link_of.slots[slot] + next_random_of(state) % 8
                                         : &memory[8 + next_random_of(state) % 48];
    }
    const uint64_t was = __atomic_load_n(word, __ATOMIC_RELAXED);
    uint64_t value = next_random_of(state);
    switch (value % 6) {
    case 0: break;
    case 1: value = was ^ UINT64_C(1) << (value >> 8 & 63); break;
    case 2: value = was + (value >> 8 & 3) - 1; break;
    case 3: value = value >> 8 & 0xff; break;
    case 4: value = 0; break;
    case 5: value = (was & ~UINT64_C(7)) | (value >> 8 & 7); break; /* another kind of the same number */
    }
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static volatile bool spoiling;

static void *spoil_beside(void *seed)
{
    uint64_t state = *(uint64_t *)seed | 1;
    while (spoiling) spoil(&state);
    return NULL;
}

static void check_counts(void)
{
    static struct sira_link_counts counts[SIRA_LINK_CELLS_MAX];
    const enum sira_link_status status = sira_link_counts(&link_of, counts);
    struct sira_link_piece piece;
    for (uint32_t h = 0; h < link_of.shape.holds; h++) (void)sira_link_piece(&link_of, h, &piece);
    CHECK(status == SIRA_LINK_OK || status == SIRA_LINK_CORRUPT);
    for (uint32_t c = 0; status == SIRA_LINK_OK && c < SHAPE.cells; c++) {
        uint64_t sum = counts[c].taken + counts[c].pending;
        for (int r = 0; r < SIRA_LINK_REASONS; r++) sum += counts[c].withdrawn[r];
        CHECK(sum == counts[c].posted);
    }
}

/* ---- an honest reader ------------------------------------------------------------------------------------------ */
static bool read_some(struct sira_link_reader *reader)
{
    const uint32_t cell = (uint32_t)(next_random() % SHAPE.cells);
    enum sira_link_status status = sira_link_look(reader, next_random() % 8 == 0);
    if (status == SIRA_LINK_CORRUPT) return false;
    CHECK_EQUAL(status, SIRA_LINK_OK);
    CHECK(reader->queued <= SHAPE.slots);
    struct sira_taken taken;
    status = sira_link_take(reader, cell, 1000, &taken);
    if (status == SIRA_LINK_OK) {
        CHECK(taken.inline_bytes <= SIRA_LINK_INLINE_BYTES_MAX && taken.cell == cell);
        CHECK(taken.hold < SHAPE.holds || taken.hold == SIRA_LINK_NONE);
        CHECK(taken.priority < SIRA_LINK_PRIORITIES);
        if (taken.hold != SIRA_LINK_NONE) (void)sira_link_give_hold(&reader->link, taken.hold);
    } else {
        CHECK(status == SIRA_LINK_EMPTY || status == SIRA_LINK_CORRUPT);
    }
    (void)sira_link_calls_writer(&reader->link);
    (void)sira_link_reader_sleeps(reader);
    return status != SIRA_LINK_CORRUPT;
}

/* Slots as a writer would fill them, so that spoilt words are looked at at all. */
static void write_slots(uint64_t *number)
{
    for (int i = 0; i < 5; i++) {
        const uint32_t slot = (uint32_t)(next_random() % SHAPE.slots);
        link_of.slots[slot].place.kind = next_random() % SHAPE.cells << 32 | next_random() % 8 << 24 | next_random() % 449;
        link_of.slots[slot].place.chunk = next_random() % 2 ? SIRA_LINK_NONE : next_random() % SHAPE.holds;
        __atomic_store_n(&link_of.slots[slot].state, sira_slot_state(++*number, SIRA_SLOT_POSTED), __ATOMIC_RELEASE);
        __atomic_fetch_or(&link_of.posted[slot / 64], UINT64_C(1) << slot % 64, __ATOMIC_SEQ_CST);
    }
}

static uint32_t a_hostile_writer_gets_a_status(void)
{
    uint32_t corrupt = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct sira_link_reader reader;
        uint64_t number = 0;
        fresh_link();
        CHECK_EQUAL(sira_link_reader_open(&reader, &link_of), SIRA_LINK_OK);
        bool lives = true;
        for (int i = 0; i < STEPS && lives; i++) {
            write_slots(&number);
            if (next_random() % 4 == 0) spoil(&random_state);
            lives = read_some(&reader);
        }
        if (!lives) { /* for ever */
            struct sira_taken taken;
            CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_CORRUPT);
            CHECK_EQUAL(sira_link_take(&reader, 0, 0, &taken), SIRA_LINK_CORRUPT);
            corrupt++;
        }
        check_counts();
        sira_link_reader_close(&reader);
    }
    return corrupt;
}

/* ---- an honest writer ------------------------------------------------------------------------------------------ */
struct books { /* which chunks the writer has, what was posted last */
    uint32_t next, posted;
    struct sira_link_ticket last[16];
};

static bool write_some(struct sira_link_writer *writer, struct books *books)
{
    static const uint8_t bytes[SIRA_LINK_INLINE_BYTES_MAX];
    enum sira_link_status status = SIRA_LINK_OK;
    struct sira_link_ticket *last = &books->last[next_random() % 16];
    switch (next_random() % 8) {
    case 0: status = sira_link_withdraw(writer, *last, SIRA_LINK_CANCELLED); break;
    case 1: status = sira_link_collect(writer, next_random() % 4 == 0); break;
    case 2:
        (void)sira_link_withdraw_all(writer, (uint32_t)(next_random() % SHAPE.cells), SIRA_LINK_DROPPED);
        break;
    case 3:
        (void)sira_link_writer_sleeps(writer, (uint32_t)(next_random() % 100));
        (void)sira_link_calls_reader(writer);
        (void)sira_link_pending(writer, *last);
        break;
    default: {
        const bool has_chunk = books->next < CHUNKS && next_random() % 2;
        const struct sira_post post = {.cell = (uint32_t)(next_random() % SHAPE.cells),
                                       .priority = (uint8_t)(next_random() % 8), .inline_data = bytes,
                                       .inline_bytes = (uint16_t)(next_random() % sizeof bytes),
                                       .owner = has_chunk ? memory : NULL, .chunk = books->next, .bytes = 10};
        struct sira_link_ticket ticket = *last;
        status = next_random() % 4 ? sira_link_post(writer, &post, &ticket) : sira_link_supersede(writer, &post, &ticket);
        if (status == SIRA_LINK_OK) {
            *last = ticket;
            books->posted++;
            books->next += has_chunk;
        } else if (has_chunk) {
            CHECK_EQUAL(given[books->next], 0); /* a refused chunk stays the caller's */
        }
    }
    }
    CHECK((unsigned)status < SIRA_LINK_STATUS_COUNT && status != SIRA_LINK_EMPTY);
    CHECK(writer->free_count <= SHAPE.slots && writer->hold_count <= SHAPE.holds);
    return !writer->corrupt;
}

/* What an honest reader would do, now and then, so that slots go round. */
static void take_slots(void)
{
    for (int i = 0; i < 3; i++) {
        const uint32_t slot = (uint32_t)(next_random() % SHAPE.slots);
        const uint64_t state = link_of.slots[slot].state;
        if (sira_slot_kind(state) != SIRA_SLOT_POSTED) continue;
        const bool expired = next_random() % 5 == 0;
        const uint64_t hold = link_of.slots[slot].place.chunk & UINT32_MAX;
        link_of.slots[slot].state = (state & ~UINT64_C(7)) | (uint64_t)(expired ? SIRA_SLOT_EXPIRED : SIRA_SLOT_TAKEN);
        link_of.returned[slot / 64] |= UINT64_C(1) << slot % 64;
        if (!expired && hold < SHAPE.holds) link_of.holds[hold / 64] |= UINT64_C(1) << hold % 64;
    }
}

static uint32_t a_hostile_reader_gets_a_status_and_no_chunk_is_lost(void)
{
    uint32_t corrupt = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct sira_link_writer writer;
        struct books books = {0};
        memset(given, 0, sizeof given);
        fresh_link();
        CHECK_EQUAL(sira_link_writer_open(&writer, &link_of, release), SIRA_LINK_OK);
        for (uint32_t c = 0; c < SHAPE.cells; c++) sira_link_writer_cell(&writer, c, 30, UINT64_MAX, 200);
        bool lives = true;
        for (int i = 0; i < STEPS && lives; i++) {
            take_slots();
            if (next_random() % 8 == 0) spoil(&random_state);
            lives = write_some(&writer, &books);
        }
        corrupt += !lives;
        check_counts();
        sira_link_writer_close(&writer);
        for (uint32_t i = 0; i < books.next; i++) CHECK_EQUAL(given[i], 1);
    }
    return corrupt;
}

/* ---- both, while another thread spoils beside ------------------------------------------------------------------- */
static void the_same_holds_while_words_change_between_two_looks(uint64_t seed)
{
    for (int round = 0; round < 40; round++) {
        struct sira_link_writer writer;
        struct sira_link_reader reader;
        struct books books = {0};
        memset(given, 0, sizeof given);
        fresh_link();
        CHECK_EQUAL(sira_link_writer_open(&writer, &link_of, release), SIRA_LINK_OK);
        CHECK_EQUAL(sira_link_reader_open(&reader, &link_of), SIRA_LINK_OK);
        for (uint32_t c = 0; c < SHAPE.cells; c++) sira_link_writer_cell(&writer, c, 30, UINT64_MAX, 200);
        spoiling = true;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, spoil_beside, &seed) == 0);
        bool writes = true, reads = true;
        for (int i = 0; i < 2000 && (writes || reads); i++) {
            if (writes) writes = write_some(&writer, &books);
            if (reads) reads = read_some(&reader);
            if (i % 64 == 0) check_counts();
        }
        spoiling = false;
        pthread_join(thread, NULL);
        sira_link_reader_close(&reader);
        sira_link_writer_close(&writer);
        for (uint32_t i = 0; i < books.next; i++) CHECK_EQUAL(given[i], 1);
    }
}

int main(int argc, char **argv)
{
    const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    link_bytes = sira_link_bytes(&SHAPE);
    CHECK(link_bytes <= sizeof memory);
    const uint32_t by_writer = a_hostile_writer_gets_a_status();
    const uint32_t by_reader = a_hostile_reader_gets_a_status_and_no_chunk_is_lost();
    printf("corrupt: %u and %u of %d\n", by_writer, by_reader, ROUNDS);
    CHECK(by_writer > ROUNDS / 10 && by_reader > ROUNDS / 10); /* it was noticed, not only survived */
    the_same_holds_while_words_change_between_two_looks(seed);
    return 0;
}
