/* Routes past the node: the node's answers to what was asked. Read route.h first. */
#include "route.h"

static ShmRoute *route_asked(const Outbox *self, uint32_t ask)
{
    for (ShmRoute *route = self->routes.asks.first; route; route = route->next)
        if (route->state == ROUTE_ASKED && route->ask == ask) return route;
    return NULL;
}

static int check_word(PyObject *page, unsigned int word)
{
    if (Py_TYPE(page) != &sira_shm_page_type) {
        PyErr_Format(PyExc_TypeError, "want a ShmPage, not %.100s", Py_TYPE(page)->tp_name);
        return -1;
    }
    if (word < ((ShmPage *)page)->words) return 0;
    sira_raise("PROTOCOL_ERROR", "word %u of a page of %u", word, ((ShmPage *)page)->words);
    return -1;
}

/* What a grant names, before anything is changed. */
struct grant {
    struct route_target *targets; /* owned, with a reference to each writer */
    uint32_t *segments;           /* owned */
    uint32_t target_count, segment_count;
};

static void grant_clear(struct grant *grant)
{
    for (uint32_t i = 0; i < grant->target_count; i++) Py_DECREF(grant->targets[i].writer);
    PyMem_Free(grant->targets);
    PyMem_Free(grant->segments);
}

/* One (ShmWriter, cell, window, held_bytes_max, waits=True, window_bytes=no limit); its cell is open then. */
static int grant_target(struct grant *grant, PyObject *entry)
{
    PyObject *object; /* borrowed */
    unsigned int cell, window;
    unsigned long long held_bytes_max, window_bytes = UINT64_MAX;
    int waits = true;
    if (!PyTuple_Check(entry)
        || !PyArg_ParseTuple(entry, "OIIK|pK:target", &object, &cell, &window, &held_bytes_max, &waits, &window_bytes)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a target is (ShmWriter, cell, window, held_bytes_max, waits, window_bytes)");
        return -1;
    }
    if (Py_TYPE(object) != &sira_shm_writer_type) {
        PyErr_SetString(PyExc_TypeError, "want a ShmWriter");
        return -1;
    }
    ShmWriter *writer = (ShmWriter *)object;
    if (cell >= writer->memory->link.shape.cells) {
        sira_raise("PROTOCOL_ERROR", "cell %u of a link of %u", cell, writer->memory->link.shape.cells);
        return -1;
    }
    struct route_target *target = &grant->targets[grant->target_count];
    *target = (struct route_target){.cell = cell, .rings = true, .waits = waits};
    for (uint32_t i = 0; i < grant->target_count; i++) {
        if (grant->targets[i].writer != writer) continue;
        if (grant->targets[i].cell == cell) {
            sira_raise("PROTOCOL_ERROR", "cell %u twice in a route", cell);
            return -1;
        }
        grant->targets[i].rings = false;
        target->planned++;
    }
    if (!writer->writer.corrupt) sira_link_writer_cell(&writer->writer, cell, window, window_bytes, held_bytes_max);
    target->writer = (ShmWriter *)Py_NewRef(object);
    grant->target_count++;
    return 0;
}

static int grant_read(struct grant *grant, PyObject *targets, PyObject *segments)
{
    const Py_ssize_t target_count = PyList_GET_SIZE(targets), segment_count = PyList_GET_SIZE(segments);
    if (target_count < 1 || target_count > ROUTE_TARGETS_MAX || segment_count > UINT16_MAX) {
        sira_raise("PROTOCOL_ERROR", "a route to %zd targets, with %zd segments", target_count, segment_count);
        return -1;
    }
    grant->targets = PyMem_Calloc((size_t)target_count, sizeof *grant->targets);
    grant->segments = PyMem_Calloc((size_t)segment_count + 1, sizeof *grant->segments);
    if (!grant->targets || !grant->segments) {
        PyErr_NoMemory();
        return -1;
    }
    for (; grant->segment_count < segment_count; grant->segment_count++) {
        const unsigned long id = PyLong_AsUnsignedLong(PyList_GET_ITEM(segments, grant->segment_count));
        if (PyErr_Occurred()) return -1;
        grant->segments[grant->segment_count] = (uint32_t)id;
    }
    for (Py_ssize_t i = 0; i < target_count; i++)
        if (grant_target(grant, PyList_GET_ITEM(targets, i)) < 0) return -1;
    return 0;
}

PyObject *outbox_route(Outbox *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ask", "page", "word", "value", "targets", "segments", "matched", NULL};
    unsigned int ask, word, matched;
    unsigned long long value;
    PyObject *page, *targets, *segments; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IOIKO!O!I:route", names, &ask, &page, &word, &value, &PyList_Type,
                                     &targets, &PyList_Type, &segments, &matched) ||
        check_word(page, word) < 0)
        return NULL;
    struct grant grant = {0};
    if (grant_read(&grant, targets, segments) < 0) {
        grant_clear(&grant);
        return NULL;
    }
    ShmRoute *route = route_asked(self, ask); /* borrowed */
    const bool is_good = route && !route->dirty && page_word((ShmPage *)page, word) == value;
    if (is_good) {
        route->page = (ShmPage *)Py_NewRef(page);
        route->word = word;
        route->value = value;
        route->targets = grant.targets;
        route->target_count = grant.target_count;
        route->segments = grant.segments;
        route->segment_count = grant.segment_count;
        route->matched = matched;
        route->posted = 0;
        route->fork_depth = sira_fork_depth;
        route_enter(self, route, ROUTE_LIVE);
        self->routes.granted++;
        SIRA_FAULT_POINT("route.granted");
        Py_RETURN_TRUE;
    }
    if (route) {
        route->posted = 0;
        route_idle(self, route);
    }
    grant_clear(&grant);
    Py_RETURN_FALSE;
}

PyObject *outbox_refuse(Outbox *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ask", "page", "word", "value", "again_ms", NULL};
    unsigned int ask, word, again_ms;
    unsigned long long value;
    PyObject *page; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IOIKI:refuse", names, &ask, &page, &word, &value, &again_ms) ||
        (page != Py_None && check_word(page, word) < 0))
        return NULL;
    ShmRoute *route = route_asked(self, ask); /* borrowed */
    if (!route) Py_RETURN_NONE;
    const uint64_t now_ns = sira_now_mono_ns();
    route_enter(self, route, ROUTE_REFUSED);
    SIRA_FAULT_POINT("route.refused");
    route->dirty = false;
    if (again_ms) {
        route->until_ns = now_ns + again_ms * UINT64_C(1000000);
    } else if (page == Py_None) {
        route->until_ns = now_ns + ROUTE_WITHIN_NS;
    } else {
        route->until_ns = UINT64_MAX;
        route->page = (ShmPage *)Py_NewRef(page);
        route->word = word;
        route->value = value;
    }
    Py_RETURN_NONE;
}
