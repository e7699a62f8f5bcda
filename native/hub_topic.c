/* What the node counts: ledger rows, the topics that own them, the classes that they fold into. */
#include "hub_limits.h"
#include "pyutil.h"

const uint64_t hub_hist_bounds_ns[HIST_BUCKETS - 1] = {
    1000,     2000,     5000,     10000,     20000,     50000,     100000,     200000,     500000,
    1000000,  2000000,  5000000,  10000000,  20000000,  50000000,  100000000,  200000000,  500000000,
    1000000000, 2000000000, 5000000000, 10000000000, 20000000000, 50000000000, 100000000000,
};

uint32_t hub_hist_bucket(uint64_t ns)
{
    uint32_t low = 0, high = HIST_BUCKETS - 1;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (ns <= hub_hist_bounds_ns[middle]) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* ---- reasons and rows ---------------------------------------------------------------------------------- */

/* Index of a reason. Once the table is full, new ones count as OTHER: the sum stays right. */
uint16_t hub_reason(Hub *hub, const char *code)
{
    for (uint16_t i = 0; i < hub->reason_count; i++)
        if (strncmp(hub->reasons[i], code, REASON_BYTES - 1) == 0) return i;
    if (hub->reason_count == REASONS_MAX) return R_OTHER;
    strncpy(hub->reasons[hub->reason_count], code, REASON_BYTES - 1);
    return hub->reason_count++;
}

int row_count(Hub *hub, struct reason_counts *counts, uint16_t reason, uint64_t n)
{
    (void)hub;
    for (uint16_t i = 0; i < counts->len; i++)
        if (counts->at[i].reason == reason) {
            counts->at[i].n += n;
            return 0;
        }
    if (counts->len == counts->cap) {
        const uint16_t cap = counts->cap ? (uint16_t)(counts->cap * 2) : 4;
        void *at = PyMem_Realloc(counts->at, cap * sizeof *counts->at);
        if (!at) {
            PyErr_NoMemory();
            return -1;
        }
        counts->at = at;
        counts->cap = cap;
    }
    counts->at[counts->len].reason = reason;
    counts->at[counts->len++].n = n;
    return 0;
}

struct row *row_live(struct row *row)
{
    while (row->folded_into) row = row->folded_into;
    return row;
}

void row_ref(struct row *row)
{
    row->refs++;
}

void row_unref(Hub *hub, struct row *row)
{
    assert(row->refs > 0);
    if (--row->refs > 0) return;
    for (RowWalk *walk = hub->walks; walk; walk = walk->hub_next)
        if (walk->next == row) walk->next = row->next;
    if (row->prev) row->prev->next = row->next;
    else if (row->is_class) hub->class_rows = row->next;
    else hub->rows = row->next;
    if (row->next) row->next->prev = row->prev;
    if (row->folded_into) row_unref(hub, row->folded_into);
    if (row->class_row) row_unref(hub, row->class_row);
    PyMem_Free(row->dropped.at);
    PyMem_Free(row->refused.at);
    PyMem_Free(row->name);
    PyMem_Free(row);
}

/* A delivery that was pending will not happen. */
void row_drop(Hub *hub, struct row *row, uint16_t reason, uint64_t n)
{
    row = row_live(row);
    assert(row->pending >= n);
    row->pending -= n;
    if (row_count(hub, &row->dropped, reason, n) < 0) PyErr_Clear(); /* 64 bytes were not to be had */
    hub->dropped[reason] += n;
}

/* A row with one reference, the caller's. */
struct row *row_new(Hub *hub, const char *name, bool is_class, struct row *class_row)
{
    struct row *row = PyMem_Calloc(1, sizeof *row);
    const size_t bytes = strlen(name) + 1;
    char *copy = row ? PyMem_Malloc(bytes) : NULL;
    if (!copy) {
        PyMem_Free(row);
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(copy, name, bytes);
    row->name = copy;
    row->is_class = is_class;
    row->refs = 1;
    if (class_row) {
        row->class_row = class_row;
        row_ref(class_row);
    }
    row->serial = ++hub->row_serial;
    struct row **first = is_class ? &hub->class_rows : &hub->rows;
    row->next = *first;
    if (*first) (*first)->prev = row;
    *first = row;
    return row;
}

/* The row of a class: made at first use, lives as long as the hub. Borrowed. */
struct row *hub_class_row(Hub *hub, const char *name)
{
    PyObject *key = PyUnicode_FromString(name); /* owned */
    if (!key) return NULL;
    struct row *row = NULL;
    PyObject *kept = PyDict_GetItemWithError(hub->classes, key); /* borrowed */
    if (kept) {
        row = PyCapsule_GetPointer(kept, "sira.row");
    } else if (!PyErr_Occurred() && (row = row_new(hub, name, true, NULL))) {
        PyObject *capsule = PyCapsule_New(row, "sira.row", NULL); /* owned */
        if (!capsule || PyDict_SetItem(hub->classes, key, capsule) < 0) {
            row_unref(hub, row);
            row = NULL;
        }
        Py_XDECREF(capsule);
    }
    Py_DECREF(key);
    return row;
}

static int fold_counts(Hub *hub, struct reason_counts *into, struct reason_counts *from)
{
    for (uint16_t i = 0; i < from->len; i++)
        if (row_count(hub, into, from->at[i].reason, from->at[i].n) < 0) return -1;
    from->len = 0;
    return 0;
}

/* The topic goes: its counts, and what is still pending, go on in its class. */
static int row_fold(Hub *hub, struct row *row)
{
    struct row *into = row->class_row;
    if (!into || row->folded_into) return 0;
    if (fold_counts(hub, &into->dropped, &row->dropped) < 0) return -1;
    if (fold_counts(hub, &into->refused, &row->refused) < 0) return -1;
    into->published += row->published;
    into->owed += row->owed;
    into->delivered += row->delivered;
    into->pending += row->pending;
    into->direct += row->direct;
    into->retained += row->retained;
    into->superseded += row->superseded;
    into->expired += row->expired;
    row->folded_into = into;
    row_ref(into);
    hub->folded++;
    return 0;
}

/* ---- HubTopic -------------------------------------------------------------------------------------------- */

static void retained_unref(HubTopic *topic, struct blob *old)
{
    if (old->deadline_ns) topic->hub->retained_ttl--;
    if (old->xfer) {
        old->xfer->keep = false;
        xfer_release_held(topic->hub, old->xfer);
    }
    blob_unref(topic->hub, old);
}

/* Takes over the caller's reference to `blob` (NULL: forget what is retained). */
void topic_retain(HubTopic *topic, struct blob *blob)
{
    struct blob *old = topic->retained;
    if (old && blob && old->order > blob->order) { /* a large message, whole only now: a newer one is here */
        row_live(blob->row)->superseded++;
        if (blob->deadline_ns) topic->hub->retained_ttl++; /* as if it had been kept */
        retained_unref(topic, blob);
        return;
    }
    topic->retained = blob;
    if (blob) {
        row_live(blob->row)->retained++;
        if (blob->deadline_ns) topic->hub->retained_ttl++;
    }
    if (!old) return;
    struct row *row = row_live(old->row);
    assert(row->retained > 0);
    row->retained--;
    row->superseded++;
    retained_unref(topic, old);
}

/* Its time is over and nothing newer came. */
void topic_expire_retained(HubTopic *topic)
{
    struct blob *old = topic->retained;
    struct row *row = row_live(old->row);
    topic->retained = NULL;
    row->retained--;
    row->expired++;
    retained_unref(topic, old);
}

void topic_drop(HubTopic *topic)
{
    if (topic->dropped) return;
    if (topic->retained) topic_retain(topic, NULL);
    topic->dropped = true;
    topic->generation++;
    hub_moved(topic->hub, topic->name);
    if (row_fold(topic->hub, topic->row) < 0) PyErr_Clear();
}

static void topic_dealloc(PyObject *self)
{
    HubTopic *topic = (HubTopic *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (topic->hub) {
        topic_drop(topic);
        if (topic->row) row_unref(topic->hub, topic->row);
    }
    Py_XDECREF(topic->name);
    Py_XDECREF(topic->group);
    Py_XDECREF(topic->contract);
    Py_XDECREF(topic->hub);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *topic_get(PyObject *self, void *which)
{
    const HubTopic *topic = (HubTopic *)self;
    switch ((intptr_t)which) {
    case 0: return Py_NewRef(topic->name);
    case 1: return Py_NewRef(topic->group);
    case 2: return Py_NewRef(topic->contract ? topic->contract : Py_None);
    case 3: return PyLong_FromUnsignedLongLong(topic->owner);
    case 4: return PyLong_FromUnsignedLongLong(topic->row->published);
    case 5: return PyBool_FromLong(topic->retain);
    case 6: return PyBool_FromLong(topic->retained != NULL);
    case 7: return PyLong_FromUnsignedLongLong(topic->used_ns);
    default: return PyLong_FromUnsignedLongLong(topic->row->pending);
    }
}

static PyObject *topic_count_refused(PyObject *self, PyObject *args)
{
    HubTopic *topic = (HubTopic *)self;
    const char *code;
    unsigned long long messages = 1;
    if (!PyArg_ParseTuple(args, "s|K:count_refused", &code, &messages)) return NULL;
    if (row_count(topic->hub, &row_live(topic->row)->refused, hub_reason(topic->hub, code), messages) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyGetSetDef topic_getset[] = {
    {"name", topic_get, NULL, "Its name.", (void *)0},
    {"group", topic_get, NULL, "Name of the class that its row folds into.", (void *)1},
    {"contract", topic_get, NULL, "Contract of its messages, or None.", (void *)2},
    {"owner", topic_get, NULL, "Number of the client that it dies with; 0: none.", (void *)3},
    {"published", topic_get, NULL, "Messages published.", (void *)4},
    {"retain", topic_get, NULL, "Keeps its last message.", (void *)5},
    {"has_retained", topic_get, NULL, "A last message is kept now.", (void *)6},
    {"used_ns", topic_get, NULL, "When it last carried a message, CLOCK_MONOTONIC; 0: never.", (void *)7},
    {"pending", topic_get, NULL, "Deliveries owed and not settled.", (void *)8},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef topic_methods[] = {
    {"count_refused", topic_count_refused, METH_VARARGS, "Count messages that were refused before they came here."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot topic_slots[] = {
    {Py_tp_dealloc, topic_dealloc},
    {Py_tp_getset, topic_getset},
    {Py_tp_methods, topic_methods},
    {Py_tp_doc, "A topic of a Hub: what it keeps and has counted."},
    {0, NULL},
};

static PyType_Spec topic_spec = {
    .name = "sira._native.HubTopic",
    .basicsize = sizeof(HubTopic),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = topic_slots,
};

/* ---- Route --------------------------------------------------------------------------------------------------- */

static void route_dealloc(PyObject *self)
{
    Route *route = (Route *)self;
    PyTypeObject *type = Py_TYPE(self);
    for (uint32_t i = 0; i < route->len; i++) Py_XDECREF(route->targets[i]);
    PyMem_Free(route->targets);
    Py_XDECREF(route->topic);
    Py_XDECREF(route->admit);
    limits_clear(&route->limits);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *route_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"topic", "targets", "admit", "buckets", NULL};
    PyObject *topic, *targets, *admit = Py_None, *buckets = NULL; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|$OO!:Route", names, hub_topic_type, &topic, &targets, &admit,
                                     &PyTuple_Type, &buckets))
        return NULL;
    PyObject *list = PySequence_Fast(targets, "targets must be a sequence of Sub and Group"); /* owned */
    if (!list) return NULL;
    Route *route = (Route *)type->tp_alloc(type, 0);
    if (!route) goto fail;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
    route->targets = PyMem_Calloc(count ? (size_t)count : 1, sizeof *route->targets);
    if (!route->targets) {
        PyErr_NoMemory();
        goto fail;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *target = PySequence_Fast_GET_ITEM(list, i); /* borrowed */
        if (!Py_IS_TYPE(target, sub_type) && !Py_IS_TYPE(target, group_type)) {
            PyErr_SetString(PyExc_TypeError, "a target must be a Sub or a Group");
            goto fail;
        }
        route->targets[route->len++] = Py_NewRef(target);
    }
    if (buckets && limits_init(&route->limits, buckets) < 0) goto fail;
    route->topic = (HubTopic *)Py_NewRef(topic);
    route->admit = admit == Py_None ? NULL : Py_NewRef(admit);
    route->topic_generation = route->topic->generation;
    route->all_generation = route->topic->hub->generation;
    Py_DECREF(list);
    return (PyObject *)route;
fail:
    Py_DECREF(list);
    Py_XDECREF(route);
    return NULL;
}

static PyType_Slot route_slots[] = {
    {Py_tp_new, route_new},
    {Py_tp_dealloc, route_dealloc},
    {Py_tp_doc, "Where the messages of one publisher on one topic go. Python decides, C remembers and obeys."},
    {0, NULL},
};

static PyType_Spec route_spec = {
    .name = "sira._native.Route",
    .basicsize = sizeof(Route),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = route_slots,
};

PyTypeObject *hub_topic_type, *route_type;

int hub_add_topics(PyObject *module)
{
    hub_topic_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &topic_spec, NULL);
    if (!hub_topic_type || PyModule_AddType(module, hub_topic_type) < 0) return -1;
    route_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &route_spec, NULL);
    if (!route_type || PyModule_AddType(module, route_type) < 0) return -1;
    return 0;
}
