/* What waits for what in a subscription: order holds per (source, topic, priority).
 *
 * A lane exists only while an announced message of its key is unfinished, so the usual message, with nothing
 * unfinished before it, pays one pointer test (inbox.c). Lanes of a subscription are few: a plain list. */
#include "client.h"

static uint64_t key_hash(const struct lane_key *key)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ key->priority; /* FNV-1a */
    for (size_t i = 0; i < key->source.len; i++) hash = (hash ^ key->source.data[i]) * UINT64_C(0x100000001b3);
    hash = (hash ^ 0x100) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < key->topic.len; i++) hash = (hash ^ key->topic.data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static bool lane_is(const struct lane *lane, const struct lane_key *key, uint64_t hash)
{
    return lane->hash == hash && lane->priority == key->priority && lane->source_len == key->source.len &&
           lane->topic_len == key->topic.len &&
           (!key->source.len || !memcmp(lane->key, key->source.data, key->source.len)) &&
           (!key->topic.len || !memcmp(lane->key + lane->source_len, key->topic.data, key->topic.len));
}

struct lane *lane_find(const struct port *port, const struct lane_key *key)
{
    if (!port->lanes) return NULL;
    const uint64_t hash = key_hash(key);
    for (struct lane *lane = port->lanes; lane; lane = lane->next)
        if (lane_is(lane, key, hash)) return lane;
    return NULL;
}

struct waiting *lane_append(struct port *port, const struct lane_key *key, uint64_t place)
{
    struct waiting *waiting = PyMem_Calloc(1, sizeof *waiting);
    struct lane *lane = lane_find(port, key);
    if (waiting && !lane) {
        lane = PyMem_Calloc(1, sizeof *lane + key->source.len + key->topic.len);
        if (lane) {
            lane->hash = key_hash(key);
            lane->priority = key->priority;
            lane->source_len = (uint32_t)key->source.len;
            lane->topic_len = (uint32_t)key->topic.len;
            if (key->source.len) memcpy(lane->key, key->source.data, key->source.len);
            if (key->topic.len) memcpy(lane->key + key->source.len, key->topic.data, key->topic.len);
            lane->next = port->lanes;
            port->lanes = lane;
        }
    }
    if (!waiting || !lane) {
        PyMem_Free(waiting);
        PyErr_NoMemory();
        return NULL;
    }
    waiting->lane = lane;
    waiting->port = port;
    waiting->place = place;
    if (lane->last) lane->last->next = waiting;
    else lane->first = waiting;
    lane->last = waiting;
    return waiting;
}

int lane_advance(struct port *port, struct lane *lane)
{
    Mailbox *mailbox = port->mailbox; /* borrowed */
    for (struct waiting *front; (front = lane->first) && (front->message || front->dead);) {
        if (front->message && mailbox_room(mailbox, lane->priority) < 0) return -1;
        lane->first = front->next;
        if (front->message) mailbox_put(mailbox, lane->priority, front->message, front->place, front->bytes);
        else mailbox_skip(mailbox, front->place);
        PyMem_Free(front);
    }
    if (lane->first) return 0;
    for (struct lane **link = &port->lanes; *link; link = &(*link)->next) {
        if (*link != lane) continue;
        *link = lane->next;
        break;
    }
    PyMem_Free(lane);
    return 0;
}

void port_clear(struct port *port)
{
    struct lane *lane = port->lanes;
    port->lanes = NULL; /* messages may run Python code when they go */
    while (lane) {
        struct lane *next_lane = lane->next;
        for (struct waiting *front = lane->first; front;) {
            struct waiting *next = front->next;
            mailbox_skip(port->mailbox, front->place);
            Py_XDECREF(front->message);
            PyMem_Free(front);
            front = next;
        }
        PyMem_Free(lane);
        lane = next_lane;
    }
}
