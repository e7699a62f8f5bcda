/* The memory of shm_model.h, and what the protocol calls in the place of it. Linked into shm_model_test only. */
#include "shm_model_inside.h"

#include "build.h"

enum mutation model_mutation;
uint64_t memory[MEMORY_MAX / 8] __attribute__((aligned(4096)));
struct side_state sides[SIDES];
struct ghost ghost;
const struct scenario *scenario;
struct sira_link link_of;
struct side_state *running;
jmp_buf leave;
const char *wrong;
uint64_t memory_hash;
static struct { uint64_t *at, old; } undo[UNDO_MAX];
uint32_t undo_count;

void model_wrong(const char *why)
{
    if (!wrong) wrong = why;
    if (!running) {
        fprintf(stderr, "wrong while setting up: %s\n", why);
        exit(1);
    }
    running->next.kind = DONE;
    longjmp(leave, 1);
}

/* ---- what an address is ----------------------------------------------------------------------------------- */
enum place { OTHER, STATE, POSTED_AFTER, WITHDRAWN_AFTER, PLACE_OR_DATA, CELL_POSTED, CELL_WITHDRAWN, POSTED_BITS,
             RETURNED_BITS, HOLD_BITS, W_WANTS, R_SLEEPS };

static enum place place_of(const uint64_t *at)
{
    const uint8_t *p = (const uint8_t *)at;
    if (p >= (const uint8_t *)link_of.slots) {
        const size_t in = (size_t)(p - (const uint8_t *)link_of.slots) % sizeof(struct sira_link_slot);
        return in == 0 ? STATE : in == 8 ? POSTED_AFTER : in == 16 ? WITHDRAWN_AFTER : PLACE_OR_DATA;
    }
    if (p >= (const uint8_t *)link_of.cells)
        return (size_t)(p - (const uint8_t *)link_of.cells) % sizeof(struct sira_link_cell) ? CELL_WITHDRAWN
                                                                                            : CELL_POSTED;
    if (at >= link_of.holds) return HOLD_BITS;
    if (at >= link_of.returned) return RETURNED_BITS;
    if (at >= link_of.posted) return POSTED_BITS;
    return at == link_of.r_sleeps ? R_SLEEPS : at == link_of.w_wants ? W_WANTS : OTHER;
}

/* ---- memory ------------------------------------------------------------------------------------------------ */
void commit(uint64_t *at, uint64_t value)
{
    if (scenario && place_of(at) == STATE) {
        const enum sira_slot_kind kind = sira_slot_kind(value), was = sira_slot_kind(*at);
        if (kind == SIRA_SLOT_POSTED && *at != value) ghost.posted++;
        if (kind == SIRA_SLOT_TAKEN) ghost.taken++;
        if (kind == SIRA_SLOT_EXPIRED || (kind == SIRA_SLOT_WITHDRAWN && was != SIRA_SLOT_EXPIRED)) ghost.withdrawn++;
    }
    CHECK(undo_count < UNDO_MAX);
    undo[undo_count].at = at;
    undo[undo_count++].old = *at;
    memory_hash ^= mix((uint64_t)(at - memory), *at) ^ mix((uint64_t)(at - memory), value);
    *at = value;
}

void roll_back(uint32_t to)
{
    while (undo_count > to) {
        undo_count--;
        uint64_t *at = undo[undo_count].at;
        memory_hash ^= mix((uint64_t)(at - memory), *at) ^ mix((uint64_t)(at - memory), undo[undo_count].old);
        *at = undo[undo_count].old;
    }
}

uint64_t load(const struct side_state *side, const uint64_t *at)
{
    for (uint32_t i = side->end; i-- > side->first;)
        if (side->buffer[i % BUFFER_MAX].at == at) return side->buffer[i % BUFFER_MAX].value;
    return *at;
}

void store(struct side_state *side, uint64_t *at, uint64_t value)
{
    CHECK(side->end - side->first < BUFFER_MAX);
    side->buffer[side->end++ % BUFFER_MAX] = (struct buffered){at, value};
}

/* ---- what the protocol calls --------------------------------------------------------------------------------- */
static uint64_t ask(struct op op, uint64_t *out)
{
    struct side_state *side = running;
    if (side->replayed < side->logged) {
        if (op.kind == WORDS_OUT) {
            for (uint32_t i = 0; i < op.count; i++) out[i] = side->log[side->replayed++];
            return 0;
        }
        return side->log[side->replayed++];
    }
    side->next = op;
    longjmp(leave, 1);
}

static uint32_t look_loads; /* of bits, since the script began to look */

void model_looks(void)
{
    look_loads = 0;
}

uint64_t sira_word_load(const uint64_t *word)
{
    if (!running) return *word;
    if (model_mutation == NO_SECOND_LOOK && running == &sides[READER] && place_of(word) == POSTED_BITS
        && look_loads++ >= sira_link_words(scenario->shape.slots))
        return 0;
    return ask((struct op){.kind = LOAD, .at = (uint64_t *)word}, NULL);
}

static bool is_dropped(const uint64_t *word, uint64_t value)
{
    const enum place place = place_of(word);
    switch (model_mutation) {
    case WRITING_NOT_STORED: return place == STATE && sira_slot_kind(value) == SIRA_SLOT_WRITING;
    case POSTED_AFTER_NOT_STORED: return place == POSTED_AFTER;
    case WITHDRAWN_AFTER_NOT_STORED: return place == WITHDRAWN_AFTER;
    case POSTED_NOT_STORED: return place == CELL_POSTED;
    case WITHDRAWN_NOT_STORED: return place == CELL_WITHDRAWN;
    case POSTED_BIT_NOT_SET: return place == POSTED_BITS;
    case RETURNED_BIT_NOT_SET: return place == RETURNED_BITS;
    case HOLD_BIT_NOT_SET: return place == HOLD_BITS;
    default: return false;
    }
}

uint64_t *held_at;
static uint64_t held_value;

void sira_word_store(uint64_t *word, uint64_t value)
{
    if (!running) {
        commit(word, value);
        return;
    }
    if (is_dropped(word, value)) return;
    if (model_mutation == COMMITTED_BEFORE_WRITTEN && place_of(word) == STATE
        && sira_slot_kind(value) == SIRA_SLOT_WRITING)
        value |= SIRA_SLOT_POSTED;
    if (model_mutation == COUNTED_BEFORE_COMMITTED && place_of(word) == STATE
        && sira_slot_kind(value) == SIRA_SLOT_POSTED) {
        held_at = word;
        held_value = value;
        return;
    }
    ask((struct op){.kind = STORE, .at = word, .a = value}, NULL);
    if (!held_at || place_of(word) != CELL_POSTED) return;
    uint64_t *at = held_at;
    held_at = NULL;
    ask((struct op){.kind = STORE, .at = at, .a = held_value}, NULL);
}

/* Is this the atomic change that a mutation turns into a load and a plain store? */
static bool is_unfenced(const uint64_t *word, uint64_t value)
{
    const enum place place = place_of(word);
    switch (model_mutation) {
    case READER_FLAG_NOT_FENCED: return place == R_SLEEPS && value == 1;
    case POSTED_BIT_NOT_FENCED: return place == POSTED_BITS && value != 0;
    case WRITER_FLAG_NOT_FENCED: return place == W_WANTS && value != 0;
    case RETURNED_BIT_NOT_FENCED: return place == RETURNED_BITS && value != 0;
    default: return false;
    }
}

uint64_t sira_word_swap(uint64_t *word, uint64_t value)
{
    if (!running) {
        const uint64_t old = *word;
        commit(word, value);
        return old;
    }
    if (!is_unfenced(word, value)) return ask((struct op){.kind = SWAP, .at = word, .a = value}, NULL);
    const uint64_t old = sira_word_load(word);
    sira_word_store(word, value);
    return old;
}

uint64_t sira_word_or(uint64_t *word, uint64_t bits)
{
    if (!running) {
        const uint64_t old = *word;
        commit(word, old | bits);
        return old;
    }
    if (is_dropped(word, bits)) return 0;
    if (!is_unfenced(word, bits)) return ask((struct op){.kind = OR, .at = word, .a = bits}, NULL);
    const uint64_t old = sira_word_load(word);
    sira_word_store(word, old | bits);
    return old;
}

uint64_t sira_word_and(uint64_t *word, uint64_t bits)
{
    if (!running) {
        const uint64_t old = *word;
        commit(word, old & bits);
        return old;
    }
    return ask((struct op){.kind = AND, .at = word, .a = bits}, NULL);
}

bool sira_word_cas(uint64_t *word, uint64_t expected, uint64_t value)
{
    if (running) return ask((struct op){.kind = CAS, .at = word, .a = expected, .b = value}, NULL);
    if (*word != expected) return false;
    commit(word, value);
    return true;
}

void sira_words_in(uint64_t *shared, const uint64_t *from, size_t count)
{
    CHECK(running && count <= 8);
    struct op op = {.kind = WORDS_IN, .at = shared, .count = (uint32_t)count};
    memcpy(op.words, from, count * 8);
    ask(op, NULL);
}

void sira_words_out(uint64_t *to, const uint64_t *shared, size_t count)
{
    CHECK(running && count <= 8);
    ask((struct op){.kind = WORDS_OUT, .at = (uint64_t *)shared, .count = (uint32_t)count}, to);
}

void sira_bytes_in(void *shared, const void *from, size_t len)
{
    CHECK(len % 8 == 0);
    sira_words_in(shared, from, len / 8);
}

void sira_bytes_out(void *to, const void *shared, size_t len)
{
    CHECK(len % 8 == 0);
    for (size_t i = 0; i < len / 8; i++) { /* each alone: the writer may come between */
        const uint64_t word = sira_word_load((const uint64_t *)shared + i);
        memcpy((uint8_t *)to + 8 * i, &word, 8);
    }
}

struct sira_link model_link(void) { return link_of; }
void model_ring(enum side whose) { ask((struct op){.kind = RING, .a = whose}, NULL); }
void model_wait(enum side whose) { ask((struct op){.kind = WAIT, .a = whose}, NULL); }
bool model_peer_is_dead(enum side whose_peer) { return ask((struct op){.kind = ASK_DEAD, .a = !whose_peer}, NULL); }
void model_view(uint32_t id, bool begins) { ask((struct op){.kind = VIEW, .a = id, .b = begins}, NULL); }

void model_release(uint32_t id)
{
    if (running) ask((struct op){.kind = RELEASE, .a = id}, NULL);
}
