/* Sender: the part of a publisher that every message passes, on its way out and when its receipt comes.
 *
 * It is the ticket of its own messages. outbox_feed.c hands it their receipts here, without a call into Python;
 * refusals, and the news for whoever waits, reach the Python subclass through the outcomes of feed(). Receipts
 * are kept as they came and become objects when they are asked for: most publishers ask for none. */
#include "client.h"

#include <stddef.h>
#include <structmember.h>

enum {
    SENDER_RECEIPTS_MAX = 16384, SENDER_RECEIPTS_MIN = 64, /* powers of two; kept for whoever asks */
    /* Messages past the node never wait for anything, so a loop that only sends would keep all else from running. */
    SENDER_IN_A_ROW_MAX = 64,
};

struct kept_receipt {
    uint8_t id[SIRA_ID_BYTES];
    uint64_t offset, bytes;
    uint32_t matched, nodes, copies, lane_bits;
    uint8_t grade;
    bool has_offset, spooled;
};

typedef struct {
    PyObject_HEAD
    Outbox *outbox;       /* owned; NULL: not configured */
    PyObject *topic;      /* owned str, a checked name */
    PyObject *options;    /* owned, Options or None */
    PyObject *connection; /* owned; its `ended` is not None once nothing is sent any more */
    PyObject *handling;   /* owned ContextVar: the message that is being handled, or None */
    PyObject *next_turn;  /* owned: awaiting it lets the event loop run once */
    unsigned long long sent, accepted, refused, receipts_dropped;
    char held, awaited;   /* bool of structmember.h */
    struct kept_receipt *receipts; /* owned, a ring; NULL: none came yet */
    uint32_t room, head, len;
    uint32_t in_a_row;    /* messages past the node since the event loop had a turn */
} Sender;

static PyObject *ended_name, *send_later_name, *caused_name; /* owned, interned, for ever */

/* ---- receipts --------------------------------------------------------------------------------------------- */
/* Room for one more, at the price of the oldest once there are SENDER_RECEIPTS_MAX. False: no memory. */
static bool receipts_room(Sender *self)
{
    if (self->len < self->room) return true;
    if (self->room == SENDER_RECEIPTS_MAX) {
        self->head = (self->head + 1) & (self->room - 1);
        self->len--;
        self->receipts_dropped++;
        return true;
    }
    const uint32_t room = self->room ? self->room * 2 : SENDER_RECEIPTS_MIN;
    struct kept_receipt *receipts = PyMem_New(struct kept_receipt, room);
    if (!receipts) return false;
    for (uint32_t i = 0; i < self->len; i++)
        receipts[i] = self->receipts[(self->head + i) & (self->room - 1)];
    PyMem_Free(self->receipts);
    self->receipts = receipts;
    self->room = room;
    self->head = 0;
    return true;
}

bool sender_accepted(PyObject *sender, const struct sira_receipt *receipt)
{
    assert(sender_check(sender) && receipt->id.len == SIRA_ID_BYTES);
    Sender *self = (Sender *)sender;
    self->accepted++;
    if (receipts_room(self)) {
        struct kept_receipt *kept = &self->receipts[(self->head + self->len++) & (self->room - 1)];
        memcpy(kept->id, receipt->id.data, SIRA_ID_BYTES);
        kept->offset = receipt->offset;
        kept->bytes = receipt->bytes;
        kept->matched = receipt->matched;
        kept->nodes = receipt->nodes;
        kept->copies = receipt->copies;
        kept->lane_bits = receipt->lane_bits;
        kept->grade = receipt->grade > UINT8_MAX ? UINT8_MAX : (uint8_t)receipt->grade; /* past 4: "unknown" */
        kept->has_offset = receipt->has_offset;
        kept->spooled = receipt->spooled;
    } else {
        self->receipts_dropped++;
    }
    const bool tell = self->awaited;
    self->awaited = false;
    return tell;
}

static PyObject *sender_take_receipt(Sender *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->len) Py_RETURN_NONE;
    const struct kept_receipt kept = self->receipts[self->head];
    const struct sira_receipt receipt = {
        .id = {kept.id, SIRA_ID_BYTES}, .matched = kept.matched, .grade = kept.grade, .copies = kept.copies,
        .nodes = kept.nodes, .lane_bits = kept.lane_bits, .has_offset = kept.has_offset, .spooled = kept.spooled,
        .offset = kept.offset, .bytes = kept.bytes,
    };
    PyObject *result = sira_receipt_new(&receipt); /* owned */
    if (!result) return NULL;
    self->head = (self->head + 1) & (self->room - 1);
    self->len--;
    return result;
}

/* ---- sending ---------------------------------------------------------------------------------------------- */
/* Whether Python is to be asked: something is to be raised, or nothing is sent any more. -1: an exception. */
static int is_held(Sender *self)
{
    if (self->held) return 1;
    PyObject *ended = PyObject_GetAttr(self->connection, ended_name); /* owned */
    if (!ended) return -1;
    Py_DECREF(ended); /* compared only */
    return ended != Py_None;
}

/* What the message says of itself: as configured, or with the message being handled as its cause. Owned. */
static PyObject *options_now(Sender *self)
{
    PyObject *cause; /* owned */
    if (PyContextVar_Get(self->handling, NULL, &cause) < 0) return NULL;
    const bool none = !cause || cause == Py_None;
    Py_XDECREF(cause);
    return none ? Py_NewRef(self->options) : PyObject_CallMethodNoArgs((PyObject *)self, caused_name);
}

/* It went past the node: its receipt is here. -1: an exception of whoever waits for receipts. */
static int account(Sender *self, const struct sira_receipt *receipt)
{
    self->sent++;
    if (!sender_accepted((PyObject *)self, receipt)) return 0;
    PyObject *told = PyObject_CallOneArg((PyObject *)self, Py_None); /* owned */
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Past the node, if it has a way there; waits for room. May run anything. */
static enum outbox_direct send_direct(Sender *self, Outbox *outbox, PyObject *topic, struct sira_body *body,
                                      const struct sira_options *options, int64_t wait_ns)
{
    struct sira_receipt receipt;
    uint8_t id[SIRA_ID_BYTES];
    const enum outbox_direct result = outbox_direct_wait(outbox, topic, body, options, NULL, id, &receipt, wait_ns);
    return result == DIRECT_POSTED && account(self, &receipt) < 0 ? DIRECT_FAILED : result;
}

/* direct(body, options=None) -> bool: for _send_later(), which has waited for a way past the node */
static PyObject *sender_direct(Sender *self, PyObject *args)
{
    PyObject *body_object, *options_object = Py_None; /* borrowed */
    if (!PyArg_ParseTuple(args, "O|O:direct", &body_object, &options_object)) return NULL;
    if (!self->outbox) {
        PyErr_SetString(PyExc_RuntimeError, "configure() was not called");
        return NULL;
    }
    PyObject *kept = Py_NewRef(options_object == Py_None ? self->options : options_object); /* owned, as the next two */
    Outbox *outbox = (Outbox *)Py_NewRef(self->outbox);
    PyObject *topic = Py_NewRef(self->topic);
    const struct sira_options *options = sira_options_of(kept);
    struct sira_body body;
    enum outbox_direct result = DIRECT_FAILED;
    if (options && sira_body_from_py(body_object, &body) == 0) {
        result = send_direct(self, outbox, topic, &body, options, 0);
        sira_body_clear(&body);
    }
    Py_DECREF(kept);
    Py_DECREF(outbox);
    Py_DECREF(topic);
    return result == DIRECT_FAILED ? NULL : PyBool_FromLong(result == DIRECT_POSTED);
}

/* Past the node, or queued to go by it. *result: what awaiting it gives, but where Python is to see to it. */
static enum outbox_direct send_now(Sender *self, Outbox *outbox, PyObject *topic_object, struct sira_body *body,
                                   const struct sira_options *options, int64_t wait_ns, PyObject **result)
{
    enum outbox_direct direct = send_direct(self, outbox, topic_object, body, options, wait_ns);
    if (direct == DIRECT_POSTED) {
        const bool turn = ++self->in_a_row >= SENDER_IN_A_ROW_MAX;
        if (turn) self->in_a_row = 0;
        *result = turn ? Py_NewRef(self->next_turn) : sira_ready_new(Py_NewRef(Py_None));
        return direct;
    }
    if (direct != DIRECT_NOT) return direct;
    if (!outbox_room(outbox)) return DIRECT_NO_ROOM;
    struct sira_slice topic;
    uint8_t id[SIRA_ID_BYTES];
    Py_ssize_t topic_len;
    topic.data = (const uint8_t *)PyUnicode_AsUTF8AndSize(topic_object, &topic_len); /* cached by configure() */
    topic.len = (size_t)topic_len;
    if (!topic.data || outbox_place(outbox, topic_object, body, NULL) < 0) return DIRECT_FAILED;
    const enum outbox_pushed pushed = outbox_push_body(outbox, topic, body, options, (PyObject *)self, id);
    if (pushed != OUTBOX_PUSHED) return pushed == OUTBOX_FULL ? DIRECT_NO_ROOM : DIRECT_FAILED;
    routes_pushed(outbox, topic_object, options);
    const bool slept = !outbox->signalled;
    self->sent++;
    self->in_a_row = 0;
    if (slept) outbox_signal(outbox);
    /* A writer that slept has to run, so that a message that is alone leaves at once. */
    *result = slept && outbox->signalled ? Py_NewRef(self->next_turn) : sira_ready_new(Py_NewRef(Py_None));
    return DIRECT_POSTED;
}

/* What awaiting the message gives; it may wait for room at a link for `wait_ns` before that. */
static PyObject *send(Sender *self, PyObject *body_object, int64_t wait_ns)
{
    if (!self->outbox) {
        PyErr_SetString(PyExc_RuntimeError, "configure() was not called");
        return NULL;
    }
    const int held = is_held(self);
    if (held < 0) return NULL;
    /* Who has no room yet, and waits for a way past the node, waits in Python. */
    if (held || routes_wait(self->outbox, self->topic)
        || (!outbox_room(self->outbox) && !routes_any_live(self->outbox)))
        return PyObject_CallMethodOneArg((PyObject *)self, send_later_name, body_object);
    PyObject *options_object = options_now(self); /* owned */
    const struct sira_options *options = options_object ? sira_options_of(options_object) : NULL;
    struct sira_body body;
    if (!options || sira_body_from_py(body_object, &body) < 0) { /* may run anything; nothing of ours is held yet */
        Py_XDECREF(options_object);
        return NULL;
    }
    Outbox *outbox = (Outbox *)Py_NewRef(self->outbox);     /* owned: configure() may come again below */
    PyObject *topic = Py_NewRef(self->topic);               /* owned */
    PyObject *result = NULL;                                /* owned */
    const enum outbox_direct done = send_now(self, outbox, topic, &body, options, wait_ns, &result);
    sira_body_clear(&body);
    Py_DECREF(options_object);
    Py_DECREF(topic);
    Py_DECREF(outbox);
    /* No room: at a target of the route, or a large body and those before it are not on their way yet. */
    if (done == DIRECT_NO_ROOM) return PyObject_CallMethodOneArg((PyObject *)self, send_later_name, body_object);
    return done == DIRECT_POSTED ? result : NULL;
}

static PyObject *sender_send(Sender *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count + named > 1 || (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "body"))) {
        PyErr_SetString(PyExc_TypeError, "send(body=None)");
        return NULL;
    }
    return send(self, count + named ? args[0] : Py_None, 0);
}

/* send_here(body, wait_s): for threads but the event loop's */
static PyObject *sender_send_here(Sender *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "send_here(body, wait_s)");
        return NULL;
    }
    const int64_t wait_ns = outbox_wait_ns(args[1]);
    PyObject *result = wait_ns < 0 ? NULL : send(self, args[0], wait_ns); /* owned */
    if (!result || (Py_TYPE(result) != &sira_ready_type && result != self->next_turn)) return result;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

/* ---- the type --------------------------------------------------------------------------------------------- */
static PyObject *sender_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return type->tp_alloc(type, 0);
}

static PyObject *sender_configure(Sender *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"outbox", "topic", "options", "connection", "handling", "next_turn", NULL};
    PyObject *outbox, *topic, *options, *connection, *handling, *next_turn; /* borrowed */
    struct sira_slice checked;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OOOO!O:configure", names, &sira_outbox_type, &outbox, &topic,
                                     &options, &connection, &PyContextVar_Type, &handling, &next_turn))
        return NULL;
    if (!sira_options_of(options) || sira_topic_of_py(topic, &checked) < 0) return NULL;
    Py_XSETREF(self->outbox, (Outbox *)Py_NewRef(outbox));
    Py_XSETREF(self->topic, Py_NewRef(topic));
    Py_XSETREF(self->options, Py_NewRef(options));
    Py_XSETREF(self->connection, Py_NewRef(connection));
    Py_XSETREF(self->handling, Py_NewRef(handling));
    Py_XSETREF(self->next_turn, Py_NewRef(next_turn));
    Py_RETURN_NONE;
}

static int sender_traverse(Sender *self, visitproc visit, void *arg)
{
    Py_VISIT(self->outbox);
    Py_VISIT(self->options);
    Py_VISIT(self->connection);
    Py_VISIT(self->handling);
    Py_VISIT(self->next_turn);
    return 0;
}

static int sender_clear(Sender *self)
{
    Py_CLEAR(self->outbox); /* send() refuses from here on */
    Py_CLEAR(self->connection);
    Py_CLEAR(self->handling);
    Py_CLEAR(self->next_turn);
    Py_CLEAR(self->options);
    return 0;
}

static void sender_dealloc(Sender *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sender_clear(self);
    Py_CLEAR(self->topic);
    PyMem_Free(self->receipts);
    type->tp_free(self);
}

static PyMethodDef sender_methods[] = {
    {"send", (PyCFunction)(void (*)(void))sender_send, METH_FASTCALL | METH_KEYWORDS,
     "send($self, /, body=None)\n--\n\n"
     "Queue one message; awaiting suspends only while there is no room.\n\n"
     "Args:\n"
     "    body: tensors by name, bytes or text. Bodies up to 256 KiB are copied at once; the\n"
     "        memory of larger ones must not change before `flush`.\n"
     "Raises:\n"
     "    SiraError: the body cannot be sent, or the node refused an earlier message.\n"
     "    Unreachable: closed."},
    {"send_here", (PyCFunction)(void (*)(void))sender_send_here, METH_FASTCALL,
     "send_here(body, wait_s): as send, waiting in this thread; None, or an awaitable for the event loop."},
    {"direct", (PyCFunction)sender_direct, METH_VARARGS, "direct(body, options=None) -> bool: sent past the node."},
    {"take_receipt", (PyCFunction)sender_take_receipt, METH_NOARGS, "take_receipt() -> Receipt | None: the oldest."},
    {"configure", (PyCFunction)(void (*)(void))sender_configure, METH_VARARGS | METH_KEYWORDS,
     "configure(*, outbox, topic, options, connection, handling, next_turn)"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef sender_members[] = {
    {"sent", T_ULONGLONG, offsetof(Sender, sent), 0, "messages given to send()"},
    {"accepted", T_ULONGLONG, offsetof(Sender, accepted), READONLY, "messages that the node has taken"},
    {"refused", T_ULONGLONG, offsetof(Sender, refused), 0, "messages that were not taken"},
    {"receipts_dropped", T_ULONGLONG, offsetof(Sender, receipts_dropped), READONLY,
     "receipts that nobody had asked for when there were too many"},
    {"receipts_here", T_UINT, offsetof(Sender, len), READONLY, "receipts that take_receipt() would give"},
    {"held", T_BOOL, offsetof(Sender, held), 0, "send() asks _send_later()"},
    {"awaited", T_BOOL, offsetof(Sender, awaited), 0, "the next receipt is told by an outcome None, once"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_sender_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Sender",
    .tp_basicsize = sizeof(Sender),
    .tp_new = sender_new,
    .tp_dealloc = (destructor)sender_dealloc,
    .tp_traverse = (traverseproc)sender_traverse,
    .tp_clear = (inquiry)sender_clear,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_methods = sender_methods,
    .tp_members = sender_members,
    .tp_doc = "What every message of a publisher passes: send(), and the receipts that come back.",
};

int sira_sender_init(void)
{
    if (!ended_name && !(ended_name = PyUnicode_InternFromString("ended"))) return -1;
    if (!send_later_name && !(send_later_name = PyUnicode_InternFromString("_send_later"))) return -1;
    if (!caused_name && !(caused_name = PyUnicode_InternFromString("_caused"))) return -1;
    return 0;
}
