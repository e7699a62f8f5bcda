/* sira._native: module init, the error factory, the bound element types, ids and clocks. */
#define SIRA_NUMPY_IMPORT
#include "ndarray.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

struct sira_bound sira_bound;

/* ---- errors ------------------------------------------------------------------------------------------ */
/* Steals `message` and `details` (either NULL: an exception is set by whoever failed to make it). */
static PyObject *raise_with(const char *code, PyObject *message, PyObject *details, PyObject *cause)
{
    PyObject *raised = NULL; /* owned */
    if (message && details) {
        if (sira_bound.error)
            raised = PyObject_CallFunction(sira_bound.error, "sOO", code, message, details);
        else
            raised = PyObject_CallFunction(PyExc_ValueError, "N", PyUnicode_FromFormat("%s: %U", code, message));
    }
    Py_XDECREF(message);
    Py_XDECREF(details);
    if (!raised) {
        Py_XDECREF(cause);
        return NULL;
    }
    if (!PyExceptionInstance_Check(raised)) {
        PyErr_Format(PyExc_TypeError, "the bound error factory returned %s, not an exception",
                     Py_TYPE(raised)->tp_name);
        Py_XDECREF(cause);
    } else {
        if (cause) PyException_SetCause(raised, cause); /* steals cause */
        PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
    }
    Py_DECREF(raised);
    return NULL;
}

/* The exception set now, normalised, and cleared. New reference or NULL. */
static PyObject *take_exception(void)
{
    if (!PyErr_Occurred()) return NULL;
    PyObject *type, *value, *traceback; /* owned */
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value && traceback) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

PyObject *sira_raise(const char *code, const char *fmt, ...)
{
    PyObject *cause = take_exception();
    va_list args;
    va_start(args, fmt);
    PyObject *message = PyUnicode_FromFormatV(fmt, args);
    va_end(args);
    return raise_with(code, message, message ? PyDict_New() : NULL, cause);
}

PyObject *sira_raise_status(enum sira_status status, size_t at)
{
    PyObject *cause = take_exception();
    PyObject *message = PyUnicode_FromFormat("%s (at byte %zu)", sira_status_text(status), at);
    PyObject *details = message ? PyDict_New() : NULL;
    PyObject *offset = details ? PyUnicode_FromFormat("%zu", at) : NULL;
    if (!offset || PyDict_SetItemString(details, "offset", offset) < 0) Py_CLEAR(details);
    Py_XDECREF(offset);
    return raise_with(sira_status_code(status), message, details, cause);
}

/* ---- element types ----------------------------------------------------------------------------------- */
static uint32_t int_code(size_t bytes, bool is_signed)
{
    switch (bytes) {
    case 1: return is_signed ? SIRA_DT_I8 : SIRA_DT_U8;
    case 2: return is_signed ? SIRA_DT_I16 : SIRA_DT_U16;
    case 4: return is_signed ? SIRA_DT_I32 : SIRA_DT_U32;
    case 8: return is_signed ? SIRA_DT_I64 : SIRA_DT_U64;
    default: return SIRA_DT_NONE;
    }
}

uint32_t sira_dtype_of_descr(const PyArray_Descr *descr)
{
    switch (descr->type_num) {
    case NPY_FLOAT: return SIRA_DT_F32;
    case NPY_DOUBLE: return SIRA_DT_F64;
    case NPY_HALF: return SIRA_DT_F16;
    case NPY_BOOL: return SIRA_DT_BOOL;
    case NPY_UBYTE: return SIRA_DT_U8;
    case NPY_BYTE: return SIRA_DT_I8;
    case NPY_USHORT: return int_code(sizeof(npy_ushort), false);
    case NPY_SHORT: return int_code(sizeof(npy_short), true);
    case NPY_UINT: return int_code(sizeof(npy_uint), false);
    case NPY_INT: return int_code(sizeof(npy_int), true);
    case NPY_ULONG: return int_code(sizeof(npy_ulong), false);
    case NPY_LONG: return int_code(sizeof(npy_long), true);
    case NPY_ULONGLONG: return int_code(sizeof(npy_ulonglong), false);
    case NPY_LONGLONG: return int_code(sizeof(npy_longlong), true);
    case NPY_CFLOAT: return SIRA_DT_C64;
    case NPY_CDOUBLE: return SIRA_DT_C128;
    default: break;
    }
    if (descr->type_num >= NPY_USERDEF)
        for (uint32_t code = SIRA_DT_BF16; code <= SIRA_DT_U4; code++)
            if (sira_bound.dtypes[code] && sira_bound.dtypes[code]->type_num == descr->type_num) return code;
    return SIRA_DT_NONE;
}

/* NumPy's own types need no binding. */
static int bind_builtin(void)
{
    static const struct { uint8_t code; int type_num; } builtin[] = {
        {SIRA_DT_BOOL, NPY_BOOL}, {SIRA_DT_U8, NPY_UINT8}, {SIRA_DT_U16, NPY_UINT16}, {SIRA_DT_U32, NPY_UINT32},
        {SIRA_DT_U64, NPY_UINT64}, {SIRA_DT_I8, NPY_INT8}, {SIRA_DT_I16, NPY_INT16}, {SIRA_DT_I32, NPY_INT32},
        {SIRA_DT_I64, NPY_INT64}, {SIRA_DT_F16, NPY_HALF}, {SIRA_DT_F32, NPY_FLOAT}, {SIRA_DT_F64, NPY_DOUBLE},
        {SIRA_DT_C64, NPY_CFLOAT}, {SIRA_DT_C128, NPY_CDOUBLE}, {SIRA_DT_BYTES, NPY_UINT8},
        {SIRA_DT_UTF8, NPY_UINT8},
    };
    for (size_t i = 0; i < sizeof builtin / sizeof builtin[0]; i++)
        if (!sira_bound.dtypes[builtin[i].code]) {
            PyArray_Descr *descr = PyArray_DescrFromType(builtin[i].type_num); /* owned by the table */
            if (!descr) return -1;
            sira_bound.dtypes[builtin[i].code] = descr;
        }
    if (!sira_bound.tensor_type) sira_bound.tensor_type = (PyTypeObject *)Py_NewRef((PyObject *)&PyArray_Type);
    return 0;
}

/* One entry of bind(dtypes=...): checked, then kept. */
static int bind_dtype(PyObject *key, PyObject *value)
{
    const long code = PyLong_AsLong(key);
    if (code == -1 && PyErr_Occurred()) return -1;
    if (code <= SIRA_DT_NONE || code >= SIRA_DT_COUNT || !PyArray_DescrCheck(value)) {
        PyErr_Format(PyExc_TypeError, "dtypes: %R -> %R is not a wire code and a NumPy dtype", key, value);
        return -1;
    }
    PyArray_Descr *descr = (PyArray_Descr *)value; /* borrowed */
    const uint32_t bits = sira_dtype_bits((uint32_t)code);
    const npy_intp bytes = PyDataType_ELSIZE(descr);
    const npy_intp wanted = sira_dtype_is_packed((uint32_t)code) ? 1 : (npy_intp)(bits / 8);
    if (bytes != wanted || descr->byteorder == '>') {
        PyErr_Format(PyExc_TypeError, "dtypes: %R has %zd bytes an element, code %ld wants %zd, native order", value,
                     (Py_ssize_t)bytes, code, (Py_ssize_t)wanted);
        return -1;
    }
    Py_INCREF(descr);
    Py_XSETREF(sira_bound.dtypes[code], descr);
    return 0;
}

static PyObject *native_bind(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"error", "dtypes", "tensor_type", NULL};
    PyObject *error, *dtypes, *tensor_type; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOO:bind", names, &error, &dtypes, &tensor_type)) return NULL;
    if (!PyCallable_Check(error)) return PyErr_Format(PyExc_TypeError, "error is not callable");
    if (!PyType_Check(tensor_type) || !PyType_IsSubtype((PyTypeObject *)tensor_type, &PyArray_Type))
        return PyErr_Format(PyExc_TypeError, "tensor_type %R is not a subclass of numpy.ndarray", tensor_type);
    PyObject *items = PyMapping_Items(dtypes); /* owned: a list of pairs */
    if (!items) return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = PyList_GET_ITEM(items, i); /* borrowed */
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2
            || bind_dtype(PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)) < 0) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "dtypes.items() does not give pairs");
            Py_DECREF(items);
            return NULL;
        }
    }
    Py_DECREF(items);
    Py_XSETREF(sira_bound.error, Py_NewRef(error));
    PyTypeObject *type = (PyTypeObject *)Py_NewRef(tensor_type);
    Py_XSETREF(sira_bound.tensor_type, type);
    Py_RETURN_NONE;
}

/* ---- small functions --------------------------------------------------------------------------------- */
/* The version the extension was built for; the package compares it with its own. */
static PyObject *native_version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyUnicode_FromString(SIRA_VERSION); /* owned by the caller */
}

static PyObject *native_new_id(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    uint8_t id[SIRA_ID_BYTES];
    sira_id_new(id);
    return PyBytes_FromStringAndSize((const char *)id, sizeof id);
}

static PyObject *native_now_ns(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyLong_FromUnsignedLongLong(sira_now_mono_ns());
}

/* Buffers up to 1 GiB come from the heap, and up to 1 GiB of freed heap is kept: fresh pages cost more than the
 * copy into them. An older glibc takes at most 32 MiB as the first limit. */
static PyObject *native_keep_memory_warm(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
#if defined(__GLIBC__)
    enum { WARM_BYTES_MAX = 1 << 30, WARM_BYTES_MAX_OLD = 32 << 20 };
    const bool trim = mallopt(M_TRIM_THRESHOLD, WARM_BYTES_MAX);
    const bool heap = mallopt(M_MMAP_THRESHOLD, WARM_BYTES_MAX) || mallopt(M_MMAP_THRESHOLD, WARM_BYTES_MAX_OLD);
    return PyBool_FromLong(trim && heap);
#else
    Py_RETURN_FALSE;
#endif
}

static PyMethodDef native_functions[] = {
    {"version", native_version, METH_NOARGS, "version() -> str: what this extension was built for."},
    {"bind", (PyCFunction)(void (*)(void))native_bind, METH_VARARGS | METH_KEYWORDS,
     "bind(*, error, dtypes, tensor_type): the error factory, the dtypes by wire code, the type of decoded arrays."},
    {"new_id", native_new_id, METH_NOARGS, "new_id() -> bytes: 16 bytes of UUIDv7, in order within the process."},
    {"now_ns", native_now_ns, METH_NOARGS, "now_ns() -> int: CLOCK_MONOTONIC."},
    {"keep_memory_warm", native_keep_memory_warm, METH_NOARGS,
     "keep_memory_warm() -> bool: keep freed buffers up to 1 GiB on the heap. False: not glibc."},
    {NULL, NULL, 0, NULL},
};

/* ---- init -------------------------------------------------------------------------------------------- */
int sira_add_type(PyObject *module, PyTypeObject *type)
{
    if (PyType_Ready(type) < 0) return -1;
    const char *dot = strrchr(type->tp_name, '.');
    return PyModule_AddObjectRef(module, dot ? dot + 1 : type->tp_name, (PyObject *)type);
}

int sira_add_functions(PyObject *module, PyMethodDef *methods)
{
    return PyModule_AddFunctions(module, methods);
}

static int native_exec(PyObject *module)
{
    if (PyArray_API == NULL && _import_array() < 0) return -1;
    if (bind_builtin() < 0) return -1;
    if (sira_add_functions(module, native_functions) < 0) return -1;
    if (sira_add_message(module) < 0 || sira_add_topic(module) < 0) return -1;
    if (sira_add_client(module) < 0 || sira_add_hub(module) < 0) return -1;
    if (sira_add_stepper(module) < 0) return -1;
    if (sira_add_record(module) < 0) return -1;
    if (sira_add_shm(module) < 0) return -1;
    if (sira_add_search(module) < 0) return -1;
    if (sira_add_sparse(module) < 0 || sira_add_index(module) < 0) return -1;
    if (sira_add_files(module) < 0) return -1;
#if defined(SIRA_FAULTS)
    if (sira_add_faults(module) < 0) return -1;
#endif
    return 0;
}

/* Types are static and the bound things global: one interpreter only. */
static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, (void *)native_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sira._native",
    .m_doc = "The C core: no policy, no sockets.",
    .m_size = 0,
    .m_slots = native_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
