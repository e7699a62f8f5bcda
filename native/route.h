/* Routes past the node: what a client publishes on a topic goes into links (shm_link.h) of all who are subscribed, as long
 * as the node has granted it. Inside of the outbox: route.c (asking, leaving), route_grant.c (answers), route_direct.c (posting),
 * route_wait.c (waiting for room) and route_ask.c (requests and their answers).
 *
 * The node stays the truth. A route is used only while the word of its topic in the node's generation page stands, and
 * only for a message that each target has room for, now or in a moment (route_room_ns); any other goes by the node, and by that
 * the route is left. So nothing is ever withdrawn here, and order holds for each way of its own:
 *
 *     IDLE --2nd message by the node within 10 s--> WANTED --the outbox is empty: Item.ask leaves--> ASKED
 *     ASKED --granted--> LIVE --a message by the node, the word moved, a link broke--> IDLE (and the node is told)
 *     ASKED --refused--> REFUSED --again_ms are over, or the word moved--> IDLE
 *
 * The ask stands behind all that was pushed before it. A message on the topic that goes by the node while the route is
 * ASKED makes it dirty: what is granted then is given back, because that message may be behind the ask. */
#ifndef SIRA_ROUTE_H
#define SIRA_ROUTE_H

#include "client.h"
#include "fault.h"
#include "shm_py.h"

enum {
    ROUTES_MAX = 4096,           /* topics remembered: one that is forgotten begins anew */
    ROUTE_ASKS_MAX = 64,         /* wanted or asked at a time: what a node is asked at once */
    ROUTE_TARGETS_MAX = 64,      /* the node grants fewer */
    ROUTE_MESSAGES_MIN = 2,      /* by the node, before a route is asked for: a single one is not worth it */
    ROUTE_POSTED_WORTH = 64,     /* messages after which a route was worth its asking */
};
/* So long a publisher waits for room at subscribers that block it, and so much longer for each byte of its message: they
 * look at one of that size, and at 1 GB/s that is slow. One that takes what comes makes some in less, also on a busy
 * machine; for one that does not, it is waited once in the life of a route. */
#define ROUTE_ROOM_NS UINT64_C(20000000)
#define ROUTE_ROOM_NS_A_BYTE 1
#define ROUTE_WITHIN_NS UINT64_C(10000000000)   /* ROUTE_MESSAGES_MIN come within this */
/* Who leaves a route after a few messages asks again later, twice as late each time. */
#define ROUTE_PAUSE_NS_MIN UINT64_C(5000000)
#define ROUTE_PAUSE_NS_MAX UINT64_C(1000000000)

/* The generation page, mapped read-only. */
typedef struct {
    PyObject_HEAD
    struct sira_shm shm;
    uint32_t words;
} ShmPage;
extern PyTypeObject sira_shm_page_type;

/* What the word says now. Requires: index < page->words. */
static inline uint64_t page_word(const ShmPage *page, uint32_t index)
{
    return sira_word_load((const uint64_t *)(const void *)page->shm.base + index);
}

struct route_target {
    ShmWriter *writer; /* owned */
    uint32_t cell;
    uint32_t planned;  /* targets before it of the same writer */
    bool rings;        /* the last of its writer */
    bool waits;        /* who has no room there may wait for it: its subscriber's overflow rule is `block` */
};

/* One topic. In exactly one list of its outbox, by its state. */
typedef struct ShmRoute {
    PyObject_HEAD
    struct ShmRoute *next, *prev;
    PyObject *topic;       /* owned, exactly str; a checked name */
    enum route_state state;
    bool dirty;            /* WANTED, ASKED: a message went by the node since */
    uint32_t ask;          /* ASKED, LIVE */
    uint32_t fork_depth;
    ShmPage *page;         /* owned; LIVE, or REFUSED until the word moves; NULL: none */
    uint32_t word;
    uint64_t value;
    uint32_t count;        /* messages by the node since first_ns */
    uint64_t first_ns;
    uint64_t until_ns;     /* nothing is asked before */
    uint64_t pause_ns;
    uint64_t posted;       /* LIVE: since it was granted */
    uint32_t matched;
    uint32_t target_count, segment_count;
    struct route_target *targets; /* owned; LIVE */
    uint32_t *segments;    /* owned; LIVE: those that all targets have */
    const struct route_target *blocked; /* of targets: had no room for the last message; NULL: none */
    uint64_t blocked_bytes;     /* what that needed: of a chunk */
    uint8_t blocked_priority;
    bool slow;             /* somebody has waited there in vain: nobody does until something is posted */
    bool lined;            /* somebody waits for it, in Python: nobody else is to go before */
} ShmRoute;
extern PyTypeObject sira_shm_route_type;

/* The route of this topic, if it is live and its word stands; a word that moved ends it here. Borrowed; runs no Python. */
ShmRoute *route_live(Outbox *self, PyObject *topic);
/* To the end of the list of its new state. */
void route_enter(Outbox *self, ShmRoute *route, enum route_state state);
/* It came to nothing, or to its end: nothing is asked for a while, if little was posted. Runs no Python code. */
void route_idle(Outbox *self, ShmRoute *route);
/* Give it up: the node is to be told. Requires: LIVE. Runs no Python code. */
void route_leave(Outbox *self, ShmRoute *route);
/* Wait until the targets that lack room have some, without the GIL. 1: try again; 0: `until_ns` is over, and nobody waits
 * there before something is posted; -1: an exception. Anything may have run. */
int route_wait(Outbox *self, PyObject *topic, uint64_t until_ns);
/* How long is waited at most for room for so much. */
static inline uint64_t route_room_ns(uint64_t bytes)
{
    return bytes < UINT64_MAX / 4 ? ROUTE_ROOM_NS + bytes * ROUTE_ROOM_NS_A_BYTE : UINT64_MAX / 2;
}
/* Does each target take this now? DIRECT_POSTED: yes. NO_ROOM: route->blocked says who does not. */
enum outbox_direct route_room(Outbox *self, ShmRoute *route, uint32_t priority, uint64_t chunk_bytes);
/* Leave it because of this writer, which Python is told of. */
void route_broken(Outbox *self, ShmRoute *route, ShmWriter *writer);

#endif
