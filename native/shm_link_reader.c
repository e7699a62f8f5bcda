/* The reading end of a link: the subscriber. The protocol stands in shm_link.h. */
#include "shm_link.h"

#include "fault.h"

#include <assert.h>
#include <stdlib.h>

enum { NOWHERE = UINT16_MAX };

/* ---- life -------------------------------------------------------------------------------------------------- */
enum sira_link_status sira_link_reader_open(struct sira_link_reader *reader, const struct sira_link *link)
{
    *reader = (struct sira_link_reader){.link = *link};
    reader->slots = calloc(link->shape.slots, sizeof *reader->slots);
    reader->cells = calloc(link->shape.cells, sizeof *reader->cells);
    if (!reader->slots || !reader->cells) {
        sira_link_reader_close(reader);
        return SIRA_LINK_NO_MEMORY;
    }
    return SIRA_LINK_OK;
}

void sira_link_reader_close(struct sira_link_reader *reader)
{
    free(reader->slots);
    free(reader->cells);
    reader->slots = NULL;
    reader->cells = NULL;
    reader->corrupt = true;
}

static enum sira_link_status corrupt(struct sira_link_reader *reader)
{
    reader->corrupt = true;
    return SIRA_LINK_CORRUPT;
}

/* ---- private queues: a doubly linked list for each cell and priority, in the order of numbers -------------- */
static void unqueue(struct sira_link_reader *reader, uint32_t slot)
{
    struct sira_reader_slot *node = &reader->slots[slot];
    struct sira_reader_cell *cell = &reader->cells[node->cell];
    struct sira_reader_queue *queue = &cell->queues[node->priority];
    const bool is_first = queue->first == slot, is_last = queue->last == slot;
    if (is_first) queue->first = node->next;
    else reader->slots[node->previous].next = node->next;
    if (is_last) queue->last = node->previous;
    else reader->slots[node->next].previous = node->previous;
    cell->counts[node->priority]--;
    if (is_first && is_last) {
        cell->mask &= (uint8_t)~(1u << node->priority);
        if (!cell->mask) reader->ready[node->cell / 64] &= ~(UINT64_C(1) << node->cell % 64);
    }
    node->number = 0;
    reader->queued--;
}

static void enqueue(struct sira_link_reader *reader, uint32_t slot, uint64_t number, uint32_t cell_index,
                    uint32_t priority)
{
    struct sira_reader_cell *cell = &reader->cells[cell_index];
    struct sira_reader_queue *queue = &cell->queues[priority];
    struct sira_reader_slot *node = &reader->slots[slot];
    const bool is_empty = !(cell->mask & 1u << priority);
    uint16_t after = is_empty ? NOWHERE : queue->last, before = NOWHERE;
    while (after != NOWHERE && reader->slots[after].number > number) { /* batches come nearly in order */
        before = after;
        after = after == queue->first ? NOWHERE : reader->slots[after].previous;
    }
    *node = (struct sira_reader_slot){.number = number, .cell = (uint16_t)cell_index, .priority = (uint8_t)priority,
                                      .previous = after, .next = before};
    if (after == NOWHERE) queue->first = (uint16_t)slot;
    else reader->slots[after].next = (uint16_t)slot;
    if (before == NOWHERE) queue->last = (uint16_t)slot;
    else reader->slots[before].previous = (uint16_t)slot;
    cell->mask |= (uint8_t)(1u << priority);
    cell->counts[priority]++;
    reader->ready[cell_index / 64] |= UINT64_C(1) << cell_index % 64;
    reader->fresh[cell_index / 64] |= UINT64_C(1) << cell_index % 64;
    reader->queued++;
}

/* ---- looking ----------------------------------------------------------------------------------------------- */
/* Queue what lies in `slot` unless it is newer than `newest`; *number gets its number, 0 if nothing waits there. */
static enum sira_link_status look_at(struct sira_link_reader *reader, uint32_t slot, uint64_t newest, uint64_t *number)
{
    struct sira_link_slot *shared = &reader->link.slots[slot];
    const uint64_t state = sira_word_load(&shared->state);
    *number = state >> SIRA_SLOT_KIND_BITS;
    struct sira_reader_slot *node = &reader->slots[slot];
    if (sira_slot_kind(state) != SIRA_SLOT_POSTED || *number == 0) {
        *number = 0; /* withdrawn, or being written again: its bit will come */
        return SIRA_LINK_OK;
    }
    if (*number > newest || *number == node->number) return SIRA_LINK_OK;
    /* Should the writer be at it again: it always writes what is valid, and the take will not find this number. */
    const uint64_t kind = sira_word_load(&shared->place.kind);
    const uint64_t cell = kind >> 32, priority = kind >> 24 & 0xff;
    if (cell >= reader->link.shape.cells || priority >= SIRA_LINK_PRIORITIES) return corrupt(reader);
    if (node->number) unqueue(reader, slot);
    enqueue(reader, slot, *number, (uint32_t)cell, (uint32_t)priority);
    return SIRA_LINK_OK;
}

/* Look at each slot of `bits` of word `w`. Numbers up to `newest` are queued, later ones kept in `early`.
 * *seen: the latest number met. */
static enum sira_link_status look_at_bits(struct sira_link_reader *reader, uint32_t w, uint64_t bits, uint64_t newest,
                                          uint64_t *seen)
{
    for (; bits; bits &= bits - 1) {
        const uint32_t slot = w * 64 + (uint32_t)__builtin_ctzll(bits);
        if (slot >= reader->link.shape.slots) return corrupt(reader);
        uint64_t number;
        if (look_at(reader, slot, newest, &number)) return SIRA_LINK_CORRUPT;
        if (number > newest) reader->early[w] |= bits & -bits;
        if (number > *seen) *seen = number;
    }
    return SIRA_LINK_OK;
}

static uint64_t take_bits(uint64_t *word)
{
    return sira_word_load(word) ? sira_word_swap(word, 0) : 0;
}

enum sira_link_status sira_link_look(struct sira_link_reader *reader, bool all)
{
    if (reader->corrupt) return SIRA_LINK_CORRUPT;
    const uint32_t words = sira_link_words(reader->link.shape.slots);
    uint64_t newest = 0;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t bits = reader->early[w] | take_bits(&reader->link.posted[w]);
        reader->early[w] = 0;
        if (all) {
            const uint32_t left = reader->link.shape.slots - w * 64;
            bits = left >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        }
        if (bits) SIRA_FAULT_POINT("look.taken");
        if (bits && look_at_bits(reader, w, bits, UINT64_MAX, &newest)) return SIRA_LINK_CORRUPT;
    }
    /* A post may have set its bit in a word behind us and the next post its bit in one before us; or a slot that we
     * were told of was withdrawn meanwhile and now holds a later message than one that we were not told of yet. All
     * that came before the newest seen had their bits set before it was posted: so they are there to be found now. */
    for (uint32_t w = 0; newest && w < words; w++) {
        const uint64_t bits = take_bits(&reader->link.posted[w]);
        uint64_t later = 0;
        if (bits && look_at_bits(reader, w, bits, newest, &later)) return SIRA_LINK_CORRUPT;
    }
    return SIRA_LINK_OK;
}

/* ---- taking ------------------------------------------------------------------------------------------------ */
int sira_link_peek(const struct sira_link_reader *reader, uint32_t cell)
{
    assert(cell < reader->link.shape.cells);
    const uint8_t mask = reader->corrupt ? 0 : reader->cells[cell].mask;
    return mask ? 31 - __builtin_clz(mask) : -1;
}

/* The copied words as they claim to be; false: no honest writer wrote them. */
static bool read_place(const uint64_t place[SIRA_LINK_PLACE_WORDS], const struct sira_link_shape *shape,
                       struct sira_taken *out)
{
    out->cell = (uint32_t)(place[0] >> 32);
    out->priority = (uint8_t)(place[0] >> 24);
    out->flags = (uint8_t)(place[0] >> 16);
    out->inline_bytes = (uint16_t)place[0];
    out->segment = (uint32_t)(place[1] >> 32);
    out->hold = (uint32_t)place[1];
    out->deadline_ns = place[2];
    out->offset = place[3];
    out->bytes = place[4];
    return out->inline_bytes <= SIRA_LINK_INLINE_BYTES_MAX && (out->hold < shape->holds || out->hold == SIRA_LINK_NONE);
}

/* As sira_link_take_oldest; `unwanted`: whatever its deadline, it has expired. */
static enum sira_link_status take_oldest(struct sira_link_reader *reader, uint32_t cell, uint32_t priority,
                                         uint64_t now_ns, bool unwanted, struct sira_taken *out)
{
    if (reader->corrupt) return SIRA_LINK_CORRUPT;
    if (!(reader->cells[cell].mask & 1u << priority)) return SIRA_LINK_EMPTY;
    const uint32_t slot = reader->cells[cell].queues[priority].first;
    const uint64_t number = reader->slots[slot].number;
    struct sira_link_slot *shared = &reader->link.slots[slot];
    unqueue(reader, slot);
    const uint64_t posted = sira_slot_state(number, SIRA_SLOT_POSTED);
    if (sira_word_load(&shared->state) != posted) return SIRA_LINK_GONE; /* withdrawn */
    uint64_t place[SIRA_LINK_PLACE_WORDS];
    sira_words_out(place, &shared->place.kind, SIRA_LINK_PLACE_WORDS);
    const bool is_sane = read_place(place, &reader->link.shape, out);
    if (is_sane && out->inline_bytes) sira_bytes_out(out->inline_data, shared->inline_data, out->inline_bytes);
    const bool expired = unwanted || (out->deadline_ns && out->deadline_ns <= now_ns);
    SIRA_FAULT_POINT("take.copied");
    if (!sira_word_cas(&shared->state, posted, sira_slot_state(number, expired ? SIRA_SLOT_EXPIRED : SIRA_SLOT_TAKEN)))
        return SIRA_LINK_GONE; /* withdrawn while we copied: what we have may be torn */
    SIRA_FAULT_POINT("take.committed");
    sira_word_or(&reader->link.returned[slot / 64], UINT64_C(1) << slot % 64);
    SIRA_FAULT_POINT("take.told");
    if (!is_sane || out->cell != cell || out->priority != priority) return corrupt(reader);
    if (expired) return SIRA_LINK_GONE;
    out->number = number;
    return SIRA_LINK_OK;
}

enum sira_link_status sira_link_take_oldest(struct sira_link_reader *reader, uint32_t cell, uint32_t priority,
                                            uint64_t now_ns, struct sira_taken *out)
{
    return take_oldest(reader, cell, priority, now_ns, false, out);
}

enum sira_link_status sira_link_pass_over(struct sira_link_reader *reader, uint32_t cell)
{
    struct sira_taken taken;
    int priority;
    while ((priority = sira_link_peek(reader, cell)) >= 0)
        (void)take_oldest(reader, cell, (uint32_t)priority, 0, true, &taken);
    return reader->corrupt ? SIRA_LINK_CORRUPT : SIRA_LINK_OK;
}

enum sira_link_status sira_link_take(struct sira_link_reader *reader, uint32_t cell, uint64_t now_ns,
                                     struct sira_taken *out)
{
    int priority;
    while ((priority = sira_link_peek(reader, cell)) >= 0) {
        const enum sira_link_status status = take_oldest(reader, cell, (uint32_t)priority, now_ns, false, out);
        if (status != SIRA_LINK_GONE) return status;
    }
    return reader->corrupt ? SIRA_LINK_CORRUPT : SIRA_LINK_EMPTY;
}

bool sira_link_give_hold(const struct sira_link *link, uint32_t hold)
{
    assert(hold < link->shape.holds);
    SIRA_FAULT_POINT("hold.viewed");
    struct sira_link_lent *lent = &link->lent[hold];
    sira_word_store(&lent->given, sira_word_load(&lent->number)); /* any bits at all from a writer that is not honest */
    sira_word_or(&link->holds[hold / 64], UINT64_C(1) << hold % 64);
    SIRA_FAULT_POINT("hold.told");
    return sira_link_calls_writer(link);
}

/* ---- sleeping ---------------------------------------------------------------------------------------------- */
static uint32_t count_bits(const uint64_t *words, uint32_t count)
{
    uint32_t bits = 0;
    for (uint32_t w = 0; w < count; w++) bits += (uint32_t)__builtin_popcountll(sira_word_load(&words[w]));
    return bits;
}

uint32_t sira_link_back_count(const struct sira_link *link)
{
    return count_bits(link->returned, sira_link_words(link->shape.slots))
           + count_bits(link->holds, sira_link_words(link->shape.holds));
}

bool sira_link_calls_writer(const struct sira_link *link)
{
    /* The or of the last take or hold came before: either we see what is wanted, or the writer sees the bit. */
    const uint64_t wants = sira_word_load(link->w_wants);
    if (wants == 0 || sira_link_back_count(link) < wants) return false;
    if (!sira_word_swap(link->w_wants, 0)) return false;
    SIRA_FAULT_POINT("writer.woken"); /* it is owed a ring */
    return true;
}

bool sira_link_stirs(const struct sira_link_reader *reader)
{
    for (uint32_t w = 0; w < sira_link_words(reader->link.shape.slots); w++)
        if (reader->early[w] || sira_word_load(&reader->link.posted[w])) return true;
    return false;
}

bool sira_link_reader_sleeps(struct sira_link_reader *reader)
{
    sira_word_swap(reader->link.r_sleeps, 1);
    SIRA_FAULT_POINT("reader.armed");
    if (!sira_link_stirs(reader)) return true;
    sira_word_store(reader->link.r_sleeps, 0);
    return false;
}
