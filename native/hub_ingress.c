/* A Publish stream on the node: what comes in is checked, routed, and posted or parked. */
#include "hub_limits.h"
#include "hub_stream.h"
#include "pb.h"
#include "pyutil.h"
#include "shm_span.h"

/* A message in one piece, so that with the node's stamp and a subscription it still fits into a frame. */
enum { INLINE_BYTES_MAX = SIRA_FRAME_BYTES_MAX - SIRA_STAMP_BYTES_MAX - 64 };

/* What this kind of topic cannot promise is refused by name, never ignored. */
static bool promises_kept(const struct sira_item *item, const struct sira_env *env)
{
    if (item->grade > 1) {
        sira_raise("GRADE_UNAVAILABLE", "a volatile or latest topic reaches grade accepted, no more");
        return false;
    }
    if (env->dedupe_key.len || env->expect.data) {
        sira_raise("UNSUPPORTED", "%s needs a durable topic", env->dedupe_key.len ? "dedupe_key" : "expect");
        return false;
    }
    if (env->fence.data) {
        sira_raise("UNSUPPORTED", "fence needs leases, which this node does not have");
        return false;
    }
    return true;
}

static int take_parsed(Ingress *in, PyObject *frame, const struct sira_item *item, struct sira_env *env,
                       uint64_t now_ns)
{
    Hub *hub = in->hub;
    const bool head = item->kind == SIRA_ITEM_HEAD;
    size_t at = 0;
    const enum sira_status status = sira_env_parse(item->body.data, item->body.len,
                                                   SIRA_ENV_CLIENT | (head ? SIRA_ENV_HEAD : 0),
                                                   hub->message_bytes_max, env, &at);
    hub->messages_in++;
    static const uint8_t no_id[SIRA_ID_BYTES];
    const uint8_t *id = env->id.len == SIRA_ID_BYTES ? env->id.data : no_id;
    const uint64_t slot = slot_open(in, env, head);
    if (slot == SLOT_NONE) return -1;
    if (in->resume) { /* sent before, on a stream that was lost */
        in->resume--;
        const struct past *past =
            status == SIRA_OK && in->history ? history_find(in->history, env->id.data, now_ns) : NULL;
        if (past) {
            ingress_settle(in, slot, id, item->quiet ? 3 : 4, past->matched, past->bytes, NULL);
            if (head && env->payload_bytes && item->quiet) { /* not answered: it comes whole, to nobody */
                struct xfer *xfer = xfer_find(in, env->id) ? NULL : xfer_new(in, env);
                if (xfer) xfer_unref(hub, xfer);
                else if (PyErr_Occurred()) return -1;
            }
            return 0;
        }
    }
    if (status != SIRA_OK) {
        sira_raise_status(status, at);
        return settle_refused(in, slot, id, NULL, NULL);
    }
    if (!head && env->raw.len > INLINE_BYTES_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "a message of %zu bytes, at most %d: send larger ones in chunks", env->raw.len,
                   INLINE_BYTES_MAX);
        return settle_refused(in, slot, id, NULL, NULL);
    }
    if (head && xfer_find(in, env->id)) {
        sira_raise("BAD_REQUEST", "a transfer with this id is under way on this stream");
        return settle_refused(in, slot, id, NULL, NULL);
    }
    struct route_entry *entry = NULL;
    struct blob *blob = NULL;
    int rc = -1;
    if (head && in->xfer_count >= hub->transfers_per_stream_max)
        sira_raise("QUOTA_EXCEEDED", "%u large messages of this stream are under way, its limit", in->xfer_count);
    else if (promises_kept(item, env))
        entry = route_of(in, env->topic);
    const uint64_t cost = message_cost(env, head);
    const enum admission admitted = entry ? entry_admit(in, entry, item, cost, now_ns) : ADMIT_REFUSED;
    if (admitted == ADMIT_AGAIN) return settle_again(in, slot, id, entry->route->topic);
    const bool waits = admitted == ADMIT_WAITS;
    if (admitted != ADMIT_REFUSED) {
        if (in->closed) return 0; /* by resolve() or admit(): nobody is there to be answered */
        HubTopic *topic = entry->route->topic;
        char why[256];
        if (topic->contract && !sira_contract_check(sira_contract_of(topic->contract), env, why, sizeof why))
            sira_raise("CONTRACT_MISMATCH", "%U: %s", topic->name, why);
        else
            blob = blob_new(in, topic, frame, env, head, now_ns);
    }
    if (!blob) {
        char code[REASON_BYTES];
        hub_exception_code(code, sizeof code);
        return settle_refused(in, slot, id, entry ? entry->route->topic : NULL, code);
    }
    /* From here to post() no Python runs: the route stays what it is. */
    const bool has_reply_to = env->reply_to.len > 0;
    const bool room = !waits && !entry->first && route_has_room(entry->route, blob);
    if (!room && !waits && item->has_wait && item->wait_ms == 0) {
        sira_raise("QUEUE_FULL", "no room at a subscriber of %U", entry->route->topic->name);
        rc = settle_refused(in, slot, id, entry->route->topic, "QUEUE_FULL");
        blob_unref(hub, blob);
        return rc;
    }
    if (head) {
        struct xfer *xfer = xfer_new(in, env); /* owned: by the blob */
        if (!xfer) {
            blob_unref(hub, blob);
            return -1;
        }
        xfer->deadline_ns = blob->deadline_ns;
        xfer->name = Py_NewRef(((HubTopic *)blob->topic)->name);
        xfer->head = blob;
        blob->xfer = xfer;
        if (!waits) xfer->held = held_take(&entry->route->limits, xfer->total);
    } else if (!waits) {
        blob->held = held_take(&entry->route->limits, blob->cost);
    }
    if (room) {
        Route *route = (Route *)Py_NewRef(entry->route);
        rc = post(in, route, blob, slot, item->quiet, has_reply_to, now_ns);
        Py_DECREF(route);
    } else {
        rc = park(in, entry, blob, slot, item, has_reply_to, waits, now_ns);
    }
    blob_unref(hub, blob);
    return rc;
}

/* One message or head. Its refusal is an answer; -1 only when the node itself fails. */
static int take_message(Ingress *in, PyObject *frame, const struct sira_item *item, uint64_t now_ns)
{
    Hub *hub = in->hub;
    struct sira_env *env = hub_env_enter(hub);
    if (!env) return -1;
    const int rc = take_parsed(in, frame, item, env, now_ns);
    hub_env_leave(hub);
    return rc;
}

/* End a transfer before its time, answering its message with the current exception. */
static int give_up(Ingress *in, struct xfer *xfer, const char *reason, uint64_t now_ns)
{
    xfer->refs++;
    const bool parked = xfer->parked;
    const uint64_t waiting = unpark_xfer(in, xfer);
    const uint64_t slot = parked ? waiting : xfer->slot;
    xfer->slot = SLOT_NONE;
    int rc = 0;
    if (slot != SLOT_NONE) rc = settle_refused(in, slot, xfer->id, NULL, NULL);
    else PyErr_Clear(); /* a quiet message */
    if (parked) xfer_refuse(in->hub, xfer); /* whole or not: nobody was given it */
    else xfer_abort(in->hub, xfer, hub_reason(in->hub, reason), now_ns);
    xfer_unref(in->hub, xfer);
    parked_sweep(in);
    return rc;
}

/* Is the frame nothing but this chunk, as we would write it ourselves? Only such a one goes on as it is: any other
 * could say more to its readers than was read here, another subscription for one. */
static bool chunk_is_all(PyObject *frame, const struct sira_item *item, const struct sira_chunk *chunk)
{
    size_t body = pb_bytes_size(1, SIRA_ID_BYTES) + pb_bytes_size(15, chunk->data.len);
    if (chunk->tensor) body += pb_uint_size(2, chunk->tensor);
    if (chunk->offset) body += pb_uint_size(3, chunk->offset);
    return item->body.len == body && item->raw.len == pb_bytes_size(SIRA_ITEM_CHUNK, body) &&
           (size_t)PyBytes_GET_SIZE(frame) == pb_bytes_size(1, item->raw.len);
}

/* The span that a lent chunk names, as lender() gives it. Runs Python: the transfer may be gone afterwards.
 * New reference; NULL with an exception. */
static PyObject *borrow(Ingress *in, const struct sira_lent *lent, PyObject *topic)
{
    if (!in->lender) return sira_raise("PROTOCOL_ERROR", "nobody lends on this stream");
    PyObject *call = Py_NewRef(in->lender); /* owned: it may be replaced meanwhile */
    PyObject *span = PyObject_CallFunction(call, "IKKKO", lent->segment, (unsigned long long)lent->offset,
                                           (unsigned long long)lent->bytes, (unsigned long long)lent->lease,
                                           topic); /* owned */
    Py_DECREF(call);
    if (!span || Py_IS_TYPE(span, &sira_shm_span_type)) return span;
    Py_DECREF(span);
    return PyErr_Format(PyExc_TypeError, "lender() gave no ShmSpan");
}

static int take_lent(Ingress *in, struct xfer *xfer, struct sira_chunk *chunk, uint64_t now_ns)
{
    PyObject *topic = Py_NewRef(xfer->name ? xfer->name : Py_None); /* owned */
    PyObject *span = borrow(in, &chunk->lent, topic);               /* owned */
    Py_DECREF(topic);
    xfer = in->closed ? NULL : xfer_find(in, chunk->id);
    int rc = 0;
    if (!xfer) { /* taken apart by lender(): nobody is there to be told */
        PyErr_Clear();
    } else if (!span) {
        char code[REASON_BYTES];
        hub_exception_code(code, sizeof code);
        rc = give_up(in, xfer, code, now_ns);
    } else {
        chunk->data = (struct sira_slice){sira_span_data(span), sira_span_lent(span).bytes};
        if (xfer_feed(in->hub, xfer, span, chunk, false) < 0) rc = give_up(in, xfer, "FRAME_CORRUPT", now_ns);
    }
    Py_XDECREF(span);
    return rc;
}

static int take_chunk(Ingress *in, PyObject *frame, const struct sira_item *item, uint64_t now_ns)
{
    struct sira_chunk chunk;
    const enum sira_status status = sira_chunk_parse(item->body, &chunk);
    if (status != SIRA_OK) {
        sira_raise_status(status, (size_t)(item->body.data - (const uint8_t *)PyBytes_AS_STRING(frame)));
        return -1;
    }
    in->hub->chunks_in++;
    struct xfer *xfer = xfer_find(in, chunk.id);
    if (!xfer) { /* of one that was refused or given up meanwhile: a lease comes back at once */
        PyObject *span = chunk.is_lent ? borrow(in, &chunk.lent, Py_None) : NULL; /* owned */
        Py_XDECREF(span);
        PyErr_Clear();
        return 0;
    }
    if (chunk.is_lent) return take_lent(in, xfer, &chunk, now_ns);
    if (in->parked_bytes + in->buffered_bytes >= in->window_bytes &&
        xfer->buffered + chunk.data.len > in->hub->transfer_window_bytes) { /* a full stream is read on trust */
        sira_raise("PROTOCOL_ERROR", "a chunk came past the credit of its message (%llu bytes are held)",
                   (unsigned long long)xfer->buffered);
        return give_up(in, xfer, "PROTOCOL_ERROR", now_ns);
    }
    if (xfer_feed(in->hub, xfer, frame, &chunk, chunk_is_all(frame, item, &chunk)) < 0)
        return give_up(in, xfer, "FRAME_CORRUPT", now_ns);
    return 0;
}

static int take_abort(Ingress *in, const struct sira_item *item, uint64_t now_ns)
{
    struct sira_abort abort; /* its error is the publisher's own affair */
    if (sira_abort_parse(item->body, &abort) != SIRA_OK) return 0;
    struct xfer *xfer = xfer_find(in, abort.id);
    if (!xfer) return 0;
    sira_raise("ABORTED", "the publisher gave this message up");
    return give_up(in, xfer, "ABORTED", now_ns);
}

/* A Frame for the Subscribe stream of the same client. Runs Python, between two items: nothing of `in` is held. */
static int take_aside(Ingress *in, const struct sira_item *item, uint64_t now_ns)
{
    if (!in->aside) return 0;
    PyObject *aside = Py_NewRef(in->aside); /* owned: it may be replaced meanwhile */
    PyObject *result = PyObject_CallFunction(aside, "y#K", (const char *)item->body.data, (Py_ssize_t)item->body.len,
                                             (unsigned long long)now_ns); /* owned */
    Py_DECREF(aside);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

enum { ITEMS_A_LOOK = 16 }; /* between two looks at the clock: 2 us of small messages, 2 ns each for the look */

/* Takes the items from *at on; *at is then where to go on, or the length of the frame.
 * until_ns: when to stop, between two items; 0: at the end. What an item may cost is a stranger's choice: each may name
 * a topic that is new, or that thousands listen to. */
static int take_frame(Ingress *in, PyObject *frame, uint64_t now_ns, uint64_t until_ns, size_t *at)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(frame);
    const size_t len = (size_t)PyBytes_GET_SIZE(frame);
    Hub *hub = in->hub;
    hub->now_ns = now_ns;
    if (*at == 0) {
        in->limited_until_ns = 0;
        hub->frames_in++;
        hub->bytes_in += len;
    }
    if (len > SIRA_FRAME_BYTES_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "a frame of %zu bytes, at most %d: send large messages in chunks", len,
                   SIRA_FRAME_BYTES_MAX);
        return -1;
    }
    uint64_t resolved = hub->routes_resolved;
    unsigned items = 0;
    while (!in->closed) {
        struct sira_item item;
        bool done;
        const enum sira_status status = sira_frame_next(data, len, at, &item, &done);
        if (status != SIRA_OK) {
            sira_raise_status(status, *at);
            return -1;
        }
        if (done) break;
        int rc = 0;
        switch (item.kind) {
        case SIRA_ITEM_MESSAGE:
        case SIRA_ITEM_HEAD: rc = take_message(in, frame, &item, now_ns); break;
        case SIRA_ITEM_CHUNK: rc = take_chunk(in, frame, &item, now_ns); break;
        case SIRA_ITEM_ABORT: rc = take_abort(in, &item, now_ns); break;
        case SIRA_ITEM_ASIDE: rc = take_aside(in, &item, now_ns); break;
        case SIRA_ITEM_ASK: rc = ingress_ask(in, &item); break;
        case SIRA_ITEM_NONE: break; /* of a later version: additive */
        default:
            sira_raise("PROTOCOL_ERROR", "an item of kind %u has no business on a Publish stream", item.kind);
            rc = -1;
        }
        if (rc < 0) return -1;
        if (!until_ns || (++items < ITEMS_A_LOOK && hub->routes_resolved == resolved)) continue;
        items = 0;
        resolved = hub->routes_resolved;
        if (*at < len && sira_now_mono_ns() >= until_ns) return 0;
    }
    *at = len;
    return 0;
}

int ingress_feed(Ingress *in, PyObject *frame, uint64_t now_ns, uint64_t work_ns, size_t *at)
{
    assert(*at <= (size_t)PyBytes_GET_SIZE(frame));
    if (in->busy) {
        sira_raise("INTERNAL", "a frame was fed to a stream that is taking one");
        return -1;
    }
    in->busy = true;
    const int rc = take_frame(in, frame, now_ns, work_ns ? sira_now_mono_ns() + work_ns : 0, at);
    limit_again_clear(&in->limited); /* the next frame has another time */
    note_full(in);
    ingress_leave(in, now_ns);
    return rc;
}

static void take_apart(Ingress *in, uint64_t now_ns)
{
    Hub *hub = in->hub;
    in->closing = false;
    parked_drop_all(in);
    while (in->xfers) {
        struct xfer *xfer = in->xfers;
        assert(xfer->received < xfer->total);
        xfer_abort(hub, xfer, R_PEER_LOST, now_ns);
    }
    PyMem_Free(in->buckets);
    in->buckets = NULL;
    in->bucket_cap = 0;
    routes_free(in);
    slots_free(in);
    for (struct cursor *cursor = hub->cursors; cursor; cursor = cursor->outer)
        if (cursor->next == in) cursor->next = in->hub_next;
    if (hub->retry_in == in) {
        hub->retry_in = in->hub_next;
        hub->retry_entry = NULL;
    }
    if (in->hub_prev) in->hub_prev->hub_next = in->hub_next;
    else hub->ingresses = in->hub_next;
    if (in->hub_next) in->hub_next->hub_prev = in->hub_prev;
    in->hub_prev = in->hub_next = NULL;
    Py_CLEAR(in->resolve);
    Py_CLEAR(in->wake);
    Py_CLEAR(in->drained);
    Py_CLEAR(in->aside);
    Py_CLEAR(in->lender);
    Py_CLEAR(in->asked);
    PyList_SetSlice(in->credits, 0, PyList_GET_SIZE(in->credits), NULL);
}

void ingress_leave(Ingress *in, uint64_t now_ns)
{
    in->busy = false;
    if (in->closing) take_apart(in, now_ns);
}

/* The stream is gone: unfinished transfers are lost, what is parked was never accepted. */
void ingress_close(Ingress *in, uint64_t now_ns)
{
    if (in->closed) return;
    in->closed = true;
    in->hub->now_ns = now_ns;
    if (in->busy) in->closing = true;
    else take_apart(in, now_ns);
}
