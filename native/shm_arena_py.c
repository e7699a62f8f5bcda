/* Arena and Chunk: memory that a publisher writes and its readers map. */
#include "shm_py.h"

#include <errno.h>
#include <pthread.h>
#include <structmember.h>

uint32_t sira_fork_depth;

static void after_fork(void)
{
    sira_fork_depth++;
}

int sira_fork_watch(void)
{
    static bool is_watched;
    if (is_watched) return 0;
    if (pthread_atfork(NULL, NULL, after_fork)) {
        PyErr_NoMemory();
        return -1;
    }
    is_watched = true;
    return 0;
}

PyObject *sira_shm_raise(const char *what, int error)
{
    if (error == ENOMEM) return PyErr_NoMemory();
    if (error == ENOSPC) return sira_raise("QUEUE_FULL", "%s: the arena is full until readers give chunks back", what);
    if (error == E2BIG) return sira_raise("MESSAGE_TOO_LARGE", "%s: larger than the arena may become", what);
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

void sira_shm_hold(void *owner, uint32_t chunk)
{
    if (chunk == SIRA_SHM_VIEWED) Py_INCREF((PyObject *)owner);
    else sira_chunk_hold((struct sira_shm_chunk){.segment = owner, .index = chunk});
}

void sira_shm_release(void *owner, uint32_t chunk)
{
    if (chunk == SIRA_SHM_VIEWED) Py_DECREF((PyObject *)owner);
    else sira_chunk_give((struct sira_shm_chunk){.segment = owner, .index = chunk});
}

/* ---- arenas ---------------------------------------------------------------------------------------------- */
static PyObject *arena_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bytes_max", "warm_bytes", NULL};
    unsigned long long bytes_max, warm_bytes = SIRA_ARENA_WARM_BYTES;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$K:ShmArena", names, &bytes_max, &warm_bytes)) return NULL;
    if (sira_fork_watch() < 0) return NULL;
    ShmArena *self = (ShmArena *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    sira_arena_open(&self->arena, bytes_max, warm_bytes);
    self->fork_depth = sira_fork_depth;
    return (PyObject *)self;
}

static void arena_dealloc(PyObject *object)
{
    sira_arena_close(&((ShmArena *)object)->arena);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *take(PyObject *object, PyObject *arg, bool makes)
{
    const unsigned long long bytes = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (bytes == 0) return PyErr_Format(PyExc_ValueError, "a chunk has at least one byte");
    if (((ShmArena *)object)->fork_depth != sira_fork_depth)
        return sira_raise("CONNECTION_CLOSED", "this arena belongs to the parent process: connect anew after fork()");
    ShmChunk *chunk = PyObject_New(ShmChunk, &sira_shm_chunk_type);
    if (!chunk) return NULL;
    chunk->fork_depth = sira_fork_depth;
    chunk->chunk.segment = NULL;
    struct sira_arena *arena = &((ShmArena *)object)->arena;
    if (!makes && !sira_arena_reuse(arena, bytes, &chunk->chunk)) {
        Py_DECREF(chunk);
        Py_RETURN_NONE;
    }
    const int error = makes ? sira_arena_take(arena, bytes, &chunk->chunk) : 0;
    if (error) {
        chunk->chunk.segment = NULL;
        Py_DECREF(chunk);
        return sira_shm_raise("take", error);
    }
    return (PyObject *)chunk;
}

static PyObject *arena_take(PyObject *object, PyObject *arg)
{
    return take(object, arg, true);
}

static PyObject *arena_reuse(PyObject *object, PyObject *arg)
{
    return take(object, arg, false);
}

static PyObject *arena_warm(PyObject *object, PyObject *arg)
{
    PyObject *chunk = arena_take(object, arg); /* owned */
    if (!chunk) return NULL;
    const struct sira_shm_chunk held = ((ShmChunk *)chunk)->chunk;
    const struct sira_shm shm = held.segment->shm;
    const uint64_t offset = sira_chunk_offset(held), bytes = sira_chunk_bytes(held);
    Py_BEGIN_ALLOW_THREADS /* the chunk keeps the segment */
    sira_shm_populate(&shm, offset, bytes, true);
    Py_END_ALLOW_THREADS
    Py_DECREF(chunk);
    Py_RETURN_NONE;
}

static PyObject *arena_segments(PyObject *object, PyObject *Py_UNUSED(args))
{
    const struct sira_arena *arena = &((ShmArena *)object)->arena;
    PyObject *list = PyList_New(0); /* owned */
    for (uint32_t i = 0; list && i < arena->count; i++) {
        const struct sira_segment *segment = arena->segments[i];
        PyObject *entry = Py_BuildValue("(kiK)", (unsigned long)segment->id, segment->shm.fd,
                                        (unsigned long long)segment->shm.bytes);
        if (!entry || PyList_Append(list, entry) < 0) Py_CLEAR(list);
        Py_XDECREF(entry);
    }
    return list;
}

static PyObject *arena_retire(PyObject *object, PyObject *args)
{
    unsigned long long now_ns, idle_ns = SIRA_ARENA_IDLE_NS;
    if (!PyArg_ParseTuple(args, "K|K:retire", &now_ns, &idle_ns)) return NULL;
    return PyLong_FromUnsignedLong(sira_arena_retire(&((ShmArena *)object)->arena, now_ns, idle_ns));
}

static PyObject *arena_retired(PyObject *object, PyObject *Py_UNUSED(args))
{
    PyObject *list = PyList_New(0); /* owned */
    uint32_t id;
    while (list && sira_arena_retired(&((ShmArena *)object)->arena, &id, 1)) {
        PyObject *number = PyLong_FromUnsignedLong(id);
        if (!number || PyList_Append(list, number) < 0) Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

static PyMethodDef arena_methods[] = {
    {"take", arena_take, METH_O, "take(bytes) -> ShmChunk. QUEUE_FULL: the limit is reached."},
    {"reuse", arena_reuse, METH_O, "reuse(bytes) -> ShmChunk, or None: it would need another segment."},
    {"warm", arena_warm, METH_O, "warm(bytes): have so many bytes in one piece ready, pages included. Without the GIL."},
    {"segments", arena_segments, METH_NOARGS, "segments() -> [(id, descriptor (borrowed), bytes)]."},
    {"retire", arena_retire, METH_VARARGS,
     "retire(now_ns, idle_ns=10 s) -> int: close what is idle beyond the warm reserve; how many empty ones still wait."},
    {"retired", arena_retired, METH_NOARGS, "retired() -> ids of closed segments, each told once."},
    {NULL, NULL, 0, NULL},
};

#define COUNTER(field) {#field, T_ULONGLONG, offsetof(ShmArena, arena.field), READONLY, NULL}
static PyMemberDef arena_members[] = {
    COUNTER(bytes_max), COUNTER(warm_bytes), COUNTER(segment_bytes), COUNTER(asked_bytes), COUNTER(chunk_bytes),
    COUNTER(asked_bytes_total), COUNTER(chunk_bytes_total), COUNTER(made_total), COUNTER(retired_total),
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_arena_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmArena",
    .tp_doc = PyDoc_STR("ShmArena(bytes_max, *, warm_bytes=8 MiB): a publisher's memory for one topic and audience."),
    .tp_basicsize = sizeof(ShmArena),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = arena_new,
    .tp_dealloc = arena_dealloc,
    .tp_methods = arena_methods,
    .tp_members = arena_members,
};

/* ---- chunks ---------------------------------------------------------------------------------------------- */
static void chunk_dealloc(PyObject *object)
{
    ShmChunk *self = (ShmChunk *)object;
    /* A child's books are a copy: giving back there changes nobody's, and its mapping is the parent's memory. */
    if (self->chunk.segment && self->fork_depth == sira_fork_depth) sira_chunk_give(self->chunk);
    Py_TYPE(object)->tp_free(object);
}

static int chunk_buffer(PyObject *object, Py_buffer *view, int flags)
{
    const ShmChunk *self = (const ShmChunk *)object;
    return PyBuffer_FillInfo(view, object, sira_chunk_data(self->chunk), (Py_ssize_t)sira_chunk_bytes(self->chunk), 0,
                             flags);
}

static Py_ssize_t chunk_length(PyObject *object)
{
    return (Py_ssize_t)sira_chunk_bytes(((ShmChunk *)object)->chunk);
}

static PyBufferProcs chunk_as_buffer = {.bf_getbuffer = chunk_buffer};
static PySequenceMethods chunk_as_sequence = {.sq_length = chunk_length};

PyTypeObject sira_shm_chunk_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmChunk",
    .tp_doc = PyDoc_STR("Writable memory of an arena, aligned to 64 bytes; its buffer may be viewed as arrays."),
    .tp_basicsize = sizeof(ShmChunk),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = chunk_dealloc,
    .tp_as_buffer = &chunk_as_buffer,
    .tp_as_sequence = &chunk_as_sequence,
};
