/* RecordReader: bytes of a socket in, whole records out.
 *
 * It is a writable buffer itself, of where the next bytes belong, so that `socket.recvmsg_into([reader])` puts them
 * there; `feed` then splits them. A long body is received into the bytes object that is handed out: no copy. Short
 * records go through a buffer that the reader has only while something is in it, so an idle connection keeps none. */
#include "pyutil.h"

#include "record.h"

enum {
    BUFFER_BYTES = 64 << 10,
    LONG_BYTES = 16 << 10, /* a body from here on gets an object of its own before it is whole */
    SPARES_MAX = 4
};

typedef struct {
    PyObject_HEAD
    uint8_t *buffer;          /* owned; BUFFER_BYTES, or NULL while nothing waits */
    size_t held;              /* bytes in it: the beginning of a record */
    PyObject *body;           /* owned; a long body under way, or NULL. Nobody else has seen it yet */
    size_t got;               /* bytes of it that are there */
    struct sira_record record; /* whose body that is */
    uint32_t bytes_max;
    Py_ssize_t exports;       /* buffers that are out: nothing moves meanwhile */
    bool broken;
} Reader;

/* Buffers of readers that hold nothing. Under the GIL; taken by a reader before the GIL is let go of to receive. */
static uint8_t *spares[SPARES_MAX];
static int spare_count;

static uint8_t *buffer_take(void)
{
    if (spare_count) return spares[--spare_count];
    uint8_t *buffer = PyMem_Malloc(BUFFER_BYTES); /* owned */
    if (!buffer) PyErr_NoMemory();
    return buffer;
}

static void buffer_give(Reader *self)
{
    if (spare_count < SPARES_MAX) spares[spare_count++] = self->buffer;
    else PyMem_Free(self->buffer);
    self->buffer = NULL;
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bytes_max", NULL};
    unsigned int bytes_max;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I:RecordReader", names, &bytes_max)) return NULL;
    Reader *self = (Reader *)type->tp_alloc(type, 0);
    if (self) self->bytes_max = bytes_max;
    return (PyObject *)self;
}

static void reader_dealloc(PyObject *object)
{
    Reader *self = (Reader *)object;
    if (self->buffer) buffer_give(self);
    Py_XDECREF(self->body);
    Py_TYPE(object)->tp_free(object);
}

static int reader_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    Reader *self = (Reader *)object;
    if (self->broken) {
        PyErr_SetString(PyExc_BufferError, "this reader has met a record that it cannot read");
        view->obj = NULL;
        return -1;
    }
    uint8_t *to;
    size_t room;
    if (self->body) {
        to = (uint8_t *)PyBytes_AS_STRING(self->body) + self->got;
        room = (size_t)PyBytes_GET_SIZE(self->body) - self->got;
    } else {
        if (!self->buffer && !(self->buffer = buffer_take())) {
            view->obj = NULL;
            return -1;
        }
        to = self->buffer + self->held;
        room = BUFFER_BYTES - self->held;
    }
    if (PyBuffer_FillInfo(view, object, to, (Py_ssize_t)room, 0, flags) < 0) return -1;
    self->exports++;
    return 0;
}

static void reader_releasebuffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
    ((Reader *)object)->exports--;
}

/* Append (kind, call, descriptors, body), stealing `body`. 0, or -1 with an exception. */
static int emit(PyObject *records, const struct sira_record *record, PyObject *body)
{
    if (!body) return -1;
    PyObject *entry = Py_BuildValue("(BIBN)", record->kind, record->call, record->descriptors, body); /* owned */
    const int status = entry ? PyList_Append(records, entry) : -1;
    Py_XDECREF(entry);
    return status;
}

/* Split what the buffer has; what is left of it moves to its beginning. 0, or -1 with an exception. */
static int split(Reader *self, PyObject *records)
{
    size_t at = 0;
    while (self->held - at >= SIRA_RECORD_HEAD_BYTES) {
        const uint8_t *head = self->buffer + at;
        struct sira_record record;
        const enum sira_record_fault fault = sira_record_read(head, self->bytes_max, &record);
        if (fault) {
            self->broken = true;
            sira_raise("PROTOCOL_ERROR", "%s", sira_record_fault_text(fault));
            return -1;
        }
        const uint8_t *data = head + SIRA_RECORD_HEAD_BYTES;
        const size_t there = self->held - at - SIRA_RECORD_HEAD_BYTES;
        if (there < record.bytes) {
            if (record.bytes < LONG_BYTES) break;
            self->body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)record.bytes);
            if (!self->body) return -1;
            memcpy(PyBytes_AS_STRING(self->body), data, there);
            self->got = there;
            self->record = record;
            at = self->held;
            break;
        }
        if (emit(records, &record, PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)record.bytes)) < 0)
            return -1;
        at += SIRA_RECORD_HEAD_BYTES + record.bytes;
    }
    self->held -= at;
    if (self->held) memmove(self->buffer, self->buffer + at, self->held);
    else buffer_give(self);
    return 0;
}

/* Bytes that fit where the next ones belong. */
static size_t reader_room(const Reader *self)
{
    return self->body ? (size_t)PyBytes_GET_SIZE(self->body) - self->got : (size_t)BUFFER_BYTES - self->held;
}

static PyObject *reader_feed(PyObject *object, PyObject *arg)
{
    Reader *self = (Reader *)object;
    const size_t count = PyLong_AsSize_t(arg);
    if (count == (size_t)-1 && PyErr_Occurred()) return NULL;
    if (self->exports || self->broken || (!self->body && !self->buffer)) {
        PyErr_SetString(PyExc_BufferError, "nothing was received into this reader, or something still is");
        return NULL;
    }
    if (count > reader_room(self)) {
        PyErr_SetString(PyExc_ValueError, "more bytes than there was room for");
        return NULL;
    }
    PyObject *records = PyList_New(0); /* owned */
    if (!records) return NULL;
    int status = 0;
    if (!self->body) {
        self->held += count;
        status = split(self, records);
    } else if ((self->got += count) == (size_t)PyBytes_GET_SIZE(self->body)) {
        PyObject *body = self->body; /* owned; moved out */
        self->body = NULL;
        status = emit(records, &self->record, body);
    }
    if (status < 0) {
        self->broken = true; /* what was split is lost: nothing that follows could be trusted */
        Py_CLEAR(records);
    }
    return records;
}

static PyObject *reader_partial(PyObject *object, void *Py_UNUSED(closure))
{
    const Reader *self = (Reader *)object;
    return PyBool_FromLong(self->held || self->body);
}

static PyObject *reader_get_room(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(reader_room((Reader *)object));
}

static PyBufferProcs reader_buffer = {reader_getbuffer, reader_releasebuffer};

static PyMethodDef reader_methods[] = {
    {"feed", reader_feed, METH_O,
     "feed(count): split `count` bytes that were received into it -> [(kind, call, descriptors, body), ...].\n"
     "Raises PROTOCOL_ERROR; the reader is of no use then."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getset[] = {
    {"partial", reader_partial, NULL, "Whether the beginning of a record waits for its end.", NULL},
    {"room", reader_get_room, NULL, "Bytes that the next receive may bring, at most.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject reader_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.RecordReader",
    .tp_doc = "RecordReader(bytes_max): splits what a socket brings into records; bodies of at most `bytes_max`.",
    .tp_basicsize = sizeof(Reader),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reader_new,
    .tp_dealloc = reader_dealloc,
    .tp_as_buffer = &reader_buffer,
    .tp_methods = reader_methods,
    .tp_getset = reader_getset,
};

int sira_add_record(PyObject *module)
{
    return sira_add_type(module, &reader_type);
}
