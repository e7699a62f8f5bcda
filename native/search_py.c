/* What a search of texts costs most, for Python: features and BM25. Thin over words.c and bm25.c; cosines
 * are sparse_py.c's.
 *
 * A text comes as str, where it is of ASCII alone, or as a list of its words, which Python has split. */
#include "ndarray.h"

#include <math.h>

#include "bm25.h"
#include "words.h"

/* ---- words of a text --------------------------------------------------------------------------------------------- */
struct split {
    struct sira_word *words; /* owned, PyMem */
    uint8_t *lower;          /* owned, PyMem; NULL: words lie in the caller's strings */
    size_t count;
};

static void split_free(struct split *split)
{
    PyMem_Free(split->words);
    PyMem_Free(split->lower);
    *split = (struct split){0};
}

static int split_text(PyObject *text, struct split *out)
{
    if (!PyUnicode_IS_ASCII(text)) {
        PyErr_SetString(PyExc_ValueError, "a text that is not of ASCII alone comes as a list of its words");
        return -1;
    }
    size_t len = (size_t)PyUnicode_GET_LENGTH(text);
    if (len > SIRA_TEXT_CHARS_MAX) len = SIRA_TEXT_CHARS_MAX;
    out->lower = PyMem_Malloc(len + 1);
    out->words = PyMem_Malloc((len + 1) * sizeof *out->words);
    if (!out->lower || !out->words) {
        PyErr_NoMemory();
        return -1;
    }
    out->count = sira_words_split(PyUnicode_1BYTE_DATA(text), len, out->lower, out->words);
    return 0;
}

static int split_list(PyObject *list, struct split *out)
{
    const size_t count = (size_t)PyList_GET_SIZE(list);
    if (count > SIRA_TEXT_CHARS_MAX * (size_t)18) { /* NFKC makes at most 18 characters of one */
        PyErr_SetString(PyExc_ValueError, "too many words");
        return -1;
    }
    out->words = PyMem_Malloc((count + 1) * sizeof *out->words);
    if (!out->words) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        PyObject *word = PyList_GET_ITEM(list, (Py_ssize_t)i); /* borrowed; the list keeps it */
        Py_ssize_t len = 0;
        const char *data = PyUnicode_Check(word) ? PyUnicode_AsUTF8AndSize(word, &len) : NULL;
        if (!data || len < 1 || PyUnicode_GET_LENGTH(word) > SIRA_WORD_CHARS_MAX) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "no word of 1 to %d characters", SIRA_WORD_CHARS_MAX);
            return -1;
        }
        out->words[i] = (struct sira_word){(const uint8_t *)data, (size_t)len};
    }
    out->count = count;
    return 0;
}

/* Words of a str or a list. On -1 an exception is set; split_free either way. */
static int split_of(PyObject *text, struct split *out)
{
    *out = (struct split){0};
    if (PyUnicode_Check(text)) return split_text(text, out);
    if (PyList_Check(text)) return split_list(text, out);
    PyErr_Format(PyExc_TypeError, "want str or a list of words, got %s", Py_TYPE(text)->tp_name);
    return -1;
}

/* ---- features ---------------------------------------------------------------------------------------------------- */
static PyObject *array_of(const uint32_t *values, size_t count)
{
    npy_intp shape = (npy_intp)count;
    PyObject *made = PyArray_SimpleNew(1, &shape, NPY_INT32);
    if (made && count) memcpy(PyArray_DATA((PyArrayObject *)made), values, count * sizeof *values);
    return made;
}

static PyObject *text_features(PyObject *Py_UNUSED(module), PyObject *text)
{
    struct split split;
    PyObject *made = NULL; /* owned */
    uint32_t *memory = NULL;
    if (split_of(text, &split) == 0) {
        const size_t most = sira_words_places_max(split.words, split.count);
        memory = PyMem_Malloc(3 * most * sizeof *memory + 1);
        if (memory) {
            uint32_t *counts = memory + most, *spare = memory + 2 * most;
            const size_t count = sira_words_places(split.words, split.count, memory);
            assert(count <= most);
            const size_t left = sira_places_unique(memory, count, counts, spare);
            PyObject *places = array_of(memory, left), *often = places ? array_of(counts, left) : NULL; /* owned */
            if (often) made = PyTuple_Pack(2, places, often);
            Py_XDECREF(places);
            Py_XDECREF(often);
        } else {
            PyErr_NoMemory();
        }
    }
    PyMem_Free(memory);
    split_free(&split);
    return made;
}

static PyObject *text_stems(PyObject *Py_UNUSED(module), PyObject *text)
{
    struct split split;
    PyObject *made = NULL; /* owned */
    if (split_of(text, &split) == 0) made = PyList_New(0);
    for (size_t i = 0; made && i < split.count; i++) {
        uint8_t stem[SIRA_WORD_BYTES_MAX];
        if (sira_word_is_stop(split.words[i])) continue;
        const size_t len = sira_word_stem(split.words[i], stem);
        PyObject *word = PyUnicode_DecodeUTF8((const char *)stem, (Py_ssize_t)len, NULL); /* owned */
        if (!word || PyList_Append(made, word) < 0) Py_CLEAR(made);
        Py_XDECREF(word);
    }
    split_free(&split);
    return made;
}

static PyObject *fold_places(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *places_array, *values_array; /* borrowed */
    int dims, unit = 0;
    npy_intp count, values_count;
    if (!PyArg_ParseTuple(args, "OOi|p:fold_places", &places_array, &values_array, &dims, &unit)) return NULL;
    const int32_t *places = sira_array_data(places_array, NPY_INT32, false, &count);
    const float *values = places ? sira_array_data(values_array, NPY_FLOAT32, false, &values_count) : NULL;
    if (!values) return NULL;
    if (count != values_count || dims < 1 || dims & (dims - 1) || dims > SIRA_PLACES)
        return PyErr_Format(PyExc_ValueError, "as many places as values, and dims a power of two");
    npy_intp shape = dims;
    PyObject *made = PyArray_ZEROS(1, &shape, NPY_FLOAT32, 0);
    double *sums = made ? PyMem_Calloc((size_t)dims, sizeof *sums) : NULL;
    if (!sums) {
        Py_XDECREF(made);
        return PyErr_NoMemory();
    }
    for (npy_intp i = 0; i < count; i++) {
        /* As `seats` of hashed.py: Knuth's multiplier, bits 40 and up the dim, bit 39 the sign. */
        const uint64_t mixed = ((uint64_t)places[i] + 1) * 0x9E3779B97F4A7C15u;
        sums[mixed >> 40 & (uint64_t)(dims - 1)] += (mixed >> 39 & 1) ? (double)values[i] : -(double)values[i];
    }
    float *out = PyArray_DATA((PyArrayObject *)made);
    double square = 0;
    for (int i = 0; i < dims; i++) square += sums[i] * sums[i];
    const double scale = unit && square > 0 ? 1 / sqrt(square) : 1;
    for (int i = 0; i < dims; i++) out[i] = (float)(sums[i] * scale);
    PyMem_Free(sums);
    return made;
}

/* ---- Bm25 -------------------------------------------------------------------------------------------------------- */
struct bm25_object {
    PyObject_HEAD
    struct sira_bm25 *bm25; /* owned */
};

struct terms {
    struct sira_weighed_term *list; /* owned, PyMem */
    size_t count, room;
};

/* Add the stems of a text, without function words, and pairs of them. */
static int add_terms(struct terms *terms, PyObject *text, float weight, float pair_weight)
{
    struct split split;
    int status = split_of(text, &split);
    const size_t wanted = terms->count + 2 * split.count;
    if (status == 0 && wanted > terms->room) {
        struct sira_weighed_term *list = PyMem_Realloc(terms->list, 2 * wanted * sizeof *list);
        if (list) {
            terms->list = list;
            terms->room = 2 * wanted;
        } else {
            PyErr_NoMemory();
            status = -1;
        }
    }
    uint64_t before = 0;
    bool is_first = true;
    for (size_t i = 0; status == 0 && i < split.count; i++) {
        uint8_t stem[SIRA_WORD_BYTES_MAX];
        if (sira_word_is_stop(split.words[i])) continue;
        const uint64_t term = sira_term_of_stem(stem, sira_word_stem(split.words[i], stem));
        terms->list[terms->count++] = (struct sira_weighed_term){term, weight};
        if (!is_first)
            terms->list[terms->count++] =
                (struct sira_weighed_term){sira_term_of_pair(before, term), weight * pair_weight};
        before = term;
        is_first = false;
    }
    split_free(&split);
    return status;
}

static PyObject *bm25_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seed", NULL};
    unsigned long long seed;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K:Bm25", names, &seed)) return NULL;
    struct bm25_object *self = (struct bm25_object *)type->tp_alloc(type, 0);
    if (self && !(self->bm25 = sira_bm25_new(seed))) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void bm25_dealloc(PyObject *self)
{
    sira_bm25_free(((struct bm25_object *)self)->bm25);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *bm25_put(PyObject *self, PyObject *args)
{
    struct sira_bm25 *bm25 = ((struct bm25_object *)self)->bm25;
    unsigned int slot;
    PyObject *fields; /* borrowed */
    if (!PyArg_ParseTuple(args, "IO!:put", &slot, &PyList_Type, &fields)) return NULL;
    struct terms terms = {0};
    int status = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fields) && status == 0; i++) {
        float weight;
        PyObject *text; /* borrowed */
        status = PyArg_ParseTuple(PyList_GET_ITEM(fields, i), "fO", &weight, &text) ? 0 : -1;
        if (status == 0) status = add_terms(&terms, text, weight, 1);
    }
    if (status == 0) {
        terms.count = sira_terms_unique(terms.list, terms.count);
        sira_bm25_drop(bm25, slot);
        if (slot == UINT32_MAX || !sira_bm25_put(bm25, slot, terms.list, terms.count)) {
            PyErr_NoMemory();
            status = -1;
        }
    }
    PyMem_Free(terms.list);
    if (status < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *bm25_drop(PyObject *self, PyObject *slot)
{
    const unsigned long at = PyLong_AsUnsignedLong(slot);
    if (at == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(at < UINT32_MAX && sira_bm25_drop(((struct bm25_object *)self)->bm25, (uint32_t)at));
}

static PyObject *bm25_scores(PyObject *self, PyObject *args)
{
    const struct sira_bm25 *bm25 = ((struct bm25_object *)self)->bm25;
    PyObject *text; /* borrowed */
    float pair_weight, k1, b;
    if (!PyArg_ParseTuple(args, "Offf:scores", &text, &pair_weight, &k1, &b)) return NULL;
    struct terms terms = {0};
    PyObject *made = NULL; /* owned */
    if (add_terms(&terms, text, 1, pair_weight) == 0) {
        npy_intp shape = (npy_intp)sira_bm25_slots(bm25);
        made = PyArray_ZEROS(1, &shape, NPY_FLOAT32, 0);
        terms.count = sira_terms_unique(terms.list, terms.count);
        if (made) sira_bm25_scores(bm25, terms.list, terms.count, k1, b, PyArray_DATA((PyArrayObject *)made));
    }
    PyMem_Free(terms.list);
    return made;
}

static int term_of(PyObject *stem, uint64_t *out)
{
    Py_ssize_t len;
    const char *data = PyUnicode_Check(stem) ? PyUnicode_AsUTF8AndSize(stem, &len) : NULL;
    if (!data) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "want a stem");
        return -1;
    }
    *out = sira_term_of_stem((const uint8_t *)data, (size_t)len);
    return 0;
}

static PyObject *bm25_have(PyObject *self, PyObject *stem)
{
    uint64_t term;
    if (term_of(stem, &term) < 0) return NULL;
    return PyLong_FromUnsignedLong(sira_bm25_have(((struct bm25_object *)self)->bm25, term));
}

static PyObject *bm25_has(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t term;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "has takes a slot and a stem");
    const unsigned long slot = PyLong_AsUnsignedLong(args[0]);
    if ((slot == (unsigned long)-1 && PyErr_Occurred()) || term_of(args[1], &term) < 0) return NULL;
    return PyBool_FromLong(slot < UINT32_MAX
                           && sira_bm25_has(((struct bm25_object *)self)->bm25, (uint32_t)slot, term));
}

static Py_ssize_t bm25_length(PyObject *self)
{
    return (Py_ssize_t)sira_bm25_count(((struct bm25_object *)self)->bm25);
}

static PyMethodDef bm25_methods[] = {
    {"put", bm25_put, METH_VARARGS, "put(slot, [(weight, text), ...]): hold an entry, in place of what stands there."},
    {"drop", bm25_drop, METH_O, "drop(slot) -> whether there was one."},
    {"scores", bm25_scores, METH_VARARGS, "scores(text, pair_weight, k1, b) -> f32[slots]."},
    {"have", bm25_have, METH_O, "have(stem) -> how many entries have it."},
    {"has", (PyCFunction)(void (*)(void))bm25_has, METH_FASTCALL, "has(slot, stem) -> bool."},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods bm25_sequence = {.sq_length = bm25_length};

static PyTypeObject bm25_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Bm25",
    .tp_doc = "Bm25(seed): who has which term. Entries stand in slots, small numbers of the caller's choice.",
    .tp_basicsize = sizeof(struct bm25_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = bm25_new,
    .tp_dealloc = bm25_dealloc,
    .tp_methods = bm25_methods,
    .tp_as_sequence = &bm25_sequence,
};

static PyMethodDef search_functions[] = {
    {"text_features", text_features, METH_O, "text_features(text) -> (places, counts), places ascending."},
    {"fold_places", fold_places, METH_VARARGS, "fold_places(places, values, dims, unit=False) -> f32[dims]; unit: of length 1, or zeros."},
    {"text_stems", text_stems, METH_O, "text_stems(text) -> stems of its words but for function words, in their order."},
    {NULL, NULL, 0, NULL},
};

int sira_add_search(PyObject *module)
{
    sira_words_begin();
    if (sira_add_type(module, &bm25_type) < 0) return -1;
    return sira_add_functions(module, search_functions);
}
