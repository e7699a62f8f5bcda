/* What becomes of messages when the connection is lost, or nobody wants them any more. */
#include "client.h"

/* Does a lost connection have to send it again? Answered ones and quiet ones not; a large one as long as its
 * memory is here, quiet or not, because it cannot have arrived whole. */
static bool again_wanted(const struct record *record)
{
    return record->state == RECORD_OPEN && (record->upload || !record->quiet);
}

static void free_batches(Outbox *self, struct batches *list)
{
    while (list->first) {
        struct batch *batch = list->first;
        batches_remove(list, batch);
        batch_free(self, batch);
    }
}

/* The wanted records of `sent`, without tickets, as new batches. -1: MemoryError, nothing changed. */
static int copy_wanted(Outbox *self, struct batches *fresh)
{
    for (const struct batch *batch = self->sent.first; batch; batch = batch->next) {
        for (uint32_t i = 0; i < batch->count; i++) {
            const struct record *old = &batch->records[i];
            if (!again_wanted(old)) continue;
            struct batch *to = batch_for(self, fresh, batch->priority, old->len);
            if (!to) return -1;
            memcpy(PyBytes_AS_STRING(to->frame) + to->used, PyBytes_AS_STRING(batch->frame) + old->start, old->len);
            struct record *record = batch_record(to, old->id, NULL, old->len);
            record->quiet = old->quiet;
            if (!old->ttl_at) continue;
            record->ttl_at = old->ttl_at - old->start + record->start;
            record->written_ns = old->written_ns;
            to->has_ttl = true;
        }
    }
    return 0;
}

/* The copies take over tickets and large messages of the originals. */
static void take_over(Outbox *self, struct batches *fresh)
{
    struct batch *to = fresh->first;
    uint32_t at = 0;
    for (struct batch *batch = self->sent.first; batch; batch = batch->next) {
        for (uint32_t i = 0; i < batch->count; i++) {
            struct record *old = &batch->records[i];
            if (!again_wanted(old)) continue;
            if (at == to->count) {
                to = to->next;
                at = 0;
            }
            struct record *record = &to->records[at++];
            record->ticket = old->ticket;
            old->ticket = NULL;
            record->upload = old->upload;
            if (!record->upload) continue;
            record->upload->batch = to;
            upload_restart(self, record->upload);
            if (!record->quiet) continue;
            self->quiet_queued++;
            self->quiet_queued_bytes += record->len;
        }
    }
}

PyObject *outbox_rewind(Outbox *self, PyObject *Py_UNUSED(ignored))
{
    struct batches fresh = {NULL, NULL};
    PyObject *lost = PyList_New(0); /* owned */
    if (!lost) return NULL;
    if (copy_wanted(self, &fresh) < 0) {
        free_batches(self, &fresh);
        Py_DECREF(lost);
        return NULL;
    }
    take_over(self, &fresh);
    outbox_forget_leases(self);
    struct batches old = self->sent;
    self->sent = (struct batches){NULL, NULL};
    self->cursor = NULL;
    while (self->again.first) {
        struct batch *batch = self->again.first;
        batches_remove(&self->again, batch);
        batches_append(&fresh, batch);
    }
    self->again = fresh;
    uint64_t count = 0;
    for (const struct batch *batch = fresh.first; batch; batch = batch->next) count += batch->count;
    routes_forget_asks(self);
    self->quiet_sent = 0;
    self->quiet_forgotten = false;
    self->forgotten_len = 0;
    self->signalled = false;
    self->small_last = false;

    /* From here on Python code may run. */
    Py_CLEAR(self->broken);
    free_batches(self, &old);
    for (struct upload *upload = self->uploads; upload;) {
        if (upload->state != UPLOAD_SENT) {
            upload = upload->next;
            continue;
        }
        const bool quiet = upload->quiet;
        PyObject *ticket = upload_end(self, upload); /* owned */
        const int result = quiet ? 0 : PyList_Append(lost, ticket ? ticket : Py_None);
        Py_XDECREF(ticket);
        if (result < 0) {
            Py_DECREF(lost);
            return NULL;
        }
        upload = self->uploads; /* the list may have changed */
    }
    return Py_BuildValue("(KN)", (unsigned long long)count, lost);
}

/* ---- cancel ----------------------------------------------------------------------------------------------- */
/* Take a queued message out of its batch. Its ticket, owned, or NULL. */
static PyObject *withdraw(Outbox *self, struct batches *list, struct batch *batch, uint32_t index)
{
    const struct record record = batch->records[index];
    if (record.quiet) {
        self->quiet_queued--;
        self->quiet_queued_bytes -= record.len;
    } else if (!record.upload) {
        self->unanswered--;
        self->unanswered_bytes -= record.len;
    }
    batch_remove_record(batch, index);
    if (batch->used == 0) {
        batches_remove(list, batch);
        if (list != &self->again && !list->first) self->mask &= ~(1u << batch->priority);
        batch_free(self, batch); /* no records left: runs nothing */
    }
    return record.ticket;
}

/* Newest first: who cancels has mostly just asked, and thousands of quiet messages may lie before it. */
static bool find_ticket(struct batches *list, const PyObject *ticket, struct batch **where, uint32_t *index)
{
    for (struct batch *batch = list->last; batch; batch = batch->prev) {
        for (uint32_t i = batch->count; i-- > 0;) {
            const struct record *record = &batch->records[i];
            if (ticket != (record->upload ? record->upload->ticket : record->ticket)) continue;
            *where = batch;
            *index = i;
            return true;
        }
    }
    return false;
}

static int cancel_upload(Outbox *self, struct upload *upload)
{
    PyObject *ticket; /* owned */
    if (upload->state == UPLOAD_SENT) { /* nothing is held but the ticket: its answer is counted */
        ticket = upload->ticket;
        upload->ticket = NULL;
    } else {
        if (upload->state == UPLOAD_ACTIVE) {
            if (upload_abort_item(self, upload) < 0) return -1;
            outbox_forget(self, upload->id);
        }
        ticket = upload_end(self, upload);
        outbox_signal(self);
    }
    Py_XDECREF(ticket);
    return 0;
}

PyObject *outbox_cancel(Outbox *self, PyObject *ticket)
{
    struct batch *batch;
    uint32_t index;
    if (ticket == Py_None) Py_RETURN_FALSE;
    for (uint32_t i = 0; i <= SIRA_PRIORITIES; i++) {
        struct batches *list = i < SIRA_PRIORITIES ? &self->queues[i] : &self->again;
        if (!find_ticket(list, ticket, &batch, &index)) continue;
        struct upload *upload = batch->records[index].upload;
        PyObject *held = withdraw(self, list, batch, index); /* owned; NULL for an upload */
        if (upload) {
            upload->batch = NULL;
            if (cancel_upload(self, upload) < 0) return NULL;
        }
        Py_XDECREF(held);
        Py_RETURN_TRUE;
    }
    for (struct upload *upload = self->uploads; upload; upload = upload->next) {
        if (upload->ticket != ticket) continue;
        if (cancel_upload(self, upload) < 0) return NULL;
        Py_RETURN_TRUE;
    }
    if (find_ticket(&self->sent, ticket, &batch, &index)) {
        Py_CLEAR(batch->records[index].ticket); /* the caller has one: nothing runs */
        Py_RETURN_TRUE;
    }
    Py_RETURN_FALSE;
}

/* ---- clear ------------------------------------------------------------------------------------------------ */
/* Append a ticket (stolen; NULL: nothing). */
static int keep_ticket(PyObject *tickets, PyObject *ticket)
{
    const int result = ticket ? PyList_Append(tickets, ticket) : 0;
    Py_XDECREF(ticket);
    return result;
}

PyObject *outbox_clear(Outbox *self, PyObject *Py_UNUSED(ignored))
{
    enum { LISTS = SIRA_PRIORITIES + 2 };
    PyObject *tickets = PyList_New(0); /* owned */
    if (!tickets) return NULL;
    struct batches lists[LISTS];
    lists[0] = self->sent;
    lists[1] = self->again;
    memcpy(&lists[2], self->queues, sizeof self->queues);
    struct upload *uploads = self->uploads;
    self->sent = self->again = (struct batches){NULL, NULL};
    memset(self->queues, 0, sizeof self->queues);
    self->uploads = self->oldest_upload = NULL;
    self->active_uploads = self->upload_count = 0;
    self->cursor = NULL;
    self->mask = 0;
    self->unanswered = self->unanswered_bytes = self->quiet_queued = self->quiet_queued_bytes = self->quiet_sent = 0;
    self->upload_bytes = 0;
    outbox_forget_leases(self);
    routes_forget_asks(self);
    self->signalled = false;
    self->quiet_forgotten = true; /* answers to what was sent may come yet */
    for (struct upload *upload = uploads; upload; upload = upload->next) {
        upload->dropped = true;
        upload->batch = NULL;
        upload->busy++; /* ours: a copy that ends meanwhile leaves it to us */
    }

    int result = 0; /* from here on Python code may run */
    for (uint32_t i = 0; i < LISTS; i++) {
        while (lists[i].first) {
            struct batch *batch = lists[i].first;
            batches_remove(&lists[i], batch);
            for (uint32_t r = 0; r < batch->count; r++) {
                PyObject *ticket = batch->records[r].ticket; /* owned */
                batch->records[r].ticket = NULL;
                if (keep_ticket(tickets, ticket) < 0) result = -1;
            }
            batch_free(self, batch);
        }
    }
    while (uploads) {
        struct upload *upload = uploads;
        uploads = upload->next;
        PyObject *ticket = upload->ticket; /* owned */
        upload->ticket = NULL;
        if (--upload->busy == 0) {
            sira_body_clear(&upload->body);
            PyMem_Free(upload);
        }
        if (keep_ticket(tickets, ticket) < 0) result = -1;
    }
    Py_CLEAR(self->broken);
    if (result == 0) return tickets;
    Py_DECREF(tickets);
    return NULL;
}
