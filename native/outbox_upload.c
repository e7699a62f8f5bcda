/* Large messages going out: their head has left, their chunks follow, each alone in a Frame (the node passes such
 * a frame on as it is). The body is the caller's memory, held until its last chunk is taken; from then on the
 * message can no longer be repeated. Chunks wait for credit, so one reader that is slow holds one message.
 * Where they only name shared memory: outbox_lend.c. */
#include "client.h"

#include "pb.h"

enum {
    BUSY_NS = 50 * 1000 * 1000, /* small messages about: shorter chunks keep what waits behind one short */
    QUIET_UPLOADS_MAX = 64,     /* sent, in case they are refused yet */
};

struct upload *upload_find(const Outbox *self, const uint8_t *id)
{
    for (struct upload *upload = self->oldest_upload; upload; upload = upload->prev) /* answers are in order, mostly */
        if (!memcmp(upload->id, id, SIRA_ID_BYTES)) return upload;
    return NULL;
}

void upload_link(Outbox *self, struct upload *upload)
{
    upload->prev = NULL;
    upload->next = self->uploads;
    if (upload->next) upload->next->prev = upload;
    else self->oldest_upload = upload;
    self->uploads = upload;
    self->upload_count++;
}

/* The head needs not be sent again. */
static void upload_unkeep(Outbox *self, struct upload *upload)
{
    struct batch *batch = upload->batch;
    upload->batch = NULL;
    if (!batch) return;
    for (uint32_t i = 0; i < batch->count; i++) {
        struct record *record = &batch->records[i];
        if (record->upload != upload) continue;
        record->upload = NULL;
        record->state = RECORD_DONE;
        if (upload->state == UPLOAD_QUEUED) return; /* its batch has not left: nothing to settle */
        batch->live--;
        batch_settle(self, batch);
        return;
    }
}

static uint64_t upload_left(const struct upload *upload)
{
    return upload->state == UPLOAD_SENT ? 0 : upload->body.payload_bytes - upload->taken;
}

PyObject *upload_end(Outbox *self, struct upload *upload)
{
    PyObject *ticket = upload->ticket; /* owned */
    upload->ticket = NULL;
    if (upload->prev) upload->prev->next = upload->next;
    else self->uploads = upload->next;
    if (upload->next) upload->next->prev = upload->prev;
    else self->oldest_upload = upload->prev;
    self->active_uploads -= upload->state == UPLOAD_ACTIVE;
    self->upload_count--;
    self->upload_bytes -= upload_left(upload);
    if (!upload->quiet) {
        self->unanswered--;
        self->unanswered_bytes -= upload->head_len;
    }
    upload_unkeep(self, upload);
    upload->dropped = true;
    if (upload->busy) return ticket;
    sira_body_clear(&upload->body);
    PyMem_Free(upload);
    return ticket;
}

void upload_restart(Outbox *self, struct upload *upload)
{
    self->upload_bytes += upload->taken;
    upload_enter(self, upload, UPLOAD_QUEUED);
    upload->taken = upload->credited = upload->lent = upload->offset = 0;
    upload->tensor = 0;
}

/* Bytes sent that the node has not passed on. */
static uint64_t upload_outstanding(const struct upload *upload)
{
    return upload->taken > upload->credited ? upload->taken - upload->credited : 0;
}

static bool upload_may_send(const Outbox *self, const struct upload *upload)
{
    if (upload->state != UPLOAD_ACTIVE) return false;
    if (upload_lends(self, upload)) return true;
    const uint64_t outstanding = upload_outstanding(upload), left = upload_left(upload);
    const uint64_t chunk = left < self->chunk_bytes ? left : self->chunk_bytes;
    return outstanding == 0 || outstanding + chunk <= self->transfer_window_bytes;
}

/* Among equals the oldest (the list has the newest first), to its end: were they to take turns, a reader that has
 * room for some only would hold the first of them back behind chunks of the last, which wait for that room. */
struct upload *upload_next(const Outbox *self)
{
    struct upload *best = NULL;
    if (!self->active_uploads) return NULL;
    for (struct upload *upload = self->uploads; upload; upload = upload->next) {
        if (!upload_may_send(self, upload)) continue;
        if (!best || upload->priority > best->priority ||
            (upload->priority == best->priority && upload->deadline_ns <= best->deadline_ns))
            best = upload;
    }
    return best;
}

/* Frame{Item{Chunk{id, tensor, offset, data}}} up to its data. New reference; *data: where the data goes. */
static PyObject *chunk_frame(const struct upload *upload, size_t len, uint8_t **data)
{
    size_t chunk = pb_bytes_size(1, SIRA_ID_BYTES) + pb_bytes_size(15, len);
    if (upload->tensor) chunk += pb_uint_size(2, upload->tensor);
    if (upload->offset) chunk += pb_uint_size(3, upload->offset);
    const size_t item = pb_bytes_size(SIRA_ITEM_CHUNK, chunk);
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pb_bytes_size(1, item)); /* owned */
    if (!frame) return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(frame);
    at = pb_put_varint(pb_put_key(at, 1, PB_LEN), item);
    at = pb_put_varint(pb_put_key(at, SIRA_ITEM_CHUNK, PB_LEN), chunk);
    at = pb_put_bytes(at, 1, upload->id, SIRA_ID_BYTES);
    if (upload->tensor) at = pb_put_uint(at, 2, upload->tensor);
    if (upload->offset) at = pb_put_uint(at, 3, upload->offset);
    *data = pb_put_varint(pb_put_key(at, 15, PB_LEN), len);
    return frame;
}

void upload_done(Outbox *self, struct upload *upload)
{
    struct sira_body body;
    sira_body_move(&body, &upload->body);
    upload_unkeep(self, upload);
    struct upload *oldest = NULL;
    uint32_t quiet = 0;
    for (struct upload *other = self->uploads; other && upload->quiet; other = other->next) {
        if (!other->quiet || other->state != UPLOAD_SENT || other->busy) continue;
        quiet++;
        if (!oldest || other->served < oldest->served) oldest = other;
    }
    PyObject *ticket = NULL; /* owned */
    if (quiet > QUIET_UPLOADS_MAX) {
        outbox_forget(self, oldest->id);
        ticket = upload_end(self, oldest);
    }
    Py_XDECREF(ticket);
    sira_body_clear(&body);
}

PyObject *upload_chunk(Outbox *self, struct upload *upload, uint64_t now_ns)
{
    const struct sira_body *body = &upload->body;
    if (upload_lends(self, upload)) return upload_lend(self, upload);
    while (upload->offset == body->tensors[upload->tensor].bytes) { /* empty tensors have no chunk */
        upload->tensor++;
        upload->offset = 0;
        assert(upload->tensor < body->tensor_count);
    }
    const bool busy = self->small_ns && now_ns < self->small_ns + BUSY_NS;
    const struct sira_body_tensor *tensor = &body->tensors[upload->tensor];
    const uint32_t chunk_bytes = busy ? self->chunk_bytes_busy : self->chunk_bytes;
    uint64_t len = tensor->bytes - upload->offset;
    if (len > chunk_bytes) len = chunk_bytes;
    if (len > self->transfer_window_bytes) len = self->transfer_window_bytes;

    uint8_t *to;
    PyObject *frame = chunk_frame(upload, len, &to); /* owned */
    if (!frame) return NULL;
    const uint8_t *from = tensor->data + upload->offset;
    upload->offset += len;
    upload->taken += len;
    upload->served = ++self->turn;
    self->upload_bytes -= len;
    if (upload->taken == body->payload_bytes) upload_enter(self, upload, UPLOAD_SENT);

    upload->busy++;
    sira_copy_bytes(to, from, len);
    upload->busy--;
    if (upload->busy) return frame; /* another thread copies the last chunk, and will see to the rest */
    if (upload->dropped) {
        sira_body_clear(&upload->body);
        PyMem_Free(upload);
    } else if (upload->state == UPLOAD_SENT && body->payload_bytes) {
        upload_done(self, upload);
    }
    return frame;
}

int upload_abort_item(Outbox *self, const struct upload *upload)
{
    const size_t abort = pb_bytes_size(1, SIRA_ID_BYTES);
    const size_t item = pb_bytes_size(SIRA_ITEM_ABORT, abort), len = pb_bytes_size(1, item);
    struct batch *batch = batch_for(self, &self->queues[upload->priority], upload->priority, len);
    if (!batch) return -1;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(batch->frame) + batch->used;
    at = pb_put_varint(pb_put_key(at, 1, PB_LEN), item);
    at = pb_put_varint(pb_put_key(at, SIRA_ITEM_ABORT, PB_LEN), abort);
    (void)pb_put_bytes(at, 1, upload->id, SIRA_ID_BYTES);
    batch->used += (uint32_t)len; /* no record: it is neither answered nor repeated */
    self->mask |= 1u << upload->priority;
    return 0;
}

void outbox_forget(Outbox *self, const uint8_t *id)
{
    memcpy(self->forgotten[self->forgotten_at], id, SIRA_ID_BYTES);
    self->forgotten_at = (self->forgotten_at + 1) % OUTBOX_FORGOTTEN_MAX;
    if (self->forgotten_len < OUTBOX_FORGOTTEN_MAX) self->forgotten_len++;
}

bool outbox_forgotten(Outbox *self, const uint8_t *id)
{
    for (uint32_t i = 0; i < self->forgotten_len; i++) {
        const uint32_t at = (self->forgotten_at + OUTBOX_FORGOTTEN_MAX - 1 - i) % OUTBOX_FORGOTTEN_MAX;
        if (memcmp(self->forgotten[at], id, SIRA_ID_BYTES)) continue;
        memset(self->forgotten[at], 0, SIRA_ID_BYTES); /* no id is all zero: a UUIDv7 has its version */
        return true;
    }
    return false;
}
