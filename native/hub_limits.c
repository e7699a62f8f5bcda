/* Buckets as Python makes them and routes ask them: which limit refuses, and how it says so. */
#include "hub_limits.h"
#include "bucket.h"
#include "pyutil.h"

#include <math.h>

/* When bytes are held there is no telling when they will be given back: a subscriber decides. This is said to those
 * who do not wait. */
enum { HELD_RETRY_MS = 100 };

typedef struct {
    PyObject_HEAD
    struct sira_bucket core;
    PyObject *limit, *key; /* owned str: the limit's name, and whose bucket it is */
    PyObject *on_refusal;  /* owned or NULL */
    uint64_t refused;
    uint64_t pass;   /* hub->pass when something last began or went on to wait for it */
    uint64_t wanted; /* bytes that the smallest message waits to see given back; 0: none does */
    uint32_t routes; /* that ask it */
} Bucket;

static PyTypeObject *bucket_type;

static Bucket *at(PyObject *buckets, Py_ssize_t i)
{
    return (Bucket *)PyTuple_GET_ITEM(buckets, i); /* borrowed */
}

/* ---- refusals ------------------------------------------------------------------------------------------------ */

static uint64_t ms_of(double wait_s)
{
    const double ms = ceil(wait_s * 1e3 - 1e-6); /* less what rounding may have added */
    if (ms < 1) return 1;
    return ms < UINT32_MAX ? (uint64_t)ms : UINT32_MAX;
}

/* Complete the exception that is set: what a typed error knows beyond its message. */
static void annotate(const Bucket *bucket, PyObject *topic, uint64_t retry_after_ms)
{
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *details = PyObject_GetAttrString(value, "details"); /* owned */
    if (details && PyDict_Check(details)) {
        PyDict_SetItemString(details, "limit", bucket->limit);
        PyDict_SetItemString(details, "key", bucket->key);
        PyDict_SetItemString(details, "topic", topic);
    }
    Py_XDECREF(details);
    PyObject *ms = PyLong_FromUnsignedLongLong(retry_after_ms); /* owned */
    if (ms) PyObject_SetAttrString(value, "retry_after_ms", ms);
    Py_XDECREF(ms);
    PyObject_SetAttrString(value, "retryable", retry_after_ms ? Py_True : Py_False);
    PyErr_Clear(); /* it is an error without advice then */
    PyErr_Restore(type, value, trace);
}

static void refuse(Bucket *bucket, PyObject *topic, enum sira_room room, double wait_s, uint64_t bytes)
{
    const uint64_t held_max = bucket->core.held_max;
    uint64_t retry_after_ms = 0;
    bucket->refused++;
    if (room == SIRA_ROOM_LATER) {
        retry_after_ms = ms_of(wait_s);
        sira_raise("RATE_LIMITED", "limit '%U' has no room for '%U' before %llu ms", bucket->limit, topic,
                   (unsigned long long)retry_after_ms);
    } else if (room == SIRA_ROOM_HELD) {
        retry_after_ms = HELD_RETRY_MS;
        sira_raise("QUOTA_EXCEEDED", "limit '%U': %llu of %llu bytes wait on the node, %llu more have no room",
                   bucket->limit, (unsigned long long)bucket->core.held, (unsigned long long)held_max,
                   (unsigned long long)bytes);
    } else {
        sira_raise("QUOTA_EXCEEDED", "limit '%U': a message of %llu bytes never has room, it holds %llu", bucket->limit,
                   (unsigned long long)bytes, (unsigned long long)held_max);
    }
    annotate(bucket, topic, retry_after_ms);
    hub_call(bucket->on_refusal);
}

/* ---- what routes ask ----------------------------------------------------------------------------------------- */

int limits_init(struct limits *limits, PyObject *buckets)
{
    *limits = (struct limits){0};
    if (!PyTuple_Check(buckets)) {
        PyErr_SetString(PyExc_TypeError, "buckets must be a tuple of Bucket");
        return -1;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(buckets);
    Py_ssize_t held = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(buckets, i), bucket_type)) {
            PyErr_SetString(PyExc_TypeError, "buckets must be a tuple of Bucket");
            return -1;
        }
        held += at(buckets, i)->core.held_max != 0;
    }
    if (!count) return 0;
    if (held == count) {
        limits->held = Py_NewRef(buckets);
    } else if (held) {
        limits->held = PyTuple_New(held);
        if (!limits->held) return -1;
        for (Py_ssize_t i = 0, to = 0; i < count; i++)
            if (at(buckets, i)->core.held_max) PyTuple_SET_ITEM(limits->held, to++, Py_NewRef(at(buckets, i)));
    }
    limits->all = Py_NewRef(buckets);
    for (Py_ssize_t i = 0; i < count; i++) at(buckets, i)->routes++;
    return 0;
}

void limits_clear(struct limits *limits)
{
    for (Py_ssize_t i = 0; limits->all && i < PyTuple_GET_SIZE(limits->all); i++) at(limits->all, i)->routes--;
    Py_CLEAR(limits->all);
    Py_CLEAR(limits->held);
}

void limit_again_clear(struct limit_again *again)
{
    Py_CLEAR(again->bucket);
    Py_CLEAR(again->topic);
    Py_CLEAR(again->error);
}

/* Whether the answer is there already; else note what is refused now. */
static bool is_again(struct limit_again *again, Bucket *bucket, PyObject *topic, uint64_t retry_after_ms)
{
    if (again->error && again->bucket == (PyObject *)bucket && again->topic == topic &&
        again->retry_after_ms == retry_after_ms)
        return true;
    limit_again_clear(again);
    again->bucket = Py_NewRef(bucket);
    again->topic = Py_NewRef(topic);
    again->retry_after_ms = retry_after_ms;
    return false;
}

/* As limits_admit(), of a tuple; `again` or NULL. The caller holds a reference to it: Python runs inside. */
static int admit(PyObject *buckets, PyObject *topic, uint64_t messages, uint64_t bytes, uint64_t now_ns,
                 uint64_t *wait_ns, struct limit_again *again)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(buckets);
    Bucket *slowest = NULL; /* borrowed */
    double longest_s = 0;
    *wait_ns = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        double wait_s = 0;
        const enum sira_room room = sira_bucket_ask(&at(buckets, i)->core, messages, bytes, now_ns, &wait_s);
        if (room == SIRA_ROOM) continue;
        if (room != SIRA_ROOM_LATER) {
            refuse(at(buckets, i), topic, room, 0, bytes);
            return -1;
        }
        if (wait_s > longest_s) {
            longest_s = wait_s;
            slowest = at(buckets, i);
        }
    }
    if (slowest) {
        const uint64_t retry_after_ms = ms_of(longest_s);
        *wait_ns = retry_after_ms * 1000000u;
        if (again && is_again(again, slowest, topic, retry_after_ms)) {
            slowest->refused++;
            return 1;
        }
        refuse(slowest, topic, SIRA_ROOM_LATER, longest_s, bytes);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) sira_bucket_take(&at(buckets, i)->core, now_ns);
    return 0;
}

int limits_admit(const struct limits *limits, PyObject *topic, uint64_t bytes, uint64_t now_ns, uint64_t *wait_ns,
                 struct limit_again *again)
{
    if (!limits->all) return 0;
    PyObject *buckets = Py_NewRef(limits->all); /* owned: a refusal may take the route away */
    const int rc = admit(buckets, topic, 1, bytes, now_ns, wait_ns, again);
    Py_DECREF(buckets);
    return rc;
}

enum limits_room limits_try(const struct limits *limits, uint64_t bytes, uint64_t now_ns, uint64_t pass,
                            uint64_t *due_ns)
{
    const Py_ssize_t count = limits->all ? PyTuple_GET_SIZE(limits->all) : 0;
    Bucket *slowest = NULL; /* borrowed */
    uint64_t longest_ns = 0;
    bool held = false;
    for (Py_ssize_t i = 0; i < count; i++) {
        Bucket *bucket = at(limits->all, i);
        double wait_s = 0;
        const enum sira_room room = sira_bucket_ask(&bucket->core, 1, bytes, now_ns, &wait_s);
        if (room == SIRA_ROOM) continue;
        if (room == SIRA_ROOM_NEVER) return LIMITS_NEVER;
        if (room == SIRA_ROOM_HELD) {
            held = true;
            bucket->pass = pass;
            if (!bucket->wanted || bytes < bucket->wanted) bucket->wanted = bytes;
            continue;
        }
        const double wait_ns = ceil(wait_s * 1e9);
        const uint64_t ns = wait_ns < 1 ? 1 : wait_ns < 1e18 ? (uint64_t)wait_ns : (uint64_t)1e18;
        if (ns <= longest_ns) continue;
        longest_ns = ns;
        slowest = bucket;
    }
    if (slowest) slowest->pass = pass;
    if (slowest || held) {
        *due_ns = now_ns + longest_ns;
        return held ? LIMITS_HELD : LIMITS_LATER;
    }
    for (Py_ssize_t i = 0; i < count; i++) sira_bucket_take(&at(limits->all, i)->core, now_ns);
    return LIMITS_TAKEN;
}

bool limits_contended(const struct limits *limits, uint64_t pass)
{
    for (Py_ssize_t i = 0; limits->all && i < PyTuple_GET_SIZE(limits->all); i++)
        if (at(limits->all, i)->pass == pass) return true;
    return false;
}

void limits_refuse(const struct limits *limits, PyObject *topic, uint64_t bytes, uint64_t now_ns)
{
    PyObject *buckets = limits->all ? Py_NewRef(limits->all) : NULL; /* owned: a refusal may take the route away */
    const Py_ssize_t count = buckets ? PyTuple_GET_SIZE(buckets) : 0;
    Py_ssize_t worst = 0;
    enum sira_room why = SIRA_ROOM_LATER;
    double longest_s = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        double wait_s = 0;
        const enum sira_room room = sira_bucket_ask(&at(buckets, i)->core, 1, bytes, now_ns, &wait_s);
        if (room == SIRA_ROOM || (room == SIRA_ROOM_LATER && wait_s <= longest_s)) continue;
        worst = i;
        why = room;
        longest_s = wait_s;
        if (room != SIRA_ROOM_LATER) break;
    }
    if (count) refuse(at(buckets, worst), topic, why, longest_s, bytes);
    else sira_raise("RATE_LIMITED", "what was before it on '%U' took the time given", topic);
    Py_XDECREF(buckets);
}

void limits_tell(const struct limits *limits, uint64_t pass)
{
    PyObject *buckets = limits->all ? Py_NewRef(limits->all) : NULL; /* owned: as above */
    for (Py_ssize_t i = 0; buckets && i < PyTuple_GET_SIZE(buckets); i++)
        if (at(buckets, i)->pass == pass) hub_call(at(buckets, i)->on_refusal);
    Py_XDECREF(buckets);
}

PyObject *held_take(const struct limits *limits, uint64_t bytes)
{
    for (Py_ssize_t i = 0; limits->held && i < PyTuple_GET_SIZE(limits->held); i++)
        sira_bucket_hold(&at(limits->held, i)->core, bytes);
    return Py_XNewRef(limits->held);
}

void held_give(Hub *hub, PyObject *held, uint64_t bytes)
{
    for (Py_ssize_t i = 0; held && i < PyTuple_GET_SIZE(held); i++) {
        Bucket *bucket = at(held, i);
        sira_bucket_give(&bucket->core, bytes);
        if (!bucket->wanted || sira_bucket_full(&bucket->core, bucket->wanted)) continue;
        bucket->wanted = 0;
        if (!hub->line_first) continue; /* who waited has gone meanwhile */
        hub->due_ns = 0;
        hub->hurry_due = true;
    }
    Py_XDECREF(held);
}

/* ---- Python ---------------------------------------------------------------------------------------------------- */

static int set_limits(Bucket *bucket, double messages_per_s, double bytes_per_s, double burst_s,
                      unsigned long long held_bytes)
{
    if (!(messages_per_s >= 0 && bytes_per_s >= 0 && burst_s > 0) || !isfinite(messages_per_s * burst_s) ||
        !isfinite(bytes_per_s * burst_s)) {
        PyErr_SetString(PyExc_ValueError, "rates are finite and not below 0, the burst is above 0");
        return -1;
    }
    sira_bucket_set(&bucket->core, messages_per_s, bytes_per_s, burst_s, held_bytes);
    return 0;
}

static PyObject *bucket_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "key", "messages_per_s", "bytes_per_s", "burst_s", "held_bytes", "on_refusal", NULL};
    PyObject *limit, *key, *on_refusal = Py_None; /* borrowed */
    double messages_per_s = 0, bytes_per_s = 0, burst_s = 1;
    unsigned long long held_bytes = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UU|$dddKO:Bucket", names, &limit, &key, &messages_per_s, &bytes_per_s,
                                     &burst_s, &held_bytes, &on_refusal))
        return NULL;
    Bucket *bucket = (Bucket *)type->tp_alloc(type, 0);
    if (!bucket) return NULL;
    bucket->limit = Py_NewRef(limit);
    bucket->key = Py_NewRef(key);
    bucket->on_refusal = on_refusal == Py_None ? NULL : Py_NewRef(on_refusal);
    if (set_limits(bucket, messages_per_s, bytes_per_s, burst_s, held_bytes) < 0) Py_CLEAR(bucket);
    return (PyObject *)bucket;
}

static void bucket_dealloc(PyObject *self)
{
    Bucket *bucket = (Bucket *)self;
    PyTypeObject *type = Py_TYPE(self);
    assert(bucket->routes == 0 && bucket->core.held == 0);
    Py_XDECREF(bucket->limit);
    Py_XDECREF(bucket->key);
    Py_XDECREF(bucket->on_refusal);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *bucket_configure(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"messages_per_s", "bytes_per_s", "burst_s", "held_bytes", NULL};
    double messages_per_s = 0, bytes_per_s = 0, burst_s = 1;
    unsigned long long held_bytes = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$dddK:configure", names, &messages_per_s, &bytes_per_s, &burst_s,
                                     &held_bytes) ||
        set_limits((Bucket *)self, messages_per_s, bytes_per_s, burst_s, held_bytes) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *bucket_idle(PyObject *self, PyObject *now)
{
    const Bucket *bucket = (Bucket *)self;
    const uint64_t now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred()) return NULL;
    return PyBool_FromLong(!bucket->routes && sira_bucket_idle(&bucket->core, now_ns));
}

static PyObject *bucket_held(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Bucket *)self)->core.held);
}

static PyObject *bucket_refused(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Bucket *)self)->refused);
}

static PyObject *bucket_text(PyObject *self, void *which)
{
    const Bucket *bucket = (Bucket *)self;
    return Py_NewRef(which ? bucket->key : bucket->limit);
}

static PyMethodDef bucket_methods[] = {
    {"configure", (PyCFunction)(void (*)(void))bucket_configure, METH_VARARGS | METH_KEYWORDS,
     "configure(*, messages_per_s=0, bytes_per_s=0, burst_s=1, held_bytes=0): put other limits in force."},
    {"idle", bucket_idle, METH_O, "idle(now_ns) -> bool: a new one in its place would be the same, and no route asks it."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef bucket_getset[] = {
    {"limit", bucket_text, NULL, "Name of the limit.", NULL},
    {"key", bucket_text, NULL, "Whose bucket it is.", (void *)1},
    {"held_bytes", bucket_held, NULL, "Bytes of messages that wait on the node.", NULL},
    {"refused", bucket_refused, NULL, "Messages that it refused.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot bucket_slots[] = {
    {Py_tp_new, bucket_new},
    {Py_tp_dealloc, bucket_dealloc},
    {Py_tp_methods, bucket_methods},
    {Py_tp_getset, bucket_getset},
    {Py_tp_doc, "What is left of one limit for one holder, shared by all the routes that it holds for."},
    {0, NULL},
};

static PyType_Spec bucket_spec = {.name = "sira._native.Bucket", .basicsize = sizeof(Bucket),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, .slots = bucket_slots};

static PyObject *native_admit(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *buckets, *resource; /* borrowed */
    unsigned long long messages, bytes, now_ns;
    if (!PyArg_ParseTuple(args, "O!UKKK:admit", &PyTuple_Type, &buckets, &resource, &messages, &bytes, &now_ns))
        return NULL;
    struct limits limits;
    if (limits_init(&limits, buckets) < 0) return NULL;
    uint64_t wait_ns;
    const int rc = limits.all ? admit(limits.all, resource, messages, bytes, now_ns, &wait_ns, NULL) : 0;
    limits_clear(&limits);
    if (rc < 0) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"admit", native_admit, METH_VARARGS, "admit(buckets, resource, messages, bytes, now_ns): count it, or raise the refusal."},
    {NULL, NULL, 0, NULL},
};

int hub_add_limits(PyObject *module)
{
    bucket_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &bucket_spec, NULL);
    if (!bucket_type || PyModule_AddType(module, bucket_type) < 0) return -1;
    return sira_add_functions(module, functions);
}
