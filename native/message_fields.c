/* The attributes of Message. Those that every receiver asks for come from struct message; the others are parsed
 * again when asked for, so that a message need not carry them. */
#include "message.h"

int sira_message_parse(const struct message *message, struct sira_env *env)
{
    size_t at = 0;
    const enum sira_status status = sira_env_parse(message->raw.data, message->raw.len,
                                                   message->assembled ? SIRA_ENV_HEAD : 0, UINT64_MAX, env, &at);
    if (status == SIRA_OK) return 0;
    sira_raise_status(status, at);
    return -1;
}

/* Checked to be UTF-8 by the parser. */
static PyObject *text_of(struct sira_slice slice)
{
    return PyUnicode_DecodeUTF8((const char *)slice.data, (Py_ssize_t)slice.len, "strict");
}

PyObject *sira_uuid_text(struct sira_slice id)
{
    if (id.len != SIRA_ID_BYTES) return PyUnicode_FromStringAndSize(NULL, 0);
    static const char digits[] = "0123456789abcdef";
    PyObject *text = PyUnicode_New(36, 127);
    if (!text) return NULL;
    Py_UCS1 *at = PyUnicode_1BYTE_DATA(text);
    for (int i = 0; i < SIRA_ID_BYTES; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *at++ = '-';
        *at++ = (Py_UCS1)digits[id.data[i] >> 4];
        *at++ = (Py_UCS1)digits[id.data[i] & 15];
    }
    return text;
}

/* ---- from struct message: `closure` is the offset of the field ------------------------------------------- */
#define FIELD(type, closure) (*(const type *)((const char *)self + (size_t)(closure)))
#define HELD(field) ((void *)offsetof(struct message, field))

static PyObject *held_text(PyObject *self, void *closure)
{
    return text_of(FIELD(struct sira_slice, closure));
}

static PyObject *held_id(PyObject *self, void *closure)
{
    const uint8_t *id = FIELD(uint8_t *, closure);
    return sira_uuid_text((struct sira_slice){id, id ? SIRA_ID_BYTES : 0});
}

static PyObject *held_id_bytes(PyObject *self, void *closure)
{
    const char *id = FIELD(char *, closure);
    return PyBytes_FromStringAndSize(id, id ? SIRA_ID_BYTES : 0);
}

static PyObject *held_u64(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(FIELD(uint64_t, closure));
}

static PyObject *held_u32(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLong(FIELD(uint32_t, closure));
}

static PyObject *held_bool(PyObject *self, void *closure)
{
    return PyBool_FromLong(FIELD(bool, closure));
}

/* ---- from the bytes: `closure` is the offset in struct sira_env ------------------------------------------- */
#define PARSED(field) ((void *)offsetof(struct sira_env, field))
#define PARSE_OR_FAIL                                                                                                \
    struct sira_env env;                                                                                             \
    if (sira_message_parse((const struct message *)self, &env) < 0) return NULL;                                     \
    const char *field = (const char *)&env + (size_t)closure

static PyObject *parsed_text(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    return text_of(*(const struct sira_slice *)field);
}

static PyObject *parsed_id(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    return sira_uuid_text(*(const struct sira_slice *)field);
}

static PyObject *parsed_bytes(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    const struct sira_slice *slice = (const struct sira_slice *)field;
    return PyBytes_FromStringAndSize((const char *)slice->data, (Py_ssize_t)slice->len);
}

static PyObject *parsed_u64(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    return PyLong_FromUnsignedLongLong(*(const uint64_t *)field);
}

static PyObject *parsed_u32(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    return PyLong_FromUnsignedLong(*(const uint32_t *)field);
}

static PyObject *get_offset(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    if (!env.has_offset) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(*(const uint64_t *)field);
}

static PyObject *get_headers(PyObject *self, void *closure)
{
    PARSE_OR_FAIL;
    (void)field;
    PyObject *headers = PyDict_New(); /* owned */
    for (uint32_t i = 0; headers && i < env.header_count; i++) {
        PyObject *key = text_of(env.headers[i].key);     /* owned */
        PyObject *value = text_of(env.headers[i].value); /* owned */
        if (!key || !value || PyDict_SetItem(headers, key, value) < 0) Py_CLEAR(headers);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return headers;
}

/* ---- bodies that are not arrays ---------------------------------------------------------------------------- */
/* The one bytes or text tensor. An empty message has an empty body. *found stays NULL for it. */
static int find_blob(const struct message *self, const struct message_view **found)
{
    *found = NULL;
    if (self->view_count == 0) return 0;
    const struct message_view *view = &self->views[0];
    if (self->view_count == 1 && view->name.len == 0 && sira_dtype_is_body(view->dtype)) {
        *found = view;
        return 0;
    }
    sira_raise("BAD_REQUEST", "the body is %u named tensors, not bytes or text", self->view_count);
    return -1;
}

static PyObject *get_bytes(PyObject *object, void *Py_UNUSED(closure))
{
    const struct message *self = (const struct message *)object;
    const struct message_view *view;
    if (find_blob(self, &view) < 0) return NULL;
    if (!view) return sira_memoryview(self->owner, NULL, 0);
    return sira_memoryview(view->owner ? view->owner : self->owner, view->data, view->bytes);
}

static PyObject *get_text(PyObject *object, void *Py_UNUSED(closure))
{
    const struct message_view *view;
    if (find_blob((const struct message *)object, &view) < 0) return NULL;
    if (!view) return PyUnicode_FromStringAndSize(NULL, 0);
    PyObject *text = PyUnicode_DecodeUTF8((const char *)view->data, (Py_ssize_t)view->bytes, "strict");
    if (!text && PyErr_ExceptionMatches(PyExc_UnicodeError)) sira_raise("BAD_REQUEST", "the body is not UTF-8 text");
    return text;
}

static PyObject *get_encoded(PyObject *object, void *Py_UNUSED(closure))
{
    const struct message *self = (const struct message *)object;
    return sira_memoryview(self->owner, self->raw.data, self->raw.len);
}

PyMemberDef sira_message_members[] = {
    {"context", T_OBJECT, offsetof(struct message, context), 0, "Whoever owns the reply path, or None."},
    {NULL, 0, 0, 0, NULL},
};

PyGetSetDef sira_message_getset[] = {
    {"topic", held_text, NULL, NULL, HELD(topic)},
    {"id", held_id, NULL, "Canonical UUID text.", HELD(id)},
    {"id_bytes", held_id_bytes, NULL, "16 bytes, b\"\" when absent.", HELD(id)},
    {"source", held_text, NULL, NULL, HELD(source)},
    {"reply_to", held_text, NULL, NULL, HELD(reply_to)},
    {"correlation_id", held_id, NULL, "UUID text or \"\".", HELD(correlation_id)},
    {"correlation_id_bytes", held_id_bytes, NULL, "16 bytes, b\"\" when absent.", HELD(correlation_id)},
    {"priority", held_u32, NULL, "0..7, higher first.", HELD(priority)},
    {"reply_kind", held_u32, NULL, NULL, HELD(reply_kind)},
    {"stream_seq", held_u64, NULL, NULL, HELD(stream_seq)},
    {"stream_end", held_bool, NULL, NULL, HELD(stream_end)},
    {"payload_bytes", held_u64, NULL, "Bytes of all tensors together.", HELD(payload_bytes)},
    {"type", parsed_text, NULL, NULL, PARSED(type)},
    {"content_type", parsed_text, NULL, NULL, PARSED(content_type)},
    {"schema", parsed_text, NULL, NULL, PARSED(schema)},
    {"traceparent", parsed_text, NULL, NULL, PARSED(traceparent)},
    {"dedupe_key", parsed_text, NULL, NULL, PARSED(dedupe_key)},
    {"key", parsed_text, NULL, NULL, PARSED(key)},
    {"principal", parsed_text, NULL, "Set by the node.", PARSED(principal)},
    {"tenant", parsed_text, NULL, "Set by the node.", PARSED(tenant)},
    {"causation_id", parsed_id, NULL, "UUID text or \"\".", PARSED(causation_id)},
    {"intent_id", parsed_id, NULL, "UUID text or \"\".", PARSED(intent_id)},
    {"stream_id", held_id, NULL, "UUID text or \"\".", HELD(stream_id)},
    {"stream_id_bytes", held_id_bytes, NULL, "16 bytes, b\"\" when absent.", HELD(stream_id)},
    {"time_ns", parsed_u64, NULL, "Wall clock at the publisher, for people.", PARSED(time_ns)},
    {"ttl_ns", parsed_u64, NULL, "Time left when the last hop wrote it; 0: no limit.", PARSED(ttl_ns)},
    {"attempt", parsed_u32, NULL, "1 at the first delivery; 0: not set.", PARSED(attempt)},
    {"offset", get_offset, NULL, "Offset in a durable topic, or None.", PARSED(offset)},
    {"error", parsed_bytes, NULL, "Encoded sira.v1.Error, b\"\" when absent.", PARSED(error)},
    {"headers", get_headers, NULL, "dict[str, str], made anew.", NULL},
    {"encoded", get_encoded, NULL, "The encoded Message; of a reassembled one its head.", NULL},
    {"bytes", get_bytes, NULL, "memoryview of a body of bytes or text; BAD_REQUEST when it is tensors.", NULL},
    {"text", get_text, NULL, "The body as str; BAD_REQUEST when it is tensors or not UTF-8.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
