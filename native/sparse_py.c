/* Features of texts as they are compared, for Python: packed, each text's in one piece of memory, and their cosines.
 *
 * What a comparison costs is waiting for memory: some 200 texts of many thousands, each somewhere else. So a feature
 * takes four bytes, a text lies in one piece, and the next ones are fetched while one is worked out. */
#include "ndarray.h"

#include <math.h>

#include "words.h"

enum {
    PLACE_BITS = 18,
    COUNT_MAX = (1 << (32 - PLACE_BITS)) - 1, /* of one feature in a text; more count as so many */
};
_Static_assert(SIRA_PLACES == 1 << PLACE_BITS, "a place and a count fit into 32 bits");

static float value_of[COUNT_MAX + 1]; /* 1 + ln(count) */

/* ---- Features: rows that do not change --------------------------------------------------------------------------- */
struct features {
    PyObject_VAR_HEAD
    uint32_t rows;
    uint32_t data[]; /* where each row ends, then all features: place and count, by place within a row */
};

static PyTypeObject features_type;

static const uint32_t *features_of(const struct features *of)
{
    return of->data + of->rows;
}

static uint32_t begin_of(const struct features *of, uint32_t row)
{
    return row ? of->data[row - 1] : 0;
}

/* Places and counts of one row, borrowed from its tuple; -1 with an exception. */
static int row_of(PyObject *row, const int32_t **places, const int32_t **counts, npy_intp *count)
{
    PyObject *places_array, *counts_array; /* borrowed */
    npy_intp counts_count;
    if (!PyTuple_Check(row)) {
        PyErr_SetString(PyExc_TypeError, "a row is (places, counts)");
        return -1;
    }
    if (!PyArg_ParseTuple(row, "OO", &places_array, &counts_array)) return -1;
    *places = sira_array_data(places_array, NPY_INT32, false, count);
    *counts = *places ? sira_array_data(counts_array, NPY_INT32, false, &counts_count) : NULL;
    if (!*counts) return -1;
    if (*count != counts_count) {
        PyErr_SetString(PyExc_ValueError, "as many counts as places");
        return -1;
    }
    for (npy_intp i = 0; i < *count; i++)
        if ((uint32_t)(*places)[i] >= SIRA_PLACES || (*counts)[i] < 1) {
            PyErr_SetString(PyExc_ValueError, "a place that is none, or a count");
            return -1;
        }
    return 0;
}

static PyObject *features_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rows", NULL};
    PyObject *list; /* borrowed */
    const int32_t *places, *counts;
    npy_intp count;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Features", names, &PyList_Type, &list)) return NULL;
    const size_t rows = (size_t)PyList_GET_SIZE(list);
    size_t total = 0;
    for (size_t row = 0; row < rows; row++) {
        if (row_of(PyList_GET_ITEM(list, (Py_ssize_t)row), &places, &counts, &count) < 0) return NULL;
        total += (size_t)count;
    }
    if (rows + total > INT32_MAX) return PyErr_Format(PyExc_ValueError, "too many features");
    struct features *made = (struct features *)type->tp_alloc(type, (Py_ssize_t)(rows + total)); /* owned */
    if (!made) return NULL;
    made->rows = (uint32_t)rows;
    uint32_t *out = made->data + rows, at = 0;
    for (size_t row = 0; row < rows; row++) {
        if (row_of(PyList_GET_ITEM(list, (Py_ssize_t)row), &places, &counts, &count) < 0) {
            Py_DECREF(made);
            return NULL;
        }
        for (npy_intp i = 0; i < count; i++, at++)
            out[at] = (uint32_t)places[i] | (uint32_t)(counts[i] < COUNT_MAX ? counts[i] : COUNT_MAX) << PLACE_BITS;
        made->data[row] = at;
    }
    return (PyObject *)made;
}

static Py_ssize_t features_length(PyObject *self)
{
    return (Py_ssize_t)((struct features *)self)->rows;
}

static PyObject *features_row(PyObject *self, PyObject *number)
{
    const struct features *of = (struct features *)self;
    const Py_ssize_t row = PyLong_AsSsize_t(number);
    if (row == -1 && PyErr_Occurred()) return NULL;
    if (row < 0 || row >= (Py_ssize_t)of->rows) return PyErr_Format(PyExc_IndexError, "no row %zd", row);
    const uint32_t begin = begin_of(of, (uint32_t)row);
    npy_intp count = (npy_intp)(of->data[row] - begin);
    PyObject *places = PyArray_SimpleNew(1, &count, NPY_INT32);                     /* owned */
    PyObject *counts = places ? PyArray_SimpleNew(1, &count, NPY_INT32) : NULL;     /* owned */
    PyObject *made = NULL;                                                          /* owned */
    if (counts) {
        int32_t *place = PyArray_DATA((PyArrayObject *)places), *often = PyArray_DATA((PyArrayObject *)counts);
        for (npy_intp i = 0; i < count; i++) {
            const uint32_t each = features_of(of)[begin + (uint32_t)i];
            place[i] = (int32_t)(each & (SIRA_PLACES - 1));
            often[i] = (int32_t)(each >> PLACE_BITS);
        }
        made = PyTuple_Pack(2, places, counts);
    }
    Py_XDECREF(places);
    Py_XDECREF(counts);
    return made;
}

static PyObject *features_sizeof(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyLong_FromSize_t(sizeof(struct features) + (size_t)Py_SIZE(self) * sizeof(uint32_t));
}

static PyMethodDef features_methods[] = {
    {"row", features_row, METH_O, "row(i) -> (places, counts), places ascending."},
    {"__sizeof__", features_sizeof, METH_NOARGS, "Bytes of memory."},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods features_sequence = {.sq_length = features_length};

static PyTypeObject features_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Features",
    .tp_doc = "Features([(places, counts), ...]): those of texts, a row each.",
    .tp_basicsize = sizeof(struct features),
    .tp_itemsize = sizeof(uint32_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = features_new,
    .tp_methods = features_methods,
    .tp_as_sequence = &features_sequence,
};

/* ---- how rare they are ------------------------------------------------------------------------------------------- */
static PyObject *count_features(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *have_array, *logs_array, *kept_array; /* borrowed */
    const struct features *of;                      /* borrowed */
    int by;
    npy_intp seats = 0, logs_count = 0, kept_count = 0;
    if (!PyArg_ParseTuple(args, "OOOO!i:count_features", &have_array, &logs_array, &kept_array, &features_type, &of,
                          &by))
        return NULL;
    int32_t *have = sira_array_data(have_array, NPY_INT32, true, &seats);
    float *logs = have ? sira_array_data(logs_array, NPY_FLOAT32, true, &logs_count) : NULL;
    const float *kept = logs ? sira_array_data(kept_array, NPY_FLOAT32, false, &kept_count) : NULL;
    if (!kept) return NULL;
    if (seats != SIRA_PLACES || logs_count != SIRA_PLACES)
        return PyErr_Format(PyExc_ValueError, "have and logs are of all places");
    for (uint32_t i = 0; i < begin_of(of, of->rows); i++) {
        const uint32_t place = features_of(of)[i] & (SIRA_PLACES - 1);
        const int32_t now = have[place] += by;
        logs[place] = now < 1 ? 0 : now < kept_count ? kept[now] : log1pf((float)now);
    }
    Py_RETURN_NONE;
}

/* ---- cosines ----------------------------------------------------------------------------------------------------- */
struct asked {
    const float *logs; /* [SIRA_PLACES]: ln(1 + how many texts have it) */
    float most;        /* ln(1 + texts) + 1 */
    bool is_sharp;     /* rarity to the power of 1.5 */
    float *spread;     /* [SIRA_PLACES]: the request's values, weighed, of length 1; zeros elsewhere */
    uint64_t has[SIRA_PLACES / 64]; /* which places those are: a 32nd of the memory to look into */
};

static inline float rarity_of(const struct asked *asked, uint32_t place)
{
    const float made = asked->most - asked->logs[place];
    return asked->is_sharp ? made * sqrtf(made) : made;
}

/* The cosine of one row with the request. Blocks of features are read first: what is made of them then has no more
 * waiting in it, and is worked out several at a time. */
static float cosine_of(const struct asked *asked, const uint32_t *features, uint32_t count)
{
    enum { BLOCK = 16 };
    float squares[BLOCK] = {0}, square = 0, product = 0;
    uint32_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK) {
        float rarity[BLOCK], value[BLOCK];
        for (int at = 0; at < BLOCK; at++) {
            rarity[at] = asked->most - asked->logs[features[i + (uint32_t)at] & (SIRA_PLACES - 1)];
            value[at] = value_of[features[i + (uint32_t)at] >> PLACE_BITS];
        }
        if (asked->is_sharp)
            for (int at = 0; at < BLOCK; at++) rarity[at] *= sqrtf(rarity[at]);
        for (int at = 0; at < BLOCK; at++) squares[at] += value[at] * rarity[at] * (value[at] * rarity[at]);
    }
    for (; i < count; i++) {
        const float value = value_of[features[i] >> PLACE_BITS] * rarity_of(asked, features[i] & (SIRA_PLACES - 1));
        square += value * value;
    }
    for (int at = 0; at < BLOCK; at++) square += squares[at];
    for (i = 0; i < count; i++) {
        const uint32_t place = features[i] & (SIRA_PLACES - 1);
        if (asked->has[place / 64] >> place % 64 & 1)
            product += value_of[features[i] >> PLACE_BITS] * rarity_of(asked, place) * asked->spread[place];
    }
    return square > 0 ? product / sqrtf(square) : 0;
}

/* Have what is compared soon on its way: as much as a text of some 15 words takes, more comes by itself. */
static void fetch(PyObject *list, Py_ssize_t at)
{
    enum { BYTES = 1280, LINE = 64 };
    if (at >= PyList_GET_SIZE(list)) return;
    const char *begin = (const char *)PyList_GET_ITEM(list, at);
    for (int i = 0; i < BYTES; i += LINE) __builtin_prefetch(begin + i);
}

/* Write the cosine of each row of all; -1 with an exception: they are not `room`. */
static int compare(const struct asked *asked, PyObject *list, float *out, size_t room)
{
    enum { AHEAD = 3 };
    size_t at = 0;
    for (Py_ssize_t i = 0; i < AHEAD; i++) fetch(list, i);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        fetch(list, i + AHEAD);
        PyObject *each = PyList_GET_ITEM(list, i); /* borrowed */
        if (!PyObject_TypeCheck(each, &features_type)) {
            PyErr_Format(PyExc_TypeError, "want Features, got %s", Py_TYPE(each)->tp_name);
            return -1;
        }
        const struct features *of = (const struct features *)each;
        if (of->rows > room - at) break;
        for (uint32_t row = 0; row < of->rows; row++) {
            const uint32_t begin = begin_of(of, row);
            out[at++] = cosine_of(asked, features_of(of) + begin, of->data[row] - begin);
        }
        if (i + 1 == PyList_GET_SIZE(list) && at == room) return 0;
    }
    if (!PyList_GET_SIZE(list) && !room) return 0;
    PyErr_SetString(PyExc_ValueError, "not as many rows as were said");
    return -1;
}

static PyObject *cosines(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *all, *logs, *spread_array, *places_array, *values_array; /* borrowed */
    struct asked asked = {0};
    int is_sharp;
    Py_ssize_t room;
    npy_intp seats = 0, spread_count = 0, count = 0, values_count = 0;
    if (!PyArg_ParseTuple(args, "O!nOfpOOO:cosines", &PyList_Type, &all, &room, &logs, &asked.most, &is_sharp,
                          &spread_array, &places_array, &values_array))
        return NULL;
    asked.is_sharp = is_sharp != 0;
    asked.logs = sira_array_data(logs, NPY_FLOAT32, false, &seats);
    asked.spread = asked.logs ? sira_array_data(spread_array, NPY_FLOAT32, true, &spread_count) : NULL;
    const int32_t *places = asked.spread ? sira_array_data(places_array, NPY_INT32, false, &count) : NULL;
    const float *values = places ? sira_array_data(values_array, NPY_FLOAT32, false, &values_count) : NULL;
    if (!values) return NULL;
    if (seats != SIRA_PLACES || spread_count != SIRA_PLACES || count != values_count || room < 0)
        return PyErr_Format(PyExc_ValueError, "arrays that do not fit together");
    for (npy_intp i = 0; i < count; i++)
        if ((uint32_t)places[i] >= SIRA_PLACES) return PyErr_Format(PyExc_ValueError, "a place that is none");
    npy_intp shape = room;
    PyObject *made = PyArray_ZEROS(1, &shape, NPY_FLOAT32, 0); /* owned */
    if (!made) return NULL;
    float square = 0;
    for (npy_intp i = 0; i < count; i++) {
        const float value = values[i] * rarity_of(&asked, (uint32_t)places[i]);
        asked.spread[places[i]] = value;
        asked.has[places[i] / 64] |= (uint64_t)1 << places[i] % 64;
        square += value * value;
    }
    const float norm = square > 0 ? 1 / sqrtf(square) : 0;
    for (npy_intp i = 0; i < count; i++) asked.spread[places[i]] *= norm;
    const int status = compare(&asked, all, PyArray_DATA((PyArrayObject *)made), (size_t)room);
    for (npy_intp i = 0; i < count; i++) asked.spread[places[i]] = 0;
    if (status < 0) Py_CLEAR(made);
    return made;
}

static PyMethodDef sparse_functions[] = {
    {"count_features", count_features, METH_VARARGS,
     "count_features(have, logs, kept, features, by): add to have[place], and keep its logs[place]."},
    {"cosines", cosines, METH_VARARGS,
     "cosines([features, ...], rows, logs, most, is_sharp, spread, places, values) -> f32[rows]."},
    {NULL, NULL, 0, NULL},
};

int sira_add_sparse(PyObject *module)
{
    for (int i = 0; i <= COUNT_MAX; i++) value_of[i] = 1 + logf((float)(i ? i : 1));
    if (sira_add_type(module, &features_type) < 0) return -1;
    return sira_add_functions(module, sparse_functions);
}
