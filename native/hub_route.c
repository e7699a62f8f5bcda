/* Where a publisher's topics go: Python is asked once, the answer is kept until a generation moves. */
#include "hub_stream.h"
#include "pyutil.h"

enum { ROUTES_MAX = 16384 }; /* a publisher on more topics than this resolves them anew now and then */

uint64_t hub_topic_hash(struct sira_slice topic)
{
    uint64_t h = 0xcbf29ce484222325u;
    size_t i = 0;
    for (; i + 8 <= topic.len; i += 8) {
        uint64_t word;
        memcpy(&word, topic.data + i, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; i < topic.len; i++) h = (h ^ topic.data[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

static bool entry_is(const struct route_entry *entry, uint64_t hash, struct sira_slice topic)
{
    if (entry->hash != hash) return false;
    Py_ssize_t len;
    const char *name = PyUnicode_AsUTF8AndSize(entry->route->topic->name, &len); /* cached in the str: cannot fail */
    return name && (size_t)len == topic.len && memcmp(name, topic.data, topic.len) == 0;
}

static void entry_free(struct route_entry *entry)
{
    assert(!entry->first && !entry->in_line);
    Py_XDECREF(entry->route);
    PyMem_Free(entry);
}

static void routes_insert(struct route_entry **at, uint32_t cap, struct route_entry *entry)
{
    uint32_t i = (uint32_t)entry->hash & (cap - 1);
    while (at[i]) i = (i + 1) & (cap - 1);
    at[i] = entry;
}

static uint32_t routes_waited_at(const Ingress *in)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < in->route_cap; i++) count += in->routes[i] && in->routes[i]->listed;
    return count;
}

/* Room for one more; past ROUTES_MAX everything that nobody waits at is forgotten. What messages wait at stays, and a
 * frame may bring more such topics than that: the table grows, too, unless so few stay that it is long until the next
 * time. */
static int routes_reserve(Ingress *in)
{
    if ((in->route_len + 1) * 2 <= in->route_cap) return 0;
    const bool forget = in->route_len >= ROUTES_MAX;
    const bool grow = !forget || routes_waited_at(in) > in->route_cap / 4;
    const uint32_t cap = in->route_cap ? in->route_cap * (grow ? 2 : 1) : 16;
    struct route_entry **at = PyMem_Calloc(cap, sizeof *at);
    if (!at) {
        PyErr_NoMemory();
        return -1;
    }
    struct route_entry **old = in->routes;
    const uint32_t old_cap = in->route_cap;
    in->routes = at;
    in->route_cap = cap;
    in->route_len = 0;
    for (uint32_t i = 0; i < old_cap; i++) {
        if (!old[i]) continue;
        if (forget && !old[i]->listed) {
            entry_free(old[i]);
            continue;
        }
        routes_insert(at, cap, old[i]);
        in->route_len++;
    }
    PyMem_Free(old);
    return 0;
}

static bool route_fresh(const Route *route)
{
    return !route->topic->dropped && route->topic_generation == route->topic->generation &&
           route->all_generation == route->topic->hub->generation;
}

/* Ask Python where this topic goes. New reference, or NULL with an exception. */
static Route *resolve(Ingress *in, struct sira_slice topic)
{
    if (in->closed || !in->resolve) return (Route *)sira_raise("CONNECTION_CLOSED", "this stream is closed");
    PyObject *name = PyUnicode_DecodeUTF8((const char *)topic.data, (Py_ssize_t)topic.len, NULL); /* owned */
    if (!name) return NULL;
    PyObject *route = PyObject_CallOneArg(in->resolve, name); /* owned */
    Py_DECREF(name);
    in->hub->routes_resolved++;
    if (route && !Py_IS_TYPE(route, route_type)) {
        PyErr_Format(PyExc_TypeError, "resolve() gave %.100s, not a Route", Py_TYPE(route)->tp_name);
        Py_CLEAR(route);
    }
    return (Route *)route;
}

/* Ask again if something has changed. A stale route that is refused stays stale: asked again next time. */
int route_refresh(Ingress *in, struct route_entry *entry)
{
    if (route_fresh(entry->route)) return 0;
    Py_ssize_t len;
    const char *name = PyUnicode_AsUTF8AndSize(entry->route->topic->name, &len); /* borrowed; cached: cannot fail */
    Route *route = resolve(in, (struct sira_slice){(const uint8_t *)name, (size_t)len}); /* owned */
    if (!route) return -1;
    Py_SETREF(entry->route, route);
    return 0;
}

struct route_entry *route_find(const Ingress *in, struct sira_slice topic)
{
    if (!in->route_cap) return NULL;
    const uint64_t hash = hub_topic_hash(topic);
    uint32_t i = (uint32_t)hash & (in->route_cap - 1);
    for (; in->routes[i]; i = (i + 1) & (in->route_cap - 1))
        if (entry_is(in->routes[i], hash, topic)) return in->routes[i];
    return NULL;
}

/* The entry of a topic with a route that is valid now. NULL with an exception: refused. */
struct route_entry *route_of(Ingress *in, struct sira_slice topic)
{
    struct route_entry *entry = route_find(in, topic);
    if (entry) return route_refresh(in, entry) < 0 ? NULL : entry;
    Route *route = resolve(in, topic); /* owned */
    if (!route) return NULL;
    entry = PyMem_Calloc(1, sizeof *entry);
    if (!entry || routes_reserve(in) < 0) {
        if (!entry) PyErr_NoMemory();
        PyMem_Free(entry);
        Py_DECREF(route);
        return NULL;
    }
    entry->hash = hub_topic_hash(topic);
    entry->route = route;
    entry->in = in;
    routes_insert(in->routes, in->route_cap, entry);
    in->route_len++;
    return entry;
}

void routes_free(Ingress *in)
{
    struct route_entry **routes = in->routes;
    const uint32_t cap = in->route_cap;
    in->routes = NULL;
    in->route_cap = in->route_len = 0;
    for (uint32_t i = 0; i < cap; i++)
        if (routes[i]) entry_free(routes[i]);
    PyMem_Free(routes);
}
