/* What a Subscribe stream says of links: which cells are whose. It is done within feed(), in its order: a message behind
 * CellOpen comes behind what lies in the cell already. */
#include "client.h"

#include "pb.h"
#include "shm_py.h"

struct cell_open {
    uint32_t subscription, link, cell;
    struct sira_slice topic, stamp;
};

/* CellOpen, or CellEnd, whose numbers are shifted by one: `first` is the field of `link` less 2. */
static int read_cell(const struct sira_item *item, uint32_t link_field, struct cell_open *out)
{
    *out = (struct cell_open){0};
    struct pb_reader reader = {item->body.data, item->body.data + item->body.len};
    while (reader.at != reader.end) {
        uint32_t field, wire;
        uint64_t number = 0;
        struct sira_slice text = {NULL, 0};
        bool good = pb_key(&reader, &field, &wire);
        if (good && wire == PB_VARINT) good = pb_varint(&reader, &number);
        else if (good && wire == PB_LEN) good = pb_bytes(&reader, &text);
        else good = good && pb_skip(&reader, wire);
        if (!good) {
            sira_raise_status(SIRA_MALFORMED, (size_t)(reader.at - item->body.data));
            return -1;
        }
        const uint32_t meant = field + 2 - link_field; /* as in CellOpen */
        if (meant == 1 && field != 0) out->subscription = (uint32_t)number;
        if (meant == 2) out->link = (uint32_t)number;
        if (meant == 3) out->cell = (uint32_t)number;
        if (meant == 4) out->topic = text;
        if (meant == 5) out->stamp = text;
    }
    return 0;
}

/* The reader of a link, borrowed; NULL: unknown, or an exception. */
static PyObject *link_reader(const Inbox *self, uint32_t number)
{
    if (!self->links) return NULL;
    PyObject *key = PyLong_FromUnsignedLong(number); /* owned */
    PyObject *reader = key ? PyDict_GetItemWithError(self->links, key) : NULL;
    Py_XDECREF(key);
    return reader;
}

int inbox_cell_open(Inbox *self, const struct sira_item *item)
{
    struct cell_open open;
    if (read_cell(item, 2, &open) < 0) return -1;
    PyObject *reader = link_reader(self, open.link); /* borrowed */
    struct port *port = inbox_port(self, open.subscription);
    if (!reader || !port) return PyErr_Occurred() ? -1 : 0;
    PyObject *topic = PyUnicode_DecodeUTF8((const char *)open.topic.data, (Py_ssize_t)open.topic.len, NULL); /* owned */
    PyObject *stamp = PyBytes_FromStringAndSize((const char *)open.stamp.data, (Py_ssize_t)open.stamp.len); /* owned */
    Mailbox *mailbox = (Mailbox *)Py_NewRef((PyObject *)port->mailbox); /* owned */
    Py_INCREF(reader);
    const int result = topic && stamp ? mailbox_bind(mailbox, reader, open.cell, topic, stamp) : -1;
    Py_DECREF(reader);
    if (result == 0) inbox_note(self, mailbox);
    Py_DECREF(mailbox);
    Py_XDECREF(topic);
    Py_XDECREF(stamp);
    return result < 0 ? -1 : 1;
}

int inbox_cell_end(Inbox *self, const struct sira_item *item)
{
    struct cell_open end;
    if (read_cell(item, 1, &end) < 0) return -1;
    ShmReader *reader = (ShmReader *)link_reader(self, end.link); /* borrowed */
    if (!reader) return PyErr_Occurred() ? -1 : 0;
    if (end.cell >= reader->memory->link.shape.cells) {
        sira_raise("PROTOCOL_ERROR", "cell %lu of a link that has less", (unsigned long)end.cell);
        return -1;
    }
    if (sira_reader_is_child(reader)) return -1;
    Py_INCREF(reader);
    sira_reader_unbind_cell(reader, end.cell);
    sira_reader_discard(reader, end.cell);
    Py_DECREF(reader);
    return 1;
}

PyObject *inbox_link_method(Inbox *self, PyObject *args)
{
    PyObject *number, *reader; /* borrowed */
    if (!PyArg_ParseTuple(args, "O!O!:link", &PyLong_Type, &number, &sira_shm_reader_type, &reader)) return NULL;
    if (!self->links && !(self->links = PyDict_New())) return NULL;
    const int known = PyDict_Contains(self->links, number);
    if (known > 0) PyErr_Format(PyExc_ValueError, "link %S is there", number);
    if (known || PyDict_SetItem(self->links, number, reader) < 0) return NULL;
    Py_RETURN_NONE;
}

PyObject *inbox_unlink_method(Inbox *self, PyObject *number)
{
    if (self->links && PyDict_DelItem(self->links, number) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_KeyError)) return NULL;
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}
