/* The reading end: messages whose arrays lie in mapped memory. */
#include "client.h"
#include "shm_py.h"

#include <errno.h>
#include <structmember.h>
#include <unistd.h>

/* ---- views: what keeps a hold -------------------------------------------------------------------------------- */
/* Owner of arrays over a chunk. Its end gives the hold back: from any thread that has the GIL, also from a finaliser
 * within another call, since it changes one shared word and a count of views only. */
typedef struct {
    PyObject_HEAD
    ShmReader *reader; /* owned: the link's memory and the bell must be there */
    struct sira_map *map;
    uint32_t hold;
} ShmView;

static void view_dealloc(PyObject *object)
{
    ShmView *self = (ShmView *)object;
    if (self->reader->fork_depth == sira_fork_depth) {
        if (sira_link_give_hold(&self->reader->memory->link, self->hold))
            (void)sira_bell_ring(self->reader->peer_bell);
    }
    sira_map_give(self->map); /* in a child: its own mapping and its own count */
    Py_DECREF(self->reader);
    Py_TYPE(object)->tp_free(object);
}

PyTypeObject sira_shm_view_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmView",
    .tp_basicsize = sizeof(ShmView),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = view_dealloc,
};

/* ---- life ---------------------------------------------------------------------------------------------------- */
static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *memory; /* borrowed */
    int peer_bell, bell;
    if (kwargs && PyDict_GET_SIZE(kwargs)) return PyErr_Format(PyExc_TypeError, "ShmReader takes no keywords");
    if (!PyArg_ParseTuple(args, "O!ii:ShmReader", &sira_shm_link_type, &memory, &peer_bell, &bell)) return NULL;
    ShmReader *self = (ShmReader *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->peer_bell = self->bell = -1;
    sira_maps_open(&self->maps);
    if (sira_link_reader_open(&self->reader, &((ShmLink *)memory)->link)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->memory = (ShmLink *)Py_NewRef(memory);
    self->peer_bell = peer_bell;
    self->bell = bell;
    self->fork_depth = sira_fork_depth;
    return (PyObject *)self;
}

static void reader_dealloc(PyObject *object)
{
    ShmReader *self = (ShmReader *)object;
    assert(self->bound_count == 0); /* whoever is bound keeps it */
    PyMem_Free(self->bound);
    Py_XDECREF(self->broken);
    sira_link_reader_close(&self->reader);
    sira_maps_close(&self->maps);
    if (self->peer_bell >= 0) close(self->peer_bell);
    if (self->bell >= 0) close(self->bell);
    Py_XDECREF(self->memory);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *corrupt_error(const char *what)
{
    return sira_raise("LINK_CORRUPT", "%s", what ? what : sira_link_status_text(SIRA_LINK_CORRUPT));
}

bool sira_reader_is_child(const ShmReader *self)
{
    if (self->fork_depth == sira_fork_depth) return false;
    sira_raise("CONNECTION_CLOSED", "this end of a link belongs to the parent process: connect anew after fork()");
    return true;
}

void sira_reader_break(ShmReader *self)
{
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    self->reader.corrupt = true;
    if (!self->broken) {
        self->broken = value ? PyObject_Str(value) : PyUnicode_FromString(sira_link_status_text(SIRA_LINK_CORRUPT));
        PyErr_Clear();
        if (self->bell >= 0) (void)sira_bell_ring(self->bell);
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

/* ---- segments ------------------------------------------------------------------------------------------------ */
static PyObject *reader_map(PyObject *object, PyObject *args)
{
    unsigned int id, forwarded_id = 0;
    int fd;
    unsigned long long bytes;
    if (!PyArg_ParseTuple(args, "IiK|I:map", &id, &fd, &bytes, &forwarded_id)) return NULL;
    const int error = sira_maps_add(&((ShmReader *)object)->maps, id, fd, bytes, forwarded_id ? forwarded_id : id);
    if (error == EEXIST) return PyErr_Format(PyExc_ValueError, "segment %u is mapped", id);
    if (error == EPERM) return corrupt_error("the descriptor is not a sealed segment of that size");
    if (error) return sira_shm_raise("map", error);
    Py_RETURN_NONE;
}

static PyObject *reader_drop(PyObject *object, PyObject *arg)
{
    const unsigned long id = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (id <= UINT32_MAX) sira_maps_drop(&((ShmReader *)object)->maps, (uint32_t)id);
    Py_RETURN_NONE;
}

/* ---- taking -------------------------------------------------------------------------------------------------- */
/* What keeps the hold of `taken`, and where its bytes are. New reference; NULL: the hold was given back. */
static ShmView *view_of(ShmReader *self, const struct sira_taken *taken, const uint8_t **data)
{
    struct sira_map *map;
    *data = sira_maps_range(&self->maps, taken->segment, taken->offset, taken->bytes, &map);
    ShmView *view = NULL;
    if (!*data || taken->offset % SIRA_HEAP_GRANULE_BYTES) {
        self->reader.corrupt = true;
        corrupt_error("a message lies outside of the segments that were introduced");
    } else {
        view = PyObject_New(ShmView, &sira_shm_view_type);
    }
    if (!view) {
        if (sira_link_give_hold(&self->memory->link, taken->hold)) (void)sira_bell_ring(self->peer_bell);
        return NULL;
    }
    view->reader = (ShmReader *)Py_NewRef((PyObject *)self);
    view->map = map;
    view->hold = taken->hold;
    sira_map_hold(map);
    return view;
}

PyObject *sira_reader_message(ShmReader *self, const struct sira_taken *taken, PyTypeObject *type, PyObject *context,
                              const struct sira_linked *linked, const uint8_t *stamp)
{
    const uint8_t *data = NULL;
    ShmView *view = NULL; /* owned */
    if (taken->hold != SIRA_LINK_NONE && !(view = view_of(self, taken, &data))) return NULL;
    const uint8_t *from = taken->inline_data;
    size_t tensors = taken->bytes, length = taken->inline_bytes;
    if (view && !length) { /* the head is too long for the slot: behind the tensors, its length last */
        uint64_t behind = 0;
        if (taken->bytes >= 8) memcpy(&behind, data + taken->bytes - 8, 8);
        if (behind == 0 || behind > taken->bytes - 8 || behind > SIRA_ENVELOPE_BYTES_MAX) {
            Py_DECREF(view);
            return sira_raise("FRAME_CORRUPT", "the head of a message is longer than its chunk");
        }
        length = behind;
        tensors = taken->bytes - 8 - length;
        from = data + tensors;
    }
    /* Copied before it is looked at: what is parsed does not change. */
    const size_t stamp_len = linked ? linked->stamp_len : 0;
    PyObject *head = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(length + stamp_len)); /* owned */
    PyObject *message = NULL;
    if (head) {
        uint8_t *bytes = (uint8_t *)PyBytes_AS_STRING(head);
        memcpy(bytes, from, length);
        if (stamp_len) memcpy(bytes + length, stamp, stamp_len);
        if (linked)
            message = sira_message_new_linked(type, head, bytes, length, linked, (PyObject *)view, data, tensors, context);
        else if (view)
            message = sira_message_new_placed(type, head, bytes, length, (PyObject *)view, data, tensors, context);
        else
            message = sira_message_new(type, head, bytes, length, context);
    }
    Py_XDECREF(head);
    Py_XDECREF(view);
    return message;
}

/* Take from the link itself. 1: *taken; 0: nothing there; -1: exception. */
static int take_next(ShmReader *self, PyObject *const *args, Py_ssize_t count, struct sira_taken *taken)
{
    if (sira_reader_is_child(self)) return -1;
    const unsigned long cell = PyLong_AsUnsignedLong(args[0]);
    if (PyErr_Occurred()) return -1;
    if (cell >= self->memory->link.shape.cells) {
        PyErr_Format(PyExc_IndexError, "cell %lu", cell);
        return -1;
    }
    const uint64_t now_ns = count > 2 ? PyLong_AsUnsignedLongLong(args[2]) : sira_now_mono_ns();
    if (PyErr_Occurred()) return -1;
    enum sira_link_status status = SIRA_LINK_OK;
    /* Something of a higher priority may have come, so look each time: two loads when nothing did. */
    if (sira_link_stirs(&self->reader)) status = sira_link_look(&self->reader, false);
    if (status == SIRA_LINK_OK) status = sira_link_take(&self->reader, (uint32_t)cell, now_ns, taken);
    if (sira_link_calls_writer(&self->memory->link)) (void)sira_bell_ring(self->peer_bell);
    if (status == SIRA_LINK_OK || status == SIRA_LINK_EMPTY) return status == SIRA_LINK_OK;
    corrupt_error(NULL);
    return -1;
}

/* take(cell, context=None, now_ns=now) -> Message or None */
static PyObject *reader_take(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct sira_taken taken;
    if (count < 1 || count > 3) return PyErr_Format(PyExc_TypeError, "take(cell, context=None, now_ns=now)");
    const int got = take_next((ShmReader *)object, args, count, &taken);
    if (got < 0) return NULL;
    if (got == 0) Py_RETURN_NONE;
    return sira_reader_message((ShmReader *)object, &taken, &sira_message_type,
                               count > 1 && args[1] != Py_None ? args[1] : NULL, NULL, NULL);
}

/* relay(cell) -> ShmPost or None: what lies there, unopened, to be posted to other links */
static PyObject *reader_relay(PyObject *object, PyObject *cell)
{
    struct sira_taken taken;
    const int got = take_next((ShmReader *)object, &cell, 1, &taken);
    if (got < 0) return NULL;
    if (got == 0) Py_RETURN_NONE;
    const uint8_t *data;
    ShmView *view = NULL; /* owned, then by the post */
    if (taken.hold != SIRA_LINK_NONE && !(view = view_of((ShmReader *)object, &taken, &data))) return NULL;
    ShmPost *post = (ShmPost *)sira_shm_post_type.tp_alloc(&sira_shm_post_type, 0);
    if (!post) {
        Py_XDECREF(view);
        return NULL;
    }
    post->fork_depth = sira_fork_depth;
    memcpy(post->post.inlined, taken.inline_data, taken.inline_bytes);
    post->post.post = (struct sira_post){
        .priority = taken.priority, .flags = taken.flags, .inline_bytes = (uint16_t)taken.inline_bytes,
        .inline_data = post->post.inlined, .deadline_ns = taken.deadline_ns, .owner = view, .chunk = SIRA_SHM_VIEWED,
        .segment = view ? view->map->forwarded_id : 0, .offset = taken.offset, .bytes = view ? taken.bytes : 0};
    return (PyObject *)post;
}

/* look(all=False) -> list of cells with something to take */
static PyObject *reader_look(PyObject *object, PyObject *args)
{
    ShmReader *self = (ShmReader *)object;
    int all = 0;
    if (!PyArg_ParseTuple(args, "|p:look", &all)) return NULL;
    if (sira_reader_is_child(self)) return NULL;
    if (sira_link_look(&self->reader, all)) return corrupt_error(NULL);
    PyObject *cells = PyList_New(0); /* owned */
    for (uint32_t w = 0; cells && w < sira_link_words(self->memory->link.shape.cells); w++)
        for (uint64_t bits = self->reader.ready[w]; cells && bits; bits &= bits - 1) {
            PyObject *cell = PyLong_FromUnsignedLong(w * 64 + (unsigned long)__builtin_ctzll(bits));
            if (!cell || PyList_Append(cells, cell) < 0) Py_CLEAR(cells);
            Py_XDECREF(cell);
        }
    return cells;
}

static PyObject *reader_peek(PyObject *object, PyObject *arg)
{
    ShmReader *self = (ShmReader *)object;
    const unsigned long cell = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (cell >= self->memory->link.shape.cells) return PyErr_Format(PyExc_IndexError, "cell %lu", cell);
    return PyLong_FromLong(sira_link_peek(&self->reader, (uint32_t)cell));
}

/* ---- for mailboxes ---------------------------------------------------------------------------------------------- */
/* distribute(all=False) -> int: how many messages came */
static PyObject *reader_distribute(PyObject *object, PyObject *args)
{
    int all = 0;
    if (!PyArg_ParseTuple(args, "|p:distribute", &all)) return NULL;
    if (sira_reader_is_child((ShmReader *)object)) return NULL;
    const Py_ssize_t count = sira_reader_share((ShmReader *)object, all);
    mailbox_call_due();
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *reader_unbind_all(PyObject *object, PyObject *Py_UNUSED(args))
{
    sira_reader_unbind((ShmReader *)object);
    Py_RETURN_NONE;
}

static PyObject *reader_discard(PyObject *object, PyObject *arg)
{
    ShmReader *self = (ShmReader *)object;
    const unsigned long cell = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (cell >= self->memory->link.shape.cells) return PyErr_Format(PyExc_IndexError, "cell %lu", cell);
    if (sira_reader_is_child(self)) return NULL;
    if (self->bound && self->bound[cell]) return PyErr_Format(PyExc_ValueError, "cell %lu is bound", cell);
    sira_reader_discard(self, (uint32_t)cell);
    Py_RETURN_NONE;
}

static PyMethodDef reader_methods[] = {
    {"map", reader_map, METH_VARARGS, "map(segment, fd, bytes, forwarded=segment): map a publisher's segment; takes `fd` over."},
    {"drop", reader_drop, METH_O, "drop(segment): it was retired; views of it stay good."},
    {"look", reader_look, METH_VARARGS, "look(all=False) -> cells with something to take. all: the writer is dead."},
    {"peek", reader_peek, METH_O, "peek(cell) -> highest priority queued, or -1."},
    {"take", (PyCFunction)(void (*)(void))reader_take, METH_FASTCALL,
     "take(cell, context=None, now_ns=now) -> Message or None. Late ones are counted EXPIRED and passed over."},
    {"relay", reader_relay, METH_O,
     "relay(cell) -> ShmPost or None: the next message unopened, over the same memory, for other links."},
    {"distribute", reader_distribute, METH_VARARGS,
     "distribute(all=False) -> int: look; mailboxes get to know what came, and wake. See `broken` afterwards."},
    {"unbind_all", reader_unbind_all, METH_NOARGS, "unbind_all(): no mailbox takes anything of it any more; what lies in their cells is passed over."},
    {"discard", reader_discard, METH_O,
     "discard(cell): pass over what lies there and what still comes. After the node has closed its books of it."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reader_members[] = {
    {"bell", T_INT, offsetof(ShmReader, bell), READONLY, "Descriptor that the writer rings; borrowed."},
    {"depth", T_UINT, offsetof(ShmReader, reader.queued), READONLY, "Messages known and not taken, in all cells."},
    {"bound", T_UINT, offsetof(ShmReader, bound_count), READONLY, "Cells that mailboxes take from."},
    {"broken", T_OBJECT, offsetof(ShmReader, broken), READONLY, "Why the link is corrupt; None: it is not."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_reader_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmReader",
    .tp_doc = PyDoc_STR("ShmReader(link, peer_bell, bell): the subscriber's end. Takes over both descriptors."),
    .tp_basicsize = sizeof(ShmReader),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reader_new,
    .tp_dealloc = reader_dealloc,
    .tp_methods = reader_methods,
    .tp_members = reader_members,
};
