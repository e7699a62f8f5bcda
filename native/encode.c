/* One Message to bytes: the envelope first, then the tensors, each with its data last. */
#include "pyutil.h"

#include "pb.h"

enum { F_ID = 1, F_TOPIC = 2, F_PRIORITY = 3, F_TTL_NS = 4, F_TIME_NS = 7, F_SOURCE = 12, F_TENSORS = 14 };
enum { T_NAME = 1, T_DTYPE = 2, T_SHAPE = 3, T_DATA_BYTES = 4, T_DATA = 15 };

int sira_topic_of_py(PyObject *topic, struct sira_slice *out)
{
    if (!PyUnicode_Check(topic)) {
        PyErr_Format(PyExc_TypeError, "topic: want str, got %s", Py_TYPE(topic)->tp_name);
        return -1;
    }
    Py_ssize_t len;
    const char *data = PyUnicode_AsUTF8AndSize(topic, &len);
    if (!data) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeError)) sira_raise("BAD_TOPIC", "topic is not Unicode text");
        return -1;
    }
    const enum sira_status status = sira_topic_check((const uint8_t *)data, (size_t)len);
    if (status != SIRA_OK) {
        /* A hostile or mistaken name may be long: show its beginning. */
        sira_raise(sira_status_code(status), "topic %.200R: %s", topic, sira_status_text(status));
        return -1;
    }
    out->data = (const uint8_t *)data;
    out->len = (size_t)len;
    return 0;
}

static size_t shape_size(const struct sira_body *body, const struct sira_body_tensor *tensor)
{
    size_t size = 0;
    for (uint32_t i = 0; i < tensor->ndim; i++) size += pb_varint_size(body->dims[tensor->dim_index + i]);
    return size;
}

/* Bytes of a Tensor without its data (but with the key and length of the data when it is there). */
static size_t tensor_head_size(const struct sira_body *body, const struct sira_body_tensor *tensor, bool head)
{
    size_t size = pb_uint_size(T_DTYPE, tensor->dtype);
    if (tensor->name.len) size += pb_bytes_size(T_NAME, tensor->name.len);
    if (tensor->ndim) size += pb_bytes_size(T_SHAPE, shape_size(body, tensor));
    if (tensor->bytes)
        size += head ? pb_uint_size(T_DATA_BYTES, tensor->bytes) : pb_key_size(T_DATA) + pb_varint_size(tensor->bytes);
    return size;
}

static uint8_t *put_tensor_head(uint8_t *at, const struct sira_body *body, const struct sira_body_tensor *tensor,
                                bool head)
{
    const size_t size = tensor_head_size(body, tensor, head) + (head ? 0 : tensor->bytes);
    at = pb_put_varint(pb_put_key(at, F_TENSORS, PB_LEN), size);
    if (tensor->name.len) at = pb_put_bytes(at, T_NAME, tensor->name.data, tensor->name.len);
    at = pb_put_uint(at, T_DTYPE, tensor->dtype);
    if (tensor->ndim) {
        at = pb_put_varint(pb_put_key(at, T_SHAPE, PB_LEN), shape_size(body, tensor));
        for (uint32_t i = 0; i < tensor->ndim; i++) at = pb_put_varint(at, body->dims[tensor->dim_index + i]);
    }
    if (tensor->bytes) {
        if (head) return pb_put_uint(at, T_DATA_BYTES, tensor->bytes);
        at = pb_put_varint(pb_put_key(at, T_DATA, PB_LEN), tensor->bytes);
    }
    return at;
}

/* Bytes of all that stands before the tensors. */
static size_t envelope_size(const struct sira_envelope *envelope)
{
    const struct sira_options *options = envelope->options;
    size_t size = pb_bytes_size(F_ID, SIRA_ID_BYTES) + pb_bytes_size(F_TOPIC, envelope->topic.len);
    if (options->priority) size += pb_uint_size(F_PRIORITY, options->priority);
    if (options->ttl_ns) size += pb_key_size(F_TTL_NS) + 8;
    if (envelope->time_ns) size += pb_key_size(F_TIME_NS) + 8;
    if (envelope->source.len && !options->has_source) size += pb_bytes_size(F_SOURCE, envelope->source.len);
    return size + options->fields_len;
}

static uint8_t *put_envelope(uint8_t *at, const struct sira_envelope *envelope)
{
    const struct sira_options *options = envelope->options;
    at = pb_put_bytes(at, F_ID, envelope->id, SIRA_ID_BYTES);
    at = pb_put_bytes(at, F_TOPIC, envelope->topic.data, envelope->topic.len);
    if (options->priority) at = pb_put_uint(at, F_PRIORITY, options->priority);
    if (options->ttl_ns) at = pb_put_fixed64(at, F_TTL_NS, options->ttl_ns);
    if (envelope->time_ns) at = pb_put_fixed64(at, F_TIME_NS, envelope->time_ns);
    if (envelope->source.len && !options->has_source)
        at = pb_put_bytes(at, F_SOURCE, envelope->source.data, envelope->source.len);
    if (options->fields_len) memcpy(at, options->fields, options->fields_len);
    return at + options->fields_len;
}

size_t sira_encode_size(const struct sira_envelope *envelope, const struct sira_body *body, bool head)
{
    size_t size = envelope_size(envelope); /* without data: far from 64 bits, names and dims are bounded */
    size_t data = 0;
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const struct sira_body_tensor *tensor = &body->tensors[i];
        const size_t tensor_head = tensor_head_size(body, tensor, head);
        const size_t tensor_data = head ? 0 : tensor->bytes;
        size += pb_key_size(F_TENSORS) + pb_varint_size(tensor_head + tensor_data) + tensor_head;
        data += tensor_data; /* memory that exists: the sum fits */
    }
    if (size > SIRA_ENVELOPE_BYTES_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "the envelope takes %zu bytes, at most %d", size, SIRA_ENVELOPE_BYTES_MAX);
        return 0;
    }
    return size + data;
}

uint8_t *sira_encode_write(uint8_t *at, const struct sira_envelope *envelope, const struct sira_body *body, bool head)
{
    at = put_envelope(at, envelope);
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const struct sira_body_tensor *tensor = &body->tensors[i];
        at = put_tensor_head(at, body, tensor, head);
        if (!head && tensor->bytes) {
            memcpy(at, tensor->data, tensor->bytes);
            at += tensor->bytes;
        }
    }
    return at;
}

/* ---- Python functions ---------------------------------------------------------------------------------- */
/* Parsed arguments of encode_message and encode_iovec, ready to be written. */
struct encoding {
    struct sira_envelope envelope;
    struct sira_body body;
    uint8_t id[SIRA_ID_BYTES];
};

/* (topic, body, options=None) -> *out; 0 and the caller clears out->body, or -1 with nothing to clear. */
static int encoding_begin(const char *name, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                          struct encoding *out)
{
    static const char *const names[] = {"topic", "body", "options"};
    PyObject *values[3] = {NULL, NULL, NULL}; /* borrowed */
    if (count > 3) {
        PyErr_Format(PyExc_TypeError, "%s takes 2 or 3 arguments, got %zd", name, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) values[i] = args[i];
    const Py_ssize_t keyword_count = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t k = 0; k < keyword_count; k++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, k); /* borrowed */
        int slot = 0;
        while (slot < 3 && PyUnicode_CompareWithASCIIString(keyword, names[slot]) != 0) slot++;
        if (slot == 3 || values[slot]) {
            PyErr_Format(PyExc_TypeError, "%s: argument %R is unknown or given twice", name, keyword);
            return -1;
        }
        values[slot] = args[count + k];
    }
    if (!values[0] || !values[1]) {
        PyErr_Format(PyExc_TypeError, "%s: topic and body are needed", name);
        return -1;
    }
    const struct sira_options *options = sira_options_of(values[2]);
    if (!options || sira_topic_of_py(values[0], &out->envelope.topic) < 0) return -1;
    if (sira_body_from_py(values[1], &out->body) < 0) return -1;
    if (options->has_id)
        memcpy(out->id, options->id, sizeof out->id);
    else
        sira_id_new(out->id);
    out->envelope.options = options;
    out->envelope.id = out->id;
    out->envelope.source = (struct sira_slice){NULL, 0};
    out->envelope.time_ns = sira_now_wall_ns();
    return 0;
}

static PyObject *encode_message(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count,
                                PyObject *keywords)
{
    struct encoding encoding;
    if (encoding_begin("encode_message", args, count, keywords, &encoding) < 0) return NULL;
    PyObject *out = NULL; /* owned */
    const size_t size = sira_encode_size(&encoding.envelope, &encoding.body, false);
    if (size) out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (out) {
        uint8_t *start = (uint8_t *)PyBytes_AS_STRING(out);
        uint8_t *end = sira_encode_write(start, &encoding.envelope, &encoding.body, false);
        assert((size_t)(end - start) == size);
        (void)end;
    }
    sira_body_clear(&encoding.body);
    return out;
}

/* Append a memoryview; steals `view`, which may be NULL. */
static int append_view(PyObject *list, PyObject *view)
{
    if (!view) return -1;
    const int result = PyList_Append(list, view);
    Py_DECREF(view);
    return result;
}

static PyObject *encode_iovec(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count,
                              PyObject *keywords)
{
    struct encoding encoding;
    if (encoding_begin("encode_iovec", args, count, keywords, &encoding) < 0) return NULL;
    const struct sira_body *body = &encoding.body;
    PyObject *list = NULL, *heads = NULL; /* owned; heads: all that is not payload, in one bytes */
    const size_t size = sira_encode_size(&encoding.envelope, body, false);
    if (!size) goto done;
    list = PyList_New(0);
    heads = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size - body->payload_bytes));
    if (!list || !heads) goto failed;
    uint8_t *slice = (uint8_t *)PyBytes_AS_STRING(heads);
    uint8_t *at = put_envelope(slice, &encoding.envelope);
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const struct sira_body_tensor *tensor = &body->tensors[i];
        at = put_tensor_head(at, body, tensor, false);
        if (!tensor->bytes) continue;
        if (append_view(list, sira_memoryview(heads, slice, (size_t)(at - slice))) < 0) goto failed;
        if (append_view(list, sira_memoryview(tensor->owner, tensor->data, tensor->bytes)) < 0) goto failed;
        slice = at;
    }
    if (at != slice && append_view(list, sira_memoryview(heads, slice, (size_t)(at - slice))) < 0) goto failed;
    goto done;
failed:
    Py_CLEAR(list);
done:
    Py_XDECREF(heads);
    sira_body_clear(&encoding.body);
    return list;
}

PyMethodDef sira_encode_functions[] = {
    {"encode_message", (PyCFunction)(void (*)(void))encode_message, METH_FASTCALL | METH_KEYWORDS,
     "encode_message(topic, body, options=None) -> bytes: one encoded sira.v1.Message."},
    {"encode_iovec", (PyCFunction)(void (*)(void))encode_iovec, METH_FASTCALL | METH_KEYWORDS,
     "encode_iovec(topic, body, options=None) -> list[memoryview]: the same in slices, payloads not copied."},
    {NULL, NULL, 0, NULL},
};
