/* The messages of a mailbox that lie in links: cells are bound, looked at, taken from. How it works stands in client.h. */
#include "client.h"
#include "fault.h"
#include "shm_py.h"

_Static_assert((int)SIRA_PRIORITIES == (int)SIRA_LINK_PRIORITIES, "a message has the priority of its slot");

/* A cell of a link that is bound to a mailbox, for as long as that is so or an entry names it. */
typedef struct Cell {
    PyObject_HEAD
    ShmReader *reader;  /* owned */
    Mailbox *mailbox;   /* borrowed; NULL: not bound any more */
    struct Cell *next, *prev; /* in the mailbox's list */
    PyObject *topic, *stamp;  /* owned str, bytes */
    struct sira_slice topic_bytes; /* in `topic` */
    uint32_t index;
    uint16_t entries[SIRA_PRIORITIES]; /* in the mailbox's queues that name it */
} Cell;

static void cell_dealloc(PyObject *object)
{
    Cell *self = (Cell *)object;
    assert(!self->mailbox);
    Py_XDECREF(self->reader);
    Py_XDECREF(self->topic);
    Py_XDECREF(self->stamp);
    Py_TYPE(object)->tp_free(object);
}

/* References only to what refers to nothing: none of the collector's. */
PyTypeObject sira_cell_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Cell",
    .tp_basicsize = sizeof(Cell),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = cell_dealloc,
};

/* ---- mailboxes to be called ---------------------------------------------------------------------------------- */
static Mailbox *due; /* owned references: those that are in no inbox's list */

static void note(Mailbox *mailbox)
{
    if (mailbox->noted || !mailbox_calls(mailbox)) return;
    mailbox->noted = true;
    mailbox->noted_next = due;
    due = (Mailbox *)Py_NewRef(mailbox);
}

void mailbox_call_due(void)
{
    PyObject *type, *value, *trace; /* owned */
    if (!due) return;
    PyErr_Fetch(&type, &value, &trace);
    while (due) {
        Mailbox *mailbox = due; /* owned */
        due = mailbox->noted_next;
        mailbox->noted = false;
        mailbox_call(mailbox);
        Py_DECREF(mailbox);
    }
    PyErr_Restore(type, value, trace);
}

/* ---- looking ------------------------------------------------------------------------------------------------- */
/* An entry for each message of the cell that has none. How many; -1: MemoryError, and the rest has none. */
static Py_ssize_t cell_tell(Cell *cell)
{
    const struct sira_reader_cell *known = &cell->reader->reader.cells[cell->index];
    Mailbox *mailbox = cell->mailbox;
    Py_ssize_t count = 0;
    if (mailbox->closed) return 0;
    for (uint32_t mask = known->mask; mask; mask &= mask - 1) {
        const uint32_t priority = (uint32_t)__builtin_ctz(mask);
        while (cell->entries[priority] < known->counts[priority]) {
            if (mailbox_queue_room(mailbox, priority) < 0) return -1;
            mailbox_put(mailbox, priority, Py_NewRef((PyObject *)cell), MAILBOX_NOWHERE, 0);
            cell->entries[priority]++;
            count++;
        }
    }
    if (count) SIRA_FAULT_POINT("cell.told");
    if (count) note(mailbox);
    return count;
}

static void pass_over(ShmReader *reader, uint32_t cell)
{
    if (reader->fork_depth != sira_fork_depth || reader->reader.corrupt) return;
    if (sira_link_pass_over(&reader->reader, cell)) sira_reader_break(reader);
    SIRA_FAULT_POINT("cell.passed_over");
    if (sira_link_calls_writer(&reader->memory->link)) (void)sira_bell_ring(reader->peer_bell);
}

Py_ssize_t sira_reader_share(ShmReader *self, bool all)
{
    struct sira_link_reader *reader = &self->reader;
    if (self->fork_depth != sira_fork_depth) return 0;
    if (!reader->corrupt && (all || sira_link_stirs(reader))) (void)sira_link_look(reader, all);
    if (reader->corrupt) {
        sira_reader_break(self);
        return 0;
    }
    Py_ssize_t count = 0;
    for (uint32_t w = 0; w < sira_link_words(self->memory->link.shape.cells); w++) {
        while (reader->fresh[w]) {
            const uint64_t bit = reader->fresh[w] & -reader->fresh[w];
            const uint32_t index = w * 64 + (uint32_t)__builtin_ctzll(bit);
            Cell *cell = self->bound ? self->bound[index] : NULL; /* borrowed */
            const Py_ssize_t told = cell ? cell_tell(cell) : 0;
            if (told < 0) return -1;
            count += told;
            if (!cell && self->closed[w] & bit) pass_over(self, index);
            reader->fresh[w] &= ~bit;
        }
    }
    return count;
}

int mailbox_look(Mailbox *self)
{
    for (uint32_t i = 0; i < self->link_count; i++)
        if (sira_reader_share(self->links[i].reader, false) < 0) return -1;
    return 0;
}

void sira_reader_discard(ShmReader *self, uint32_t cell)
{
    self->closed[cell / 64] |= UINT64_C(1) << cell % 64;
    pass_over(self, cell);
}

/* ---- taking -------------------------------------------------------------------------------------------------- */
bool mailbox_is_child(PyObject *cell)
{
    return sira_reader_is_child(((Cell *)cell)->reader);
}

PyObject *mailbox_from_cell(Mailbox *self, PyObject *object, uint32_t priority)
{
    Cell *cell = (Cell *)object;
    ShmReader *reader = cell->reader; /* borrowed: the caller holds the cell */
    assert(cell->mailbox == self && cell->entries[priority]);
    cell->entries[priority]--;
    struct sira_taken taken;
    const uint64_t now_ns = sira_now_mono_ns();
    const enum sira_link_status status = sira_link_take_oldest(&reader->reader, cell->index, priority, now_ns, &taken);
    SIRA_FAULT_POINT("cell.taken");
    if (sira_link_calls_writer(&reader->memory->link)) (void)sira_bell_ring(reader->peer_bell);
    if (status == SIRA_LINK_CORRUPT) sira_reader_break(reader);
    if (status != SIRA_LINK_OK) return NULL;
    const struct sira_linked linked = {.topic = cell->topic_bytes, .priority = priority,
                                       .left_ns = taken.deadline_ns ? taken.deadline_ns - now_ns : 0,
                                       .stamp_len = (size_t)PyBytes_GET_SIZE(cell->stamp)};
    PyTypeObject *type = (PyTypeObject *)Py_NewRef(self->message_type); /* owned */
    PyObject *context = Py_NewRef(self->context);                       /* owned */
    PyObject *message = sira_reader_message(reader, &taken, type, context, &linked,
                                            (const uint8_t *)PyBytes_AS_STRING(cell->stamp)); /* owned */
    Py_DECREF(context);
    Py_DECREF(type);
    if (!message && !PyErr_ExceptionMatches(PyExc_MemoryError)) sira_reader_break(reader);
    return message;
}

/* ---- binding ------------------------------------------------------------------------------------------------- */
/* The mailbox's entry of that link; made if need be. NULL: MemoryError. */
static struct mailbox_link *link_of(Mailbox *self, ShmReader *reader)
{
    for (uint32_t i = 0; i < self->link_count; i++)
        if (self->links[i].reader == reader) return &self->links[i];
    if (self->link_count == self->links_room) {
        const uint32_t room = self->links_room ? self->links_room * 2 : 4;
        struct mailbox_link *links = PyMem_Realloc(self->links, room * sizeof *links);
        if (!links) {
            PyErr_NoMemory();
            return NULL;
        }
        self->links = links;
        self->links_room = room;
    }
    self->links[self->link_count] = (struct mailbox_link){.reader = reader};
    return &self->links[self->link_count++];
}

/* Take the entries that name the cell out of the queues. */
static void purge(Mailbox *self, Cell *cell)
{
    for (uint32_t p = 0; p < SIRA_PRIORITIES; p++) {
        if (!cell->entries[p]) continue;
        struct mailbox_queue *queue = &self->queues[p];
        uint32_t kept = 0;
        for (uint32_t i = 0; i < queue->len; i++) {
            const struct mailbox_entry entry = queue->at[(queue->head + i) & (queue->room - 1)];
            if (entry.message != (PyObject *)cell) queue->at[(queue->head + kept++) & (queue->room - 1)] = entry;
            else Py_DECREF(cell); /* the list holds it, too */
        }
        self->depth -= queue->len - kept;
        queue->len = kept;
        if (!kept) self->mask &= ~(1u << p);
        cell->entries[p] = 0;
    }
}

/* It refers to the mailbox no more, and what lies in it or still comes is passed over. No Python code is run. */
static void unbind(Cell *cell)
{
    Mailbox *mailbox = cell->mailbox;
    ShmReader *reader = cell->reader;
    purge(mailbox, cell);
    cell->mailbox = NULL;
    if (cell->prev) cell->prev->next = cell->next;
    else mailbox->cells = cell->next;
    if (cell->next) cell->next->prev = cell->prev;
    mailbox->cell_count--;
    struct mailbox_link *link = mailbox->links;
    while (link->reader != reader) link++;
    if (--link->cells == 0) *link = mailbox->links[--mailbox->link_count];
    SIRA_FAULT_POINT("cell.unbound");
    reader->bound[cell->index] = NULL;
    reader->bound_count--;
    sira_reader_discard(reader, cell->index);
    Py_DECREF(cell); /* of the list; perhaps the reader goes with it */
}

void mailbox_close_cells(Mailbox *self)
{
    self->closed = true;
    for (Cell *cell = self->cells; cell; cell = cell->next) purge(self, cell);
}

void mailbox_unbind_all(Mailbox *self)
{
    while (self->cells) unbind(self->cells);
}

void sira_reader_unbind(ShmReader *self)
{
    Py_INCREF(self);
    for (uint32_t i = 0; self->bound_count && i < self->memory->link.shape.cells; i++)
        if (self->bound[i]) unbind(self->bound[i]);
    Py_DECREF(self);
}

void sira_reader_unbind_cell(ShmReader *self, uint32_t cell)
{
    assert(cell < self->memory->link.shape.cells);
    if (self->bound && self->bound[cell]) unbind(self->bound[cell]);
}

/* May that stamp follow each message? An exception if not. */
static bool is_stamp(PyObject *stamp)
{
    static struct sira_env env;
    size_t at = 0;
    const size_t len = (size_t)PyBytes_GET_SIZE(stamp);
    const enum sira_status status =
        len > SIRA_STAMP_BYTES_MAX ? SIRA_TOO_LARGE
                                   : sira_env_parse((const uint8_t *)PyBytes_AS_STRING(stamp), len, 0, 0, &env, &at);
    if (status == SIRA_OK && !env.tensor_count && !env.topic.len && !env.id.len) return true;
    if (status != SIRA_OK) sira_raise_status(status, at);
    else sira_raise("PROTOCOL_ERROR", "a stamp says what its messages say");
    return false;
}

int mailbox_bind(Mailbox *self, PyObject *object, uint32_t index, PyObject *topic, PyObject *stamp)
{
    ShmReader *reader = (ShmReader *)object;
    struct sira_slice topic_bytes;
    if (sira_reader_is_child(reader)) return -1;
    const uint32_t cells = reader->memory->link.shape.cells;
    if (index >= cells) {
        sira_raise("PROTOCOL_ERROR", "cell %lu of a link that has less", (unsigned long)index);
        return -1;
    }
    if ((reader->bound && reader->bound[index]) || reader->closed[index / 64] >> index % 64 & 1) {
        sira_raise("PROTOCOL_ERROR", "cell %lu is, or was, bound", (unsigned long)index);
        return -1;
    }
    if (sira_topic_of_py(topic, &topic_bytes) < 0 || !is_stamp(stamp)) return -1;
    if (!reader->bound && !(reader->bound = PyMem_Calloc(cells, sizeof *reader->bound))) {
        PyErr_NoMemory();
        return -1;
    }
    Cell *cell = PyObject_New(Cell, &sira_cell_type); /* owned, then by the list */
    if (!cell) return -1;
    memset((char *)cell + sizeof(PyObject), 0, sizeof *cell - sizeof(PyObject));
    cell->reader = (ShmReader *)Py_NewRef(object);
    cell->topic = Py_NewRef(topic);
    cell->topic_bytes = topic_bytes;
    cell->stamp = Py_NewRef(stamp);
    cell->index = index;
    /* First what lies in cells that are bound: a publisher may have left one of them for this one. */
    struct mailbox_link *link = NULL;
    if (mailbox_look(self) < 0 || sira_reader_share(reader, false) < 0 || !(link = link_of(self, reader))) {
        Py_DECREF(cell);
        return -1;
    }
    link->cells++;
    cell->mailbox = self;
    cell->next = self->cells;
    if (cell->next) cell->next->prev = cell;
    self->cells = cell;
    self->cell_count++;
    reader->bound[index] = cell;
    reader->bound_count++;
    SIRA_FAULT_POINT("cell.bound");
    if (reader->reader.corrupt || cell_tell(cell) >= 0) return 0;
    unbind(cell);
    return -1;
}

PyObject *mailbox_bind_method(Mailbox *self, PyObject *args)
{
    PyObject *reader, *topic, *stamp; /* borrowed */
    unsigned int cell;
    if (!PyArg_ParseTuple(args, "O!IUS:bind", &sira_shm_reader_type, &reader, &cell, &topic, &stamp)) return NULL;
    const int result = mailbox_bind(self, reader, cell, topic, stamp);
    mailbox_call_due();
    if (result < 0) return NULL;
    Py_RETURN_NONE;
}

PyObject *mailbox_unbind_method(Mailbox *self, PyObject *args)
{
    PyObject *object; /* borrowed */
    unsigned int index;
    if (!PyArg_ParseTuple(args, "O!I:unbind", &sira_shm_reader_type, &object, &index)) return NULL;
    ShmReader *reader = (ShmReader *)object;
    if (index >= reader->memory->link.shape.cells) return PyErr_Format(PyExc_IndexError, "cell %u", index);
    Cell *cell = reader->bound ? reader->bound[index] : NULL;
    if (!cell || cell->mailbox != self) Py_RETURN_FALSE;
    unbind(cell);
    Py_RETURN_TRUE;
}
