/* ShmPage: the node's generation page, as a client sees it. */
#include "route.h"

#include <errno.h>
#include <structmember.h>
#include <unistd.h>

static PyObject *page_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "words", NULL};
    int fd;
    unsigned int words;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iI:ShmPage", names, &fd, &words)) return NULL;
    ShmPage *self = (ShmPage *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->shm.fd = -1;
    const int error = sira_shm_map(fd, (size_t)words * sizeof(uint64_t), false, true, &self->shm);
    if (error == EPERM) {
        sira_raise("LINK_CORRUPT", "the descriptor is not a sealed page of %u words", words);
    } else if (error) {
        sira_shm_raise("page", error);
    } else {
        self->words = words;
        self->shm.fd = -1; /* the mapping is enough */
        close(fd);
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return NULL;
}

static void page_dealloc(PyObject *object)
{
    sira_shm_close(&((ShmPage *)object)->shm);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *get_word(PyObject *object, PyObject *arg)
{
    const ShmPage *self = (const ShmPage *)object;
    const unsigned long index = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (index >= self->words) return PyErr_Format(PyExc_IndexError, "word %lu of %u", index, self->words);
    return PyLong_FromUnsignedLongLong(page_word(self, (uint32_t)index));
}

static PyMethodDef page_methods[] = {
    {"word", get_word, METH_O, "word(index) -> int: what it says now."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef page_members[] = {
    {"words", T_UINT, offsetof(ShmPage, words), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_page_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmPage",
    .tp_doc = PyDoc_STR("ShmPage(fd, words): the node's generation page, mapped read-only; `fd` is taken over.\n\n"
                        "LINK_CORRUPT if it is anything else than a sealed memfd of that size."),
    .tp_basicsize = sizeof(ShmPage),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = page_new,
    .tp_dealloc = page_dealloc,
    .tp_methods = page_methods,
    .tp_members = page_members,
};
