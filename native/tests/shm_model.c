/* The search of shm_model.h. Linked into shm_model_test only. */
#include "shm_model.h"

#include "build.h"

#include <setjmp.h>

enum { LOG_MAX = 512, BUFFER_MAX = 64, UNDO_MAX = 1 << 16, CHUNKS_MAX = 8, MEMORY_MAX = 64 << 10 };

enum op_kind { LOAD, STORE, SWAP, OR, CAS, WORDS_IN, WORDS_OUT, RING, WAIT, ASK_DEAD, VIEW, RELEASE, DONE };
struct op {
    enum op_kind kind;
    uint64_t *at;
    uint64_t a, b;
    uint64_t words[8];
    uint32_t count;
};
struct buffered { uint64_t *at, value; };
struct side_state {
    uint64_t log[LOG_MAX];
    uint32_t logged, replayed;
    uint64_t hash;               /* of the log: stands for all that the script knows */
    struct op next;
    struct buffered buffer[BUFFER_MAX];
    uint32_t first, end;         /* entries of the buffer; indices only grow along a path */
    bool is_dead;
};
struct ghost {
    uint64_t posted, taken, withdrawn;
    uint32_t bells[SIDES];
    uint8_t views[CHUNKS_MAX], released[CHUNKS_MAX];
};

enum mutation model_mutation;
static uint64_t memory[MEMORY_MAX / 8] __attribute__((aligned(4096)));
static struct side_state sides[SIDES];
static struct ghost ghost;
static const struct scenario *scenario;
static struct sira_link link_of;
static struct side_state *running; /* NULL: memory is used as it is */
static jmp_buf leave;
static const char *wrong;
static uint64_t memory_hash, states;
static struct { uint64_t *at, old; } undo[UNDO_MAX];
static uint32_t undo_count;

static uint64_t mix(uint64_t h, uint64_t value)
{
    h = (h ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    h ^= h >> 29;
    h *= UINT64_C(0xbf58476d1ce4e5b9);
    return h ^ h >> 32;
}

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
static void commit(uint64_t *at, uint64_t value)
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

static void roll_back(uint32_t to)
{
    while (undo_count > to) {
        undo_count--;
        uint64_t *at = undo[undo_count].at;
        memory_hash ^= mix((uint64_t)(at - memory), *at) ^ mix((uint64_t)(at - memory), undo[undo_count].old);
        *at = undo[undo_count].old;
    }
}

static uint64_t load(const struct side_state *side, const uint64_t *at)
{
    for (uint32_t i = side->end; i-- > side->first;)
        if (side->buffer[i % BUFFER_MAX].at == at) return side->buffer[i % BUFFER_MAX].value;
    return *at;
}

static void store(struct side_state *side, uint64_t *at, uint64_t value)
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

static uint64_t *held_at;      /* a store that a mutation puts off, and its value */
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

/* ---- steps ------------------------------------------------------------------------------------------------- */
static bool is_drained(const struct side_state *side) { return side->first == side->end; }

static bool is_told_dead(uint64_t side) { return sides[side].is_dead && is_drained(&sides[side]); }

static bool can_step(enum side which)
{
    const struct side_state *side = &sides[which];
    if (side->is_dead || side->next.kind == DONE) return false;
    switch (side->next.kind) {
    case SWAP: case OR: case CAS: case RING: return is_drained(side);
    case WAIT: return is_drained(side) && (ghost.bells[which] || is_told_dead(!which));
    default: return true;
    }
}

static void answer(struct side_state *side, uint64_t value)
{
    CHECK(side->logged < LOG_MAX);
    side->log[side->logged++] = value;
    side->hash = mix(side->hash, value + 1);
}

/* Run the script again, to its first access without an answer. */
static void run_script(enum side which)
{
    running = &sides[which];
    running->replayed = 0;
    held_at = NULL;
    if (!setjmp(leave)) {
        scenario->scripts[which]();
        running->next = (struct op){.kind = DONE};
    }
    running = NULL;
}

static void ghost_step(const struct op *op)
{
    CHECK(op->a < CHUNKS_MAX);
    if (op->kind == VIEW) {
        if (op->b && ghost.released[op->a] && !wrong) wrong = "a chunk is viewed that was given back";
        ghost.views[op->a] = (uint8_t)op->b;
    } else {
        if (ghost.views[op->a] && !sides[READER].is_dead && !wrong) wrong = "a chunk was given back under a view";
        if (ghost.released[op->a]++ && !wrong) wrong = "a chunk was given back twice";
    }
}

static void step(enum side which)
{
    struct side_state *side = &sides[which];
    const struct op op = side->next;
    switch (op.kind) {
    case LOAD: answer(side, load(side, op.at)); break;
    case STORE:
        store(side, op.at, op.a);
        answer(side, 0);
        break;
    case WORDS_IN:
        for (uint32_t i = 0; i < op.count; i++) store(side, op.at + i, op.words[i]);
        answer(side, 0);
        break;
    case WORDS_OUT:
        for (uint32_t i = 0; i < op.count; i++) answer(side, load(side, op.at + i));
        break;
    case SWAP: case OR: {
        const uint64_t old = *op.at;
        commit(op.at, op.kind == OR ? old | op.a : op.a);
        answer(side, old);
        break;
    }
    case CAS: {
        const bool same = *op.at == op.a || (model_mutation == NUMBER_NOT_COMPARED
                                             && sira_slot_kind(*op.at) == sira_slot_kind(op.a));
        if (same) commit(op.at, op.b);
        answer(side, same);
        break;
    }
    case RING:
        ghost.bells[op.a] = 1;
        answer(side, 0);
        break;
    case WAIT:
        ghost.bells[op.a] = 0;
        answer(side, 0);
        break;
    case ASK_DEAD: answer(side, is_told_dead(op.a)); break;
    case VIEW: case RELEASE:
        ghost_step(&op);
        answer(side, 0);
        break;
    case DONE: CHECK(false);
    }
    run_script(which);
    while (side->next.kind == VIEW || side->next.kind == RELEASE) { /* nobody can come between */
        ghost_step(&side->next);
        answer(side, 0);
        run_script(which);
    }
}

/* ---- search ------------------------------------------------------------------------------------------------ */
enum { SEEN_BITS = 23 };
static uint64_t *seen; /* open addressing; 0: empty. States of earlier searches stay in it, hashed with their epoch */
static uint64_t seen_count, epoch;

static bool is_new(uint64_t hash)
{
    if (hash == 0) hash = 1;
    const uint64_t mask = (UINT64_C(1) << SEEN_BITS) - 1;
    for (uint64_t i = hash & mask;; i = (i + 1) & mask) {
        if (seen[i] == hash) return false;
        if (seen[i]) continue;
        seen[i] = hash;
        CHECK(++seen_count < mask / 4 * 3); /* make the scenario smaller */
        return true;
    }
}

static uint64_t state_hash(void)
{
    uint64_t hash = mix(memory_hash, epoch);
    for (int s = 0; s < SIDES; s++) {
        hash = mix(hash, sides[s].hash);
        hash = mix(hash, sides[s].is_dead);
        for (uint32_t i = sides[s].first; i < sides[s].end; i++)
            hash = mix(mix(hash, (uint64_t)(sides[s].buffer[i % BUFFER_MAX].at - memory)),
                       sides[s].buffer[i % BUFFER_MAX].value);
        hash = mix(hash, ghost.bells[s]);
    }
    return hash;
}

static void check_counts(bool at_rest)
{
    static struct sira_link_counts counts[SIRA_LINK_CELLS_MAX];
    if (sira_link_counts(&link_of, counts)) {
        wrong = "the counts deny each other";
        return;
    }
    uint64_t withdrawn = 0;
    for (int r = 0; r < SIRA_LINK_REASONS; r++) withdrawn += counts[0].withdrawn[r];
    if (counts[0].posted != ghost.posted) wrong = "a count of posts is not what was posted";
    else if (counts[0].taken != ghost.taken) wrong = "a count of takes is not what was taken";
    else if (withdrawn != ghost.withdrawn) wrong = "a count of withdrawals is not what was withdrawn";
    else if (at_rest && counts[0].pending && !sides[READER].is_dead) wrong = "a message lies there and nobody wakes";
}

static void search(void)
{
    if (wrong || !is_new(state_hash())) return;
    states++;
    check_counts(false);
    bool moved = false;
    for (int s = 0; s < SIDES && !wrong; s++) {
        struct side_state *side = &sides[s];
        const uint32_t undo_at = undo_count, first = side->first, end = side->end, logged = side->logged;
        const uint64_t hash = side->hash;
        const struct op next = side->next;
        const struct ghost ghost_before = ghost;
        if (can_step((enum side)s)) {
            moved = true;
            struct buffered saved[BUFFER_MAX];
            memcpy(saved, side->buffer, sizeof saved);
            step((enum side)s);
            search();
            memcpy(side->buffer, saved, sizeof saved);
            roll_back(undo_at);
            side->first = first, side->end = end, side->logged = logged, side->hash = hash, side->next = next;
            ghost = ghost_before;
        }
        if (!wrong && !is_drained(side)) {
            moved = true;
            const struct buffered entry = side->buffer[side->first++ % BUFFER_MAX];
            commit(entry.at, entry.value);
            search();
            roll_back(undo_at);
            side->first = first;
            ghost = ghost_before;
        }
        if (!wrong && scenario->kills[s] && !side->is_dead && side->next.kind != DONE && !sides[!s].is_dead) {
            side->is_dead = true;
            search();
            side->is_dead = false;
        }
    }
    if (moved || wrong) return;
    check_counts(true);
    if (!wrong && sides[WRITER].next.kind != DONE && !sides[WRITER].is_dead && !scenario->waits_for_death)
        wrong = "the writer waits and nobody wakes it";
    for (int i = 0; !wrong && sides[WRITER].next.kind == DONE && i < CHUNKS_MAX; i++)
        if (ghost.views[i] && !sides[READER].is_dead && ghost.released[i]) wrong = "a chunk went under a view";
}

uint64_t model_explore(const struct scenario *of, const char **found)
{
    scenario = NULL;
    running = NULL;
    memset(memory, 0, sizeof memory);
    memset(sides, 0, sizeof sides);
    ghost = (struct ghost){0};
    undo_count = 0;
    memory_hash = states = 0;
    wrong = NULL;
    epoch++;
    if (!seen) CHECK(seen = malloc(sizeof *seen << SEEN_BITS));
    if (epoch == 1 || seen_count > UINT64_C(1) << (SEEN_BITS - 2)) {
        memset(seen, 0, sizeof *seen << SEEN_BITS);
        seen_count = 0;
    }
    const size_t bytes = sira_link_bytes(&of->shape);
    CHECK(bytes && bytes <= sizeof memory);
    sira_link_format(memory, &of->shape, 1);
    CHECK_EQUAL(sira_link_open(memory, bytes, &of->shape, 1, &link_of), SIRA_LINK_OK);
    scenario = of;
    run_script(WRITER);
    run_script(READER);
    search();
    *found = wrong;
    return states;
}
