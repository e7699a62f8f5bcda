/* Messages that were checked: given to all who are matched, or parked until a `block` subscriber has room. */
#include "hub_limits.h"
#include "hub_stream.h"
#include "pyutil.h"

/* ---- posting ------------------------------------------------------------------------------------------------------------ */


static void sub_block(Sub *sub)
{
    sub->blocked = true;
    sub_watch(sub);
}

/* Is there room at every `block` subscriber? Those without are marked, so that they say when there is. */
bool route_has_room(const Route *route, const struct blob *blob)
{
    bool room = true;
    for (uint32_t i = 0; i < route->len; i++) {
        Group *group = Py_IS_TYPE(route->targets[i], group_type) ? (Group *)route->targets[i] : NULL; /* borrowed */
        Sub *sub = group ? group_pick(group, blob, false) : (Sub *)route->targets[i];                 /* borrowed */
        if (!sub || !sub->egress || sub->stalled || sub->overflow != OVERFLOW_BLOCK) continue;
        if (sub_room(sub, blob)) continue;
        room = false;
        sub_block(sub);
        for (uint32_t j = 0; group && j < group->len; j++) sub_block(group->members[j]);
    }
    return room;
}

/* Nobody is there to answer: refused, and counted as nobody's. */
static int post_refused(Ingress *in, HubTopic *topic, struct blob *blob, uint64_t slot)
{
    sira_raise("NO_MATCH", "nobody listens on %U", topic->name);
    PyObject *error = hub_error_bytes(in->hub); /* owned */
    if (!error) return -1;
    ingress_settle(in, slot, blob->xfer ? blob->xfer->id : NULL, 2, 0, 0, error);
    if (blob->xfer) xfer_refuse(in->hub, blob->xfer);
    return 0;
}

/* Give the message to all who are matched. Settles its slot, but for a transfer that is not whole yet. */
int post(Ingress *in, Route *route, struct blob *blob, uint64_t slot, bool quiet, bool has_reply_to, uint64_t now_ns)
{
    const uint8_t *id = blob->xfer ? blob->xfer->id : NULL; /* late answers go by it */
    HubTopic *topic = route->topic;
    struct row *row = row_live(topic->row);
    struct xfer *xfer = blob->xfer;
    uint32_t matched = 0;
    row->published++;
    topic->used_ns = now_ns;
    in->published++;
    in->bytes += blob->payload_bytes;
    blob->order = ++in->hub->serial;
    for (uint32_t i = 0; i < route->len; i++) {
        PyObject *target = route->targets[i]; /* borrowed */
        Sub *sub = Py_IS_TYPE(target, group_type) ? group_pick((Group *)target, blob, true) : (Sub *)target; /* borrowed */
        if (!sub || !sub->egress) continue;
        if (sub_enqueue(sub, blob, now_ns) < 0) return -1;
        matched++;
        egress_wake(sub->egress);
    }
    const bool refused = !matched && has_reply_to;
    const bool retain = topic->retain && !topic->dropped && !refused; /* dropped: nobody would ever let it go */
    if (retain && xfer) {
        xfer->keep = true;
        xfer->keep_head = blob;
        blob_ref(blob);
    } else if (retain) {
        row->owed++;
        blob_ref(blob);
        topic_retain(topic, blob);
    } else if (!matched) {
        row->owed++;
        row->pending++;
        row_drop(in->hub, row, R_NO_MATCH, 1);
    }
    if (xfer) {
        xfer->matched = matched;
        if (xfer->parked) {
            xfer->parked = false;
            if (!xfer->keep) xfer_release_held(in->hub, xfer);
        }
    }
    if (refused) return post_refused(in, topic, blob, slot);
    if (quiet) ingress_settle(in, slot, id, 3, matched, blob->payload_bytes, NULL);
    else if (xfer && xfer->received < xfer->total) xfer->slot = slot;
    else if (xfer) ingress_settle_whole(in, xfer);
    else ingress_settle(in, slot, id, 1, matched, blob->payload_bytes, NULL);
    if (xfer && xfer->received == xfer->total) xfer_complete(in->hub, xfer);
    return 0;
}

/* Answers that nobody reads take memory too. A client that keeps any window never comes near. */
enum { ANSWERS_MAX = 65536 };

/* A subscriber has begun a large message of this stream and has had all of it that is here. Its rest stands
 * behind what else comes, so the stream is read on, or nothing would ever move again. */
static bool somebody_waits(const Ingress *in)
{
    for (const struct xfer *xfer = in->xfers; xfer; xfer = xfer->next)
        for (const struct out *out = xfer->parked ? NULL : xfer->outs; out; out = out->peer)
            if (out->active && !out->chunk) return true;
    return false;
}

/* A stream that holds so much is not read until it drains. */
void note_full(Ingress *in)
{
    if (in->parked_count >= in->window_messages || ingress_unread(in) >= ANSWERS_MAX ||
        (in->parked_bytes + in->buffered_bytes >= in->window_bytes && !somebody_waits(in)))
        in->full = true;
}

/* ---- parking: no room at a `block` subscriber, or within a limit -------------------------------------------------------------------------------- */

static uint64_t parked_size(const struct blob *blob)
{
    return blob->xfer ? 0 : blob->cost; /* a transfer's chunks are counted as buffered */
}

void expire_by(Ingress *in, uint64_t deadline_ns)
{
    if (deadline_ns < in->expire_ns) in->expire_ns = deadline_ns;
}

int park(Ingress *in, struct route_entry *entry, struct blob *blob, uint64_t slot, const struct sira_item *item,
         bool has_reply_to, bool waits, uint64_t now_ns)
{
    struct parked *parked = PyMem_Malloc(sizeof *parked);
    if (!parked) {
        PyErr_NoMemory();
        return -1;
    }
    const uint64_t wait_ns = item->has_wait ? (uint64_t)item->wait_ms * 1000000u : in->hub->block_ns;
    *parked = (struct parked){.blob = blob, .slot = slot, .deadline_ns = now_ns + wait_ns, .quiet = item->quiet,
                              .has_reply_to = has_reply_to, .waits = waits, .patient = !item->has_wait};
    if (parked->patient && waits) parked->deadline_ns = UINT64_MAX;
    blob_ref(blob);
    if (blob->xfer) blob->xfer->parked = true;
    if (entry->last) entry->last->next = parked;
    else entry->first = parked;
    entry->last = parked;
    if (!entry->listed) {
        entry->listed = true;
        entry->parked_prev = NULL;
        entry->parked_next = in->parked;
        if (in->parked) in->parked->parked_prev = entry;
        in->parked = entry;
    }
    in->parked_count++;
    in->parked_bytes += parked_size(blob);
    in->hub->parked++;
    in->waiting += waits;
    in->hub->waiting += waits;
    expire_by(in, parked->deadline_ns);
    if (entry->first == parked) line_update(in, entry);
    note_full(in);
    return 0;
}

/* Take a parked message, the one after `before` (NULL: the first), off its entry. The caller owns it. */
static struct parked *unpark(Ingress *in, struct route_entry *entry, struct parked *before)
{
    struct parked *parked = before ? before->next : entry->first;
    if (before) before->next = parked->next;
    else entry->first = parked->next;
    if (entry->last == parked) entry->last = before;
    in->parked_count--;
    in->parked_bytes -= parked_size(parked->blob);
    in->hub->parked--;
    in->waiting -= parked->waits;
    in->hub->waiting -= parked->waits;
    return parked;
}

static void parked_free(Hub *hub, struct parked *parked)
{
    blob_unref(hub, parked->blob);
    PyMem_Free(parked);
}

void ingress_unfull(Ingress *in)
{
    if (!in->full || in->closed) return;
    if (in->parked_count * (uint64_t)2 >= in->window_messages) return;
    if ((in->parked_bytes + in->buffered_bytes) * 2 >= in->window_bytes && !somebody_waits(in)) return;
    if (ingress_unread(in) * 2 >= ANSWERS_MAX) return;
    in->full = false;
    in->drained_due = true;
    ingress_due(in);
}

/* Answer a parked message with the current exception. Takes it over; it is off its entry. */
static int refuse_parked(Ingress *in, struct route_entry *entry, struct parked *parked, const char *code)
{
    struct xfer *xfer = parked->blob->xfer;
    const int rc = settle_refused(in, parked->slot, xfer ? xfer->id : NULL, entry->route->topic, code);
    if (xfer) xfer_refuse(in->hub, xfer);
    parked_free(in->hub, parked);
    return rc;
}

void entry_update(Ingress *in, struct route_entry *entry)
{
    line_update(in, entry);
    if (entry->first || !entry->listed) return;
    Hub *hub = in->hub;
    if (hub->retry_entry == entry) {
        hub->retry_entry = entry->parked_next;
        if (!hub->retry_entry) hub->retry_in = in->hub_next;
    }
    if (entry->parked_prev) entry->parked_prev->parked_next = entry->parked_next;
    else in->parked = entry->parked_next;
    if (entry->parked_next) entry->parked_next->parked_prev = entry->parked_prev;
    entry->parked_prev = entry->parked_next = NULL;
    entry->listed = false;
}

void parked_sweep(Ingress *in)
{
    for (struct route_entry *entry = in->parked, *next; entry; entry = next) {
        next = entry->parked_next;
        entry_update(in, entry);
    }
    ingress_unfull(in);
}

int refuse_first(Ingress *in, struct route_entry *entry, const char *code)
{
    return refuse_parked(in, entry, unpark(in, entry, NULL), code);
}

int entry_retry(Ingress *in, struct route_entry *entry, uint64_t now_ns, uint64_t until_ns)
{
    for (bool begun = false; entry->first && !entry->first->waits && !in->closed; begun = true) {
        if (begun && until_ns != UINT64_MAX && sira_now_mono_ns() >= until_ns) return 1;
        if (route_refresh(in, entry) < 0) { /* it may not be published any more */
            if (refuse_first(in, entry, "DENIED") < 0) return -1;
            continue;
        }
        if (in->closed || !route_has_room(entry->route, entry->first->blob)) return 0;
        struct parked *parked = unpark(in, entry, NULL);
        entry->moved_ns = now_ns;
        Route *route = (Route *)Py_NewRef(entry->route);
        blob_rehome(in->hub, parked->blob, route->topic); /* dropped and declared again while it waited */
        const int rc = post(in, route, parked->blob, parked->slot, parked->quiet, parked->has_reply_to, now_ns);
        Py_DECREF(route);
        parked_free(in->hub, parked);
        if (rc < 0) return -1;
    }
    return 0;
}

/* When a message has waited for too long. One that did not say how long it may waits on while those before it find
 * room: its subscriber is slow, and its publisher goes at that rate; one that takes nothing makes all of them late. */
static uint64_t parked_due(const Hub *hub, const struct route_entry *entry, const struct parked *parked)
{
    const uint64_t moved_due_ns = entry->moved_ns + hub->block_ns;
    return parked->patient && !parked->waits && parked->deadline_ns < moved_due_ns ? moved_due_ns : parked->deadline_ns;
}

enum { EXPIRED_A_LOOK = 16 }; /* refused between two looks at the clock: 4 us each, and more */

/* A later message of a topic may wait for less than the first. */
int ingress_expire(Ingress *in, uint64_t now_ns, uint64_t until_ns)
{
    if (in->busy || now_ns < in->expire_ns) return 0;
    in->busy = true;
    in->expire_ns = UINT64_MAX; /* lowered by what stays */
    int rc = 0;
    unsigned refused = 0;
    bool late = false;
    for (struct route_entry *entry = in->parked; entry && !late; entry = entry->parked_next) {
        struct parked *before = NULL;
        while (rc == 0 && !late && (before ? before->next : entry->first)) {
            struct parked *parked = before ? before->next : entry->first;
            const uint64_t due_ns = parked_due(in->hub, entry, parked);
            if (due_ns > now_ns) {
                expire_by(in, due_ns);
                before = parked;
                continue;
            }
            (void)unpark(in, entry, before);
            HubTopic *topic = entry->route->topic;
            char code[REASON_BYTES] = "QUEUE_FULL";
            if (parked->waits) {
                limits_refuse(&entry->route->limits, topic->name, parked->blob->cost, now_ns);
                hub_exception_code(code, sizeof code);
            } else {
                sira_raise("QUEUE_FULL", "no room at a subscriber of %U in the time given", topic->name);
            }
            rc = refuse_parked(in, entry, parked, code);
            if (!before) in->hub->retry = true; /* what comes next may fit */
            late = ++refused % EXPIRED_A_LOOK == 0 && sira_now_mono_ns() >= until_ns;
        }
    }
    if (late || rc < 0) in->expire_ns = 0; /* not all was looked at */
    parked_sweep(in);
    ingress_leave(in, now_ns);
    return rc;
}

int ingress_refuse_parked(Ingress *in, PyObject *error, const char *code, uint64_t now_ns)
{
    assert(!in->busy);
    in->busy = true;
    int rc = 0;
    for (struct route_entry *entry = in->parked; entry && rc == 0; entry = entry->parked_next) {
        while (entry->first && rc == 0) {
            struct parked *parked = unpark(in, entry, NULL);
            struct xfer *xfer = parked->blob->xfer;
            rc = settle_error(in, parked->slot, xfer ? xfer->id : NULL, entry->route->topic, code, Py_NewRef(error));
            if (xfer) xfer_refuse(in->hub, xfer);
            parked_free(in->hub, parked);
        }
    }
    parked_sweep(in);
    ingress_leave(in, now_ns);
    return rc;
}

/* Its publisher gives up a large message that still waits. */
uint64_t unpark_xfer(Ingress *in, const struct xfer *xfer)
{
    if (!xfer->parked) return SLOT_NONE;
    for (struct route_entry *entry = in->parked; entry; entry = entry->parked_next) {
        struct parked *before = NULL, *parked = entry->first;
        for (; parked && parked->blob->xfer != xfer; parked = parked->next) before = parked;
        if (!parked) continue;
        (void)unpark(in, entry, before);
        const uint64_t slot = parked->slot;
        parked_free(in->hub, parked);
        in->hub->retry = true; /* what comes next may fit */
        return slot;
    }
    return SLOT_NONE;
}

/* The stream is gone: what is parked was never accepted. */
void parked_drop_all(Ingress *in)
{
    for (struct route_entry *entry = in->parked; entry; entry = entry->parked_next) {
        line_leave(in->hub, entry); /* also where its last message has just been refused */
        while (entry->first) {
            struct parked *parked = unpark(in, entry, NULL);
            if (parked->blob->xfer) xfer_refuse(in->hub, parked->blob->xfer);
            parked_free(in->hub, parked);
        }
    }
    in->parked = NULL;
}
