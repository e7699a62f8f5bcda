/* The steps and the search of shm_model.h. Linked into shm_model_test only. */
#include "shm_model_inside.h"

#include "build.h"

static uint64_t states;

/* ---- steps ------------------------------------------------------------------------------------------------- */
static bool is_drained(const struct side_state *side) { return side->first == side->end; }

static bool is_told_dead(uint64_t side) { return sides[side].is_dead && is_drained(&sides[side]); }

static bool can_step(enum side which)
{
    const struct side_state *side = &sides[which];
    if (side->is_dead || side->next.kind == DONE) return false;
    switch (side->next.kind) {
    case SWAP: case OR: case AND: case CAS: case RING: return is_drained(side);
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
    case SWAP: case OR: case AND: {
        const uint64_t old = *op.at;
        commit(op.at, op.kind == OR ? old | op.a : op.kind == AND ? old & op.a : op.a);
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
