/* Waiting for room at the targets of a live route, for as long as they keep up. Read route.h first. */
#include "route.h"

enum outbox_direct route_room(Outbox *self, ShmRoute *route, uint32_t priority, uint64_t chunk_bytes)
{
    const struct route_target *blocked = NULL;
    route->blocked = NULL;
    for (uint32_t i = 0; i < route->target_count; i++) {
        const struct route_target *target = &route->targets[i];
        const enum sira_link_status status =
            sira_link_room(&target->writer->writer, target->cell, priority, chunk_bytes, target->planned);
        if (status == SIRA_LINK_OK) continue;
        if (status == SIRA_LINK_CORRUPT) {
            route_broken(self, route, target->writer);
            return DIRECT_NOT;
        }
        if (!target->waits || route->slow) return DIRECT_NOT; /* the node knows what to do for it */
        if (!blocked) blocked = target;
    }
    if (!blocked) return DIRECT_POSTED;
    route->blocked = blocked;
    route->blocked_priority = (uint8_t)priority;
    route->blocked_bytes = chunk_bytes;
    return DIRECT_NO_ROOM;
}

/* The route, if it still lacks room for what it was last asked for. Borrowed; runs no Python. */
static ShmRoute *route_blocked(Outbox *self, PyObject *topic)
{
    ShmRoute *route = route_live(self, topic); /* borrowed */
    if (!route || !route->blocked) return NULL;
    return route_room(self, route, route->blocked_priority, route->blocked_bytes) == DIRECT_NO_ROOM ? route : NULL;
}

/* How much of what is out is to come back before it is worth waking: of many small messages half, of a tensor any. */
static uint32_t wanted_back(const ShmRoute *route)
{
    const struct route_target *target = route->blocked;
    const uint32_t out = target->writer->writer.cells[target->cell].outstanding;
    return route->blocked_bytes || out < 2 ? 1 : out / 2;
}

int route_wait(Outbox *self, PyObject *topic, uint64_t until_ns)
{
    ShmRoute *route; /* borrowed, looked up again each time: anything may run while this waits */
    while ((route = route_blocked(self, topic))) {
        const uint64_t now_ns = sira_now_mono_ns();
        if (now_ns >= until_ns) {
            route->slow = true;
            return 0;
        }
        ShmWriter *writer = (ShmWriter *)Py_NewRef(route->blocked->writer); /* owned */
        const int waited = sira_writer_wait(writer, wanted_back(route), (int64_t)(until_ns - now_ns));
        Py_DECREF(writer);
        if (waited < 0) return -1;
    }
    return 1;
}

PyObject *outbox_blocked(Outbox *self, PyObject *topic)
{
    const ShmRoute *route = route_blocked(self, topic); /* borrowed */
    return Py_NewRef(route ? (PyObject *)route->blocked->writer : Py_None);
}

PyObject *outbox_sleeps(Outbox *self, PyObject *topic)
{
    enum { LOOKS = 4 }; /* a reader may go on setting bits for nothing */
    ShmRoute *route = NULL; /* borrowed */
    for (int i = 0; i < LOOKS; i++) {
        route = route_blocked(self, topic);
        if (!route || sira_link_writer_sleeps(&route->blocked->writer->writer, wanted_back(route))) break;
    }
    return Py_NewRef(route ? (PyObject *)route->blocked->writer : Py_None);
}

PyObject *outbox_room_s(Outbox *self, PyObject *topic)
{
    const ShmRoute *route = route_live(self, topic); /* borrowed */
    return PyFloat_FromDouble((double)route_room_ns(route && route->blocked ? route->blocked_bytes : 0) / 1e9);
}
