/* What goes back to a publisher: receipts in the order of its messages, late ones and credits as they come. */
#include "hub_stream.h"
#include "pb.h"
#include "pyutil.h"

void ingress_wake(Ingress *in)
{
    if (!in->idle || in->closed) return;
    in->idle = false;
    in->wake_due = true;
    ingress_due(in);
}

uint64_t ingress_unread(const Ingress *in)
{
    return in->slot_len + (uint64_t)PyList_GET_SIZE(in->credits);
}

void slots_free(Ingress *in)
{
    for (uint32_t i = 0; i < in->slot_len; i++) Py_XDECREF(in->slots[(in->slot_base + i) & (in->slot_cap - 1)].error);
    PyMem_Free(in->slots);
    in->slots = NULL;
    in->slot_cap = in->slot_len = 0;
}

/* The place of a message's answer. SLOT_NONE with MemoryError. */
uint64_t slot_open(Ingress *in, const struct sira_env *env, bool head)
{
    if (head) return SLOT_LATE;
    if (in->slot_len == in->slot_cap) {
        const uint32_t cap = in->slot_cap ? in->slot_cap * 2 : 16;
        struct receipt_slot *at = PyMem_Malloc(cap * sizeof *at);
        if (!at) {
            PyErr_NoMemory();
            return SLOT_NONE;
        }
        for (uint32_t i = 0; i < in->slot_len; i++)
            at[(in->slot_base + i) & (cap - 1)] = in->slots[(in->slot_base + i) & (in->slot_cap - 1)];
        PyMem_Free(in->slots);
        in->slots = at;
        in->slot_cap = cap;
    }
    const uint64_t number = in->slot_base + in->slot_len++;
    struct receipt_slot *slot = &in->slots[number & (in->slot_cap - 1)];
    *slot = (struct receipt_slot){0};
    if (env->id.len == SIRA_ID_BYTES) memcpy(slot->id, env->id.data, SIRA_ID_BYTES);
    return number;
}

/* Takes over `error`. `id`: 16 bytes, read only for SLOT_LATE. */
void ingress_settle(Ingress *in, uint64_t number, const uint8_t *id, uint8_t state, uint32_t matched, uint64_t bytes,
                    PyObject *error)
{
    if (number == SLOT_LATE) {
        struct receipt_slot late = {.state = state, .matched = matched, .bytes = bytes, .error = error};
        memcpy(late.id, id, SIRA_ID_BYTES);
        if (state == 1 && in->history) history_add(in->history, id, matched, bytes, in->hub->now_ns);
        if (state != 3) ingress_answer(in, &late);
        Py_XDECREF(error);
        return;
    }
    assert(number - in->slot_base < in->slot_len);
    struct receipt_slot *slot = &in->slots[number & (in->slot_cap - 1)];
    assert(slot->state == 0);
    slot->state = state;
    slot->matched = matched;
    slot->bytes = bytes;
    slot->error = error;
    if (state == 1 && in->history) history_add(in->history, slot->id, matched, bytes, in->hub->now_ns);
    if (number == in->slot_base) ingress_wake(in);
}

/* The code of the exception that is set, which stays; "OTHER": it has none. */
void hub_exception_code(char *code, size_t len)
{
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    strncpy(code, "OTHER", len);
    PyObject *attribute = value ? PyObject_GetAttrString(value, "code") : NULL; /* owned */
    const char *text = attribute && PyUnicode_Check(attribute) ? PyUnicode_AsUTF8(attribute) : NULL;
    if (text) strncpy(code, text, len - 1);
    code[len - 1] = 0;
    Py_XDECREF(attribute);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

int settle_error(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic, const char *code,
                        PyObject *error)
{
    if (topic && code && row_count(in->hub, &row_live(topic->row)->refused, hub_reason(in->hub, code), 1) < 0) {
        Py_DECREF(error);
        return -1;
    }
    ingress_settle(in, number, id, 2, 0, 0, error);
    return 0;
}

/* The current exception becomes the answer. */
int settle_refused(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic, const char *code)
{
    PyObject *error = hub_error_bytes(in->hub); /* owned */
    if (!error) return -1;
    if (in->limited.bucket && !in->limited.error) in->limited.error = Py_NewRef(error);
    return settle_error(in, number, id, topic, code, error);
}

int settle_again(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic)
{
    assert(in->limited.error);
    return settle_error(in, number, id, topic, "RATE_LIMITED", Py_NewRef(in->limited.error));
}

/* ---- written out --------------------------------------------------------------------------------------------------- */

enum { RECEIPTS_BYTES = 64 << 10 };

void ingress_credit(Ingress *in, struct xfer *xfer)
{
    const size_t body = pb_bytes_size(3, SIRA_ID_BYTES) + pb_uint_size(4, xfer->credit_due);
    const size_t item = pb_bytes_size(SIRA_ITEM_CREDIT, body);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pb_bytes_size(1, item)); /* owned */
    if (!bytes) {
        PyErr_Clear(); /* the next one carries it */
        return;
    }
    uint8_t *p = (uint8_t *)PyBytes_AS_STRING(bytes);
    p = pb_put_varint(pb_put_key(p, 1, PB_LEN), item);
    p = pb_put_varint(pb_put_key(p, SIRA_ITEM_CREDIT, PB_LEN), body);
    p = pb_put_bytes(p, 3, xfer->id, SIRA_ID_BYTES);
    (void)pb_put_uint(p, 4, xfer->credit_due);
    if (!in->closed && PyList_Append(in->credits, bytes) == 0) {
        xfer->credit_due = 0;
        ingress_wake(in);
    } else {
        PyErr_Clear();
    }
    Py_DECREF(bytes);
}

static size_t receipt_size(const struct receipt_slot *slot)
{
    size_t size = pb_bytes_size(1, SIRA_ID_BYTES);
    if (slot->state == 2) return size + pb_bytes_size(10, (size_t)PyBytes_GET_SIZE(slot->error));
    if (slot->matched) size += pb_uint_size(2, slot->matched);
    size += pb_uint_size(3, 1) + pb_bytes_size(5, 1) + pb_uint_size(6, 1);
    if (slot->bytes) size += pb_uint_size(7, slot->bytes);
    return size;
}

/* Grade accepted, the stream's lane, one copy: the client's own, into its frame. The node makes none that it need
 * not. */
static uint8_t *receipt_write(uint8_t *p, const struct receipt_slot *slot, uint8_t lane)
{
    p = pb_put_bytes(p, 1, slot->id, SIRA_ID_BYTES);
    if (slot->state == 2) {
        return pb_put_bytes(p, 10, PyBytes_AS_STRING(slot->error), (size_t)PyBytes_GET_SIZE(slot->error));
    }
    if (slot->matched) p = pb_put_uint(p, 2, slot->matched);
    p = pb_put_uint(p, 3, 1);
    p = pb_put_bytes(p, 5, slot->lane ? &slot->lane : &lane, 1);
    p = pb_put_uint(p, 6, 1);
    if (slot->bytes) p = pb_put_uint(p, 7, slot->bytes);
    return p;
}

void ingress_answer(Ingress *in, const struct receipt_slot *slot)
{
    const size_t size = receipt_size(slot);
    const size_t item = pb_bytes_size(SIRA_ITEM_RECEIPT, size);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pb_bytes_size(1, item)); /* owned */
    if (bytes) {
        uint8_t *p = pb_put_varint(pb_put_key((uint8_t *)PyBytes_AS_STRING(bytes), 1, PB_LEN), item);
        p = pb_put_varint(pb_put_key(p, SIRA_ITEM_RECEIPT, PB_LEN), size);
        (void)receipt_write(p, slot, in->lane);
        if (!in->closed && PyList_Append(in->credits, bytes) == 0) ingress_wake(in);
        Py_DECREF(bytes);
    }
    if (PyErr_Occurred()) PyErr_WriteUnraisable((PyObject *)in); /* no memory: the publisher will time out */
}

void ingress_settle_whole(Ingress *in, const struct xfer *xfer)
{
    struct receipt_slot slot = {.state = 1, .matched = xfer->matched, .bytes = xfer->total};
    memcpy(slot.id, xfer->id, SIRA_ID_BYTES);
    if (xfer->lent && xfer->lent == xfer->total) slot.lane = LANE_SHM;
    if (in->history) history_add(in->history, slot.id, slot.matched, slot.bytes, in->hub->now_ns);
    ingress_answer(in, &slot);
}

/* The first of the encoded items in `list` as one Frame, far below its limit; they leave the list. Frame bodies join
 * by concatenation. New reference; NULL without an exception: there are none. */
PyObject *frame_of_items(PyObject *list)
{
    const Py_ssize_t len = PyList_GET_SIZE(list);
    Py_ssize_t count = 0, bytes = 0;
    while (count < len && bytes < RECEIPTS_BYTES) bytes += PyBytes_GET_SIZE(PyList_GET_ITEM(list, count++));
    if (!count) return NULL;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, bytes); /* owned */
    if (!frame) return NULL;
    char *p = PyBytes_AS_STRING(frame);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyList_GET_ITEM(list, i); /* borrowed */
        memcpy(p, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item));
        p += PyBytes_GET_SIZE(item);
    }
    if (PyList_SetSlice(list, 0, count, NULL) < 0) Py_CLEAR(frame);
    return frame;
}

PyObject *ingress_next_frame(Ingress *in, uint64_t now_ns)
{
    in->hub->now_ns = now_ns;
    if (PyList_GET_SIZE(in->credits)) {
        PyObject *frame = frame_of_items(in->credits); /* owned */
        ingress_unfull(in);
        return frame;
    }
    uint32_t count = 0;
    size_t bytes = 0;
    for (; count < in->slot_len && bytes < RECEIPTS_BYTES; count++) {
        const struct receipt_slot *slot = &in->slots[(in->slot_base + count) & (in->slot_cap - 1)];
        if (slot->state == 0) break;
        if (slot->state != 3) bytes += pb_bytes_size(1, pb_bytes_size(SIRA_ITEM_RECEIPT, receipt_size(slot)));
    }
    PyObject *frame = bytes ? PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes) : NULL; /* owned */
    if (bytes && !frame) return NULL;
    uint8_t *p = frame ? (uint8_t *)PyBytes_AS_STRING(frame) : NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct receipt_slot *slot = &in->slots[in->slot_base & (in->slot_cap - 1)];
        if (slot->state != 3) {
            const size_t size = receipt_size(slot);
            p = pb_put_varint(pb_put_key(p, 1, PB_LEN), pb_bytes_size(SIRA_ITEM_RECEIPT, size));
            p = pb_put_varint(pb_put_key(p, SIRA_ITEM_RECEIPT, PB_LEN), size);
            p = receipt_write(p, slot, in->lane);
        }
        Py_CLEAR(slot->error);
        in->slot_base++;
        in->slot_len--;
    }
    ingress_unfull(in);
    if (frame) return frame;
    in->idle = true;
    return NULL;
}
