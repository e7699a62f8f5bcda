/* Batches: messages written one behind the other into the bytes object that will be their Frame.
 *
 * A message of batch_bytes or more is copied once, from the caller's memory to here. Smaller ones are copied
 * again when their batch is sealed to its exact length: 224 KiB take about 15 us, for some 750 messages, and an object
 * that is shrunk in place can be lost when that fails. The first allocation is as large as the last frame was, so
 * an idle stream pays for small frames and a busy one does not grow them step by step. */
#include "client.h"

#include "pb.h"

enum { BATCH_BYTES_MIN = 1 << 10, BATCH_RECORDS_MIN = 16 };

void batches_append(struct batches *list, struct batch *batch)
{
    batch->next = NULL;
    batch->prev = list->last;
    if (list->last) list->last->next = batch;
    else list->first = batch;
    list->last = batch;
}

void batches_remove(struct batches *list, struct batch *batch)
{
    if (batch->prev) batch->prev->next = batch->next;
    else list->first = batch->next;
    if (batch->next) batch->next->prev = batch->prev;
    else list->last = batch->prev;
    batch->next = batch->prev = NULL;
}

/* More room in an open batch. */
static int batch_grow(struct batch *batch, size_t room)
{
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room); /* owned */
    if (!frame) return -1;
    memcpy(PyBytes_AS_STRING(frame), PyBytes_AS_STRING(batch->frame), batch->used);
    Py_SETREF(batch->frame, frame);
    batch->room = (uint32_t)room;
    return 0;
}

static int records_grow(struct batch *batch)
{
    if (batch->count < batch->records_room) return 0;
    const uint32_t room = batch->records_room ? batch->records_room * 2 : BATCH_RECORDS_MIN;
    struct record *records = PyMem_Realloc(batch->records, room * sizeof *records);
    if (!records) {
        PyErr_NoMemory();
        return -1;
    }
    batch->records = records;
    batch->records_room = room;
    return 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

struct batch *batch_for(Outbox *self, struct batches *list, uint32_t priority, size_t len)
{
    assert(len <= SIRA_FRAME_BYTES_MAX);
    struct batch *batch = list->last;
    if (batch && batch->used + len <= batch->room) return records_grow(batch) < 0 ? NULL : batch;
    if (batch && batch->used + len <= self->batch_bytes) {
        size_t room = larger(2 * (size_t)batch->room, batch->used + len);
        if (room > self->batch_bytes) room = self->batch_bytes;
        return batch_grow(batch, room) < 0 || records_grow(batch) < 0 ? NULL : batch;
    }
    batch = self->spare;
    if (batch) {
        self->spare = batch->next;
        self->spare_count--;
        batch->next = NULL;
    } else if (!(batch = PyMem_Calloc(1, sizeof *batch))) {
        PyErr_NoMemory();
        return NULL;
    }
    const size_t room = larger(len, larger(self->room_hint, BATCH_BYTES_MIN));
    batch->frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (!batch->frame || records_grow(batch) < 0) {
        batch_free(self, batch);
        return NULL;
    }
    batch->room = (uint32_t)room;
    batch->priority = (uint8_t)priority;
    batches_append(list, batch);
    return batch;
}

struct record *batch_record(struct batch *batch, const uint8_t *id, PyObject *ticket, size_t len)
{
    assert(batch->count < batch->records_room);
    struct record *record = &batch->records[batch->count++];
    memcpy(record->id, id, SIRA_ID_BYTES);
    record->ticket = ticket;
    record->upload = NULL;
    record->start = batch->used;
    record->len = (uint32_t)len;
    record->ttl_at = 0;
    record->state = RECORD_OPEN;
    record->quiet = false;
    batch->used += (uint32_t)len;
    return record;
}

PyObject *batch_seal(struct batch *batch)
{
    if (batch->used != batch->room) { /* at most batch_bytes: a longer message has a frame of its own size */
        PyObject *frame = PyBytes_FromStringAndSize(PyBytes_AS_STRING(batch->frame), batch->used); /* owned */
        if (!frame) return NULL;
        Py_SETREF(batch->frame, frame);
        batch->room = batch->used;
    }
    return batch->frame;
}

void batch_remove_record(struct batch *batch, uint32_t index)
{
    const struct record gone = batch->records[index];
    uint8_t *frame = (uint8_t *)PyBytes_AS_STRING(batch->frame);
    memmove(frame + gone.start, frame + gone.start + gone.len, batch->used - gone.start - gone.len);
    batch->used -= gone.len;
    batch->count--;
    for (uint32_t i = index; i < batch->count; i++) {
        struct record *record = &batch->records[i];
        *record = batch->records[i + 1];
        record->start -= gone.len;
        if (record->ttl_at) record->ttl_at -= gone.len;
    }
}

void batch_free(Outbox *self, struct batch *batch)
{
    PyObject *frame = batch->frame; /* owned */
    struct record *records = batch->records;
    const uint32_t count = batch->count, records_room = batch->records_room;
    if (self->spare_count < OUTBOX_SPARE_BATCHES_MAX && records_room <= 4096) {
        uint32_t tickets = 0;
        for (uint32_t i = 0; i < count; i++) tickets += records[i].ticket != NULL;
        if (!tickets) { /* the usual case: all were answered */
            *batch = (struct batch){.next = self->spare, .records = records, .records_room = records_room};
            self->spare = batch;
            self->spare_count++;
            Py_XDECREF(frame);
            return;
        }
    }
    PyMem_Free(batch);
    for (uint32_t i = 0; i < count; i++) Py_XDECREF(records[i].ticket);
    PyMem_Free(records);
    Py_XDECREF(frame);
}

void batch_settle(Outbox *self, struct batch *batch)
{
    const bool passed = batch->at == batch->count;
    if (passed && self->cursor == batch) self->cursor = batch->next;
    if (batch->live) return;
    if (passed) {
        batches_remove(&self->sent, batch);
        batch_free(self, batch);
    } else {
        Py_CLEAR(batch->frame); /* only quiet ones are left: they are not sent again */
    }
}

void batch_find_ttl(struct record *record, const uint8_t *frame, const uint8_t *message, size_t len)
{
    struct pb_reader reader = {message, message + len};
    while (reader.at != reader.end) {
        uint32_t field, wire;
        if (!pb_key(&reader, &field, &wire)) return;
        if (field == 4 && wire == PB_FIXED64) {
            record->ttl_at = (uint32_t)(reader.at - frame);
            return;
        }
        if (!pb_skip(&reader, wire)) return;
    }
}

void batch_age(struct batch *batch, uint64_t now_ns)
{
    uint8_t *frame = (uint8_t *)PyBytes_AS_STRING(batch->frame);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct record *record = &batch->records[i];
        if (!record->ttl_at || now_ns <= record->written_ns) continue;
        const uint64_t age_ns = now_ns - record->written_ns;
        uint64_t ttl_ns;
        memcpy(&ttl_ns, frame + record->ttl_at, sizeof ttl_ns);
        ttl_ns = ttl_ns > age_ns ? ttl_ns - age_ns : 1; /* 0 would be for ever; the node counts it as expired */
        memcpy(frame + record->ttl_at, &ttl_ns, sizeof ttl_ns);
        record->written_ns = now_ns;
    }
}
