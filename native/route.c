/* Routes past the node: which topics have one, asking for it, granting, leaving. Read route.h first. */
#include "route.h"

#include "pb.h"

/* ---- the table ------------------------------------------------------------------------------------------------ */
static struct route_list *list_of(struct outbox_routes *routes, enum route_state state)
{
    switch (state) {
    case ROUTE_WANTED:
    case ROUTE_ASKED: return &routes->asks;
    case ROUTE_LIVE: return &routes->live;
    default: return &routes->idle;
    }
}

static void list_remove(struct route_list *list, ShmRoute *route)
{
    if (route->prev) route->prev->next = route->next;
    else list->first = route->next;
    if (route->next) route->next->prev = route->prev;
    else list->last = route->prev;
    route->next = route->prev = NULL;
    list->count--;
}

static void list_append(struct route_list *list, ShmRoute *route)
{
    route->next = NULL;
    route->prev = list->last;
    if (list->last) list->last->next = route;
    else list->first = route;
    list->last = route;
    list->count++;
}

void route_enter(Outbox *self, ShmRoute *route, enum route_state state)
{
    struct outbox_routes *routes = &self->routes;
    list_remove(list_of(routes, route->state), route);
    routes->wanted += (state == ROUTE_WANTED) - (route->state == ROUTE_WANTED);
    route->state = state;
    list_append(list_of(routes, state), route);
}

/* Let go of what a grant or a refusal brought. The end of a writer closes descriptors and gives chunks back: no Python. */
static void route_release(ShmRoute *route)
{
    struct route_target *targets = route->targets;
    const uint32_t count = route->target_count;
    ShmPage *page = route->page;
    PyMem_Free(route->segments);
    route->targets = NULL;
    route->segments = NULL;
    route->page = NULL;
    route->blocked = NULL;
    route->target_count = route->segment_count = 0;
    for (uint32_t i = 0; i < count; i++) Py_DECREF(targets[i].writer);
    PyMem_Free(targets);
    Py_XDECREF(page);
}

static void route_dealloc(PyObject *object)
{
    ShmRoute *route = (ShmRoute *)object;
    route_release(route);
    Py_XDECREF(route->topic);
    PyObject_Free(object);
}

PyTypeObject sira_shm_route_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmRoute",
    .tp_basicsize = sizeof(ShmRoute),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = route_dealloc,
};

/* A str of exactly that type, so that looking it up runs no Python. New reference; NULL: no name, or no memory. */
static PyObject *key_of(PyObject *topic)
{
    return PyUnicode_Check(topic) ? PyUnicode_FromObject(topic) : NULL;
}

/* Borrowed; NULL: none. */
static ShmRoute *route_find(const Outbox *self, PyObject *topic)
{
    if (!self->routes.by_topic) return NULL;
    PyObject *key = key_of(topic); /* owned */
    PyObject *found = key ? PyDict_GetItemWithError(self->routes.by_topic, key) : NULL; /* borrowed */
    Py_XDECREF(key);
    if (!found) PyErr_Clear();
    return (ShmRoute *)found;
}

/* A new one, the one used longest ago making way. Borrowed; NULL: all are in use, or no memory. */
static ShmRoute *route_make(Outbox *self, PyObject *topic)
{
    struct outbox_routes *routes = &self->routes;
    if (!routes->by_topic && !(routes->by_topic = PyDict_New())) goto failed;
    if (PyDict_GET_SIZE(routes->by_topic) >= ROUTES_MAX) {
        ShmRoute *oldest = routes->idle.first;
        if (!oldest) return NULL;
        list_remove(&routes->idle, oldest);
        routes->lined -= oldest->lined;
        PyObject *key = Py_NewRef(oldest->topic); /* owned: the entry holds the other */
        if (PyDict_DelItem(routes->by_topic, key) < 0) PyErr_Clear();
        Py_DECREF(key);
    }
    ShmRoute *route = (ShmRoute *)sira_shm_route_type.tp_alloc(&sira_shm_route_type, 0); /* owned */
    if (!route) goto failed;
    route->topic = key_of(topic);
    if (!route->topic || PyDict_SetItem(routes->by_topic, route->topic, (PyObject *)route) < 0) {
        Py_DECREF(route);
        goto failed;
    }
    list_append(&routes->idle, route);
    Py_DECREF(route); /* the table's */
    return route;
failed:
    PyErr_Clear(); /* a route less: the message goes by the node */
    return NULL;
}

/* ---- leaving -------------------------------------------------------------------------------------------------- */
static void tell_ended(struct outbox_routes *routes, uint32_t ask)
{
    if (routes->ended_count == routes->ended_room) {
        const uint32_t room = routes->ended_room ? 2 * routes->ended_room : 16;
        uint32_t *ended = PyMem_Realloc(routes->ended, room * sizeof *ended);
        if (!ended) return; /* the node keeps its cells until the connection ends */
        routes->ended = ended;
        routes->ended_room = room;
    }
    routes->ended[routes->ended_count++] = ask;
}

/* It came to nothing, or to little: the next one is asked for later, and each time twice as late. */
static void route_pause(ShmRoute *route, uint64_t now_ns)
{
    if (route->posted >= ROUTE_POSTED_WORTH) {
        route->pause_ns = 0;
        return;
    }
    route->pause_ns = route->pause_ns ? 2 * route->pause_ns : ROUTE_PAUSE_NS_MIN;
    if (route->pause_ns > ROUTE_PAUSE_NS_MAX) route->pause_ns = ROUTE_PAUSE_NS_MAX;
    route->until_ns = now_ns + route->pause_ns;
}

void route_idle(Outbox *self, ShmRoute *route)
{
    route_pause(route, sira_now_mono_ns());
    route->count = 0;
    route->dirty = route->slow = false;
    route->posted = 0;
    route_enter(self, route, ROUTE_IDLE);
    route_release(route);
}

void route_leave(Outbox *self, ShmRoute *route)
{
    assert(route->state == ROUTE_LIVE);
    tell_ended(&self->routes, route->ask);
    self->routes.left++;
    route_idle(self, route);
    SIRA_FAULT_POINT("route.left");
}

void route_broken(Outbox *self, ShmRoute *route, ShmWriter *writer)
{
    struct outbox_routes *routes = &self->routes;
    if (writer->writer.slots) { /* not ended by Python itself */
        if (!routes->broken) routes->broken = PyList_New(0);
        if (!routes->broken || PyList_Append(routes->broken, (PyObject *)writer) < 0) PyErr_Clear();
    }
    route_leave(self, route);
}

ShmRoute *route_live(Outbox *self, PyObject *topic)
{
    if (!self->routes.live.count) return NULL;
    ShmRoute *route = route_find(self, topic); /* borrowed */
    if (!route || route->state != ROUTE_LIVE || route->fork_depth != sira_fork_depth) return NULL;
    if (page_word(route->page, route->word) == route->value) return route;
    route_leave(self, route);
    return NULL;
}

/* ---- asking --------------------------------------------------------------------------------------------------- */
/* REFUSED: is it still in force? */
static bool is_refused(const ShmRoute *route, uint64_t now_ns)
{
    if (route->page && page_word(route->page, route->word) != route->value) return false;
    return now_ns < route->until_ns;
}

void routes_pushed(Outbox *self, PyObject *topic, const struct sira_options *options)
{
    struct outbox_routes *routes = &self->routes;
    if (!routes->on) return;
    ShmRoute *route = route_find(self, topic); /* borrowed */
    if (route && route->state == ROUTE_LIVE) {
        route_leave(self, route);
    } else if (route && (route->state == ROUTE_WANTED || route->state == ROUTE_ASKED)) {
        route->dirty = true;
        return;
    }
    if (sira_options_need_node(options)) return;
    if (!route && !(route = route_make(self, topic))) return;
    const uint64_t now_ns = sira_now_mono_ns();
    if (route->state == ROUTE_REFUSED && is_refused(route, now_ns)) return;
    if (route->state == ROUTE_REFUSED) {
        route_release(route);
        route->until_ns = 0;
        route->count = ROUTE_MESSAGES_MIN - 1; /* it was asked for before */
        route->first_ns = now_ns;
    }
    route_enter(self, route, ROUTE_IDLE); /* the one used last */
    if (now_ns < route->until_ns) return;
    if (!route->count || now_ns - route->first_ns > ROUTE_WITHIN_NS) {
        route->count = 0;
        route->first_ns = now_ns;
    }
    if (++route->count < ROUTE_MESSAGES_MIN || routes->asks.count >= ROUTE_ASKS_MAX) return;
    if (routes->ask_last == UINT32_MAX) return; /* none is used twice */
    route->dirty = false;
    route_enter(self, route, ROUTE_WANTED);
    SIRA_FAULT_POINT("route.wanted");
}

static size_t ask_size(uint32_t ask, size_t topic_len)
{
    return pb_uint_size(1, ask) + pb_bytes_size(2, topic_len);
}

PyObject *routes_take(Outbox *self)
{
    struct outbox_routes *routes = &self->routes;
    struct sira_slice names[ROUTE_ASKS_MAX];
    uint32_t count = 0, ask = routes->ask_last;
    size_t size = 0;
    for (const ShmRoute *route = routes->asks.first; route; route = route->next) {
        if (route->state != ROUTE_WANTED || ask == UINT32_MAX) continue;
        Py_ssize_t len;
        const char *name = PyUnicode_AsUTF8AndSize(route->topic, &len); /* cached: it was a message's topic */
        if (!name) return NULL;
        names[count++] = (struct sira_slice){(const uint8_t *)name, (size_t)len};
        size += pb_bytes_size(1, pb_bytes_size(SIRA_ITEM_ASK, ask_size(++ask, (size_t)len)));
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size); /* owned */
    if (!frame) return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(frame);
    uint32_t next = 0;
    for (ShmRoute *route = routes->asks.first, *after; route && next < count; route = after) {
        after = route->next; /* entering puts it at the end */
        if (route->state != ROUTE_WANTED) continue;
        route->ask = ++routes->ask_last;
        route->dirty = false; /* whatever was pushed has left before */
        const size_t len = ask_size(route->ask, names[next].len);
        at = pb_put_varint(pb_put_key(at, 1, PB_LEN), pb_bytes_size(SIRA_ITEM_ASK, len));
        at = pb_put_varint(pb_put_key(at, SIRA_ITEM_ASK, PB_LEN), len);
        at = pb_put_uint(at, 1, route->ask);
        at = pb_put_bytes(at, 2, names[next].data, names[next].len);
        next++;
        route_enter(self, route, ROUTE_ASKED);
        SIRA_FAULT_POINT("route.asked");
    }
    assert(at == (uint8_t *)PyBytes_AS_STRING(frame) + size);
    return frame;
}

void routes_forget_asks(Outbox *self)
{
    while (self->routes.asks.first) {
        ShmRoute *route = self->routes.asks.first;
        route->count = 0;
        route->dirty = false;
        route_enter(self, route, ROUTE_IDLE);
    }
}

void routes_drop(Outbox *self)
{
    struct outbox_routes *routes = &self->routes;
    PyObject *table = routes->by_topic, *broken = routes->broken; /* owned */
    routes->by_topic = routes->broken = NULL;
    routes->idle = routes->asks = routes->live = (struct route_list){NULL, NULL, 0};
    routes->wanted = routes->lined = 0;
    routes->ended_count = 0;
    Py_XDECREF(table);
    Py_XDECREF(broken);
}

/* ---- what Python asks ------------------------------------------------------------------------------------------ */
bool routes_asking(const Outbox *self, PyObject *topic)
{
    if (!self->routes.asks.count) return false;
    const ShmRoute *route = route_find(self, topic); /* borrowed */
    return route && (route->state == ROUTE_WANTED || route->state == ROUTE_ASKED) && !route->dirty;
}

bool routes_wait(const Outbox *self, PyObject *topic)
{
    if (!self->routes.lined) return routes_asking(self, topic);
    const ShmRoute *route = route_find(self, topic); /* borrowed */
    return (route && route->lined) || routes_asking(self, topic);
}

/* line(topic, stands) */
PyObject *outbox_line(Outbox *self, PyObject *args)
{
    PyObject *topic; /* borrowed */
    int stands;
    if (!PyArg_ParseTuple(args, "Up:line", &topic, &stands)) return NULL;
    ShmRoute *route = route_find(self, topic); /* borrowed */
    if (route && route->lined != (bool)stands) {
        route->lined = stands;
        self->routes.lined += stands ? 1 : UINT32_MAX; /* or one less */
    }
    Py_RETURN_NONE;
}

PyObject *outbox_asking(Outbox *self, PyObject *topic)
{
    return PyBool_FromLong(routes_asking(self, topic));
}

PyObject *outbox_route_state(Outbox *self, PyObject *topic)
{
    static const char *const names[] = {"idle", "refused", "wanted", "asked", "live"};
    const ShmRoute *route = route_find(self, topic); /* borrowed */
    if (!route) Py_RETURN_NONE;
    return PyUnicode_FromString(names[route->state]);
}

PyObject *outbox_asked_ended(Outbox *self, PyObject *Py_UNUSED(ignored))
{
    struct outbox_routes *routes = &self->routes;
    PyObject *list = PyList_New(routes->ended_count); /* owned */
    for (uint32_t i = 0; list && i < routes->ended_count; i++) {
        PyObject *ask = PyLong_FromUnsignedLong(routes->ended[i]);
        if (ask) PyList_SET_ITEM(list, (Py_ssize_t)i, ask);
        else Py_CLEAR(list);
    }
    if (list) routes->ended_count = 0;
    return list;
}

PyObject *outbox_broken_links(Outbox *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *broken = self->routes.broken; /* owned */
    self->routes.broken = NULL;
    return broken ? broken : PyList_New(0);
}

PyObject *outbox_drop_routes(Outbox *self, PyObject *Py_UNUSED(ignored))
{
    routes_drop(self);
    Py_RETURN_NONE;
}
