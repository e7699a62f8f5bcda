/* See bm25.h. Each entry keeps its terms, ascending, and where it stands in the postings of each, so that it leaves at
 * the cost of its own terms. */
#include "bm25.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct posting {
    uint32_t slot;
    float weight;
};

struct postings {
    uint64_t term;
    struct posting *list; /* owned; NULL: this seat was never taken */
    uint32_t count, room;
};

struct entry {
    uint64_t *terms; /* owned, ascending; `at` lies behind them in the same memory; NULL: nothing stands here */
    uint32_t *at;    /* where it stands in the postings of each term */
    uint32_t count;
    float length;
};

struct sira_bm25 {
    struct postings *seats; /* owned; open addressing, a power of two */
    size_t seats_mask, seats_taken;
    uint64_t seed; /* odd */
    struct entry *entries; /* owned, by slot */
    size_t slots, entries_room, count;
    double length_total;
};

enum { SEATS_FIRST = 1 << 10, POSTINGS_FIRST = 2, ENTRIES_FIRST = 64 };

struct sira_bm25 *sira_bm25_new(uint64_t seed)
{
    struct sira_bm25 *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->seats = calloc(SEATS_FIRST, sizeof *made->seats);
    if (!made->seats) {
        free(made);
        return NULL;
    }
    made->seats_mask = SEATS_FIRST - 1;
    made->seed = seed | 1;
    return made;
}

void sira_bm25_free(struct sira_bm25 *bm25)
{
    if (!bm25) return;
    for (size_t i = 0; i <= bm25->seats_mask; i++) free(bm25->seats[i].list);
    for (size_t i = 0; i < bm25->slots; i++) free(bm25->entries[i].terms);
    free(bm25->seats);
    free(bm25->entries);
    free(bm25);
}

/* ---- terms ------------------------------------------------------------------------------------------------------- */
static int by_term(const void *a, const void *b)
{
    const uint64_t x = ((const struct sira_weighed_term *)a)->term, y = ((const struct sira_weighed_term *)b)->term;
    return (x > y) - (x < y);
}

size_t sira_terms_unique(struct sira_weighed_term *terms, size_t count)
{
    enum { FEW = 24 };
    if (count > FEW) {
        qsort(terms, count, sizeof *terms, by_term);
    } else {
        for (size_t i = 1; i < count; i++) {
            const struct sira_weighed_term moved = terms[i];
            size_t to = i;
            for (; to && terms[to - 1].term > moved.term; to--) terms[to] = terms[to - 1];
            terms[to] = moved;
        }
    }
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        if (left && terms[left - 1].term == terms[i].term) terms[left - 1].weight += terms[i].weight;
        else terms[left++] = terms[i];
    }
    return left;
}

/* ---- postings ---------------------------------------------------------------------------------------------------- */
/* The seat of a term, or the free one where it belongs. */
static struct postings *seat_of(struct postings *seats, size_t mask, uint64_t seed, uint64_t term)
{
    const uint64_t spread = term * seed;
    for (size_t i = (spread ^ spread >> 32) & mask;; i = (i + 1) & mask)
        if (!seats[i].list || seats[i].term == term) return &seats[i];
}

static const struct postings *found(const struct sira_bm25 *bm25, uint64_t term)
{
    const struct postings *seat = seat_of(bm25->seats, bm25->seats_mask, bm25->seed, term);
    return seat->list && seat->count ? seat : NULL;
}

/* Make room for `more` terms: at most half of the seats are taken. Those whose last entry has left are given up. */
static bool reserve_seats(struct sira_bm25 *bm25, size_t more)
{
    if (2 * (bm25->seats_taken + more) <= bm25->seats_mask + 1) return true;
    size_t used = 0;
    for (size_t i = 0; i <= bm25->seats_mask; i++) used += bm25->seats[i].count > 0;
    size_t size = SEATS_FIRST;
    while (size < 4 * (used + more)) size *= 2;
    struct postings *seats = calloc(size, sizeof *seats);
    if (!seats) return false;
    for (size_t i = 0; i <= bm25->seats_mask; i++) {
        struct postings *old = &bm25->seats[i];
        if (old->count) *seat_of(seats, size - 1, bm25->seed, old->term) = *old;
        else free(old->list);
    }
    free(bm25->seats);
    bm25->seats = seats;
    bm25->seats_mask = size - 1;
    bm25->seats_taken = used;
    return true;
}

static bool reserve_posting(struct sira_bm25 *bm25, uint64_t term)
{
    struct postings *seat = seat_of(bm25->seats, bm25->seats_mask, bm25->seed, term);
    if (seat->list && seat->count < seat->room) return true;
    const uint32_t room = seat->list ? 2 * seat->room : POSTINGS_FIRST;
    struct posting *list = realloc(seat->list, room * sizeof *list);
    if (!list) return false;
    if (!seat->list) {
        *seat = (struct postings){.term = term};
        bm25->seats_taken++;
    }
    seat->list = list;
    seat->room = room;
    return true;
}

static bool reserve_slot(struct sira_bm25 *bm25, uint32_t slot)
{
    if (slot >= bm25->entries_room) {
        size_t room = bm25->entries_room ? bm25->entries_room : ENTRIES_FIRST;
        while (room <= slot) room *= 2;
        struct entry *entries = realloc(bm25->entries, room * sizeof *entries);
        if (!entries) return false;
        memset(entries + bm25->entries_room, 0, (room - bm25->entries_room) * sizeof *entries);
        bm25->entries = entries;
        bm25->entries_room = room;
    }
    if (slot >= bm25->slots) bm25->slots = (size_t)slot + 1;
    return true;
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */
bool sira_bm25_put(struct sira_bm25 *bm25, uint32_t slot, const struct sira_weighed_term *terms, size_t count)
{
    if (!reserve_slot(bm25, slot) || !reserve_seats(bm25, count)) return false;
    struct entry *entry = &bm25->entries[slot];
    assert(!entry->terms);
    for (size_t i = 0; i < count; i++)
        if (!reserve_posting(bm25, terms[i].term)) return false;
    uint64_t *memory = malloc(count * (sizeof(uint64_t) + sizeof(uint32_t)) + 1);
    if (!memory) return false;
    *entry = (struct entry){memory, (uint32_t *)(memory + count), (uint32_t)count, 0};
    float length = 0;
    for (size_t i = 0; i < count; i++) {
        assert(!i || terms[i - 1].term < terms[i].term);
        struct postings *seat = seat_of(bm25->seats, bm25->seats_mask, bm25->seed, terms[i].term);
        entry->terms[i] = terms[i].term;
        entry->at[i] = seat->count;
        seat->list[seat->count++] = (struct posting){slot, terms[i].weight};
        length += terms[i].weight;
    }
    entry->length = length;
    bm25->length_total += (double)length;
    bm25->count++;
    return true;
}

/* Where a term stands among an entry's; `count` of it: it has it not. */
static uint32_t place_of(const struct entry *entry, uint64_t term)
{
    uint32_t low = 0, high = entry->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (entry->terms[middle] < term) low = middle + 1;
        else high = middle;
    }
    return low < entry->count && entry->terms[low] == term ? low : entry->count;
}

bool sira_bm25_drop(struct sira_bm25 *bm25, uint32_t slot)
{
    if (slot >= bm25->slots || !bm25->entries[slot].terms) return false;
    struct entry *entry = &bm25->entries[slot];
    for (uint32_t i = 0; i < entry->count; i++) {
        struct postings *seat = seat_of(bm25->seats, bm25->seats_mask, bm25->seed, entry->terms[i]);
        assert(seat->list && seat->list[entry->at[i]].slot == slot);
        const struct posting last = seat->list[--seat->count];
        if (last.slot != slot) { /* the last one fills the gap */
            struct entry *moved = &bm25->entries[last.slot];
            seat->list[entry->at[i]] = last;
            moved->at[place_of(moved, entry->terms[i])] = entry->at[i];
        }
    }
    bm25->count--;
    bm25->length_total = bm25->count ? bm25->length_total - (double)entry->length : 0;
    free(entry->terms);
    *entry = (struct entry){0};
    return true;
}

size_t sira_bm25_count(const struct sira_bm25 *bm25)
{
    return bm25->count;
}

size_t sira_bm25_slots(const struct sira_bm25 *bm25)
{
    return bm25->slots;
}

uint32_t sira_bm25_have(const struct sira_bm25 *bm25, uint64_t term)
{
    const struct postings *seat = found(bm25, term);
    return seat ? seat->count : 0;
}

bool sira_bm25_has(const struct sira_bm25 *bm25, uint32_t slot, uint64_t term)
{
    if (slot >= bm25->slots || !bm25->entries[slot].terms) return false;
    return place_of(&bm25->entries[slot], term) < bm25->entries[slot].count;
}

void sira_bm25_scores(const struct sira_bm25 *bm25, const struct sira_weighed_term *terms, size_t count, float k1,
                      float b, float *scores)
{
    if (!bm25->count || !(bm25->length_total > 0)) return;
    const float per_length = k1 * b * (float)((double)bm25->count / bm25->length_total), least = k1 * (1 - b);
    for (size_t i = 0; i < count; i++) {
        const struct postings *seat = found(bm25, terms[i].term);
        if (!seat) continue;
        const double have = seat->count, rarity = log1p(((double)bm25->count - have + 0.5) / (have + 0.5));
        const float most = terms[i].weight * (float)rarity * (k1 + 1);
        for (uint32_t at = 0; at < seat->count; at++) {
            const struct posting each = seat->list[at];
            scores[each.slot] += most * each.weight / (each.weight + least + per_length * bm25->entries[each.slot].length);
        }
    }
}
