/* A Subscribe stream on the node: builds the next Frame from what waits, highest priority first, small messages
 * before and in turn with the chunks of large ones. */
#include "hub.h"
#include "hub_stream.h"
#include "pb.h"
#include "pyutil.h"
#include "shm_span.h"

enum {
    TURN_BYTES = 16 << 10,      /* of one subscription before the next has its turn */
    BUSY_CHUNK_BYTES = 252 << 10, /* larger chunks are split while small messages are about; as the SDK's are */
    BUSY_NS = 50000000,         /* "about": within the last 50 ms */
    CONTROL_ITEMS_MAX = 16384, /* unread; past it a client that asks for more is cut off: it does not read its answers */
    TAGGED_CHUNK_BYTES_MAX = SIRA_FRAME_BYTES_MAX - 64, /* the subscription must fit beside it */
    COPIED_CHUNK_BYTES = SIRA_FRAME_BYTES_MAX - (8 << 10), /* of a lent one, for who cannot map it; as the SDK's are */
};

/* ---- the list of subscriptions that have something and may send it ------------------------------------------ */

void egress_activate(Egress *egress, Sub *sub)
{
    if (sub->active) return;
    sub->active = true;
    sub->active_next = NULL;
    sub->active_prev = egress->active_last;
    if (egress->active_last) egress->active_last->active_next = sub;
    else egress->active_first = sub;
    egress->active_last = sub;
}

void egress_deactivate(Egress *egress, Sub *sub)
{
    if (!sub->active) return;
    sub->active = false;
    if (sub->active_prev) sub->active_prev->active_next = sub->active_next;
    else egress->active_first = sub->active_next;
    if (sub->active_next) sub->active_next->active_prev = sub->active_prev;
    else egress->active_last = sub->active_prev;
    sub->active_next = sub->active_prev = NULL;
}

void egress_wake(Egress *egress)
{
    if (!egress->idle || egress->closed) return;
    egress->idle = false;
    if (egress->due) return;
    egress->due = true;
    egress->due_next = egress->hub->out_due;
    egress->hub->out_due = (Egress *)Py_NewRef(egress);
}

Sub *egress_find(const Egress *egress, uint32_t id)
{
    uint32_t low = 0, high = egress->sub_len;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (egress->subs[middle]->id == id) return egress->subs[middle];
        if (egress->subs[middle]->id < id) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

int egress_insert(Egress *egress, Sub *sub)
{
    if (egress->sub_len == egress->sub_cap) {
        const uint32_t cap = egress->sub_cap ? egress->sub_cap * 2 : 4;
        Sub **subs = PyMem_Realloc(egress->subs, cap * sizeof *subs);
        if (!subs) {
            PyErr_NoMemory();
            return -1;
        }
        egress->subs = subs;
        egress->sub_cap = cap;
    }
    uint32_t at = egress->sub_len;
    while (at > 0 && egress->subs[at - 1]->id > sub->id) {
        egress->subs[at] = egress->subs[at - 1];
        at--;
    }
    egress->subs[at] = sub;
    egress->sub_len++;
    return 0;
}

/* ---- building a frame of small messages ------------------------------------------------------------------------- */

static size_t item_size(const struct pick *pick)
{
    const size_t sub_len = pb_varint_size(pick->sub->id);
    return pb_bytes_size(12, sub_len) + pb_bytes_size(1, pick->message_bytes); /* head is field 2: as long a key */
}

static uint8_t *item_write(uint8_t *p, const struct pick *pick, uint64_t now_ns)
{
    const struct blob *blob = pick->slot.blob;
    p = pb_put_varint(pb_put_key(p, 1, PB_LEN), pick->item_bytes);
    p = pb_put_key(p, 12, PB_LEN);
    p = pb_put_varint(p, pb_varint_size(pick->sub->id));
    p = pb_put_varint(p, pick->sub->id);
    p = pb_put_key(p, blob->xfer ? SIRA_ITEM_HEAD : SIRA_ITEM_MESSAGE, PB_LEN);
    p = pb_put_varint(p, pick->message_bytes);
    return blob_write(blob, p, now_ns);
}

/* Take messages of one priority from the active subscriptions in turn. False: the frame is full. */
static bool pick_priority(Egress *egress, uint8_t priority, struct pick *picks, uint32_t *count, size_t *bytes,
                          uint64_t now_ns)
{
    bool any = true;
    while (any) {
        any = false;
        Sub *sub = egress->active_first;
        Sub *const end = egress->active_last;
        while (sub) {
            Sub *next = sub == end ? NULL : sub->active_next;
            size_t turn = 0;
            while (turn < TURN_BYTES) {
                sub_skip_expired(sub, priority, now_ns);
                if (!sub_can_send(sub)) break;
                struct ring *ring = &sub->rings[priority];
                if (!ring->len) break;
                struct pick *pick = &picks[*count];
                pick->sub = sub;
                pick->message_bytes = blob_bytes(ring->at[ring->head].blob);
                pick->item_bytes = item_size(pick);
                const size_t framed = pb_bytes_size(1, pick->item_bytes);
                if (*count && (*bytes + framed > egress->batch_bytes || *count == PICKS_MAX)) return false;
                if (sub_sent(sub, &ring->at[ring->head], now_ns) < 0) {
                    PyErr_Clear(); /* no memory to remember it by: it stays queued */
                    break;
                }
                (void)sub_pop(sub, priority, &pick->slot);
                *bytes += framed;
                turn += framed;
                (*count)++;
                any = true;
            }
            if (!sub_can_send(sub)) {
                egress_deactivate(egress, sub);
            } else if (turn >= TURN_BYTES && sub != egress->active_last) { /* to the back: the others' turn */
                egress_deactivate(egress, sub);
                egress_activate(egress, sub);
            }
            sub = next;
        }
    }
    return true;
}

static uint64_t xfer_deadline(const struct xfer *xfer)
{
    return xfer->deadline_ns ? xfer->deadline_ns : UINT64_MAX;
}

/* Do the chunks of `a` go before those of `b`? */
static bool xfer_before(const struct xfer *a, const struct xfer *b)
{
    if (a->priority != b->priority) return a->priority > b->priority;
    return xfer_deadline(a) < xfer_deadline(b);
}

/* An out begins: its chunks may go. Another out of the same message on this stream makes it tagged. */
static void out_start(Egress *egress, struct out *out)
{
    for (struct out *other = egress->outs; other; other = other->next)
        if (other->xfer == out->xfer) out->tagged = true;
    out->active = true;
    struct out **link = &egress->outs; /* by priority, then deadline, then age */
    while (*link && !xfer_before(out->xfer, (*link)->xfer)) link = &(*link)->next;
    out->next = *link;
    *link = out;
    if (out->xfer->ingress) ingress_unfull(out->xfer->ingress); /* it waits for more now */
}

static PyObject *frame_of_messages(Egress *egress, uint64_t now_ns)
{
    Hub *hub = egress->hub;
    if (!egress->active_first) return NULL;
    struct pick *picks = hub->picks;
    uint32_t count = 0;
    size_t bytes = 0;
    for (int p = SIRA_PRIORITIES - 1; p >= 0 && egress->active_first; p--)
        if (!pick_priority(egress, (uint8_t)p, picks, &count, &bytes, now_ns)) break;
    if (!count) return NULL;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes); /* owned */
    uint8_t *p = frame ? (uint8_t *)PyBytes_AS_STRING(frame) : NULL;
    bool small = false; /* heads alone are no reason to shrink chunks */
    for (uint32_t i = 0; i < count; i++) {
        struct pick *pick = &picks[i];
        if (p) p = item_write(p, pick, now_ns);
        if (pick->slot.out) out_start(egress, pick->slot.out);
        else small = true;
        blob_unref(hub, pick->slot.blob);
    }
    assert(!p || p == (uint8_t *)PyBytes_AS_STRING(frame) + bytes);
    hub->deliveries_out += count;
    if (small) egress->small_ns = now_ns;
    return frame;
}

/* ---- chunks --------------------------------------------------------------------------------------------------------- */

/* A Frame of one chunk item, at byte `from` of `chunk`, for one subscription if tagged; it ends with `len` bytes of
 * `field`, which are to be written at *to. New reference. */
static PyObject *chunk_begin(const struct out *out, const struct chunk *chunk, size_t from, uint32_t field, size_t len,
                             uint8_t **to)
{
    const struct sira_chunk *parsed = &chunk->parsed;
    const uint64_t offset = parsed->offset + from;
    size_t body = pb_bytes_size(1, SIRA_ID_BYTES) + pb_bytes_size(field, len);
    if (parsed->tensor) body += pb_uint_size(2, parsed->tensor);
    if (offset) body += pb_uint_size(3, offset);
    const size_t sub_len = pb_varint_size(out->sub->id);
    const size_t item = pb_bytes_size(SIRA_ITEM_CHUNK, body) + (out->tagged ? pb_bytes_size(12, sub_len) : 0);
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pb_bytes_size(1, item)); /* owned */
    if (!frame) return NULL;
    uint8_t *p = (uint8_t *)PyBytes_AS_STRING(frame);
    p = pb_put_varint(pb_put_key(p, 1, PB_LEN), item);
    if (out->tagged) {
        p = pb_put_varint(pb_put_key(p, 12, PB_LEN), sub_len);
        p = pb_put_varint(p, out->sub->id);
    }
    p = pb_put_varint(pb_put_key(p, SIRA_ITEM_CHUNK, PB_LEN), body);
    p = pb_put_bytes(p, 1, out->xfer->id, SIRA_ID_BYTES);
    if (parsed->tensor) p = pb_put_uint(p, 2, parsed->tensor);
    if (offset) p = pb_put_uint(p, 3, offset);
    *to = pb_put_varint(pb_put_key(p, field, PB_LEN), len);
    return frame;
}

/* A Frame with bytes [from, from + len) of `chunk`. */
static PyObject *chunk_frame(const struct out *out, const struct chunk *chunk, size_t from, size_t len)
{
    uint8_t *to;
    PyObject *frame = chunk_begin(out, chunk, from, 15, len, &to); /* owned */
    if (frame) memcpy(to, chunk->parsed.data.data + from, len);
    return frame;
}

/* A Frame of one item: the subscriber may look at the memory itself. NULL without an exception: copy. */
static PyObject *lent_frame(Egress *egress, const struct out *out, const struct chunk *chunk)
{
    PyObject *call = Py_NewRef(egress->lend);                                 /* owned: it may be replaced meanwhile */
    PyObject *number = PyObject_CallFunctionObjArgs(call, chunk->frame, NULL); /* owned */
    Py_DECREF(call);
    const uint64_t lease = number ? PyLong_AsUnsignedLongLong(number) : 0;
    Py_XDECREF(number);
    if (PyErr_Occurred()) PyErr_WriteUnraisable((PyObject *)egress); /* the bytes can still be copied */
    if (!lease || lease == UINT64_MAX) return NULL;
    const struct sira_lent lent = sira_span_lent(chunk->frame);
    const size_t len = pb_uint_size(1, lent.segment) + (lent.offset ? pb_uint_size(2, lent.offset) : 0) +
                       pb_uint_size(3, lent.bytes) + pb_uint_size(4, lease);
    uint8_t *p;
    PyObject *frame = chunk_begin(out, chunk, 0, 4, len, &p); /* owned */
    if (!frame) return NULL;
    p = pb_put_uint(p, 1, lent.segment);
    if (lent.offset) p = pb_put_uint(p, 2, lent.offset);
    p = pb_put_uint(p, 3, lent.bytes);
    (void)pb_put_uint(p, 4, lease);
    return frame;
}

/* The next bytes of `chunk` for `out`, *len of them. New reference; NULL with an exception. */
static PyObject *piece_frame(Egress *egress, const struct out *out, const struct chunk *chunk, uint64_t now_ns,
                             size_t *len)
{
    const size_t all = chunk->parsed.data.len;
    *len = all - out->split_at;
    if (chunk->parsed.is_lent && egress->lend && !out->split_at) {
        PyObject *frame = lent_frame(egress, out, chunk); /* owned */
        if (frame || PyErr_Occurred()) return frame;
    }
    const bool busy = egress->small_ns && now_ns - egress->small_ns < BUSY_NS;
    if (busy && *len > BUSY_CHUNK_BYTES) *len = BUSY_CHUNK_BYTES;
    if (out->tagged && *len > TAGGED_CHUNK_BYTES_MAX) *len = TAGGED_CHUNK_BYTES_MAX;
    if (chunk->parsed.is_lent && *len > COPIED_CHUNK_BYTES) *len = COPIED_CHUNK_BYTES;
    if (chunk->alone && !out->tagged && *len == all) return Py_NewRef(chunk->frame);
    return chunk_frame(out, chunk, out->split_at, *len);
}

static PyObject *frame_of_chunk(Egress *egress, uint64_t now_ns)
{
    Hub *hub = egress->hub;
    struct out **link = &egress->outs;
    while (*link) { /* transfers that are through leave the list */
        struct out *out = *link;
        if (!out->chunk && out->xfer->complete) out_free(hub, out);
        else link = &out->next;
    }
    for (struct out *out = egress->outs; out; out = out->next) {
        struct chunk *chunk = out->chunk;
        if (!chunk) continue;
        const size_t all = chunk->parsed.data.len;
        size_t len;
        PyObject *frame = piece_frame(egress, out, chunk, now_ns, &len); /* owned */
        if (!frame) return NULL;
        out->split_at += len;
        if (out->split_at == all) {
            out->split_at = 0;
            out->chunk = chunk->next;
            struct xfer *xfer = out->xfer;
            if (!out->chunk && xfer->complete) {
                xfer->refs++;
                out_free(hub, out);
                chunk_sent(hub, xfer, chunk);
                xfer_unref(hub, xfer);
            } else {
                chunk_sent(hub, xfer, chunk);
                struct out **from = &egress->outs; /* equals take turns: behind the last of the same priority */
                while (*from != out) from = &(*from)->next;
                struct out **to = from;
                while ((*to)->next && !xfer_before(xfer, (*to)->next->xfer)) to = &(*to)->next;
                if (*to != out) {
                    struct out *last = *to;
                    *from = out->next;
                    out->next = last->next;
                    last->next = out;
                }
            }
        }
        hub->chunks_out++;
        return frame;
    }
    return NULL;
}

int egress_abort(Egress *egress, const struct out *out, uint16_t reason)
{
    const Hub *hub = egress->hub;
    const char *code = hub->reasons[reason];
    const size_t code_len = strlen(code);
    const size_t error = pb_bytes_size(1, code_len);
    const size_t body = pb_bytes_size(1, SIRA_ID_BYTES) + pb_bytes_size(2, error);
    const size_t sub_len = pb_varint_size(out->sub->id);
    const size_t item = pb_bytes_size(SIRA_ITEM_ABORT, body) + pb_bytes_size(12, sub_len);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pb_bytes_size(1, item)); /* owned */
    if (!bytes) return -1;
    uint8_t *p = (uint8_t *)PyBytes_AS_STRING(bytes);
    p = pb_put_varint(pb_put_key(p, 1, PB_LEN), item);
    p = pb_put_varint(pb_put_key(p, 12, PB_LEN), sub_len);
    p = pb_put_varint(p, out->sub->id);
    p = pb_put_varint(pb_put_key(p, SIRA_ITEM_ABORT, PB_LEN), body);
    p = pb_put_bytes(p, 1, out->xfer->id, SIRA_ID_BYTES);
    p = pb_put_varint(pb_put_key(p, 2, PB_LEN), error);
    (void)pb_put_bytes(p, 1, code, code_len);
    const int rc = PyList_Append(egress->control, bytes);
    Py_DECREF(bytes);
    egress_wake(egress);
    return rc;
}

void egress_drop_outs(Egress *egress, const Sub *sub, uint16_t reason)
{
    struct out **link = &egress->outs;
    while (*link) {
        struct out *out = *link;
        if (out->sub != sub) {
            link = &out->next;
            continue;
        }
        if ((out->chunk || !out->xfer->complete) && !egress->closed && egress_abort(egress, out, reason) < 0)
            PyErr_Clear();
        out_free(egress->hub, out); /* unlinks it here */
    }
}

/* ---- frames ------------------------------------------------------------------------------------------------------------- */

PyObject *egress_next_frame(Egress *egress, uint64_t now_ns)
{
    Hub *hub = egress->hub;
    hub->now_ns = now_ns;
    PyObject *frame = frame_of_items(egress->control); /* owned */
    if (!frame && PyErr_Occurred()) return NULL;
    if (!frame && egress->chunk_turn) frame = frame_of_chunk(egress, now_ns);
    egress->chunk_turn = false;
    if (!frame && !PyErr_Occurred()) {
        frame = frame_of_messages(egress, now_ns);
        egress->chunk_turn = frame != NULL;
    }
    if (!frame && !PyErr_Occurred()) frame = frame_of_chunk(egress, now_ns);
    if (PyErr_Occurred()) {
        Py_XDECREF(frame);
        return NULL;
    }
    if (frame) {
        hub->frames_out++;
        hub->bytes_out += (uint64_t)PyBytes_GET_SIZE(frame);
    } else {
        egress->idle = true; /* before hub_retry(): what it posts to us must wake us */
    }
    if (hub->retry) hub_retry(hub, now_ns);
    return frame;
}

/* Credits are taken; other items come back as a list of (kind, bytes). */
PyObject *egress_feed(Egress *egress, PyObject *frame, uint64_t now_ns)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(frame);
    const size_t len = (size_t)PyBytes_GET_SIZE(frame);
    Hub *hub = egress->hub;
    PyObject *others = NULL; /* owned */
    hub->now_ns = now_ns;
    size_t at = 0;
    for (;;) {
        struct sira_item item;
        bool done;
        enum sira_status status = sira_frame_next(data, len, &at, &item, &done);
        if (status == SIRA_OK && done) break;
        struct sira_credit credit = {0};
        if (status == SIRA_OK && item.kind == SIRA_ITEM_CREDIT) status = sira_credit_parse(item.body, &credit);
        if (status != SIRA_OK) {
            sira_raise_status(status, at);
            goto fail;
        }
        if (item.kind == SIRA_ITEM_CREDIT) {
            Sub *sub = egress_find(egress, credit.subscription); /* borrowed */
            if (sub && credit.total) /* a total that another one overtook says nothing new */
                credit.taken = credit.total > sub->taken ? credit.total - sub->taken : 0;
            if (sub && sub_taken(sub, credit.taken, now_ns) < 0) goto fail; /* none: closed meanwhile */
            if (egress->active_first) egress_wake(egress);
            continue;
        }
        if (item.kind == SIRA_ITEM_NONE) continue;
        if (PyList_GET_SIZE(egress->control) >= CONTROL_ITEMS_MAX) {
            sira_raise("QUOTA_EXCEEDED", "%d answers were not read, the limit of a stream", CONTROL_ITEMS_MAX);
            goto fail;
        }
        if (!others && !(others = PyList_New(0))) goto fail;
        PyObject *pair = Py_BuildValue("(Iy#)", item.kind, (const char *)item.body.data, (Py_ssize_t)item.body.len); /* owned */
        const int rc = pair ? PyList_Append(others, pair) : -1;
        Py_XDECREF(pair);
        if (rc < 0) goto fail;
    }
    if (hub->retry) hub_retry(hub, now_ns);
    return others ? others : Py_NewRef(Py_None);
fail:
    Py_XDECREF(others);
    return NULL;
}

/* ---- closing ---------------------------------------------------------------------------------------------------------------- */

void egress_close_sub(Egress *egress, Sub *sub, uint16_t reason, uint64_t now_ns)
{
    Hub *hub = egress->hub;
    hub->now_ns = now_ns;
    for (uint32_t i = 0; i < egress->sub_len; i++) {
        if (egress->subs[i] != sub) continue;
        memmove(&egress->subs[i], &egress->subs[i + 1], (egress->sub_len - i - 1) * sizeof *egress->subs);
        egress->sub_len--;
        sub_close(sub, reason, now_ns);
        Py_DECREF(sub);
        break;
    }
    if (hub->retry) hub_retry(hub, now_ns);
}

void egress_close(Egress *egress, uint16_t reason, uint64_t now_ns)
{
    if (egress->closed) return;
    egress->closed = true;
    /* A group member's messages must not go to another member of the same dead stream. */
    for (uint32_t i = 0; i < egress->sub_len; i++)
        if (egress->subs[i]->group) group_leave(egress->subs[i]->group, egress->subs[i]);
    while (egress->sub_len) egress_close_sub(egress, egress->subs[egress->sub_len - 1], reason, now_ns);
    PyMem_Free(egress->subs);
    egress->subs = NULL;
    egress->sub_cap = 0;
    Py_CLEAR(egress->wake);
    Py_CLEAR(egress->lend);
    PyList_SetSlice(egress->control, 0, PyList_GET_SIZE(egress->control), NULL);
}
