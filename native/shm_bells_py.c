/* Waiting: one descriptor for all that a client waits for, spinning, sleeping without the GIL. */
#include "shm_bells_py.h"

#include <errno.h>
#include <limits.h>
#include <structmember.h>
#include <unistd.h>

static PyObject *bells_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spin_us_max", NULL};
    double spin_us_max = SIRA_SPIN_NS_DEFAULT / 1e3;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|d:ShmBells", names, &spin_us_max)) return NULL;
    if (!(spin_us_max >= 0)) return PyErr_Format(PyExc_ValueError, "spin_us_max is negative");
    ShmBells *self = (ShmBells *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->fork_depth = sira_fork_depth;
    self->threads = self->kick = -1;
    self->bells = sira_bells_make();
    if (self->bells >= 0) self->threads = sira_bells_make();
    if (self->threads >= 0) self->kick = sira_bell_make();
    const bool is_made = self->kick >= 0 && sira_bells_add(self->threads, self->kick, 0) == 0;
    if (!is_made) PyErr_SetFromErrno(PyExc_OSError);
    self->members = is_made ? PyDict_New() : NULL;
    sira_spin_init(&self->spin, spin_us_max > 1e12 ? SIRA_SPIN_FOREVER : (uint64_t)(spin_us_max * 1e3));
    if (self->members) return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static int bells_traverse(PyObject *object, visitproc visit, void *arg)
{
    const ShmBells *self = (const ShmBells *)object;
    Py_VISIT(self->members);
    Py_VISIT(self->waiting);
    Py_VISIT(self->followers);
    Py_VISIT(self->left);
    return 0;
}

static int bells_clear(PyObject *object)
{
    ShmBells *self = (ShmBells *)object;
    Py_CLEAR(self->waiting);
    Py_CLEAR(self->followers);
    Py_CLEAR(self->left);
    return 0; /* `members` refer to nothing that could refer back */
}

void sira_bells_shut(ShmBells *self)
{
    int *const fds[] = {&self->threads, &self->kick, &self->bells};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0) close(*fds[i]);
        *fds[i] = -1;
    }
}

/* close(): nobody waits here any more; who leads still may, until it leaves */
static PyObject *bells_close(PyObject *object, PyObject *Py_UNUSED(args))
{
    ShmBells *self = (ShmBells *)object;
    self->is_closed = true;
    if (self->is_led) (void)sira_bell_ring(self->kick);
    else sira_bells_shut(self);
    bells_clear(object);
    Py_RETURN_NONE;
}

static void bells_dealloc(PyObject *object)
{
    ShmBells *self = (ShmBells *)object;
    PyObject_GC_UnTrack(object);
    sira_bells_shut(self);
    Py_XDECREF(self->members);
    Py_XDECREF(self->waiting);
    Py_XDECREF(self->followers);
    Py_XDECREF(self->left);
    Py_TYPE(object)->tp_free(object);
}

/* The descriptor that rings for a member, or -1 with an exception. */
static int bell_of(PyObject *member)
{
    if (Py_TYPE(member) == &sira_shm_reader_type) return ((ShmReader *)member)->bell;
    if (Py_TYPE(member) == &sira_shm_writer_type) return ((ShmWriter *)member)->bell;
    const long fd = PyLong_Check(member) ? PyLong_AsLong(member) : -1;
    if (fd >= 0 && fd <= INT_MAX) return (int)fd;
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "want a ShmReader, a ShmWriter or a descriptor");
    return -1;
}

static ShmReader *as_reader(PyObject *member)
{
    return Py_TYPE(member) == &sira_shm_reader_type ? (ShmReader *)member : NULL;
}

static void ignore(ShmBells *self, int bell)
{
    (void)sira_bells_remove(self->bells, bell);
    (void)sira_bells_remove(self->threads, bell);
}

/* 0; -1: errno */
static int listen_to(ShmBells *self, int bell, uint64_t token)
{
    if (sira_bells_add(self->bells, bell, token) < 0) return -1;
    if (sira_bells_add(self->threads, bell, token) == 0) return 0;
    const int error = errno;
    (void)sira_bells_remove(self->bells, bell);
    errno = error;
    return -1;
}

/* add(member) -> token */
static PyObject *bells_add(PyObject *object, PyObject *member)
{
    ShmBells *self = (ShmBells *)object;
    const int bell = bell_of(member);
    if (bell < 0) return NULL;
    PyObject *token = PyLong_FromUnsignedLongLong(++self->next_token); /* owned until returned */
    if (!token) return NULL;
    if (listen_to(self, bell, self->next_token) < 0) {
        Py_DECREF(token);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (PyDict_SetItem(self->members, token, member) < 0) {
        ignore(self, bell);
        Py_DECREF(token);
        return NULL;
    }
    if (as_reader(member)) as_reader(member)->is_armed = false;
    return token;
}

static PyObject *bells_remove(PyObject *object, PyObject *token)
{
    ShmBells *self = (ShmBells *)object;
    PyObject *member = PyDict_GetItemWithError(self->members, token); /* borrowed */
    if (!member) {
        if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, token);
        return NULL;
    }
    ignore(self, bell_of(member));
    PyErr_Clear();
    if (PyDict_DelItem(self->members, token) < 0) return NULL;
    Py_RETURN_NONE;
}

/* The awake readers of one wait. Their links' words are all that is looked at without the GIL. */
struct awake {
    ShmReader **readers; /* owned references */
    size_t count;
};

static bool any_stirs(void *of)
{
    const struct awake *awake = of;
    for (size_t i = 0; i < awake->count; i++) {
        const struct sira_link *link = &awake->readers[i]->memory->link;
        for (uint32_t w = 0; w < sira_link_words(link->shape.slots); w++)
            if (sira_word_load(&link->posted[w])) return true;
    }
    return false;
}

static bool all_sleep(void *of)
{
    const struct awake *awake = of;
    for (size_t i = 0; i < awake->count; i++) sira_word_swap(awake->readers[i]->memory->link.r_sleeps, 1);
    return !any_stirs(of);
}

/* One wait: the readers that it looks at, and who rang. */
enum { TOKENS = 64, SMALL = 16 };
struct round {
    struct awake awake;
    ShmReader *small[SMALL];
    uint64_t small_tokens[SMALL], *awake_tokens;
    uint64_t tokens[TOKENS]; /* of those that rang */
    uint32_t count;
};

static void round_end(struct round *round)
{
    for (size_t i = 0; i < round->awake.count; i++) Py_DECREF(round->awake.readers[i]);
    if (round->awake.readers != round->small) PyMem_Free(round->awake.readers);
    if (round->awake_tokens != round->small_tokens) PyMem_Free(round->awake_tokens);
}

/* Wait as an event loop, that is not at all, or as a thread; round_end() is due in any case. Whoever rang, or was looked at and
 * has something, is awake then. -1: an exception. */
static int round_wait(ShmBells *self, struct round *round, bool is_loop, double timeout_s)
{
    int64_t timeout_ns = timeout_s < 0 ? -1 : timeout_s > 1e9 ? INT64_MAX : (int64_t)(timeout_s * 1e9);
    struct awake *awake = &round->awake;
    *awake = (struct awake){.readers = round->small};
    round->awake_tokens = round->small_tokens;
    round->count = 0;
    if (self->fork_depth != sira_fork_depth) {
        sira_raise("CONNECTION_CLOSED", "these bells belong to the parent process: connect anew after fork()");
        return -1;
    }
    const Py_ssize_t most = PyDict_GET_SIZE(self->members);
    if (most > SMALL) {
        awake->readers = PyMem_New(ShmReader *, (size_t)most);
        round->awake_tokens = PyMem_New(uint64_t, (size_t)most);
    }
    if (!awake->readers || !round->awake_tokens) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t at = 0;
    PyObject *key, *value; /* borrowed */
    while (PyDict_Next(self->members, &at, &key, &value)) {
        ShmReader *reader = as_reader(value);
        if (!reader || reader->is_armed) continue;
        round->awake_tokens[awake->count] = PyLong_AsUnsignedLongLong(key);
        awake->readers[awake->count++] = (ShmReader *)Py_NewRef(value);
        if (sira_link_stirs(&reader->reader)) timeout_ns = 0; /* what a look kept for later, too */
    }
    const struct sira_sleeper sleeper = {.stirs = any_stirs, .sleeps = all_sleep, .of = awake};
    enum sira_wait woken = SIRA_WAIT_STIRS;
    const int bells = is_loop ? self->bells : self->threads;
    if (bells < 0) return 0; /* closed: whoever waits looks for itself */
    if (timeout_ns == 0) {
        woken = sira_bells_wait(&self->spin, bells, &sleeper, 0, round->tokens, TOKENS, &round->count);
    } else {
        Py_BEGIN_ALLOW_THREADS
        woken = sira_bells_wait(&self->spin, bells, &sleeper, timeout_ns, round->tokens, TOKENS, &round->count);
        Py_END_ALLOW_THREADS
    }
    const int error = errno;
    /* A signal ends the wait; its handler is called by the interpreter, when whoever leads here does so no more. */
    if (woken == SIRA_WAIT_FAILED) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    const bool slept = timeout_ns != 0 && (woken == SIRA_WAIT_RANG || woken == SIRA_WAIT_TIMEOUT);
    for (size_t i = 0; slept && i < awake->count; i++)
        awake->readers[i]->is_armed = sira_word_load(awake->readers[i]->memory->link.r_sleeps) != 0;
    return 0;
}

/* Those that rang whose members are still there, as a list; they are awake from now on. */
static PyObject *who_rang(ShmBells *self, const uint64_t *tokens, uint32_t count)
{
    PyObject *list = PyList_New(0); /* owned */
    for (uint32_t i = 0; list && i < count; i++) {
        PyObject *token = PyLong_FromUnsignedLongLong(tokens[i]); /* owned */
        PyObject *member = token ? PyDict_GetItemWithError(self->members, token) : NULL; /* borrowed */
        if (member) {
            if (as_reader(member)) as_reader(member)->is_armed = false;
            if (PyList_Append(list, token) < 0) Py_CLEAR(list);
        } else if (PyErr_Occurred()) {
            Py_CLEAR(list);
        }
        Py_XDECREF(token);
    }
    return list;
}

/* wait(timeout_s) -> list of tokens that rang or have something; empty: timeout, a signal, or look at your own */
static PyObject *bells_wait(PyObject *object, PyObject *arg)
{
    ShmBells *self = (ShmBells *)object;
    const double timeout_s = PyFloat_AsDouble(arg);
    if (timeout_s == -1 && PyErr_Occurred()) return NULL;
    struct round round;
    PyObject *result = round_wait(self, &round, timeout_s == 0, timeout_s) < 0 ? NULL : who_rang(self, round.tokens, round.count); /* owned */
    for (size_t i = 0; result && i < round.awake.count; i++) {
        ShmReader *reader = round.awake.readers[i];
        if (reader->is_armed || !sira_link_stirs(&reader->reader)) continue;
        PyObject *token = PyLong_FromUnsignedLongLong(round.awake_tokens[i]); /* owned */
        const int has = token ? PySequence_Contains(result, token) : -1;
        if (has < 0 || (has == 0 && PyList_Append(result, token) < 0)) Py_CLEAR(result);
        Py_XDECREF(token);
    }
    round_end(&round);
    return result;
}

/* Have mailboxes know what came to this reader. 0; -1: an exception. Runs no Python code. */
static int look_at(ShmReader *reader, uint64_t token, PyObject *broken)
{
    if (!reader->broken && sira_reader_share(reader, false) < 0) return -1;
    if (!reader->broken) return 0;
    PyObject *number = PyLong_FromUnsignedLongLong(token); /* owned */
    const int result = number ? PyList_Append(broken, number) : -1;
    Py_XDECREF(number);
    return result;
}

/* A look at this one found its link broken: for the next wait. */
static void ring_again(ShmBells *self, PyObject *broken)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(broken); i++) {
        PyObject *member = PyDict_GetItemWithError(self->members, PyList_GET_ITEM(broken, i)); /* borrowed */
        if (member && as_reader(member)) (void)sira_bell_ring(as_reader(member)->bell);
    }
}

PyObject *sira_bells_take(ShmBells *self, Mailbox *mailbox, double timeout_s, PyObject *told)
{
    PyObject *broken = told ? Py_NewRef(told) : PyList_New(0); /* owned */
    if (!broken) return NULL;
    struct round round;
    bool failed = round_wait(self, &round, false, mailbox->mask ? 0 : timeout_s) < 0;
    for (uint32_t i = 0; !failed && i < round.count; i++) {
        PyObject *token = PyLong_FromUnsignedLongLong(round.tokens[i]); /* owned */
        PyObject *member = token ? PyDict_GetItemWithError(self->members, token) : NULL; /* borrowed: looking runs nothing */
        ShmReader *reader = member ? as_reader(member) : NULL;
        if (reader) {
            reader->is_armed = false;
            failed = look_at(reader, round.tokens[i], broken) < 0;
        } else {
            failed = PyErr_Occurred() != NULL;
        }
        Py_XDECREF(token);
    }
    for (size_t i = 0; !failed && i < round.awake.count; i++) {
        ShmReader *reader = round.awake.readers[i];
        if (!reader->is_armed && sira_link_stirs(&reader->reader)) failed = look_at(reader, round.awake_tokens[i], broken) < 0;
    }
    round_end(&round);
    /* Taken before others are called, who might take it, or be called because of it. */
    PyObject *message = failed ? NULL : mailbox_take(mailbox); /* owned */
    mailbox_call_due();
    if (message || !told) ring_again(self, broken);
    Py_DECREF(broken);
    return message;
}

/* take(mailbox, timeout_s) -> Message, or list of tokens whose links are broken */
static PyObject *bells_take(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyObject_TypeCheck(args[0], &sira_mailbox_type)) {
        PyErr_SetString(PyExc_TypeError, "take(mailbox, timeout_s)");
        return NULL;
    }
    const double timeout_s = PyFloat_AsDouble(args[1]);
    if (timeout_s == -1 && PyErr_Occurred()) return NULL;
    PyObject *broken = PyList_New(0); /* owned */
    if (!broken) return NULL;
    PyObject *message = sira_bells_take((ShmBells *)object, (Mailbox *)args[0], timeout_s, broken); /* owned */
    if (!message && !PyErr_Occurred()) return broken;
    Py_DECREF(broken);
    return message;
}

/* sleep() -> bool: for an event loop, before it waits on fileno() */
static PyObject *bells_sleep(PyObject *object, PyObject *Py_UNUSED(args))
{
    ShmBells *self = (ShmBells *)object;
    bool is_quiet = true;
    Py_ssize_t at = 0;
    PyObject *key, *value; /* borrowed */
    while (PyDict_Next(self->members, &at, &key, &value)) {
        ShmReader *reader = as_reader(value);
        if (!reader || reader->is_armed || reader->fork_depth != sira_fork_depth) continue;
        reader->is_armed = sira_link_reader_sleeps(&reader->reader);
        is_quiet = is_quiet && reader->is_armed;
    }
    return PyBool_FromLong(is_quiet);
}

static PyObject *bells_kick(PyObject *object, PyObject *Py_UNUSED(args))
{
    (void)sira_bell_ring(((ShmBells *)object)->kick);
    Py_RETURN_NONE;
}

static PyObject *bells_fileno(PyObject *object, PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(((ShmBells *)object)->bells);
}

static PyMethodDef bells_methods[] = {
    {"fileno", bells_fileno, METH_NOARGS, "fileno() -> the epoll descriptor, borrowed: for an event loop."},
    {"add", bells_add, METH_O, "add(ShmReader, ShmWriter or descriptor) -> token. A descriptor must be kept open by the caller."},
    {"remove", bells_remove, METH_O, "remove(token)."},
    {"sleep", bells_sleep, METH_NOARGS,
     "sleep() -> bool: have every writer ring from now on. False: something is there already, call wait(0)."},
    {"kick", bells_kick, METH_NOARGS, "kick(): end the wait that goes on in another thread, or the next one."},
    {"wait", bells_wait, METH_O,
     "wait(timeout_s) -> tokens of those that rang or have something; negative: no limit. Spins, then sleeps, without the GIL. "
     "0 is for an event loop: what rang for one that sleeps in another thread, rings there, too."},
    {"take", (PyCFunction)(void (*)(void))bells_take, METH_FASTCALL,
     "take(mailbox, timeout_s) -> the Message that came there, or a list: tokens of links that are broken. As wait, and "
     "all that rang is given to its mailboxes."},
    {"close", bells_close, METH_NOARGS,
     "close(): give the descriptors back; where a thread leads it looks again, and they go when it leaves."},
    {"lead", sira_bells_lead, METH_NOARGS, "lead() -> bool: take what rings for all from now on. False: another thread does."},
    {"leave", sira_bells_leave, METH_NOARGS, "leave(): once for each lead(); somebody else may then."},
    {"wake", sira_bells_wake, METH_NOARGS, "wake(): kick(), where another thread leads."},
    {"next", (PyCFunction)(void (*)(void))sira_bells_next, METH_FASTCALL,
     "next(mailbox, timeout_s) -> Message | None: lead, wait once, leave. None: nothing came, or it takes the long way."},
    {"ask", (PyCFunction)(void (*)(void))sira_bells_ask, METH_FASTCALL,
     "ask(outbox, topic, body, id, mailbox, reply_to, timeout_s, pending) -> Message | list | None: the same around a "
     "request that is posted past the node and is in `waiting` until its reply is here. A list: it is asked, the rest is the "
     "caller's, as are these replies to others. None: it is not."},
    {"reply", (PyCFunction)(void (*)(void))sira_bells_reply, METH_FASTCALL,
     "reply(id, mailbox, timeout_s, pending) -> Message | list | None: as ask(), of what was posted and is in `waiting` already, "
     "unless `pending.answer` or `pending.error` is there. None: by the long way."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef bells_members[] = {
    {"is_led", T_BOOL, offsetof(ShmBells, is_led), READONLY, "a thread takes what rings for all"},
    {"is_watched", T_BOOL, offsetof(ShmBells, is_watched), 0, "the loop listens, and is to be told what rang last"},
    {"turns", T_ULONGLONG, offsetof(ShmBells, turns), READONLY, "how often somebody began to lead"},
    {"waiting", T_OBJECT, offsetof(ShmBells, waiting), 0, "dict of the requests that wait for a reply, or None"},
    {"followers", T_OBJECT, offsetof(ShmBells, followers), 0, "dict of who waits beside who leads, or None"},
    {"left", T_OBJECT, offsetof(ShmBells, left), 0, "called at the end of next(), ask() and reply() where others wait; or None"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_bells_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmBells",
    .tp_doc = PyDoc_STR("ShmBells(*, spin_us_max=50): wait for many readers at one descriptor. inf: never sleep."),
    .tp_basicsize = sizeof(ShmBells),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = bells_new,
    .tp_dealloc = bells_dealloc,
    .tp_traverse = bells_traverse,
    .tp_clear = bells_clear,
    .tp_methods = bells_methods,
    .tp_members = bells_members,
};
