/* Inbox: everything that comes down one Subscribe stream, put into mailboxes. */
#include "client.h"

#include <structmember.h>

#include "shm_span.h"

uint64_t inbox_frames;

/* ---- subscriptions ---------------------------------------------------------------------------------------- */
static uint32_t port_slot(const Inbox *self, uint32_t subscription)
{
    return subscription * UINT32_C(2654435761) & (self->ports_room - 1);
}

struct port *inbox_port(const Inbox *self, uint32_t subscription)
{
    if (!self->ports_room) return NULL;
    for (uint32_t i = port_slot(self, subscription);; i = (i + 1) & (self->ports_room - 1)) {
        struct port *port = self->ports[i];
        if (!port || port->subscription == subscription) return port;
    }
}

static void port_insert(Inbox *self, struct port *port)
{
    uint32_t i = port_slot(self, port->subscription);
    while (self->ports[i]) i = (i + 1) & (self->ports_room - 1);
    self->ports[i] = port;
    self->port_count++;
}

/* Room for one more at half full. -1: MemoryError. */
static int ports_grow(Inbox *self)
{
    if (self->port_count * 2 < self->ports_room) return 0;
    const uint32_t old_room = self->ports_room;
    struct port **old = self->ports;
    const uint32_t room = old_room ? old_room * 2 : 8;
    struct port **ports = PyMem_Calloc(room, sizeof *ports);
    if (!ports) {
        PyErr_NoMemory();
        return -1;
    }
    self->ports = ports;
    self->ports_room = room;
    self->port_count = 0;
    for (uint32_t i = 0; i < old_room; i++)
        if (old[i]) port_insert(self, old[i]);
    PyMem_Free(old);
    return 0;
}

/* Take it out of the table; those behind it in its run are placed anew. */
static void port_remove(Inbox *self, struct port *port)
{
    uint32_t i = port_slot(self, port->subscription);
    while (self->ports[i] != port) i = (i + 1) & (self->ports_room - 1);
    self->ports[i] = NULL;
    self->port_count--;
    for (i = (i + 1) & (self->ports_room - 1); self->ports[i]; i = (i + 1) & (self->ports_room - 1)) {
        struct port *moved = self->ports[i];
        self->ports[i] = NULL;
        self->port_count--;
        port_insert(self, moved);
    }
}

static void port_close(Inbox *self, struct port *port)
{
    port_remove(self, port);
    inbox_forget_port(self, port);
    port_clear(port);
    Py_DECREF(port->mailbox);
    PyMem_Free(port);
}

static int subscription_of(PyObject *number, uint32_t *subscription)
{
    const unsigned long value = PyLong_AsUnsignedLong(number);
    if (value == (unsigned long)-1 && PyErr_Occurred()) return -1;
    if (value == 0 || value > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a subscription is a number from 1 to 2^32 - 1");
        return -1;
    }
    *subscription = (uint32_t)value;
    return 0;
}

static PyObject *inbox_attach(Inbox *self, PyObject *args)
{
    PyObject *number, *mailbox; /* borrowed */
    uint32_t subscription;
    if (!PyArg_ParseTuple(args, "OO!:attach", &number, &sira_mailbox_type, &mailbox)) return NULL;
    if (subscription_of(number, &subscription) < 0) return NULL;
    for (struct port *old; (old = inbox_port(self, subscription));) port_close(self, old);
    struct port *port = PyMem_Calloc(1, sizeof *port);
    if (!port) return PyErr_NoMemory();
    if (ports_grow(self) < 0) {
        PyMem_Free(port);
        return NULL;
    }
    port->subscription = subscription;
    port->mailbox = (Mailbox *)Py_NewRef(mailbox);
    mailbox_forget(port->mailbox);
    port_insert(self, port);
    Py_RETURN_NONE;
}

static PyObject *inbox_detach(Inbox *self, PyObject *number)
{
    uint32_t subscription;
    if (subscription_of(number, &subscription) < 0) return NULL;
    struct port *port = inbox_port(self, subscription);
    if (port) port_close(self, port);
    Py_RETURN_NONE;
}

static PyObject *inbox_reset(Inbox *self, PyObject *Py_UNUSED(ignored))
{
    while (self->transfers) {
        struct transfer *transfer = self->transfers;
        for (uint32_t i = 0; i < transfer->target_count; i++) transfer->targets[i].waiting = NULL;
        self->aborted++;
        transfer_release(self, transfer);
    }
    /* Messages in lanes may run Python code when they go, which may change the table: begin again then. */
    for (uint32_t i = 0; i < self->ports_room; i++) {
        struct port *port = self->ports[i];
        if (!port) continue;
        mailbox_forget(port->mailbox);
        if (!port->lanes) continue;
        port_clear(port);
        i = UINT32_MAX; /* + 1 = 0 */
    }
    Py_RETURN_NONE;
}

/* ---- frames ----------------------------------------------------------------------------------------------- */
void inbox_note(Inbox *self, Mailbox *mailbox)
{
    if (mailbox->noted || !mailbox_calls(mailbox)) return;
    mailbox->noted = true;
    mailbox->noted_next = self->noted;
    self->noted = (Mailbox *)Py_NewRef(mailbox);
}

/* Callbacks of the frame just taken; an exception that is set stays set. */
static void call_noted(Inbox *self)
{
    PyObject *type, *value, *trace; /* owned */
    if (!self->noted) return;
    PyErr_Fetch(&type, &value, &trace);
    while (self->noted) {
        Mailbox *mailbox = self->noted; /* owned */
        self->noted = mailbox->noted_next;
        mailbox->noted = false;
        mailbox_call(mailbox);
        Py_DECREF(mailbox);
    }
    PyErr_Restore(type, value, trace);
}

/* A Message for that mailbox: over the frame, or over a copy of its own bytes. Kept alone, a message over its
 * frame would keep the whole frame; it may do so where that is at most 8 times its own size, or 4 KiB, or where
 * the copy would cost more than the rest of its handling (from 8 KiB on). New reference. May run anything. */
static PyObject *message_of(PyObject *frame, struct sira_slice body, PyTypeObject *type, PyObject *context)
{
    const size_t frame_len = (size_t)PyBytes_GET_SIZE(frame);
    if (frame_len <= INBOX_SMALL_FRAME_BYTES || body.len >= INBOX_SHARE_BYTES ||
        body.len * INBOX_SHARE_PART >= frame_len)
        return sira_message_new(type, frame, body.data, body.len, context);
    PyObject *own = PyBytes_FromStringAndSize((const char *)body.data, (Py_ssize_t)body.len); /* owned */
    if (!own) return NULL;
    PyObject *message = sira_message_new(type, own, (const uint8_t *)PyBytes_AS_STRING(own), body.len, context);
    Py_DECREF(own);
    return message;
}

/* Put it into the mailbox, or behind the unfinished one that it follows. No Python code is run. */
static int deliver(Inbox *self, struct port *port, PyObject *message, uint64_t bytes)
{
    Mailbox *mailbox = port->mailbox; /* borrowed */
    const uint32_t priority = sira_message_priority(message);
    uint64_t place;
    if (priority >= SIRA_PRIORITIES) {
        sira_raise_status(SIRA_BAD_PRIORITY, 0);
        return -1;
    }
    if (mailbox_room(mailbox, priority) < 0 || mailbox_reserve(mailbox, &place) < 0) return -1;
    if (port->lanes) {
        const struct lane_key key = {sira_message_source(message), sira_message_topic(message), priority};
        if (lane_find(port, &key)) {
            struct waiting *waiting = lane_append(port, &key, place);
            if (!waiting) {
                mailbox_skip(mailbox, place);
                return -1;
            }
            waiting->message = Py_NewRef(message);
            waiting->bytes = bytes;
            return 0;
        }
    }
    mailbox_put(mailbox, priority, Py_NewRef(message), place, bytes);
    inbox_note(self, mailbox);
    return 0;
}

static int feed_message(Inbox *self, PyObject *frame, const struct sira_item *item)
{
    PyObject *message = NULL;         /* owned */
    const PyTypeObject *type = NULL;  /* of message, to compare only */
    const PyObject *context = NULL;
    size_t at = 0;
    uint32_t subscription = 0;
    int result = 0;
    while (result == 0 && sira_subs_next(&item->subs, &at, &subscription)) {
        struct port *port = inbox_port(self, subscription);
        if (port && (!message || type != port->mailbox->message_type || context != port->mailbox->context)) {
            PyTypeObject *own_type = (PyTypeObject *)Py_NewRef(port->mailbox->message_type); /* owned */
            PyObject *own_context = Py_NewRef(port->mailbox->context);                       /* owned */
            PyObject *fresh = message_of(frame, item->body, own_type, own_context);          /* owned */
            type = own_type;
            context = own_context;
            Py_DECREF(own_context);
            Py_DECREF(own_type);
            Py_XSETREF(message, fresh);
            if (!message) return -1;
            port = inbox_port(self, subscription); /* making it may have run anything */
        }
        if (port) result = deliver(self, port, message, item->body.len);
        else self->stray++;
    }
    Py_XDECREF(message);
    return result;
}

static int feed_control(PyObject **controls, const struct sira_item *item)
{
    if (!*controls && !(*controls = PyList_New(0))) return -1;
    PyObject *pair = Py_BuildValue("(Iy#)", (unsigned)item->kind, (const char *)item->body.data,
                                   (Py_ssize_t)item->body.len); /* owned */
    if (!pair) return -1;
    const int result = PyList_Append(*controls, pair);
    Py_DECREF(pair);
    return result;
}

static int feed_item(Inbox *self, PyObject *frame, const struct sira_item *item, PyObject **controls)
{
    switch (item->kind) {
    case SIRA_ITEM_NONE: return 0;
    case SIRA_ITEM_MESSAGE: return feed_message(self, frame, item);
    case SIRA_ITEM_HEAD: return inbox_head(self, item);
    case SIRA_ITEM_CHUNK: return inbox_chunk(self, frame, item);
    case SIRA_ITEM_ABORT: return inbox_abort(self, item);
    case SIRA_ITEM_CELL_OPEN:
    case SIRA_ITEM_CELL_END: {
        const int done = item->kind == SIRA_ITEM_CELL_OPEN ? inbox_cell_open(self, item) : inbox_cell_end(self, item);
        return done ? (done < 0 ? -1 : 0) : feed_control(controls, item);
    }
    default: return feed_control(controls, item);
    }
}

static PyObject *inbox_feed(Inbox *self, PyObject *frame)
{
    if (!PyBytes_Check(frame)) {
        PyErr_Format(PyExc_TypeError, "a frame is bytes, not %.100s", Py_TYPE(frame)->tp_name);
        return NULL;
    }
    const size_t len = (size_t)PyBytes_GET_SIZE(frame);
    if (len > SIRA_FRAME_BYTES_MAX) return sira_raise_status(SIRA_TOO_LARGE, 0);
    if (self->feeding) {
        PyErr_SetString(PyExc_RuntimeError, "feed() of one inbox is running already: frames have an order");
        return NULL;
    }
    PyObject *controls = NULL; /* owned */
    int result = 0;
    self->feeding = true;
    inbox_frames++;
    for (size_t at = 0;;) {
        struct sira_item item;
        bool done = false;
        const size_t item_at = at;
        const enum sira_status status =
            sira_frame_next((const uint8_t *)PyBytes_AS_STRING(frame), len, &at, &item, &done);
        if (status != SIRA_OK) {
            sira_raise_status(status, item_at);
            result = -1;
        }
        if (done || result < 0) break;
        if ((result = feed_item(self, frame, &item, &controls)) < 0) break;
    }
    self->feeding = false;
    mailbox_call_due();
    call_noted(self); /* also after a refused frame: what came before it is there */
    if (result < 0) {
        Py_CLEAR(controls);
        return NULL;
    }
    if (controls) return controls;
    Py_RETURN_NONE;
}

/* ---- the type --------------------------------------------------------------------------------------------- */
static PyObject *inbox_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"message_bytes_max", "warm_bytes_max", NULL};
    unsigned long long message_bytes_max = UINT64_C(16) << 30, warm_bytes_max = UINT64_C(256) << 20;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$KK:Inbox", names, &message_bytes_max, &warm_bytes_max))
        return NULL;
    Inbox *self = (Inbox *)type->tp_alloc(type, 0); /* owned */
    if (!self) return NULL;
    self->message_bytes_max = message_bytes_max;
    if (!(self->pool = sira_pool_new(warm_bytes_max))) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int inbox_traverse(Inbox *self, visitproc visit, void *arg)
{
    for (uint32_t i = 0; i < self->ports_room; i++) {
        const struct port *port = self->ports[i];
        if (!port) continue;
        Py_VISIT(port->mailbox);
        for (const struct lane *lane = port->lanes; lane; lane = lane->next)
            for (const struct waiting *waiting = lane->first; waiting; waiting = waiting->next)
                Py_VISIT(waiting->message);
    }
    for (const Mailbox *noted = self->noted; noted; noted = noted->noted_next) Py_VISIT(noted);
    Py_VISIT(self->links);
    return 0;
}

static int inbox_clear(Inbox *self)
{
    Py_XDECREF(inbox_reset(self, NULL));
    for (uint32_t i = 0; i < self->ports_room; i++) {
        if (!self->ports[i]) continue;
        port_close(self, self->ports[i]);
        i = UINT32_MAX; /* the table moved: begin again */
    }
    return 0;
}

static void inbox_dealloc(Inbox *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    inbox_clear(self);
    PyMem_Free(self->ports);
    Py_CLEAR(self->maps);
    Py_CLEAR(self->links);
    sira_pool_release(self->pool);
    type->tp_free(self);
}

static PyObject *inbox_get_warm_bytes(Inbox *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(sira_pool_warm_bytes(self->pool));
}

static PyObject *inbox_get_buffers_mapped(Inbox *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(sira_pool_mapped_count(self->pool));
}

static PyObject *inbox_get_maps(Inbox *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->maps ? self->maps : Py_None);
}

static int inbox_set_maps(Inbox *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == Py_None) value = NULL;
    if (value && Py_TYPE(value) != &sira_shm_maps_type) {
        PyErr_Format(PyExc_TypeError, "maps: want ShmMaps or None, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    Py_XSETREF(self->maps, Py_XNewRef(value));
    return 0;
}

static PyGetSetDef inbox_getset[] = {
    {"maps", (getter)inbox_get_maps, (setter)inbox_set_maps,
     "ShmMaps in which chunks by reference are looked up; None: there are none", NULL},
    {"warm_bytes", (getter)inbox_get_warm_bytes, NULL, "memory kept for the next large messages", NULL},
    {"buffers_mapped", (getter)inbox_get_buffers_mapped, NULL, "buffers made so far, reused ones not counted", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef inbox_members[] = {
    {"transfers", T_ULONGLONG, offsetof(Inbox, transfer_count), READONLY, "unfinished large messages"},
    {"aborted", T_ULONGLONG, offsetof(Inbox, aborted), READONLY, "large messages that broke off"},
    {"stray", T_ULONGLONG, offsetof(Inbox, stray), READONLY, "messages for subscriptions that are not attached"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef inbox_methods[] = {
    {"attach", (PyCFunction)inbox_attach, METH_VARARGS, "attach(subscription, mailbox)"},
    {"detach", (PyCFunction)inbox_detach, METH_O, "detach(subscription): its later messages are dropped."},
    {"feed", (PyCFunction)inbox_feed, METH_O, "feed(frame) -> None | [(kind, encoded submessage), ...]"},
    {"link", (PyCFunction)inbox_link_method, METH_VARARGS,
     "link(number, reader): cells of that link that feed() is told of are bound, and unbound, by it."},
    {"unlink", (PyCFunction)inbox_unlink_method, METH_O, "unlink(number): forget it; what is bound stays bound."},
    {"reset", (PyCFunction)inbox_reset, METH_NOARGS, "reset(): the connection was lost."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject sira_inbox_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Inbox",
    .tp_basicsize = sizeof(Inbox),
    .tp_new = inbox_new,
    .tp_dealloc = (destructor)inbox_dealloc,
    .tp_traverse = (traverseproc)inbox_traverse,
    .tp_clear = (inquiry)inbox_clear,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_methods = inbox_methods,
    .tp_members = inbox_members,
    .tp_getset = inbox_getset,
    .tp_doc = "Everything that comes down one Subscribe stream: split, reassembled, put into mailboxes.",
};
