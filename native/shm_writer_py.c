/* The publisher's end of a link. */
#include "shm_py.h"

#include <errno.h>
#include <structmember.h>
#include <unistd.h>

static PyObject *corrupt_error(void)
{
    return sira_raise("LINK_CORRUPT", "%s", sira_link_status_text(SIRA_LINK_CORRUPT));
}

/* (link, peer_bell, bell) of either end; descriptors are the end's from here on. */
static int end_args(const char *format, PyObject *args, ShmLink **memory, int *peer_bell, int *bell)
{
    PyObject *link; /* borrowed */
    if (!PyArg_ParseTuple(args, format, &link, peer_bell, bell)) return -1;
    if (Py_TYPE(link) != &sira_shm_link_type) {
        PyErr_SetString(PyExc_TypeError, "want a ShmLink");
        return -1;
    }
    *memory = (ShmLink *)link;
    return 0;
}

static void close_bells(int peer_bell, int bell)
{
    if (peer_bell >= 0) close(peer_bell);
    if (bell >= 0) close(bell);
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ShmLink *memory; /* borrowed */
    int peer_bell, bell;
    if (kwargs && PyDict_GET_SIZE(kwargs)) return PyErr_Format(PyExc_TypeError, "ShmWriter takes no keywords");
    if (end_args("Oii:ShmWriter", args, &memory, &peer_bell, &bell) < 0) return NULL;
    ShmWriter *self = (ShmWriter *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->peer_bell = self->bell = -1;
    if (sira_link_writer_open(&self->writer, &memory->link, sira_shm_release)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->memory = (ShmLink *)Py_NewRef((PyObject *)memory);
    self->peer_bell = peer_bell;
    self->bell = bell;
    self->fork_depth = sira_fork_depth;
    sira_spin_init(&self->spin, SIRA_SPIN_NS_DEFAULT);
    return (PyObject *)self;
}

/* Its reader may look for long at what it has, or is yet to take, and this end learns nothing of it any more: no byte of
 * those segments is handed out again. */
static void strand_holds(struct sira_link_writer *writer)
{
    (void)sira_link_collect(writer, false);
    for (uint32_t i = 0; writer->holds && i < writer->holds_made; i++) {
        const struct sira_writer_hold *hold = &writer->holds[i];
        if (hold->owner && hold->chunk != SIRA_SHM_VIEWED) sira_segment_detach(hold->owner);
    }
}

static void writer_dealloc(PyObject *object)
{
    ShmWriter *self = (ShmWriter *)object;
    if (self->memory && self->fork_depth == sira_fork_depth) {
        if (self->is_forsaken) strand_holds(&self->writer);
        sira_link_writer_close(&self->writer);
    }
    close_bells(self->peer_bell, self->bell);
    Py_XDECREF(self->memory);
    Py_TYPE(object)->tp_free(object);
}

static bool is_child(uint32_t fork_depth)
{
    if (fork_depth == sira_fork_depth) return false;
    sira_raise("CONNECTION_CLOSED", "this end of a link belongs to the parent process: connect anew after fork()");
    return true;
}

static PyObject *writer_open_cell(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    unsigned int cell, window;
    unsigned long long held_bytes_max, window_bytes = UINT64_MAX;
    if (!PyArg_ParseTuple(args, "IIK|K:open_cell", &cell, &window, &held_bytes_max, &window_bytes)) return NULL;
    if (cell >= self->memory->link.shape.cells) return PyErr_Format(PyExc_IndexError, "cell %u", cell);
    if (!self->writer.corrupt) sira_link_writer_cell(&self->writer, cell, window, window_bytes, held_bytes_max);
    Py_RETURN_NONE;
}

/* Ticket <-> int: number << 11 | slot; a refusal is -status. */
enum { SLOT_BITS = 11 };
_Static_assert(SIRA_LINK_SLOTS_MAX <= 1 << SLOT_BITS, "a slot fits");

static PyObject *ticket_or_status(enum sira_link_status status, struct sira_link_ticket ticket)
{
    if (status == SIRA_LINK_OK) return PyLong_FromUnsignedLongLong(ticket.number << SLOT_BITS | ticket.slot);
    if (status == SIRA_LINK_CORRUPT) return corrupt_error();
    return PyLong_FromLong(-(long)status);
}

static int ticket_of(ShmWriter *self, PyObject *object, struct sira_link_ticket *out)
{
    const unsigned long long packed = PyLong_AsUnsignedLongLong(object);
    if (PyErr_Occurred()) return -1;
    *out = (struct sira_link_ticket){.number = packed >> SLOT_BITS,
                                     .slot = (uint32_t)(packed & ((1u << SLOT_BITS) - 1))};
    if (out->slot < self->memory->link.shape.slots) return 0;
    PyErr_SetString(PyExc_ValueError, "not a ticket of this link");
    return -1;
}

static void ring_reader(ShmWriter *self)
{
    if (sira_link_calls_reader(&self->writer)) (void)sira_bell_ring(self->peer_bell);
}

/* post(post, cell, supersedes=0, flags=the post's) -> ticket or -status */
static PyObject *writer_post(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ShmWriter *self = (ShmWriter *)object;
    if (count < 2 || count > 4 || Py_TYPE(args[0]) != &sira_shm_post_type)
        return PyErr_Format(PyExc_TypeError, "post(ShmPost, cell, supersedes=0, flags=the post's)");
    if (is_child(self->fork_depth)) return NULL;
    const unsigned long cell = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred()) return NULL;
    if (cell >= self->memory->link.shape.cells) return PyErr_Format(PyExc_IndexError, "cell %lu", cell);
    struct sira_link_ticket ticket = {0};
    if (count > 2 && ticket_of(self, args[2], &ticket) < 0) return NULL;
    const unsigned long flags = count > 3 ? PyLong_AsUnsignedLong(args[3]) : 0;
    if (PyErr_Occurred()) return NULL;
    const ShmPost *source = (const ShmPost *)args[0];
    struct sira_post post = source->post.post;
    post.cell = (uint32_t)cell;
    post.now_ns = sira_now_mono_ns();
    if (count > 3) post.flags = (uint8_t)flags;
    if (post.owner) sira_shm_hold(post.owner, post.chunk); /* the writer's own, given back by it */
    const enum sira_link_status status = ticket.number ? sira_link_supersede(&self->writer, &post, &ticket)
                                                       : sira_link_post(&self->writer, &post, &ticket);
    if (status != SIRA_LINK_OK && post.owner) sira_shm_release(post.owner, post.chunk);
    if (status == SIRA_LINK_OK) ring_reader(self);
    return ticket_or_status(status, ticket);
}

/* room(cell, priority, chunk_bytes, planned=0) -> 0 or -status */
static PyObject *writer_room(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    unsigned int cell, priority, planned = 0;
    unsigned long long chunk_bytes;
    if (!PyArg_ParseTuple(args, "IIK|I:room", &cell, &priority, &chunk_bytes, &planned)) return NULL;
    if (cell >= self->memory->link.shape.cells || priority >= SIRA_LINK_PRIORITIES)
        return PyErr_Format(PyExc_IndexError, "cell %u, priority %u", cell, priority);
    if (is_child(self->fork_depth)) return NULL;
    const enum sira_link_status status = sira_link_room(&self->writer, cell, priority, chunk_bytes, planned);
    return status == SIRA_LINK_CORRUPT ? corrupt_error() : PyLong_FromLong(-(long)status);
}

/* withdraw(ticket, reason) -> bool */
static PyObject *writer_withdraw(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    PyObject *packed; /* borrowed */
    unsigned int reason;
    struct sira_link_ticket ticket;
    if (!PyArg_ParseTuple(args, "OI:withdraw", &packed, &reason) || ticket_of(self, packed, &ticket) < 0) return NULL;
    if (reason >= SIRA_LINK_REASONS) return PyErr_Format(PyExc_ValueError, "reason %u", reason);
    if (is_child(self->fork_depth)) return NULL;
    const enum sira_link_status status =
        sira_link_withdraw(&self->writer, ticket, (enum sira_link_reason)reason);
    return status == SIRA_LINK_CORRUPT ? corrupt_error() : PyBool_FromLong(status == SIRA_LINK_OK);
}

static PyObject *writer_pending(PyObject *object, PyObject *packed)
{
    ShmWriter *self = (ShmWriter *)object;
    struct sira_link_ticket ticket;
    if (ticket_of(self, packed, &ticket) < 0) return NULL;
    return PyBool_FromLong(sira_link_pending(&self->writer, ticket));
}

/* withdraw_all(reason, cell=None) -> int */
static PyObject *writer_withdraw_all(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    unsigned int reason, cell = SIRA_LINK_NONE;
    if (!PyArg_ParseTuple(args, "I|I:withdraw_all", &reason, &cell)) return NULL;
    if (reason >= SIRA_LINK_REASONS) return PyErr_Format(PyExc_ValueError, "reason %u", reason);
    if (is_child(self->fork_depth)) return NULL;
    return PyLong_FromUnsignedLong(sira_link_withdraw_all(&self->writer, cell, (enum sira_link_reason)reason));
}

/* collect(all=False) -> (free slots, live holds) */
static PyObject *writer_collect(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    int all = 0;
    if (!PyArg_ParseTuple(args, "|p:collect", &all)) return NULL;
    if (is_child(self->fork_depth)) return NULL;
    if (sira_link_collect(&self->writer, all)) return corrupt_error();
    return Py_BuildValue("(II)", (unsigned int)self->writer.free_count, (unsigned int)self->writer.hold_count);
}

static PyObject *writer_end(PyObject *object, PyObject *Py_UNUSED(args))
{
    ShmWriter *self = (ShmWriter *)object;
    if (self->fork_depth == sira_fork_depth) sira_link_writer_close(&self->writer);
    Py_RETURN_NONE;
}

static PyObject *writer_forsake(PyObject *object, PyObject *Py_UNUSED(args))
{
    ((ShmWriter *)object)->is_forsaken = true;
    Py_RETURN_NONE;
}

struct room_wait { struct sira_link_writer *writer; uint32_t wants; };

static bool enough_back(void *of)
{
    const struct room_wait *wait = of;
    return sira_link_back_count(&wait->writer->link) >= wait->wants;
}

/* The flag is the only thing written: no private state, so no GIL is needed. */
static bool writer_arms(void *of)
{
    const struct room_wait *wait = of;
    return sira_link_writer_sleeps(wait->writer, wait->wants);
}

int sira_writer_wait(ShmWriter *self, uint32_t wants, int64_t timeout_ns)
{
    const uint32_t out = self->memory->link.shape.slots - self->writer.free_count;
    struct room_wait wait = {.writer = &self->writer, .wants = wants > out ? out : wants};
    if (wait.wants == 0) wait.wants = 1;
    const struct sira_sleeper sleeper = {.stirs = enough_back, .sleeps = writer_arms, .of = &wait};
    struct sira_spin spin = self->spin; /* others may wait here, too */
    enum sira_wait woken;
    self->waiting++;
    Py_BEGIN_ALLOW_THREADS
    woken = sira_bell_wait(&spin, self->bell, &sleeper, timeout_ns);
    Py_END_ALLOW_THREADS
    const int error = errno;
    self->spin = spin;
    if (--self->waiting) (void)sira_bell_ring(self->bell); /* the ring may have been theirs: each looks, and asks again */
    else sira_link_writer_wakes(&self->writer);
    if (woken == SIRA_WAIT_SIGNAL && PyErr_CheckSignals() < 0) return -1;
    if (woken != SIRA_WAIT_FAILED) return 0;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* wait(timeout_s, wants=1) -> bool: whether something has come back */
static PyObject *writer_wait(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    double timeout_s;
    unsigned int wants = 1;
    if (!PyArg_ParseTuple(args, "d|I:wait", &timeout_s, &wants)) return NULL;
    if (is_child(self->fork_depth)) return NULL;
    const int64_t timeout_ns = timeout_s < 0 ? -1 : timeout_s > 1e9 ? INT64_MAX : (int64_t)(timeout_s * 1e9);
    if (sira_writer_wait(self, wants, timeout_ns) < 0) return NULL;
    return PyBool_FromLong(sira_link_back_count(&self->writer.link) > 0);
}

/* sleep(wants=1) -> bool: for an event loop */
static PyObject *writer_sleep(PyObject *object, PyObject *args)
{
    ShmWriter *self = (ShmWriter *)object;
    unsigned int wants = 1;
    if (!PyArg_ParseTuple(args, "|I:sleep", &wants)) return NULL;
    if (is_child(self->fork_depth)) return NULL;
    return PyBool_FromLong(sira_link_writer_sleeps(&self->writer, wants));
}

static PyMethodDef writer_methods[] = {
    {"open_cell", writer_open_cell, METH_VARARGS, "open_cell(cell, window, held_bytes_max, window_bytes=no limit): limits of a subscription."},
    {"room", writer_room, METH_VARARGS, "room(cell, priority, chunk_bytes, planned=0) -> 0, or -status."},
    {"post", (PyCFunction)(void (*)(void))writer_post, METH_FASTCALL,
     "post(post, cell, supersedes=0, flags=the post's) -> ticket, or -status: nothing was posted."},
    {"pending", writer_pending, METH_O, "pending(ticket) -> bool: nobody has taken it yet."},
    {"withdraw", writer_withdraw, METH_VARARGS, "withdraw(ticket, reason) -> bool. False: the reader was first."},
    {"withdraw_all", writer_withdraw_all, METH_VARARGS, "withdraw_all(reason, cell=all) -> how many."},
    {"collect", writer_collect, METH_VARARGS, "collect(all=False) -> (free slots, live holds)."},
    {"wait", writer_wait, METH_VARARGS,
     "wait(timeout_s, wants=1) -> bool: until so many slots or holds came back, or a hint of it. Without the GIL."},
    {"sleep", writer_sleep, METH_VARARGS,
     "sleep(wants=1) -> bool: have the reader ring when so much came back. False: it has, collect now."},
    {"forsake", writer_forsake, METH_NOARGS,
     "forsake(): nobody will say that the reader is gone: what it has when this end goes is written never again."},
    {"end", writer_end, METH_NOARGS, "end(): give back all chunks that the reader holds: it is gone."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef writer_members[] = {
    {"bell", T_INT, offsetof(ShmWriter, bell), READONLY, "Descriptor that the reader rings; borrowed."},
    {"holds", T_UINT, offsetof(ShmWriter, writer.hold_count), READONLY, "Chunks that are out, and not collected."},
    {"waiting", T_UINT, offsetof(ShmWriter, waiting), READONLY, "Threads that sleep there."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_writer_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmWriter",
    .tp_doc = PyDoc_STR("ShmWriter(link, peer_bell, bell): the publisher's end. Takes over both descriptors."),
    .tp_basicsize = sizeof(ShmWriter),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = writer_new,
    .tp_dealloc = writer_dealloc,
    .tp_methods = writer_methods,
    .tp_members = writer_members,
};
