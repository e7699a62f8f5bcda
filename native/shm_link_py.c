/* The memory of a link as the node sees it, and what the module gets of all shm_*_py.c. */
#include "route.h"
#include "shm_py.h"
#include "shm_span.h"

#include <errno.h>
#include <structmember.h>

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
    sira_shm_close(&((ShmLink *)object)->shm);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *link_counts(PyObject *object, PyObject *Py_UNUSED(args))
{
    const struct sira_link *link = &((ShmLink *)object)->link;
    struct sira_link_counts *counts = PyMem_Calloc(link->shape.cells, sizeof *counts);
    if (!counts) return PyErr_NoMemory();
    const enum sira_link_status status = sira_link_counts(link, counts);
    PyObject *cells = PyDict_New(); /* owned */
    for (uint32_t c = 0; cells && c < link->shape.cells; c++) {
        if (!counts[c].posted) continue;
        PyObject *withdrawn = PyTuple_New(SIRA_LINK_REASONS); /* owned */
        for (uint32_t r = 0; withdrawn && r < SIRA_LINK_REASONS; r++) {
            PyObject *count = PyLong_FromUnsignedLongLong(counts[c].withdrawn[r]);
            if (count) PyTuple_SET_ITEM(withdrawn, (Py_ssize_t)r, count);
            else Py_CLEAR(withdrawn);
        }
        PyObject *entry = withdrawn ? Py_BuildValue("(KKKN)", (unsigned long long)counts[c].posted,
                                                    (unsigned long long)counts[c].taken,
                                                    (unsigned long long)counts[c].pending, withdrawn) : NULL;
        PyObject *key = entry ? PyLong_FromUnsignedLong(c) : NULL;
        if (!key || PyDict_SetItem(cells, key, entry) < 0) Py_CLEAR(cells);
        Py_XDECREF(key);
        Py_XDECREF(entry);
    }
    PyMem_Free(counts);
    return cells ? Py_BuildValue("(NO)", cells, status ? Py_False : Py_True) : NULL;
}

static PyObject *link_fileno(PyObject *object, PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(((ShmLink *)object)->shm.fd);
}

static PyMethodDef link_methods[] = {
    {"fileno", link_fileno, METH_NOARGS, "fileno() -> the memfd, borrowed."},
    {"counts", link_counts, METH_NOARGS,
     "counts() -> ({cell: (posted, taken, pending, (withdrawn by reason, ...))}, whether they make sense)."},
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
    .tp_doc = PyDoc_STR("ShmLink(generation, *, slots=96, holds=512, cells=128, fd=-1, writable=True): memory of a link.\n\n"
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
