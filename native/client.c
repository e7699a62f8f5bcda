/* What the client's data plane shares, and its entry in the module. */
#include "client.h"

#include "pb.h"

#include <signal.h>

void sira_callback(PyObject *callable)
{
    if (!callable || callable == Py_None) return;
    Py_INCREF(callable); /* it may replace itself */
    PyObject *result = PyObject_CallNoArgs(callable); /* owned */
    struct sigaction handled;
    if (!result && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) && sigaction(SIGINT, NULL, &handled) == 0
        && handled.sa_handler != SIG_IGN && handled.sa_handler != SIG_DFL) {
        PyErr_Clear();
        PyErr_SetInterrupt(); /* Ctrl-C came while it ran: to be raised where somebody hears of it */
    }
    if (!result && PyErr_Occurred()) PyErr_WriteUnraisable(callable);
    Py_XDECREF(result);
    Py_DECREF(callable);
}

/* ---- Ready ------------------------------------------------------------------------------------------------ */
enum { READY_SPARE_MAX = 64 };
typedef struct {
    PyObject_HEAD
    PyObject *value; /* owned; NULL: was awaited */
} Ready;
static Ready *ready_spare[READY_SPARE_MAX];
static uint32_t ready_spare_count;

PyObject *sira_ready_new(PyObject *value)
{
    Ready *self;
    if (ready_spare_count) {
        self = ready_spare[--ready_spare_count];
        (void)PyObject_Init((PyObject *)self, &sira_ready_type);
    } else if (!(self = PyObject_GC_New(Ready, &sira_ready_type))) {
        Py_DECREF(value);
        return NULL;
    }
    self->value = value;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static void ready_dealloc(Ready *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->value);
    if (ready_spare_count < READY_SPARE_MAX) ready_spare[ready_spare_count++] = self;
    else PyObject_GC_Del(self);
}

static int ready_traverse(Ready *self, visitproc visit, void *arg)
{
    Py_VISIT(self->value);
    return 0;
}

static int ready_clear(Ready *self)
{
    Py_CLEAR(self->value);
    return 0;
}

static PySendResult ready_send(Ready *self, PyObject *Py_UNUSED(sent), PyObject **result)
{
    *result = self->value;
    self->value = NULL;
    if (*result) return PYGEN_RETURN;
    PyErr_SetString(PyExc_RuntimeError, "cannot await the same awaitable twice");
    return PYGEN_ERROR;
}

/* For whoever drives `__await__()` by next(). */
static PyObject *ready_next(Ready *self)
{
    PyObject *value; /* owned */
    if (ready_send(self, Py_None, &value) != PYGEN_RETURN) return NULL;
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value); /* owned; a tuple value stays one */
    Py_DECREF(value);
    if (stop) PyErr_SetObject(PyExc_StopIteration, stop);
    Py_XDECREF(stop);
    return NULL;
}

static PyAsyncMethods ready_async = {
    .am_await = PyObject_SelfIter,
    .am_send = (sendfunc)ready_send,
};

PyTypeObject sira_ready_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Ready",
    .tp_basicsize = sizeof(Ready),
    .tp_dealloc = (destructor)ready_dealloc,
    .tp_traverse = (traverseproc)ready_traverse,
    .tp_clear = (inquiry)ready_clear,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)ready_next,
    .tp_as_async = &ready_async,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Awaitable that is done: awaiting it never suspends.",
};

static PyObject *client_ready(PyObject *Py_UNUSED(module), PyObject *value)
{
    return sira_ready_new(Py_NewRef(value));
}

/* ---- credits ---------------------------------------------------------------------------------------------- */
static PyObject *client_credit_frame(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"credits", "totals", NULL};
    PyObject *credits; /* borrowed */
    int totals = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$p:credit_frame", names, &credits, &totals)) return NULL;
    const uint32_t field = totals ? 5 : 2;
    PyObject *pairs = PySequence_Fast(credits, "credits must be a sequence of (subscription, taken)"); /* owned */
    if (!pairs) return NULL;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(pairs);
    enum { ITEM_BYTES_MAX = 32 }; /* four one-byte keys, two lengths below 128, varints of 5 and 10 bytes */
    PyObject *frame = NULL; /* owned */
    uint8_t *bytes = count < PY_SSIZE_T_MAX / ITEM_BYTES_MAX ? PyMem_Malloc((size_t)count * ITEM_BYTES_MAX + 1) : NULL;
    if (!bytes) {
        PyErr_NoMemory();
        goto done;
    }
    uint8_t *at = bytes;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PySequence_Fast_GET_ITEM(pairs, i); /* borrowed */
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "a credit is a tuple (subscription, taken)");
            goto done;
        }
        const unsigned long subscription = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(pair, 0));
        if (PyErr_Occurred()) goto done;
        const unsigned long long taken = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(pair, 1));
        if (PyErr_Occurred()) goto done;
        if (subscription > UINT32_MAX) {
            PyErr_SetString(PyExc_OverflowError, "a subscription has 32 bits");
            goto done;
        }
        const size_t body = pb_uint_size(1, subscription) + pb_uint_size(field, taken);
        const size_t item = pb_key_size(SIRA_ITEM_CREDIT) + pb_varint_size(body) + body;
        at = pb_put_varint(pb_put_key(at, 1, PB_LEN), item);
        at = pb_put_varint(pb_put_key(at, SIRA_ITEM_CREDIT, PB_LEN), body);
        at = pb_put_uint(pb_put_uint(at, 1, subscription), field, taken);
    }
    frame = PyBytes_FromStringAndSize((const char *)bytes, at - bytes);
done:
    PyMem_Free(bytes);
    Py_DECREF(pairs);
    return frame;
}

static PyMethodDef client_functions[] = {
    {"ready", client_ready, METH_O, "ready(value) -> Awaitable: awaiting it gives value without suspending."},
    {"credit_frame", (PyCFunction)(void (*)(void))client_credit_frame, METH_VARARGS | METH_KEYWORDS,
     "credit_frame([(subscription, taken), ...], *, totals=False) -> Frame with these credits."},
    {NULL, NULL, 0, NULL},
};

int sira_add_client(PyObject *module)
{
    if (PyType_Ready(&sira_buffer_type) < 0 || PyType_Ready(&sira_ready_type) < 0) return -1;
    if (PyType_Ready(&sira_cell_type) < 0) return -1;
    if (sira_add_type(module, &sira_mailbox_type) < 0) return -1;
    if (sira_add_type(module, &sira_inbox_type) < 0) return -1;
    if (sira_add_type(module, &sira_outbox_type) < 0) return -1;
    if (sira_sender_init() < 0 || sira_add_type(module, &sira_sender_type) < 0) return -1;
    return sira_add_functions(module, client_functions);
}
