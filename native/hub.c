/* The Hub: all topics, subscriptions and streams of one node, its clockwork and its books. */
#include "hub.h"
#include "pyutil.h"

/* ---- helpers that every part calls ------------------------------------------------------------------------------ */

/* Callbacks only set a flag or an event; an exception in one is our bug, shown and not passed on to a stranger. */
int hub_call(PyObject *callable)
{
    if (!callable) return 0;
    PyObject *type, *value, *trace; /* owned; a callback must not disturb an error on its way */
    PyErr_Fetch(&type, &value, &trace);
    Py_INCREF(callable); /* it may end what holds it */
    PyObject *result = PyObject_CallNoArgs(callable); /* owned */
    if (!result) PyErr_WriteUnraisable(callable);
    Py_XDECREF(result);
    Py_DECREF(callable);
    PyErr_Restore(type, value, trace);
    return 0;
}

PyObject *hub_error_bytes(Hub *hub)
{
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *bytes = value ? PyObject_CallOneArg(hub->encode_error, value) : NULL; /* owned */
    if (bytes && !PyBytes_Check(bytes)) {
        PyErr_SetString(PyExc_TypeError, "encode_error() must give bytes");
        Py_CLEAR(bytes);
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return bytes;
}

struct sira_env *hub_env_enter(Hub *hub)
{
    const uint32_t depth = hub->env_depth;
    if (depth == sizeof hub->envs / sizeof *hub->envs) {
        sira_raise("INTERNAL", "a publish inside a publish inside a publish");
        return NULL;
    }
    if (!hub->envs[depth] && !(hub->envs[depth] = PyMem_Malloc(sizeof **hub->envs))) {
        PyErr_NoMemory();
        return NULL;
    }
    hub->env_depth++;
    return hub->envs[depth];
}

void hub_env_leave(Hub *hub)
{
    assert(hub->env_depth > 0);
    hub->env_depth--;
}

/* Next stream of a walk, a new reference; the first call starts it. Streams may close meanwhile. */
static Ingress *walk_next(struct cursor *cursor)
{
    Ingress *in = (Ingress *)Py_XNewRef(cursor->next);
    if (in) cursor->next = in->hub_next;
    return in;
}

static void walk_start(Hub *hub, struct cursor *cursor)
{
    *cursor = (struct cursor){.next = hub->ingresses, .outer = hub->cursors};
    hub->cursors = cursor;
}

static void walk_end(Hub *hub, struct cursor *cursor)
{
    assert(hub->cursors == cursor);
    hub->cursors = cursor->outer;
}

void ingress_due(Ingress *in)
{
    if (in->due || in->closed) return;
    in->due = true;
    in->due_next = in->hub->in_due;
    in->hub->in_due = (Ingress *)Py_NewRef(in);
}

void hub_tell(Hub *hub)
{
    Egress *egress;
    Ingress *in;
    while ((egress = hub->out_due)) { /* owned from here */
        hub->out_due = egress->due_next;
        egress->due = false;
        if (!egress->closed) hub_call(egress->wake);
        Py_DECREF(egress);
    }
    while ((in = hub->in_due)) { /* owned from here */
        hub->in_due = in->due_next;
        in->due = false;
        const bool wake = in->wake_due, drained = in->drained_due;
        in->wake_due = in->drained_due = false;
        if (wake && !in->closed) hub_call(in->wake);
        if (drained && !in->closed) hub_call(in->drained);
        Py_DECREF(in);
    }
    if (hub->hurry_due) {
        hub->hurry_due = false;
        hub_call(hub->hurry);
    }
}

/* ---- Python ------------------------------------------------------------------------------------------------------- */

static PyObject *hub_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"encode_error", "message_bytes_max", "queue_messages_max",   "queue_bytes_max",
                            "stall_ns",     "block_ns",          "transfer_window_bytes", "transfers_per_stream_max", NULL};
    static const char *const named[R_NAMED] = {"QUEUE_FULL", "EXPIRED", "NO_MATCH", "PEER_LOST",
                                               "STALLED",    "UNSUBSCRIBED", "OTHER"};
    PyObject *encode_error; /* borrowed */
    unsigned long long message_bytes_max = 16ull << 30, queue_bytes_max = 64u << 20, stall_ns = 10000000000u,
                       block_ns = 5000000000u, transfer_window_bytes = 8u << 20;
    unsigned int queue_messages_max = 8192, transfers_per_stream_max = 8192;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OKIKKKKI:Hub", names, &encode_error, &message_bytes_max,
                                     &queue_messages_max, &queue_bytes_max, &stall_ns, &block_ns, &transfer_window_bytes,
                                     &transfers_per_stream_max))
        return NULL;
    if (!kwargs || !PyDict_GetItemString(kwargs, "encode_error")) {
        PyErr_SetString(PyExc_TypeError, "Hub() needs encode_error");
        return NULL;
    }
    Hub *hub = (Hub *)type->tp_alloc(type, 0);
    if (!hub) return NULL;
    hub->page.fd = -1;
    hub->encode_error = Py_NewRef(encode_error);
    hub->topics = PyDict_New();
    hub->classes = PyDict_New();
    hub->picks = PyMem_Malloc((PICKS_MAX + 1) * sizeof *hub->picks);
    if (!hub->topics || !hub->classes || !hub->picks) {
        Py_DECREF(hub);
        return PyErr_NoMemory();
    }
    hub->message_bytes_max = message_bytes_max;
    hub->queue_messages_max = queue_messages_max;
    hub->transfers_per_stream_max = transfers_per_stream_max;
    hub->queue_bytes_max = queue_bytes_max;
    hub->stall_ns = stall_ns;
    hub->block_ns = block_ns;
    hub->pass = 1; /* a bucket that refused nothing says 0 */
    hub->transfer_window_bytes = transfer_window_bytes;
    for (int i = 0; i < R_NAMED; i++) strncpy(hub->reasons[i], named[i], REASON_BYTES - 1);
    hub->reason_count = R_NAMED;
    return (PyObject *)hub;
}

/* Topics refer to the hub: a node calls this when it stops, so that both can go. */
static PyObject *hub_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyDict_Clear(((Hub *)self)->topics);
    hub_tell((Hub *)self);
    Py_RETURN_NONE;
}

static void hub_dealloc(PyObject *self)
{
    Hub *hub = (Hub *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(hub->topics);
    if (hub->classes) { /* each class row holds one reference of ours */
        PyObject *key, *capsule; /* borrowed */
        Py_ssize_t at = 0;
        while (PyDict_Next(hub->classes, &at, &key, &capsule)) row_unref(hub, PyCapsule_GetPointer(capsule, "sira.row"));
    }
    Py_XDECREF(hub->classes);
    Py_XDECREF(hub->encode_error);
    Py_XDECREF(hub->hurry);
    for (uint32_t i = 0; i < sizeof hub->envs / sizeof *hub->envs; i++) PyMem_Free(hub->envs[i]);
    PyMem_Free(hub->picks);
    sira_shm_close(&hub->page);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *hub_topic_py(PyObject *self, PyObject *name)
{
    PyObject *topic = PyDict_GetItemWithError(((Hub *)self)->topics, name); /* borrowed */
    if (!topic && PyErr_Occurred()) return NULL;
    return Py_NewRef(topic ? topic : Py_None);
}

static PyObject *hub_declare(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "retain", "contract", "owner", "group", NULL};
    Hub *hub = (Hub *)self;
    PyObject *name, *contract = Py_None, *group = NULL; /* borrowed */
    int retain = -1;
    unsigned long long owner = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U|$pOKU:declare", names, &name, &retain, &contract, &owner, &group))
        return NULL;
    if (contract != Py_None && !Py_IS_TYPE(contract, &sira_contract_type)) {
        PyErr_SetString(PyExc_TypeError, "contract must be a Contract or None");
        return NULL;
    }
    HubTopic *topic = (HubTopic *)Py_XNewRef(PyDict_GetItemWithError(hub->topics, name)); /* owned */
    if (!topic) {
        if (PyErr_Occurred()) return NULL;
        const char *class_name = group ? PyUnicode_AsUTF8(group) : "";
        const char *text = PyUnicode_AsUTF8(name);
        struct row *class_row = class_name && text ? hub_class_row(hub, *class_name ? class_name : "(default)") : NULL; /* borrowed */
        if (!class_row) return NULL;
        topic = (HubTopic *)hub_topic_type->tp_alloc(hub_topic_type, 0);
        if (!topic) return NULL;
        topic->row = row_new(hub, text, false, class_row);
        if (!topic->row) {
            Py_DECREF(topic);
            return NULL;
        }
        topic->hub = (Hub *)Py_NewRef(hub);
        topic->name = Py_NewRef(name);
        topic->group = group ? Py_NewRef(group) : PyUnicode_FromString("");
        if (!topic->group || PyDict_SetItem(hub->topics, name, (PyObject *)topic) < 0) {
            Py_DECREF(topic);
            return NULL;
        }
    }
    if (retain >= 0) topic->retain = retain;
    if (owner) topic->owner = owner;
    if (contract != Py_None) Py_XSETREF(topic->contract, Py_NewRef(contract));
    topic->generation++;
    hub_moved(hub, name);
    return (PyObject *)topic;
}

static PyObject *hub_drop(PyObject *self, PyObject *name)
{
    Hub *hub = (Hub *)self;
    HubTopic *topic = (HubTopic *)Py_XNewRef(PyDict_GetItemWithError(hub->topics, name)); /* owned */
    if (!topic) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_NONE;
    }
    topic_drop(topic);
    const int rc = PyDict_DelItem(hub->topics, name);
    Py_DECREF(topic);
    hub_tell(hub);
    if (rc < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *hub_touch(PyObject *self, PyObject *args)
{
    Hub *hub = (Hub *)self;
    PyObject *name = Py_None; /* borrowed */
    if (!PyArg_ParseTuple(args, "|O:touch", &name)) return NULL;
    hub->due_ns = 0; /* limits may be others now */
    if (name == Py_None) {
        hub->generation++;
        hub_moved(hub, NULL);
        Py_RETURN_NONE;
    }
    PyObject *topic = PyDict_GetItemWithError(hub->topics, name); /* borrowed */
    if (topic) ((HubTopic *)topic)->generation++;
    else if (PyErr_Occurred()) return NULL;
    if (PyUnicode_Check(name)) hub_moved(hub, name); /* also one that is not there yet */
    Py_RETURN_NONE;
}

static int tick_event(PyObject *events, const char *what, Sub *sub)
{
    PyObject *pair = Py_BuildValue("(sO)", what, (PyObject *)sub); /* owned */
    const int rc = pair ? PyList_Append(events, pair) : -1;
    Py_XDECREF(pair);
    return rc;
}

enum { EXPIRE_NS = 2000000 }; /* of one tick, for what waited in vain: others want the loop */

static PyObject *hub_tick(PyObject *self, PyObject *now)
{
    Hub *hub = (Hub *)self;
    const uint64_t now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred()) return NULL;
    hub->now_ns = now_ns;
    PyObject *events = PyList_New(0); /* owned */
    if (!events) return NULL;
    for (Sub *sub = hub->watched, *next; sub; sub = next) { /* no Python runs in here */
        next = sub->watched_next;
        sub_expire(sub, now_ns);
        const bool full = sub->blocked || sub->pending >= hub->queue_messages_max ||
                          (sub->pending > 1 && sub->pending_bytes >= hub->queue_bytes_max);
        if (!sub->stalled && full && sub->in_flight && now_ns > sub->progress_ns &&
            now_ns - sub->progress_ns >= hub->stall_ns) {
            sub->stalled = true;
            sub->told_stalled = true;
            hub->retry = true; /* it holds nobody up any more */
            if (tick_event(events, "stalled", sub) < 0) goto fail;
        } else if (!sub->stalled && sub->told_stalled) {
            sub->told_stalled = false;
            if (tick_event(events, "resumed", sub) < 0) goto fail;
        }
        if (!sub->pending && !sub->blocked && !sub->told_stalled) sub_unwatch(sub);
    }
    PyObject *name, *object; /* borrowed */
    for (Py_ssize_t at = 0; hub->retained_ttl && PyDict_Next(hub->topics, &at, &name, &object);) {
        HubTopic *topic = (HubTopic *)object;
        struct blob *kept = topic->retained;
        if (!kept || !kept->deadline_ns || kept->deadline_ns > now_ns) continue;
        topic_expire_retained(topic);
    }
    const uint64_t until_ns = sira_now_mono_ns() + EXPIRE_NS;
    struct cursor cursor;
    walk_start(hub, &cursor);
    for (Ingress *in; (hub->parked || hub->xfers) && (in = walk_next(&cursor));) {
        const int rc = in->parked ? ingress_expire(in, now_ns, until_ns) : 0;
        for (struct xfer *xfer = in->xfers; xfer; xfer = xfer->next) /* its window may be smaller than our step */
            if (!xfer->buffered && xfer->credit_due) ingress_credit(in, xfer);
        Py_DECREF(in);
        if (rc < 0) {
            walk_end(hub, &cursor);
            goto fail;
        }
    }
    walk_end(hub, &cursor);
    hub_release(hub, now_ns);
    hub_retry_slice(hub, now_ns);
    hub_tell(hub);
    return events;
fail:
    Py_DECREF(events);
    return NULL;
}

static PyObject *hub_release_py(PyObject *self, PyObject *now)
{
    const uint64_t now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred()) return NULL;
    hub_release((Hub *)self, now_ns);
    hub_retry_slice((Hub *)self, now_ns);
    hub_tell((Hub *)self);
    Py_RETURN_NONE;
}

static PyObject *hub_due(PyObject *self, void *unused)
{
    (void)unused;
    const Hub *hub = (Hub *)self;
    if (hub->retry_in || (hub->retry && hub->parked > hub->waiting)) return PyLong_FromLong(1);
    if (!hub->line_first) return PyLong_FromLong(0);
    if (!hub->due_ns || hub->line_left) return PyLong_FromLong(1);
    return PyLong_FromUnsignedLongLong(hub->due_ns == UINT64_MAX ? 0 : hub->due_ns);
}

static PyObject *hub_get_hurry(PyObject *self, void *unused)
{
    (void)unused;
    const Hub *hub = (Hub *)self;
    return Py_NewRef(hub->hurry ? hub->hurry : Py_None);
}

static int hub_set_hurry(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_XSETREF(((Hub *)self)->hurry, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyObject *hub_topics(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyDict_Values(((Hub *)self)->topics);
}

/* Large messages that are only kept, as the last of a `latest` topic. */
static uint64_t kept_xfers(const Hub *hub)
{
    uint64_t kept = 0;
    PyObject *name, *topic; /* borrowed */
    for (Py_ssize_t at = 0; hub->xfers && PyDict_Next(hub->topics, &at, &name, &topic);) {
        const struct blob *blob = ((const HubTopic *)topic)->retained;
        kept += blob && blob->xfer && !blob->xfer->outs;
    }
    return kept;
}

static PyObject *hub_stats(PyObject *self, void *unused)
{
    (void)unused;
    const Hub *hub = (Hub *)self;
    PyObject *dict = PyDict_New(); /* owned */
    const struct { const char *name; uint64_t value; } values[] = {
        {"frames_in", hub->frames_in},           {"frames_out", hub->frames_out},
        {"bytes_in", hub->bytes_in},             {"bytes_out", hub->bytes_out},
        {"messages_in", hub->messages_in},       {"deliveries_out", hub->deliveries_out},
        {"chunks_in", hub->chunks_in},           {"chunks_out", hub->chunks_out},
        {"routes_resolved", hub->routes_resolved}, {"messages_held", hub->blob_count},
        {"message_bytes_held", hub->blob_bytes}, {"chunk_bytes_held", hub->buffered_bytes},
        {"transfers", hub->xfers},               {"parked", hub->parked},
        {"transfers_kept", kept_xfers(hub)},     {"waiting", hub->waiting},
        {"topics", (uint64_t)PyDict_GET_SIZE(hub->topics)}, {"topics_folded", hub->folded},
        {"messages_direct", hub->messages_direct}, {"deliveries_direct", hub->deliveries_direct},
    };
    for (size_t i = 0; dict && i < sizeof values / sizeof *values; i++)
        if (hub_put_u64(dict, values[i].name, values[i].value) < 0) Py_CLEAR(dict);
    return dict;
}

static PyObject *hub_dropped(PyObject *self, void *unused)
{
    (void)unused;
    const Hub *hub = (Hub *)self;
    PyObject *dict = PyDict_New(); /* owned */
    for (uint16_t i = 0; dict && i < hub->reason_count; i++)
        if (hub->dropped[i] && hub_put_u64(dict, hub->reasons[i], hub->dropped[i]) < 0) Py_CLEAR(dict);
    return dict;
}

static PyMethodDef hub_methods[] = {
    {"topic", hub_topic_py, METH_O, "The topic of that name, or None."},
    {"declare", (PyCFunction)(void (*)(void))hub_declare, METH_VARARGS | METH_KEYWORDS, "Create or get a topic."},
    {"drop", hub_drop, METH_O, "Forget a topic; its row folds into its class."},
    {"touch", hub_touch, METH_VARARGS, "Routes of this topic (none given: all) are resolved anew."},
    {"tick", hub_tick, METH_O, "Expire, time out what is blocked, mark stalls; returns events."},
    {"release", hub_release_py, METH_O, "What waits and has room now goes on, for about a millisecond."},
    {"topics", hub_topics, METH_NOARGS, "All topics."},
    {"row", hub_row, METH_O, "Ledger row of one topic; None: there is no such topic."},
    {"walk", hub_walk, METH_VARARGS, "Walk over the ledger's rows in slices, from the start or where another one stood."},
    {"open_page", hub_open_page, METH_NOARGS, "Descriptor of the page of words that move with topics; the caller's to close."},
    {"word_of", hub_word_of, METH_O, "Which word of the page moves with a name."},
    {"word", hub_word, METH_O, "Value of a word of the page."},
    {"account", (PyCFunction)(void (*)(void))hub_account, METH_VARARGS | METH_KEYWORDS, "Count what passed the node by on links."},
    {"close", hub_close, METH_NOARGS, "Forget all topics: the node stops."},
    {NULL, NULL, 0, NULL},
};

static PyObject *hub_order(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Hub *)self)->serial);
}

static PyGetSetDef hub_getset[] = {
    {"due_ns", hub_due, NULL, "When release() has something to do; 0: nothing waits, or not for time to pass.", NULL},
    {"hurry", hub_get_hurry, hub_set_hurry, "Called when release() has something to do that no time made: due_ns is 1.", NULL},
    {"order", hub_order, NULL, "Grows with every message posted: what is posted from now on has a larger one.", NULL},
    {"stats", hub_stats, NULL, "Counters since the start and levels now.", NULL},
    {"dropped", hub_dropped, NULL, "Deliveries dropped since the start, by reason.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot hub_slots[] = {
    {Py_tp_new, hub_new},
    {Py_tp_dealloc, hub_dealloc},
    {Py_tp_methods, hub_methods},
    {Py_tp_getset, hub_getset},
    {Py_tp_doc, "Topics, queues, flow control and the ledger of one node."},
    {0, NULL},
};

static PyType_Spec hub_spec = {
    .name = "sira._native.Hub",
    .basicsize = sizeof(Hub),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hub_slots,
};

PyTypeObject *hub_type;

int sira_add_hub(PyObject *module)
{
    hub_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &hub_spec, NULL);
    if (!hub_type || PyModule_AddType(module, hub_type) < 0) return -1;
    if (hub_add_limits(module) < 0 || hub_add_topics(module) < 0 || hub_add_queues(module) < 0 ||
        hub_add_streams(module) < 0 || hub_add_walks(module) < 0) return -1;
    PyObject *bounds = PyTuple_New(HIST_BUCKETS - 1); /* owned */
    for (Py_ssize_t i = 0; bounds && i < HIST_BUCKETS - 1; i++) {
        PyObject *bound = PyLong_FromUnsignedLongLong(hub_hist_bounds_ns[i]); /* given to the tuple */
        if (!bound) Py_CLEAR(bounds);
        else PyTuple_SET_ITEM(bounds, i, bound);
    }
    const int rc = bounds ? PyModule_AddObjectRef(module, "HISTOGRAM_BOUNDS_NS", bounds) : -1;
    Py_XDECREF(bounds);
    return rc;
}
