/* The scan of a block of vectors, for Python: by bits first, then the likely ones exactly. Thin over codes.c. */
#include "ndarray.h"

#include <math.h>

#include "codes.h"

/* The dims of a finite vector; 0 with an exception. */
static size_t dims_of(PyObject *vector)
{
    if (!sira_check_array(vector, NPY_FLOAT32, 1, false)) return 0;
    const npy_intp dims = PyArray_DIM((PyArrayObject *)vector, 0);
    const float *values = PyArray_DATA((PyArrayObject *)vector);
    if (dims < 1 || dims > SIRA_CODES_DIMS_MAX) {
        PyErr_Format(PyExc_ValueError, "a vector of 1 to %d dims", SIRA_CODES_DIMS_MAX);
        return 0;
    }
    for (npy_intp i = 0; i < dims; i++)
        if (!isfinite(values[i])) {
            PyErr_SetString(PyExc_ValueError, "a vector is finite");
            return 0;
        }
    return (size_t)dims;
}

static PyObject *code_words(PyObject *Py_UNUSED(module), PyObject *number)
{
    const long dims = PyLong_AsLong(number);
    if (dims == -1 && PyErr_Occurred()) return NULL;
    if (dims < 1 || dims > SIRA_CODES_DIMS_MAX)
        return PyErr_Format(PyExc_ValueError, "a vector of 1 to %d dims", SIRA_CODES_DIMS_MAX);
    return PyLong_FromSize_t(sira_codes_words((size_t)dims));
}

static PyObject *code_vector(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *vector, *code; /* borrowed */
    if (!PyArg_ParseTuple(args, "OO:code_vector", &vector, &code)) return NULL;
    const size_t dims = dims_of(vector);
    if (!dims || !sira_check_array(code, NPY_UINT64, 1, true)) return NULL;
    if ((size_t)PyArray_DIM((PyArrayObject *)code, 0) != sira_codes_words(dims))
        return PyErr_Format(PyExc_ValueError, "a code has the words that code_words says");
    float *room = PyMem_Malloc(sira_codes_room(dims) * sizeof *room);
    if (!room) return PyErr_NoMemory();
    sira_codes_of(PyArray_DATA((PyArrayObject *)vector), dims, room, PyArray_DATA((PyArrayObject *)code));
    PyMem_Free(room);
    Py_RETURN_NONE;
}

/* ---- scanning ---------------------------------------------------------------------------------------------------- */
struct block {
    PyObject *vectors, *codes; /* borrowed: lists of f32[n, dims] and u64[n, words] */
    size_t rows, rows_a_part, dims, words;
};

static PyArrayObject *part_of(PyObject *list, size_t part)
{
    return (PyArrayObject *)PyList_GET_ITEM(list, (Py_ssize_t)part);
}

static size_t rows_in(const struct block *block, size_t part)
{
    const size_t before = part * block->rows_a_part, left = block->rows - before;
    return left < block->rows_a_part ? left : block->rows_a_part;
}

static int check_block(const struct block *block)
{
    const size_t parts = (size_t)PyList_GET_SIZE(block->codes);
    if (!block->rows || !block->rows_a_part || (size_t)PyList_GET_SIZE(block->vectors) != parts
        || (block->rows - 1) / block->rows_a_part + 1 != parts) {
        PyErr_SetString(PyExc_ValueError, "as many parts as the rows take, of vectors and of codes");
        return -1;
    }
    for (size_t part = 0; part < parts; part++) {
        PyArrayObject *vectors = part_of(block->vectors, part), *codes = part_of(block->codes, part);
        if (!sira_check_array((PyObject *)vectors, NPY_FLOAT32, 2, false)
            || !sira_check_array((PyObject *)codes, NPY_UINT64, 2, false))
            return -1;
        const npy_intp rows = (npy_intp)rows_in(block, part);
        if (PyArray_DIM(vectors, 0) < rows || PyArray_DIM(codes, 0) < rows
            || (size_t)PyArray_DIM(vectors, 1) != block->dims || (size_t)PyArray_DIM(codes, 1) != block->words) {
            PyErr_SetString(PyExc_ValueError, "a part has all its rows, of the dims and words of the request");
            return -1;
        }
    }
    return 0;
}

/* Write how far each row is, and count how many are at each distance. */
static void measure(const struct block *block, const uint64_t *planes, uint16_t *distances, uint32_t *counts)
{
    for (size_t part = 0; part < (size_t)PyList_GET_SIZE(block->codes); part++) {
        const size_t rows = rows_in(block, part);
        uint16_t *of_part = distances + part * block->rows_a_part;
        sira_codes_distances(PyArray_DATA(part_of(block->codes, part)), rows, block->words, planes, of_part);
        for (size_t i = 0; i < rows; i++) counts[of_part[i]]++;
    }
}

static const float *row_of(const struct block *block, int64_t row)
{
    PyArrayObject *part = part_of(block->vectors, (size_t)row / block->rows_a_part);
    return (const float *)PyArray_DATA(part) + (size_t)row % block->rows_a_part * block->dims;
}

/* Write the product of each of `count` rows with the request. */
static void multiply(const struct block *block, const float *query, const int64_t *rows, size_t count, float *products)
{
    enum { FLOATS_A_LINE = 16 };
    for (size_t i = 0; i < count; i++) {
        if (i + 1 < count) { /* it is far away: fetched while this one is worked out */
            const float *next = row_of(block, rows[i + 1]);
            for (size_t at = 0; at < block->dims; at += FLOATS_A_LINE) __builtin_prefetch(next + at);
        }
        products[i] = sira_product(row_of(block, rows[i]), query, block->dims);
    }
}

/* The rows that are no farther than the `likely`-th, ascending, and their products: (i64[n], f32[n]). */
static PyObject *chosen(const struct block *block, const float *query, const uint16_t *distances,
                        const uint32_t *counts, size_t likely)
{
    size_t count = 0, farthest = 0;
    for (;; farthest++) {
        count += counts[farthest];
        if (count >= likely || count == block->rows) break;
    }
    npy_intp shape = (npy_intp)count;
    PyObject *rows = PyArray_SimpleNew(1, &shape, NPY_INT64);                     /* owned */
    PyObject *products = rows ? PyArray_SimpleNew(1, &shape, NPY_FLOAT32) : NULL; /* owned */
    PyObject *made = NULL;                                                        /* owned */
    if (products) {
        int64_t *out = PyArray_DATA((PyArrayObject *)rows);
        for (size_t row = 0, at = 0; at < count; row++)
            if (distances[row] <= farthest) out[at++] = (int64_t)row;
        multiply(block, query, out, count, PyArray_DATA((PyArrayObject *)products));
        made = PyTuple_Pack(2, rows, products);
    }
    Py_XDECREF(rows);
    Py_XDECREF(products);
    return made;
}

static PyObject *likely_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct block block = {0};
    PyObject *query; /* borrowed */
    Py_ssize_t rows, rows_a_part, likely;
    if (!PyArg_ParseTuple(args, "O!O!nnOn:likely_rows", &PyList_Type, &block.vectors, &PyList_Type, &block.codes,
                          &rows, &rows_a_part, &query, &likely))
        return NULL;
    if (rows < 1 || rows_a_part < 1 || likely < 1)
        return PyErr_Format(PyExc_ValueError, "rows, of a part too, and how many are likely are 1 and more");
    block.dims = dims_of(query);
    if (!block.dims) return NULL;
    block.words = sira_codes_words(block.dims);
    block.rows = (size_t)rows;
    block.rows_a_part = (size_t)rows_a_part;
    if (check_block(&block) < 0) return NULL;
    const float *values = PyArray_DATA((PyArrayObject *)query);
    const size_t farthest = ((1 << SIRA_CODE_PLANES) - 1) * 64 * block.words;
    float *room = PyMem_Malloc(sira_codes_room(block.dims) * sizeof *room);
    uint64_t *planes = PyMem_Malloc(SIRA_CODE_PLANES * block.words * sizeof *planes);
    uint32_t *counts = PyMem_Calloc(farthest + 1, sizeof *counts);
    uint16_t *distances = PyMem_Malloc(block.rows * sizeof *distances);
    PyObject *made = NULL; /* owned */
    if (room && planes && counts && distances) {
        sira_codes_planes(values, block.dims, room, planes);
        measure(&block, planes, distances, counts);
        made = chosen(&block, values, distances, counts, (size_t)likely);
    } else {
        PyErr_NoMemory();
    }
    PyMem_Free(room);
    PyMem_Free(planes);
    PyMem_Free(counts);
    PyMem_Free(distances);
    return made;
}

static PyMethodDef index_functions[] = {
    {"code_words", code_words, METH_O, "code_words(dims) -> words of 64 bits in a vector's code."},
    {"code_vector", code_vector, METH_VARARGS, "code_vector(vector, code): write the code of a vector."},
    {"likely_rows", likely_rows, METH_VARARGS,
     "likely_rows([vectors, ...], [codes, ...], rows, rows_a_part, query, likely) -> (i64[n], f32[n]): rows and products."},
    {NULL, NULL, 0, NULL},
};

int sira_add_index(PyObject *module)
{
    return sira_add_functions(module, index_functions);
}
