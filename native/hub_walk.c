/* The books, read in slices: a walk over ledger rows that others may add, fold and free in between. */
#include "hub.h"
#include "pyutil.h"

/* Rows passed over, folded ones or of another name, are cheaper than rows given by about so much. */
enum { PASSED_PER_ROW = 32, SLICE_ROWS_MAX = 1 << 20 };

int hub_put_u64(PyObject *dict, const char *key, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value); /* owned */
    const int rc = number ? PyDict_SetItemString(dict, key, number) : -1;
    Py_XDECREF(number);
    return rc;
}

static int put_reasons(const Hub *hub, PyObject *dict, const char *key, const struct reason_counts *counts)
{
    PyObject *inner = PyDict_New(); /* owned */
    if (!inner) return -1;
    int rc = 0;
    for (uint16_t i = 0; i < counts->len && rc == 0; i++)
        if (counts->at[i].n) rc = hub_put_u64(inner, hub->reasons[counts->at[i].reason], counts->at[i].n);
    if (rc == 0) rc = PyDict_SetItemString(dict, key, inner);
    Py_DECREF(inner);
    return rc;
}

static PyObject *row_dict(const Hub *hub, const struct row *row)
{
    PyObject *dict = Py_BuildValue("{s:s,s:O}", "topic", row->name, "class_row", row->is_class ? Py_True : Py_False); /* owned */
    if (!dict) return NULL;
    if (hub_put_u64(dict, "published", row->published) < 0 || hub_put_u64(dict, "owed", row->owed) < 0 ||
        hub_put_u64(dict, "delivered", row->delivered) < 0 || hub_put_u64(dict, "pending", row->pending) < 0 ||
        hub_put_u64(dict, "retained", row->retained) < 0 || hub_put_u64(dict, "superseded", row->superseded) < 0 ||
        hub_put_u64(dict, "expired", row->expired) < 0 || put_reasons(hub, dict, "dropped", &row->dropped) < 0 ||
        put_reasons(hub, dict, "refused", &row->refused) < 0)
        Py_CLEAR(dict);
    return dict;
}

/* The row of one topic, without a look at the others. */
PyObject *hub_row(PyObject *self, PyObject *name)
{
    const Hub *hub = (Hub *)self;
    PyObject *topic = PyDict_GetItemWithError(hub->topics, name); /* borrowed */
    if (topic) return row_dict(hub, row_live(((HubTopic *)topic)->row));
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyObject *row_histogram(const struct row *row)
{
    PyObject *counts = PyList_New(HIST_BUCKETS); /* owned */
    for (Py_ssize_t i = 0; counts && i < HIST_BUCKETS; i++) {
        PyObject *n = PyLong_FromUnsignedLongLong(row->hist[i]); /* given to the list */
        if (!n) Py_CLEAR(counts);
        else PyList_SET_ITEM(counts, i, n);
    }
    return counts ? Py_BuildValue("(sNK)", row->name, counts, (unsigned long long)row->hist_sum_ns) : NULL;
}

/* ---- the walk ---------------------------------------------------------------------------------------------- */

/* The row that it stands at, in whichever list; NULL: it is done. Borrowed. */
static struct row *walk_at(RowWalk *walk)
{
    if (!walk->done && !walk->next && !walk->classes) {
        walk->classes = true;
        walk->below = 0;
        walk->next = walk->hub->class_rows;
    }
    if (!walk->next) walk->done = true;
    return walk->next;
}

/* What a slice is made of: what it takes from a row. NULL with an exception: an error; without: nothing. */
typedef PyObject *(*row_taker)(const RowWalk *walk, const struct row *row, const char *pattern, size_t pattern_len);

static PyObject *take_counts(const RowWalk *walk, const struct row *row, const char *pattern, size_t pattern_len)
{
    if (!row->published && !row->owed && !row->refused.len) return NULL;
    if (pattern_len && !row->is_class &&
        !sira_topic_match((const uint8_t *)pattern, pattern_len, (const uint8_t *)row->name, strlen(row->name)))
        return NULL;
    return row_dict(walk->hub, row);
}

static PyObject *take_name(const RowWalk *walk, const struct row *row, const char *pattern, size_t pattern_len)
{
    (void)walk;
    (void)pattern;
    (void)pattern_len;
    return row->is_class ? NULL : PyUnicode_FromString(row->name);
}

static PyObject *take_histogram(const RowWalk *walk, const struct row *row, const char *pattern, size_t pattern_len)
{
    (void)walk;
    (void)pattern;
    (void)pattern_len;
    return row->is_class ? row_histogram(row) : NULL;
}

/* The next slice: at most `count` entries, and not many more rows looked at. New reference.
 * Nothing in here may run Python that frees rows: what is made are numbers, strings, lists and dictionaries. */
static PyObject *walk_slice(RowWalk *walk, unsigned int count, row_taker take, const char *pattern, size_t pattern_len)
{
    if (count == 0 || count > SLICE_ROWS_MAX) {
        PyErr_SetString(PyExc_ValueError, "a slice has between 1 and 2**20 rows");
        return NULL;
    }
    PyObject *slice = PyList_New(0); /* owned */
    uint64_t budget = (uint64_t)count * PASSED_PER_ROW;
    for (struct row *row; slice && budget > 0 && (row = walk_at(walk));) {
        walk->next = row->next; /* first: an allocation may collect garbage, and that may free the row after */
        budget--;
        if (row->folded_into || (walk->below && row->serial >= walk->below)) continue;
        row_ref(row);
        PyObject *entry = take(walk, row, pattern, pattern_len); /* owned */
        row_unref(walk->hub, row);
        if (entry) {
            budget -= budget < PASSED_PER_ROW ? budget : PASSED_PER_ROW - 1;
            if (PyList_Append(slice, entry) < 0) Py_CLEAR(slice);
        } else if (PyErr_Occurred()) {
            Py_CLEAR(slice);
        }
        Py_XDECREF(entry);
    }
    (void)walk_at(walk); /* so that `done` is known at once */
    return slice;
}

static PyObject *walk_rows(PyObject *self, PyObject *args)
{
    const char *pattern = ""; /* borrowed, checked by the caller */
    Py_ssize_t pattern_len = 0;
    unsigned int count;
    if (!PyArg_ParseTuple(args, "I|s#:rows", &count, &pattern, &pattern_len)) return NULL;
    return walk_slice((RowWalk *)self, count, take_counts, pattern, (size_t)pattern_len);
}

static PyObject *walk_topics(PyObject *self, PyObject *args)
{
    unsigned int count;
    if (!PyArg_ParseTuple(args, "I:topics", &count)) return NULL;
    return walk_slice((RowWalk *)self, count, take_name, "", 0);
}

static PyObject *walk_histograms(PyObject *self, PyObject *args)
{
    unsigned int count;
    if (!PyArg_ParseTuple(args, "I:histograms", &count)) return NULL;
    return walk_slice((RowWalk *)self, count, take_histogram, "", 0);
}

static PyObject *walk_done(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!walk_at((RowWalk *)self));
}

/* 0: the end, and the start; else twice the serial under which it goes on, plus one among the classes. */
static PyObject *walk_position(PyObject *self, void *unused)
{
    (void)unused;
    RowWalk *walk = (RowWalk *)self;
    const struct row *row = walk_at(walk);
    if (!row) return PyLong_FromLong(0);
    uint64_t below = row->serial + 1;
    if (walk->below && walk->below < below) below = walk->below; /* still on its way to where another one stood */
    return PyLong_FromUnsignedLongLong(below << 1 | walk->classes);
}

PyObject *hub_walk(PyObject *self, PyObject *args)
{
    Hub *hub = (Hub *)self;
    unsigned long long position = 0;
    if (!PyArg_ParseTuple(args, "|K:walk", &position)) return NULL;
    RowWalk *walk = (RowWalk *)row_walk_type->tp_alloc(row_walk_type, 0);
    if (!walk) return NULL;
    walk->hub = (Hub *)Py_NewRef(self);
    walk->classes = position & 1;
    walk->below = position >> 1;
    walk->next = walk->classes ? hub->class_rows : hub->rows;
    walk->hub_next = hub->walks;
    if (hub->walks) hub->walks->hub_prev = walk;
    hub->walks = walk;
    return (PyObject *)walk;
}

static void walk_dealloc(PyObject *self)
{
    RowWalk *walk = (RowWalk *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (walk->hub_prev) walk->hub_prev->hub_next = walk->hub_next;
    else walk->hub->walks = walk->hub_next;
    if (walk->hub_next) walk->hub_next->hub_prev = walk->hub_prev;
    Py_DECREF(walk->hub);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef walk_methods[] = {
    {"rows", walk_rows, METH_VARARGS, "The next slice as dictionaries: topics of a pattern (none: all) and all classes."},
    {"topics", walk_topics, METH_VARARGS, "The next slice: names of topics."},
    {"histograms", walk_histograms, METH_VARARGS, "The next slice: (class, counts, sum_ns) of the time on the node."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef walk_getset[] = {
    {"done", walk_done, NULL, "There is nothing more.", NULL},
    {"position", walk_position, NULL, "Where another walk goes on; 0: this one is done.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot walk_slots[] = {
    {Py_tp_dealloc, walk_dealloc},
    {Py_tp_methods, walk_methods},
    {Py_tp_getset, walk_getset},
    {Py_tp_doc, "A walk over the rows of a Hub in slices, while rows come, fold and go."},
    {0, NULL},
};

static PyType_Spec walk_spec = {
    .name = "sira._native.RowWalk",
    .basicsize = sizeof(RowWalk),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = walk_slots,
};

PyTypeObject *row_walk_type;

int hub_add_walks(PyObject *module)
{
    row_walk_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &walk_spec, NULL);
    return row_walk_type ? PyModule_AddType(module, row_walk_type) : -1;
}
