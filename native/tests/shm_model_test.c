/* The protocol of the link in every interleaving, with store buffers and with a death at every step; and that the
 * search finds what is wrong when the protocol is spoilt, one store, fence or comparison at a time. */
#include "build.h"
#include "shm_model.h"

/* ---- the ends, opened anew at each run of a script ---------------------------------------------------------- */
static void release(void *owner, uint32_t chunk)
{
    (void)owner;
    model_release(chunk);
}

static struct sira_link_writer *open_writer(uint32_t window)
{
    static struct sira_link_writer writer;
    free(writer.slots);
    free(writer.holds);
    free(writer.cells);
    const struct sira_link link = model_link();
    CHECK_EQUAL(sira_link_writer_open(&writer, &link, release), SIRA_LINK_OK);
    sira_link_writer_cell(&writer, 0, window, UINT64_MAX, 1000);
    return &writer;
}

static struct sira_link_reader *open_reader(void)
{
    static struct sira_link_reader reader;
    free(reader.slots);
    free(reader.cells);
    const struct sira_link link = model_link();
    CHECK_EQUAL(sira_link_reader_open(&reader, &link), SIRA_LINK_OK);
    return &reader;
}

static char owner[1];

/* Message `id` of `priority`, its chunk of the same number if it has one: two words that tell whether they are torn. */
static enum sira_link_status try_post(struct sira_link_writer *writer, uint64_t id, uint32_t priority, bool has_chunk,
                                      uint64_t deadline_ns, struct sira_link_ticket *newest)
{
    const uint64_t words[2] = {id, ~id};
    const struct sira_post post = {.inline_data = (const uint8_t *)words, .inline_bytes = sizeof words,
                                   .priority = (uint8_t)priority, .owner = has_chunk ? owner : NULL,
                                   .chunk = (uint32_t)id, .bytes = has_chunk ? 8 : 0, .deadline_ns = deadline_ns};
    struct sira_link_ticket ticket;
    const enum sira_link_status status = newest ? sira_link_supersede(writer, &post, newest)
                                                : sira_link_post(writer, &post, &ticket);
    if (status == SIRA_LINK_CORRUPT) model_wrong("an honest reader's link is called corrupt");
    if (status == SIRA_LINK_OK && sira_link_calls_reader(writer)) model_ring(READER);
    return status;
}

/* What a writer does when its reader has died: all comes back or is lost by name. */
static void bury_reader(struct sira_link_writer *writer)
{
    if (sira_link_collect(writer, model_mutation != DEAD_NOT_SCANNED)) model_wrong("a dead reader's link is corrupt");
    if (model_mutation != DEAD_NOT_SCANNED) sira_link_withdraw_all(writer, SIRA_LINK_NONE, SIRA_LINK_PEER_LOST);
    if (writer->free_count != writer->link.shape.slots) model_wrong("a slot did not come back from the dead");
    sira_link_writer_close(writer);
}

/* Post, waiting for room as long as it takes. false: the reader is dead. */
static bool post_waiting(struct sira_link_writer *writer, uint64_t id, bool has_chunk)
{
    while (try_post(writer, id, 0, has_chunk, 0, NULL)) {
        if (model_peer_is_dead(WRITER)) return false;
        if (sira_link_writer_sleeps(writer, 1)) {
            model_wait(WRITER);
            sira_link_writer_wakes(writer);
        }
    }
    return true;
}

/* ---- the reader: takes all there is, for ever ---------------------------------------------------------------- */
struct got {
    uint64_t last[SIRA_LINK_PRIORITIES];
    uint64_t now_ns;
    bool is_once; /* ids only grow: none twice, none in disorder */
};

static void drain(struct sira_link_reader *reader, struct got *got)
{
    struct sira_taken taken;
    enum sira_link_status status;
    while ((status = sira_link_take(reader, 0, got->now_ns, &taken)) == SIRA_LINK_OK) {
        uint64_t words[2];
        memcpy(words, taken.inline_data, sizeof words);
        if (taken.inline_bytes != sizeof words || words[1] != ~words[0]) model_wrong("a torn message was taken");
        if (words[0] <= got->last[taken.priority]) model_wrong("a message was taken twice or out of order");
        got->last[taken.priority] = words[0];
        if (taken.hold != SIRA_LINK_NONE) {
            model_view((uint32_t)words[0], true);
            model_view((uint32_t)words[0], false);
            if (sira_link_give_hold(&reader->link, taken.hold)) model_ring(WRITER);
        }
        if (sira_link_calls_writer(&reader->link)) model_ring(WRITER);
    }
    if (status == SIRA_LINK_CORRUPT) model_wrong("an honest writer's link is called corrupt");
    if (sira_link_calls_writer(&reader->link)) model_ring(WRITER);
}

static void read_until_nothing_comes(uint64_t now_ns)
{
    struct sira_link_reader *reader = open_reader();
    struct got got = {.now_ns = now_ns};
    for (;;) {
        const bool is_last = model_peer_is_dead(READER);
        model_looks();
        if (sira_link_look(reader, is_last && model_mutation != DEAD_NOT_SCANNED))
            model_wrong("an honest writer's link is called corrupt");
        drain(reader, &got);
        if (is_last) return;
        if (sira_link_reader_sleeps(reader)) model_wait(READER);
    }
}

static void reads(void)
{
    read_until_nothing_comes(1);
}

/* ---- the writers --------------------------------------------------------------------------------------------- */
static void posts_two(void)
{
    struct sira_link_writer *writer = open_writer(9);
    try_post(writer, 1, 0, false, 0, NULL);
    try_post(writer, 2, 0, false, 0, NULL);
}

/* Withdraws the first and uses its slot again, twice. */
static void withdraws_and_posts(void)
{
    struct sira_link_writer *writer = open_writer(9);
    const uint64_t words[2] = {1, ~UINT64_C(1)};
    const struct sira_post post = {.inline_data = (const uint8_t *)words, .inline_bytes = sizeof words};
    struct sira_link_ticket ticket;
    sira_link_post(writer, &post, &ticket);
    if (sira_link_calls_reader(writer)) model_ring(READER);
    const enum sira_link_status status = sira_link_withdraw(writer, ticket, SIRA_LINK_CANCELLED);
    if (status != SIRA_LINK_OK && status != SIRA_LINK_GONE) model_wrong("an honest reader's link is called corrupt");
    try_post(writer, 2, 0, false, 0, NULL);
}

/* The first message goes into the second word of bits, the second into the first. */
static void posts_against_the_words(void)
{
    struct sira_link_writer *writer = open_writer(9);
    writer->free_bits[0] = 0; /* as if 64 messages had been out, and those of word 0 came back between */
    try_post(writer, 1, 0, false, 0, NULL);
    writer->free_bits[0] = 1;
    try_post(writer, 2, 0, false, 0, NULL);
}

static void posts_waiting(uint32_t window, uint64_t count, bool has_chunk)
{
    struct sira_link_writer *writer = open_writer(window);
    for (uint64_t id = 1; id <= count; id++)
        if (!post_waiting(writer, id, has_chunk)) {
            bury_reader(writer);
            return;
        }
}

static void waits_for_slots(void)
{
    posts_waiting(9, 3, false);
}

static void waits_for_credit(void)
{
    posts_waiting(1, 2, false);
}

static void waits_for_holds(void)
{
    posts_waiting(9, 2, true);
}

static void expires(void)
{
    struct sira_link_writer *writer = open_writer(1);
    try_post(writer, 1, 0, true, 1, NULL);
    if (!post_waiting(writer, 2, false)) bury_reader(writer);
}

static void supersede(uint64_t count)
{
    struct sira_link_writer *writer = open_writer(2);
    struct sira_link_ticket newest = {0};
    for (uint64_t id = 1; id <= count; id++)
        if (try_post(writer, id, 0, false, 0, &newest)) model_wrong("no room for the newest");
}

static void supersedes(void)
{
    supersede(3);
}

static void supersedes_once(void)
{
    supersede(2);
}

static void posts_and_waits_for_the_end(void)
{
    struct sira_link_writer *writer = open_writer(9);
    try_post(writer, 1, 0, true, 0, NULL);
    try_post(writer, 2, 1, false, 0, NULL);
    model_wait(WRITER);
    if (model_peer_is_dead(WRITER)) bury_reader(writer);
}

static const struct scenario SCENARIOS[] = {
    {"two posts, asleep or not", {2, 1, 1}, {posts_two, reads}, {false, false}, false},
    {"two posts, the writer dies", {2, 1, 1}, {posts_two, reads}, {true, false}, false},
    {"withdraw against take, the slot used again", {2, 1, 1}, {withdraws_and_posts, reads}, {false, false}, false},
    {"the same, the writer dies", {2, 1, 1}, {withdraws_and_posts, reads}, {true, false}, false},
    {"two words of bits", {65, 1, 1}, {posts_against_the_words, reads}, {false, false}, false},
    {"waiting for slots", {2, 1, 1}, {waits_for_slots, reads}, {false, false}, false},
    {"waiting for credit, either dies", {2, 1, 1}, {waits_for_credit, reads}, {true, true}, false},
    {"waiting for holds", {3, 1, 1}, {waits_for_holds, reads}, {false, false}, false},
    {"waiting for holds, either dies", {3, 1, 1}, {waits_for_holds, reads}, {true, true}, false},
    {"passed over as expired, either dies", {3, 1, 1}, {expires, reads}, {true, true}, false},
    {"latest: superseded twice, its slots used again", {3, 1, 1}, {supersedes, reads}, {false, false}, false},
    {"latest: superseded, the writer dies", {3, 1, 1}, {supersedes_once, reads}, {true, false}, false},
    {"the reader dies with a chunk", {2, 1, 1}, {posts_and_waits_for_the_end, reads}, {false, true}, true},
};
enum { SCENARIO_COUNT = sizeof SCENARIOS / sizeof *SCENARIOS };

static void the_protocol_holds_in_every_interleaving(void)
{
    model_mutation = NONE;
    for (int i = 0; i < SCENARIO_COUNT; i++) {
        const char *wrong;
        const uint64_t states = model_explore(&SCENARIOS[i], &wrong);
        printf("%s: %llu states%s%s\n", SCENARIOS[i].name, (unsigned long long)states, wrong ? ": " : "",
               wrong ? wrong : "");
        fflush(stdout);
        CHECK(!wrong);
        CHECK(states > 500); /* it did search */
    }
}

static const char *const MUTATION_NAMES[MUTATIONS] = {
    [READER_FLAG_NOT_FENCED] = "no fence behind r_sleeps", [POSTED_BIT_NOT_FENCED] = "no fence behind a posted bit",
    [WRITER_FLAG_NOT_FENCED] = "no fence behind w_wants", [RETURNED_BIT_NOT_FENCED] = "no fence behind a returned bit",
    [NUMBER_NOT_COMPARED] = "compare-and-swap without the number", [WRITING_NOT_STORED] = "no WRITING before a rewrite",
    [POSTED_AFTER_NOT_STORED] = "no posted_after", [WITHDRAWN_AFTER_NOT_STORED] = "no withdrawn_after",
    [POSTED_NOT_STORED] = "no count of posts", [WITHDRAWN_NOT_STORED] = "no count of withdrawals",
    [POSTED_BIT_NOT_SET] = "no posted bit", [RETURNED_BIT_NOT_SET] = "no returned bit",
    [HOLD_BIT_NOT_SET] = "no hold bit", [COMMITTED_BEFORE_WRITTEN] = "POSTED before the message is written",
    [COUNTED_BEFORE_COMMITTED] = "counted before POSTED", [NO_SECOND_LOOK] = "no second look at the bits",
    [DEAD_NOT_SCANNED] = "slots of the dead looked at only where bits say",
};

static void every_store_fence_and_comparison_is_needed(void)
{
    for (int m = NONE + 1; m < MUTATIONS; m++) {
        model_mutation = (enum mutation)m;
        const char *wrong = NULL;
        int i = 0;
        for (; i < SCENARIO_COUNT && !wrong; i++) model_explore(&SCENARIOS[i], &wrong);
        printf("%s: %s: %s\n", MUTATION_NAMES[m], wrong ? SCENARIOS[i - 1].name : "all", wrong ? wrong : "NOT FOUND");
        fflush(stdout);
        CHECK(wrong);
    }
    model_mutation = NONE;
}

int main(void)
{
    the_protocol_holds_in_every_interleaving();
    every_store_fence_and_comparison_is_needed();
    return 0;
}
