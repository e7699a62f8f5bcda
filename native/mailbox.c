/* Mailbox: the messages of one subscription that wait for the application.
 *
 * Two orders live here. Messages leave by priority. But the node counts what it sent in the order of sending, and
 * a credit confirms "the n oldest"; so every arrival takes a place, and only places taken without a gap from the
 * oldest on are confirmed. A low-priority message passed over holds back the credit of those taken after it, which
 * is right: it still occupies the window. A head takes its place when it arrives; the place of a transfer that
 * breaks off counts as taken then. */
#include "client.h"

#include <structmember.h>

/* ---- places ----------------------------------------------------------------------------------------------- */
int mailbox_reserve(Mailbox *self, uint64_t *place)
{
    const uint64_t used = self->next - self->base;
    if (used == self->taken_room) {
        const uint64_t room = self->taken_room ? self->taken_room * 2 : 64;
        uint8_t *taken = PyMem_Calloc(room, 1);
        if (!taken) {
            PyErr_NoMemory();
            return -1;
        }
        for (uint64_t i = self->base; i != self->next; i++)
            taken[i & (room - 1)] = self->taken[i & (self->taken_room - 1)];
        PyMem_Free(self->taken);
        self->taken = taken;
        self->taken_room = room;
    }
    *place = self->next++;
    self->taken[*place & (self->taken_room - 1)] = 0;
    return 0;
}

void mailbox_skip(Mailbox *self, uint64_t place)
{
    if (place < self->base) return; /* of a connection that is gone */
    const uint64_t mask = self->taken_room - 1;
    self->taken[place & mask] = 1;
    while (self->base != self->next && self->taken[self->base & mask]) {
        self->base++;
        self->confirmed++;
    }
}

void mailbox_forget(Mailbox *self)
{
    self->base = self->next;
    self->confirmed = 0;
    self->taken_bytes = 0;
    self->credit_at = self->credit_every ? self->credit_every : UINT64_MAX;
}

/* ---- messages --------------------------------------------------------------------------------------------- */
int mailbox_room(Mailbox *self, uint32_t priority)
{
    /* A frame that is here had been sent before it was fed: what its publishers had posted by then is in their links. */
    if (self->link_count && self->looked != inbox_frames) {
        if (mailbox_look(self) < 0) return -1;
        self->looked = inbox_frames;
    }
    return mailbox_queue_room(self, priority);
}

int mailbox_queue_room(Mailbox *self, uint32_t priority)
{
    struct mailbox_queue *queue = &self->queues[priority];
    if (queue->len < queue->room) return 0;
    if (queue->room >= UINT32_C(1) << 30) goto no_memory;
    const uint32_t room = queue->room ? queue->room * 2 : 16;
    struct mailbox_entry *at = PyMem_New(struct mailbox_entry, (size_t)room);
    if (!at) goto no_memory;
    for (uint32_t i = 0; i < queue->len; i++) at[i] = queue->at[(queue->head + i) & (queue->room - 1)];
    PyMem_Free(queue->at);
    queue->at = at;
    queue->room = room;
    queue->head = 0;
    return 0;
no_memory:
    PyErr_NoMemory();
    return -1;
}

void mailbox_put(Mailbox *self, uint32_t priority, PyObject *message, uint64_t place, uint64_t bytes)
{
    assert(priority < SIRA_PRIORITIES);
    struct mailbox_queue *queue = &self->queues[priority];
    assert(queue->len < queue->room);
    queue->at[(queue->head + queue->len) & (queue->room - 1)] = (struct mailbox_entry){message, place, bytes};
    queue->len++;
    self->mask |= 1u << priority;
    self->depth++;
    self->held_bytes += bytes;
}

/* Is so much confirmed that the node should hear of it? */
static bool credit_due(const Mailbox *self)
{
    return self->confirmed >= self->credit_at ||
           (self->credit_bytes && self->taken_bytes >= self->credit_bytes && self->confirmed);
}

void mailbox_call(Mailbox *self)
{
    if (self->armed && self->mask) {
        self->armed = false;
        sira_callback(self->wake);
    }
    if (credit_due(self)) {
        if (self->confirmed >= self->credit_at) self->credit_at += self->credit_every;
        self->taken_bytes = 0;
        sira_callback(self->on_credit);
    }
}

PyObject *mailbox_take(Mailbox *self)
{
    for (;;) {
        if (!self->mask) {
            if (!self->link_count || !self->looks_left) return NULL;
            self->looks_left--;
            const int looked = mailbox_look(self);
            mailbox_call_due();
            if (looked < 0) return NULL;
            if (!self->mask) return NULL;
        }
        const uint32_t priority = 31 - (uint32_t)__builtin_clz(self->mask);
        struct mailbox_queue *queue = &self->queues[priority];
        const struct mailbox_entry entry = queue->at[queue->head];
        const bool is_cell = entry.place == MAILBOX_NOWHERE;
        if (is_cell && mailbox_is_child(entry.message)) return NULL;
        queue->head = (queue->head + 1) & (queue->room - 1);
        if (--queue->len == 0) self->mask &= ~(1u << priority);
        self->depth--;
        self->held_bytes -= entry.bytes;
        if (!is_cell) {
            mailbox_skip(self, entry.place);
            self->taken_bytes += entry.bytes;
            if (credit_due(self)) mailbox_call(self);
            return entry.message;
        }
        PyObject *message = mailbox_from_cell(self, entry.message, priority); /* owned */
        Py_DECREF(entry.message);
        if (message || PyErr_Occurred()) return message;
    }
}

static PyObject *mailbox_pop(Mailbox *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *message = mailbox_take(self); /* owned */
    if (message || PyErr_Occurred()) return message;
    Py_RETURN_NONE;
}

static PyObject *mailbox_anext(Mailbox *self)
{
    PyObject *message = mailbox_take(self); /* owned */
    if (message) return sira_ready_new(message);
    if (PyErr_Occurred()) return NULL;
    static PyObject *wait_name; /* owned, for ever */
    if (!wait_name && !(wait_name = PyUnicode_InternFromString("_wait"))) return NULL;
    return PyObject_CallMethodNoArgs((PyObject *)self, wait_name);
}

void mailbox_awaits(Mailbox *self)
{
    self->armed = true;
    self->looks_left = MAILBOX_LOOKS;
}

static PyObject *mailbox_arm(Mailbox *self, PyObject *Py_UNUSED(ignored))
{
    mailbox_awaits(self);
    mailbox_call(self); /* another thread may have fed between the caller's pop() and here */
    Py_RETURN_NONE;
}

static PyObject *mailbox_take_credit(Mailbox *self, PyObject *Py_UNUSED(ignored))
{
    const uint64_t confirmed = self->confirmed;
    self->confirmed = 0;
    self->taken_bytes = 0;
    self->credit_at = self->credit_every ? self->credit_every : UINT64_MAX;
    return PyLong_FromUnsignedLongLong(confirmed);
}

static PyObject *mailbox_configure(Mailbox *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"message_type", "context", "credit_every", "wake", "on_credit", "credit_bytes", NULL};
    PyObject *type = NULL, *context = NULL, *wake = NULL, *on_credit = NULL; /* borrowed */
    long long every = -1, bytes = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOLOOL:configure", names, &type, &context, &every, &wake,
                                     &on_credit, &bytes))
        return NULL;
    if (!type || !context || !wake || !on_credit) {
        PyErr_SetString(PyExc_TypeError, "configure() needs message_type, context, credit_every, wake and on_credit");
        return NULL;
    }
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, &sira_message_type)) {
        PyErr_SetString(PyExc_TypeError, "message_type must be Message or a subclass");
        return NULL;
    }
    if (every < 0 || bytes < 0) {
        PyErr_SetString(PyExc_ValueError, "credit_every and credit_bytes must not be negative");
        return NULL;
    }
    self->credit_every = (uint64_t)every;
    self->credit_bytes = (uint64_t)bytes;
    self->credit_at = every ? self->confirmed + self->credit_every : UINT64_MAX;
    Py_XSETREF(self->message_type, (PyTypeObject *)Py_NewRef(type));
    Py_XSETREF(self->context, Py_NewRef(context));
    Py_XSETREF(self->wake, wake == Py_None ? NULL : Py_NewRef(wake));
    Py_XSETREF(self->on_credit, on_credit == Py_None ? NULL : Py_NewRef(on_credit));
    Py_RETURN_NONE;
}

/* ---- the type --------------------------------------------------------------------------------------------- */
static PyObject *mailbox_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Mailbox *self = (Mailbox *)type->tp_alloc(type, 0); /* owned */
    if (!self) return NULL;
    self->message_type = (PyTypeObject *)Py_NewRef(&sira_message_type);
    self->context = Py_NewRef(Py_None);
    self->credit_at = UINT64_MAX;
    self->looks_left = MAILBOX_LOOKS;
    return (PyObject *)self;
}

static int mailbox_traverse(Mailbox *self, visitproc visit, void *arg)
{
    Py_VISIT(self->message_type);
    Py_VISIT(self->context);
    Py_VISIT(self->wake);
    Py_VISIT(self->on_credit);
    for (uint32_t p = 0; p < SIRA_PRIORITIES; p++) {
        const struct mailbox_queue *queue = &self->queues[p];
        for (uint32_t i = 0; i < queue->len; i++) Py_VISIT(queue->at[(queue->head + i) & (queue->room - 1)].message);
    }
    return 0;
}

static int mailbox_clear(Mailbox *self)
{
    mailbox_unbind_all(self);
    for (uint32_t p = 0; p < SIRA_PRIORITIES; p++) {
        struct mailbox_queue queue = self->queues[p];
        self->queues[p] = (struct mailbox_queue){0};
        self->mask &= ~(1u << p);
        self->depth -= queue.len;
        for (uint32_t i = 0; i < queue.len; i++) {
            const struct mailbox_entry *entry = &queue.at[(queue.head + i) & (queue.room - 1)];
            self->held_bytes -= entry->bytes;
            mailbox_skip(self, entry->place);
            Py_DECREF(entry->message);
        }
        PyMem_Free(queue.at);
    }
    Py_CLEAR(self->wake);
    Py_CLEAR(self->on_credit);
    PyObject *none = Py_NewRef(Py_None);
    Py_XSETREF(self->context, none);
    return 0;
}

static void mailbox_dealloc(Mailbox *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    mailbox_clear(self);
    Py_CLEAR(self->context);
    Py_CLEAR(self->message_type);
    PyMem_Free(self->taken);
    PyMem_Free(self->links);
    type->tp_free(self);
}

static PyObject *mailbox_unbind_all_method(Mailbox *self, PyObject *Py_UNUSED(ignored))
{
    mailbox_unbind_all(self);
    Py_RETURN_NONE;
}

static PyObject *mailbox_close_cells_method(Mailbox *self, PyObject *Py_UNUSED(ignored))
{
    mailbox_close_cells(self);
    Py_RETURN_NONE;
}

static PyMethodDef mailbox_methods[] = {
    {"configure", (PyCFunction)(void (*)(void))mailbox_configure, METH_VARARGS | METH_KEYWORDS,
     "configure(*, message_type, context, credit_every, wake, on_credit, credit_bytes=0)"},
    {"pop", (PyCFunction)mailbox_pop, METH_NOARGS, "pop() -> Message | None: highest priority first."},
    {"arm", (PyCFunction)mailbox_arm, METH_NOARGS,
     "arm(): the next arrival calls wake() once; at once if a message is here already."},
    {"take_credit", (PyCFunction)mailbox_take_credit, METH_NOARGS,
     "take_credit() -> int: oldest messages taken without a gap since the last call."},
    {"bind", (PyCFunction)mailbox_bind_method, METH_VARARGS,
     "bind(reader, cell, topic, stamp): messages of that cell come here, behind those that are here."},
    {"unbind", (PyCFunction)mailbox_unbind_method, METH_VARARGS,
     "unbind(reader, cell) -> bool: what lies there, or still comes, is passed over. False: it was not bound here."},
    {"unbind_all", (PyCFunction)mailbox_unbind_all_method, METH_NOARGS, "unbind_all(): the same of all cells."},
    {"close_cells", (PyCFunction)mailbox_close_cells_method, METH_NOARGS,
     "close_cells(): give out nothing of links from now on; it stays where it lies until it is unbound."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef mailbox_members[] = {
    {"message_type", T_OBJECT_EX, offsetof(Mailbox, message_type), READONLY, NULL},
    {"context", T_OBJECT_EX, offsetof(Mailbox, context), 0, "becomes Message.context"},
    {"over", T_BOOL, offsetof(Mailbox, over), 0, "nothing more comes, or not without somebody's care: who waits is told"},
    {"depth", T_ULONGLONG, offsetof(Mailbox, depth), READONLY, "messages here, and those known in links"},
    {"held_bytes", T_ULONGLONG, offsetof(Mailbox, held_bytes), READONLY, "bytes of the messages here, but of those in links"},
    {"cells", T_UINT, offsetof(Mailbox, cell_count), READONLY, "cells of links that are bound"},
    {NULL, 0, 0, 0, NULL},
};

static PyAsyncMethods mailbox_async = {
    .am_aiter = PyObject_SelfIter,
    .am_anext = (unaryfunc)mailbox_anext,
};

PyTypeObject sira_mailbox_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Mailbox",
    .tp_basicsize = sizeof(Mailbox),
    .tp_new = mailbox_new,
    .tp_dealloc = (destructor)mailbox_dealloc,
    .tp_traverse = (traverseproc)mailbox_traverse,
    .tp_clear = (inquiry)mailbox_clear,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_as_async = &mailbox_async,
    .tp_methods = mailbox_methods,
    .tp_members = mailbox_members,
    .tp_doc = "Messages of one subscription, waiting for the application.",
};
