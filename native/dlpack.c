/* dlpack(): arrays out to torch, JAX, CuPy and NumPy. Ours, because NumPy's producer refuses read-only memory to
 * consumers that do not know the flag, and every small float to everybody. */
#include "message.h"

#include "dlpack.h"

/* What a capsule points to, in one block of malloc: it must be freed without the interpreter, too. */
struct export {
    union {
        struct dl_managed plain;
        struct dl_managed_versioned versioned;
    } managed;
    PyObject *array;       /* owned: keeps the memory alive */
    int64_t sizes[];       /* shape, then strides */
};

static struct dl_dtype dl_dtype_of(uint32_t dtype)
{
    uint8_t code;
    switch (dtype) {
    case SIRA_DT_BOOL: code = DL_BOOL; break;
    case SIRA_DT_U8: case SIRA_DT_U16: case SIRA_DT_U32: case SIRA_DT_U64: case SIRA_DT_U4: code = DL_UINT; break;
    case SIRA_DT_F16: case SIRA_DT_F32: case SIRA_DT_F64: code = DL_FLOAT; break;
    case SIRA_DT_BF16: code = DL_BFLOAT; break;
    case SIRA_DT_F8E4M3FN: code = DL_FLOAT8_E4M3FN; break;
    case SIRA_DT_F8E4M3FNUZ: code = DL_FLOAT8_E4M3FNUZ; break;
    case SIRA_DT_F8E5M2: code = DL_FLOAT8_E5M2; break;
    case SIRA_DT_F8E5M2FNUZ: code = DL_FLOAT8_E5M2FNUZ; break;
    case SIRA_DT_C64: case SIRA_DT_C128: code = DL_COMPLEX; break;
    default: code = DL_INT; break;
    }
    return (struct dl_dtype){code, (uint8_t)sira_dtype_bits(dtype), 1};
}

/* Give up the array from whatever thread the consumer runs on. Once the interpreter is going or gone, a thread
 * without the GIL must not ask for it: the reference is then left to the end of the process. */
static void export_free(struct export *export)
{
#if PY_VERSION_HEX >= 0x030d0000
    const bool finalizing = Py_IsFinalizing();
#else
    const bool finalizing = _Py_IsFinalizing();
#endif
    if (Py_IsInitialized() && (!finalizing || PyGILState_Check())) {
        const PyGILState_STATE state = PyGILState_Ensure();
        PyObject *type, *value, *traceback; /* owned: an exception may be under way in this thread */
        PyErr_Fetch(&type, &value, &traceback);
        Py_DECREF(export->array);
        PyErr_Restore(type, value, traceback);
        PyGILState_Release(state);
    }
    free(export);
}

static void plain_deleter(struct dl_managed *managed)
{
    export_free(managed->manager);
}

static void versioned_deleter(struct dl_managed_versioned *managed)
{
    export_free(managed->manager);
}

/* A capsule that nobody took. */
static void capsule_free(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, DL_NAME))
        export_free(((struct dl_managed *)PyCapsule_GetPointer(capsule, DL_NAME))->manager);
    else if (PyCapsule_IsValid(capsule, DL_NAME_VERSIONED))
        export_free(((struct dl_managed_versioned *)PyCapsule_GetPointer(capsule, DL_NAME_VERSIONED))->manager);
}

/* Strides in whole elements? DLPack has no others. */
static bool strides_fit(PyArrayObject *array)
{
    for (int i = 0; i < PyArray_NDIM(array); i++)
        if (PyArray_DIM(array, i) > 1 && PyArray_STRIDE(array, i) % PyArray_ITEMSIZE(array)) return false;
    return true;
}

/* Steals `array`. */
static PyObject *export_array(PyArrayObject *array, uint32_t dtype, bool versioned, bool copied)
{
    const int ndim = PyArray_NDIM(array);
    struct export *export = malloc(sizeof *export + 2 * (size_t)ndim * sizeof(int64_t));
    if (!export) {
        Py_DECREF(array);
        return PyErr_NoMemory();
    }
    int64_t *shape = export->sizes, *strides = export->sizes + ndim;
    int64_t packed_stride = 1; /* what NumPy says of dimensions of size 0 or 1 means nothing to a consumer */
    for (int i = ndim - 1; i >= 0; i--) {
        shape[i] = PyArray_DIM(array, i);
        strides[i] = shape[i] > 1 ? PyArray_STRIDE(array, i) / PyArray_ITEMSIZE(array) : packed_stride;
        packed_stride *= shape[i] > 1 ? shape[i] : 1;
    }
    export->array = (PyObject *)array;
    const struct dl_tensor tensor = {
        .data = PyArray_DATA(array),
        .device = {DL_CPU, 0},
        .ndim = ndim,
        .dtype = dl_dtype_of(dtype),
        .shape = ndim ? shape : NULL,
        .strides = ndim ? strides : NULL,
    };
    PyObject *capsule;
    if (versioned) {
        struct dl_managed_versioned *managed = &export->managed.versioned;
        managed->version.major = DLPACK_MAJOR;
        managed->version.minor = DLPACK_MINOR;
        managed->manager = export;
        managed->deleter = versioned_deleter;
        managed->flags = (PyArray_ISWRITEABLE(array) ? 0 : DL_FLAG_READ_ONLY) | (copied ? DL_FLAG_IS_COPIED : 0)
                         | (sira_dtype_is_packed(dtype) ? DL_FLAG_IS_SUBBYTE_TYPE_PADDED : 0);
        managed->tensor = tensor;
        capsule = PyCapsule_New(managed, DL_NAME_VERSIONED, capsule_free);
    } else {
        struct dl_managed *managed = &export->managed.plain;
        managed->tensor = tensor;
        managed->manager = export;
        managed->deleter = plain_deleter;
        capsule = PyCapsule_New(managed, DL_NAME, capsule_free);
    }
    if (!capsule) export_free(export);
    return capsule;
}

/* (int, int) -> two longs; None -> given false. */
static int pair_of(PyObject *pair, const char *what, bool *given, long *first, long *second)
{
    *given = pair != Py_None;
    if (!*given) return 0;
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
        PyErr_Format(PyExc_TypeError, "%s: want a pair of ints or None", what);
        return -1;
    }
    *first = PyLong_AsLong(PyTuple_GET_ITEM(pair, 0));
    if (*first == -1 && PyErr_Occurred()) return -1;
    *second = PyLong_AsLong(PyTuple_GET_ITEM(pair, 1));
    return *second == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Errors are those of the array API: BufferError when it cannot be exported as asked. */
static PyObject *native_dlpack(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"array", "stream", "max_version", "dl_device", "copy", NULL};
    PyObject *object, *stream = Py_None, *max_version = Py_None, *device = Py_None, *copy = Py_None; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$OOOO:dlpack", names, &PyArray_Type, &object, &stream,
                                     &max_version, &device, &copy))
        return NULL;
    bool has_version, has_device;
    long major = 0, minor = 0, device_type = 0, device_id = 0;
    if (pair_of(max_version, "max_version", &has_version, &major, &minor) < 0) return NULL;
    if (pair_of(device, "dl_device", &has_device, &device_type, &device_id) < 0) return NULL;
    if (stream != Py_None) return PyErr_Format(PyExc_BufferError, "stream must be None: the memory is the CPU's");
    if (has_device && (device_type != DL_CPU || device_id != 0))
        return PyErr_Format(PyExc_BufferError, "dl_device (%ld, %ld): only the CPU (1, 0)", device_type, device_id);
    const bool must_copy = copy == Py_True, never_copy = copy == Py_False;
    if (!must_copy && !never_copy && copy != Py_None)
        return PyErr_Format(PyExc_TypeError, "copy: want True, False or None");

    PyArrayObject *array = (PyArrayObject *)object; /* borrowed */
    const bool versioned = has_version && major >= 1;
    const uint32_t dtype = sira_dtype_of_descr(PyArray_DESCR(array));
    if (dtype == SIRA_DT_NONE)
        return PyErr_Format(PyExc_BufferError, "DLPack has no type for %S", PyArray_DESCR(array));
    if (sira_dtype_is_packed(dtype) && !versioned)
        return PyErr_Format(PyExc_BufferError, "%s needs a consumer of DLPack 1.x (elements padded to a byte)",
                            sira_dtype_name(dtype));
    const bool fits = strides_fit(array) && !PyArray_ISBYTESWAPPED(array);
    if (!fits && never_copy)
        return PyErr_Format(PyExc_BufferError, "byte order or strides need a copy, and copy=False");
    if (fits && !must_copy)
        return export_array((PyArrayObject *)Py_NewRef(object), dtype, versioned, false);
    PyArray_Descr *native = PyArray_DescrNewByteorder(PyArray_DESCR(array), NPY_NATIVE);
    if (!native) return NULL;
    PyObject *copied = PyArray_FromArray(array, native, NPY_ARRAY_CARRAY | NPY_ARRAY_ENSURECOPY);
    return copied ? export_array((PyArrayObject *)copied, dtype, versioned, true) : NULL;
}

PyMethodDef sira_dlpack_functions[] = {
    {"dlpack", (PyCFunction)(void (*)(void))native_dlpack, METH_VARARGS | METH_KEYWORDS,
     "dlpack(array, *, stream=None, max_version=None, dl_device=None, copy=None) -> capsule, read-only arrays too."},
    {NULL, NULL, 0, NULL},
};
