/* The link with both ends in one process: what is posted is taken, in order, once, within its limits, and counted. */
#include "../shm_link.h"
#include "build.h"

static uint64_t memory[(2 << 20) / 8] __attribute__((aligned(4096)));
static struct sira_link link_of;
static struct sira_link_writer writer;
static struct sira_link_reader reader;
static uint32_t released[1024];

static void release(void *owner, uint32_t chunk)
{
    CHECK(owner == memory);
    released[chunk]++;
}

static void begin(uint32_t slots, uint32_t holds, uint32_t cells)
{
    const struct sira_link_shape shape = {slots, holds, cells};
    memset(memory, 0, sizeof memory);
    memset(released, 0, sizeof released);
    const size_t bytes = sira_link_bytes(&shape);
    CHECK(bytes && bytes <= sizeof memory);
    sira_link_format(memory, &shape, 5);
    CHECK_EQUAL(sira_link_open(memory, bytes, &shape, 5, &link_of), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_writer_open(&writer, &link_of, release), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_reader_open(&reader, &link_of), SIRA_LINK_OK);
    for (uint32_t c = 0; c < cells; c++) sira_link_writer_cell(&writer, c, 1000, UINT64_MAX, 1 << 20);
}

static void end(void)
{
    sira_link_writer_close(&writer);
    sira_link_reader_close(&reader);
}

static enum sira_link_status post_to(uint32_t cell, uint32_t priority, uint64_t id, struct sira_link_ticket *ticket)
{
    struct sira_link_ticket unused;
    const struct sira_post post = {.cell = cell, .priority = (uint8_t)priority, .inline_bytes = sizeof id,
                                   .inline_data = (const uint8_t *)&id};
    return sira_link_post(&writer, &post, ticket ? ticket : &unused);
}

static enum sira_link_status post_chunk(uint32_t cell, uint32_t chunk, uint64_t bytes)
{
    struct sira_link_ticket ticket;
    const struct sira_post post = {.cell = cell, .owner = memory, .chunk = chunk, .segment = 9, .offset = 64 * chunk,
                                   .bytes = bytes};
    return sira_link_post(&writer, &post, &ticket);
}

/* Id of the next message of a cell; 0: none. */
static uint64_t take(uint32_t cell)
{
    struct sira_taken taken;
    CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_OK);
    const enum sira_link_status status = sira_link_take(&reader, cell, 1000, &taken);
    if (status == SIRA_LINK_EMPTY) return 0;
    CHECK_EQUAL(status, SIRA_LINK_OK);
    CHECK_EQUAL(taken.cell, cell);
    uint64_t id = taken.hold; /* of a chunk */
    if (taken.inline_bytes) memcpy(&id, taken.inline_data, sizeof id);
    return id;
}

static struct sira_link_counts counts_of(uint32_t cell)
{
    static struct sira_link_counts counts[SIRA_LINK_CELLS_MAX];
    CHECK_EQUAL(sira_link_counts(&link_of, counts), SIRA_LINK_OK);
    return counts[cell];
}

static void a_link_of_the_usual_shape_fits_64_kib(void)
{
    const struct sira_link_shape usual = {SIRA_LINK_SLOTS_DEFAULT, SIRA_LINK_HOLDS_DEFAULT, SIRA_LINK_CELLS_DEFAULT};
    CHECK(sira_link_bytes(&usual) <= 64 << 10);
    static const struct sira_link_shape BAD[] = {{1, 1, 1}, {2049, 1, 1}, {2, 0, 1}, {2, 4097, 1}, {2, 1, 0},
                                                 {2, 1, 1025}, {UINT32_MAX, UINT32_MAX, UINT32_MAX}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) CHECK_EQUAL(sira_link_bytes(&BAD[i]), 0);
}

static void memory_that_is_not_the_link_introduced_is_refused(void)
{
    const struct sira_link_shape shape = {8, 8, 8}, other = {8, 8, 7};
    const size_t bytes = sira_link_bytes(&shape);
    struct sira_link out;
    memset(memory, 0, sizeof memory);
    CHECK_EQUAL(sira_link_open(memory, bytes, &shape, 5, &out), SIRA_LINK_CORRUPT);
    sira_link_format(memory, &shape, 5);
    CHECK_EQUAL(sira_link_open(memory, bytes, &shape, 5, &out), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_open(memory, bytes, &shape, 6, &out), SIRA_LINK_CORRUPT);
    CHECK_EQUAL(sira_link_open(memory, bytes - 1, &shape, 5, &out), SIRA_LINK_CORRUPT);
    CHECK_EQUAL(sira_link_open(memory, sira_link_bytes(&other), &other, 5, &out), SIRA_LINK_CORRUPT);
    CHECK_EQUAL(sira_link_open(memory, bytes, &(struct sira_link_shape){0}, 5, &out), SIRA_LINK_BAD_SHAPE);
    for (size_t i = 0; i < 36; i++) { /* every byte of the head that says anything */
        ((uint8_t *)memory)[i] ^= 0x40;
        CHECK_EQUAL(sira_link_open(memory, bytes, &shape, 5, &out), SIRA_LINK_CORRUPT);
        ((uint8_t *)memory)[i] ^= 0x40;
    }
}

static void messages_leave_by_priority_then_in_order(void)
{
    begin(16, 4, 2);
    CHECK_EQUAL(take(0), 0);
    for (uint64_t id = 1; id <= 4; id++) CHECK_EQUAL(post_to(0, id % 2 ? 0 : 3, id, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(1, 7, 9, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(take(0), 2);
    CHECK_EQUAL(sira_link_peek(&reader, 0), 3);
    CHECK_EQUAL(post_to(0, 7, 5, NULL), SIRA_LINK_OK); /* overtakes what is not yet taken */
    CHECK_EQUAL(take(0), 5);
    CHECK_EQUAL(take(0), 4);
    CHECK_EQUAL(take(0), 1);
    CHECK_EQUAL(take(0), 3);
    CHECK_EQUAL(take(0), 0);
    CHECK_EQUAL(take(1), 9); /* what nobody took held up nothing */
    end();
}

static void order_holds_though_slots_are_used_in_any_order(void)
{
    begin(200, 4, 1);
    uint64_t posted = 0, taken = 0;
    for (int round = 0; round < 3000; round++) {
        for (int i = round % 7; i >= 0; i--)
            if (post_to(0, 0, posted + 1, NULL) == SIRA_LINK_OK) posted++;
        for (int i = round % 5 + (round % 100 == 0 ? 200 : 0); i >= 0; i--) {
            const uint64_t id = take(0);
            if (id) CHECK_EQUAL(id, ++taken);
        }
    }
    while (taken < posted) CHECK_EQUAL(take(0), ++taken);
    CHECK(posted > 9000);
    CHECK_EQUAL(counts_of(0).taken, posted);
    end();
}

static void one_slot_in_eight_is_left_to_priority(void)
{
    begin(16, 4, 1);
    for (int i = 0; i < 14; i++) CHECK_EQUAL(post_to(0, 0, 1, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 0, 1, NULL), SIRA_LINK_NO_SLOT);
    CHECK_EQUAL(sira_link_room(&writer, 0, 1, 0, 1), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_room(&writer, 0, 1, 0, 2), SIRA_LINK_NO_SLOT); /* two others are planned */
    for (int i = 0; i < 2; i++) CHECK_EQUAL(post_to(0, 1, 2, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 7, 2, NULL), SIRA_LINK_NO_SLOT);
    CHECK_EQUAL(take(0), 2);
    CHECK_EQUAL(post_to(0, 0, 1, NULL), SIRA_LINK_NO_SLOT);
    CHECK_EQUAL(post_to(0, 7, 2, NULL), SIRA_LINK_OK);
    end();
}

static void a_window_holds_its_own_subscription_only(void)
{
    begin(16, 4, 2);
    sira_link_writer_cell(&writer, 0, 2, UINT64_MAX, 1 << 20);
    CHECK_EQUAL(post_to(0, 0, 1, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 0, 2, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 7, 3, NULL), SIRA_LINK_NO_CREDIT);
    CHECK_EQUAL(post_to(1, 0, 4, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(take(0), 1);
    CHECK_EQUAL(post_to(0, 0, 3, NULL), SIRA_LINK_OK); /* credit came back with the take */
    end();
}

static void chunks_come_back_when_their_views_are_gone(void)
{
    begin(16, 2, 2);
    sira_link_writer_cell(&writer, 0, 100, UINT64_MAX, 1000);
    CHECK_EQUAL(post_chunk(0, 1, 600), SIRA_LINK_OK);
    CHECK_EQUAL(post_chunk(0, 2, 600), SIRA_LINK_HELD_BYTES);
    CHECK_EQUAL(post_chunk(1, 2, 600), SIRA_LINK_OK); /* the other subscription holds nothing */
    CHECK_EQUAL(post_chunk(1, 3, 1), SIRA_LINK_NO_HOLD);
    struct sira_taken taken;
    CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_take(&reader, 0, 0, &taken), SIRA_LINK_OK);
    CHECK(taken.segment == 9 && taken.offset == 64 && taken.bytes == 600);
    CHECK_EQUAL(post_chunk(0, 3, 600), SIRA_LINK_NO_HOLD); /* taken, but viewed */
    CHECK_EQUAL(released[1], 0);
    sira_link_give_hold(&link_of, taken.hold);
    CHECK_EQUAL(post_chunk(0, 3, 5000), SIRA_LINK_OK); /* larger than allowed, but alone */
    CHECK_EQUAL(released[1], 1);
    end(); /* the reader is gone: all comes back */
    CHECK(released[1] == 1 && released[2] == 1 && released[3] == 1);
}

static void bytes_that_are_untaken_are_one_limit_and_bytes_that_are_viewed_another(void)
{
    begin(16, 8, 1);
    sira_link_writer_cell(&writer, 0, 100, 1000, 3000);
    CHECK_EQUAL(post_chunk(0, 1, 600), SIRA_LINK_OK);
    CHECK_EQUAL(post_chunk(0, 2, 600), SIRA_LINK_OK); /* below the window before it, as in the node */
    CHECK_EQUAL(post_chunk(0, 3, 600), SIRA_LINK_NO_CREDIT);
    CHECK_EQUAL(post_to(0, 0, 3, NULL), SIRA_LINK_NO_CREDIT);
    struct sira_taken taken[4];
    CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_OK);
    for (int i = 0; i < 2; i++) CHECK_EQUAL(sira_link_take(&reader, 0, 0, &taken[i]), SIRA_LINK_OK);
    CHECK_EQUAL(post_chunk(0, 3, 600), SIRA_LINK_OK); /* both are viewed: they are taken all the same */
    CHECK_EQUAL(post_chunk(0, 4, 1500), SIRA_LINK_HELD_BYTES);
    struct sira_link_ticket ticket;
    CHECK_EQUAL(post_to(0, 0, 4, &ticket), SIRA_LINK_OK);
    CHECK_EQUAL(post_chunk(0, 5, 600), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 0, 6, NULL), SIRA_LINK_NO_CREDIT);
    CHECK_EQUAL(sira_link_withdraw_all(&writer, 0, SIRA_LINK_REVOKED), 3);
    CHECK_EQUAL(writer.cells[0].outstanding_bytes, 0);
    CHECK_EQUAL(writer.cells[0].held_bytes, 1200);
    for (int i = 0; i < 2; i++) sira_link_give_hold(&link_of, taken[i].hold);
    CHECK_EQUAL(sira_link_collect(&writer, false), SIRA_LINK_OK);
    CHECK(writer.cells[0].outstanding_bytes == 0 && writer.cells[0].held_bytes == 0);
    end();
}

static void what_is_withdrawn_is_never_taken_and_is_counted_by_reason(void)
{
    begin(16, 4, 1);
    struct sira_link_ticket first, second;
    CHECK_EQUAL(post_to(0, 0, 1, &first), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 0, 2, &second), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_OK); /* the reader has queued both */
    CHECK_EQUAL(sira_link_withdraw(&writer, first, SIRA_LINK_REVOKED), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_withdraw(&writer, first, SIRA_LINK_REVOKED), SIRA_LINK_GONE);
    CHECK_EQUAL(post_to(0, 0, 3, &first), SIRA_LINK_OK); /* into the same slot */
    CHECK_EQUAL(take(0), 2);
    CHECK_EQUAL(sira_link_withdraw(&writer, second, SIRA_LINK_REVOKED), SIRA_LINK_GONE);
    CHECK_EQUAL(take(0), 3);
    CHECK_EQUAL(take(0), 0);
    CHECK_EQUAL(post_to(0, 0, 4, NULL), SIRA_LINK_OK);
    CHECK(sira_link_withdraw_all(&writer, 0, SIRA_LINK_DROPPED) == 1);
    const struct sira_link_counts counts = counts_of(0);
    CHECK(counts.posted == 4 && counts.taken == 2 && counts.pending == 0);
    CHECK(counts.withdrawn[SIRA_LINK_REVOKED] == 1 && counts.withdrawn[SIRA_LINK_DROPPED] == 1);
    end();
}

static void a_late_message_is_passed_over_and_counted(void)
{
    begin(16, 4, 1);
    struct sira_link_ticket ticket;
    struct sira_post post = {.owner = memory, .chunk = 7, .bytes = 8, .deadline_ns = 1000};
    CHECK_EQUAL(sira_link_post(&writer, &post, &ticket), SIRA_LINK_OK);
    post.deadline_ns = 1001;
    post.chunk = 8;
    CHECK_EQUAL(sira_link_post(&writer, &post, &ticket), SIRA_LINK_OK);
    CHECK_EQUAL(take(0), 1); /* hold 1: the second; it is 1000 now */
    CHECK_EQUAL(counts_of(0).withdrawn[SIRA_LINK_EXPIRED], 1); /* before the writer knows */
    CHECK_EQUAL(sira_link_collect(&writer, false), SIRA_LINK_OK);
    CHECK_EQUAL(counts_of(0).withdrawn[SIRA_LINK_EXPIRED], 1); /* and after */
    CHECK(released[7] == 1 && released[8] == 0);
    end();
}

static void one_message_is_taken_of_one_priority_and_no_later_one_in_its_place(void)
{
    begin(8, 8, 2);
    struct sira_link_ticket second;
    struct sira_taken taken;
    const struct sira_post late = {.owner = memory, .chunk = 7, .bytes = 8, .deadline_ns = 1000};
    struct sira_link_ticket unused;
    CHECK_EQUAL(sira_link_post(&writer, &late, &unused), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 0, 2, &second), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 0, 3, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 5, 4, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_OK);
    CHECK_EQUAL(reader.fresh[0], 1);
    CHECK_EQUAL(reader.cells[0].counts[0], 3);
    CHECK_EQUAL(reader.cells[0].counts[5], 1);
    CHECK_EQUAL(sira_link_withdraw(&writer, second, SIRA_LINK_CANCELLED), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_take_oldest(&reader, 0, 3, 1000, &taken), SIRA_LINK_EMPTY);
    CHECK_EQUAL(sira_link_take_oldest(&reader, 0, 0, 1000, &taken), SIRA_LINK_GONE); /* expired */
    CHECK_EQUAL(sira_link_take_oldest(&reader, 0, 0, 1000, &taken), SIRA_LINK_GONE); /* withdrawn */
    CHECK_EQUAL(reader.cells[0].counts[0], 1);
    CHECK_EQUAL(sira_link_take_oldest(&reader, 0, 0, 1000, &taken), SIRA_LINK_OK);
    CHECK_EQUAL(taken.priority, 0);
    CHECK_EQUAL(sira_link_take_oldest(&reader, 0, 0, 1000, &taken), SIRA_LINK_EMPTY);
    CHECK_EQUAL(take(0), 4);
    CHECK_EQUAL(reader.cells[0].counts[5], 0);
    end();
}

static void what_is_passed_over_comes_back_untaken(void)
{
    begin(8, 8, 2);
    CHECK_EQUAL(post_chunk(0, 3, 600), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(0, 5, 1, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(post_to(1, 0, 2, NULL), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_look(&reader, false), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_pass_over(&reader, 0), SIRA_LINK_OK);
    CHECK_EQUAL(reader.queued, 1);
    CHECK_EQUAL(take(0), 0);
    CHECK_EQUAL(take(1), 2);
    CHECK_EQUAL(sira_link_collect(&writer, false), SIRA_LINK_OK);
    CHECK_EQUAL(writer.free_count, 8);
    CHECK_EQUAL(released[3], 1);
    CHECK_EQUAL(counts_of(0).taken, 0);
    CHECK_EQUAL(counts_of(0).withdrawn[SIRA_LINK_EXPIRED], 2);
    end();
}

static void latest_keeps_one_and_counts_the_rest(void)
{
    begin(2, 1, 1);
    sira_link_writer_cell(&writer, 0, 1, UINT64_MAX, 0);
    struct sira_link_ticket newest = {0};
    for (uint64_t id = 1; id <= 100; id++) {
        const struct sira_post post = {.inline_bytes = sizeof id, .inline_data = (const uint8_t *)&id};
        CHECK_EQUAL(sira_link_supersede(&writer, &post, &newest), SIRA_LINK_OK);
        if (id == 50) CHECK_EQUAL(take(0), 50);
    }
    CHECK(sira_link_pending(&writer, newest));
    CHECK_EQUAL(take(0), 100);
    CHECK(!sira_link_pending(&writer, newest));
    CHECK_EQUAL(take(0), 0);
    CHECK_EQUAL(counts_of(0).withdrawn[SIRA_LINK_SUPERSEDED], 98);
    end();
}

static void what_the_dead_left_is_given_to_another_of_the_group(void)
{
    begin(16, 4, 2); /* two links as two cells would do: withdraw here, post there */
    struct sira_link_ticket tickets[5];
    for (uint64_t id = 1; id <= 5; id++) CHECK_EQUAL(post_to(0, 0, id, &tickets[id - 1]), SIRA_LINK_OK);
    CHECK_EQUAL(take(0), 1);
    CHECK_EQUAL(take(0), 2);
    for (uint64_t id = 1; id <= 5; id++)
        if (sira_link_withdraw(&writer, tickets[id - 1], SIRA_LINK_MOVED) == SIRA_LINK_OK)
            CHECK_EQUAL(post_to(1, 0, id, NULL), SIRA_LINK_OK);
    for (uint64_t id = 3; id <= 5; id++) CHECK_EQUAL(take(1), id);
    CHECK_EQUAL(take(0) + take(1), 0);
    CHECK(counts_of(0).taken == 2 && counts_of(0).withdrawn[SIRA_LINK_MOVED] == 3 && counts_of(1).taken == 3);
    end();
}

static void bells_are_asked_for_only_by_who_sleeps(void)
{
    begin(16, 4, 1);
    CHECK_EQUAL(post_to(0, 0, 1, NULL), SIRA_LINK_OK);
    CHECK(!sira_link_calls_reader(&writer));
    CHECK(!sira_link_reader_sleeps(&reader)); /* something is there */
    CHECK_EQUAL(take(0), 1);
    CHECK(sira_link_reader_sleeps(&reader));
    CHECK_EQUAL(post_to(0, 0, 2, NULL), SIRA_LINK_OK);
    CHECK(sira_link_calls_reader(&writer));
    CHECK_EQUAL(post_to(0, 0, 3, NULL), SIRA_LINK_OK);
    CHECK(!sira_link_calls_reader(&writer)); /* one ring is enough */
    CHECK(!sira_link_writer_sleeps(&writer, 1)); /* the first came back */
    CHECK_EQUAL(sira_link_collect(&writer, false), SIRA_LINK_OK);
    CHECK(sira_link_writer_sleeps(&writer, 100)); /* only two are out: two is what it waits for */
    CHECK_EQUAL(take(0), 2);
    CHECK(!sira_link_calls_writer(&link_of));
    CHECK_EQUAL(take(0), 3);
    CHECK(sira_link_calls_writer(&link_of));
    CHECK(!sira_link_calls_writer(&link_of));
    end();
}

static uint32_t pieces_of(struct sira_link_piece *out)
{
    uint32_t count = 0;
    for (uint32_t h = 0; h < link_of.shape.holds; h++) count += sira_link_piece(&link_of, h, &out[count]);
    return count;
}

static void what_waits_and_what_the_reader_has_is_told_until_it_comes_back(void)
{
    begin(8, 4, 1);
    struct sira_link_piece pieces[4];
    CHECK_EQUAL(pieces_of(pieces), 0);
    CHECK_EQUAL(post_to(0, 0, 1, NULL), SIRA_LINK_OK); /* inline: no memory is out */
    CHECK_EQUAL(pieces_of(pieces), 0);
    CHECK_EQUAL(take(0), 1);
    const struct sira_post post = {.owner = memory, .chunk = 3, .segment = 9, .offset = 640, .bytes = 100, .now_ns = 77};
    struct sira_link_ticket ticket;
    CHECK_EQUAL(sira_link_post(&writer, &post, &ticket), SIRA_LINK_OK);
    CHECK_EQUAL(pieces_of(pieces), 1);
    CHECK(!pieces[0].is_taken);
    CHECK_EQUAL(pieces[0].segment, 9);
    CHECK_EQUAL(pieces[0].offset, 640);
    CHECK_EQUAL(pieces[0].bytes, 100);
    CHECK_EQUAL(pieces[0].since_ns, 77);
    const uint32_t hold = (uint32_t)take(0);
    CHECK_EQUAL(pieces_of(pieces), 1);
    CHECK(pieces[0].is_taken);
    for (uint64_t id = 2; id < 9; id++) { /* its slot has other messages meanwhile */
        CHECK_EQUAL(post_to(0, 0, id, NULL), SIRA_LINK_OK);
        CHECK_EQUAL(take(0), id);
    }
    CHECK_EQUAL(pieces_of(pieces), 1);
    CHECK(pieces[0].is_taken);
    sira_link_give_hold(&link_of, hold);
    CHECK_EQUAL(pieces_of(pieces), 0); /* before its writer has looked, which may be dead */
    const uint64_t bits = sira_word_swap(&link_of.holds[0], 0); /* or die just here */
    CHECK_EQUAL(pieces_of(pieces), 0);
    (void)sira_word_or(&link_of.holds[0], bits);
    CHECK_EQUAL(sira_link_collect(&writer, false), SIRA_LINK_OK);
    CHECK_EQUAL(pieces_of(pieces), 0);
    CHECK_EQUAL(released[3], 1);
    end();
}

static void what_was_withdrawn_or_has_expired_is_with_nobody(void)
{
    begin(8, 4, 1);
    struct sira_link_piece pieces[4];
    struct sira_post post = {.owner = memory, .chunk = 1, .bytes = 8};
    struct sira_link_ticket ticket;
    CHECK_EQUAL(sira_link_post(&writer, &post, &ticket), SIRA_LINK_OK);
    CHECK_EQUAL(sira_link_withdraw(&writer, ticket, SIRA_LINK_CANCELLED), SIRA_LINK_OK);
    CHECK_EQUAL(pieces_of(pieces), 0);
    post.deadline_ns = 1000; /* `take` takes at 1000 */
    CHECK_EQUAL(sira_link_post(&writer, &post, &ticket), SIRA_LINK_OK);
    CHECK_EQUAL(pieces_of(pieces), 1);
    CHECK_EQUAL(take(0), 0);
    CHECK_EQUAL(pieces_of(pieces), 0); /* its writer does not know yet */
    end();
}

static void what_the_reader_has_is_told_after_its_writer_has_closed(void)
{
    begin(8, 4, 1);
    struct sira_link_piece pieces[4];
    CHECK_EQUAL(post_chunk(0, 1, 8), SIRA_LINK_OK);
    CHECK_EQUAL(post_chunk(0, 2, 16), SIRA_LINK_OK);
    const uint32_t hold = (uint32_t)take(0);
    sira_link_writer_close(&writer);
    CHECK_EQUAL(pieces_of(pieces), 2);
    CHECK(pieces[0].is_taken && !pieces[1].is_taken);
    sira_link_give_hold(&link_of, hold);
    CHECK_EQUAL(pieces_of(pieces), 1);
    CHECK_EQUAL(pieces[0].bytes, 16);
    sira_link_reader_close(&reader);
}

static void words_about_what_is_out_may_be_any_bits(void)
{
    begin(8, 4, 1);
    struct sira_link_piece pieces[4];
    for (uint32_t round = 0; round < 64; round++) {
        memset(link_of.lent, (int)(round * 37 + 1), 4 * sizeof *link_of.lent);
        link_of.lent[round % 4].where = (uint64_t)9 << 32 | round % 12; /* some of them slots */
        (void)pieces_of(pieces);
    }
    end();
}

int main(void)
{
    a_link_of_the_usual_shape_fits_64_kib();
    memory_that_is_not_the_link_introduced_is_refused();
    messages_leave_by_priority_then_in_order();
    order_holds_though_slots_are_used_in_any_order();
    one_slot_in_eight_is_left_to_priority();
    a_window_holds_its_own_subscription_only();
    chunks_come_back_when_their_views_are_gone();
    bytes_that_are_untaken_are_one_limit_and_bytes_that_are_viewed_another();
    what_is_withdrawn_is_never_taken_and_is_counted_by_reason();
    a_late_message_is_passed_over_and_counted();
    one_message_is_taken_of_one_priority_and_no_later_one_in_its_place();
    what_is_passed_over_comes_back_untaken();
    latest_keeps_one_and_counts_the_rest();
    what_the_dead_left_is_given_to_another_of_the_group();
    bells_are_asked_for_only_by_who_sleeps();
    what_waits_and_what_the_reader_has_is_told_until_it_comes_back();
    what_was_withdrawn_or_has_expired_is_with_nobody();
    what_the_reader_has_is_told_after_its_writer_has_closed();
    words_about_what_is_out_may_be_any_bits();
    return 0;
}
