/* Answers: receipts, credits and aborts that come down a Publish stream.
 *
 * A receipt is expected for the oldest message sent and not answered. Two kinds stand outside of that order, and
 * are found by their id: a quiet message, which is answered only when it is refused, and a large one, which may be
 * refused before, and is accepted when its last chunk has come. */
#include "client.h"

#include "pb.h"

static const struct record *expected(const Outbox *self, const uint8_t *id)
{
    for (const struct batch *batch = self->cursor; batch; batch = batch->next) {
        for (uint32_t i = batch->at; i < batch->count; i++) {
            const struct record *record = &batch->records[i];
            if (record->upload || record->state == RECORD_DONE) continue;
            if (!memcmp(record->id, id, SIRA_ID_BYTES)) return record;
            if (!record->quiet) return NULL;
        }
    }
    return NULL;
}

/* Settle all up to the record of that id, which is expected. Its ticket, owned, or NULL. May run anything. */
static PyObject *settle_up_to(Outbox *self, const uint8_t *id, bool *quiet)
{
    struct batch *batch;
    while ((batch = self->cursor)) {
        if (batch->at == batch->count) {
            batch_settle(self, batch);
            continue;
        }
        struct record *record = &batch->records[batch->at++];
        if (record->upload || record->state == RECORD_DONE) continue;
        const bool found = !memcmp(record->id, id, SIRA_ID_BYTES);
        PyObject *ticket = record->ticket; /* owned */
        record->ticket = NULL;
        record->state = RECORD_DONE;
        *quiet = record->quiet;
        if (record->quiet) {
            self->quiet_sent--;
        } else {
            self->unanswered--;
            self->unanswered_bytes -= record->len;
            batch->live--;
        }
        if (found) {
            if (batch->at == batch->count || !batch->live) batch_settle(self, batch);
            return ticket;
        }
        Py_XDECREF(ticket);
    }
    return NULL; /* cleared by what a ticket's end ran */
}

/* (ticket, outcome) to the end of `results`; steals ticket. */
static int report(PyObject *results, PyObject *ticket, PyObject *outcome)
{
    PyObject *pair = outcome ? PyTuple_Pack(2, ticket, outcome) : NULL; /* owned */
    const int result = pair ? PyList_Append(results, pair) : -1;
    Py_XDECREF(pair);
    Py_XDECREF(outcome);
    Py_DECREF(ticket);
    return result;
}

static int feed_receipt(Outbox *self, struct sira_slice body, PyObject *results)
{
    struct sira_receipt receipt;
    const enum sira_status status = sira_receipt_parse(body, &receipt);
    if (status != SIRA_OK) {
        sira_raise_status(status, 0);
        return -1;
    }
    const bool refused = receipt.error.data != NULL;
    bool quiet = false;
    struct upload *upload;
    PyObject *ticket = NULL; /* owned */
    if (receipt.id.len != SIRA_ID_BYTES) {
        sira_raise_status(SIRA_BAD_ID, 0);
        return -1;
    }
    if (expected(self, receipt.id.data)) {
        ticket = settle_up_to(self, receipt.id.data, &quiet);
    } else if ((upload = upload_find(self, receipt.id.data)) && upload->state != UPLOAD_QUEUED) {
        quiet = upload->quiet;
        if (upload->body.is_loan && upload->lent == upload->taken) receipt.copies = 0;
        ticket = upload_end(self, upload);
    } else if (outbox_forgotten(self, receipt.id.data)) {
        return 0;
    } else if (!(refused && self->quiet_forgotten)) {
        sira_raise("PROTOCOL_ERROR", "a receipt for a message that is not next in the order of sending");
        return -1;
    }
    if (refused) self->refused++;
    else self->accepted++;
    if (!ticket) return 0;
    if (refused)
        return report(results, ticket,
                      PyBytes_FromStringAndSize((const char *)receipt.error.data, (Py_ssize_t)receipt.error.len));
    if (!quiet && sender_check(ticket)) {
        if (sender_accepted(ticket, &receipt)) return report(results, ticket, Py_NewRef(Py_None));
        Py_DECREF(ticket);
        return 0;
    }
    if (!quiet) return report(results, ticket, sira_receipt_new(&receipt));
    Py_DECREF(ticket);
    return 0;
}

/* The node broke off a large message. */
static int feed_abort(Outbox *self, struct sira_slice body, PyObject *results)
{
    struct pb_reader reader = {body.data, body.data + body.len};
    struct sira_slice id = {NULL, 0}, error = {NULL, 0}, other;
    while (reader.at != reader.end) {
        uint32_t field, wire;
        bool good = pb_key(&reader, &field, &wire);
        if (good && wire == PB_LEN) good = pb_bytes(&reader, field == 1 ? &id : field == 2 ? &error : &other);
        else good = good && pb_skip(&reader, wire);
        if (!good) {
            sira_raise_status(SIRA_MALFORMED, (size_t)(reader.at - body.data));
            return -1;
        }
    }
    struct upload *upload = id.len == SIRA_ID_BYTES ? upload_find(self, id.data) : NULL;
    if (!upload || upload->state == UPLOAD_QUEUED) return 0;
    outbox_forget(self, upload->id);
    self->refused++;
    PyObject *ticket = upload_end(self, upload); /* owned */
    if (!ticket) return 0;
    return report(results, ticket, PyBytes_FromStringAndSize((const char *)error.data, (Py_ssize_t)error.len));
}

static int feed_credit(Outbox *self, struct sira_slice body)
{
    struct sira_credit credit;
    const enum sira_status status = sira_credit_parse(body, &credit);
    if (status != SIRA_OK) {
        sira_raise_status(status, 0);
        return -1;
    }
    struct upload *upload = credit.id.len == SIRA_ID_BYTES ? upload_find(self, credit.id.data) : NULL;
    if (upload && __builtin_add_overflow(upload->credited, credit.bytes, &upload->credited))
        upload->credited = UINT64_MAX;
    return 0;
}

static int feed_item(Outbox *self, const struct sira_item *item, PyObject *results)
{
    switch (item->kind) {
    case SIRA_ITEM_RECEIPT: return feed_receipt(self, item->body, results);
    case SIRA_ITEM_CREDIT: return feed_credit(self, item->body);
    case SIRA_ITEM_ABORT: return feed_abort(self, item->body, results);
    case SIRA_ITEM_MESSAGE:
    case SIRA_ITEM_HEAD:
    case SIRA_ITEM_CHUNK:
        sira_raise("PROTOCOL_ERROR", "messages do not come down a Publish stream");
        return -1;
    default: return 0; /* of a later version */
    }
}

PyObject *outbox_feed(Outbox *self, PyObject *frame)
{
    if (!PyBytes_Check(frame)) {
        PyErr_Format(PyExc_TypeError, "a frame is bytes, not %.100s", Py_TYPE(frame)->tp_name);
        return NULL;
    }
    if (self->broken) {
        PyObject *error = self->broken; /* owned */
        self->broken = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
        return NULL;
    }
    PyObject *results = PyList_New(0); /* owned */
    if (!results) return NULL;
    const size_t len = (size_t)PyBytes_GET_SIZE(frame);
    for (size_t at = 0;;) {
        struct sira_item item;
        bool done = false;
        const size_t item_at = at;
        const enum sira_status status =
            sira_frame_next((const uint8_t *)PyBytes_AS_STRING(frame), len, &at, &item, &done);
        if (status != SIRA_OK) sira_raise_status(status, item_at);
        else if (done) break;
        if (status == SIRA_OK && feed_item(self, &item, results) == 0) continue;
        if (PyList_GET_SIZE(results) == 0) {
            Py_DECREF(results);
            return NULL;
        }
        /* Somebody waits for these outcomes, and they hold: hand them out first. */
        PyObject *type, *value, *trace; /* owned */
        PyErr_Fetch(&type, &value, &trace);
        PyErr_NormalizeException(&type, &value, &trace);
        Py_XDECREF(type);
        Py_XDECREF(trace);
        Py_XSETREF(self->broken, value);
        break;
    }
    outbox_signal(self); /* credits let chunks go */
    return results;
}

/* Take the oldest records of quiet messages out of what was sent: their refusal, should it come yet, is counted
 * only. One walk for every window_messages of them. */
void outbox_forget_quiet(Outbox *self)
{
    PyObject **tickets = PyMem_New(PyObject *, self->quiet_sent); /* owned each: they go when the walk is over */
    if (!tickets) return; /* they are kept a little longer */
    uint64_t ticket_count = 0;
    struct batch *next;
    for (struct batch *batch = self->sent.first; batch && self->quiet_sent > self->window_messages; batch = next) {
        uint32_t kept = 0, kept_before = 0;
        next = batch->next;
        for (uint32_t i = 0; i < batch->count; i++) {
            const struct record record = batch->records[i];
            const bool settled = record.state == RECORD_DONE;
            const bool quiet = record.quiet && !record.upload && !settled;
            if (settled || (quiet && self->quiet_sent > self->window_messages)) {
                self->quiet_sent -= quiet;
                if (record.ticket) tickets[ticket_count++] = record.ticket;
                continue;
            }
            kept_before += i < batch->at;
            batch->records[kept++] = record;
        }
        batch->count = kept;
        batch->at = kept_before;
        self->quiet_forgotten = true;
        batch_settle(self, batch);
    }
    while (ticket_count) Py_DECREF(tickets[--ticket_count]);
    PyMem_Free(tickets);
}
