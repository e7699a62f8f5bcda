/* Leading at the bells for one message, in one call. Where several threads wait one leads (client/local/bells.py says how they
 * take turns); where one waits alone, as most do, nothing of that is to be thought of, and Python was a third of a round trip.
 *
 * Whoever has something for a thread that waits here, and does not bring it through the mailbox, says so where it is looked for
 * first (`over`, the request itself), and wakes who leads. So who leads says so first, and looks then. */
#include "shm_bells_py.h"

#include "message.h"
#include "route.h"

enum { REPLY_FINAL = 1 }; /* of sira.v1.ReplyKind */

static bool is_shared(const ShmBells *self)
{
    return self->is_watched || self->is_closed || (self->followers && PyDict_GET_SIZE(self->followers));
}

/* Lead, unless another thread does. A handler of signals waits on top of what it has interrupted. */
static bool leads(ShmBells *self)
{
    const unsigned long thread = PyThread_get_thread_ident();
    if (self->is_led && self->leader != thread) return false;
    self->is_led = true;
    self->leader = thread;
    self->leads++;
    self->turns++;
    return true;
}

/* Nothing, where the calling thread does not lead. */
static void leaves(ShmBells *self)
{
    if (!self->is_led || self->leader != PyThread_get_thread_ident() || --self->leads) return;
    self->is_led = false;
    if (self->is_closed) sira_bells_shut(self);
}

/* Nothing but the calling thread is to be thought of? It leads then. */
static bool begins(ShmBells *self)
{
    return !is_shared(self) && self->fork_depth == sira_fork_depth && leads(self);
}

/* May run anything. An exception that is set stays set; else what `left` raises, a handler of signals among it, is. */
static void ends(ShmBells *self)
{
    leaves(self);
    if (!self->left || (!is_shared(self) && (!self->waiting || PyDict_GET_SIZE(self->waiting) == 0))) return;
    PyObject *left = Py_NewRef(self->left);  /* owned: it may be replaced */
    PyObject *type, *value, *trace;          /* owned */
    PyErr_Fetch(&type, &value, &trace);
    PyObject *result = PyObject_CallNoArgs(left); /* owned */
    if (!result && type) PyErr_WriteUnraisable(left);
    if (type) PyErr_Restore(type, value, trace);
    Py_XDECREF(result);
    Py_DECREF(left);
}

PyObject *sira_bells_lead(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    ShmBells *self = (ShmBells *)object;
    if (self->fork_depth != sira_fork_depth)
        return sira_raise("CONNECTION_CLOSED", "these bells belong to the parent process: connect anew after fork()");
    return PyBool_FromLong(leads(self));
}

PyObject *sira_bells_wake(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const ShmBells *self = (const ShmBells *)object;
    if (self->is_led && self->leader != PyThread_get_thread_ident()) (void)sira_bell_ring(self->kick);
    Py_RETURN_NONE;
}

PyObject *sira_bells_leave(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    leaves((ShmBells *)object);
    Py_RETURN_NONE;
}

/* next(mailbox, timeout_s) -> Message | None */
PyObject *sira_bells_next(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ShmBells *self = (ShmBells *)object;
    if (count != 2 || !PyObject_TypeCheck(args[0], &sira_mailbox_type)) {
        PyErr_SetString(PyExc_TypeError, "next(mailbox, timeout_s)");
        return NULL;
    }
    Mailbox *mailbox = (Mailbox *)args[0];
    const double timeout_s = PyFloat_AsDouble(args[1]);
    if (timeout_s == -1 && PyErr_Occurred()) return NULL;
    if (!begins(self)) Py_RETURN_NONE;
    PyObject *message = NULL; /* owned */
    if (mailbox->mask) {
        message = mailbox_take(mailbox);
    } else if (!mailbox->over) {
        mailbox_awaits(mailbox);
        message = sira_bells_take(self, mailbox, timeout_s, NULL);
    }
    ends(self);
    if (PyErr_Occurred()) Py_CLEAR(message);
    else if (!message) Py_RETURN_NONE;
    return message;
}

static bool is_id(PyObject *object)
{
    return PyBytes_Check(object) && PyBytes_GET_SIZE(object) == SIRA_ID_BYTES;
}

static bool answers(PyObject *message, PyObject *id)
{
    const struct message *reply = (const struct message *)message;
    return reply->reply_kind == REPLY_FINAL && reply->stream_id
           && memcmp(reply->stream_id, PyBytes_AS_STRING(id), SIRA_ID_BYTES) == 0;
}

/* An exception that is set stays set. */
static void forget(PyObject *waiting, PyObject *id)
{
    if (!waiting) return; /* closed meanwhile */
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    if (PyDict_DelItem(waiting, id) < 0) PyErr_Clear(); /* somebody was quicker */
    PyErr_Restore(type, value, trace);
}

/* A reply to somebody else came instead: the caller hands it out. */
static PyObject *for_others(PyObject *reply)
{
    PyObject *list = PyList_New(reply ? 1 : 0); /* owned until returned */
    if (list && reply) PyList_SET_ITEM(list, 0, Py_NewRef(reply));
    return list;
}

/* Has `pending` nothing yet, of what its threads look at? -1: an exception. */
static int waits_still(PyObject *pending)
{
    static PyObject *names[2]; /* owned, for ever */
    if (!names[0] && !(names[0] = PyUnicode_InternFromString("answer"))) return -1;
    if (!names[1] && !(names[1] = PyUnicode_InternFromString("error"))) return -1;
    for (int i = 0; i < 2; i++) {
        PyObject *found = PyObject_GetAttr(pending, names[i]); /* owned */
        if (!found) return -1;
        const bool is_none = found == Py_None;
        Py_DECREF(found);
        if (!is_none) return 0;
    }
    return 1;
}

/* Wait for the reply to what is in `waiting`: the reply, which is the `answer` of `pending` then and in `waiting` no more, or a
 * list of others' (see ask()). NULL: an exception, also of a handler of signals. Requires: nobody else leads, by begins(). */
static PyObject *await_reply(ShmBells *self, PyObject *id, Mailbox *mailbox, double timeout_s, PyObject *pending)
{
    PyObject *reply = NULL; /* owned */
    const int waits = waits_still(pending);
    if (waits > 0) reply = sira_bells_take(self, mailbox, timeout_s, NULL);
    const bool is_answered = reply && answers(reply, id);
    if (is_answered && PyObject_SetAttrString(pending, "answer", reply) == 0) forget(self->waiting, id);
    ends(self);
    PyObject *result = PyErr_Occurred() ? NULL : is_answered ? Py_NewRef(reply) : for_others(reply); /* owned until returned */
    Py_XDECREF(reply);
    return result;
}

/* ask(outbox, topic, body, id, mailbox, reply_to, timeout_s, pending) -> Message | list | None */
PyObject *sira_bells_ask(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    enum { OUTBOX, TOPIC, BODY, ID, MAILBOX, REPLY_TO, TIMEOUT, PENDING, ARGS };
    ShmBells *self = (ShmBells *)object;
    if (count != ARGS || Py_TYPE(args[OUTBOX]) != &sira_outbox_type || !is_id(args[ID])
        || !PyObject_TypeCheck(args[MAILBOX], &sira_mailbox_type)) {
        PyErr_SetString(PyExc_TypeError, "ask(outbox, topic, body, id, mailbox, reply_to, timeout_s, pending)");
        return NULL;
    }
    const double timeout_s = args[TIMEOUT] == Py_None ? -1 : PyFloat_AsDouble(args[TIMEOUT]);
    if (timeout_s == -1 && PyErr_Occurred()) return NULL;
    if (!self->waiting || is_shared(self)) Py_RETURN_NONE;
    const uint64_t from_ns = timeout_s < 0 ? 0 : sira_now_mono_ns();
    if (PyDict_SetItem(self->waiting, args[ID], args[PENDING]) < 0) return NULL; /* known before it is sent */
    PyObject *const asked[] = {args[TOPIC], args[BODY], args[ID], args[REPLY_TO], args[TIMEOUT]};
    /* Nobody leads meanwhile: it may wait for room, which others may have to make. */
    PyObject *posted = outbox_ask((Outbox *)args[OUTBOX], asked, sizeof asked / sizeof *asked); /* owned */
    PyObject *result = NULL; /* owned until returned */
    if (posted == Py_True && self->waiting && begins(self)) {
        double left_s = timeout_s;
        if (timeout_s >= 0) left_s -= (double)(sira_now_mono_ns() - from_ns) / 1e9;
        result = await_reply(self, args[ID], (Mailbox *)args[MAILBOX], timeout_s >= 0 && left_s < 0 ? 0 : left_s, args[PENDING]);
    } else if (posted) {
        result = posted == Py_True ? PyList_New(0) : Py_NewRef(Py_None);
    }
    if (!result || posted != Py_True) forget(self->waiting, args[ID]);
    Py_XDECREF(posted);
    return result;
}

/* reply(id, mailbox, timeout_s, pending) -> Message | list | None */
PyObject *sira_bells_reply(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    enum { ID, MAILBOX, TIMEOUT, PENDING, ARGS };
    ShmBells *self = (ShmBells *)object;
    if (count != ARGS || !is_id(args[ID]) || !PyObject_TypeCheck(args[MAILBOX], &sira_mailbox_type)) {
        PyErr_SetString(PyExc_TypeError, "reply(id, mailbox, timeout_s, pending)");
        return NULL;
    }
    const double timeout_s = PyFloat_AsDouble(args[TIMEOUT]);
    if (timeout_s == -1 && PyErr_Occurred()) return NULL;
    if (!self->waiting || !begins(self)) Py_RETURN_NONE;
    return await_reply(self, args[ID], (Mailbox *)args[MAILBOX], timeout_s, args[PENDING]);
}
