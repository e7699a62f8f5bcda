/* Arrays of other libraries on the CPU, taken through DLPack by hand: NumPy refuses the capsules of small floats. */
#include "body.h"

#include "dlpack.h"

static PyObject *str_dlpack, *str_device, *version_keyword; /* owned: interned names, a tuple of keywords */
static PyObject *version_asked;                                /* owned: (major, minor) */
static const char HOLDER_NAME[] = "sira.dlpack_holder";

int sira_dlpack_in_init(void)
{
    if (str_dlpack) return 0;
    str_device = PyUnicode_InternFromString("__dlpack_device__");
    version_keyword = Py_BuildValue("(s)", "max_version");
    version_asked = Py_BuildValue("(ii)", DLPACK_MAJOR, DLPACK_MINOR);
    str_dlpack = PyUnicode_InternFromString("__dlpack__");
    return str_device && version_keyword && version_asked && str_dlpack ? 0 : -1;
}

/* Attributes of the type, as for any special method. */
int sira_is_dlpack(PyObject *object)
{
    PyObject *type = (PyObject *)Py_TYPE(object);
    return PyObject_HasAttr(type, str_dlpack) && PyObject_HasAttr(type, str_device);
}

/* Memory that the CPU may read? 1, or 0 with *device_type told, or -1. */
static int on_cpu(PyObject *producer, long *device_type)
{
    PyObject *pair = PyObject_CallMethodNoArgs(producer, str_device); /* owned */
    if (!pair) return -1;
    *device_type = -1;
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) { /* the first may be an enum of the library */
        PyObject *number = PyNumber_Index(PyTuple_GET_ITEM(pair, 0)); /* owned */
        if (number) *device_type = PyLong_AsLong(number);
        Py_XDECREF(number);
    } else {
        PyErr_SetString(PyExc_TypeError, "__dlpack_device__() did not return a pair");
    }
    Py_DECREF(pair);
    if (PyErr_Occurred()) return -1;
    return *device_type == DL_CPU || *device_type == DL_CUDA_HOST || *device_type == DL_ROCM_HOST;
}

static uint32_t dtype_of_dl(struct dl_dtype dtype)
{
    if (dtype.lanes != 1) return SIRA_DT_NONE;
    switch (dtype.code) {
    case DL_INT:
        switch (dtype.bits) {
        case 4: return SIRA_DT_I4;
        case 8: return SIRA_DT_I8;
        case 16: return SIRA_DT_I16;
        case 32: return SIRA_DT_I32;
        case 64: return SIRA_DT_I64;
        default: return SIRA_DT_NONE;
        }
    case DL_UINT:
        switch (dtype.bits) {
        case 4: return SIRA_DT_U4;
        case 8: return SIRA_DT_U8;
        case 16: return SIRA_DT_U16;
        case 32: return SIRA_DT_U32;
        case 64: return SIRA_DT_U64;
        default: return SIRA_DT_NONE;
        }
    case DL_FLOAT:
        switch (dtype.bits) {
        case 16: return SIRA_DT_F16;
        case 32: return SIRA_DT_F32;
        case 64: return SIRA_DT_F64;
        default: return SIRA_DT_NONE;
        }
    case DL_COMPLEX: return dtype.bits == 64 ? SIRA_DT_C64 : dtype.bits == 128 ? SIRA_DT_C128 : SIRA_DT_NONE;
    case DL_BFLOAT: return dtype.bits == 16 ? SIRA_DT_BF16 : SIRA_DT_NONE;
    default: break;
    }
    if (dtype.bits != 8) return SIRA_DT_NONE;
    switch (dtype.code) {
    case DL_BOOL: return SIRA_DT_BOOL;
    case DL_FLOAT8_E4M3FN: return SIRA_DT_F8E4M3FN;
    case DL_FLOAT8_E4M3FNUZ: return SIRA_DT_F8E4M3FNUZ;
    case DL_FLOAT8_E5M2: return SIRA_DT_F8E5M2;
    case DL_FLOAT8_E5M2FNUZ: return SIRA_DT_F8E5M2FNUZ;
    default: return SIRA_DT_NONE;
    }
}

/* Our own capsule around what we took: calls the producer's deleter. Its context says which layout. */
static void holder_free(PyObject *holder)
{
    void *pointer = PyCapsule_GetPointer(holder, HOLDER_NAME);
    if (PyCapsule_GetContext(holder)) {
        struct dl_managed_versioned *managed = pointer;
        if (managed->deleter) managed->deleter(managed);
    } else {
        struct dl_managed *managed = pointer;
        if (managed->deleter) managed->deleter(managed);
    }
}

/* Take what the capsule holds. New reference to the holder; *tensor and *flags are inside it. */
static PyObject *take(PyObject *capsule, const struct dl_tensor **tensor, uint64_t *flags)
{
    const bool versioned = PyCapsule_IsValid(capsule, DL_NAME_VERSIONED);
    void *pointer = PyCapsule_GetPointer(capsule, versioned ? DL_NAME_VERSIONED : DL_NAME);
    if (!pointer) return NULL;
    PyObject *holder = PyCapsule_New(pointer, HOLDER_NAME, NULL);
    if (!holder) return NULL;
    if (PyCapsule_SetName(capsule, versioned ? DL_NAME_VERSIONED_USED : DL_NAME_USED) < 0
        || PyCapsule_SetContext(holder, versioned ? (void *)HOLDER_NAME : NULL) < 0
        || PyCapsule_SetDestructor(holder, holder_free) < 0) {
        Py_DECREF(holder);
        return NULL;
    }
    if (!versioned) {
        *tensor = &((struct dl_managed *)pointer)->tensor;
        *flags = 0;
        return holder;
    }
    const struct dl_managed_versioned *managed = pointer;
    if (managed->version.major != DLPACK_MAJOR) { /* nothing else in it may be read */
        PyErr_Format(PyExc_BufferError, "DLPack %u.%u is not understood", managed->version.major,
                     managed->version.minor);
        Py_DECREF(holder);
        return NULL;
    }
    *tensor = &managed->tensor;
    *flags = managed->flags;
    return holder;
}

/* Packed 4-bit elements in C order, spread to one a byte, as ml_dtypes holds them. New reference. */
static PyObject *spread(const uint8_t *from, PyArray_Descr *descr, int ndim, const npy_intp *shape, bool is_signed)
{
    Py_INCREF(descr);
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, NULL, NULL, 0, NULL);
    if (!array) return NULL;
    uint8_t *to = PyArray_DATA((PyArrayObject *)array);
    const npy_intp count = PyArray_SIZE((PyArrayObject *)array);
    for (npy_intp i = 0; i < count; i++) {
        const uint8_t nibble = i % 2 ? from[i / 2] >> 4 : from[i / 2] & 15;
        to[i] = is_signed && nibble & 8 ? nibble | 0xf0 : nibble;
    }
    return array;
}

/* An ndarray over a taken tensor. New reference; `holder` (borrowed) becomes its base. */
static PyObject *array_over(PyObject *holder, const struct dl_tensor *tensor, uint64_t flags)
{
    const uint32_t dtype = dtype_of_dl(tensor->dtype);
    PyArray_Descr *descr = sira_bound.dtypes[dtype]; /* borrowed; none is bound for SIRA_DT_NONE */
    if (!descr)
        return PyErr_Format(PyExc_BufferError, "a DLPack type of code %u, %u bits, %u lanes is not carried",
                            tensor->dtype.code, tensor->dtype.bits, tensor->dtype.lanes);
    const int ndim = tensor->ndim;
    if (ndim < 0 || ndim > SIRA_NDIM_MAX || (ndim && !tensor->shape))
        return PyErr_Format(PyExc_BufferError, "a DLPack tensor of %d dimensions", ndim);
    npy_intp shape[SIRA_NDIM_MAX], strides[SIRA_NDIM_MAX];
    npy_intp item_bytes = PyDataType_ELSIZE(descr), packed = 1;
    bool in_order = true, empty = false;
    for (int i = ndim - 1; i >= 0; i--) {
        if (tensor->shape[i] < 0) return PyErr_Format(PyExc_BufferError, "a DLPack tensor of negative size");
        shape[i] = (npy_intp)tensor->shape[i];
        const npy_intp stride = tensor->strides ? (npy_intp)tensor->strides[i] : packed;
        in_order = in_order && (shape[i] <= 1 || stride == packed);
        empty = empty || shape[i] == 0;
        strides[i] = stride * item_bytes;
        packed *= shape[i] > 1 ? shape[i] : 1;
    }
    uint8_t *data = tensor->data ? (uint8_t *)tensor->data + tensor->byte_offset : NULL;
    if (empty || !data) { /* an empty tensor may have no memory at all */
        if (!empty) return PyErr_Format(PyExc_BufferError, "a DLPack tensor without memory");
        Py_INCREF(descr);
        return PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, NULL, NULL, 0, NULL);
    }
    if (sira_dtype_is_packed(dtype) && !(flags & DL_FLAG_IS_SUBBYTE_TYPE_PADDED)) {
        if (!in_order) return PyErr_Format(PyExc_BufferError, "packed 4-bit elements that are not in C order");
        return spread(data, descr, ndim, shape, dtype == SIRA_DT_I4);
    }
    Py_INCREF(descr);
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, in_order ? NULL : strides, data,
                                           in_order ? NPY_ARRAY_C_CONTIGUOUS : 0, NULL);
    if (!array) return NULL;
    if (!in_order) PyArray_UpdateFlags((PyArrayObject *)array, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS);
    if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(holder)) < 0) Py_CLEAR(array); /* steals */
    return array;
}

PyObject *sira_array_from_dlpack(PyObject *producer, PyObject *name, bool *elsewhere)
{
    long device_type;
    const int readable = on_cpu(producer, &device_type);
    *elsewhere = readable == 0;
    if (readable < 0) return NULL;
    if (!readable)
        return sira_raise("BAD_REQUEST", "tensor %.200R lies on DLPack device type %ld: copy it to the CPU first",
                          name, device_type);
    PyObject *with_version[] = {producer, version_asked};
    PyObject *capsule = PyObject_VectorcallMethod(str_dlpack, with_version, 1, version_keyword); /* owned */
    if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) { /* a producer from before DLPack 1.0 */
        PyErr_Clear();
        capsule = PyObject_CallMethodNoArgs(producer, str_dlpack);
    }
    if (!capsule) return NULL;
    const struct dl_tensor *tensor;
    uint64_t flags;
    PyObject *holder = PyCapsule_CheckExact(capsule) ? take(capsule, &tensor, &flags) : NULL; /* owned */
    PyObject *array = NULL;
    if (holder) array = array_over(holder, tensor, flags);
    else if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "__dlpack__() did not return a capsule");
    Py_XDECREF(holder);
    Py_DECREF(capsule);
    return array;
}
