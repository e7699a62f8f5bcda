/* Receipt: what a publish returns. */
#include "pyutil.h"

#include <stddef.h>
#include <structmember.h>

struct receipt_object {
    PyObject_HEAD
    uint8_t id[SIRA_ID_BYTES];
    uint32_t matched, nodes, copies, grade, lane_bits;
    uint64_t offset, bytes;
    bool has_offset;
    char spooled; /* bool of structmember.h */
};

/* Names by number of sira.v1.Grade and sira.v1.Lane. An unset grade means accepted. */
static const char *const grade_names[] = {"accepted", "accepted", "disk", "replicated", "consumed"};
static const char *const lane_names[] = {NULL, "grpc", "shm", "socket"};
enum { GRADES = sizeof grade_names / sizeof grade_names[0], LANES = sizeof lane_names / sizeof lane_names[0] };

PyObject *sira_receipt_new(const struct sira_receipt *receipt)
{
    if (receipt->id.len != SIRA_ID_BYTES) return sira_raise("FRAME_CORRUPT", "a receipt without an id");
    struct receipt_object *self = PyObject_New(struct receipt_object, &sira_receipt_type);
    if (!self) return NULL;
    memcpy(self->id, receipt->id.data, SIRA_ID_BYTES);
    self->matched = receipt->matched;
    self->nodes = receipt->nodes;
    self->copies = receipt->copies;
    self->grade = receipt->grade;
    self->lane_bits = receipt->lane_bits;
    self->offset = receipt->offset;
    self->bytes = receipt->bytes;
    self->has_offset = receipt->has_offset;
    self->spooled = receipt->spooled;
    return (PyObject *)self;
}

/* Bits of the lanes named by an iterable of str. */
static int lanes_of(PyObject *lanes, uint32_t *bits)
{
    *bits = 0;
    if (!lanes) return 0;
    PyObject *iterator = PyObject_GetIter(lanes), *lane; /* owned */
    if (!iterator) return -1;
    while ((lane = PyIter_Next(iterator))) {
        int number = LANES - 1;
        while (number > 0
               && (!PyUnicode_Check(lane) || PyUnicode_CompareWithASCIIString(lane, lane_names[number]) != 0))
            number--;
        if (!number) sira_raise("BAD_REQUEST", "%R is not a lane", lane);
        Py_DECREF(lane);
        if (!number) break;
        *bits |= 1u << number;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *receipt_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"id", "matched", "grade", "offset", "lanes", "copies", "bytes", "nodes", "spooled", NULL};
    const char *id = NULL, *grade = "accepted"; /* borrowed */
    Py_ssize_t id_len = 0;
    PyObject *offset = Py_None, *lanes = NULL; /* borrowed */
    unsigned int matched = 0, copies = 0, nodes = 0;
    unsigned long long bytes = 0;
    int spooled = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$y#IsOOIKIp:Receipt", names, &id, &id_len, &matched, &grade,
                                     &offset, &lanes, &copies, &bytes, &nodes, &spooled))
        return NULL;
    if (id_len != SIRA_ID_BYTES) return sira_raise("BAD_REQUEST", "id: want %d bytes", SIRA_ID_BYTES);
    struct sira_receipt receipt = {
        .id = {(const uint8_t *)id, SIRA_ID_BYTES}, .matched = matched, .copies = copies, .nodes = nodes,
        .bytes = bytes, .spooled = spooled,
    };
    for (receipt.grade = GRADES - 1; receipt.grade; receipt.grade--)
        if (strcmp(grade, grade_names[receipt.grade]) == 0) break;
    if (!receipt.grade) return sira_raise("BAD_REQUEST", "%s is not a grade", grade);
    if (lanes_of(lanes, &receipt.lane_bits) < 0) return NULL;
    if (offset != Py_None) {
        receipt.has_offset = true;
        receipt.offset = PyLong_AsUnsignedLongLong(offset);
        if (receipt.offset == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    }
    return sira_receipt_new(&receipt);
}

static PyObject *get_id(PyObject *self, void *Py_UNUSED(closure))
{
    return sira_uuid_text((struct sira_slice){((struct receipt_object *)self)->id, SIRA_ID_BYTES});
}

static PyObject *get_grade(PyObject *self, void *Py_UNUSED(closure))
{
    const uint32_t grade = ((struct receipt_object *)self)->grade;
    return PyUnicode_FromString(grade < GRADES ? grade_names[grade] : "unknown");
}

static PyObject *get_offset(PyObject *object, void *Py_UNUSED(closure))
{
    const struct receipt_object *self = (const struct receipt_object *)object;
    if (!self->has_offset) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->offset);
}

static PyObject *get_lanes(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *lanes = PyList_New(0); /* owned */
    for (int lane = 1; lanes && lane < LANES; lane++) {
        if (!(((struct receipt_object *)self)->lane_bits & 1u << lane)) continue;
        PyObject *name = PyUnicode_FromString(lane_names[lane]); /* owned */
        if (!name || PyList_Append(lanes, name) < 0) Py_CLEAR(lanes);
        Py_XDECREF(name);
    }
    return lanes;
}

static PyObject *receipt_repr(PyObject *self)
{
    PyObject *id = get_id(self, NULL), *grade = get_grade(self, NULL), *lanes = get_lanes(self, NULL); /* owned */
    PyObject *offset = get_offset(self, NULL);                                                        /* owned */
    const struct receipt_object *receipt = (const struct receipt_object *)self;
    PyObject *text = NULL;
    if (id && grade && lanes && offset)
        text = PyUnicode_FromFormat("Receipt(id=%R, grade=%R, matched=%u, nodes=%u, offset=%R, lanes=%R, copies=%u, "
                                    "bytes=%llu, spooled=%s)",
                                    id, grade, receipt->matched, receipt->nodes, offset, lanes, receipt->copies,
                                    (unsigned long long)receipt->bytes, receipt->spooled ? "True" : "False");
    Py_XDECREF(id);
    Py_XDECREF(grade);
    Py_XDECREF(lanes);
    Py_XDECREF(offset);
    return text;
}

static PyMemberDef receipt_members[] = {
    {"matched", T_UINT, offsetof(struct receipt_object, matched), READONLY, "Subscriptions matched on this node."},
    {"nodes", T_UINT, offsetof(struct receipt_object, nodes), READONLY, "Nodes forwarded to."},
    {"copies", T_UINT, offsetof(struct receipt_object, copies), READONLY, "Copies of the payload made on the way."},
    {"bytes", T_ULONGLONG, offsetof(struct receipt_object, bytes), READONLY, "Payload bytes."},
    {"spooled", T_BOOL, offsetof(struct receipt_object, spooled), READONLY, "Kept for a node out of reach."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef receipt_getset[] = {
    {"id", get_id, NULL, "UUID text of the message.", NULL},
    {"grade", get_grade, NULL, "accepted, disk, replicated or consumed.", NULL},
    {"offset", get_offset, NULL, "Offset in a durable topic, or None.", NULL},
    {"lanes", get_lanes, NULL, "Names of the lanes used, a list made anew.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject sira_receipt_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Receipt",
    .tp_doc = "What became of one published message. Immutable.",
    .tp_basicsize = sizeof(struct receipt_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = receipt_new,
    .tp_repr = receipt_repr,
    .tp_members = receipt_members,
    .tp_getset = receipt_getset,
};
