/* Arrays and memoryviews over memory that another object keeps alive. */
#include "message.h"

/* What an array without bytes points to: NumPy would allocate for NULL. */
static const uint8_t nothing[64] __attribute__((aligned(64)));

/* An array of `ndim` dimensions over `data`, read-only, or over fresh memory when data is NULL. Steals `descr`.
 * The flags for alignment are NumPy's own: it looks at the address. */
static PyObject *make_array(PyTypeObject *type, PyArray_Descr *descr, uint32_t ndim, const uint64_t *dims,
                            const uint8_t *data, PyObject *owner)
{
    npy_intp shape[SIRA_NDIM_MAX];
    for (uint32_t d = 0; d < ndim; d++) {
        if (dims[d] > NPY_MAX_INTP) {
            Py_DECREF(descr);
            return sira_raise("FRAME_CORRUPT", "a dimension of %llu elements", (unsigned long long)dims[d]);
        }
        shape[d] = (npy_intp)dims[d];
    }
    PyObject *array = PyArray_NewFromDescr(type, descr, (int)ndim, shape, NULL, (void *)data,
                                           data ? NPY_ARRAY_C_CONTIGUOUS : 0, NULL);
    if (!array) { /* more dimensions than this NumPy takes, or a size that it cannot count */
        if (PyErr_ExceptionMatches(PyExc_ValueError)) sira_raise("FRAME_CORRUPT", "NumPy cannot hold this shape");
        return NULL;
    }
    if (data && owner && PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(owner)) < 0) { /* steals */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

/* The element type bound for `dtype`, as a new reference. */
static PyArray_Descr *descr_of(uint32_t dtype)
{
    PyArray_Descr *descr = dtype < SIRA_DT_COUNT ? sira_bound.dtypes[dtype] : NULL; /* borrowed */
    if (!descr) {
        sira_raise("BAD_REQUEST", "no NumPy type is bound for %s", sira_dtype_name(dtype));
        return NULL;
    }
    Py_INCREF(descr);
    return descr;
}

/* Two elements a byte into one each, as ml_dtypes holds them: i4 sign-extended, u4 with a zero high nibble. */
static void unpack_nibbles(const uint8_t *from, uint8_t *to, size_t count, bool is_signed)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t nibble = i % 2 ? from[i / 2] >> 4 : from[i / 2] & 15;
        to[i] = is_signed && nibble & 8 ? nibble | 0xf0 : nibble;
    }
}

PyObject *sira_view_array(const struct message *message, const struct message_view *view)
{
    PyArray_Descr *descr = descr_of(view->dtype);
    if (!descr) return NULL;
    const uint64_t *dims = message->dims + view->dim_index;
    PyTypeObject *type = sira_bound.tensor_type;
    if (sira_dtype_is_packed(view->dtype)) {
        PyObject *array = make_array(type, descr, view->ndim, dims, NULL, NULL);
        if (!array) return NULL;
        PyArrayObject *unpacked = (PyArrayObject *)array;
        unpack_nibbles(view->data, PyArray_DATA(unpacked), (size_t)PyArray_SIZE(unpacked),
                       view->dtype == SIRA_DT_I4);
        PyArray_CLEARFLAGS(unpacked, NPY_ARRAY_WRITEABLE);
        return array;
    }
    if (!view->data) return make_array(type, descr, view->ndim, dims, nothing, NULL);
    return make_array(type, descr, view->ndim, dims, view->data, view->owner ? view->owner : message->owner);
}

PyObject *sira_view_packed(const struct message *message, const struct message_view *view)
{
    const uint64_t bytes = view->bytes;
    PyArray_Descr *descr = descr_of(SIRA_DT_U8);
    if (!descr) return NULL;
    return make_array(sira_bound.tensor_type, descr, 1, &bytes, view->data ? view->data : nothing,
                      view->data ? (view->owner ? view->owner : message->owner) : NULL);
}

PyObject *sira_memoryview(PyObject *owner, const uint8_t *data, size_t len)
{
    PyArray_Descr *descr = PyArray_DescrFromType(NPY_UINT8);
    if (!descr) return NULL;
    const uint64_t bytes = len;
    PyObject *array = make_array(&PyArray_Type, descr, 1, &bytes, len ? data : nothing, owner); /* owned */
    PyObject *view = array ? PyMemoryView_FromObject(array) : NULL;
    Py_XDECREF(array);
    return view;
}
