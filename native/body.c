/* A Python body made ready for the wire: every tensor in C order, little-endian, held by a reference. */
#include "body.h"

/* ---- the list of tensors ------------------------------------------------------------------------------- */
static void body_begin(struct sira_body *body)
{
    body->tensor_count = body->dim_count = body->gathered_count = 0;
    body->payload_bytes = 0;
    body->chunk = NULL;
    body->is_loan = false;
    body->tensors = body->small_tensors;
    body->dims = body->small_dims;
    body->tensor_room = SIRA_BODY_TENSORS_SMALL;
    body->dim_room = SIRA_BODY_DIMS_SMALL;
}

/* An array of `room` items moved to the heap, or grown there, for at least `wanted`. NULL: no memory. */
static void *grown(void *items, void *small, uint32_t *room, uint32_t wanted, uint32_t used, size_t item_bytes)
{
    uint32_t larger = *room * 2;
    if (larger < wanted) larger = wanted;
    void *moved = PyMem_Realloc(items == small ? NULL : items, larger * item_bytes);
    if (!moved) {
        PyErr_NoMemory();
        return NULL;
    }
    if (items == small) memcpy(moved, small, used * item_bytes);
    *room = larger;
    return moved;
}

struct sira_body_tensor *sira_body_add(struct sira_body *body, uint32_t ndim)
{
    assert(ndim <= SIRA_NDIM_MAX);
    if (body->tensor_count == SIRA_TENSORS_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "a message has at most %d tensors", SIRA_TENSORS_MAX);
        return NULL;
    }
    if (body->dim_count + ndim > SIRA_DIMS_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "the tensors of a message have at most %d dimensions together",
                   SIRA_DIMS_MAX);
        return NULL;
    }
    if (body->tensor_count == body->tensor_room) {
        void *tensors = grown(body->tensors, body->small_tensors, &body->tensor_room, body->tensor_count + 1,
                              body->tensor_count, sizeof body->tensors[0]);
        if (!tensors) return NULL;
        body->tensors = tensors;
    }
    if (body->dim_count + ndim > body->dim_room) {
        void *dims = grown(body->dims, body->small_dims, &body->dim_room, body->dim_count + ndim, body->dim_count,
                           sizeof body->dims[0]);
        if (!dims) return NULL;
        body->dims = dims;
    }
    struct sira_body_tensor *tensor = &body->tensors[body->tensor_count++];
    memset(tensor, 0, sizeof *tensor);
    tensor->ndim = ndim;
    tensor->dim_index = body->dim_count;
    body->dim_count += ndim;
    return tensor;
}

void sira_body_clear(struct sira_body *body)
{
    const uint32_t count = body->tensor_count;
    body->tensor_count = 0; /* first: a reference given up may run Python code */
    for (uint32_t i = 0; i < count; i++) {
        Py_CLEAR(body->tensors[i].name_owner);
        Py_CLEAR(body->tensors[i].owner);
    }
    Py_CLEAR(body->chunk);
    if (body->tensors != body->small_tensors) PyMem_Free(body->tensors);
    if (body->dims != body->small_dims) PyMem_Free(body->dims);
    body_begin(body);
}

void sira_body_move(struct sira_body *to, struct sira_body *from)
{
    *to = *from;
    if (from->tensors == from->small_tensors) to->tensors = to->small_tensors;
    if (from->dims == from->small_dims) to->dims = to->small_dims;
    body_begin(from);
}

/* ---- arrays -------------------------------------------------------------------------------------------- */
/* C order, native bytes: `array` itself, or a copy. New reference. */
static PyArrayObject *gather(PyArrayObject *array)
{
    if (!PyArray_ISBYTESWAPPED(array)) return (PyArrayObject *)PyArray_NewCopy(array, NPY_CORDER);
    PyArray_Descr *native = PyArray_DescrNewByteorder(PyArray_DESCR(array), NPY_NATIVE);
    if (!native) return NULL;
    return (PyArrayObject *)PyArray_FromArray(array, native, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ENSURECOPY);
}

/* Two elements a byte, the first in the low nibble. `array`: C order, one byte an element. New bytes. */
static PyObject *packed_nibbles(PyArrayObject *array)
{
    const npy_intp count = PyArray_SIZE(array);
    const uint8_t *from = PyArray_DATA(array);
    PyObject *out = PyBytes_FromStringAndSize(NULL, (count + 1) / 2);
    if (!out) return NULL;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(out);
    for (npy_intp i = 0; i + 1 < count; i += 2) to[i / 2] = (uint8_t)((from[i] & 15) | from[i + 1] << 4);
    if (count % 2) to[count / 2] = from[count - 1] & 15;
    return out;
}

/* Check the name of a tensor and hold it. */
static int set_name(struct sira_body_tensor *tensor, PyObject *name)
{
    Py_ssize_t len = 0;
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &len) : NULL;
    if (!text || len == 0 || len > SIRA_NAME_BYTES_MAX) {
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_UnicodeError)) return -1;
        sira_raise("BAD_REQUEST", "%.200R is not the name of a tensor: want a str of 1 to %d bytes of UTF-8", name,
                   SIRA_NAME_BYTES_MAX);
        return -1;
    }
    tensor->name = (struct sira_slice){(const uint8_t *)text, (size_t)len};
    tensor->name_owner = Py_NewRef(name);
    return 0;
}

/* Add `array` (borrowed) under `name` (borrowed). */
static int add_array(struct sira_body *body, PyObject *name, PyArrayObject *array, bool gathered)
{
    const uint32_t dtype = sira_dtype_of_descr(PyArray_DESCR(array));
    if (dtype == SIRA_DT_NONE) {
        sira_raise("BAD_REQUEST", "tensor %.200R: elements of type %S cannot be sent", name, PyArray_DESCR(array));
        return -1;
    }
    const int ndim = PyArray_NDIM(array);
    if (ndim > SIRA_NDIM_MAX) {
        sira_raise("BAD_REQUEST", "tensor %.200R has %d dimensions, at most %d", name, ndim, SIRA_NDIM_MAX);
        return -1;
    }
    struct sira_body_tensor *tensor = sira_body_add(body, (uint32_t)ndim);
    if (!tensor || set_name(tensor, name) < 0) return -1;
    for (int i = 0; i < ndim; i++) body->dims[tensor->dim_index + i] = (uint64_t)PyArray_DIM(array, i);
    tensor->dtype = dtype;
    tensor->gathered = gathered;

    PyArrayObject *ready; /* owned */
    if (PyArray_IS_C_CONTIGUOUS(array) && !PyArray_ISBYTESWAPPED(array)) {
        ready = (PyArrayObject *)Py_NewRef((PyObject *)array);
    } else {
        ready = gather(array);
        if (!ready) return -1;
        tensor->gathered = true;
    }
    if (sira_dtype_is_packed(dtype)) {
        PyObject *packed = packed_nibbles(ready);
        Py_DECREF(ready);
        if (!packed) return -1;
        tensor->owner = packed;
        tensor->data = (const uint8_t *)PyBytes_AS_STRING(packed);
        tensor->bytes = (uint64_t)PyBytes_GET_SIZE(packed);
        tensor->gathered = true;
    } else {
        tensor->owner = (PyObject *)ready;
        tensor->data = PyArray_DATA(ready);
        tensor->bytes = (uint64_t)PyArray_NBYTES(ready);
    }
    if (tensor->bytes == 0) {
        tensor->data = NULL;
        Py_CLEAR(tensor->owner);
    }
    body->gathered_count += tensor->gathered;
    body->payload_bytes += tensor->bytes;
    return 0;
}

/* Its library could not export `value` by DLPack and the exception is set: an element type that DLPack lacks may
 * still be an array for NumPy. New reference and no exception, or NULL and the exception as it was. */
static PyObject *array_despite_error(PyObject *value)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return NULL; /* KeyboardInterrupt and its like */
    PyObject *type, *error, *traceback; /* owned */
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *array = NULL;
    if (PyObject_HasAttrString(value, "__array__")) array = PyArray_FromAny(value, NULL, 0, 0, 0, NULL);
    if (array && PyArray_TYPE((PyArrayObject *)array) == NPY_OBJECT) Py_CLEAR(array);
    if (!array) {
        PyErr_Restore(type, error, traceback); /* in place of what __array__ may have raised */
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return array;
}

/* An ndarray of anything else that can be one. `*gathered`: the memory is a copy. New reference. */
static PyObject *array_of(PyObject *name, PyObject *value, bool *gathered)
{
    *gathered = false;
    PyObject *array = NULL; /* owned */
    const bool plain = PyFloat_Check(value) || PyLong_Check(value) || PyComplex_Check(value) || PyList_Check(value)
                       || PyTuple_Check(value) || PyArray_IsScalar(value, Generic);
    if (value == Py_None || PyUnicode_Check(value) || sira_message_check(value))
        return sira_raise("BAD_REQUEST", "tensor %.200R: %s is not an array", name, Py_TYPE(value)->tp_name);
    if (!plain) {
        const int is_dlpack = sira_is_dlpack(value);
        if (is_dlpack < 0) return NULL;
        if (is_dlpack) {
            bool elsewhere;
            array = sira_array_from_dlpack(value, name, &elsewhere);
            if (array || elsewhere) return array;
            array = array_despite_error(value);
            if (array) return array;
        } else if (PyObject_CheckBuffer(value)) {
            PyObject *view = PyMemoryView_FromObject(value); /* owned */
            array = view ? PyArray_FromAny(view, NULL, 0, 0, 0, NULL) : NULL;
            Py_XDECREF(view);
            if (array) return array;
        }
    }
    if (!array && !PyErr_Occurred()) {
        *gathered = true;
        array = PyArray_FromAny(value, NULL, 0, 0, 0, NULL);
        if (array) return array;
    }
    if (PyErr_ExceptionMatches(PyExc_MemoryError) || !PyErr_ExceptionMatches(PyExc_Exception)) return NULL;
    return sira_raise("BAD_REQUEST", "tensor %.200R: %s cannot be read as an array on the CPU", name,
                      Py_TYPE(value)->tp_name);
}

/* A masked array of NumPy with a mask? Sent without it, what was hidden would be data: -1, BAD_REQUEST. */
static int refuse_mask(PyObject *name, PyObject *array)
{
    PyObject *mro = Py_TYPE(array)->tp_mro; /* borrowed */
    bool masked = false;
    for (Py_ssize_t i = 0; mro && i < PyTuple_GET_SIZE(mro) && !masked; i++)
        masked = strcmp(((PyTypeObject *)PyTuple_GET_ITEM(mro, i))->tp_name, "MaskedArray") == 0;
    if (!masked) return 0;
    PyObject *mask = PyObject_GetAttrString(array, "mask"); /* owned; an array unless nothing is masked */
    if (!mask) return -1;
    const bool is_set = PyArray_Check(mask);
    Py_DECREF(mask);
    if (!is_set) return 0;
    sira_raise("BAD_REQUEST", "tensor %.200R has a mask: fill it, or send the mask as a tensor of its own", name);
    return -1;
}

/* `name` and `value` borrowed; the caller keeps them alive. */
static int add_value(struct sira_body *body, PyObject *name, PyObject *value)
{
    if (PyArray_Check(value)) {
        if (!PyArray_CheckExact(value) && Py_TYPE(value) != sira_bound.tensor_type && refuse_mask(name, value) < 0)
            return -1;
        return add_array(body, name, (PyArrayObject *)value, false);
    }
    bool gathered;
    PyObject *array = array_of(name, value, &gathered);
    if (!array) return -1;
    const int result = add_array(body, name, (PyArrayObject *)array, gathered);
    Py_DECREF(array);
    return result;
}

/* ---- the kinds of bodies ------------------------------------------------------------------------------- */
static int add_dict(struct sira_body *body, PyObject *dict)
{
    const Py_ssize_t size = PyDict_GET_SIZE(dict);
    Py_ssize_t at = 0;
    PyObject *name, *value; /* borrowed from the dict, owned during each turn */
    while (PyDict_Next(dict, &at, &name, &value)) {
        Py_INCREF(name);
        Py_INCREF(value);
        const int result = add_value(body, name, value);
        Py_DECREF(name);
        Py_DECREF(value);
        if (result < 0) return -1;
        if (PyDict_GET_SIZE(dict) != size) {
            PyErr_SetString(PyExc_RuntimeError, "the body changed while it was read");
            return -1;
        }
    }
    return 0;
}

/* Any other mapping. One that gives a name twice is refused, as a receiver would. */
static int add_mapping(struct sira_body *body, PyObject *mapping)
{
    PyObject *items = PyMapping_Items(mapping); /* owned: a list */
    if (!items) return -1;
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = PyList_GET_ITEM(items, i); /* borrowed */
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "body.items() does not give pairs");
            result = -1;
            break;
        }
        result = add_value(body, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
        const struct sira_body_tensor *last = result == 0 ? &body->tensors[body->tensor_count - 1] : NULL;
        for (uint32_t k = 0; last && k + 1 < body->tensor_count; k++)
            if (body->tensors[k].name.len == last->name.len
                && memcmp(body->tensors[k].name.data, last->name.data, last->name.len) == 0) {
                sira_raise("BAD_REQUEST", "%.200R is the name of two tensors", last->name_owner);
                result = -1;
                break;
            }
    }
    Py_DECREF(items);
    return result;
}

/* The whole body is text or bytes. `owner` (borrowed) keeps data alive. */
static int add_blob(struct sira_body *body, uint32_t dtype, PyObject *owner, const void *data, size_t len)
{
    struct sira_body_tensor *tensor = sira_body_add(body, 1);
    if (!tensor) return -1;
    body->dims[tensor->dim_index] = len;
    tensor->dtype = dtype;
    tensor->bytes = len;
    if (len) {
        tensor->owner = Py_NewRef(owner);
        tensor->data = data;
    }
    body->payload_bytes += len;
    return 0;
}

static int add_text(struct sira_body *body, PyObject *text)
{
    Py_ssize_t len;
    const char *data = PyUnicode_AsUTF8AndSize(text, &len);
    if (data) return add_blob(body, SIRA_DT_UTF8, text, data, (size_t)len);
    if (PyErr_ExceptionMatches(PyExc_UnicodeError)) sira_raise("BAD_REQUEST", "the body is not Unicode text");
    return -1;
}

/* bytearray or memoryview: exported for as long as the body lives, gathered when it is strided. */
static int add_buffer(struct sira_body *body, PyObject *object)
{
    PyObject *view = PyMemoryView_FromObject(object); /* owned */
    if (!view) return -1;
    int result = -1;
    const Py_buffer *buffer = PyMemoryView_GET_BUFFER(view);
    if (PyBuffer_IsContiguous(buffer, 'C')) {
        result = add_blob(body, SIRA_DT_BYTES, view, buffer->buf, (size_t)buffer->len);
    } else {
        PyObject *copy = PyBytes_FromObject(view); /* owned */
        if (copy) {
            result = add_blob(body, SIRA_DT_BYTES, copy, PyBytes_AS_STRING(copy), (size_t)PyBytes_GET_SIZE(copy));
            Py_DECREF(copy);
            if (result == 0) {
                body->tensors[0].gathered = true;
                body->gathered_count = 1;
            }
        }
    }
    Py_DECREF(view);
    return result;
}

/* What a message carries goes out again as it came in. */
static int add_message(struct sira_body *body, struct message *message)
{
    for (uint32_t i = 0; i < message->view_count; i++) {
        const struct message_view *view = &message->views[i];
        struct sira_body_tensor *tensor = sira_body_add(body, view->ndim);
        if (!tensor) return -1;
        for (uint32_t d = 0; d < view->ndim; d++)
            body->dims[tensor->dim_index + d] = message->dims[view->dim_index + d];
        tensor->dtype = view->dtype;
        tensor->bytes = view->bytes;
        tensor->data = view->data;
        tensor->name = view->name;
        if (view->name.len) tensor->name_owner = Py_NewRef((PyObject *)message);
        if (view->bytes) tensor->owner = Py_NewRef(view->owner ? view->owner : message->owner);
        body->payload_bytes += view->bytes;
    }
    return 0;
}

int sira_body_from_py(PyObject *body, struct sira_body *out)
{
    body_begin(out);
    int result;
    if (PyDict_CheckExact(body)) {
        result = add_dict(out, body);
    } else if (PyBytes_Check(body)) {
        result = add_blob(out, SIRA_DT_BYTES, body, PyBytes_AS_STRING(body), (size_t)PyBytes_GET_SIZE(body));
    } else if (PyUnicode_Check(body)) {
        result = add_text(out, body);
    } else if (body == Py_None) {
        result = 0;
    } else if (sira_message_check(body)) {
        result = add_message(out, (struct message *)body);
    } else if (PyByteArray_Check(body) || PyMemoryView_Check(body)) {
        result = add_buffer(out, body);
    } else if (!PyArray_Check(body) && PyMapping_Check(body) && PyObject_HasAttrString(body, "items")) {
        result = add_mapping(out, body);
    } else {
        sira_raise("BAD_REQUEST", "a body is a mapping of names to arrays, bytes, str, a Message or None, not %s%s",
                   Py_TYPE(body)->tp_name, PyArray_Check(body) ? ": name it, {\"x\": array}" : "");
        result = -1;
    }
    if (result < 0) sira_body_clear(out);
    return result;
}
