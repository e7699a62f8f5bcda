/* Where messages wait on the node: a subscription's rings (one a priority), what it was sent and has not yet
 * confirmed. */
#include "hub.h"
#include "pyutil.h"

/* ---- rings ------------------------------------------------------------------------------------------------- */

static int ring_push(struct ring *ring, struct slot slot)
{
    if (ring->len == ring->cap) {
        const uint32_t cap = ring->cap ? ring->cap * 2 : 8;
        struct slot *at = PyMem_Malloc(cap * sizeof *at);
        if (!at) {
            PyErr_NoMemory();
            return -1;
        }
        for (uint32_t i = 0; i < ring->len; i++) at[i] = ring->at[(ring->head + i) & (ring->cap - 1)];
        PyMem_Free(ring->at);
        ring->at = at;
        ring->cap = cap;
        ring->head = 0;
    }
    ring->at[(ring->head + ring->len) & (ring->cap - 1)] = slot;
    ring->len++;
    return 0;
}

struct slot *ring_slot(const struct ring *ring, uint32_t index)
{
    assert(index < ring->len);
    return &ring->at[(ring->head + index) & (ring->cap - 1)];
}

static void ring_advance(Sub *sub, uint8_t priority)
{
    struct ring *ring = &sub->rings[priority];
    ring->head = (ring->head + 1) & (ring->cap - 1);
    ring->len--;
    sub->base[priority]++;
    if (ring->len > 0) return;
    sub->mask &= (uint8_t) ~(1u << priority);
    if (ring->cap > 1024) { /* a burst is over: give its room back */
        PyMem_Free(ring->at);
        *ring = (struct ring){0};
    }
}

/* ---- cells of overflow `latest`: open addressing, key (publisher, topic) ------------------------------------- */

static uint32_t cell_hash(uint64_t publisher, const void *topic)
{
    uint64_t h = (publisher ^ (uintptr_t)topic >> 4) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

static struct cell *cell_find(const Sub *sub, uint64_t publisher, const void *topic)
{
    if (!sub->cell_cap) return NULL;
    uint32_t i = cell_hash(publisher, topic) & (sub->cell_cap - 1);
    while (sub->cells[i].used) {
        if (sub->cells[i].publisher == publisher && sub->cells[i].topic == topic) return &sub->cells[i];
        i = (i + 1) & (sub->cell_cap - 1);
    }
    return NULL;
}

static int cell_put(Sub *sub, struct cell cell)
{
    if (sub->cell_len * 2 >= sub->cell_cap) {
        const uint32_t cap = sub->cell_cap ? sub->cell_cap * 2 : 16;
        struct cell *old = sub->cells;
        const uint32_t old_cap = sub->cell_cap;
        struct cell *cells = PyMem_Calloc(cap, sizeof *cells);
        if (!cells) {
            PyErr_NoMemory();
            return -1;
        }
        sub->cells = cells;
        sub->cell_cap = cap;
        sub->cell_len = 0;
        for (uint32_t i = 0; i < old_cap; i++)
            if (old[i].used) (void)cell_put(sub, old[i]); /* never grows here */
        PyMem_Free(old);
    }
    uint32_t i = cell_hash(cell.publisher, cell.topic) & (sub->cell_cap - 1);
    while (sub->cells[i].used) i = (i + 1) & (sub->cell_cap - 1);
    cell.used = true;
    sub->cells[i] = cell;
    sub->cell_len++;
    return 0;
}

/* Remove by backward shift, so that probing never crosses a hole. */
static void cell_remove(Sub *sub, struct cell *cell)
{
    const uint32_t mask = sub->cell_cap - 1;
    uint32_t hole = (uint32_t)(cell - sub->cells);
    uint32_t i = hole;
    for (;;) {
        i = (i + 1) & mask;
        if (!sub->cells[i].used) break;
        const uint32_t home = cell_hash(sub->cells[i].publisher, sub->cells[i].topic) & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            sub->cells[hole] = sub->cells[i];
            hole = i;
        }
    }
    sub->cells[hole].used = false;
    sub->cell_len--;
}

static void cell_forget(Sub *sub, const struct blob *blob, uint8_t priority, uint32_t at)
{
    if (sub->overflow != OVERFLOW_LATEST) return;
    struct cell *cell = cell_find(sub, blob->publisher, blob->topic);
    if (cell && cell->at == at && cell->priority == priority) cell_remove(sub, cell);
}

/* ---- taking one waiting message out ---------------------------------------------------------------------------- */

/* The slot's message leaves the queue, whatever becomes of it. Returns its row, referenced. */
static struct row *slot_leave(Sub *sub, struct slot *slot, uint8_t priority, uint32_t at)
{
    struct blob *blob = slot->blob;
    cell_forget(sub, blob, priority, at);
    sub->pending--;
    sub->pending_bytes -= blob->cost;
    if (blob->deadline_ns) sub->ttl_count--;
    struct row *row = blob->row;
    row_ref(row);
    return row;
}

static void slot_discard(Sub *sub, struct slot *slot)
{
    if (slot->out) out_free(sub->hub, slot->out);
    blob_unref(sub->hub, slot->blob);
    slot->blob = NULL;
    slot->out = NULL;
}

static void sub_made_room(Sub *sub)
{
    if (sub->blocked) sub->hub->retry = true;
}

static void slot_expire(Sub *sub, struct slot *slot, uint8_t priority, uint32_t at)
{
    struct row *row = slot_leave(sub, slot, priority, at);
    struct row *live = row_live(row);
    live->pending--;
    live->expired++;
    sub->dropped++;
    slot_discard(sub, slot);
    row_unref(sub->hub, row);
    sub_made_room(sub);
}

/* It will not be delivered, for `reason`. A hole stays: sub_skip_expired() once all are out. Requires: it holds one. */
void sub_drop_at(Sub *sub, uint8_t priority, uint32_t index, uint16_t reason)
{
    struct slot *slot = ring_slot(&sub->rings[priority], index);
    struct row *row = slot_leave(sub, slot, priority, sub->base[priority] + index);
    row_drop(sub->hub, row, reason, 1);
    sub->dropped++;
    slot_discard(sub, slot);
    row_unref(sub->hub, row);
    sub_made_room(sub);
}

/* Drop the holes and the expired at the head of a ring, so that what is first may be sent. */
void sub_skip_expired(Sub *sub, uint8_t priority, uint64_t now_ns)
{
    struct ring *ring = &sub->rings[priority];
    while (ring->len) {
        struct slot *slot = ring_slot(ring, 0);
        if (slot->blob) {
            if (!slot->blob->deadline_ns || slot->blob->deadline_ns > now_ns) return;
            slot_expire(sub, slot, priority, sub->base[priority]);
        }
        ring_advance(sub, priority);
    }
}

/* Next message of `priority`; the caller owns what the slot holds. Requires: sub_skip_expired was called. */
bool sub_pop(Sub *sub, uint8_t priority, struct slot *out)
{
    struct ring *ring = &sub->rings[priority];
    if (!ring->len) return false;
    struct slot *slot = ring_slot(ring, 0);
    assert(slot->blob);
    *out = *slot;
    struct row *row = slot_leave(sub, slot, priority, sub->base[priority]);
    row_unref(sub->hub, row); /* the blob still holds one */
    ring_advance(sub, priority);
    sub_made_room(sub);
    return true;
}

/* All that has expired, wherever it stands. Returns how many. */
uint32_t sub_expire(Sub *sub, uint64_t now_ns)
{
    uint32_t count = 0;
    if (!sub->ttl_count) return 0;
    for (uint8_t p = 0; p < SIRA_PRIORITIES; p++)
        for (uint32_t i = 0; i < sub->rings[p].len; i++) {
            struct slot *slot = ring_slot(&sub->rings[p], i);
            if (!slot->blob || !slot->blob->deadline_ns || slot->blob->deadline_ns > now_ns) continue;
            slot_expire(sub, slot, p, sub->base[p] + i);
            count++;
        }
    for (uint8_t p = 0; p < SIRA_PRIORITIES; p++) sub_skip_expired(sub, p, now_ns);
    return count;
}

/* ---- putting one in -------------------------------------------------------------------------------------------------- */

void sub_watch(Sub *sub)
{
    if (sub->watched || !sub->egress) return;
    sub->watched = true;
    sub->watched_next = sub->hub->watched;
    if (sub->watched_next) sub->watched_next->watched_prev = sub;
    sub->hub->watched = sub;
}

void sub_unwatch(Sub *sub)
{
    if (!sub->watched) return;
    sub->watched = false;
    if (sub->watched_prev) sub->watched_prev->watched_next = sub->watched_next;
    else sub->hub->watched = sub->watched_next;
    if (sub->watched_next) sub->watched_next->watched_prev = sub->watched_prev;
    sub->watched_prev = sub->watched_next = NULL;
}

bool sub_room(const Sub *sub, const struct blob *blob)
{
    const Hub *hub = sub->hub;
    if (sub->pending == 0) return true; /* one message always fits, however large */
    return sub->pending < hub->queue_messages_max && sub->pending_bytes + blob->cost <= hub->queue_bytes_max;
}

bool sub_can_send(const Sub *sub)
{
    if (!sub->mask || !sub->egress) return false;
    return sub->in_flight < sub->window_messages && (sub->in_flight == 0 || sub->in_flight_bytes < sub->window_bytes);
}

static void drop_owed(Sub *sub, struct blob *blob, uint16_t reason)
{
    row_live(blob->row)->pending++; /* owed: its way goes through pending */
    row_drop(sub->hub, blob->row, reason, 1);
    sub->dropped++;
}

/* Swap the waiting message of this publisher and topic for the newer one. */
static bool sub_supersede(Sub *sub, struct blob *blob, uint64_t now_ns)
{
    struct cell *cell = cell_find(sub, blob->publisher, blob->topic);
    if (!cell || cell->priority != blob->priority) return false;
    struct ring *ring = &sub->rings[cell->priority];
    struct slot *slot = ring_slot(ring, cell->at - sub->base[cell->priority]);
    assert(slot->blob);
    struct out *out = NULL;
    if (blob->xfer && !(out = out_new(sub->hub, blob->xfer, sub))) {
        PyErr_Clear();
        return false;
    }
    struct row *row = row_live(slot->blob->row);
    row->pending--;
    row->superseded++;
    sub->superseded++;
    sub->pending_bytes -= slot->blob->cost;
    if (slot->blob->deadline_ns) sub->ttl_count--;
    slot_discard(sub, slot);
    blob_ref(blob);
    *slot = (struct slot){.blob = blob, .out = out, .since_ns = now_ns};
    row_live(blob->row)->pending++;
    sub->pending_bytes += blob->cost;
    if (blob->deadline_ns) sub->ttl_count++;
    return true;
}

/* One delivery is owed to this subscription: queue it, or count at once why not. `forced`: past every limit,
 * for a dead group member's message, which was already owed; `out`: that member's, taken over if this succeeds. */
static int enqueue(Sub *sub, struct blob *blob, uint64_t now_ns, bool forced, struct out *out)
{
    if (!forced) row_live(blob->row)->owed++;
    if (!sub->egress) {
        drop_owed(sub, blob, R_PEER_LOST);
        return 0;
    }
    if (!forced) {
        if (sub->stalled) {
            drop_owed(sub, blob, R_STALLED);
            return 0;
        }
        if (sub->overflow == OVERFLOW_LATEST && sub_supersede(sub, blob, now_ns)) return 0;
        if (!sub_room(sub, blob)) {
            drop_owed(sub, blob, R_QUEUE_FULL);
            return 0;
        }
    }
    struct slot slot = {.blob = blob, .out = out, .since_ns = now_ns};
    if (blob->xfer && !out && !(slot.out = out_new(sub->hub, blob->xfer, sub))) goto fail;
    const uint32_t at = sub->base[blob->priority] + sub->rings[blob->priority].len;
    if (sub->overflow == OVERFLOW_LATEST) {
        struct cell *old = cell_find(sub, blob->publisher, blob->topic);
        if (old) cell_remove(sub, old); /* another priority, or forced: the newer one is the one to supersede */
        const struct cell cell = {.publisher = blob->publisher, .topic = blob->topic, .at = at, .priority = blob->priority};
        if (cell_put(sub, cell) < 0) goto fail;
    }
    if (ring_push(&sub->rings[blob->priority], slot) < 0) {
        cell_forget(sub, blob, blob->priority, at);
        goto fail;
    }
    blob_ref(blob);
    row_live(blob->row)->pending++;
    if (sub->pending == 0 && sub->in_flight == 0) sub->progress_ns = now_ns;
    sub->pending++;
    sub_watch(sub);
    sub->pending_bytes += blob->cost;
    if (blob->deadline_ns) sub->ttl_count++;
    sub->mask |= (uint8_t)(1u << blob->priority);
    if (out) out->sub = sub;
    if (sub_can_send(sub)) egress_activate(sub->egress, sub);
    return 0;
fail:
    if (slot.out && !out) out_free(sub->hub, slot.out);
    if (!forced) row_live(blob->row)->owed--; /* nothing came of it */
    return -1;
}

int sub_enqueue(Sub *sub, struct blob *blob, uint64_t now_ns)
{
    return enqueue(sub, blob, now_ns, false, NULL);
}

/* ---- sent and confirmed ------------------------------------------------------------------------------------------------- */

int sub_sent(Sub *sub, const struct slot *slot, uint64_t now_ns)
{
    struct blob *blob = slot->blob;
    if (sub->in_flight == sub->sent_cap) {
        const uint32_t cap = sub->sent_cap ? sub->sent_cap * 2 : 8;
        struct sent *at = PyMem_Malloc(cap * sizeof *at);
        if (!at) {
            PyErr_NoMemory();
            return -1;
        }
        for (uint32_t i = 0; i < sub->in_flight; i++) at[i] = sub->sent[(sub->sent_head + i) & (sub->sent_cap - 1)];
        PyMem_Free(sub->sent);
        sub->sent = at;
        sub->sent_cap = cap;
        sub->sent_head = 0;
    }
    struct sent *sent = &sub->sent[(sub->sent_head + sub->in_flight) & (sub->sent_cap - 1)];
    *sent = (struct sent){.row = blob->row, .bytes = blob->cost, .xfer = blob->xfer ? blob->xfer->serial : 0};
    row_ref(blob->row);
    if (sub->in_flight == 0) sub->progress_ns = now_ns;
    sub->in_flight++;
    sub->in_flight_bytes += blob->cost;
    struct row *class_row = blob->row->class_row ? blob->row->class_row : blob->row;
    const uint64_t waited_ns = now_ns > slot->since_ns ? now_ns - slot->since_ns : 0;
    class_row->hist[hub_hist_bucket(waited_ns)]++;
    class_row->hist_sum_ns += waited_ns;
    return 0;
}

int sub_taken(Sub *sub, uint64_t n, uint64_t now_ns)
{
    if (n == 0) return 0; /* no progress: it would keep off the stall that it is */
    if (n > sub->in_flight) {
        sira_raise("PROTOCOL_ERROR", "subscription %u confirms %llu messages, %u were sent to it", sub->id,
                   (unsigned long long)n, sub->in_flight);
        return -1;
    }
    sub->taken += n;
    for (; n; n--) {
        struct sent *sent = &sub->sent[sub->sent_head];
        sub->sent_head = (sub->sent_head + 1) & (sub->sent_cap - 1);
        sub->in_flight--;
        sub->in_flight_bytes -= sent->bytes;
        if (!sent->lost) {
            struct row *row = row_live(sent->row);
            row->pending--;
            row->delivered++;
            sub->delivered++;
        }
        row_unref(sub->hub, sent->row);
    }
    sub->progress_ns = now_ns;
    sub->stalled = false;
    if (sub_can_send(sub)) egress_activate(sub->egress, sub);
    return 0;
}

/* A large message whose head was sent is not delivered, for `reason`, unless it was confirmed or lost before. */
void sub_lose_sent(Sub *sub, const struct xfer *xfer, uint16_t reason)
{
    for (uint32_t i = 0; i < sub->in_flight; i++) {
        struct sent *sent = &sub->sent[(sub->sent_head + i) & (sub->sent_cap - 1)];
        if (sent->xfer != xfer->serial || sent->lost) continue;
        sent->lost = true; /* its credit still comes: the client confirms what it was sent, aborted or not */
        row_drop(sub->hub, sent->row, reason, 1);
        sub->dropped++;
        return;
    }
}

/* A transfer ended before it was whole: its delivery is lost, whether its head was sent or not. */
void sub_remove_xfer(Sub *sub, struct xfer *xfer, uint16_t reason)
{
    for (uint8_t p = 0; p < SIRA_PRIORITIES; p++)
        for (uint32_t i = 0; i < sub->rings[p].len; i++) {
            const struct slot *slot = ring_slot(&sub->rings[p], i);
            if (!slot->blob || slot->blob->xfer != xfer) continue;
            sub_drop_at(sub, p, i, reason);
            for (uint8_t q = 0; q < SIRA_PRIORITIES; q++) sub_skip_expired(sub, q, 0);
            return;
        }
    sub_lose_sent(sub, xfer, reason);
}

/* ---- closing ---------------------------------------------------------------------------------------------------------------- */

/* What waits goes to another member of the group, or is dropped; what was sent and not confirmed is dropped. */
void sub_close(Sub *sub, uint16_t reason, uint64_t now_ns)
{
    Hub *hub = sub->hub;
    if (!sub->egress) return;
    Py_INCREF(sub);
    egress_deactivate(sub->egress, sub);
    egress_drop_outs(sub->egress, sub, reason);
    sub->egress = NULL;
    Group *group = sub->group; /* borrowed: ours until dealloc */
    if (group) group_leave(group, sub);
    for (uint32_t i = 0; i < sub->in_flight; i++) {
        struct sent *sent = &sub->sent[(sub->sent_head + i) & (sub->sent_cap - 1)];
        if (!sent->lost) {
            row_drop(hub, sent->row, reason, 1);
            sub->dropped++;
        }
        row_unref(hub, sent->row);
    }
    sub->in_flight = 0;
    sub->in_flight_bytes = 0;
    for (int p = SIRA_PRIORITIES - 1; p >= 0; p--) {
        sub_skip_expired(sub, (uint8_t)p, now_ns);
        struct slot slot;
        while (sub_pop(sub, (uint8_t)p, &slot)) {
            Sub *heir = group ? group_pick(group, NULL, true) : NULL; /* borrowed */
            row_live(slot.blob->row)->pending--;
            if (!heir || enqueue(heir, slot.blob, now_ns, true, slot.out) < 0) {
                if (PyErr_Occurred()) PyErr_Clear();
                drop_owed(sub, slot.blob, reason);
                if (slot.out) out_free(hub, slot.out);
            } else {
                egress_wake(heir->egress);
            }
            blob_unref(hub, slot.blob);
            sub_skip_expired(sub, (uint8_t)p, now_ns);
        }
    }
    sub_unwatch(sub);
    if (sub->blocked) hub->retry = true;
    Py_DECREF(sub);
}
