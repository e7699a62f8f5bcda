/* Frames for Python: joining encoded messages, splitting, one control item. The hot paths split in C. */
#include "message.h"

#include "pb.h"

enum { F_ITEMS = 1 };

/* Bytes of an Item that holds `len` bytes as its one field `kind`. */
static size_t item_size(uint32_t kind, size_t len)
{
    return pb_bytes_size(kind, len);
}

/* Write the Item and its key in the Frame. */
static uint8_t *put_item(uint8_t *at, uint32_t kind, const void *data, size_t len)
{
    at = pb_put_varint(pb_put_key(at, F_ITEMS, PB_LEN), item_size(kind, len));
    return pb_put_bytes(at, kind, data, len);
}

static PyObject *too_large(size_t size)
{
    return sira_raise("MESSAGE_TOO_LARGE", "a frame of %zu bytes, at most %d", size, SIRA_FRAME_BYTES_MAX);
}

static PyObject *control_frame(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"kind", "body", NULL};
    unsigned int kind;
    Py_buffer body;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Iy*:control_frame", names, &kind, &body)) return NULL;
    PyObject *frame = NULL;
    const size_t len = (size_t)body.len;
    if (kind < SIRA_ITEM_MESSAGE || (kind > SIRA_ITEM_ENDED && kind < SIRA_ITEM_ASIDE) || kind > SIRA_ITEM_CELL_END) {
        sira_raise("BAD_REQUEST", "an item of kind %u", kind);
    } else {
        const size_t size = pb_bytes_size(F_ITEMS, item_size(kind, len));
        if (size > SIRA_FRAME_BYTES_MAX) too_large(size);
        else frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    }
    if (frame) put_item((uint8_t *)PyBytes_AS_STRING(frame), kind, body.buf, len);
    PyBuffer_Release(&body);
    return frame;
}

static PyObject *join_frame(PyObject *Py_UNUSED(module), PyObject *messages)
{
    PyObject *list = PySequence_Fast(messages, "join_frame: want a sequence of bytes"); /* owned */
    if (!list) return NULL;
    PyObject *frame = NULL;
    size_t size = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++) {
        PyObject *message = PySequence_Fast_GET_ITEM(list, i); /* borrowed */
        if (!PyBytes_Check(message)) {
            PyErr_Format(PyExc_TypeError, "join_frame: want bytes, got %s", Py_TYPE(message)->tp_name);
            goto done;
        }
        size += pb_bytes_size(F_ITEMS, item_size(SIRA_ITEM_MESSAGE, (size_t)PyBytes_GET_SIZE(message)));
    }
    if (size > SIRA_FRAME_BYTES_MAX) {
        too_large(size);
        goto done;
    }
    frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!frame) goto done;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(frame);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++) {
        PyObject *message = PySequence_Fast_GET_ITEM(list, i); /* borrowed */
        at = put_item(at, SIRA_ITEM_MESSAGE, PyBytes_AS_STRING(message), (size_t)PyBytes_GET_SIZE(message));
    }
done:
    Py_DECREF(list);
    return frame;
}

static PyObject *split_frame(PyObject *Py_UNUSED(module), PyObject *frame)
{
    if (!PyBytes_Check(frame))
        return PyErr_Format(PyExc_TypeError, "split_frame: want bytes, got %s", Py_TYPE(frame)->tp_name);
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(frame);
    const size_t len = (size_t)PyBytes_GET_SIZE(frame);
    PyObject *messages = PyList_New(0); /* owned */
    size_t at = 0;
    while (messages) {
        struct sira_item item;
        bool done = false;
        const enum sira_status status = sira_frame_next(data, len, &at, &item, &done);
        if (status != SIRA_OK) {
            sira_raise_status(status, at);
            Py_CLEAR(messages);
            break;
        }
        if (done) break;
        if (item.kind != SIRA_ITEM_MESSAGE) continue;
        PyObject *message = sira_message_new(&sira_message_type, frame, item.body.data, item.body.len, NULL); /* owned */
        if (!message || PyList_Append(messages, message) < 0) Py_CLEAR(messages);
        Py_XDECREF(message);
    }
    return messages;
}

PyMethodDef sira_frame_functions[] = {
    {"control_frame", (PyCFunction)(void (*)(void))control_frame, METH_VARARGS | METH_KEYWORDS,
     "control_frame(kind, body) -> bytes: a Frame with one item, `body` the encoded submessage."},
    {"join_frame", join_frame, METH_O, "join_frame(messages) -> bytes: encoded Messages in one Frame."},
    {"split_frame", split_frame, METH_O, "split_frame(frame) -> list[Message]: its inline messages."},
    {NULL, NULL, 0, NULL},
};
