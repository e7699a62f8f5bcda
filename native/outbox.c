/* Outbox: what a client has to publish on one Publish stream.
 *
 * Messages are encoded when they are pushed, into the batch of their priority; take() gives a whole batch, the
 * highest priority first, so nothing waits for company. A large message is pushed as its head, which keeps its
 * place among the others, and sends its chunks once the head has left (outbox_upload.c), or with it where they only
 * name shared memory (outbox_lend.c).
 *
 * Answers come in the order of sending (outbox_feed.c); so a batch that was sent is kept until all in it are
 * answered, and a lost connection can send it again (outbox_lost.c). A quiet message has no answer of its own: it
 * is settled by the answer to any later one, or forgotten when window_messages newer quiet ones were sent, and it
 * is never sent again, because whoever asked quietly waits for a reply and repeats the question itself. */
#include "client.h"

#include <structmember.h>

#include "pb.h"

/* ---- state ------------------------------------------------------------------------------------------------ */
static struct batch *next_batch(const Outbox *self, struct batches **list)
{
    Outbox *own = (Outbox *)self;
    *list = self->again.first || !self->mask ? &own->again : &own->queues[31 - __builtin_clz(self->mask)];
    return (*list)->first;
}

bool outbox_ready(const Outbox *self)
{
    return self->again.first || self->mask || upload_next(self) || routes_ready(self);
}

void outbox_signal(Outbox *self)
{
    if (self->signalled || !outbox_ready(self)) return;
    self->signalled = true;
    sira_callback(self->wake);
}

/* The same for large messages. */
static bool has_upload_room(const Outbox *self, uint64_t times)
{
    return self->upload_bytes < times * self->window_bytes && self->upload_count < times * OUTBOX_UPLOADS_MAX;
}

/* Within so many times the window? */
static bool has_room(const Outbox *self, uint64_t times)
{
    return self->unanswered + self->quiet_queued < times * self->window_messages &&
           self->unanswered_bytes + self->quiet_queued_bytes < times * self->window_bytes;
}

bool outbox_room(const Outbox *self)
{
    return has_room(self, 1);
}

bool outbox_full(const Outbox *self, bool large)
{
    return !has_room(self, 2) || (large && !has_upload_room(self, 2));
}

/* ---- push ------------------------------------------------------------------------------------------------- */
/* Bytes of an Item around a body of `len`, without its own tag and length. */
static size_t item_size(uint32_t kind, size_t len, const struct sira_options *options)
{
    size_t size = pb_bytes_size(kind, len);
    if (options->quiet) size += pb_uint_size(13, 1);
    if (options->has_wait) size += pb_uint_size(14, options->wait_ms);
    if (options->grade) size += pb_uint_size(15, options->grade);
    return size;
}

static uint8_t *item_flags(uint8_t *at, const struct sira_options *options)
{
    if (options->quiet) at = pb_put_uint(at, 13, 1);
    if (options->has_wait) at = pb_put_uint(at, 14, options->wait_ms);
    if (options->grade) at = pb_put_uint(at, 15, options->grade);
    return at;
}

static struct upload *upload_of(Outbox *self, const uint8_t *id, const struct sira_options *options)
{
    if (options->has_id && upload_find(self, id)) { /* one that we made is new */
        sira_raise("BAD_REQUEST", "a large message of this id is being sent");
        return NULL;
    }
    struct upload *upload = PyMem_Calloc(1, sizeof *upload);
    if (!upload) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(upload->id, id, SIRA_ID_BYTES);
    upload->priority = (uint8_t)options->priority;
    upload->quiet = options->quiet;
    upload->deadline_ns = UINT64_MAX;
    if (options->ttl_ns && __builtin_add_overflow(sira_now_mono_ns(), options->ttl_ns, &upload->deadline_ns))
        upload->deadline_ns = UINT64_MAX;
    return upload;
}

enum outbox_pushed outbox_push_body(Outbox *self, struct sira_slice topic, struct sira_body *body,
                                    const struct sira_options *options, PyObject *ticket, uint8_t *id)
{
    if (options->has_id) memcpy(id, options->id, SIRA_ID_BYTES);
    else sira_id_new(id);
    Py_ssize_t source_len;
    const char *source = PyUnicode_AsUTF8AndSize(self->source, &source_len); /* cached: cannot fail after new() */
    const struct sira_envelope envelope = {
        .topic = topic,
        .source = {(const uint8_t *)source, (size_t)source_len},
        .id = id,
        .time_ns = sira_now_wall_ns(),
        .options = options,
    };
    const bool large = body->chunk || body->payload_bytes > self->inline_bytes_max;
    const uint32_t kind = large ? SIRA_ITEM_HEAD : SIRA_ITEM_MESSAGE;
    const size_t size = sira_encode_size(&envelope, body, large);
    if (!size) return OUTBOX_FAILED;
    const size_t item = item_size(kind, size, options);
    const size_t len = pb_bytes_size(1, item);
    if (outbox_full(self, large)) return OUTBOX_FULL;

    struct upload *upload = large ? upload_of(self, id, options) : NULL;
    struct batches *queue = &self->queues[options->priority];
    struct batch *batch = upload || !large ? batch_for(self, queue, options->priority, len) : NULL;
    if (!batch) {
        PyMem_Free(upload);
        return OUTBOX_FAILED;
    }
    uint8_t *frame = (uint8_t *)PyBytes_AS_STRING(batch->frame);
    uint8_t *at = pb_put_varint(pb_put_key(frame + batch->used, 1, PB_LEN), item);
    at = item_flags(at, options);
    uint8_t *message = pb_put_varint(pb_put_key(at, kind, PB_LEN), size);
    at = sira_encode_write(message, &envelope, body, large);
    assert(at == frame + batch->used + len);

    struct record *record = batch_record(batch, id, Py_XNewRef(large ? NULL : ticket), len);
    record->quiet = options->quiet;
    self->mask |= 1u << options->priority;
    if (options->ttl_ns) {
        record->written_ns = sira_now_mono_ns();
        batch_find_ttl(record, frame, message, size);
        batch->has_ttl |= record->ttl_at != 0;
    }
    if (options->quiet) {
        self->quiet_queued++;
        self->quiet_queued_bytes += len;
    } else {
        self->unanswered++;
        self->unanswered_bytes += len;
    }
    if (large) {
        record->upload = upload;
        upload->ticket = Py_XNewRef(ticket);
        upload->batch = batch;
        upload->head_len = (uint32_t)len;
        sira_body_move(&upload->body, body);
        self->upload_bytes += upload->body.payload_bytes;
        upload_link(self, upload);
        if (!upload->body.chunk) sira_heap_warm();
    }
    return OUTBOX_PUSHED;
}

bool outbox_arguments(PyObject *const *args, Py_ssize_t count, PyObject *names, const char *const *known, int known_count,
                      PyObject **values)
{
    const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count > known_count) return false;
    for (Py_ssize_t i = 0; i < count; i++) values[i] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        int k = 0;
        while (k < known_count && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, i), known[k])) k++;
        if (k == known_count || values[k]) return false;
        values[k] = args[count + i];
    }
    return values[0] && values[1];
}

static PyObject *outbox_push(Outbox *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    enum { KNOWN = 5 };
    static const char *const known[KNOWN] = {"topic", "body", "options", "ticket", "loan"};
    PyObject *values[KNOWN] = {NULL, NULL, NULL, NULL, NULL}; /* borrowed */
    if (count > 4 || !outbox_arguments(args, count, names, known, KNOWN, values)) goto bad_call;
    const struct sira_options *options = sira_options_of(values[2]);
    struct sira_slice topic;
    struct sira_body body;
    if (!options || sira_topic_of_py(values[0], &topic) < 0) return NULL;
    if (sira_body_from_py(values[1], &body) < 0) return NULL; /* may run anything; nothing of ours is held yet */
    PyObject *loan = values[4] == Py_None ? NULL : values[4]; /* borrowed */
    PyObject *result = PyBytes_FromStringAndSize(NULL, SIRA_ID_BYTES); /* owned */
    enum outbox_direct direct = result ? DIRECT_NOT : DIRECT_FAILED;
    struct sira_receipt receipt; /* nobody asks for it */
    if (result && options->quiet && (!loan || outbox_check_chunk(loan) == 0))
        direct = outbox_direct_body(self, values[0], &body, options, loan, (uint8_t *)PyBytes_AS_STRING(result), &receipt);
    enum outbox_pushed pushed = OUTBOX_FAILED;
    if (direct != DIRECT_FAILED && direct != DIRECT_POSTED && outbox_place(self, values[0], &body, loan) == 0)
        pushed = outbox_push_body(self, topic, &body, options, values[3] == Py_None ? NULL : values[3],
                                  (uint8_t *)PyBytes_AS_STRING(result));
    if (pushed == OUTBOX_PUSHED) routes_pushed(self, values[0], options);
    sira_body_clear(&body);
    if (direct == DIRECT_POSTED) return result;
    if (pushed == OUTBOX_PUSHED) {
        if (!self->signalled) outbox_signal(self);
        return result;
    }
    Py_XDECREF(result);
    if (pushed == OUTBOX_FULL)
        sira_raise("QUEUE_FULL", "%llu messages wait for an answer or to be sent",
                   (unsigned long long)(self->unanswered + self->quiet_queued));
    return NULL;
bad_call:
    PyErr_SetString(PyExc_TypeError, "push(topic, body, options=None, ticket=None, *, loan=None)");
    return NULL;
}

/* ---- take ------------------------------------------------------------------------------------------------- */
/* The bookkeeping of its records, as it leaves. */
static void batch_sent(Outbox *self, struct batch *batch, uint64_t now_ns)
{
    bool whole = false;
    batch->at = 0;
    batch->live = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        struct record *record = &batch->records[i];
        if (record->quiet) {
            self->quiet_queued--;
            self->quiet_queued_bytes -= record->len;
            self->quiet_sent += !record->upload;
        }
        if (record->upload) upload_enter(self, record->upload, UPLOAD_ACTIVE);
        else whole = true;
        batch->live += record->upload || !record->quiet;
    }
    if (whole) self->small_ns = now_ns ? now_ns : 1;
}

static PyObject *take_batch(Outbox *self, struct batches *list, struct batch *batch, uint64_t now_ns)
{
    if (batch->has_ttl) batch_age(batch, now_ns);
    PyObject *frame = batch_seal(batch); /* borrowed */
    if (!frame) return NULL;
    Py_INCREF(frame);
    batches_remove(list, batch);
    if (list != &self->again && !list->first) self->mask &= ~(1u << batch->priority);
    self->room_hint = batch->used < self->batch_bytes ? batch->used + batch->used / 4 : self->batch_bytes;
    if (self->room_hint > self->batch_bytes) self->room_hint = self->batch_bytes;
    self->small_last = true;
    batch_sent(self, batch, now_ns);
    batches_append(&self->sent, batch);
    if (!self->cursor) self->cursor = batch;
    struct upload *lent = NULL;
    if (self->lends && self->uploads) frame = outbox_lend_heads(self, batch, frame, &lent);
    batch_settle(self, batch);
    if (self->quiet_sent > 2 * self->window_messages) outbox_forget_quiet(self);
    outbox_lent(self, lent);
    return frame;
}

static PyObject *outbox_take(Outbox *self, PyObject *now)
{
    const unsigned long long now_ns = PyLong_AsUnsignedLongLong(now);
    if (now_ns == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
    struct batches *list;
    struct batch *batch = next_batch(self, &list);
    struct upload *upload = !(batch && !self->small_last) ? upload_next(self) : NULL;
    if (upload) {
        self->small_last = false;
        return upload_chunk(self, upload, now_ns);
    }
    if (batch) return take_batch(self, list, batch, now_ns);
    if (routes_ready(self)) return routes_take(self);
    self->signalled = false;
    Py_RETURN_NONE;
}

/* ---- the type --------------------------------------------------------------------------------------------- */
/* A keyword argument in bytes, within what a Frame takes. */
static int size_of(const char *name, long long value, long long max, uint32_t *out)
{
    if (value < 1 || value > max) {
        PyErr_Format(PyExc_ValueError, "%s must be from 1 to %lld", name, max);
        return -1;
    }
    *out = (uint32_t)value;
    return 0;
}

static PyObject *outbox_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"source", "window_messages", "window_bytes", "batch_bytes", "inline_bytes_max",
                            "chunk_bytes", "chunk_bytes_busy", "transfer_window_bytes", "wake", "placer",
                            "lend_bytes_min", NULL};
    PyObject *source = NULL, *wake = NULL, *placer = NULL; /* borrowed */
    long long messages = 4096, bytes = 8 << 20, batch = SIRA_BATCH_BYTES, in_line = 256 << 10,
              chunk = SIRA_CHUNK_BYTES, busy = SIRA_CHUNK_BYTES_BUSY, transfer = 8 << 20, lend = 64 << 10;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$ULLLLLLLOOL:Outbox", names, &source, &messages, &bytes, &batch,
                                     &in_line, &chunk, &busy, &transfer, &wake, &placer, &lend))
        return NULL;
    if (messages < 1 || messages > 1 << 24 || bytes < 1 || bytes > INT64_MAX / 4 || transfer < 1 || lend < 1) {
        PyErr_SetString(PyExc_ValueError, "a window and lend_bytes_min must be positive, and at most 2^24 messages");
        return NULL;
    }
    Outbox *self = (Outbox *)type->tp_alloc(type, 0); /* owned */
    if (!self) return NULL;
    enum { AROUND_BYTES = 1 << 10 }; /* keys and lengths of Frame, Item and Chunk, rounded up */
    if (size_of("batch_bytes", batch, SIRA_FRAME_BYTES_MAX, &self->batch_bytes) < 0 ||
        size_of("inline_bytes_max", in_line, SIRA_FRAME_BYTES_MAX - SIRA_ENVELOPE_BYTES_MAX - AROUND_BYTES,
                &self->inline_bytes_max) < 0 ||
        size_of("chunk_bytes", chunk, SIRA_FRAME_BYTES_MAX - AROUND_BYTES, &self->chunk_bytes) < 0 ||
        size_of("chunk_bytes_busy", busy, SIRA_FRAME_BYTES_MAX - AROUND_BYTES, &self->chunk_bytes_busy) < 0)
        goto failed;
    self->window_messages = (uint64_t)messages;
    self->window_bytes = (uint64_t)bytes;
    self->transfer_window_bytes = (uint64_t)transfer;
    self->source = source ? Py_NewRef(source) : PyUnicode_FromString("");
    if (!self->source || !PyUnicode_AsUTF8(self->source)) goto failed;
    if (wake && wake != Py_None) self->wake = Py_NewRef(wake);
    if (placer && placer != Py_None) self->placer = Py_NewRef(placer);
    self->lend_bytes_min = (unsigned long long)lend;
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static int visit_batches(const struct batches *list, visitproc visit, void *arg)
{
    for (const struct batch *batch = list->first; batch; batch = batch->next)
        for (uint32_t i = 0; i < batch->count; i++) Py_VISIT(batch->records[i].ticket);
    return 0;
}

static int outbox_traverse(Outbox *self, visitproc visit, void *arg)
{
    Py_VISIT(self->wake);
    Py_VISIT(self->placer);
    Py_VISIT(self->broken);
    Py_VISIT(self->routes.by_topic);
    Py_VISIT(self->routes.broken);
    int result = visit_batches(&self->again, visit, arg);
    if (!result) result = visit_batches(&self->sent, visit, arg);
    for (uint32_t p = 0; !result && p < SIRA_PRIORITIES; p++) result = visit_batches(&self->queues[p], visit, arg);
    for (const struct upload *upload = self->uploads; !result && upload; upload = upload->next) {
        Py_VISIT(upload->ticket);
        for (uint32_t i = 0; i < upload->body.tensor_count; i++) Py_VISIT(upload->body.tensors[i].owner);
    }
    return result;
}

static int outbox_tp_clear(Outbox *self)
{
    PyObject *tickets = outbox_clear(self, NULL); /* owned */
    if (!tickets) PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(tickets);
    Py_CLEAR(self->wake);
    Py_CLEAR(self->placer);
    routes_drop(self);
    return 0;
}

static void outbox_dealloc(Outbox *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    outbox_tp_clear(self);
    Py_CLEAR(self->source);
    PyMem_Free(self->leases);
    PyMem_Free(self->routes.ended);
    while (self->spare) {
        struct batch *batch = self->spare;
        self->spare = batch->next;
        PyMem_Free(batch->records);
        PyMem_Free(batch);
    }
    type->tp_free(self);
}

static PyObject *get_room(Outbox *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(has_room(self, 1));
}

static PyObject *get_transfer_room(Outbox *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(has_upload_room(self, 1));
}

static PyObject *get_ready(Outbox *self, void *Py_UNUSED(closure))
{
    const bool ready = outbox_ready(self);
    if (!ready) self->signalled = false; /* a writer that looks before it waits needs the next wake */
    return PyBool_FromLong(ready);
}

static PyObject *get_placer(Outbox *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->placer ? self->placer : Py_None);
}

static int set_placer(Outbox *self, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(self->placer, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyObject *get_links(Outbox *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->routes.on);
}

static int set_links(Outbox *self, PyObject *value, void *Py_UNUSED(closure))
{
    const int on = value ? PyObject_IsTrue(value) : 0;
    if (on < 0) return -1;
    self->routes.on = on;
    if (!on) routes_drop(self);
    return 0;
}

static PyGetSetDef outbox_getset[] = {
    {"links", (getter)get_links, (setter)set_links, "messages may go past the node; False drops all routes", NULL},
    {"placer", (getter)get_placer, (setter)set_placer,
     "(topic, bytes) -> ShmChunk | None: where a body of at least lend_bytes_min is put", NULL},
    {"room", (getter)get_room, NULL, "the window takes one more message", NULL},
    {"transfer_room", (getter)get_transfer_room, NULL,
     "less than window_bytes of large messages wait to be taken, and few to be answered", NULL},
    {"ready", (getter)get_ready, NULL, "take() would give a frame now", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef outbox_members[] = {
    {"unanswered", T_ULONGLONG, offsetof(Outbox, unanswered), READONLY, "without quiet ones"},
    {"accepted", T_ULONGLONG, offsetof(Outbox, accepted), READONLY, NULL},
    {"refused", T_ULONGLONG, offsetof(Outbox, refused), READONLY, NULL},
    {"transfer_bytes", T_ULONGLONG, offsetof(Outbox, upload_bytes), READONLY,
     "bytes of large messages that wait to be taken"},
    {"lends", T_BOOL, offsetof(Outbox, lends), 0, "the stream under it takes chunks by reference"},
    {"lend_bytes_min", T_ULONGLONG, offsetof(Outbox, lend_bytes_min), READONLY,
     "payload of the smallest body that the placer is asked for"},
    {"leases", T_ULONGLONG, offsetof(Outbox, lease_count), READONLY,
     "chunks sent by reference that have not been returned"},
    {"routes_live", T_UINT, offsetof(Outbox, routes.live.count), READONLY, "topics with a live route"},
    {"routes_ended", T_UINT, offsetof(Outbox, routes.ended_count), READONLY, "asks that asked_ended() would give"},
    {"routes_granted", T_ULONGLONG, offsetof(Outbox, routes.granted), READONLY, NULL},
    {"routes_left", T_ULONGLONG, offsetof(Outbox, routes.left), READONLY, NULL},
    {"posted", T_ULONGLONG, offsetof(Outbox, routes.posted), READONLY, "messages that went past the node"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef outbox_methods[] = {
    {"push", (PyCFunction)(void (*)(void))outbox_push, METH_FASTCALL | METH_KEYWORDS,
     "push(topic, body, options=None, ticket=None, *, loan=None) -> id"},
    {"take", (PyCFunction)outbox_take, METH_O, "take(now_ns) -> Frame | None"},
    {"feed", (PyCFunction)outbox_feed, METH_O, "feed(frame) -> [(ticket, Receipt | encoded Error), ...]"},
    {"returned", (PyCFunction)outbox_returned, METH_O, "returned(leases): nobody reads these chunks any more."},
    {"rewind", (PyCFunction)outbox_rewind, METH_NOARGS, "rewind() -> (messages to be sent again, tickets lost)"},
    {"cancel", (PyCFunction)outbox_cancel, METH_O, "cancel(ticket) -> bool"},
    {"direct", (PyCFunction)(void (*)(void))outbox_direct, METH_FASTCALL | METH_KEYWORDS,
     "direct(topic, body, options=None, loan=None, wait_s=0) -> Receipt | None"},
    {"ask", (PyCFunction)(void (*)(void))outbox_ask, METH_FASTCALL, "ask(topic, body, id, reply_to, timeout_s, loan=None) -> bool"},
    {"answer", (PyCFunction)(void (*)(void))outbox_answer, METH_FASTCALL,
     "answer(message, body, wait_s=as long as a route waits) -> bool"},
    {"blocked", (PyCFunction)outbox_blocked, METH_O, "blocked(topic) -> ShmWriter | None"},
    {"room_s", (PyCFunction)outbox_room_s, METH_O, "room_s(topic) -> float: how long to wait for it at most."},
    {"sleeps", (PyCFunction)outbox_sleeps, METH_O, "sleeps(topic) -> ShmWriter | None: whose bell rings when it has room."},
    {"asking", (PyCFunction)outbox_asking, METH_O, "asking(topic) -> bool"},
    {"line", (PyCFunction)outbox_line, METH_VARARGS, "line(topic, stands)"},
    {"route_state", (PyCFunction)outbox_route_state, METH_O, "route_state(topic) -> str | None"},
    {"route", (PyCFunction)(void (*)(void))outbox_route, METH_VARARGS | METH_KEYWORDS,
     "route(ask, page, word, value, targets, segments, matched) -> bool"},
    {"refuse", (PyCFunction)(void (*)(void))outbox_refuse, METH_VARARGS | METH_KEYWORDS,
     "refuse(ask, page, word, value, again_ms)"},
    {"asked_ended", (PyCFunction)outbox_asked_ended, METH_NOARGS, "asked_ended() -> asks whose routes were left"},
    {"broken_links", (PyCFunction)outbox_broken_links, METH_NOARGS, "broken_links() -> [ShmWriter, ...], each told once"},
    {"drop_routes", (PyCFunction)outbox_drop_routes, METH_NOARGS, "drop_routes()"},
    {"clear", (PyCFunction)outbox_clear, METH_NOARGS, "clear() -> tickets"},
    {NULL, NULL, 0, NULL},
};

PyTypeObject sira_outbox_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Outbox",
    .tp_basicsize = sizeof(Outbox),
    .tp_new = outbox_new,
    .tp_dealloc = (destructor)outbox_dealloc,
    .tp_traverse = (traverseproc)outbox_traverse,
    .tp_clear = (inquiry)outbox_tp_clear,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_methods = outbox_methods,
    .tp_members = outbox_members,
    .tp_getset = outbox_getset,
    .tp_doc = "What a client has to publish on one Publish stream: batches, large messages, windows, receipts.",
};
