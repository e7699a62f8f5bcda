/* Maps and spans: the memory of others that chunks name (shm_span.h), without a link. What is looked at keeps its
 * mapping; what nobody looks at any more is told by its lease, for which a bell is rung. */
#include "shm_span.h"

#include "fault.h"
#include "shm_py.h"

#include <errno.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    struct sira_maps maps;
    uint64_t *ended; /* owned: leases that are over and were not asked for yet */
    Py_ssize_t ended_count, ended_room; /* room for those of all spans that live, so that no end can fail */
    Py_ssize_t spans;
    unsigned long long lent_bytes; /* of the spans that live */
    int bell; /* borrowed; -1: none */
    uint32_t fork_depth;
} ShmMaps;

typedef struct {
    PyObject_HEAD
    ShmMaps *maps; /* owned */
    struct sira_map *map;
    const uint8_t *data;
    struct sira_lent lent;
} ShmSpan;

/* ---- maps ------------------------------------------------------------------------------------------------------ */
static PyObject *maps_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bell", NULL};
    int bell = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|i:ShmMaps", names, &bell) || sira_fork_watch() < 0) return NULL;
    ShmMaps *self = (ShmMaps *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    sira_maps_open(&self->maps);
    self->bell = bell;
    self->fork_depth = sira_fork_depth;
    return (PyObject *)self;
}

static void maps_dealloc(PyObject *object)
{
    ShmMaps *self = (ShmMaps *)object;
    sira_maps_close(&self->maps);
    PyMem_Free(self->ended);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *maps_map(PyObject *object, PyObject *args)
{
    unsigned int segment;
    int fd;
    unsigned long long bytes;
    if (!PyArg_ParseTuple(args, "IiK:map", &segment, &fd, &bytes)) return NULL;
    const int error = sira_maps_add(&((ShmMaps *)object)->maps, segment, fd, bytes, segment);
    if (error == EEXIST) return sira_raise("LINK_CORRUPT", "segment %u is mapped already", segment);
    if (error == EPERM)
        return sira_raise("LINK_CORRUPT", "the descriptor is not a sealed segment of %llu bytes", bytes);
    if (error) return sira_shm_raise("map", error);
    Py_RETURN_NONE;
}

static PyObject *maps_drop(PyObject *object, PyObject *arg)
{
    const unsigned long segment = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (segment <= UINT32_MAX) sira_maps_drop(&((ShmMaps *)object)->maps, (uint32_t)segment);
    Py_RETURN_NONE;
}

static PyObject *maps_silence(PyObject *object, PyObject *Py_UNUSED(args))
{
    ((ShmMaps *)object)->bell = -1;
    Py_RETURN_NONE;
}

static PyObject *maps_span(PyObject *object, PyObject *args)
{
    struct sira_lent lent;
    unsigned long long offset, bytes, lease;
    if (!PyArg_ParseTuple(args, "IKKK:span", &lent.segment, &offset, &bytes, &lease)) return NULL;
    lent.offset = offset;
    lent.bytes = bytes;
    lent.lease = lease;
    return sira_span_new(object, &lent);
}

static PyObject *maps_ended(PyObject *object, PyObject *Py_UNUSED(args))
{
    ShmMaps *self = (ShmMaps *)object;
    const Py_ssize_t count = self->ended_count;
    PyObject *list = PyList_New(count); /* owned; making it may end further spans, which come behind */
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *lease = PyLong_FromUnsignedLongLong(self->ended[i]);
        if (lease) PyList_SET_ITEM(list, i, lease);
        else Py_CLEAR(list);
    }
    if (!list) return NULL;
    self->ended_count -= count;
    if (!self->ended_count) return list; /* `ended` may be NULL */
    memmove(self->ended, self->ended + count, (size_t)self->ended_count * sizeof *self->ended);
    if (self->bell >= 0) (void)sira_bell_ring(self->bell);
    return list;
}

static PyMethodDef maps_methods[] = {
    {"map", maps_map, METH_VARARGS, "map(segment, fd, bytes): takes `fd` over. LINK_CORRUPT: not a sealed memfd of that size."},
    {"drop", maps_drop, METH_O, "drop(segment): no span will name it any more; those that live stay good."},
    {"span", maps_span, METH_VARARGS, "span(segment, offset, bytes, lease) -> ShmSpan. FRAME_CORRUPT: not there."},
    {"ended", maps_ended, METH_NOARGS, "ended() -> leases whose spans have gone since the last call."},
    {"silence", maps_silence, METH_NOARGS, "silence(): ring no more; before the bell is closed."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef maps_members[] = {
    {"spans", T_PYSSIZET, offsetof(ShmMaps, spans), READONLY, "Spans that live."},
    {"lent_bytes", T_ULONGLONG, offsetof(ShmMaps, lent_bytes), READONLY, "Bytes of the spans that live."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_maps_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmMaps",
    .tp_doc = PyDoc_STR("ShmMaps(bell=-1): segments of others, mapped read-only, and the spans of them that live.\n\n"
                        "`bell` (an eventfd, borrowed) is rung when a lease is over and none was waiting to be asked for."),
    .tp_basicsize = sizeof(ShmMaps),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = maps_new,
    .tp_dealloc = maps_dealloc,
    .tp_methods = maps_methods,
    .tp_members = maps_members,
};

/* ---- spans ----------------------------------------------------------------------------------------------------- */
/* Room to note one more end. -1: MemoryError. */
static int reserve_end(ShmMaps *maps)
{
    if (maps->ended_count + maps->spans < maps->ended_room) return 0;
    const Py_ssize_t room = maps->ended_room ? maps->ended_room * 2 : 16;
    uint64_t *ended = PyMem_Realloc(maps->ended, (size_t)room * sizeof *ended);
    if (!ended) {
        PyErr_NoMemory();
        return -1;
    }
    maps->ended = ended;
    maps->ended_room = room;
    return 0;
}

static void note_end(ShmMaps *maps, uint64_t lease)
{
    assert(maps->ended_count < maps->ended_room);
    maps->ended[maps->ended_count++] = lease;
    SIRA_FAULT_POINT("span.over");
    if (maps->ended_count == 1 && maps->bell >= 0 && maps->fork_depth == sira_fork_depth)
        (void)sira_bell_ring(maps->bell);
}

PyObject *sira_span_new(PyObject *object, const struct sira_lent *lent)
{
    ShmMaps *maps = (ShmMaps *)object;
    if (reserve_end(maps) < 0) return NULL;
    struct sira_map *map;
    const uint8_t *data = sira_maps_range(&maps->maps, lent->segment, lent->offset, lent->bytes, &map);
    if (!data) {
        note_end(maps, lent->lease);
        return sira_raise("FRAME_CORRUPT", "%llu bytes at %llu of segment %u, which are not there",
                          (unsigned long long)lent->bytes, (unsigned long long)lent->offset, lent->segment);
    }
    ShmSpan *span = PyObject_New(ShmSpan, &sira_shm_span_type);
    if (!span) return NULL;
    span->maps = (ShmMaps *)Py_NewRef(object);
    span->map = map;
    span->data = data;
    span->lent = *lent;
    sira_map_hold(map);
    maps->spans++;
    maps->lent_bytes += lent->bytes;
    SIRA_FAULT_POINT("span.made");
    return (PyObject *)span;
}

const uint8_t *sira_span_data(PyObject *span)
{
    return ((ShmSpan *)span)->data;
}

struct sira_lent sira_span_lent(PyObject *span)
{
    return ((ShmSpan *)span)->lent;
}

/* From any thread, also from a finaliser within another call: no Python runs, nothing can fail. */
static void span_dealloc(PyObject *object)
{
    ShmSpan *self = (ShmSpan *)object;
    ShmMaps *maps = self->maps;
    sira_map_give(self->map); /* in a child: its own mapping and its own count */
    maps->spans--;
    maps->lent_bytes -= self->lent.bytes;
    note_end(maps, self->lent.lease);
    Py_TYPE(object)->tp_free(object);
    Py_DECREF(maps);
}

static int span_buffer(PyObject *object, Py_buffer *view, int flags)
{
    const ShmSpan *self = (const ShmSpan *)object;
    return PyBuffer_FillInfo(view, object, (void *)(uintptr_t)self->data, (Py_ssize_t)self->lent.bytes, 1, flags);
}

static Py_ssize_t span_length(PyObject *object)
{
    return (Py_ssize_t)((ShmSpan *)object)->lent.bytes;
}

static PyBufferProcs span_as_buffer = {.bf_getbuffer = span_buffer};
static PySequenceMethods span_as_sequence = {.sq_length = span_length};
static PyMemberDef span_members[] = {
    {"segment", T_UINT, offsetof(ShmSpan, lent.segment), READONLY, NULL},
    {"offset", T_ULONGLONG, offsetof(ShmSpan, lent.offset), READONLY, "Bytes, in the segment."},
    {"lease", T_ULONGLONG, offsetof(ShmSpan, lent.lease), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_span_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmSpan",
    .tp_doc = PyDoc_STR("Bytes of a segment, read-only; its end gives its lease back."),
    .tp_basicsize = sizeof(ShmSpan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = span_dealloc,
    .tp_as_buffer = &span_as_buffer,
    .tp_as_sequence = &span_as_sequence,
    .tp_members = span_members,
};
