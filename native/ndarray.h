/* NumPy's C API for the files that need it, and the element types bound by Python. Include after pyutil.h.
 * module.c defines SIRA_NUMPY_IMPORT first, since one file must own the API table. */
#ifndef SIRA_NDARRAY_H
#define SIRA_NDARRAY_H

#include "pyutil.h"

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL sira_numpy_api
#ifndef SIRA_NUMPY_IMPORT
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

/* Set by bind(); before that the native types of NumPy itself and plain ndarray (module.c). */
struct sira_bound {
    PyObject *error;                        /* owned; NULL: none */
    PyTypeObject *tensor_type;              /* owned */
    PyArray_Descr *dtypes[SIRA_DT_COUNT];   /* owned; NULL: not bound */
};
extern struct sira_bound sira_bound;

/* Wire code of a native or bound dtype, byte order ignored; SIRA_DT_NONE: not carried (object, datetime, ...). */
uint32_t sira_dtype_of_descr(const PyArray_Descr *descr);

/* Is it a contiguous, aligned array of that type and so many dimensions? False with an exception: it is not. */
static inline bool sira_check_array(PyObject *array, int type, int dims, bool writeable)
{
    PyArrayObject *of = (PyArrayObject *)array;
    if (PyArray_Check(array) && PyArray_NDIM(of) == dims && PyArray_TYPE(of) == type && PyArray_ISCARRAY_RO(of)
        && (!writeable || PyArray_ISWRITEABLE(of)))
        return true;
    PyErr_SetString(PyExc_TypeError, "want contiguous arrays of the types and dimensions that are said");
    return false;
}

/* The data of such an array of one dimension; NULL with an exception. */
static inline void *sira_array_data(PyObject *array, int type, bool writeable, npy_intp *count)
{
    if (!sira_check_array(array, type, 1, writeable)) return NULL;
    *count = PyArray_DIM((PyArrayObject *)array, 0);
    return PyArray_DATA((PyArrayObject *)array);
}

static inline bool sira_dtype_is_packed(uint32_t dtype)
{
    return dtype == SIRA_DT_I4 || dtype == SIRA_DT_U4;
}

static inline bool sira_dtype_is_body(uint32_t dtype)
{
    return dtype == SIRA_DT_BYTES || dtype == SIRA_DT_UTF8;
}

#endif
