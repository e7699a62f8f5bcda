/* The memory of a link: sizes, head, counts. What both ends and the node share. */
#include "shm_link.h"

#include "fault.h"

#include <assert.h>

#if defined(SIRA_FAULTS)
void (*sira_fault_hook)(const char *name);
#endif

static const uint64_t MAGIC = 0x6b6e696c61726973; /* "siralink" */
enum { VERSION = 2, PAGE_BYTES = 4096, LINE_BYTES = 64 };

struct head {
    uint64_t magic, version, generation;
    struct sira_link_shape shape;
    uint32_t unused;
    uint64_t spare[3];
};
_Static_assert(sizeof(struct head) == LINE_BYTES, "the head is one line");

const char *sira_link_status_text(enum sira_link_status status)
{
    static const char *const TEXTS[SIRA_LINK_STATUS_COUNT] = {
        [SIRA_LINK_OK] = "no error",
        [SIRA_LINK_EMPTY] = "nothing to take",
        [SIRA_LINK_NO_SLOT] = "every slot is used",
        [SIRA_LINK_NO_CREDIT] = "the window of the subscription is used up",
        [SIRA_LINK_NO_HOLD] = "the reader holds as many messages as the link has holds",
        [SIRA_LINK_HELD_BYTES] = "the reader holds as many bytes as the subscription may",
        [SIRA_LINK_GONE] = "the reader took it first",
        [SIRA_LINK_NO_MEMORY] = "no memory",
        [SIRA_LINK_BAD_SHAPE] = "slots, holds or cells out of limits",
        [SIRA_LINK_CORRUPT] = "shared words that no honest peer writes",
    };
    assert((unsigned)status < SIRA_LINK_STATUS_COUNT);
    return TEXTS[status];
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* Whole lines for a bit each. */
static size_t bits_bytes(uint32_t bits)
{
    return round_up(sira_link_words(bits) * 8, LINE_BYTES);
}

/* Offsets of the parts: head, W line, R line, posted, returned, holds, cells, lent, slots. */
static size_t posted_at(void)
{
    return 3 * LINE_BYTES;
}

static size_t holds_at(const struct sira_link_shape *shape)
{
    return posted_at() + 2 * bits_bytes(shape->slots);
}

static size_t cells_at(const struct sira_link_shape *shape)
{
    return holds_at(shape) + bits_bytes(shape->holds);
}

static size_t lent_at(const struct sira_link_shape *shape)
{
    return cells_at(shape) + shape->cells * sizeof(struct sira_link_cell);
}

/* At a multiple of a slot's size, so that none lies over two pages. */
static size_t slots_at(const struct sira_link_shape *shape)
{
    return round_up(lent_at(shape) + shape->holds * sizeof(struct sira_link_lent), SIRA_LINK_SLOT_BYTES);
}

size_t sira_link_bytes(const struct sira_link_shape *shape)
{
    if (shape->slots < 2 || shape->slots > SIRA_LINK_SLOTS_MAX) return 0;
    if (shape->holds < 1 || shape->holds > SIRA_LINK_HOLDS_MAX) return 0;
    if (shape->cells < 1 || shape->cells > SIRA_LINK_CELLS_MAX) return 0;
    return round_up(slots_at(shape) + shape->slots * sizeof(struct sira_link_slot), PAGE_BYTES);
}

void sira_link_format(void *memory, const struct sira_link_shape *shape, uint64_t generation)
{
    assert(sira_link_bytes(shape) != 0);
    const struct head head = {.magic = MAGIC, .version = VERSION, .generation = generation, .shape = *shape};
    SIRA_FAULT_POINT("link.made");
    memcpy(memory, &head, sizeof head);
    SIRA_FAULT_POINT("link.formatted");
}

enum sira_link_status sira_link_open(void *memory, size_t bytes, const struct sira_link_shape *shape,
                                     uint64_t generation, struct sira_link *out)
{
    const size_t wanted = sira_link_bytes(shape);
    if (wanted == 0) return SIRA_LINK_BAD_SHAPE;
    if (bytes != wanted) return SIRA_LINK_CORRUPT;
    struct head head;
    memcpy(&head, memory, sizeof head); /* once: it may change under us */
    if (head.magic != MAGIC || head.version != VERSION || head.generation != generation
        || memcmp(&head.shape, shape, sizeof head.shape) != 0)
        return SIRA_LINK_CORRUPT;
    uint8_t *at = memory;
    *out = (struct sira_link){
        .shape = *shape,
        .w_wants = (uint64_t *)(at + 1 * LINE_BYTES),
        .r_sleeps = (uint64_t *)(at + 2 * LINE_BYTES),
        .posted = (uint64_t *)(at + posted_at()),
        .returned = (uint64_t *)(at + posted_at() + bits_bytes(shape->slots)),
        .holds = (uint64_t *)(at + holds_at(shape)),
        .cells = (struct sira_link_cell *)(at + cells_at(shape)),
        .lent = (struct sira_link_lent *)(at + lent_at(shape)),
        .slots = (struct sira_link_slot *)(at + slots_at(shape)),
    };
    return SIRA_LINK_OK;
}

/* ---- counts ---------------------------------------------------------------------------------------------- */
/* The step that a slot tells of and its cell does not yet: at most one of each kind a cell, as a writer takes one step
 * at a time. `after` is the count when the step is done. */
static void finish(uint64_t *count, uint64_t after)
{
    if (after == *count + 1) *count = after;
}

static enum sira_link_status count_slot(const struct sira_link *link, const struct sira_link_slot *slot,
                                        struct sira_link_counts *out)
{
    const uint64_t state = sira_word_load(&slot->state);
    const enum sira_slot_kind kind = sira_slot_kind(state);
    if (kind == SIRA_SLOT_WRITING) return SIRA_LINK_OK;
    if (kind > SIRA_SLOT_WITHDRAWN) return SIRA_LINK_CORRUPT;
    const uint64_t cell = sira_word_load(&slot->place.kind) >> 32;
    if (cell >= link->shape.cells) return SIRA_LINK_CORRUPT;
    struct sira_link_counts *counts = &out[cell];
    finish(&counts->posted, sira_word_load(&slot->posted_after));
    if (kind == SIRA_SLOT_POSTED) counts->pending++;
    if (kind == SIRA_SLOT_EXPIRED) counts->taken++; /* for now: how many the reader passed over, told apart below */
    if (kind == SIRA_SLOT_WITHDRAWN) {
        const uint64_t after = sira_word_load(&slot->withdrawn_after);
        const uint64_t reason = after >> SIRA_COUNT_BITS;
        if (reason >= SIRA_LINK_REASONS) return SIRA_LINK_CORRUPT;
        finish(&counts->withdrawn[reason], after & ((UINT64_C(1) << SIRA_COUNT_BITS) - 1));
    }
    return SIRA_LINK_OK;
}

enum sira_link_status sira_link_counts(const struct sira_link *link, struct sira_link_counts *out)
{
    enum sira_link_status status = SIRA_LINK_OK;
    for (uint32_t c = 0; c < link->shape.cells; c++) {
        out[c] = (struct sira_link_counts){.posted = sira_word_load(&link->cells[c].posted)};
        for (uint32_t r = 0; r < SIRA_LINK_REASONS; r++)
            out[c].withdrawn[r] = sira_word_load(&link->cells[c].withdrawn[r]);
    }
    SIRA_FAULT_POINT("counts.begun");
    for (uint32_t s = 0; s < link->shape.slots; s++)
        if (count_slot(link, &link->slots[s], out)) status = SIRA_LINK_CORRUPT;
    for (uint32_t c = 0; c < link->shape.cells; c++) {
        struct sira_link_counts *counts = &out[c];
        bool over = __builtin_add_overflow(counts->withdrawn[SIRA_LINK_EXPIRED], counts->taken,
                                           &counts->withdrawn[SIRA_LINK_EXPIRED]);
        uint64_t left = counts->posted;
        over |= __builtin_sub_overflow(left, counts->pending, &left);
        for (uint32_t r = 0; r < SIRA_LINK_REASONS; r++)
            over |= __builtin_sub_overflow(left, counts->withdrawn[r], &left);
        counts->taken = left;
        if (!over) continue;
        counts->taken = counts->pending = 0;
        status = SIRA_LINK_CORRUPT;
    }
    return status;
}

/* ---- who has what ---------------------------------------------------------------------------------------- */
bool sira_link_piece(const struct sira_link *link, uint32_t hold, struct sira_link_piece *out)
{
    assert(hold < link->shape.holds);
    const struct sira_link_lent *lent = &link->lent[hold];
    const uint64_t number = sira_word_load(&lent->number);
    if (!number) return false;
    uint64_t words[SIRA_LINK_LENT_WORDS];
    sira_words_out(words, &lent->where, SIRA_LINK_LENT_WORDS);
    const uint32_t slot = (uint32_t)words[0];
    if (slot >= link->shape.slots) return false;
    if (sira_word_load(&lent->given) == number) return false; /* given back, and perhaps not collected */
    const uint64_t state = sira_word_load(&link->slots[slot].state), at = state >> SIRA_SLOT_KIND_BITS;
    const enum sira_slot_kind kind = sira_slot_kind(state);
    /* A slot that has a later message was taken: had it been withdrawn, the hold would be free. */
    const bool is_taken = at > number || (at == number && kind == SIRA_SLOT_TAKEN);
    if (!is_taken && !(at == number && kind == SIRA_SLOT_POSTED)) return false;
    if (sira_word_load(&lent->number) != number) return false; /* what we read may be of two lives */
    *out = (struct sira_link_piece){.segment = (uint32_t)(words[0] >> 32), .offset = words[1], .bytes = words[2],
                                    .since_ns = words[3], .is_taken = is_taken};
    return true;
}
