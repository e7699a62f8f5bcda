/* What a subscription may not read any more leaves its queue: which topics wait there, and some of them dropped. Who may
 * read what is Python's to say, once a topic. */
#include "hub.h"
#include "pyutil.h"

/* Its head was sent, and not all of the rest. */
static bool under_way(const struct out *out, const Sub *sub)
{
    return out->sub == sub && (out->chunk || !out->xfer->complete);
}

/* Returns a set of str: owned, or NULL with MemoryError. No Python runs in here. */
PyObject *sub_waiting_topics(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Sub *sub = (Sub *)self;
    PyObject *names = PySet_New(NULL); /* owned */
    if (!names || !sub->egress) return names;
    PyObject *last = NULL; /* borrowed: many in a row are of the same topic */
    for (uint32_t p = 0; p < SIRA_PRIORITIES; p++)
        for (uint32_t i = 0; i < sub->rings[p].len; i++) {
            const struct slot *slot = ring_slot(&sub->rings[p], i);
            PyObject *name = slot->blob ? ((HubTopic *)slot->blob->topic)->name : last; /* borrowed */
            if (name == last) continue;
            if (PySet_Add(names, name) < 0) goto fail;
            last = name;
        }
    for (const struct out *out = sub->egress->outs; out; out = out->next)
        if (under_way(out, sub) && PySet_Add(names, out->xfer->name) < 0) goto fail;
    return names;
fail:
    Py_DECREF(names);
    return NULL;
}

/* 0, or -1 with an exception. */
static int drop_waiting(Sub *sub, PyObject *names, uint16_t reason)
{
    for (uint8_t p = 0; p < SIRA_PRIORITIES; p++)
        for (uint32_t i = 0; i < sub->rings[p].len; i++) {
            const struct slot *slot = ring_slot(&sub->rings[p], i);
            if (!slot->blob) continue;
            const int found = PySet_Contains(names, ((HubTopic *)slot->blob->topic)->name);
            if (found < 0) return -1;
            if (found) sub_drop_at(sub, p, i, reason);
        }
    return 0;
}

/* The subscriber is told that the rest does not come; its publisher gets credit for what nobody else waits for. */
static int drop_under_way(Sub *sub, PyObject *names, uint16_t reason)
{
    Hub *hub = sub->hub;
    struct out **link = &sub->egress->outs;
    while (*link) {
        struct out *out = *link;
        const int found = under_way(out, sub) ? PySet_Contains(names, out->xfer->name) : 0;
        if (found < 0) return -1;
        if (!found) {
            link = &out->next;
            continue;
        }
        if (egress_abort(sub->egress, out, reason) < 0) PyErr_Clear();
        sub_lose_sent(sub, out->xfer, reason);
        out_free(hub, out); /* unlinks it here */
    }
    return 0;
}

/* withhold(names, now_ns, *, reason) -> deliveries dropped. What was sent as a whole stays sent. */
PyObject *sub_withhold(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keys[] = {"names", "now_ns", "reason", NULL};
    Sub *sub = (Sub *)self;
    PyObject *names; /* borrowed */
    unsigned long long now_ns;
    const char *reason_code = "REVOKED";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!K|$s:withhold", keys, &PySet_Type, &names, &now_ns, &reason_code))
        return NULL;
    if (!sub->egress) return PyLong_FromLong(0);
    Hub *hub = sub->hub;
    const uint16_t reason = hub_reason(hub, reason_code);
    const uint64_t before = sub->dropped;
    hub->now_ns = now_ns;
    int rc = drop_waiting(sub, names, reason);
    if (rc == 0) rc = drop_under_way(sub, names, reason);
    const uint64_t dropped = sub->dropped - before;
    for (uint8_t p = 0; p < SIRA_PRIORITIES; p++) sub_skip_expired(sub, p, 0);
    if (sub->blocked) hub->retry = true; /* what waits for room here may not be for it any more */
    if (hub->retry) hub_retry(hub, now_ns);
    hub_tell(hub);
    return rc < 0 ? NULL : PyLong_FromUnsignedLongLong(dropped);
}
