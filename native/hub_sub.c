/* Queue groups, and subscriptions as Python sees them. */
#include "hub.h"
#include "pyutil.h"

/* ---- groups --------------------------------------------------------------------------------------------------------------------- */

/* The member with most free credit, the first of equals in turn; one with room where there is one. `blob` NULL:
 * room does not matter. Borrowed; NULL: no members. */
Sub *group_pick(Group *group, const struct blob *blob, bool rotate)
{
    Sub *best = NULL;
    int64_t best_free = INT64_MIN;
    for (uint32_t i = 0; i < group->len; i++) {
        Sub *sub = group->members[i];
        int64_t free = (int64_t)sub->window_messages - sub->in_flight - sub->pending;
        if (sub->stalled || (blob && !sub_room(sub, blob))) free -= (int64_t)1 << 40;
        if (free > best_free) {
            best = sub;
            best_free = free;
        }
    }
    if (best && rotate && group->len > 1) { /* equals take turns */
        uint32_t at = 0;
        while (group->members[at] != best) at++;
        memmove(&group->members[at], &group->members[at + 1], (group->len - at - 1) * sizeof *group->members);
        group->members[group->len - 1] = best;
    }
    return best;
}

void group_leave(Group *group, Sub *sub)
{
    for (uint32_t i = 0; i < group->len; i++)
        if (group->members[i] == sub) {
            memmove(&group->members[i], &group->members[i + 1], (group->len - i - 1) * sizeof *group->members);
            group->len--;
            return;
        }
}

static PyObject *group_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", NULL};
    PyObject *name; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U:Group", names, &name)) return NULL;
    Group *group = (Group *)type->tp_alloc(type, 0);
    if (group) group->name = Py_NewRef(name);
    return (PyObject *)group;
}

static void group_dealloc(PyObject *self)
{
    Group *group = (Group *)self;
    PyTypeObject *type = Py_TYPE(self);
    assert(group->len == 0); /* members hold a reference to us */
    PyMem_Free(group->members);
    Py_XDECREF(group->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *group_get(PyObject *self, void *which)
{
    const Group *group = (Group *)self;
    return which ? PyLong_FromUnsignedLong(group->len) : Py_NewRef(group->name);
}

/* ---- Python's view of a subscription ------------------------------------------------------------------------------------------------ */

static void sub_dealloc(PyObject *self)
{
    Sub *sub = (Sub *)self;
    PyTypeObject *type = Py_TYPE(self);
    assert(!sub->egress);
    for (uint32_t p = 0; p < SIRA_PRIORITIES; p++) PyMem_Free(sub->rings[p].at);
    PyMem_Free(sub->sent);
    PyMem_Free(sub->cells);
    Py_XDECREF(sub->group);
    Py_XDECREF(sub->pattern);
    Py_XDECREF(sub->hub);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *sub_get(PyObject *self, void *which)
{
    const Sub *sub = (Sub *)self;
    switch ((intptr_t)which) {
    case 0: return PyLong_FromUnsignedLong(sub->id);
    case 1: return Py_NewRef(sub->pattern);
    case 2: return PyLong_FromUnsignedLongLong(sub->egress ? sub->egress->client : 0);
    case 3: return PyLong_FromLong(sub->overflow);
    case 4: return Py_NewRef(sub->group ? (PyObject *)sub->group : Py_None);
    case 5: return PyLong_FromUnsignedLong(sub->pending);
    case 6: return PyLong_FromUnsignedLong(sub->in_flight);
    case 7: return PyLong_FromUnsignedLongLong(sub->delivered);
    case 8: return PyLong_FromUnsignedLongLong(sub->dropped);
    case 9: return PyBool_FromLong(sub->stalled);
    case 10: return PyLong_FromUnsignedLongLong(sub->superseded);
    case 11: return PyBool_FromLong(sub->egress == NULL);
    default: return PyLong_FromUnsignedLongLong(sub->pending_bytes);
    }
}

static PyObject *sub_deliver_retained(PyObject *self, PyObject *args)
{
    Sub *sub = (Sub *)self;
    PyObject *topic_object; /* borrowed */
    unsigned long long now_ns, order_max = UINT64_MAX;
    if (!PyArg_ParseTuple(args, "O!K|K:deliver_retained", hub_topic_type, &topic_object, &now_ns, &order_max)) return NULL;
    HubTopic *topic = (HubTopic *)topic_object;
    struct blob *blob = topic->retained;
    if (!blob || !sub->egress || blob->order > order_max) Py_RETURN_NONE;
    if (blob->deadline_ns && blob->deadline_ns <= now_ns) Py_RETURN_NONE;
    if (sub_enqueue(sub, blob, now_ns) < 0) return NULL;
    if (sub->egress) egress_wake(sub->egress);
    hub_tell(sub->hub);
    Py_RETURN_NONE;
}

static PyGetSetDef sub_getset[] = {
    {"subscription", sub_get, NULL, "Number chosen by the client.", (void *)0},
    {"pattern", sub_get, NULL, "Topics that it takes.", (void *)1},
    {"client", sub_get, NULL, "Number of its client; 0 once closed.", (void *)2},
    {"overflow", sub_get, NULL, "1 block, 2 drop, 3 latest.", (void *)3},
    {"group", sub_get, NULL, "Its queue group or None.", (void *)4},
    {"pending", sub_get, NULL, "Messages waiting to be sent.", (void *)5},
    {"in_flight", sub_get, NULL, "Messages sent and not confirmed.", (void *)6},
    {"delivered", sub_get, NULL, "Messages confirmed.", (void *)7},
    {"dropped", sub_get, NULL, "Deliveries owed that will not happen.", (void *)8},
    {"stalled", sub_get, NULL, "Took nothing for so long that it is dropped to.", (void *)9},
    {"superseded", sub_get, NULL, "Messages replaced by newer ones.", (void *)10},
    {"idle", sub_get_idle, NULL, "All that it was given has been sent, and it is not stalled.", NULL},
    {"closed", sub_get, NULL, "It has ended.", (void *)11},
    {"pending_bytes", sub_get, NULL, "Payload bytes waiting to be sent.", (void *)12},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef sub_methods[] = {
    {"deliver_retained", sub_deliver_retained, METH_VARARGS, "Owe it the last message of a `latest` topic, if that is no newer than `order_max`."},
    {"waiting_topics", sub_waiting_topics, METH_NOARGS, "Names of the topics of which something waits here, or is on its way."},
    {"withhold", (PyCFunction)(void (*)(void))sub_withhold, METH_VARARGS | METH_KEYWORDS, "Drop what waits here of some topics."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sub_slots[] = {
    {Py_tp_dealloc, sub_dealloc},
    {Py_tp_getset, sub_getset},
    {Py_tp_methods, sub_methods},
    {Py_tp_doc, "One subscription of an Egress."},
    {0, NULL},
};

static PyType_Spec sub_spec = {
    .name = "sira._native.Sub",
    .basicsize = sizeof(Sub),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sub_slots,
};

static PyGetSetDef group_getset[] = {
    {"name", group_get, NULL, "Its name.", (void *)0},
    {"members", group_get, NULL, "Open subscriptions in it.", (void *)1},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot group_slots[] = {
    {Py_tp_new, group_new},
    {Py_tp_dealloc, group_dealloc},
    {Py_tp_getset, group_getset},
    {Py_tp_doc, "A queue group: one delivery goes to the member with most free credit."},
    {0, NULL},
};

static PyType_Spec group_spec = {
    .name = "sira._native.Group",
    .basicsize = sizeof(Group),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = group_slots,
};

PyTypeObject *sub_type, *group_type;

int hub_add_queues(PyObject *module)
{
    sub_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sub_spec, NULL);
    if (!sub_type || PyModule_AddType(module, sub_type) < 0) return -1;
    group_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &group_spec, NULL);
    if (!group_type || PyModule_AddType(module, group_type) < 0) return -1;
    return 0;
}
