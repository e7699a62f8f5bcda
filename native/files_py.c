/* Which file each descriptor of this process is: what changed since it was looked at before. */
#include "pyutil.h"

#include <errno.h>
#include <sys/stat.h>

struct seen {
    uint64_t inode;
    uint32_t mode; /* 0: nothing was open */
};

typedef struct {
    PyObject_HEAD
    struct seen *seen; /* owned; by descriptor */
    size_t count;
} Files;

static void files_dealloc(PyObject *object)
{
    PyMem_Free(((Files *)object)->seen);
    Py_TYPE(object)->tp_free(object);
}

/* Room for what `descriptor` is. -1: MemoryError. */
static int grow(Files *self, size_t descriptor)
{
    if (descriptor < self->count) return 0;
    size_t count = self->count ? self->count : 64;
    while (count <= descriptor) count *= 2;
    struct seen *seen = PyMem_Realloc(self->seen, count * sizeof *seen);
    if (!seen) return PyErr_NoMemory(), -1;
    memset(seen + self->count, 0, (count - self->count) * sizeof *seen);
    self->seen = seen;
    self->count = count;
    return 0;
}

static int put_change(PyObject *changed, size_t descriptor, struct seen now)
{
    PyObject *entry = Py_BuildValue("(nKI)", (Py_ssize_t)descriptor, (unsigned long long)now.inode, now.mode); /* owned */
    const int status = entry ? PyList_Append(changed, entry) : -1;
    Py_XDECREF(entry);
    return status;
}

/* What `descriptor` is now; mode 0: nothing is open there. */
static struct seen look_at(size_t descriptor)
{
    struct stat now;
    if (descriptor > INT_MAX || fstat((int)descriptor, &now) < 0) return (struct seen){0, 0};
    return (struct seen){.inode = now.st_ino, .mode = now.st_mode};
}

/* look(first, open, span, most) -> (next, open, [(descriptor, inode, mode), ...]) */
static PyObject *files_look(PyObject *object, PyObject *args)
{
    Files *self = (Files *)object;
    Py_ssize_t first, left, span, most;
    if (!PyArg_ParseTuple(args, "nnnn:look", &first, &left, &span, &most)) return NULL;
    if (first < 0 || span < 0) return PyErr_Format(PyExc_ValueError, "descriptors from %zd on, %zd", first, span);
    PyObject *changed = PyList_New(0); /* owned */
    if (!changed) return NULL;
    size_t at = (size_t)first;
    for (const size_t end = at + (size_t)span; at < end && left > 0 && PyList_GET_SIZE(changed) < most; at++) {
        const struct seen now = look_at(at);
        if (now.mode) left--;
        const struct seen before = at < self->count ? self->seen[at] : (struct seen){0, 0};
        if (now.inode == before.inode && now.mode == before.mode) continue;
        if (grow(self, at) < 0 || put_change(changed, at, now) < 0) {
            Py_DECREF(changed);
            return NULL;
        }
        self->seen[at] = now;
    }
    return Py_BuildValue("(nnN)", (Py_ssize_t)at, left, changed);
}

/* end(first) -> [descriptor, ...] */
static PyObject *files_end(PyObject *object, PyObject *arg)
{
    Files *self = (Files *)object;
    const size_t first = PyLong_AsSize_t(arg);
    if (first == (size_t)-1 && PyErr_Occurred()) return NULL;
    PyObject *gone = PyList_New(0); /* owned */
    for (size_t at = first; gone && at < self->count; at++) {
        if (!self->seen[at].mode) continue;
        PyObject *number = PyLong_FromSize_t(at); /* owned */
        if (!number || PyList_Append(gone, number) < 0) Py_CLEAR(gone);
        Py_XDECREF(number);
        self->seen[at] = (struct seen){0, 0};
    }
    return gone;
}

static PyMethodDef files_methods[] = {
    {"look", files_look, METH_VARARGS,
     "look(first, open, span, most) -> (next, open, [(descriptor, inode, mode), ...])\n\n"
     "Those of `span` descriptors from `first` on that are another file than before; mode 0: closed.\n"
     "Stops when `open` files were met, or `most` have changed; returns where, and how many are yet to be met."},
    {"end", files_end, METH_O, "end(first) -> descriptors from `first` on that were open, and are taken for closed now."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject files_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Files",
    .tp_doc = PyDoc_STR("Files(): which file each descriptor of this process was, when it was looked at."),
    .tp_basicsize = sizeof(Files),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = files_dealloc,
    .tp_methods = files_methods,
};

int sira_add_files(PyObject *module)
{
    return sira_add_type(module, &files_type);
}
