/* Ingress and Egress as Python sees them. */
#include "hub_stream.h"
#include "pb.h"
#include "pyutil.h"

/* ---- Ingress: Python -------------------------------------------------------------------------------------------------- */

static PyObject *ingress_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"hub",          "client",  "stamp",  "resolve", "wake", "window_messages",
                            "window_bytes", "history", "resume", "waits",   NULL};
    PyObject *hub, *stamp = NULL, *resolve = NULL, *wake = NULL, *history = Py_None; /* borrowed */
    unsigned long long client = 0, window_bytes = 16u << 20, resume = 0;
    unsigned int window_messages = 4096;
    int waits = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$KO!OOIKOKp:Ingress", names, hub_type, &hub, &client,
                                     &PyBytes_Type, &stamp, &resolve, &wake, &window_messages, &window_bytes, &history,
                                     &resume, &waits))
        return NULL;
    if (!stamp || !resolve || !wake) {
        PyErr_SetString(PyExc_TypeError, "Ingress() needs stamp, resolve and wake");
        return NULL;
    }
    if (history != Py_None && !Py_IS_TYPE(history, history_type)) {
        PyErr_SetString(PyExc_TypeError, "history must be a History or None");
        return NULL;
    }
    Ingress *in = (Ingress *)type->tp_alloc(type, 0);
    if (!in) return NULL;
    in->closed = true; /* until it is in the hub's list */
    in->lane = LANE_GRPC;
    in->credits = PyList_New(0);
    if (!in->credits) {
        Py_DECREF(in);
        return NULL;
    }
    in->hub = (Hub *)Py_NewRef(hub);
    in->stamp = Py_NewRef(stamp);
    in->resolve = Py_NewRef(resolve);
    in->wake = Py_NewRef(wake);
    in->history = history == Py_None ? NULL : (History *)Py_NewRef(history);
    if (in->history) in->history->cursor = 0;
    in->client = client;
    in->serial = ++in->hub->serial;
    in->idle = true;
    in->expire_ns = UINT64_MAX;
    in->window_messages = window_messages;
    in->window_bytes = window_bytes;
    in->resume = resume;
    in->waits = waits;
    in->hub_next = in->hub->ingresses;
    if (in->hub_next) in->hub_next->hub_prev = in;
    in->hub->ingresses = in;
    in->closed = false;
    return (PyObject *)in;
}

static void ingress_dealloc(PyObject *self)
{
    Ingress *in = (Ingress *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (in->hub) ingress_close(in, in->hub->now_ns);
    Py_XDECREF(in->credits);
    Py_XDECREF(in->stamp);
    Py_XDECREF(in->resolve);
    Py_XDECREF(in->wake);
    Py_XDECREF(in->drained);
    Py_XDECREF(in->aside);
    Py_XDECREF(in->lender);
    Py_XDECREF(in->asked);
    Py_XDECREF(in->history);
    Py_XDECREF(in->hub);
    type->tp_free(self);
    Py_DECREF(type);
}

static bool frame_and_now(PyObject *const *args, Py_ssize_t count, uint64_t *now_ns)
{
    if (count != 2 || !PyBytes_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "expected (frame: bytes, now_ns: int)");
        return false;
    }
    *now_ns = PyLong_AsUnsignedLongLong(args[1]);
    return !PyErr_Occurred();
}

/* (frame, now_ns, at=0, work_ns=0) -> where to go on; 0: the frame is done. */
static PyObject *ingress_feed_py(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Ingress *in = (Ingress *)self;
    uint64_t now_ns, work_ns = 0;
    size_t at = 0;
    if (!frame_and_now(args, count < 2 ? count : 2, &now_ns)) return NULL;
    if (count > 4) return PyErr_Format(PyExc_TypeError, "expected at most 4 arguments, got %zd", count);
    if (count > 2) at = PyLong_AsSize_t(args[2]);
    if (count > 3) work_ns = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred()) return NULL;
    const size_t len = (size_t)PyBytes_GET_SIZE(args[0]);
    if (at > len) return PyErr_Format(PyExc_ValueError, "at %zu is past the end of the frame", at);
    if (in->closed) return sira_raise("CONNECTION_CLOSED", "this stream is closed");
    int rc = ingress_feed(in, args[0], now_ns, work_ns, &at);
    if (rc == 0 && in->hub->retry) hub_retry(in->hub, now_ns);
    hub_tell(in->hub);
    if (rc < 0) return NULL;
    return PyLong_FromSize_t(at == len ? 0 : at);
}

static PyObject *ingress_next_frame_py(PyObject *self, PyObject *now)
{
    const uint64_t now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred()) return NULL;
    if (((Ingress *)self)->closed) Py_RETURN_NONE;
    PyObject *frame = ingress_next_frame((Ingress *)self, now_ns); /* owned */
    hub_tell(((Ingress *)self)->hub);
    return frame || PyErr_Occurred() ? frame : Py_NewRef(Py_None);
}

/* (error, now_ns): the stream ends in order, and what was accepted behind what waits is still to be told. */
static PyObject *ingress_refuse_parked_py(PyObject *self, PyObject *args)
{
    Ingress *in = (Ingress *)self;
    PyObject *exception; /* borrowed */
    unsigned long long now_ns;
    if (!PyArg_ParseTuple(args, "OK:refuse_parked", &exception, &now_ns)) return NULL;
    if (!PyExceptionInstance_Check(exception)) return PyErr_Format(PyExc_TypeError, "expected an exception");
    if (in->closed || in->busy || !in->parked) Py_RETURN_NONE;
    char code[REASON_BYTES];
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    hub_exception_code(code, sizeof code);
    PyObject *error = hub_error_bytes(in->hub); /* owned */
    if (!error) return NULL;
    const int rc = in->closed ? 0 : ingress_refuse_parked(in, error, code, now_ns);
    Py_DECREF(error);
    hub_tell(in->hub);
    if (rc < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *ingress_close_py(PyObject *self, PyObject *now)
{
    const uint64_t now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred()) return NULL;
    ingress_close((Ingress *)self, now_ns);
    hub_tell(((Ingress *)self)->hub);
    Py_RETURN_NONE;
}

static PyObject *ingress_get(PyObject *self, void *which)
{
    const Ingress *in = (Ingress *)self;
    switch ((intptr_t)which) {
    case 0: return PyBool_FromLong(in->full);
    case 2: return PyLong_FromUnsignedLongLong(in->published);
    case 3: return PyLong_FromUnsignedLongLong(in->bytes);
    case 7: return PyLong_FromUnsignedLongLong(in->limited_until_ns);
    case 4: return PyLong_FromUnsignedLong(in->parked_count);
    case 5: return PyLong_FromUnsignedLongLong(in->buffered_bytes + in->parked_bytes);
    default: {
        unsigned long count = in->slot_len;
        for (const struct xfer *xfer = in->xfers; xfer; xfer = xfer->next) count += xfer->parked && xfer->complete;
        return PyLong_FromUnsignedLong(count);
    }
    }
}

/* What Python may be called with; `at` is the member's offset. */
static PyObject *ingress_get_call(PyObject *self, void *at)
{
    PyObject *call = *(PyObject **)(void *)((char *)self + (intptr_t)at); /* borrowed */
    return Py_NewRef(call ? call : Py_None);
}

static int ingress_set_call(PyObject *self, PyObject *value, void *at)
{
    PyObject **call = (PyObject **)(void *)((char *)self + (intptr_t)at);
    Py_XSETREF(*call, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyObject *ingress_get_lane(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((Ingress *)self)->lane);
}

static int ingress_set_lane(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    const long lane = value ? PyLong_AsLong(value) : 0;
    if (lane == -1 && PyErr_Occurred()) return -1;
    if (lane < 1 || lane > LANE_NUMBER_MAX) {
        PyErr_SetString(PyExc_ValueError, "a lane is a number of sira.v1.Lane");
        return -1;
    }
    ((Ingress *)self)->lane = (uint8_t)lane;
    return 0;
}

static PyGetSetDef ingress_getset[] = {
    {"full", ingress_get, NULL, "Stop reading this stream until `drained` is called.", (void *)0},
    {"drained", ingress_get_call, ingress_set_call, "Called when `full` ends.", (void *)offsetof(Ingress, drained)},
    {"aside", ingress_get_call, ingress_set_call, "Called with (frame, now_ns) of an aside.",
     (void *)offsetof(Ingress, aside)},
    {"lender", ingress_get_call, ingress_set_call,
     "Called with (segment, offset, bytes, lease, topic or None) of a lent chunk; gives its ShmSpan.",
     (void *)offsetof(Ingress, lender)},
    {"asked", ingress_get_call, ingress_set_call,
     "Called with (ask, topic) of a route that is asked for, behind all that was sent before.",
     (void *)offsetof(Ingress, asked)},
    {"lane", ingress_get_lane, ingress_set_lane, "Number of sira.v1.Lane that its receipts tell.", NULL},
    {"published", ingress_get, NULL, "Messages accepted.", (void *)2},
    {"bytes", ingress_get, NULL, "Payload bytes accepted.", (void *)3},
    {"limited_until_ns", ingress_get, NULL, "When all rates that refused messages of the last frame have room; 0: none did.", (void *)7},
    {"parked", ingress_get, NULL, "Messages that wait for room at a subscriber or within a limit.", (void *)4},
    {"held_bytes", ingress_get, NULL, "Payload bytes that wait here or in transfers.", (void *)5},
    {"unanswered", ingress_get, NULL, "Messages whose receipt has not been taken.", (void *)6},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef ingress_methods[] = {
    {"feed", (PyCFunction)(void (*)(void))ingress_feed_py, METH_FASTCALL, "Take a Frame from the publisher: (frame, now_ns, at=0, work_ns=0) -> where to go on, 0 at its end."},
    {"next_frame", ingress_next_frame_py, METH_O, "Receipts and credits for the publisher, or None."},
    {"waits", ingress_waits_py, METH_O, "Whether something of this topic is parked here, or not whole."},
    {"refuse_parked", ingress_refuse_parked_py, METH_VARARGS, "Answer all that waits with this error: (error, now_ns)."},
    {"close", ingress_close_py, METH_O, "The stream is gone."},
    {NULL, NULL, 0, NULL},
};

/* ---- Egress: Python --------------------------------------------------------------------------------------------------- */

static PyObject *egress_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"hub", "client", "wake", "batch_bytes", NULL};
    PyObject *hub, *wake = NULL; /* borrowed */
    unsigned long long client = 0;
    unsigned int batch_bytes = SIRA_BATCH_BYTES;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$KOI:Egress", names, hub_type, &hub, &client, &wake, &batch_bytes))
        return NULL;
    if (!wake) {
        PyErr_SetString(PyExc_TypeError, "Egress() needs wake");
        return NULL;
    }
    Egress *egress = (Egress *)type->tp_alloc(type, 0);
    if (!egress) return NULL;
    egress->control = PyList_New(0);
    if (!egress->control) {
        Py_DECREF(egress);
        return NULL;
    }
    egress->hub = (Hub *)Py_NewRef(hub);
    egress->wake = Py_NewRef(wake);
    egress->client = client;
    egress->batch_bytes = batch_bytes;
    egress->idle = true;
    return (PyObject *)egress;
}

static void egress_dealloc(PyObject *self)
{
    Egress *egress = (Egress *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (egress->hub && egress->control) egress_close(egress, R_PEER_LOST, egress->hub->now_ns);
    Py_XDECREF(egress->control);
    Py_XDECREF(egress->wake);
    Py_XDECREF(egress->lend);
    Py_XDECREF(egress->hub);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *egress_open_py(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"subscription", "pattern", "group", "overflow", "window_messages", "window_bytes", NULL};
    Egress *egress = (Egress *)self;
    PyObject *pattern = NULL, *group = Py_None; /* borrowed */
    unsigned int id, window_messages = 1024;
    int overflow = OVERFLOW_BLOCK;
    unsigned long long window_bytes = 64u << 20;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|$UOiIK:open", names, &id, &pattern, &group, &overflow,
                                     &window_messages, &window_bytes))
        return NULL;
    if (!pattern) {
        PyErr_SetString(PyExc_TypeError, "open() needs pattern");
        return NULL;
    }
    if (egress->closed) return sira_raise("CONNECTION_CLOSED", "this stream is closed");
    if (egress_find(egress, id)) return sira_raise("BAD_REQUEST", "subscription %u is open already", id);
    if (overflow < OVERFLOW_BLOCK || overflow > OVERFLOW_LATEST || !window_messages || !window_bytes)
        return sira_raise("BAD_REQUEST", "overflow is 1, 2 or 3, and windows are not 0");
    if (group != Py_None && !Py_IS_TYPE(group, group_type)) {
        PyErr_SetString(PyExc_TypeError, "group must be a Group or None");
        return NULL;
    }
    Sub *sub = (Sub *)sub_type->tp_alloc(sub_type, 0);
    if (!sub) return NULL;
    sub->hub = (Hub *)Py_NewRef(egress->hub);
    sub->pattern = Py_NewRef(pattern);
    sub->id = id;
    sub->overflow = (uint8_t)overflow;
    sub->window_messages = window_messages;
    sub->window_bytes = window_bytes;
    if (group != Py_None) {
        Group *g = (Group *)group;
        if (g->len == g->cap) {
            const uint32_t cap = g->cap ? g->cap * 2 : 4;
            Sub **members = PyMem_Realloc(g->members, cap * sizeof *members);
            if (!members) {
                Py_DECREF(sub);
                return PyErr_NoMemory();
            }
            g->members = members;
            g->cap = cap;
        }
        sub->group = (Group *)Py_NewRef(group);
    }
    if (egress_insert(egress, sub) < 0) {
        Py_DECREF(sub);
        return NULL;
    }
    if (sub->group) sub->group->members[sub->group->len++] = sub;
    sub->egress = egress;
    return Py_NewRef(sub); /* the egress keeps the first reference */
}

static PyObject *egress_control_py(PyObject *self, PyObject *args)
{
    Egress *egress = (Egress *)self;
    unsigned int kind;
    Py_buffer body;
    if (!PyArg_ParseTuple(args, "Iy*:control", &kind, &body)) return NULL;
    const size_t item = pb_bytes_size(kind, (size_t)body.len);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pb_bytes_size(1, item)); /* owned */
    int rc = -1;
    if (bytes) {
        uint8_t *p = pb_put_varint(pb_put_key((uint8_t *)PyBytes_AS_STRING(bytes), 1, PB_LEN), item);
        (void)pb_put_bytes(p, kind, body.buf, (size_t)body.len);
        rc = PyList_Append(egress->control, bytes);
        Py_DECREF(bytes);
    }
    PyBuffer_Release(&body);
    if (rc < 0) return NULL;
    egress_wake(egress);
    hub_tell(egress->hub);
    Py_RETURN_NONE;
}

static PyObject *egress_feed_py(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t now_ns;
    if (!frame_and_now(args, count, &now_ns)) return NULL;
    if (((Egress *)self)->closed) return sira_raise("CONNECTION_CLOSED", "this stream is closed");
    PyObject *others = egress_feed((Egress *)self, args[0], now_ns); /* owned */
    hub_tell(((Egress *)self)->hub);
    return others;
}

static PyObject *egress_next_frame_py(PyObject *self, PyObject *now)
{
    const uint64_t now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred()) return NULL;
    if (((Egress *)self)->closed) Py_RETURN_NONE;
    PyObject *frame = egress_next_frame((Egress *)self, now_ns); /* owned */
    hub_tell(((Egress *)self)->hub);
    return frame || PyErr_Occurred() ? frame : Py_NewRef(Py_None);
}

static PyObject *egress_close_sub_py(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sub", "now_ns", "reason", NULL};
    Egress *egress = (Egress *)self;
    PyObject *sub; /* borrowed */
    unsigned long long now_ns;
    const char *reason = "UNSUBSCRIBED";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!K|$s:close_sub", names, sub_type, &sub, &now_ns, &reason)) return NULL;
    egress_close_sub(egress, (Sub *)sub, hub_reason(egress->hub, reason), now_ns);
    hub_tell(egress->hub);
    Py_RETURN_NONE;
}

static PyObject *egress_close_py(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"now_ns", "reason", NULL};
    Egress *egress = (Egress *)self;
    unsigned long long now_ns;
    const char *reason = "PEER_LOST";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$s:close", names, &now_ns, &reason)) return NULL;
    egress_close(egress, hub_reason(egress->hub, reason), now_ns);
    hub_tell(egress->hub);
    Py_RETURN_NONE;
}

static PyObject *egress_get(PyObject *self, void *which)
{
    const Egress *egress = (Egress *)self;
    uint64_t pending = 0, in_flight = 0, bytes = 0, delivered = 0;
    for (uint32_t i = 0; i < egress->sub_len; i++) {
        pending += egress->subs[i]->pending;
        in_flight += egress->subs[i]->in_flight;
        bytes += egress->subs[i]->pending_bytes;
        delivered += egress->subs[i]->delivered;
    }
    switch ((intptr_t)which) {
    case 0: return PyLong_FromUnsignedLongLong(pending);
    case 1: return PyLong_FromUnsignedLongLong(in_flight);
    case 2: return PyLong_FromUnsignedLongLong(bytes);
    default: return PyLong_FromUnsignedLongLong(delivered);
    }
}

static PyObject *egress_get_lend(PyObject *self, void *unused)
{
    (void)unused;
    const Egress *egress = (Egress *)self;
    return Py_NewRef(egress->lend ? egress->lend : Py_None);
}

static int egress_set_lend(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_XSETREF(((Egress *)self)->lend, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyGetSetDef egress_getset[] = {
    {"lend", egress_get_lend, egress_set_lend,
     "Called with a ShmSpan that the subscriber is to look at; gives its lease, 0: copy the bytes.", NULL},
    {"pending", egress_get, NULL, "Messages waiting to be sent.", (void *)0},
    {"in_flight", egress_get, NULL, "Messages sent and not confirmed.", (void *)1},
    {"queued_bytes", egress_get, NULL, "Payload bytes waiting to be sent.", (void *)2},
    {"delivered", egress_get, NULL, "Messages confirmed, of the subscriptions that are open.", (void *)3},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef egress_methods[] = {
    {"open", (PyCFunction)(void (*)(void))egress_open_py, METH_VARARGS | METH_KEYWORDS, "Open a subscription."},
    {"control", egress_control_py, METH_VARARGS, "Queue one control item, ahead of messages."},
    {"feed", (PyCFunction)(void (*)(void))egress_feed_py, METH_FASTCALL, "Take a Frame from the subscriber."},
    {"next_frame", egress_next_frame_py, METH_O, "The next Frame for the subscriber, or None."},
    {"close_sub", (PyCFunction)(void (*)(void))egress_close_sub_py, METH_VARARGS | METH_KEYWORDS, "End a subscription."},
    {"close", (PyCFunction)(void (*)(void))egress_close_py, METH_VARARGS | METH_KEYWORDS, "The stream is gone."},
    {NULL, NULL, 0, NULL},
};

/* ---- types ---------------------------------------------------------------------------------------------------------------- */

static PyType_Slot ingress_slots[] = {
    {Py_tp_new, ingress_new},         {Py_tp_dealloc, ingress_dealloc},
    {Py_tp_getset, ingress_getset},   {Py_tp_methods, ingress_methods},
    {Py_tp_doc, "A Publish stream on the node."}, {0, NULL},
};
static PyType_Spec ingress_spec = {.name = "sira._native.Ingress", .basicsize = sizeof(Ingress),
                                   .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, .slots = ingress_slots};
static PyType_Slot egress_slots[] = {
    {Py_tp_new, egress_new},          {Py_tp_dealloc, egress_dealloc},
    {Py_tp_getset, egress_getset},    {Py_tp_methods, egress_methods},
    {Py_tp_doc, "A Subscribe stream on the node."}, {0, NULL},
};
static PyType_Spec egress_spec = {.name = "sira._native.Egress", .basicsize = sizeof(Egress),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, .slots = egress_slots};

PyTypeObject *ingress_type, *egress_type;

int hub_add_streams(PyObject *module)
{
    if (hub_add_history(module) < 0) return -1;
    ingress_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &ingress_spec, NULL);
    if (!ingress_type || PyModule_AddType(module, ingress_type) < 0) return -1;
    egress_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &egress_spec, NULL);
    if (!egress_type || PyModule_AddType(module, egress_type) < 0) return -1;
    return 0;
}
