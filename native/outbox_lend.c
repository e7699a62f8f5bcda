/* Large messages in shared memory: their chunks name where the bytes lie, instead of carrying them.
 *
 * Where a placer gives a chunk of memory for a body, the body is copied there when it is pushed, and is that chunk from
 * then on; or it lies there already, as a loan. What is sent of it depends on the stream when it is sent: on one that
 * lends a reference for each tensor, which needs no credit and rides with the head, on any other the bytes themselves.
 * So nothing needs to be known of the stream when a message is pushed, nor told when it is another's.
 *
 * Each reference has a lease, which holds the memory until returned() says that nobody reads it any more; apart from that
 * the message holds it until it is answered, and can be sent again until then. Leases that nobody will return, because
 * their connection is gone, are forgotten together with their segments: no byte of those is handed out again. */
#include "client.h"
#include "fault.h"

#include "pb.h"
#include "shm_py.h"

/* ---- placing ----------------------------------------------------------------------------------------------- */
bool outbox_lies_in(const struct sira_body *body, PyObject *object)
{
    const ShmChunk *chunk = (const ShmChunk *)object;
    return sira_body_is_within(body, sira_chunk_data(chunk->chunk), sira_chunk_bytes(chunk->chunk));
}

bool outbox_touches(const struct sira_body *body, PyObject *object)
{
    const struct sira_shm_chunk chunk = ((const ShmChunk *)object)->chunk;
    const uintptr_t from = (uintptr_t)sira_chunk_data(chunk), to = from + sira_chunk_bytes(chunk);
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const uintptr_t at = (uintptr_t)body->tensors[i].data;
        if (body->tensors[i].bytes && at < to && at + body->tensors[i].bytes > from) return true;
    }
    return false;
}

int outbox_check_chunk(PyObject *object)
{
    if (Py_TYPE(object) != &sira_shm_chunk_type) {
        PyErr_Format(PyExc_TypeError, "want a ShmChunk or None, not %.100s", Py_TYPE(object)->tp_name);
        return -1;
    }
    if (((ShmChunk *)object)->fork_depth == sira_fork_depth) return 0;
    sira_raise("CONNECTION_CLOSED", "this memory belongs to the parent process: connect anew after fork()");
    return -1;
}

/* It was copied into `chunk` (taken over). Gives up what held it before: may run anything. */
static void rebind(struct sira_body *body, PyObject *chunk)
{
    uint8_t *base = sira_chunk_data(((ShmChunk *)chunk)->chunk);
    uint64_t end = 0;
    body->chunk = chunk;
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        struct sira_body_tensor *tensor = &body->tensors[i];
        if (!tensor->bytes) continue;
        const uint64_t at = sira_placed_at(end);
        end = at + tensor->bytes;
        tensor->data = base + at;
        Py_XSETREF(tensor->owner, Py_NewRef(chunk));
    }
}

int outbox_copy_in(struct sira_body *body, PyObject *chunk, uint64_t bytes)
{
    const uint64_t room = sira_chunk_bytes(((ShmChunk *)chunk)->chunk);
    if (room < bytes) {
        PyErr_Format(PyExc_ValueError, "a chunk of %llu bytes for %llu", (unsigned long long)room,
                     (unsigned long long)bytes);
        Py_DECREF(chunk);
        return -1;
    }
    sira_body_place(body, sira_chunk_data(((ShmChunk *)chunk)->chunk));
    rebind(body, chunk);
    return 0;
}

int outbox_ask_placer(Outbox *self, PyObject *topic, uint64_t bytes, PyObject **chunk)
{
    *chunk = NULL;
    if (!self->placer) return 0;
    PyObject *placer = Py_NewRef(self->placer);                  /* owned: it may be replaced meanwhile */
    PyObject *wanted = PyLong_FromUnsignedLongLong(bytes);       /* owned */
    PyObject *found = wanted ? PyObject_CallFunctionObjArgs(placer, topic, wanted, NULL) : NULL; /* owned */
    Py_XDECREF(wanted);
    Py_DECREF(placer);
    if (!found) return -1;
    if (found == Py_None) {
        Py_DECREF(found);
        return 0;
    }
    if (outbox_check_chunk(found) < 0) {
        Py_DECREF(found);
        return -1;
    }
    *chunk = found;
    return 0;
}

int outbox_place(Outbox *self, PyObject *topic, struct sira_body *body, PyObject *loan)
{
    if (body->chunk) return 0; /* it was to go past the node */
    if (loan && outbox_check_chunk(loan) < 0) return -1;
    if (loan && body->payload_bytes && outbox_lies_in(body, loan)) {
        body->chunk = Py_NewRef(loan);
        body->is_loan = true;
        return 0;
    }
    if (body->payload_bytes < self->lend_bytes_min || outbox_full(self, true)) return 0;
    PyObject *chunk; /* owned */
    if (outbox_ask_placer(self, topic, sira_body_placed_bytes(body), &chunk) < 0) return -1;
    if (!chunk) return 0;
    if (outbox_lies_in(body, chunk)) {
        body->chunk = chunk;
        body->is_loan = true;
        return 0;
    }
    if (outbox_touches(body, chunk)) { /* copied onto itself it would be spoilt */
        Py_DECREF(chunk);
        return 0;
    }
    return outbox_copy_in(body, chunk, sira_body_placed_bytes(body));
}

/* ---- leases ------------------------------------------------------------------------------------------------ */
/* Room for `more` leases at half full. -1: MemoryError, nothing changed. */
static int leases_reserve(Outbox *self, uint64_t more)
{
    uint64_t room = self->leases_room ? self->leases_room : 16;
    while (room < 2 * (self->lease_count + more)) room *= 2;
    if (room == self->leases_room) return 0;
    struct lease *leases = room <= UINT32_MAX ? PyMem_Calloc(room, sizeof *leases) : NULL;
    if (!leases) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < self->leases_room; i++) {
        const struct lease lease = self->leases[i];
        if (!lease.number) continue;
        uint64_t at = lease.number & (room - 1);
        while (leases[at].number) at = (at + 1) & (room - 1);
        leases[at] = lease;
    }
    PyMem_Free(self->leases);
    self->leases = leases;
    self->leases_room = (uint32_t)room;
    return 0;
}

/* Requires: leases_reserve. */
static uint64_t lease_take(Outbox *self, PyObject *chunk)
{
    const uint64_t number = ++self->lease_last;
    uint64_t at = number & (self->leases_room - 1);
    while (self->leases[at].number) at = (at + 1) & (self->leases_room - 1);
    self->leases[at] = (struct lease){number, Py_NewRef(chunk)};
    self->lease_count++;
    SIRA_FAULT_POINT("lease.given");
    return number;
}

/* Its chunk (owned), or NULL: it is not out. */
static PyObject *lease_end(Outbox *self, uint64_t number)
{
    if (!number || !self->leases_room) return NULL;
    const uint64_t mask = self->leases_room - 1;
    uint64_t hole = number & mask;
    while (self->leases[hole].number != number) {
        if (!self->leases[hole].number) return NULL;
        hole = (hole + 1) & mask;
    }
    PyObject *chunk = self->leases[hole].chunk;
    for (uint64_t at = (hole + 1) & mask; self->leases[at].number; at = (at + 1) & mask) {
        const uint64_t home = self->leases[at].number & mask;
        if (((at - home) & mask) < ((at - hole) & mask)) continue; /* it would be found no more */
        self->leases[hole] = self->leases[at];
        hole = at;
    }
    self->leases[hole] = (struct lease){0, NULL};
    self->lease_count--;
    SIRA_FAULT_POINT("lease.back");
    return chunk;
}

PyObject *outbox_returned(Outbox *self, PyObject *leases)
{
    PyObject *numbers = PySequence_Fast(leases, "leases must be a sequence of int"); /* owned */
    if (!numbers) return NULL;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(numbers); i++) {
        const uint64_t number = PyLong_AsUnsignedLongLong(PySequence_Fast_GET_ITEM(numbers, i));
        if (number == (uint64_t)-1 && PyErr_Occurred()) {
            Py_DECREF(numbers);
            return NULL;
        }
        PyObject *chunk = lease_end(self, number); /* owned */
        if (!chunk && (!number || number > self->lease_floor)) {
            sira_raise("PROTOCOL_ERROR", "lease %llu is returned, which is not out", (unsigned long long)number);
            Py_DECREF(numbers);
            return NULL;
        }
        Py_XDECREF(chunk);
    }
    Py_DECREF(numbers);
    Py_RETURN_NONE;
}

/* Nobody will say when this chunk is read no more, or its segment is not known to who comes next. */
static void strand(PyObject *object)
{
    const ShmChunk *chunk = (const ShmChunk *)object;
    if (chunk->fork_depth == sira_fork_depth) sira_segment_detach(chunk->chunk.segment);
}

void outbox_forget_leases(Outbox *self)
{
    for (const struct upload *upload = self->uploads; upload; upload = upload->next)
        if (upload->body.chunk) strand(upload->body.chunk);
    for (uint32_t i = 0; i < self->leases_room; i++) {
        PyObject *chunk = self->leases[i].chunk; /* owned */
        if (!chunk) continue;
        self->leases[i] = (struct lease){0, NULL};
        strand(chunk);
        Py_DECREF(chunk);
    }
    self->lease_count = 0;
    self->lease_floor = self->lease_last;
    self->lends = false;
}

/* ---- references -------------------------------------------------------------------------------------------- */
bool upload_lends(const Outbox *self, const struct upload *upload)
{
    if (!self->lends || !upload->body.chunk) return false;
    const ShmChunk *chunk = (const ShmChunk *)upload->body.chunk;
    return chunk->chunk.segment->arena && chunk->fork_depth == sira_fork_depth;
}

/* Item{Chunk{id, tensor, offset, Lent{segment, offset, bytes, lease}}} of a tensor from `offset` on. */
struct reference {
    struct sira_lent lent;
    uint32_t tensor;
    uint64_t offset;
    size_t lent_len, chunk_len, item_len; /* without their own keys and lengths */
};

static struct reference reference_of(const struct upload *upload, uint32_t index, uint64_t offset, uint64_t lease)
{
    const struct sira_shm_chunk chunk = ((const ShmChunk *)upload->body.chunk)->chunk;
    const struct sira_body_tensor *tensor = &upload->body.tensors[index];
    struct reference made = {
        .lent = {.segment = chunk.segment->id,
                 .offset = (uint64_t)(tensor->data - chunk.segment->shm.base) + offset,
                 .bytes = tensor->bytes - offset,
                 .lease = lease},
        .tensor = index,
        .offset = offset,
    };
    made.lent_len = pb_uint_size(1, made.lent.segment) + pb_uint_size(3, made.lent.bytes) + pb_uint_size(4, lease);
    if (made.lent.offset) made.lent_len += pb_uint_size(2, made.lent.offset);
    made.chunk_len = pb_bytes_size(1, SIRA_ID_BYTES) + pb_bytes_size(4, made.lent_len);
    if (index) made.chunk_len += pb_uint_size(2, index);
    if (offset) made.chunk_len += pb_uint_size(3, offset);
    made.item_len = pb_bytes_size(SIRA_ITEM_CHUNK, made.chunk_len);
    return made;
}

static uint8_t *put_reference(uint8_t *at, const struct upload *upload, const struct reference *made)
{
    at = pb_put_varint(pb_put_key(at, 1, PB_LEN), made->item_len);
    at = pb_put_varint(pb_put_key(at, SIRA_ITEM_CHUNK, PB_LEN), made->chunk_len);
    at = pb_put_bytes(at, 1, upload->id, SIRA_ID_BYTES);
    if (made->tensor) at = pb_put_uint(at, 2, made->tensor);
    if (made->offset) at = pb_put_uint(at, 3, made->offset);
    at = pb_put_varint(pb_put_key(at, 4, PB_LEN), made->lent_len);
    at = pb_put_uint(at, 1, made->lent.segment);
    if (made->lent.offset) at = pb_put_uint(at, 2, made->lent.offset);
    at = pb_put_uint(at, 3, made->lent.bytes);
    return pb_put_uint(at, 4, made->lent.lease);
}

/* Bytes of all that is left of an upload, as Items of a Frame, if its leases follow `*lease`, which is moved on. */
static size_t references_size(const struct upload *upload, uint64_t *lease)
{
    size_t size = 0;
    uint64_t offset = upload->offset;
    for (uint32_t i = upload->tensor; i < upload->body.tensor_count; i++, offset = 0) {
        if (offset == upload->body.tensors[i].bytes) continue; /* empty, or passed */
        size += pb_bytes_size(1, reference_of(upload, i, offset, ++*lease).item_len);
    }
    return size;
}

/* Write them: it is all sent then. Requires: leases_reserve. */
static uint8_t *put_references(Outbox *self, struct upload *upload, uint8_t *at)
{
    uint64_t offset = upload->offset;
    for (uint32_t i = upload->tensor; i < upload->body.tensor_count; i++, offset = 0) {
        const uint64_t bytes = upload->body.tensors[i].bytes - offset;
        if (!bytes) continue;
        const struct reference made = reference_of(upload, i, offset, lease_take(self, upload->body.chunk));
        at = put_reference(at, upload, &made);
        upload->tensor = i;
        upload->offset = upload->body.tensors[i].bytes;
        upload->taken += bytes;
        upload->lent += bytes;
        self->upload_bytes -= bytes;
    }
    assert(upload->taken == upload->body.payload_bytes);
    upload->served = ++self->turn;
    upload_enter(self, upload, UPLOAD_SENT);
    return at;
}

/* A new Frame of `before` (borrowed; NULL: nothing) and the references of these uploads. Each is put on *sent, to be
 * given back by outbox_lent(). NULL: MemoryError, nothing changed. */
static PyObject *frame_with(Outbox *self, PyObject *before, struct upload *uploads, size_t size, uint64_t leases)
{
    if (leases_reserve(self, leases) < 0) return NULL;
    const size_t before_len = before ? (size_t)PyBytes_GET_SIZE(before) : 0;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(before_len + size)); /* owned */
    if (!frame) return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(frame);
    if (before) memcpy(at, PyBytes_AS_STRING(before), before_len);
    at += before_len;
    for (struct upload *upload = uploads; upload; upload = upload->lent_next) {
        at = put_references(self, upload, at);
        upload->busy++;
    }
    assert(at == (uint8_t *)PyBytes_AS_STRING(frame) + before_len + size);
    return frame;
}

PyObject *upload_lend(Outbox *self, struct upload *upload)
{
    uint64_t lease = self->lease_last;
    const size_t size = references_size(upload, &lease);
    upload->lent_next = NULL;
    PyObject *frame = frame_with(self, NULL, upload, size, lease - self->lease_last);
    if (frame) outbox_lent(self, upload);
    return frame;
}

PyObject *outbox_lend_heads(Outbox *self, struct batch *batch, PyObject *frame, struct upload **sent)
{
    uint64_t lease = self->lease_last;
    size_t size = 0;
    struct upload *first = NULL, **end = &first;
    for (uint32_t i = 0; i < batch->count; i++) {
        struct upload *upload = batch->records[i].upload;
        if (!upload || !upload_lends(self, upload)) continue;
        const size_t more = references_size(upload, &lease);
        if ((size_t)PyBytes_GET_SIZE(frame) + size + more > SIRA_FRAME_BYTES_MAX) break; /* the others follow alone */
        size += more;
        *end = upload;
        end = &upload->lent_next;
        *end = NULL;
    }
    if (!first) return frame;
    /* A lease too many was counted when one did not fit: no harm. */
    PyObject *whole = frame_with(self, frame, first, size, lease - self->lease_last);
    if (!whole) { /* the heads leave, and the rest later */
        PyErr_Clear();
        return frame;
    }
    Py_DECREF(frame); /* bytes */
    *sent = first;
    return whole;
}

/* A quiet message is never sent again: its memory is held by its leases only. */
void outbox_lent(Outbox *self, struct upload *sent)
{
    while (sent) {
        struct upload *upload = sent;
        sent = upload->lent_next;
        if (--upload->busy) continue;
        if (upload->dropped) {
            sira_body_clear(&upload->body);
            PyMem_Free(upload);
        } else if (upload->quiet && upload->state == UPLOAD_SENT) {
            upload_done(self, upload);
        }
    }
}
