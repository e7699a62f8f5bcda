/* What the node has to do with messages that pass it by (docs/shm.md): the page that tells publishers when to ask
 * anew, the books of what went over links, and what must be over before a route begins. */
#include "fault.h"
#include "hub_stream.h"
#include "pyutil.h"
#include "shm_atomic.h"
#include "shm_py.h"

#include <errno.h>
#include <fcntl.h>

/* ---- the page ------------------------------------------------------------------------------------------------- */

/* A word stands for all names of its hash: one that moves for a name that shares it costs a publisher one question. */
enum { PAGE_WORDS = 4096, PAGE_BYTES = PAGE_WORDS * (int)sizeof(uint64_t) };

static uint64_t *page_words(const Hub *hub)
{
    return (uint64_t *)(void *)hub->page.base; /* mapped: aligned */
}

static uint32_t word_of(struct sira_slice name)
{
    return (uint32_t)hub_topic_hash(name) & (PAGE_WORDS - 1);
}

/* Only this thread writes. The store releases: who hears of what has changed by any way sees the word moved. */
static void word_move(uint64_t *word)
{
    sira_word_store(word, *word + 1);
    SIRA_FAULT_POINT("page.moved");
}

void hub_moved(Hub *hub, PyObject *name)
{
    uint64_t *words = page_words(hub);
    if (!words) return;
    if (name) {
        Py_ssize_t len;
        const char *text = PyUnicode_AsUTF8AndSize(name, &len);
        if (text) {
            word_move(&words[word_of((struct sira_slice){(const uint8_t *)text, (size_t)len})]);
            return;
        }
        PyErr_Clear(); /* no UTF-8: no publisher's topic; no memory: better one question too many */
    }
    for (uint32_t i = 0; i < PAGE_WORDS; i++) word_move(&words[i]);
}

PyObject *hub_open_page(PyObject *self, PyObject *unused)
{
    (void)unused;
    Hub *hub = (Hub *)self;
    if (!hub->page.base) {
        const int error = sira_shm_make("sira-page", PAGE_BYTES, true, &hub->page);
        if (error) return sira_shm_raise("page", error);
    }
    const int fd = fcntl(hub->page.fd, F_DUPFD_CLOEXEC, 3);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

PyObject *hub_word_of(PyObject *self, PyObject *name)
{
    (void)self;
    if (!PyUnicode_Check(name)) return PyErr_Format(PyExc_TypeError, "a name is a str");
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(name, &len); /* borrowed */
    if (!text) return NULL;
    return PyLong_FromUnsignedLong(word_of((struct sira_slice){(const uint8_t *)text, (size_t)len}));
}

PyObject *hub_word(PyObject *self, PyObject *index)
{
    const uint64_t *words = page_words((Hub *)self);
    const size_t at = PyLong_AsSize_t(index);
    if (at == (size_t)-1 && PyErr_Occurred()) return NULL;
    if (!words) return sira_raise("UNSUPPORTED", "this node has no page");
    if (at >= PAGE_WORDS) return PyErr_Format(PyExc_IndexError, "word %zu of %d", at, PAGE_WORDS);
    return PyLong_FromUnsignedLongLong(words[at]);
}

/* ---- the books ------------------------------------------------------------------------------------------------ */

enum { DROPS_MAX = 16 }; /* reasons of one call */

struct account {
    unsigned long long published, owed, delivered, expired, superseded, dropped;
    long long pending;
    uint32_t drop_count;
    struct { uint16_t reason; uint64_t n; } drops[DROPS_MAX];
};

static int read_drops(Hub *hub, PyObject *dict, struct account *account)
{
    PyObject *key, *value; /* borrowed */
    for (Py_ssize_t at = 0; PyDict_Next(dict, &at, &key, &value);) {
        const char *code = PyUnicode_AsUTF8(key);
        const unsigned long long n = code ? PyLong_AsUnsignedLongLong(value) : 0;
        if (PyErr_Occurred()) return -1;
        if (!n) continue;
        if (account->drop_count == DROPS_MAX) {
            PyErr_Format(PyExc_ValueError, "at most %d reasons at once", DROPS_MAX);
            return -1;
        }
        account->drops[account->drop_count].reason = hub_reason(hub, code);
        account->drops[account->drop_count++].n = n;
        if (__builtin_add_overflow(account->dropped, n, &account->dropped)) {
            PyErr_SetString(PyExc_OverflowError, "counts past 64 bits");
            return -1;
        }
    }
    return 0;
}

/* Does what came in equal what became of it? All these are differences, the memory that they were read from is
 * anybody's: what cannot be is refused whole. */
static bool is_balanced(const struct account *account)
{
    unsigned long long settled = account->delivered, owed = account->owed;
    const unsigned long long less = account->pending < 0 ? 0ull - (unsigned long long)account->pending : 0;
    const unsigned long long more = account->pending > 0 ? (unsigned long long)account->pending : 0;
    return !__builtin_add_overflow(settled, account->expired, &settled) &&
           !__builtin_add_overflow(settled, account->superseded, &settled) &&
           !__builtin_add_overflow(settled, account->dropped, &settled) &&
           !__builtin_add_overflow(settled, more, &settled) && !__builtin_add_overflow(owed, less, &owed) &&
           settled == owed;
}

/* account(topic, *, published, owed, delivered, pending, expired, superseded, dropped, sub, now_ns) */
PyObject *hub_account(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"topic",   "published",  "owed",    "delivered", "pending",
                            "expired", "superseded", "dropped", "sub",       "now_ns", NULL};
    Hub *hub = (Hub *)self;
    PyObject *topic_object, *dropped = Py_None, *sub_object = Py_None; /* borrowed */
    struct account account = {0};
    unsigned long long now_ns = 0;
    PyObject *counts[6] = {NULL}; /* borrowed; "K" would let past what is negative or too large */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$OOOOOOOOK:account", names, hub_topic_type, &topic_object,
                                     &counts[0], &counts[1], &counts[2], &counts[3], &counts[4], &counts[5], &dropped,
                                     &sub_object, &now_ns))
        return NULL;
    HubTopic *topic = (HubTopic *)topic_object;
    if (topic->hub != hub) return PyErr_Format(PyExc_ValueError, "a topic of another hub");
    if (dropped != Py_None && !PyDict_Check(dropped)) return PyErr_Format(PyExc_TypeError, "dropped is a dict or None");
    if (sub_object != Py_None && !Py_IS_TYPE(sub_object, sub_type))
        return PyErr_Format(PyExc_TypeError, "sub is a Sub or None");
    unsigned long long *const into[] = {&account.published, &account.owed,    &account.delivered,
                                        NULL,               &account.expired, &account.superseded};
    for (size_t i = 0; i < sizeof into / sizeof *into; i++) {
        if (!counts[i]) continue;
        if (into[i]) *into[i] = PyLong_AsUnsignedLongLong(counts[i]);
        else account.pending = PyLong_AsLongLong(counts[i]);
        if (PyErr_Occurred()) return NULL;
    }
    if (dropped != Py_None && read_drops(hub, dropped, &account) < 0) return NULL;
    struct row *row = row_live(topic->row);
    if (!is_balanced(&account))
        return PyErr_Format(PyExc_ValueError, "%U: these counts do not balance: owed %llu, delivered %llu, pending %lld, "
                            "expired %llu, superseded %llu, dropped %llu", topic->name, account.owed, account.delivered,
                            account.pending, account.expired, account.superseded, account.dropped);
    if (account.pending < 0 && 0ull - (unsigned long long)account.pending > row->direct)
        return PyErr_Format(PyExc_ValueError, "%U: %lld pending, where %llu are on links", topic->name, account.pending,
                            (unsigned long long)row->direct);
    uint32_t counted = 0;
    while (counted < account.drop_count &&
           row_count(hub, &row->dropped, account.drops[counted].reason, account.drops[counted].n) == 0)
        hub->dropped[account.drops[counted].reason] += account.drops[counted].n, counted++;
    if (counted < account.drop_count) { /* no memory for a reason: nothing was counted */
        while (counted--) {
            (void)row_count(hub, &row->dropped, account.drops[counted].reason, 0 - account.drops[counted].n);
            hub->dropped[account.drops[counted].reason] -= account.drops[counted].n;
        }
        return NULL;
    }
    SIRA_FAULT_POINT("account.checked");
    row->published += account.published;
    row->owed += account.owed;
    row->delivered += account.delivered;
    row->pending += (unsigned long long)account.pending; /* modulo 2^64: it may be less */
    row->direct += (unsigned long long)account.pending;
    row->expired += account.expired;
    row->superseded += account.superseded;
    if (account.published && now_ns > topic->used_ns) topic->used_ns = now_ns;
    if (sub_object != Py_None) {
        Sub *sub = (Sub *)sub_object;
        sub->delivered += account.delivered;
        sub->superseded += account.superseded;
        sub->dropped += account.dropped + account.expired; /* as for those that waited on the node */
    }
    hub->messages_in += account.published;
    hub->messages_direct += account.published;
    hub->deliveries_out += account.delivered;
    hub->deliveries_direct += account.delivered;
    Py_RETURN_NONE;
}

/* ---- what must be over before a route begins ------------------------------------------------------------------ */

/* Calls asked(ask, topic). Python runs inside, between two items: nothing of `in` is held. */
int ingress_ask(Ingress *in, const struct sira_item *item)
{
    struct sira_ask ask;
    const enum sira_status status = sira_ask_parse(item->body, &ask);
    if (status != SIRA_OK) {
        sira_raise_status(status, 0);
        return -1;
    }
    if (!in->asked) {
        sira_raise("PROTOCOL_ERROR", "a route was asked for on a stream that has none");
        return -1;
    }
    SIRA_FAULT_POINT("ask.came");
    PyObject *asked = Py_NewRef(in->asked); /* owned: it may be replaced meanwhile */
    PyObject *result = PyObject_CallFunction(asked, "Is#", ask.ask, (const char *)ask.topic.data,
                                             (Py_ssize_t)ask.topic.len); /* owned */
    Py_DECREF(asked);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Is anything of this topic here that no subscriber was given yet, or not whole? */
PyObject *ingress_waits_py(PyObject *self, PyObject *name)
{
    const Ingress *in = (Ingress *)self;
    if (!PyUnicode_Check(name)) return PyErr_Format(PyExc_TypeError, "a topic is a str");
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(name, &len); /* borrowed */
    if (!text) return NULL;
    const struct route_entry *entry = route_find(in, (struct sira_slice){(const uint8_t *)text, (size_t)len});
    bool waits = entry && entry->first;
    for (const struct xfer *xfer = in->xfers; xfer && !waits; xfer = xfer->next)
        waits = xfer->name && PyUnicode_Compare(xfer->name, name) == 0; /* two str: cannot fail */
    return PyBool_FromLong(waits);
}

/* Has all that was given to it been sent? Then what is sent to its client from now on comes behind. */
PyObject *sub_get_idle(PyObject *self, void *unused)
{
    (void)unused;
    const Sub *sub = (Sub *)self;
    bool idle = sub->egress && !sub->pending && !sub->stalled;
    for (const struct out *out = idle ? sub->egress->outs : NULL; out && idle; out = out->next) idle = out->sub != sub;
    return PyBool_FromLong(idle);
}
