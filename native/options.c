/* Options: what a publisher may set on an envelope, checked and encoded once, reusable over many messages. */
#include "pyutil.h"

#include "pb.h"

/* Field numbers of sira.v1.Message that Options writes. */
enum {
    F_REPLY_TO = 5, F_CONTENT_TYPE = 6, F_CORRELATION_ID = 8, F_CAUSATION_ID = 9, F_TYPE = 10, F_SCHEMA = 11,
    F_SOURCE = 12, F_INTENT_ID = 13, F_TRACEPARENT = 16, F_HEADERS = 17, F_DEDUPE_KEY = 18, F_KEY = 19,
    F_STREAM_ID = 20, F_STREAM_SEQ = 21, F_STREAM_END = 22, F_REPLY_KIND = 23, F_ERROR = 24, F_FENCE = 26,
};
enum { REPLY_KIND_MAX = 4, GRADE_MAX = 4, FIELD_OVERHEAD_BYTES = 16 /* key and length, generously */ };

struct options_object {
    PyObject_HEAD
    struct sira_options options;
    uint8_t *block; /* owned, PyMem: what options.fields points to; NULL when empty */
};

/* A field that is a string or an id, before it is written. */
struct field {
    uint32_t number;
    struct sira_slice value;
};

static const struct sira_options default_options;

const struct sira_options *sira_options_of(PyObject *options)
{
    if (!options || options == Py_None) return &default_options;
    if (!PyObject_TypeCheck(options, &sira_options_type)) {
        PyErr_Format(PyExc_TypeError, "options: want Options or None, got %s", Py_TYPE(options)->tp_name);
        return NULL;
    }
    return &((struct options_object *)options)->options;
}

/* UTF-8 of a str, borrowed from it; lone surrogates are BAD_REQUEST. */
static int utf8_of(PyObject *text, const char *what, struct sira_slice *out)
{
    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "%s: want str, got %s", what, Py_TYPE(text)->tp_name);
        return -1;
    }
    Py_ssize_t len;
    const char *data = PyUnicode_AsUTF8AndSize(text, &len);
    if (!data) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeError)) sira_raise("BAD_REQUEST", "%s is not Unicode text", what);
        return -1;
    }
    out->data = (const uint8_t *)data;
    out->len = (size_t)len;
    return 0;
}

static int uint_of(PyObject *object, void *out)
{
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) return 0;
    *(uint64_t *)out = value;
    return 1;
}

/* One entry of a map<string, string>. Returns its end; NULL `at` only counts into *bytes. */
static uint8_t *put_header(uint8_t *at, struct sira_slice key, struct sira_slice value, size_t *bytes)
{
    const size_t entry = pb_bytes_size(1, key.len) + pb_bytes_size(2, value.len);
    *bytes += pb_key_size(F_HEADERS) + pb_varint_size(entry) + entry;
    if (!at) return NULL;
    at = pb_put_varint(pb_put_key(at, F_HEADERS, PB_LEN), entry);
    at = pb_put_bytes(at, 1, key.data, key.len);
    return pb_put_bytes(at, 2, value.data, value.len);
}

/* Write the headers at `at`, or count them when it is NULL. `items` is a list of pairs of str, borrowed. */
static int put_headers(PyObject *items, uint8_t **at, size_t *bytes)
{
    const Py_ssize_t count = items ? PyList_GET_SIZE(items) : 0;
    if (count > SIRA_HEADERS_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "%zd headers, at most %d", count, SIRA_HEADERS_MAX);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GET_ITEM(items, i); /* borrowed */
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "headers: not a mapping of str to str");
            return -1;
        }
        struct sira_slice key, value;
        if (utf8_of(PyTuple_GET_ITEM(pair, 0), "a header's name", &key) < 0) return -1;
        if (utf8_of(PyTuple_GET_ITEM(pair, 1), "a header's value", &value) < 0) return -1;
        *at = put_header(*at, key, value, bytes);
    }
    return 0;
}

static PyObject *options_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "id", "reply_to", "type", "content_type", "schema", "source", "correlation_id", "causation_id", "intent_id",
        "traceparent", "headers", "dedupe_key", "key", "priority", "ttl_ns", "stream_id", "stream_seq", "stream_end",
        "reply_kind", "error", "fence_lease", "fence_token", "quiet", "wait_ms", "grade", NULL,
    };
    PyObject *id = Py_None, *headers = Py_None, *wait_ms = Py_None;                        /* borrowed */
    PyObject *reply_to = NULL, *message_type = NULL, *content_type = NULL, *schema = NULL; /* borrowed: str or NULL */
    PyObject *source = NULL, *traceparent = NULL, *dedupe_key = NULL, *key = NULL, *fence_lease = NULL;
    PyObject *correlation_id = NULL, *causation_id = NULL, *intent_id = NULL, *stream_id = NULL, *error = NULL; /* bytes */
    uint64_t priority = 0, ttl_ns = 0, stream_seq = 0, reply_kind = 0, fence_token = 0, grade = 0;
    int stream_end = 0, quiet = 0;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "|$OUUUUUSSSUOUUO&O&SO&pO&SUO&pOO&:Options", names, &id, &reply_to, &message_type,
            &content_type, &schema, &source, &correlation_id, &causation_id, &intent_id, &traceparent, &headers,
            &dedupe_key, &key, uint_of, &priority, uint_of, &ttl_ns, &stream_id, uint_of, &stream_seq, &stream_end,
            uint_of, &reply_kind, &error, &fence_lease, uint_of, &fence_token, &quiet, &wait_ms, uint_of, &grade))
        return NULL;

    struct sira_options options = {.quiet = quiet};
    if (priority >= SIRA_PRIORITIES)
        return sira_raise("BAD_REQUEST", "priority %llu is not 0..%d", (unsigned long long)priority,
                          SIRA_PRIORITIES - 1);
    if (reply_kind > REPLY_KIND_MAX)
        return sira_raise("BAD_REQUEST", "reply_kind %llu is not known", (unsigned long long)reply_kind);
    if (grade > GRADE_MAX) return sira_raise("BAD_REQUEST", "grade %llu is not known", (unsigned long long)grade);
    options.priority = (uint32_t)priority;
    options.grade = (uint32_t)grade;
    options.ttl_ns = ttl_ns;
    if (wait_ms != Py_None) {
        uint64_t wait;
        if (!uint_of(wait_ms, &wait)) return NULL;
        options.has_wait = true;
        options.wait_ms = wait > UINT32_MAX ? UINT32_MAX : (uint32_t)wait;
    }
    if (id != Py_None) {
        if (!PyBytes_Check(id) || PyBytes_GET_SIZE(id) != SIRA_ID_BYTES)
            return sira_raise("BAD_REQUEST", "id: want %d bytes", SIRA_ID_BYTES);
        memcpy(options.id, PyBytes_AS_STRING(id), SIRA_ID_BYTES);
        options.has_id = true;
    }

    struct { uint32_t number; const char *what; PyObject *value; } texts[] = {
        {F_REPLY_TO, "reply_to", reply_to}, {F_CONTENT_TYPE, "content_type", content_type},
        {F_TYPE, "type", message_type}, {F_SCHEMA, "schema", schema}, {F_SOURCE, "source", source},
        {F_TRACEPARENT, "traceparent", traceparent}, {F_DEDUPE_KEY, "dedupe_key", dedupe_key}, {F_KEY, "key", key},
    };
    struct { uint32_t number; const char *what; PyObject *value; } ids[] = {
        {F_CORRELATION_ID, "correlation_id", correlation_id}, {F_CAUSATION_ID, "causation_id", causation_id},
        {F_INTENT_ID, "intent_id", intent_id}, {F_STREAM_ID, "stream_id", stream_id},
    };
    enum { TEXTS = sizeof texts / sizeof texts[0], IDS = sizeof ids / sizeof ids[0] };
    struct field fields[TEXTS + IDS + 1];
    size_t field_count = 0, bytes_max = 0;
    for (size_t i = 0; i < TEXTS; i++) {
        struct sira_slice text = {NULL, 0};
        if (!texts[i].value || PyUnicode_GET_LENGTH(texts[i].value) == 0) continue;
        if (texts[i].number == F_REPLY_TO) {
            if (sira_topic_of_py(texts[i].value, &text) < 0) return NULL;
        } else if (utf8_of(texts[i].value, texts[i].what, &text) < 0) {
            return NULL;
        }
        fields[field_count++] = (struct field){texts[i].number, text};
        if (texts[i].number == F_SOURCE) options.has_source = true;
    }
    for (size_t i = 0; i < IDS; i++) {
        const Py_ssize_t len = ids[i].value ? PyBytes_GET_SIZE(ids[i].value) : 0;
        if (!len) continue;
        if (len != SIRA_ID_BYTES)
            return sira_raise("BAD_REQUEST", "%s: %zd bytes, an id has %d", ids[i].what, len, SIRA_ID_BYTES);
        fields[field_count++] = (struct field){
            ids[i].number, {(const uint8_t *)PyBytes_AS_STRING(ids[i].value), (size_t)len}};
    }
    if (error && PyBytes_GET_SIZE(error))
        fields[field_count++] = (struct field){
            F_ERROR, {(const uint8_t *)PyBytes_AS_STRING(error), (size_t)PyBytes_GET_SIZE(error)}};
    struct sira_slice lease = {NULL, 0};
    if (fence_lease && utf8_of(fence_lease, "fence_lease", &lease) < 0) return NULL;

    for (size_t i = 0; i < field_count; i++) bytes_max += fields[i].value.len + FIELD_OVERHEAD_BYTES;
    bytes_max += lease.len + 6 * FIELD_OVERHEAD_BYTES; /* fence, stream_seq, stream_end, reply_kind */
    PyObject *header_items = NULL; /* owned: list of pairs */
    if (headers != Py_None && !(header_items = PyMapping_Items(headers))) return NULL;
    uint8_t *at = NULL;
    PyObject *made = NULL;
    if (put_headers(header_items, &at, &bytes_max) < 0) goto done;
    if (bytes_max > SIRA_ENVELOPE_BYTES_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "the envelope takes about %zu bytes, at most %d", bytes_max,
                   SIRA_ENVELOPE_BYTES_MAX);
        goto done;
    }
    struct options_object *self = (struct options_object *)type->tp_alloc(type, 0);
    if (!self) goto done;
    made = (PyObject *)self;
    self->block = PyMem_Malloc(bytes_max);
    if (!self->block) {
        PyErr_NoMemory();
        Py_CLEAR(made);
        goto done;
    }
    at = self->block;
    for (size_t i = 0; i < field_count; i++)
        at = pb_put_bytes(at, fields[i].number, fields[i].value.data, fields[i].value.len);
    if (stream_seq) at = pb_put_uint(at, F_STREAM_SEQ, stream_seq);
    if (stream_end) at = pb_put_uint(at, F_STREAM_END, 1);
    if (reply_kind) at = pb_put_uint(at, F_REPLY_KIND, reply_kind);
    if (lease.len || fence_token) {
        const size_t fence = (lease.len ? pb_bytes_size(1, lease.len) : 0)
                             + (fence_token ? pb_uint_size(2, fence_token) : 0);
        at = pb_put_varint(pb_put_key(at, F_FENCE, PB_LEN), fence);
        if (lease.len) at = pb_put_bytes(at, 1, lease.data, lease.len);
        if (fence_token) at = pb_put_uint(at, 2, fence_token);
    }
    size_t written = 0;
    if (put_headers(header_items, &at, &written) < 0) { /* the list is ours: nothing can have changed */
        Py_CLEAR(made);
        goto done;
    }
    assert((size_t)(at - self->block) <= bytes_max);
    options.fields = self->block;
    options.fields_len = (size_t)(at - self->block);
    self->options = options;
done:
    Py_XDECREF(header_items);
    return made;
}

static void options_dealloc(PyObject *self)
{
    PyMem_Free(((struct options_object *)self)->block);
    Py_TYPE(self)->tp_free(self);
}

PyDoc_STRVAR(options_doc,
"Everything of an envelope that a publisher may set, checked once; reusable over many messages.\n"
"\n"
"Keyword-only. Ids are 16 bytes or empty; priority 0..7, higher first; ttl_ns 0: never expires.\n"
"Raises BAD_REQUEST, BAD_TOPIC (reply_to) and MESSAGE_TOO_LARGE (past 64 KiB or 64 headers).");

PyTypeObject sira_options_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Options",
    .tp_doc = options_doc,
    .tp_basicsize = sizeof(struct options_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = options_new,
    .tp_dealloc = options_dealloc,
};
