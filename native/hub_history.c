/* Receipts of a client's last messages: what it sends again after a lost stream is not taken twice. */
#include "hub_stream.h"

void history_add(History *history, const uint8_t *id, uint32_t matched, uint64_t bytes, uint64_t now_ns)
{
    if (history->len == history->cap && history->cap < history->max) {
        uint32_t cap = history->cap ? history->cap * 2 : 16;
        if (cap > history->max) cap = history->max;
        struct past *at = PyMem_Malloc(cap * sizeof *at);
        if (at) { /* without memory the oldest is forgotten, as at the limit */
            for (uint32_t i = 0; i < history->len; i++) at[i] = history->at[(history->head + i) % history->cap];
            PyMem_Free(history->at);
            history->at = at;
            history->cap = cap;
            history->head = 0;
        }
    }
    if (!history->cap) return;
    if (history->len == history->cap) {
        history->head = (history->head + 1) % history->cap;
        history->len--;
    }
    struct past *past = &history->at[(history->head + history->len++) % history->cap];
    *past = (struct past){.at_ns = now_ns, .bytes = bytes, .matched = matched};
    memcpy(past->id, id, SIRA_ID_BYTES);
}

/* Repeats come in the order of the first time, so the search goes on where it last ended. */
const struct past *history_find(History *history, const uint8_t *id, uint64_t now_ns)
{
    for (uint32_t step = 0; step < history->len; step++) {
        const uint32_t i = (history->cursor + step) % history->len;
        const struct past *past = &history->at[(history->head + i) % history->cap];
        if (memcmp(past->id, id, SIRA_ID_BYTES) != 0) continue;
        history->cursor = i + 1;
        return now_ns - past->at_ns <= history->window_ns ? past : NULL;
    }
    return NULL;
}

static PyObject *history_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"messages_max", "window_ns", NULL};
    unsigned int messages_max = 4096;
    unsigned long long window_ns = 60000000000u;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$IK:History", names, &messages_max, &window_ns)) return NULL;
    History *history = (History *)type->tp_alloc(type, 0);
    if (!history) return NULL;
    history->max = messages_max;
    history->window_ns = window_ns;
    return (PyObject *)history;
}

static void history_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(((History *)self)->at);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t history_len(PyObject *self)
{
    return ((History *)self)->len;
}

static PyType_Slot history_slots[] = {
    {Py_tp_new, history_new},
    {Py_tp_dealloc, history_dealloc},
    {Py_sq_length, history_len},
    {Py_tp_doc, "Receipts of a client's last messages, for retries by id."},
    {0, NULL},
};
static PyType_Spec history_spec = {.name = "sira._native.History", .basicsize = sizeof(History),
                                   .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, .slots = history_slots};

PyTypeObject *history_type;

int hub_add_history(PyObject *module)
{
    history_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &history_spec, NULL);
    if (!history_type || PyModule_AddType(module, history_type) < 0) return -1;
    return 0;
}
