/* The reading end: messages whose arrays lie in mapped memory, and waiting for them. */
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

static bool is_child(const ShmReader *self)
{
    if (self->fork_depth == sira_fork_depth) return false;
    sira_raise("CLOSED", "this end of a link belongs to the parent process: connect anew after fork()");
    return true;
}

/* ---- segments ------------------------------------------------------------------------------------------------ */
static PyObject *reader_map(PyObject *object, PyObject *args)
{
    unsigned int id;
    int fd;
    unsigned long long bytes;
    if (!PyArg_ParseTuple(args, "IiK:map", &id, &fd, &bytes)) return NULL;
    const int error = sira_maps_add(&((ShmReader *)object)->maps, id, fd, bytes);
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
/* Message of `taken`; a hold is given back by its view, or here if there is none. */
static PyObject *message_of(ShmReader *self, const struct sira_taken *taken, PyObject *context)
{
    const bool is_inline = taken->hold == SIRA_LINK_NONE;
    PyObject *head = NULL; /* owned: bytes */
    if (taken->inline_bytes || is_inline) {
        head = PyBytes_FromStringAndSize((const char *)taken->inline_data, (Py_ssize_t)taken->inline_bytes);
        if (!head) goto no_view;
    }
    if (is_inline) {
        PyObject *message = sira_message_new(&sira_message_type, head, (const uint8_t *)PyBytes_AS_STRING(head),
                                             taken->inline_bytes, context);
        Py_DECREF(head);
        return message;
    }
    struct sira_map *map;
    const uint8_t *data = sira_maps_range(&self->maps, taken->segment, taken->offset, taken->bytes, &map);
    if (!data || taken->offset % SIRA_HEAP_GRANULE_BYTES) {
        self->reader.corrupt = true;
        corrupt_error("a message lies outside of the segments that were introduced");
        goto no_view;
    }
    size_t tensors = taken->bytes;
    if (!head) { /* too long for the slot: behind the tensors, its length last */
        uint64_t length = 0;
        if (taken->bytes >= 8) memcpy(&length, data + taken->bytes - 8, 8);
        if (length == 0 || length > taken->bytes - 8 || length > SIRA_ENVELOPE_BYTES_MAX) {
            sira_raise("FRAME_CORRUPT", "the head of a message is longer than its chunk");
            goto no_view;
        }
        tensors = taken->bytes - 8 - length;
        head = PyBytes_FromStringAndSize((const char *)data + tensors, (Py_ssize_t)length);
        if (!head) goto no_view;
    }
    ShmView *view = PyObject_New(ShmView, &sira_shm_view_type); /* owned */
    if (!view) goto no_view;
    view->reader = (ShmReader *)Py_NewRef((PyObject *)self);
    view->map = map;
    view->hold = taken->hold;
    sira_map_hold(map);
    PyObject *message = sira_message_new_placed(&sira_message_type, head, (const uint8_t *)PyBytes_AS_STRING(head),
                                                (size_t)PyBytes_GET_SIZE(head), (PyObject *)view, data, tensors,
                                                context);
    Py_DECREF(head);
    Py_DECREF(view);
    return message;

no_view:
    Py_XDECREF(head);
    if (!is_inline && sira_link_give_hold(&self->memory->link, taken->hold)) (void)sira_bell_ring(self->peer_bell);
    return NULL;
}

/* take(cell, context=None, now_ns=0) -> Message or None */
static PyObject *reader_take(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ShmReader *self = (ShmReader *)object;
    if (count < 1 || count > 3) return PyErr_Format(PyExc_TypeError, "take(cell, context=None, now_ns=now)");
    if (is_child(self)) return NULL;
    const unsigned long cell = PyLong_AsUnsignedLong(args[0]);
    if (PyErr_Occurred()) return NULL;
    if (cell >= self->memory->link.shape.cells) return PyErr_Format(PyExc_IndexError, "cell %lu", cell);
    const uint64_t now_ns = count > 2 ? PyLong_AsUnsignedLongLong(args[2]) : sira_now_mono_ns();
    if (PyErr_Occurred()) return NULL;
    struct sira_taken taken;
    enum sira_link_status status = SIRA_LINK_OK;
    /* Something of a higher priority may have come, so look each time: two loads when nothing did. */
    if (sira_link_stirs(&self->reader)) status = sira_link_look(&self->reader, false);
    if (status == SIRA_LINK_OK) status = sira_link_take(&self->reader, (uint32_t)cell, now_ns, &taken);
    if (sira_link_calls_writer(&self->memory->link)) (void)sira_bell_ring(self->peer_bell);
    if (status == SIRA_LINK_EMPTY) Py_RETURN_NONE;
    if (status != SIRA_LINK_OK) return corrupt_error(NULL);
    return message_of(self, &taken, count > 1 && args[1] != Py_None ? args[1] : NULL);
}

/* look(all=False) -> list of cells with something to take */
static PyObject *reader_look(PyObject *object, PyObject *args)
{
    ShmReader *self = (ShmReader *)object;
    int all = 0;
    if (!PyArg_ParseTuple(args, "|p:look", &all)) return NULL;
    if (is_child(self)) return NULL;
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

static PyMethodDef reader_methods[] = {
    {"map", reader_map, METH_VARARGS, "map(segment, fd, bytes): map a publisher's segment; takes `fd` over."},
    {"drop", reader_drop, METH_O, "drop(segment): it was retired; views of it stay good."},
    {"look", reader_look, METH_VARARGS, "look(all=False) -> cells with something to take. all: the writer is dead."},
    {"peek", reader_peek, METH_O, "peek(cell) -> highest priority queued, or -1."},
    {"take", (PyCFunction)(void (*)(void))reader_take, METH_FASTCALL,
     "take(cell, context=None, now_ns=now) -> Message or None. Late ones are counted EXPIRED and passed over."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reader_members[] = {
    {"bell", T_INT, offsetof(ShmReader, bell), READONLY, "Descriptor that the writer rings; borrowed."},
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

/* ---- bells --------------------------------------------------------------------------------------------------- */
/* One descriptor for many readers. A reader that rang, or was looked at, is *awake*: waiting looks at its words. One
 * that slept through a whole wait is *armed*: its writer rings, and waiting need not look at it. */
typedef struct {
    PyObject_HEAD
    PyObject *readers; /* owned: {token: ShmReader} */
    struct sira_spin spin;
    int bells;
    uint64_t next_token;
    uint32_t fork_depth;
} ShmBells;

static PyObject *bells_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spin_us_max", NULL};
    double spin_us_max = SIRA_SPIN_NS_DEFAULT / 1e3;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|d:ShmBells", names, &spin_us_max)) return NULL;
    if (!(spin_us_max >= 0)) return PyErr_Format(PyExc_ValueError, "spin_us_max is negative");
    ShmBells *self = (ShmBells *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->fork_depth = sira_fork_depth;
    self->bells = sira_bells_make();
    self->readers = PyDict_New();
    sira_spin_init(&self->spin, spin_us_max > 1e12 ? SIRA_SPIN_FOREVER : (uint64_t)(spin_us_max * 1e3));
    if (self->bells >= 0 && self->readers) return (PyObject *)self;
    if (self->bells < 0) PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(self);
    return NULL;
}

static void bells_dealloc(PyObject *object)
{
    ShmBells *self = (ShmBells *)object;
    if (self->bells >= 0) close(self->bells);
    Py_XDECREF(self->readers);
    Py_TYPE(object)->tp_free(object);
}

/* add(reader) -> token */
static PyObject *bells_add(PyObject *object, PyObject *reader)
{
    ShmBells *self = (ShmBells *)object;
    if (Py_TYPE(reader) != &sira_shm_reader_type) return PyErr_Format(PyExc_TypeError, "want a ShmReader");
    PyObject *token = PyLong_FromUnsignedLongLong(++self->next_token); /* owned until returned */
    if (!token) return NULL;
    if (PyDict_SetItem(self->readers, token, reader) < 0) {
        Py_DECREF(token);
        return NULL;
    }
    ((ShmReader *)reader)->is_armed = false;
    if (sira_bells_add(self->bells, ((ShmReader *)reader)->bell, self->next_token) == 0) return token;
    PyErr_SetFromErrno(PyExc_OSError);
    PyObject *type, *value, *traceback; /* owned */
    PyErr_Fetch(&type, &value, &traceback);
    (void)PyDict_DelItem(self->readers, token);
    PyErr_Restore(type, value, traceback);
    Py_DECREF(token);
    return NULL;
}

static PyObject *bells_remove(PyObject *object, PyObject *token)
{
    ShmBells *self = (ShmBells *)object;
    PyObject *reader = PyDict_GetItemWithError(self->readers, token); /* borrowed */
    if (!reader) {
        if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, token);
        return NULL;
    }
    (void)sira_bells_remove(self->bells, ((ShmReader *)reader)->bell);
    if (PyDict_DelItem(self->readers, token) < 0) return NULL;
    Py_RETURN_NONE;
}

/* The awake readers of one wait. Their links' words are all that is looked at without the GIL. */
struct awake {
    ShmReader **readers; /* owned references */
    size_t count;
};

static bool any_stirs(void *of)
{
    const struct awake *awake = of;
    for (size_t i = 0; i < awake->count; i++) {
        const struct sira_link *link = &awake->readers[i]->memory->link;
        for (uint32_t w = 0; w < sira_link_words(link->shape.slots); w++)
            if (sira_word_load(&link->posted[w])) return true;
    }
    return false;
}

static bool all_sleep(void *of)
{
    const struct awake *awake = of;
    for (size_t i = 0; i < awake->count; i++) sira_word_swap(awake->readers[i]->memory->link.r_sleeps, 1);
    return !any_stirs(of);
}

/* Those of `tokens` whose readers are still there, as a list; they are awake from now on. */
static PyObject *who_rang(ShmBells *self, const uint64_t *tokens, uint32_t count)
{
    PyObject *list = PyList_New(0); /* owned */
    for (uint32_t i = 0; list && i < count; i++) {
        PyObject *token = PyLong_FromUnsignedLongLong(tokens[i]); /* owned */
        PyObject *reader = token ? PyDict_GetItemWithError(self->readers, token) : NULL; /* borrowed */
        if (reader) {
            ((ShmReader *)reader)->is_armed = false;
            if (PyList_Append(list, token) < 0) Py_CLEAR(list);
        } else if (PyErr_Occurred()) {
            Py_CLEAR(list);
        }
        Py_XDECREF(token);
    }
    return list;
}

/* wait(timeout_s) -> list of tokens that have something; empty: timeout, a signal, or look at your own */
static PyObject *bells_wait(PyObject *object, PyObject *arg)
{
    enum { TOKENS = 64, SMALL = 16 };
    ShmBells *self = (ShmBells *)object;
    const double timeout_s = PyFloat_AsDouble(arg);
    if (timeout_s == -1 && PyErr_Occurred()) return NULL;
    if (self->fork_depth != sira_fork_depth)
        return sira_raise("CLOSED", "these bells belong to the parent process: connect anew after fork()");
    int64_t timeout_ns = timeout_s < 0 ? -1 : timeout_s > 1e9 ? INT64_MAX : (int64_t)(timeout_s * 1e9);

    ShmReader *small[SMALL];
    uint64_t small_tokens[SMALL], *awake_tokens = small_tokens;
    struct awake awake = {.readers = small};
    const Py_ssize_t most = PyDict_GET_SIZE(self->readers);
    if (most > SMALL) {
        awake.readers = PyMem_New(ShmReader *, (size_t)most);
        awake_tokens = PyMem_New(uint64_t, (size_t)most);
    }
    PyObject *result = NULL; /* owned */
    if (!awake.readers || !awake_tokens) {
        PyErr_NoMemory();
        goto done;
    }
    Py_ssize_t at = 0;
    PyObject *key, *value; /* borrowed */
    while (PyDict_Next(self->readers, &at, &key, &value)) {
        ShmReader *reader = (ShmReader *)value;
        if (reader->is_armed) continue;
        awake_tokens[awake.count] = PyLong_AsUnsignedLongLong(key);
        awake.readers[awake.count++] = (ShmReader *)Py_NewRef(value);
        if (sira_link_stirs(&reader->reader)) timeout_ns = 0; /* what a look kept for later, too */
    }
    uint64_t tokens[TOKENS];
    uint32_t count = 0;
    const struct sira_sleeper sleeper = {.stirs = any_stirs, .sleeps = all_sleep, .of = &awake};
    enum sira_wait woken = SIRA_WAIT_STIRS;
    if (timeout_ns == 0) {
        woken = sira_bells_wait(&self->spin, self->bells, &sleeper, 0, tokens, TOKENS, &count);
    } else {
        Py_BEGIN_ALLOW_THREADS
        woken = sira_bells_wait(&self->spin, self->bells, &sleeper, timeout_ns, tokens, TOKENS, &count);
        Py_END_ALLOW_THREADS
    }
    const int error = errno;
    if (woken == SIRA_WAIT_SIGNAL && PyErr_CheckSignals() < 0) goto done;
    if (woken == SIRA_WAIT_FAILED) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        goto done;
    }
    const bool slept = timeout_ns != 0 && (woken == SIRA_WAIT_RANG || woken == SIRA_WAIT_TIMEOUT);
    for (size_t i = 0; slept && i < awake.count; i++)
        awake.readers[i]->is_armed = sira_word_load(awake.readers[i]->memory->link.r_sleeps) != 0;
    result = who_rang(self, tokens, count);
    for (size_t i = 0; result && i < awake.count; i++) {
        if (awake.readers[i]->is_armed || !sira_link_stirs(&awake.readers[i]->reader)) continue;
        PyObject *token = PyLong_FromUnsignedLongLong(awake_tokens[i]); /* owned */
        const int has = token ? PySequence_Contains(result, token) : -1;
        if (has < 0 || (has == 0 && PyList_Append(result, token) < 0)) Py_CLEAR(result);
        Py_XDECREF(token);
    }
done:
    for (size_t i = 0; i < awake.count; i++) Py_DECREF(awake.readers[i]);
    if (awake.readers != small) PyMem_Free(awake.readers);
    if (awake_tokens != small_tokens) PyMem_Free(awake_tokens);
    return result;
}

/* sleep() -> bool: for an event loop, before it waits on fileno() */
static PyObject *bells_sleep(PyObject *object, PyObject *Py_UNUSED(args))
{
    ShmBells *self = (ShmBells *)object;
    bool is_quiet = true;
    Py_ssize_t at = 0;
    PyObject *key, *value; /* borrowed */
    while (PyDict_Next(self->readers, &at, &key, &value)) {
        ShmReader *reader = (ShmReader *)value;
        if (reader->is_armed || reader->fork_depth != sira_fork_depth) continue;
        reader->is_armed = sira_link_reader_sleeps(&reader->reader);
        is_quiet = is_quiet && reader->is_armed;
    }
    return PyBool_FromLong(is_quiet);
}

static PyObject *bells_fileno(PyObject *object, PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(((ShmBells *)object)->bells);
}

static PyMethodDef bells_methods[] = {
    {"fileno", bells_fileno, METH_NOARGS, "fileno() -> the epoll descriptor, borrowed: for an event loop."},
    {"add", bells_add, METH_O, "add(reader) -> token."},
    {"remove", bells_remove, METH_O, "remove(token)."},
    {"sleep", bells_sleep, METH_NOARGS,
     "sleep() -> bool: have every writer ring from now on. False: something is there already, call wait(0)."},
    {"wait", bells_wait, METH_O,
     "wait(timeout_s) -> tokens of readers that have something; negative: no limit. Spins, then sleeps, without the GIL."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject sira_shm_bells_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmBells",
    .tp_doc = PyDoc_STR("ShmBells(*, spin_us_max=50): wait for many readers at one descriptor. inf: never sleep."),
    .tp_basicsize = sizeof(ShmBells),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = bells_new,
    .tp_dealloc = bells_dealloc,
    .tp_methods = bells_methods,
};
