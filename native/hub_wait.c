/* Messages that wait for room within a limit, on streams that ask for it.
 *
 * They are parked like those that a subscriber has no room for (hub_post.c): in order of their topic, for a time that
 * is theirs. A *line* is a topic of a stream whose first message waits; the hub's list of lines is the queue for the
 * buckets. A walk over it asks them in order; a bucket that has no room for one is asked for none behind it in that
 * walk, nor for a new message until the next, so that what needs many tokens is not overtaken for ever by what needs
 * few. A line that went on goes to the end. What was not begun to be used up costs nothing when it is refused. */
#include "hub_limits.h"
#include "hub_stream.h"
#include "pyutil.h"

enum {
    LINE_TURN = 16,  /* messages of a line before it is the next one's turn */
    ROUNDS_MAX = 64, /* walks of one release */
    LINES_A_LOOK = 16, /* at which nothing moved, between two looks at the clock */
    RELEASE_NS = 1000000, /* of one release: a line is a topic, and there may be very many */
};

/* ---- the list of lines --------------------------------------------------------------------------------------- */

static void line_append(Hub *hub, struct route_entry *entry)
{
    entry->line_next = NULL;
    entry->line_prev = hub->line_last;
    if (hub->line_last) hub->line_last->line_next = entry;
    else hub->line_first = entry;
    hub->line_last = entry;
    hub->line_count++;
    entry->in_line = true;
}

void line_leave(Hub *hub, struct route_entry *entry)
{
    if (!entry->in_line) return;
    if (hub->line_next == entry) hub->line_next = entry->line_next;
    if (entry->line_prev) entry->line_prev->line_next = entry->line_next;
    else hub->line_first = entry->line_next;
    if (entry->line_next) entry->line_next->line_prev = entry->line_prev;
    else hub->line_last = entry->line_prev;
    entry->line_prev = entry->line_next = NULL;
    entry->in_line = false;
    hub->line_count--;
    hub->due_ns = 0; /* others may have waited for it alone */
}

void line_update(Ingress *in, struct route_entry *entry)
{
    Hub *hub = in->hub;
    struct parked *first = entry->first;
    if (!first || !first->waits) {
        line_leave(hub, entry);
        return;
    }
    if (first->patient && first->deadline_ns == UINT64_MAX) first->deadline_ns = hub->now_ns + hub->block_ns;
    expire_by(in, first->deadline_ns);
    if (entry->in_line) return;
    line_append(hub, entry);
    hub->due_ns = 0;
}

/* ---- a message comes ------------------------------------------------------------------------------------------- */

/* As entry_admit() on a stream whose messages do not wait, or for one that says so. */
static enum admission admit_now(Ingress *in, struct route_entry *entry, uint64_t bytes, uint64_t now_ns)
{
    uint64_t wait_ns = 0;
    const int rc = limits_admit(&entry->route->limits, entry->route->topic->name, bytes, now_ns, &wait_ns,
                                &in->limited);
    if (now_ns + wait_ns > in->limited_until_ns && wait_ns) in->limited_until_ns = now_ns + wait_ns;
    return rc < 0 ? ADMIT_REFUSED : rc ? ADMIT_AGAIN : ADMIT_TAKEN;
}

enum admission entry_admit(Ingress *in, struct route_entry *entry, const struct sira_item *item, uint64_t bytes,
                           uint64_t now_ns)
{
    Hub *hub = in->hub;
    if (entry->route->admit) {
        PyObject *result = PyObject_CallFunction(entry->route->admit, "KK", 1ull, (unsigned long long)bytes); /* owned */
        Py_XDECREF(result);
        if (!result) return ADMIT_REFUSED;
        if (in->closed) return ADMIT_TAKEN; /* nobody is there to be answered: the caller looks */
    }
    const struct limits *limits = &entry->route->limits;
    const bool behind = entry->last && entry->last->waits;
    if (!limits->all && !behind) return ADMIT_TAKEN;
    if (!in->waits || (item->has_wait && !item->wait_ms)) {
        if (!behind) return admit_now(in, entry, bytes, now_ns);
        limits_refuse(limits, entry->route->topic->name, bytes, now_ns);
        return ADMIT_REFUSED;
    }
    if (behind || (hub->line_first && limits_contended(limits, hub->pass))) return ADMIT_WAITS;
    uint64_t due_ns = 0;
    const enum limits_room room = limits_try(limits, bytes, now_ns, hub->pass, &due_ns);
    if (room == LIMITS_TAKEN) return ADMIT_TAKEN;
    const uint64_t wait_ns = item->has_wait ? (uint64_t)item->wait_ms * 1000000u : hub->block_ns;
    if (room == LIMITS_NEVER || due_ns > now_ns + wait_ns) return admit_now(in, entry, bytes, now_ns);
    limits_tell(limits, hub->pass);
    return ADMIT_WAITS;
}

/* ---- room comes -------------------------------------------------------------------------------------------------- */

/* Let the first message of a line, which has room, wait for its subscribers only. */
static void line_admitted(Ingress *in, struct route_entry *entry, uint64_t now_ns)
{
    struct parked *first = entry->first;
    struct blob *blob = first->blob;
    first->waits = false;
    in->waiting--;
    in->hub->waiting--;
    if (first->patient) first->deadline_ns = now_ns + in->hub->block_ns;
    expire_by(in, first->deadline_ns);
    if (blob->xfer) blob->xfer->held = held_take(&entry->route->limits, blob->xfer->total);
    else blob->held = held_take(&entry->route->limits, blob->cost);
}

/* One turn of a line. Returns whether something left it; -1 with an exception. Requires: `in` is busy. */
static int line_turn(Ingress *in, struct route_entry *entry, uint64_t now_ns)
{
    Hub *hub = in->hub;
    int moved = 0;
    for (int n = 0; n < LINE_TURN && entry->first && entry->first->waits && !in->closed; n++) {
        const uint64_t cost = entry->first->blob->cost;
        if (route_refresh(in, entry) < 0) { /* it may not be published any more */
            if (refuse_first(in, entry, "DENIED") < 0) return -1;
            moved = 1;
            continue;
        }
        if (in->closed) return moved;
        const struct limits *limits = &entry->route->limits;
        if (limits_contended(limits, hub->pass)) return moved;
        if (entry->first->patient && entry->first->deadline_ns == UINT64_MAX)
            entry->first->deadline_ns = now_ns + hub->block_ns;
        expire_by(in, entry->first->deadline_ns);
        uint64_t due_ns = 0;
        const enum limits_room room = limits_try(limits, cost, now_ns, hub->pass, &due_ns);
        if ((room == LIMITS_LATER || room == LIMITS_HELD) && due_ns <= entry->first->deadline_ns) {
            if (room == LIMITS_LATER && due_ns < hub->due_ns) hub->due_ns = due_ns;
            return moved;
        }
        moved = 1;
        if (room == LIMITS_TAKEN) {
            line_admitted(in, entry, now_ns);
            if (entry_retry(in, entry, now_ns, UINT64_MAX) < 0) return -1;
            continue;
        }
        char code[REASON_BYTES]; /* it cannot be in time */
        limits_refuse(limits, entry->route->topic->name, cost, now_ns);
        if (in->closed) {
            PyErr_Clear();
            return moved;
        }
        hub_exception_code(code, sizeof code);
        if (refuse_first(in, entry, code) < 0) return -1;
    }
    return moved;
}

/* One walk over the lines, or what is left of it; until the clock says until_ns. Returns whether another one is worth
 * while: something went on, and there is time. A walk that is interrupted leaves hub->line_left. */
static bool walk_lines(Hub *hub, uint64_t now_ns, uint64_t until_ns)
{
    if (!hub->line_left || !hub->line_next) {
        hub->pass++;
        hub->due_ns = UINT64_MAX;
        hub->line_next = hub->line_first;
        hub->line_left = hub->line_count;
        hub->line_moved = false;
    }
    for (unsigned looks = 1; hub->line_left && hub->line_next; looks++) {
        struct route_entry *entry = hub->line_next;
        hub->line_next = entry->line_next;
        hub->line_left--;
        Ingress *in = (Ingress *)Py_NewRef(entry->in); /* owned: Python runs inside */
        if (in->busy) { /* it is at work and called us: later */
            hub->due_ns = 0;
            Py_DECREF(in);
            continue;
        }
        in->busy = true;
        const int moved = line_turn(in, entry, now_ns);
        if (moved < 0) PyErr_WriteUnraisable((PyObject *)in);
        if (moved && !in->closed) {
            line_leave(hub, entry); /* to the end, if it still waits */
            entry_update(in, entry);
            ingress_unfull(in);
        }
        hub->line_moved |= moved != 0;
        ingress_leave(in, now_ns);
        Py_DECREF(in);
        if ((moved || looks % LINES_A_LOOK == 0) && hub->line_left && sira_now_mono_ns() >= until_ns) return false;
    }
    hub->line_left = 0;
    hub->line_next = NULL;
    return hub->line_moved && sira_now_mono_ns() < until_ns;
}

void hub_release(Hub *hub, uint64_t now_ns)
{
    if (hub->releasing || !hub->line_first || (hub->due_ns > now_ns && !hub->line_left)) return;
    hub->releasing = true;
    hub->now_ns = now_ns;
    const uint64_t until_ns = sira_now_mono_ns() + RELEASE_NS;
    for (int round = 0; hub->line_first && round < ROUNDS_MAX; round++)
        if (!walk_lines(hub, now_ns, until_ns)) break;
    hub->releasing = false;
}
