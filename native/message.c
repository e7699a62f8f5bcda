/* Message: a lazy, immutable view of one encoded sira.v1.Message. Arrays are made in view.c, rare fields in
 * message_fields.c. */
#include "message.h"

static const uint64_t MESSAGE_BYTES_MAX_DEFAULT = (uint64_t)16 << 30;

/* One parsed message at a time is held here, not on the stack: it is 23 KB and stays in the cache. Nothing that
 * may run Python code stands between a parse and the last use of what it gave. */
struct sira_env sira_message_scratch;

/* ---- construction -------------------------------------------------------------------------------------- */
int sira_message_fill(struct message *self, const struct sira_env *env)
{
    self->raw = env->raw;
    self->topic = env->topic;
    self->source = env->source;
    self->reply_to = env->reply_to;
    self->id = env->id.data;
    self->correlation_id = env->correlation_id.data;
    self->stream_id = env->stream_id.data;
    self->is_traced = env->intent_id.len || env->traceparent.len;
    self->payload_bytes = env->payload_bytes;
    self->stream_seq = env->stream_seq;
    self->stream_end = env->stream_end;
    self->priority = env->priority;
    self->reply_kind = env->reply_kind;
    self->views = self->small_views;
    self->dims = self->small_dims;
    if (env->tensor_count > MESSAGE_VIEWS_SMALL) {
        self->views = PyMem_Calloc(env->tensor_count, sizeof self->views[0]);
        if (!self->views) {
            PyErr_NoMemory();
            return -1;
        }
    }
    if (env->dim_count > MESSAGE_DIMS_SMALL) {
        self->dims = PyMem_Malloc(env->dim_count * sizeof self->dims[0]);
        if (!self->dims) {
            PyErr_NoMemory();
            return -1;
        }
    }
    for (uint32_t i = 0; i < env->dim_count; i++) self->dims[i] = env->dims[i];
    for (uint32_t i = 0; i < env->tensor_count; i++) {
        const struct sira_tensor *from = &env->tensors[i];
        struct message_view *view = &self->views[i];
        view->name = from->name;
        view->data = from->data;
        view->bytes = from->bytes;
        view->dtype = from->dtype;
        view->ndim = from->ndim;
        view->dim_index = from->shape_index;
    }
    self->view_count = env->tensor_count;
    return 0;
}

struct message *sira_message_allocate(PyTypeObject *type, PyObject *owner, PyObject *context)
{
    assert(PyType_IsSubtype(type, &sira_message_type));
    struct message *self = (struct message *)type->tp_alloc(type, 0); /* all zero, tracked by the collector */
    if (!self) return NULL;
    self->owner = Py_NewRef(owner);
    self->context = Py_XNewRef(context);
    return self;
}

PyObject *sira_message_from_env(PyTypeObject *type, PyObject *owner, const struct sira_env *env, PyObject *context)
{
    struct message *self = sira_message_allocate(type, owner, context);
    if (self && sira_message_fill(self, env) < 0) Py_CLEAR(self);
    return (PyObject *)self;
}

/* Parse and build; `message_bytes_max` in bytes. */
static PyObject *message_build(PyTypeObject *type, PyObject *owner, const uint8_t *data, size_t len,
                               uint64_t message_bytes_max, PyObject *context)
{
    struct message *self = sira_message_allocate(type, owner, context); /* first: allocating may run the collector */
    if (!self) return NULL;
    size_t at = 0;
    const enum sira_status status = sira_env_parse(data, len, 0, message_bytes_max, &sira_message_scratch, &at);
    if (status == SIRA_OK && sira_message_fill(self, &sira_message_scratch) == 0) return (PyObject *)self;
    if (status != SIRA_OK) sira_raise_status(status, at);
    Py_DECREF(self);
    return NULL;
}

PyObject *sira_message_new(PyTypeObject *type, PyObject *owner, const uint8_t *data, size_t len, PyObject *context)
{
    return message_build(type, owner, data, len, MESSAGE_BYTES_MAX_DEFAULT, context);
}

/* A message whose tensors lie elsewhere, and its head in sira_message_scratch.
 * Ensures: new reference -> that holds the head and nothing was filled in; NULL -> an error is set. */
static struct message *allocate_of_head(PyTypeObject *type, PyObject *head_owner, const uint8_t *head, size_t head_len,
                                        PyObject *context)
{
    struct message *self = sira_message_allocate(type, head_owner, context); /* owned */
    if (!self) return NULL;
    self->assembled = true;
    size_t at = 0;
    const enum sira_status status = sira_env_parse(head, head_len, SIRA_ENV_HEAD, UINT64_MAX, &sira_message_scratch, &at);
    if (status == SIRA_OK) return self;
    sira_raise_status(status, at);
    Py_DECREF(self);
    return NULL;
}

PyObject *sira_message_new_assembled(PyTypeObject *type, PyObject *head_owner, const uint8_t *head, size_t head_len,
                                     const struct sira_part *parts, size_t count, PyObject *context)
{
    struct message *self = allocate_of_head(type, head_owner, head, head_len, context);
    if (!self) return NULL;
    if (count != sira_message_scratch.tensor_count) {
        sira_raise("FRAME_CORRUPT", "%zu buffers for %u tensors", count, sira_message_scratch.tensor_count);
    } else if (sira_message_fill(self, &sira_message_scratch) == 0) {
        for (size_t i = 0; i < count; i++) {
            struct message_view *view = &self->views[i];
            if (parts[i].len != view->bytes || (view->bytes && !parts[i].owner)) {
                sira_raise("FRAME_CORRUPT", "tensor %zu: %zu bytes came, %llu were announced", i, parts[i].len,
                           (unsigned long long)view->bytes);
                Py_DECREF(self);
                return NULL;
            }
            if (!view->bytes) continue;
            view->owner = Py_NewRef(parts[i].owner);
            view->data = parts[i].data;
        }
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return NULL;
}

static PyObject *message_decode(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "message_bytes_max", "context", NULL};
    PyObject *data, *context = NULL; /* borrowed */
    unsigned long long message_bytes_max = MESSAGE_BYTES_MAX_DEFAULT;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$KO:decode", names, &data, &message_bytes_max, &context))
        return NULL;
    if (context == Py_None) context = NULL;
    if (PyBytes_Check(data))
        return message_build(type, data, (const uint8_t *)PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data),
                             message_bytes_max, context);
    PyObject *view = PyMemoryView_FromObject(data); /* owned; holds the export while the message lives */
    if (!view) return NULL;
    const Py_buffer *buffer = PyMemoryView_GET_BUFFER(view);
    PyObject *message = NULL;
    if (PyBuffer_IsContiguous(buffer, 'C'))
        message = message_build(type, view, buffer->buf, (size_t)buffer->len, message_bytes_max, context);
    else
        sira_raise("BAD_REQUEST", "decode: the memory is not contiguous");
    Py_DECREF(view);
    return message;
}

/* ---- life ------------------------------------------------------------------------------------------------ */
static int message_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct message *self = (struct message *)object;
    Py_VISIT(self->owner);
    Py_VISIT(self->context);
    for (uint32_t i = 0; i < self->view_count; i++) Py_VISIT(self->views[i].owner);
    return 0;
}

/* Only the context can close a cycle; the owners stay, since a finaliser may still read the message. */
static int message_clear(PyObject *object)
{
    Py_CLEAR(((struct message *)object)->context);
    return 0;
}

static void message_dealloc(PyObject *object)
{
    struct message *self = (struct message *)object;
    PyObject_GC_UnTrack(object);
    if (self->weakrefs) PyObject_ClearWeakRefs(object);
    for (uint32_t i = 0; i < self->view_count; i++) Py_XDECREF(self->views[i].owner);
    if (self->views != self->small_views) PyMem_Free(self->views);
    if (self->dims != self->small_dims) PyMem_Free(self->dims);
    Py_XDECREF(self->context);
    Py_XDECREF(self->owner);
    Py_TYPE(object)->tp_free(object);
}

/* ---- a mapping of names to arrays ------------------------------------------------------------------------- */
/* The bytes or text body is not an array: it has no key. */
static bool is_blob(const struct message_view *view)
{
    return view->name.len == 0 && sira_dtype_is_body(view->dtype);
}

/* The tensor of this name, or NULL without an exception. `name` is borrowed. */
static const struct message_view *find(const struct message *self, PyObject *name)
{
    if (!PyUnicode_Check(name)) return NULL;
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(name, &len);
    if (!text) {
        PyErr_Clear();
        return NULL;
    }
    for (uint32_t i = 0; i < self->view_count; i++) {
        const struct message_view *view = &self->views[i];
        if (view->name.len == (size_t)len && memcmp(view->name.data, text, (size_t)len) == 0 && !is_blob(view))
            return view;
    }
    return NULL;
}

static PyObject *message_subscript(PyObject *object, PyObject *name)
{
    const struct message *self = (const struct message *)object;
    const struct message_view *view = find(self, name);
    if (view) return sira_view_array(self, view);
    PyErr_SetObject(PyExc_KeyError, name);
    return NULL;
}

static int message_contains(PyObject *object, PyObject *name)
{
    return find((const struct message *)object, name) != NULL;
}

static Py_ssize_t message_length(PyObject *object)
{
    const struct message *self = (const struct message *)object;
    Py_ssize_t count = 0;
    for (uint32_t i = 0; i < self->view_count; i++) count += !is_blob(&self->views[i]);
    return count;
}

/* A reply without tensors is a reply: `if reply:` asks whether there is one. */
static int message_bool(PyObject *Py_UNUSED(object))
{
    return 1;
}

static PyObject *view_name(const struct message_view *view)
{
    return PyUnicode_DecodeUTF8((const char *)view->name.data, (Py_ssize_t)view->name.len, "strict");
}

/* (name, spec) of one tensor. */
static PyObject *view_spec(const struct message *self, const struct message_view *view)
{
    PyObject *shape = PyTuple_New((Py_ssize_t)view->ndim); /* owned */
    for (uint32_t d = 0; shape && d < view->ndim; d++) {
        PyObject *size = PyLong_FromUnsignedLongLong(self->dims[view->dim_index + d]);
        if (!size) {
            Py_CLEAR(shape);
            break;
        }
        PyTuple_SET_ITEM(shape, (Py_ssize_t)d, size);
    }
    return shape ? Py_BuildValue("(sN)", sira_dtype_name(view->dtype), shape) : NULL;
}

enum listed { KEYS, VALUES, ITEMS };

/* A list with one entry a tensor, in the order of the message. */
static PyObject *listing(const struct message *self, enum listed what)
{
    PyObject *list = PyList_New(0); /* owned */
    for (uint32_t i = 0; list && i < self->view_count; i++) {
        const struct message_view *view = &self->views[i];
        if (is_blob(view)) continue;
        PyObject *name = what == VALUES ? NULL : view_name(view);           /* owned */
        PyObject *array = what == KEYS ? NULL : sira_view_array(self, view); /* owned */
        PyObject *entry = NULL;                                             /* owned */
        if (what == KEYS) entry = Py_XNewRef(name);
        if (what == VALUES) entry = Py_XNewRef(array);
        if (what == ITEMS && name && array) entry = PyTuple_Pack(2, name, array);
        Py_XDECREF(name);
        Py_XDECREF(array);
        if (!entry || PyList_Append(list, entry) < 0) Py_CLEAR(list);
        Py_XDECREF(entry);
    }
    return list;
}

static PyObject *message_keys(PyObject *self, PyObject *Py_UNUSED(args))
{
    PyObject *list = listing((struct message *)self, KEYS);
    PyObject *tuple = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return tuple;
}

static PyObject *message_values(PyObject *self, PyObject *Py_UNUSED(args))
{
    return listing((struct message *)self, VALUES);
}

static PyObject *message_items(PyObject *self, PyObject *Py_UNUSED(args))
{
    return listing((struct message *)self, ITEMS);
}

static PyObject *message_iter(PyObject *self)
{
    PyObject *keys = message_keys(self, NULL);
    PyObject *iterator = keys ? PyObject_GetIter(keys) : NULL;
    Py_XDECREF(keys);
    return iterator;
}

static PyObject *message_specs(PyObject *object, PyObject *Py_UNUSED(args))
{
    const struct message *self = (const struct message *)object;
    PyObject *specs = PyDict_New(); /* owned */
    for (uint32_t i = 0; specs && i < self->view_count; i++) {
        if (is_blob(&self->views[i])) continue;
        PyObject *name = view_name(&self->views[i]);       /* owned */
        PyObject *spec = view_spec(self, &self->views[i]); /* owned */
        if (!name || !spec || PyDict_SetItem(specs, name, spec) < 0) Py_CLEAR(specs);
        Py_XDECREF(name);
        Py_XDECREF(spec);
    }
    return specs;
}

static PyObject *message_packed(PyObject *object, PyObject *name)
{
    const struct message *self = (const struct message *)object;
    const struct message_view *view = find(self, name);
    if (!view) {
        PyErr_SetObject(PyExc_KeyError, name);
        return NULL;
    }
    if (!sira_dtype_is_packed(view->dtype))
        return sira_raise("BAD_REQUEST", "packed: tensor %R is %s, not i4 or u4", name, sira_dtype_name(view->dtype));
    return sira_view_packed(self, view);
}

static PyObject *message_repr(PyObject *object)
{
    const struct message *self = (const struct message *)object;
    PyObject *topic = PyUnicode_DecodeUTF8((const char *)self->topic.data, (Py_ssize_t)self->topic.len, "replace");
    PyObject *specs = topic ? message_specs(object, NULL) : NULL;
    PyObject *text = specs ? PyUnicode_FromFormat("<%s topic=%R payload_bytes=%llu tensors=%R>",
                                                  Py_TYPE(object)->tp_name, topic,
                                                  (unsigned long long)self->payload_bytes, specs)
                           : NULL;
    Py_XDECREF(topic);
    Py_XDECREF(specs);
    return text;
}

/* ---- for the other files ------------------------------------------------------------------------------------ */
struct sira_slice sira_message_topic(PyObject *message)
{
    return ((struct message *)message)->topic;
}

struct sira_slice sira_message_source(PyObject *message)
{
    return ((struct message *)message)->source;
}

struct sira_slice sira_message_id(PyObject *message)
{
    const uint8_t *id = ((struct message *)message)->id;
    return (struct sira_slice){id, id ? SIRA_ID_BYTES : 0};
}

uint32_t sira_message_priority(PyObject *message)
{
    return ((struct message *)message)->priority;
}

uint64_t sira_message_payload_bytes(PyObject *message)
{
    return ((struct message *)message)->payload_bytes;
}

/* ---- the type -------------------------------------------------------------------------------------------------- */
static PyMappingMethods message_as_mapping = {.mp_length = message_length, .mp_subscript = message_subscript};
static PySequenceMethods message_as_sequence = {.sq_contains = message_contains};
static PyNumberMethods message_as_number = {.nb_bool = message_bool};

static PyMethodDef message_methods[] = {
    {"decode", (PyCFunction)(void (*)(void))message_decode, METH_CLASS | METH_VARARGS | METH_KEYWORDS,
     "decode(data, *, message_bytes_max=16 GiB, context=None) -> Message over `data`, which it keeps alive."},
    {"keys", message_keys, METH_NOARGS, "keys() -> tuple of tensor names, in the order of the message."},
    {"values", message_values, METH_NOARGS, "values() -> list of read-only arrays."},
    {"items", message_items, METH_NOARGS, "items() -> list of (name, read-only array)."},
    {"specs", message_specs, METH_NOARGS, "specs() -> {name: (dtype name, shape)}."},
    {"packed", message_packed, METH_O, "packed(name) -> uint8 view of an i4 or u4 tensor: two elements a byte."},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(message_doc,
"A received or built message: lazy view of one encoded sira.v1.Message. Immutable.\n"
"\n"
"message[name] is a read-only array over the message's own memory and keeps that alive; i4 and u4 are the\n"
"exception: they are unpacked into a new array, and packed(name) is the view.");

PyTypeObject sira_message_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Message",
    .tp_doc = message_doc,
    .tp_basicsize = sizeof(struct message),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = message_traverse,
    .tp_clear = message_clear,
    .tp_dealloc = message_dealloc,
    .tp_weaklistoffset = offsetof(struct message, weakrefs),
    .tp_as_number = &message_as_number,
    .tp_as_mapping = &message_as_mapping,
    .tp_as_sequence = &message_as_sequence,
    .tp_iter = message_iter,
    .tp_repr = message_repr,
    .tp_methods = message_methods,
    .tp_members = sira_message_members,
    .tp_getset = sira_message_getset,
};

int sira_add_message(PyObject *module)
{
    if (sira_dlpack_in_init() < 0 || sira_options_init() < 0) return -1;
    if (sira_add_type(module, &sira_message_type) < 0) return -1;
    if (sira_add_type(module, &sira_options_type) < 0) return -1;
    if (sira_add_type(module, &sira_receipt_type) < 0) return -1;
    if (sira_add_functions(module, sira_encode_functions) < 0) return -1;
    if (sira_add_functions(module, sira_frame_functions) < 0) return -1;
    return sira_add_functions(module, sira_dlpack_functions);
}
