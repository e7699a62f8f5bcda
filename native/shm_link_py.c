/* The memory of a link as the node sees it, and what the module gets of all shm_*_py.c. */
#include "route.h"
#include "shm_py.h"
#include "shm_span.h"

#include <errno.h>
#include <structmember.h>
#include <unistd.h>

/* ---- the memory ------------------------------------------------------------------------------------------ */
static int shape_of(unsigned long slots, unsigned long holds, unsigned long cells, struct sira_link_shape *out)
{
    *out = (struct sira_link_shape){(uint32_t)slots, (uint32_t)holds, (uint32_t)cells};
    if (slots <= UINT32_MAX && holds <= UINT32_MAX && cells <= UINT32_MAX && sira_link_bytes(out)) return 0;
    PyErr_Format(PyExc_ValueError, "%s", sira_link_status_text(SIRA_LINK_BAD_SHAPE));
    return -1;
}

/* ShmLink(generation, *, slots, holds, cells, fd=-1, writable=True) */
static PyObject *link_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"generation", "slots", "holds", "cells", "fd", "writable", NULL};
    unsigned long long generation;
    unsigned long slots = SIRA_LINK_SLOTS_DEFAULT, holds = SIRA_LINK_HOLDS_DEFAULT, cells = SIRA_LINK_CELLS_DEFAULT;
    int fd = -1, is_writable = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$kkkip:ShmLink", names, &generation, &slots, &holds, &cells, &fd,
                                     &is_writable))
        return NULL;
    struct sira_link_shape shape;
    if (shape_of(slots, holds, cells, &shape) < 0 || sira_fork_watch() < 0) return NULL;
    ShmLink *self = (ShmLink *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->shm.fd = -1;
    const size_t bytes = sira_link_bytes(&shape);
    int error;
    if (fd < 0) {
        error = sira_shm_make("sira-link", bytes, false, &self->shm);
        if (!error) sira_link_format(self->shm.base, &shape, generation);
    } else {
        error = sira_shm_map(fd, bytes, is_writable, false, &self->shm);
    }
    if (error == EPERM) {
        sira_raise("LINK_CORRUPT", "the descriptor is not a sealed memfd of %zu bytes", bytes);
    } else if (error) {
        sira_shm_raise("link", error);
    } else if (sira_link_open(self->shm.base, bytes, &shape, generation, &self->link)) {
        if (fd >= 0) self->shm.fd = -1; /* stays the caller's */
        sira_raise("LINK_CORRUPT", "the memory is not the link that was introduced");
    } else {
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return NULL;
}

static void link_dealloc(PyObject *object)
{
    PyMem_Free(((ShmLink *)object)->told);
    sira_shm_close(&((ShmLink *)object)->shm);
    Py_TYPE(object)->tp_free(object);
}

/* Of `count` entries of `size` bytes each from `base` on: those up to the last that has memory; all, where the system
 * does not say. Whoever reads further has the system make pages for what was never used. */
static uint32_t entries_made(const ShmLink *self, const void *base, size_t size, uint32_t count)
{
    const off_t first = (off_t)((const uint8_t *)base - self->shm.base), end = first + (off_t)(size * count);
    off_t last = first;
    for (off_t at = first; at < end; at = last) {
        const off_t data = lseek(self->shm.fd, at, SEEK_DATA);
        if (data >= end || (data < 0 && errno == ENXIO)) break; /* no more */
        const off_t hole = data < 0 ? data : lseek(self->shm.fd, data, SEEK_HOLE);
        if (hole <= at) return count;
        last = hole;
    }
    const uint64_t made = ((uint64_t)(last - first) + size - 1) / size;
    return made < count ? (uint32_t)made : count;
}

static uint32_t slots_made(const ShmLink *self)
{
    return entries_made(self, self->link.slots, SIRA_LINK_SLOT_BYTES, self->link.shape.slots);
}

/* Counts of the first cells, without a page made. Requires: room for them in `out`. */
static enum sira_link_status counts_of(const ShmLink *self, uint32_t cells, struct sira_link_counts *out)
{
    struct sira_link part = self->link;
    part.shape.cells = cells;
    enum sira_link_status status;
    uint32_t made = slots_made(self);
    do { /* again if a slot may have come to be whose post is counted: it would look taken. Ends: there are few pages */
        part.shape.slots = made;
        status = sira_link_counts(&part, out);
        made = slots_made(self);
    } while (made > part.shape.slots);
    return status;
}

/* Ensures: 0, or -1 with an error set. */
static int put_cell(PyObject *cells, uint32_t cell, const struct sira_link_counts *counts)
{
    PyObject *withdrawn = PyTuple_New(SIRA_LINK_REASONS); /* owned */
    for (uint32_t r = 0; withdrawn && r < SIRA_LINK_REASONS; r++) {
        PyObject *count = PyLong_FromUnsignedLongLong(counts->withdrawn[r]);
        if (count) PyTuple_SET_ITEM(withdrawn, (Py_ssize_t)r, count);
        else Py_CLEAR(withdrawn);
    }
    PyObject *entry = withdrawn ? Py_BuildValue("(KKKN)", (unsigned long long)counts->posted,
                                                (unsigned long long)counts->taken,
                                                (unsigned long long)counts->pending, withdrawn) : NULL;
    PyObject *key = entry ? PyLong_FromUnsignedLong(cell) : NULL;
    const int status = key ? PyDict_SetItem(cells, key, entry) : -1;
    Py_XDECREF(key);
    Py_XDECREF(entry);
    return status;
}

static PyObject *link_counts(PyObject *object, PyObject *Py_UNUSED(args))
{
    const ShmLink *self = (ShmLink *)object;
    const uint32_t known = self->link.shape.cells;
    struct sira_link_counts *counts = PyMem_Calloc(known, sizeof *counts);
    if (!counts) return PyErr_NoMemory();
    const enum sira_link_status status = counts_of(self, known, counts);
    PyObject *cells = PyDict_New(); /* owned */
    for (uint32_t c = 0; cells && c < known; c++)
        if (counts[c].posted && put_cell(cells, c, &counts[c]) < 0) Py_CLEAR(cells);
    PyMem_Free(counts);
    return cells ? Py_BuildValue("(NO)", cells, status ? Py_False : Py_True) : NULL;
}

/* One word for all counts of a cell: other counts, another word (but for one in 2^64). 0: nothing was counted. */
static uint64_t word_of(const struct sira_link_counts *counts)
{
    uint64_t word = 0;
    const uint64_t said[] = {counts->posted, counts->taken, counts->pending};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) word = (word ^ said[i]) * UINT64_C(0x9E3779B97F4A7C15);
    for (uint32_t r = 0; r < SIRA_LINK_REASONS; r++)
        word = ((word >> 32 | word << 32) ^ counts->withdrawn[r]) * UINT64_C(0x9E3779B97F4A7C15);
    return word;
}

/* What was posted by the first cells, as their writer has stored it. Requires: there are so many. */
static uint64_t posted_by(const ShmLink *self, uint32_t cells)
{
    uint64_t posted = 0;
    for (uint32_t c = 0; c < cells; c++) posted += sira_word_load(&self->link.cells[c].posted);
    return posted;
}

/* news(cells) -> {cell: counts}, of the first `cells` alone, and of those only that say something new */
static PyObject *link_news(PyObject *object, PyObject *args)
{
    ShmLink *self = (ShmLink *)object;
    unsigned int known;
    if (!PyArg_ParseTuple(args, "I:news", &known)) return NULL;
    if (known > self->link.shape.cells) known = self->link.shape.cells;
    if (known > self->told_count) {
        uint64_t *told = PyMem_Realloc(self->told, known * sizeof *told);
        if (!told) return PyErr_NoMemory();
        memset(told + self->told_count, 0, (known - self->told_count) * sizeof *told);
        self->told = told;
        self->told_count = known;
    }
    PyObject *cells = PyDict_New(); /* owned */
    if (!cells || !known) return cells;
    struct sira_link_counts *counts = PyMem_Calloc(known, sizeof *counts);
    if (!counts) {
        Py_DECREF(cells);
        return PyErr_NoMemory();
    }
    self->told_posted = posted_by(self, known); /* before: what is posted meanwhile is news next time */
    self->told_waits = false;
    (void)counts_of(self, known, counts);
    for (uint32_t c = 0; cells && c < known; c++) {
        self->told_waits |= counts[c].pending != 0;
        const uint64_t word = word_of(&counts[c]);
        if (word == self->told[c]) continue;
        if (put_cell(cells, c, &counts[c]) < 0) Py_CLEAR(cells);
        else self->told[c] = word;
    }
    if (!cells) self->told_waits = true; /* to be looked at again */
    PyMem_Free(counts);
    return cells;
}

/* moved(cells) -> bool. Where nothing waits, nothing is taken or withdrawn before something is posted: so it costs a word
 * a cell, where news() looks at every slot. A step that a stopped writer has not counted yet is news() alone to find. */
static PyObject *link_moved(PyObject *object, PyObject *args)
{
    const ShmLink *self = (ShmLink *)object;
    unsigned int known;
    if (!PyArg_ParseTuple(args, "I:moved", &known)) return NULL;
    if (known > self->link.shape.cells) known = self->link.shape.cells;
    return PyBool_FromLong(self->told_waits || known > self->told_count || posted_by(self, known) != self->told_posted);
}

/* pieces() -> [(segment, offset, bytes, since_ns, taken)] */
static PyObject *link_pieces(PyObject *object, PyObject *Py_UNUSED(args))
{
    const ShmLink *self = (ShmLink *)object;
    const uint32_t holds = entries_made(self, self->link.lent, sizeof *self->link.lent, self->link.shape.holds);
    PyObject *pieces = PyList_New(0); /* owned */
    for (uint32_t hold = 0; pieces && hold < holds; hold++) {
        struct sira_link_piece piece;
        if (!sira_link_piece(&self->link, hold, &piece)) continue;
        PyObject *entry = Py_BuildValue("(IKKKO)", piece.segment, (unsigned long long)piece.offset,
                                        (unsigned long long)piece.bytes, (unsigned long long)piece.since_ns,
                                        piece.is_taken ? Py_True : Py_False); /* owned */
        if (!entry || PyList_Append(pieces, entry) < 0) Py_CLEAR(pieces);
        Py_XDECREF(entry);
    }
    return pieces;
}

static PyObject *link_fileno(PyObject *object, PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(((ShmLink *)object)->shm.fd);
}

static PyMethodDef link_methods[] = {
    {"fileno", link_fileno, METH_NOARGS, "fileno() -> the memfd, borrowed."},
    {"counts", link_counts, METH_NOARGS,
     "counts() -> ({cell: (posted, taken, pending, (withdrawn by reason, ...))}, whether they make sense)."},
    {"news", link_news, METH_VARARGS,
     "news(cells) -> {cell: as of counts()}: of the first `cells`, those that changed since it was asked before."},
    {"moved", link_moved, METH_VARARGS,
     "moved(cells) -> bool: whether news() of as many cells may have some: a post since, or something waited. Cheap."},
    {"pieces", link_pieces, METH_NOARGS,
     "pieces() -> [(segment, offset, bytes, since_ns, taken)]: chunks that the reader has or is yet to take."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef link_members[] = {
    {"bytes", T_ULONG, offsetof(ShmLink, shm.bytes), READONLY, "Size of the memory."},
    {"slots", T_UINT, offsetof(ShmLink, link.shape.slots), READONLY, NULL},
    {"holds", T_UINT, offsetof(ShmLink, link.shape.holds), READONLY, NULL},
    {"cells", T_UINT, offsetof(ShmLink, link.shape.cells), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_link_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmLink",
    .tp_doc = PyDoc_STR("ShmLink(generation, *, slots=96, holds=128, cells=128, fd=-1, writable=True): memory of a link.\n\n"
                        "Made new, or mapped from `fd`, which is taken over; LINK_CORRUPT if it is anything else."),
    .tp_basicsize = sizeof(ShmLink),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = link_new,
    .tp_dealloc = link_dealloc,
    .tp_methods = link_methods,
    .tp_members = link_members,
};

/* ---- module ---------------------------------------------------------------------------------------------- */
static PyObject *make_bell(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    const int bell = sira_bell_make();
    return bell < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(bell);
}

static PyMethodDef shm_functions[] = {
    {"shm_bell", make_bell, METH_NOARGS, "shm_bell() -> a new eventfd, nonblocking; the caller's."},
    {NULL, NULL, 0, NULL},
};

int sira_add_shm(PyObject *module)
{
    PyTypeObject *const types[] = {&sira_shm_arena_type, &sira_shm_chunk_type, &sira_shm_post_type,
                                   &sira_shm_link_type, &sira_shm_writer_type, &sira_shm_reader_type,
                                   &sira_shm_bells_type, &sira_shm_maps_type, &sira_shm_span_type,
                                   &sira_shm_page_type};
    if (PyType_Ready(&sira_shm_view_type) < 0 || PyType_Ready(&sira_shm_route_type) < 0) return -1; /* nobody names them */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (sira_add_type(module, types[i]) < 0) return -1;
    return sira_add_functions(module, shm_functions);
}
