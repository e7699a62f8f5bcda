/* The writing end of a link: the publisher. The protocol stands in shm_link.h. */
#include "shm_link.h"

#include "fault.h"

#include <assert.h>
#include <stdlib.h>

static const uint64_t COUNT_MASK = (UINT64_C(1) << SIRA_COUNT_BITS) - 1;

/* ---- life -------------------------------------------------------------------------------------------------- */
enum sira_link_status sira_link_writer_open(struct sira_link_writer *writer, const struct sira_link *link,
                                            sira_link_release *release)
{
    *writer = (struct sira_link_writer){.link = *link, .release = release, .hold_free = SIRA_LINK_NONE};
    writer->slots = calloc(link->shape.slots, sizeof *writer->slots);
    writer->holds = calloc(link->shape.holds, sizeof *writer->holds);
    writer->cells = calloc(link->shape.cells, sizeof *writer->cells);
    if (!writer->slots || !writer->holds || !writer->cells) {
        sira_link_writer_close(writer);
        return SIRA_LINK_NO_MEMORY;
    }
    for (uint32_t i = 0; i < link->shape.slots; i++) writer->free_bits[i / 64] |= UINT64_C(1) << i % 64;
    writer->free_count = link->shape.slots;
    writer->reserve = link->shape.slots / SIRA_LINK_RESERVE;
    return SIRA_LINK_OK;
}

static void give_back(struct sira_link_writer *writer, uint32_t hold)
{
    struct sira_writer_hold *entry = &writer->holds[hold];
    void *owner = entry->owner;
    assert(owner);
    writer->cells[entry->cell].held_bytes -= entry->bytes;
    entry->owner = NULL;
    entry->next = writer->hold_free;
    writer->hold_free = hold;
    writer->hold_count--;
    writer->release(owner, entry->chunk);
}

static void free_hold(struct sira_link_writer *writer, uint32_t hold)
{
    sira_word_store(&writer->link.lent[hold].number, 0);
    give_back(writer, hold);
}

void sira_link_writer_close(struct sira_link_writer *writer)
{
    for (uint32_t i = 0; writer->holds && i < writer->holds_made; i++)
        if (writer->holds[i].owner) give_back(writer, i);
    free(writer->slots);
    free(writer->holds);
    free(writer->cells);
    writer->slots = NULL;
    writer->holds = NULL;
    writer->cells = NULL;
    writer->corrupt = true; /* a late call finds an ended link */
}

void sira_link_writer_cell(struct sira_link_writer *writer, uint32_t cell, uint32_t window, uint64_t window_bytes,
                           uint64_t held_bytes_max)
{
    assert(cell < writer->link.shape.cells);
    writer->cells[cell].window = window;
    writer->cells[cell].window_bytes = window_bytes;
    writer->cells[cell].held_bytes_max = held_bytes_max;
}

static enum sira_link_status corrupt(struct sira_link_writer *writer)
{
    writer->corrupt = true;
    return SIRA_LINK_CORRUPT;
}

/* ---- what comes back ------------------------------------------------------------------------------------- */
static void free_slot(struct sira_link_writer *writer, uint32_t slot)
{
    struct sira_writer_slot *entry = &writer->slots[slot];
    struct sira_writer_cell *cell = &writer->cells[entry->cell];
    cell->outstanding--;
    /* A hold ends with its slot or behind it, so this is still of the same chunk. */
    if (entry->hold != SIRA_LINK_NONE) cell->outstanding_bytes -= writer->holds[entry->hold].bytes;
    entry->number = 0;
    writer->free_bits[slot / 64] |= UINT64_C(1) << slot % 64;
    writer->free_count++;
}

/* Store that a withdrawal of `slot` is done. Its state says so already. */
static void count_withdrawn(struct sira_link_writer *writer, uint32_t cell, uint64_t reason, uint64_t after)
{
    writer->cells[cell].counts.withdrawn[reason] = after;
    sira_word_store(&writer->link.cells[cell].withdrawn[reason], after);
    SIRA_FAULT_POINT("withdraw.counted");
}

/* The slot is out: see whether the reader is through with it. */
static enum sira_link_status settle(struct sira_link_writer *writer, uint32_t slot)
{
    struct sira_writer_slot *entry = &writer->slots[slot];
    struct sira_link_slot *shared = &writer->link.slots[slot];
    const uint64_t state = sira_word_load(&shared->state);
    if (state == sira_slot_state(entry->number, SIRA_SLOT_POSTED)) return SIRA_LINK_OK; /* a bit of its life before */
    if (state == sira_slot_state(entry->number, SIRA_SLOT_EXPIRED)) {
        const uint64_t after = writer->cells[entry->cell].counts.withdrawn[SIRA_LINK_EXPIRED] + 1;
        sira_word_store(&shared->withdrawn_after, (uint64_t)SIRA_LINK_EXPIRED << SIRA_COUNT_BITS | after);
        SIRA_FAULT_POINT("expire.announced");
        sira_word_store(&shared->state, sira_slot_state(entry->number, SIRA_SLOT_WITHDRAWN));
        SIRA_FAULT_POINT("expire.committed");
        count_withdrawn(writer, entry->cell, SIRA_LINK_EXPIRED, after);
        if (entry->hold != SIRA_LINK_NONE) free_hold(writer, entry->hold);
    } else if (state != sira_slot_state(entry->number, SIRA_SLOT_TAKEN)) {
        return corrupt(writer);
    }
    free_slot(writer, slot);
    return SIRA_LINK_OK;
}

enum sira_link_status sira_link_collect(struct sira_link_writer *writer, bool all)
{
    if (writer->corrupt) return SIRA_LINK_CORRUPT;
    const struct sira_link *link = &writer->link;
    for (uint32_t w = 0; w < sira_link_words(link->shape.slots); w++) {
        uint64_t bits = sira_word_load(&link->returned[w]) ? sira_word_swap(&link->returned[w], 0) : 0;
        if (bits) SIRA_FAULT_POINT("collect.taken");
        if (all) bits = ~UINT64_C(0); /* only those that are out are looked at */
        for (; bits; bits &= bits - 1) {
            const uint32_t slot = w * 64 + (uint32_t)__builtin_ctzll(bits);
            if (slot >= link->shape.slots) {
                if (all) break;
                return corrupt(writer);
            }
            if (writer->slots[slot].number && settle(writer, slot)) return SIRA_LINK_CORRUPT;
        }
    }
    for (uint32_t w = 0; w < sira_link_words(link->shape.holds); w++) {
        const uint64_t back = sira_word_load(&link->holds[w]);
        if (!back) continue;
        SIRA_FAULT_POINT("collect.holds_seen");
        for (uint64_t bits = back; bits; bits &= bits - 1) {
            const uint32_t hold = w * 64 + (uint32_t)__builtin_ctzll(bits);
            if (hold >= writer->holds_made || !writer->holds[hold].owner) return corrupt(writer);
            const struct sira_writer_hold *entry = &writer->holds[hold];
            if (writer->slots[entry->slot].number == entry->number) { /* its slot is out yet: it must have been taken */
                if (settle(writer, entry->slot)) return SIRA_LINK_CORRUPT;
                if (writer->slots[entry->slot].number || !entry->owner) return corrupt(writer);
            }
            free_hold(writer, hold);
        }
        SIRA_FAULT_POINT("collect.holds_taken");
        /* Last: if we die before, each is still seen to be back (sira_link_piece). None is out again until we return. */
        sira_word_and(&link->holds[w], ~back);
    }
    return SIRA_LINK_OK;
}

/* ---- room -------------------------------------------------------------------------------------------------- */
static enum sira_link_status room_now(const struct sira_link_writer *writer, uint32_t cell, uint32_t priority,
                                      uint64_t chunk_bytes, uint32_t planned)
{
    const struct sira_writer_cell *at = &writer->cells[cell];
    if (writer->free_count <= planned + (priority ? 0 : writer->reserve)) return SIRA_LINK_NO_SLOT;
    if (at->outstanding >= at->window) return SIRA_LINK_NO_CREDIT;
    if (at->outstanding_bytes && at->outstanding_bytes >= at->window_bytes) return SIRA_LINK_NO_CREDIT;
    if (!chunk_bytes) return SIRA_LINK_OK;
    if (writer->hold_count + planned >= writer->link.shape.holds) return SIRA_LINK_NO_HOLD;
    if (at->held_bytes && chunk_bytes > at->held_bytes_max - (at->held_bytes < at->held_bytes_max ? at->held_bytes
                                                                                                  : at->held_bytes_max))
        return SIRA_LINK_HELD_BYTES;
    return SIRA_LINK_OK;
}

enum sira_link_status sira_link_room(struct sira_link_writer *writer, uint32_t cell, uint32_t priority,
                                     uint64_t chunk_bytes, uint32_t planned)
{
    assert(cell < writer->link.shape.cells && priority < SIRA_LINK_PRIORITIES);
    if (writer->corrupt) return SIRA_LINK_CORRUPT;
    enum sira_link_status status = room_now(writer, cell, priority, chunk_bytes, planned);
    if (status == SIRA_LINK_OK) return status;
    status = sira_link_collect(writer, false);
    return status == SIRA_LINK_OK ? room_now(writer, cell, priority, chunk_bytes, planned) : status;
}

/* ---- posting ----------------------------------------------------------------------------------------------- */
static uint32_t claim_slot(struct sira_link_writer *writer)
{
    for (uint32_t w = 0;; w++) { /* the lowest: few slots stay warm, and those never reached are never made */
        if (!writer->free_bits[w]) continue;
        const uint32_t bit = (uint32_t)__builtin_ctzll(writer->free_bits[w]);
        writer->free_bits[w] &= writer->free_bits[w] - 1;
        writer->free_count--;
        return w * 64 + bit;
    }
}

static uint32_t claim_hold(struct sira_link_writer *writer, const struct sira_post *post, uint32_t slot)
{
    uint32_t hold = writer->hold_free;
    if (hold != SIRA_LINK_NONE)
        writer->hold_free = writer->holds[hold].next;
    else
        hold = writer->holds_made++;
    writer->holds[hold] = (struct sira_writer_hold){
        .owner = post->owner, .bytes = post->bytes, .number = writer->number, .chunk = post->chunk,
        .cell = post->cell, .slot = slot};
    writer->hold_count++;
    writer->cells[post->cell].held_bytes += post->bytes;
    return hold;
}

/* Say what a hold is out for. The slot says WRITING with this number, so the chunk is out with the post. */
static void tell_lent(const struct sira_link_writer *writer, const struct sira_post *post, uint32_t hold, uint32_t slot)
{
    struct sira_link_lent *lent = &writer->link.lent[hold];
    const uint64_t words[SIRA_LINK_LENT_WORDS] = {(uint64_t)post->segment << 32 | slot, post->offset, post->bytes,
                                                  post->now_ns};
    sira_words_in(&lent->where, words, SIRA_LINK_LENT_WORDS);
    sira_word_store(&lent->number, writer->number);
}

enum sira_link_status sira_link_post(struct sira_link_writer *writer, const struct sira_post *post,
                                     struct sira_link_ticket *ticket)
{
    assert(post->inline_bytes <= SIRA_LINK_INLINE_BYTES_MAX);
    const enum sira_link_status status =
        sira_link_room(writer, post->cell, post->priority, post->owner ? post->bytes : 0, 0);
    if (status != SIRA_LINK_OK) return status;
    const uint32_t slot = claim_slot(writer);
    const uint64_t number = ++writer->number;
    const uint32_t hold = post->owner ? claim_hold(writer, post, slot) : SIRA_LINK_NONE;
    struct sira_link_slot *shared = &writer->link.slots[slot];
    struct sira_writer_cell *cell = &writer->cells[post->cell];
    const uint64_t after = cell->counts.posted + 1;
    const uint64_t place[SIRA_LINK_PLACE_WORDS] = {
        (uint64_t)post->cell << 32 | (uint64_t)post->priority << 24 | (uint64_t)post->flags << 16 | post->inline_bytes,
        (uint64_t)post->segment << 32 | hold, post->deadline_ns, post->offset, post->bytes};

    sira_word_store(&shared->state, sira_slot_state(number, SIRA_SLOT_WRITING)); /* it tells of nothing from here on */
    SIRA_FAULT_POINT("post.claimed");
    sira_word_store(&shared->posted_after, after);
    sira_words_in(&shared->place.kind, place, SIRA_LINK_PLACE_WORDS);
    if (post->inline_bytes) sira_bytes_in(shared->inline_data, post->inline_data, post->inline_bytes);
    if (hold != SIRA_LINK_NONE) tell_lent(writer, post, hold, slot);
    SIRA_FAULT_POINT("post.written");
    sira_word_store(&shared->state, sira_slot_state(number, SIRA_SLOT_POSTED)); /* it is posted */
    SIRA_FAULT_POINT("post.committed");
    sira_word_store(&writer->link.cells[post->cell].posted, after);
    SIRA_FAULT_POINT("post.counted");
    sira_word_or(&writer->link.posted[slot / 64], UINT64_C(1) << slot % 64);
    SIRA_FAULT_POINT("post.told");

    cell->counts.posted = after;
    cell->outstanding++;
    if (hold != SIRA_LINK_NONE) cell->outstanding_bytes += post->bytes;
    writer->slots[slot] = (struct sira_writer_slot){.number = number, .cell = post->cell, .hold = hold};
    *ticket = (struct sira_link_ticket){.number = number, .slot = slot};
    return SIRA_LINK_OK;
}

/* ---- withdrawing ------------------------------------------------------------------------------------------- */
static bool is_out(const struct sira_link_writer *writer, struct sira_link_ticket ticket)
{
    return ticket.number && !writer->corrupt && writer->slots[ticket.slot].number == ticket.number;
}

bool sira_link_pending(const struct sira_link_writer *writer, struct sira_link_ticket ticket)
{
    return is_out(writer, ticket)
           && sira_word_load(&writer->link.slots[ticket.slot].state) == sira_slot_state(ticket.number, SIRA_SLOT_POSTED);
}

enum sira_link_status sira_link_withdraw(struct sira_link_writer *writer, struct sira_link_ticket ticket,
                                         enum sira_link_reason reason)
{
    assert((unsigned)reason < SIRA_LINK_REASONS && ticket.slot < writer->link.shape.slots);
    if (writer->corrupt) return SIRA_LINK_CORRUPT;
    if (!is_out(writer, ticket)) return SIRA_LINK_GONE;
    const struct sira_writer_slot entry = writer->slots[ticket.slot];
    struct sira_link_slot *shared = &writer->link.slots[ticket.slot];
    const uint64_t after = (writer->cells[entry.cell].counts.withdrawn[reason] + 1) & COUNT_MASK;
    sira_word_store(&shared->withdrawn_after, (uint64_t)reason << SIRA_COUNT_BITS | after);
    SIRA_FAULT_POINT("withdraw.announced");
    if (!sira_word_cas(&shared->state, sira_slot_state(entry.number, SIRA_SLOT_POSTED),
                       sira_slot_state(entry.number, SIRA_SLOT_WITHDRAWN)))
        return settle(writer, ticket.slot) ? SIRA_LINK_CORRUPT : SIRA_LINK_GONE;
    SIRA_FAULT_POINT("withdraw.committed");
    count_withdrawn(writer, entry.cell, reason, after);
    if (entry.hold != SIRA_LINK_NONE) free_hold(writer, entry.hold);
    free_slot(writer, ticket.slot);
    return SIRA_LINK_OK;
}

enum sira_link_status sira_link_supersede(struct sira_link_writer *writer, const struct sira_post *post,
                                          struct sira_link_ticket *newest)
{
    struct sira_link_ticket old = *newest;
    enum sira_link_status status = sira_link_post(writer, post, newest);
    if (status == SIRA_LINK_CORRUPT) return status;
    if (old.number) (void)sira_link_withdraw(writer, old, SIRA_LINK_SUPERSEDED);
    if (status == SIRA_LINK_OK) return status; /* also if the old one was found corrupt: this one has its chunk */
    return sira_link_post(writer, post, newest); /* into the place of the old one */
}

uint32_t sira_link_withdraw_all(struct sira_link_writer *writer, uint32_t cell, enum sira_link_reason reason)
{
    uint32_t count = 0;
    for (uint32_t s = 0; !writer->corrupt && s < writer->link.shape.slots; s++) {
        const struct sira_writer_slot *entry = &writer->slots[s];
        if (!entry->number || (cell != SIRA_LINK_NONE && entry->cell != cell)) continue;
        const struct sira_link_ticket ticket = {.number = entry->number, .slot = s};
        count += sira_link_withdraw(writer, ticket, reason) == SIRA_LINK_OK;
    }
    return count;
}

/* ---- sleeping ---------------------------------------------------------------------------------------------- */
bool sira_link_calls_reader(struct sira_link_writer *writer)
{
    /* The or of the last post came before: either we see the flag, or the reader sees the bit. */
    if (!sira_word_load(writer->link.r_sleeps) || !sira_word_swap(writer->link.r_sleeps, 0)) return false;
    SIRA_FAULT_POINT("reader.woken"); /* it is owed a ring */
    return true;
}

bool sira_link_writer_sleeps(struct sira_link_writer *writer, uint32_t wants)
{
    const uint32_t out = writer->link.shape.slots - writer->free_count;
    if (wants > out) wants = out; /* more would never come back */
    if (wants == 0) wants = 1;
    sira_word_swap(writer->link.w_wants, wants);
    SIRA_FAULT_POINT("writer.armed");
    if (sira_link_back_count(&writer->link) < wants) return true;
    sira_word_store(writer->link.w_wants, 0);
    return false;
}

void sira_link_writer_wakes(struct sira_link_writer *writer)
{
    sira_word_store(writer->link.w_wants, 0);
}
