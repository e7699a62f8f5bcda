/* Options: what a publisher may set on an envelope, checked and encoded once, reusable over many messages. */
#include "message.h"

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

/* ---- arguments ------------------------------------------------------------------------------------------- */
enum slot {
    S_ID, S_REPLY_TO, S_TYPE, S_CONTENT_TYPE, S_SCHEMA, S_SOURCE, S_TRACEPARENT, S_DEDUPE_KEY, S_KEY,
    S_CORRELATION_ID, S_CAUSATION_ID, S_INTENT_ID, S_STREAM_ID, S_ERROR, S_FENCE_LEASE, S_FENCE_TOKEN, S_HEADERS,
    S_PRIORITY, S_TTL_NS, S_STREAM_SEQ, S_STREAM_END, S_REPLY_KIND, S_QUIET, S_WAIT_MS, S_GRADE, SLOTS
};
static const char *const slot_names[SLOTS] = {
    "id", "reply_to", "type", "content_type", "schema", "source", "traceparent", "dedupe_key", "key",
    "correlation_id", "causation_id", "intent_id", "stream_id", "error", "fence_lease", "fence_token", "headers",
    "priority", "ttl_ns", "stream_seq", "stream_end", "reply_kind", "quiet", "wait_ms", "grade",
};
static PyObject *slot_keys[SLOTS]; /* owned: the names, interned */

/* Keyword arguments into slots, borrowed; absent ones NULL. By hand: PyArg_ParseTupleAndKeywords makes a str for
 * each of the 25 names in each call, and options are made for every request. */
static int take_arguments(PyObject *args, PyObject *kwargs, PyObject **values)
{
    if (PyTuple_GET_SIZE(args)) {
        PyErr_SetString(PyExc_TypeError, "Options takes keyword arguments only");
        return -1;
    }
    Py_ssize_t at = 0;
    PyObject *key, *value; /* borrowed */
    while (kwargs && PyDict_Next(kwargs, &at, &key, &value)) {
        int slot = 0;
        while (slot < SLOTS && slot_keys[slot] != key) slot++;
        if (slot == SLOTS) /* a name that is not interned */
            for (slot = 0; slot < SLOTS && PyUnicode_CompareWithASCIIString(key, slot_names[slot]) != 0;) slot++;
        if (slot == SLOTS) {
            PyErr_Format(PyExc_TypeError, "Options has no argument %R", key);
            return -1;
        }
        values[slot] = value;
    }
    return 0;
}

/* An int of 0..max, or BAD_REQUEST; absent: 0. */
static int uint_slot(PyObject *const *values, enum slot slot, uint64_t max, uint64_t *out)
{
    *out = 0;
    if (!values[slot]) return 0;
    const unsigned long long value = PyLong_AsUnsignedLongLong(values[slot]);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) return -1;
    if (value > max) {
        sira_raise("BAD_REQUEST", "%s: %llu is not 0..%llu", slot_names[slot], value, (unsigned long long)max);
        return -1;
    }
    *out = value;
    return 0;
}

/* bytes, borrowed; absent or empty: no bytes. */
static int bytes_slot(PyObject *const *values, enum slot slot, struct sira_slice *out)
{
    *out = (struct sira_slice){NULL, 0};
    PyObject *value = values[slot];
    if (!value) return 0;
    if (!PyBytes_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: want bytes, got %s", slot_names[slot], Py_TYPE(value)->tp_name);
        return -1;
    }
    *out = (struct sira_slice){(const uint8_t *)PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value)};
    return 0;
}

static int bool_slot(PyObject *const *values, enum slot slot)
{
    return values[slot] ? PyObject_IsTrue(values[slot]) : 0;
}

/* Everything that is not a string, an id or a map. */
static int take_numbers(PyObject *const *values, struct sira_options *options, uint64_t *stream_seq,
                        uint64_t *reply_kind, uint64_t *fence_token, int *stream_end)
{
    uint64_t priority, grade, wait_ms = 0;
    if (uint_slot(values, S_PRIORITY, SIRA_PRIORITIES - 1, &priority) < 0
        || uint_slot(values, S_GRADE, GRADE_MAX, &grade) < 0
        || uint_slot(values, S_TTL_NS, UINT64_MAX, &options->ttl_ns) < 0
        || uint_slot(values, S_STREAM_SEQ, UINT64_MAX, stream_seq) < 0
        || uint_slot(values, S_REPLY_KIND, REPLY_KIND_MAX, reply_kind) < 0
        || uint_slot(values, S_FENCE_TOKEN, UINT64_MAX, fence_token) < 0)
        return -1;
    const int quiet = bool_slot(values, S_QUIET);
    *stream_end = bool_slot(values, S_STREAM_END);
    if (quiet < 0 || *stream_end < 0) return -1;
    options->has_wait = values[S_WAIT_MS] && values[S_WAIT_MS] != Py_None;
    if (options->has_wait && uint_slot(values, S_WAIT_MS, UINT64_MAX, &wait_ms) < 0) return -1;
    options->wait_ms = wait_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)wait_ms;
    options->priority = (uint32_t)priority;
    options->grade = (uint32_t)grade;
    options->quiet = quiet;
    if (values[S_ID] && values[S_ID] != Py_None) {
        struct sira_slice id;
        if (bytes_slot(values, S_ID, &id) < 0) return -1;
        if (id.len != SIRA_ID_BYTES) {
            sira_raise("BAD_REQUEST", "id: %zu bytes, an id has %d", id.len, SIRA_ID_BYTES);
            return -1;
        }
        memcpy(options->id, id.data, SIRA_ID_BYTES);
        options->has_id = true;
    }
    return 0;
}

static const struct { uint8_t slot, number; } text_fields[] = {
    {S_REPLY_TO, F_REPLY_TO}, {S_CONTENT_TYPE, F_CONTENT_TYPE}, {S_TYPE, F_TYPE}, {S_SCHEMA, F_SCHEMA},
    {S_SOURCE, F_SOURCE}, {S_TRACEPARENT, F_TRACEPARENT}, {S_DEDUPE_KEY, F_DEDUPE_KEY}, {S_KEY, F_KEY},
};
static const struct { uint8_t slot, number; } id_fields[] = {
    {S_CORRELATION_ID, F_CORRELATION_ID}, {S_CAUSATION_ID, F_CAUSATION_ID}, {S_INTENT_ID, F_INTENT_ID},
    {S_STREAM_ID, F_STREAM_ID},
};
enum {
    TEXT_FIELDS = sizeof text_fields / sizeof text_fields[0], ID_FIELDS = sizeof id_fields / sizeof id_fields[0],
    FIELDS_MAX = TEXT_FIELDS + ID_FIELDS + 1,
};

/* Strings, ids and the error that are present, checked. Returns how many, or -1. */
static int take_fields(PyObject *const *values, struct field *fields)
{
    int count = 0;
    for (int i = 0; i < TEXT_FIELDS; i++) {
        const enum slot slot = text_fields[i].slot;
        struct sira_slice text;
        if (!values[slot] || (PyUnicode_Check(values[slot]) && PyUnicode_GET_LENGTH(values[slot]) == 0)) continue;
        const int result = slot == S_REPLY_TO ? sira_topic_of_py(values[slot], &text)
                                              : utf8_of(values[slot], slot_names[slot], &text);
        if (result < 0) return -1;
        fields[count++] = (struct field){text_fields[i].number, text};
    }
    for (int i = 0; i < ID_FIELDS; i++) {
        struct sira_slice id;
        if (bytes_slot(values, id_fields[i].slot, &id) < 0) return -1;
        if (!id.len) continue;
        if (id.len != SIRA_ID_BYTES) {
            sira_raise("BAD_REQUEST", "%s: %zu bytes, an id has %d", slot_names[id_fields[i].slot], id.len,
                       SIRA_ID_BYTES);
            return -1;
        }
        fields[count++] = (struct field){id_fields[i].number, id};
    }
    struct sira_slice error;
    if (bytes_slot(values, S_ERROR, &error) < 0) return -1;
    if (error.len) fields[count++] = (struct field){F_ERROR, error};
    return count;
}

static PyObject *options_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[SLOTS] = {NULL}; /* borrowed */
    struct sira_options options = {.has_source = false};
    struct field fields[FIELDS_MAX];
    uint64_t stream_seq, reply_kind, fence_token;
    int stream_end;
    if (take_arguments(args, kwargs, values) < 0) return NULL;
    if (take_numbers(values, &options, &stream_seq, &reply_kind, &fence_token, &stream_end) < 0) return NULL;
    const int field_count = take_fields(values, fields);
    if (field_count < 0) return NULL;
    struct sira_slice lease = {NULL, 0};
    if (values[S_FENCE_LEASE] && utf8_of(values[S_FENCE_LEASE], "fence_lease", &lease) < 0) return NULL;
    PyObject *headers = values[S_HEADERS];

    size_t bytes_max = 0;
    for (int i = 0; i < field_count; i++) {
        bytes_max += fields[i].value.len + FIELD_OVERHEAD_BYTES;
        options.has_source = options.has_source || fields[i].number == F_SOURCE;
        options.needs_node = options.needs_node || fields[i].number == F_DEDUPE_KEY;
    }
    options.needs_node = options.needs_node || lease.len || fence_token;
    bytes_max += lease.len + 6 * FIELD_OVERHEAD_BYTES; /* fence, stream_seq, stream_end, reply_kind */
    PyObject *header_items = NULL; /* owned: list of pairs */
    if (headers && headers != Py_None && !(header_items = PyMapping_Items(headers))) return NULL;
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
    for (int i = 0; i < field_count; i++)
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

int sira_options_init(void)
{
    for (int slot = 0; slot < SLOTS; slot++)
        if (!slot_keys[slot] && !(slot_keys[slot] = PyUnicode_InternFromString(slot_names[slot]))) return -1;
    return 0;
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
