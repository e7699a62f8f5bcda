/* Large messages coming in: a head reserves places, chunks fill memory in order, the last one makes the message. A
 * tensor that comes as a reference to shared memory stays where it is. See client.h about what may run in between. */
#include "client.h"

#include "pb.h"
#include "shm_span.h"

static struct transfer *transfer_find(const Inbox *self, struct sira_slice id, uint32_t subscription)
{
    struct transfer *found = NULL; /* without a subscription: the oldest, which is the last in the list */
    if (id.len != SIRA_ID_BYTES) return NULL;
    for (struct transfer *t = self->transfers; t; t = t->next) {
        if (memcmp(t->id, id.data, SIRA_ID_BYTES)) continue;
        if (!subscription) found = t;
        for (uint32_t i = 0; subscription && i < t->target_count; i++)
            if (t->targets[i].subscription == subscription) return t;
    }
    return found;
}

/* Buffers and spans: their ends run no Python code. */
static void let_memory_go(struct transfer *transfer)
{
    Py_CLEAR(transfer->buffer);
    for (uint32_t i = 0; transfer->spans && i < transfer->tensor_count; i++) Py_CLEAR(transfer->spans[i]);
}

static void transfer_free(struct transfer *transfer)
{
    let_memory_go(transfer);
    PyMem_Free(transfer->bytes);
    PyMem_Free(transfer->spans);
    PyMem_Free(transfer->targets);
    Py_XDECREF(transfer->head);
    PyMem_Free(transfer);
}

void transfer_release(Inbox *self, struct transfer *transfer)
{
    if (!transfer->dropped) {
        transfer->dropped = true;
        if (transfer->prev) transfer->prev->next = transfer->next;
        else self->transfers = transfer->next;
        if (transfer->next) transfer->next->prev = transfer->prev;
        self->transfer_count--;
    }
    if (!transfer->busy) transfer_free(transfer);
}

static void transfer_unuse(struct transfer *transfer)
{
    if (--transfer->busy) return;
    if (transfer->dropped) transfer_free(transfer);
    else if (!transfer->wanted) let_memory_go(transfer);
}

int inbox_drop(Inbox *self, struct transfer *transfer)
{
    int result = 0;
    for (uint32_t i = 0; i < transfer->target_count; i++) {
        struct waiting *waiting = transfer->targets[i].waiting;
        if (!waiting) continue;
        transfer->targets[i].waiting = NULL;
        waiting->dead = true;
        struct port *port = waiting->port;
        if (lane_advance(port, waiting->lane) < 0) result = -1;
        inbox_note(self, port->mailbox);
    }
    self->aborted++;
    transfer_release(self, transfer);
    return result;
}

void inbox_forget_port(Inbox *self, const struct port *port)
{
    for (struct transfer *t = self->transfers; t; t = t->next) {
        t->wanted = false;
        for (uint32_t i = 0; i < t->target_count; i++) {
            struct waiting **waiting = &t->targets[i].waiting;
            if (*waiting && (*waiting)->port == port) *waiting = NULL;
            t->wanted |= *waiting != NULL;
        }
        if (!t->wanted && !t->busy) let_memory_go(t);
    }
}

/* ---- heads ------------------------------------------------------------------------------------------------ */
/* Sizes, starts and the buffer's length. false: more than can be addressed. */
static bool plan(struct transfer *transfer, const struct sira_env *env)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < env->tensor_count; i++) {
        transfer->bytes[i] = env->tensors[i].bytes;
        transfer->starts[i] = at;
        if (__builtin_add_overflow(at, transfer->bytes[i], &at)) return false;
        if (__builtin_add_overflow(at, INBOX_ALIGN_BYTES - 1, &at)) return false;
        at &= ~(uint64_t)(INBOX_ALIGN_BYTES - 1);
    }
    transfer->room = at;
    return true;
}

/* The subscriptions of an Item, as targets without a place. -1: MemoryError, or one named twice. */
static int read_targets(const struct sira_item *item, struct transfer *transfer)
{
    size_t at = 0;
    uint32_t count = 0, subscription;
    while (sira_subs_next(&item->subs, &at, &subscription)) count++;
    if (!count) return 0;
    transfer->targets = PyMem_Calloc(count, sizeof *transfer->targets);
    if (!transfer->targets) {
        PyErr_NoMemory();
        return -1;
    }
    at = 0;
    while (sira_subs_next(&item->subs, &at, &subscription))
        transfer->targets[transfer->target_count++].subscription = subscription;
    return 0;
}

/* A place and a lane for each attached subscription. -1: MemoryError. */
static int take_places(Inbox *self, struct transfer *transfer, const struct lane_key *key)
{
    for (uint32_t i = 0; i < transfer->target_count; i++) {
        struct port *port = inbox_port(self, transfer->targets[i].subscription);
        uint64_t place;
        if (!port) continue;
        if (mailbox_reserve(port->mailbox, &place) < 0) return -1;
        transfer->targets[i].waiting = lane_append(port, key, place);
        if (!transfer->targets[i].waiting) {
            mailbox_skip(port->mailbox, place);
            return -1;
        }
    }
    return 0;
}

static int complete(Inbox *self, struct transfer *transfer);

/* Pass the end of each filled tensor, and empty ones. True: nothing is to come. */
static bool at_end(struct transfer *transfer)
{
    while (transfer->tensor < transfer->tensor_count && transfer->offset == transfer->bytes[transfer->tensor]) {
        transfer->tensor++;
        transfer->offset = 0;
    }
    return transfer->tensor == transfer->tensor_count;
}

int inbox_head(Inbox *self, const struct sira_item *item)
{
    struct sira_env env;
    size_t error_at = 0;
    const enum sira_status status = sira_env_parse(item->body.data, item->body.len, SIRA_ENV_HEAD,
                                                   self->message_bytes_max, &env, &error_at);
    if (status != SIRA_OK) {
        sira_raise_status(status, error_at);
        return -1;
    }
    if (env.id.len != SIRA_ID_BYTES) {
        sira_raise_status(SIRA_BAD_ID, 0);
        return -1;
    }
    if (env.priority >= SIRA_PRIORITIES) {
        sira_raise_status(SIRA_BAD_PRIORITY, 0);
        return -1;
    }
    if (self->transfer_count >= INBOX_TRANSFERS_MAX) {
        sira_raise("PROTOCOL_ERROR", "more than %d large messages are unfinished at once", INBOX_TRANSFERS_MAX);
        return -1;
    }
    struct transfer *transfer = PyMem_Calloc(1, sizeof *transfer);
    if (!transfer) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(transfer->id, env.id.data, SIRA_ID_BYTES);
    transfer->tensor_count = env.tensor_count;
    transfer->total = env.payload_bytes;
    transfer->bytes = PyMem_New(uint64_t, 2 * (size_t)env.tensor_count + 1);
    transfer->head = PyBytes_FromStringAndSize((const char *)item->body.data, (Py_ssize_t)item->body.len);
    if (!transfer->bytes || !transfer->head) {
        PyErr_NoMemory();
        goto failed;
    }
    transfer->starts = transfer->bytes + env.tensor_count;
    if (!plan(transfer, &env)) {
        sira_raise_status(SIRA_TOO_LARGE, 0);
        goto failed;
    }
    if (read_targets(item, transfer) < 0) goto failed;
    for (uint32_t i = 0; i < transfer->target_count; i++) {
        if (!transfer_find(self, env.id, transfer->targets[i].subscription)) continue;
        sira_raise("PROTOCOL_ERROR", "a large message is announced twice to subscription %lu",
                   (unsigned long)transfer->targets[i].subscription);
        goto failed;
    }
    for (uint32_t i = 0; i < transfer->target_count; i++)
        transfer->wanted |= inbox_port(self, transfer->targets[i].subscription) != NULL;

    transfer->next = self->transfers;
    if (transfer->next) transfer->next->prev = transfer;
    self->transfers = transfer;
    self->transfer_count++;
    const struct lane_key key = {env.source, env.topic, env.priority};
    if (take_places(self, transfer, &key) < 0) {
        PyObject *type, *value, *trace; /* owned */
        PyErr_Fetch(&type, &value, &trace);
        if (inbox_drop(self, transfer) < 0) PyErr_Clear();
        PyErr_Restore(type, value, trace);
        return -1;
    }
    return at_end(transfer) ? complete(self, transfer) : 0;
failed:
    transfer_free(transfer);
    return -1;
}

/* ---- messages --------------------------------------------------------------------------------------------- */
/* A new Message over what was filled, for that mailbox. Requires: busy, so that it stays. New reference. May run anything. */
static PyObject *assembled(const struct transfer *transfer, Mailbox *mailbox)
{
    struct sira_part parts[SIRA_TENSORS_MAX];
    assert(transfer->tensor_count <= SIRA_TENSORS_MAX);
    for (uint32_t i = 0; i < transfer->tensor_count; i++) {
        PyObject *span = transfer->spans ? transfer->spans[i] : NULL; /* borrowed */
        parts[i] = (struct sira_part){.len = transfer->bytes[i]};
        if (!transfer->bytes[i]) continue;
        parts[i].owner = span ? span : transfer->buffer;
        parts[i].data = span ? sira_span_data(span) : sira_buffer_data(transfer->buffer) + transfer->starts[i];
    }
    PyTypeObject *type = (PyTypeObject *)Py_NewRef(mailbox->message_type); /* owned */
    PyObject *context = Py_NewRef(mailbox->context);                       /* owned */
    PyObject *message = sira_message_new_assembled(
        type, transfer->head, (const uint8_t *)PyBytes_AS_STRING(transfer->head),
        (size_t)PyBytes_GET_SIZE(transfer->head), parts, transfer->tensor_count, context);
    Py_DECREF(context);
    Py_DECREF(type);
    return message;
}

/* Every byte is here: hand out the message. Mailboxes of one type and context share one object. */
static int complete(Inbox *self, struct transfer *transfer)
{
    PyObject *message = NULL;                           /* owned */
    const PyTypeObject *type = NULL;                    /* of message, to compare only */
    const PyObject *context = NULL;
    int result = 0;
    transfer->busy++; /* so that detach() leaves it what it has */
    for (uint32_t i = 0; i < transfer->target_count && !transfer->dropped; i++) {
        if (!transfer->targets[i].waiting) continue;
        Mailbox *mailbox = transfer->targets[i].waiting->port->mailbox; /* borrowed until something runs */
        if (!message || type != mailbox->message_type || context != mailbox->context) {
            type = mailbox->message_type;
            context = mailbox->context;
            Py_INCREF(mailbox);
            PyObject *fresh = assembled(transfer, mailbox); /* owned */
            Py_DECREF(mailbox);
            Py_XSETREF(message, fresh);
            if (!message) {
                result = -1;
                break;
            }
        }
        struct waiting *waiting = transfer->dropped ? NULL : transfer->targets[i].waiting;
        if (!waiting) continue; /* detached meanwhile */
        transfer->targets[i].waiting = NULL;
        waiting->message = Py_NewRef(message);
        waiting->bytes = transfer->total + (uint64_t)PyBytes_GET_SIZE(transfer->head);
        struct port *port = waiting->port;
        if (lane_advance(port, waiting->lane) < 0) result = -1;
        inbox_note(self, port->mailbox);
    }
    if (!transfer->dropped) {
        if (result < 0) {
            PyObject *error_type, *error, *trace; /* owned */
            PyErr_Fetch(&error_type, &error, &trace);
            if (inbox_drop(self, transfer) < 0) PyErr_Clear();
            PyErr_Restore(error_type, error, trace);
        } else {
            transfer_release(self, transfer);
        }
    }
    transfer_unuse(transfer);
    Py_XDECREF(message);
    return result;
}

/* ---- chunks ----------------------------------------------------------------------------------------------- */
/* Refuse the transfer: the node broke the rules of chunks. */
static int broken(Inbox *self, struct transfer *transfer, const char *why)
{
    if (inbox_drop(self, transfer) < 0) PyErr_Clear();
    sira_raise("PROTOCOL_ERROR", "%s", why);
    return -1;
}

/* Copy bytes of the next tensor into the buffer, which is made when it is first needed. False: the transfer was dropped
 * meanwhile, by reset() from another thread. -1: MemoryError; the transfer is dropped. */
static int fill(Inbox *self, struct transfer *transfer, const uint8_t *data, uint64_t len)
{
    const uint64_t start = transfer->starts[transfer->tensor] + transfer->offset;
    if (!transfer->buffer) {
        if (!(transfer->buffer = sira_buffer_new(self->pool, transfer->room))) {
            PyObject *type, *value, *trace; /* owned */
            PyErr_Fetch(&type, &value, &trace);
            if (inbox_drop(self, transfer) < 0) PyErr_Clear();
            PyErr_Restore(type, value, trace);
            return -1;
        }
        sira_heap_warm();
    }
    transfer->busy++;
    sira_buffer_touch(transfer->buffer, start + len, len);
    sira_copy_bytes(sira_buffer_data(transfer->buffer) + start, data, len);
    const bool dropped = transfer->dropped;
    transfer_unuse(transfer);
    return !dropped;
}

/* Keep the span (owned; taken over) as the next tensor, if it is all of it. False: no memory to keep it. */
static bool keep_span(struct transfer *transfer, PyObject *span, uint64_t len)
{
    if (transfer->offset || len != transfer->bytes[transfer->tensor]) return false;
    if (!transfer->spans) transfer->spans = PyMem_Calloc(transfer->tensor_count, sizeof *transfer->spans);
    if (!transfer->spans) return false;
    transfer->spans[transfer->tensor] = span;
    return true;
}

/* Take a chunk that was checked, in `span` (owned; NULL: its bytes are in the frame). */
static int take_chunk(Inbox *self, struct transfer *transfer, const struct sira_chunk *chunk, PyObject *span)
{
    const uint64_t len = span ? chunk->lent.bytes : chunk->data.len;
    int kept = 1;
    if (transfer->wanted && span && keep_span(transfer, span, len)) {
        span = NULL;
    } else if (transfer->wanted) {
        kept = fill(self, transfer, span ? sira_span_data(span) : chunk->data.data, len);
    }
    Py_XDECREF(span); /* its lease returns: copied, or nobody wants it */
    if (kept <= 0) return kept;
    transfer->offset += len;
    if (!at_end(transfer)) return 0;
    if (transfer->wanted || transfer->total == 0) return complete(self, transfer);
    transfer_release(self, transfer); /* nobody wanted it */
    return 0;
}

int inbox_chunk(Inbox *self, PyObject *frame, const struct sira_item *item)
{
    struct sira_chunk chunk;
    const enum sira_status status = sira_chunk_parse(item->body, &chunk);
    if (status != SIRA_OK) {
        sira_raise_status(status, (size_t)(item->body.data - (const uint8_t *)PyBytes_AS_STRING(frame)));
        return -1;
    }
    if (chunk.is_lent && !self->maps) {
        sira_raise("PROTOCOL_ERROR", "a chunk in shared memory, of which none is known here");
        return -1;
    }
    PyObject *span = NULL; /* owned. First: whatever becomes of the chunk, its lease returns */
    if (chunk.is_lent && !(span = sira_span_new(self->maps, &chunk.lent))) return -1;
    struct transfer *transfer = transfer_find(self, chunk.id, item->sub_first);
    if (!transfer) {
        Py_XDECREF(span);
        sira_raise("PROTOCOL_ERROR", "a chunk of a message that was not announced");
        return -1;
    }
    assert(transfer->tensor < transfer->tensor_count);
    const uint64_t left = transfer->bytes[transfer->tensor] - transfer->offset;
    const uint64_t len = span ? chunk.lent.bytes : chunk.data.len;
    const char *why = NULL;
    if (chunk.tensor != transfer->tensor || chunk.offset != transfer->offset)
        why = "a chunk does not follow the one before it";
    else if (len == 0)
        why = "a chunk without data";
    else if (len > left)
        why = "a chunk reaches past the end of its tensor";
    if (!why) return take_chunk(self, transfer, &chunk, span);
    Py_XDECREF(span);
    return broken(self, transfer, why);
}

int inbox_abort(Inbox *self, const struct sira_item *item)
{
    struct pb_reader reader = {item->body.data, item->body.data + item->body.len};
    struct sira_slice id = {NULL, 0}, value;
    while (reader.at != reader.end) {
        uint32_t field, wire;
        bool good = pb_key(&reader, &field, &wire);
        if (good && field == 1 && wire == PB_LEN) good = pb_bytes(&reader, &id);
        else if (good && wire == PB_LEN) good = pb_bytes(&reader, &value);
        else good = good && pb_skip(&reader, wire);
        if (!good) {
            sira_raise_status(SIRA_MALFORMED, (size_t)(reader.at - item->body.data));
            return -1;
        }
    }
    struct transfer *transfer = transfer_find(self, id, item->sub_first);
    return transfer ? inbox_drop(self, transfer) : 0; /* unknown: it will not come, which is all it says */
}
