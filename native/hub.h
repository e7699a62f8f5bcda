/* The node's data plane, shared by hub_*.c. Read native/hub_topic.c (what is counted), then hub_queue.c (where
 * messages wait), hub_ingress.c (how they come) and hub_egress.c (how they leave).
 *
 * One thread, under the GIL; time comes in as now_ns (CLOCK_MONOTONIC), so a run can be replayed. Policy is
 * Python's: it resolves a topic to a Route, this code remembers and obeys it.
 *
 * Python runs inside in few places, and may do there what it likes (publish on other streams, close any): resolve(),
 * admit(), aside(), asked() and lender(), and where an error is made and encoded. The Ingress at work is `busy` meanwhile: it is not
 * fed again and is taken apart only afterwards. lend() of an Egress may do everything but close that stream, or what it is
 * subscribed to. wake() and drained() are never called from inside, but by hub_tell(), last.
 *
 * Conservation: every function that moves a delivery moves exactly one count with it, so that for each topic
 * owed = delivered + pending + retained + superseded + expired + sum(dropped). */
#ifndef SIRA_HUB_H
#define SIRA_HUB_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "shm_file.h"
#include "wire.h"

typedef struct Hub Hub;
typedef struct HubTopic HubTopic;
typedef struct Route Route;
typedef struct Ingress Ingress;
typedef struct Egress Egress;
typedef struct Sub Sub;
typedef struct Group Group;
typedef struct History History;

extern PyTypeObject *hub_type, *hub_topic_type, *route_type, *ingress_type, *egress_type, *sub_type, *group_type,
    *history_type, *row_walk_type;

/* ---- counts ------------------------------------------------------------------------------------------ */
enum { REASONS_MAX = 64, REASON_BYTES = 32, HIST_BUCKETS = 26 };

/* Reasons met so far, by index. The named ones are always there, in this order. */
enum reason { R_QUEUE_FULL, R_EXPIRED, R_NO_MATCH, R_PEER_LOST, R_STALLED, R_UNSUBSCRIBED, R_OTHER, R_NAMED };

struct reason_counts { /* sparse: a topic meets few reasons */
    uint16_t len, cap;
    struct { uint16_t reason; uint64_t n; } *at;
};

/* One ledger row. A topic's row is folded into its class's when the topic goes; what is still pending then
 * goes on counting in the class's. Owned by the hub, never freed before it. */
struct row {
    char *name;  /* topic, or class for a folded one */
    bool is_class;
    struct row *folded_into; /* NULL: itself */
    uint64_t published, owed, delivered, pending, retained, superseded, expired;
    uint64_t direct; /* of `pending`: on links, where only hub_account() moves it */
    struct reason_counts dropped, refused;
    uint32_t refs; /* topics and deliveries that still count here */
    uint64_t hist[HIST_BUCKETS], hist_sum_ns; /* used in class rows: time a delivery waited on the node */
    struct row *class_row;
    uint64_t serial; /* of two rows, the larger is the newer */
    struct row *prev, *next; /* newest first: topics and classes in a list each */
};

/* A walk over the rows in slices: topics, then classes, newest first. What comes behind it is not seen, what goes
 * meanwhile is passed over. Classes come last: a row that folds before it was reached is met in its class. */
typedef struct RowWalk {
    PyObject_HEAD
    Hub *hub; /* owned */
    struct row *next; /* borrowed: row_unref() moves it on */
    uint64_t below; /* of its list, only rows with a smaller serial; 0: all */
    bool classes, done;
    struct RowWalk *hub_prev, *hub_next;
} RowWalk;

struct row *row_live(struct row *row); /* follows folding */
void row_ref(struct row *row);
void row_unref(Hub *hub, struct row *row);
int row_count(Hub *hub, struct reason_counts *counts, uint16_t reason, uint64_t n); /* -1: memory */
void row_drop(Hub *hub, struct row *row, uint16_t reason, uint64_t n); /* pending -> dropped */
uint16_t hub_reason(Hub *hub, const char *code);

/* ---- messages on the node -------------------------------------------------------------------------------- */
/* A slice of a large message, on its way. `refs`: outs that have still to send it, plus the transfer's own hold
 * while it is parked or retained. `unsent`: outs only: at 0 the publisher gets its credit back. */
struct chunk {
    struct chunk *next;
    uint32_t refs, unsent;
    bool alone; /* the frame holds this item and nothing else: it can be forwarded as it is */
    bool credited;
    PyObject *frame; /* owned: parsed.data points into it. Where parsed.is_lent, a ShmSpan: its bytes are nobody's burden
                      * here, so they ask for no credit and count as held by nobody */
    struct sira_chunk parsed;
};

/* A large message, arriving. */
struct xfer {
    uint32_t refs;
    uint64_t serial;
    uint8_t id[SIRA_ID_BYTES];
    uint8_t priority;
    uint64_t deadline_ns; /* 0: none */
    Ingress *ingress; /* borrowed; NULL once the stream is gone */
    struct xfer *prev, *next; /* in the ingress */
    struct xfer *bucket_next; /* in the ingress's table by id */
    struct blob *head; /* borrowed: the head's blob holds a reference to us; NULL once it is gone */
    struct blob *keep_head; /* owned: for a `latest` topic, until it is whole or given up */
    uint32_t tensor_count, tensor_at; /* next expected chunk: tensor_at, offset_at */
    uint64_t offset_at, received, lent, total, buffered, credit_due; /* lent: of `received`, by reference */
    uint64_t *tensor_bytes; /* owned */
    bool complete, aborted, parked, keep; /* keep: hold all chunks (retained topic) */
    uint64_t slot; /* SLOT_LATE: its answer is due when it is whole; SLOT_NONE: it was given, or is not wanted */
    uint32_t matched;
    struct chunk *first, *last; /* first: oldest chunk still held by `keep` or `parked` */
    PyObject *held; /* owned or NULL: limits that count `total` until it is gone */
    PyObject *name; /* owned str, its topic; NULL: nobody is to get it */
    struct out *outs; /* all deliveries of this message, through out->peer */
};

/* One delivery of a transfer. It exists from the match on and is active from when its head is sent. */
struct out {
    struct xfer *xfer; /* owned reference */
    struct out *peer;  /* next out of the same transfer */
    Sub *sub;          /* borrowed: the sub drops its outs first */
    struct out *next;  /* in the egress's list of active outs */
    struct chunk *chunk; /* next to send; NULL: wait for more */
    size_t split_at;   /* bytes of that chunk already sent */
    bool active, tagged; /* tagged: chunks carry the subscription (another out of the same id is live here) */
};

/* One message, shared by all the queues that it waits in. */
struct blob {
    uint32_t refs;
    uint32_t len;
    uint32_t ttl_at;
    uint8_t priority;
    struct row *row; /* reference counted */
    PyObject *topic; /* owned, HubTopic */
    uint64_t publisher; /* serial of the ingress */
    uint64_t deadline_ns; /* 0: none */
    uint64_t payload_bytes;
    uint64_t cost; /* bytes that it counts for in queues: its payload, and an envelope that is no small one */
    uint64_t order; /* of two that were posted, the larger is the newer */
    PyObject *stamp; /* owned bytes, appended on the way out; NULL: already in data */
    PyObject *frame; /* owned; NULL: data is in `here` */
    PyObject *held; /* owned or NULL: limits that count `cost` until it is gone; a transfer has its own */
    struct xfer *xfer; /* owned reference; head of a large message */
    const uint8_t *data;
    uint8_t here[];
};

struct blob *blob_new(Ingress *in, HubTopic *topic, PyObject *frame, const struct sira_env *env, bool head,
                      uint64_t now_ns);
uint64_t message_cost(const struct sira_env *env, bool head);
void blob_ref(struct blob *blob);
void blob_rehome(Hub *hub, struct blob *blob, HubTopic *topic);
void blob_unref(Hub *hub, struct blob *blob);
size_t blob_bytes(const struct blob *blob); /* of the Message as it leaves */
uint8_t *blob_write(const struct blob *blob, uint8_t *p, uint64_t now_ns);

struct xfer *xfer_new(Ingress *in, const struct sira_env *env);
void xfer_unref(Hub *hub, struct xfer *xfer);
void xfer_unlink(struct xfer *xfer);
void xfer_refuse(Hub *hub, struct xfer *xfer);
struct xfer *xfer_find(const Ingress *in, struct sira_slice id); /* borrowed */
void xfer_complete(Hub *hub, struct xfer *xfer); /* all bytes are here, and it is not parked */
/* `frame`: of the chunk's bytes, or the ShmSpan that `chunk->data` is of. */
int xfer_feed(Hub *hub, struct xfer *xfer, PyObject *frame, const struct sira_chunk *chunk, bool alone);
void xfer_abort(Hub *hub, struct xfer *xfer, uint16_t reason, uint64_t now_ns);
void xfer_release_held(Hub *hub, struct xfer *xfer);
void chunk_sent(Hub *hub, struct xfer *xfer, struct chunk *chunk);
struct out *out_new(Hub *hub, struct xfer *xfer, Sub *sub);
void out_free(Hub *hub, struct out *out); /* unlinks from transfer and egress */

/* ---- queues ------------------------------------------------------------------------------------------------ */
struct slot {
    struct blob *blob; /* owned reference; NULL: taken out (expired, superseded, aborted) */
    struct out *out;   /* owned; only for a transfer */
    uint64_t since_ns;
};

struct ring {
    struct slot *at;
    uint32_t cap; /* power of two, or 0 */
    uint32_t head, len; /* head: index of the oldest, masked */
};

struct sent { /* sent, not yet confirmed, oldest first */
    struct row *row; /* reference counted */
    uint64_t bytes;
    uint64_t xfer; /* serial of the transfer, to find the entry again; 0: none */
    bool lost; /* already counted as dropped */
};

struct cell { /* overflow `latest`: where the newest of a publisher and topic waits */
    uint64_t publisher;
    const void *topic;
    uint32_t at; /* absolute position in the ring: never reused within 2^32 */
    uint8_t priority;
    bool used;
};

enum overflow { OVERFLOW_BLOCK = 1, OVERFLOW_DROP = 2, OVERFLOW_LATEST = 3 };

struct Sub {
    PyObject_HEAD
    Hub *hub;       /* owned */
    Egress *egress; /* borrowed; NULL once closed */
    Group *group;   /* owned or NULL */
    PyObject *pattern; /* owned str */
    uint32_t id;
    uint8_t overflow;
    bool stalled, told_stalled, active, blocked; /* active: in the egress's list; blocked: somebody waits for room */
    uint8_t mask; /* bit p: ring p holds something */
    uint32_t ttl_count; /* queued messages that can expire */
    struct ring rings[SIRA_PRIORITIES];
    uint32_t base[SIRA_PRIORITIES]; /* absolute position of each ring's head */
    uint32_t pending, window_messages, in_flight;
    uint64_t pending_bytes, window_bytes, in_flight_bytes;
    struct sent *sent;
    uint32_t sent_cap, sent_head;
    struct cell *cells; /* NULL unless overflow is `latest` */
    uint32_t cell_cap, cell_len;
    uint64_t delivered, dropped, superseded;
    uint64_t taken; /* confirmed since it was opened, lost ones too: what Credit.total is held against */
    uint64_t progress_ns; /* last taken, or when it began to owe */
    Sub *active_next, *active_prev;
    Sub *watched_prev, *watched_next; /* see sub_watch() */
    bool watched;
};

struct Group {
    PyObject_HEAD
    PyObject *name; /* owned */
    Sub **members;  /* borrowed: a sub leaves before it goes */
    uint32_t len, cap;
};

void sub_watch(Sub *sub); /* hub_tick() looks at it, until it holds nothing and nobody waits for it; closed: never */
void sub_unwatch(Sub *sub);
bool sub_room(const Sub *sub, const struct blob *blob);
bool sub_can_send(const Sub *sub);
int sub_enqueue(Sub *sub, struct blob *blob, uint64_t now_ns); /* owes one delivery; -1: memory */
bool sub_pop(Sub *sub, uint8_t priority, struct slot *out);    /* next of that priority, expired ones counted away */
void sub_skip_expired(Sub *sub, uint8_t priority, uint64_t now_ns);
int sub_sent(Sub *sub, const struct slot *slot, uint64_t now_ns);
int sub_taken(Sub *sub, uint64_t n, uint64_t now_ns); /* -1 with an exception: more than were sent */
struct slot *ring_slot(const struct ring *ring, uint32_t index); /* the index-th oldest; it may be a hole */
void sub_drop_at(Sub *sub, uint8_t priority, uint32_t index, uint16_t reason);
void sub_lose_sent(Sub *sub, const struct xfer *xfer, uint16_t reason);
void sub_remove_xfer(Sub *sub, struct xfer *xfer, uint16_t reason);
PyObject *sub_waiting_topics(PyObject *self, PyObject *unused); /* hub_withhold.c */
PyObject *sub_withhold(PyObject *self, PyObject *args, PyObject *kwargs);
void sub_close(Sub *sub, uint16_t reason, uint64_t now_ns);
uint32_t sub_expire(Sub *sub, uint64_t now_ns);
Sub *group_pick(Group *group, const struct blob *blob, bool rotate);
void group_leave(Group *group, Sub *sub);

struct pick { /* a message chosen for the frame that is being built */
    Sub *sub; /* borrowed: a sub cannot go while the frame is built */
    struct slot slot; /* owned */
    size_t item_bytes, message_bytes;
};
enum { PICKS_MAX = 1024 }; /* messages of one frame */

/* ---- topics, routes, hub ------------------------------------------------------------------------------------- */
struct HubTopic {
    PyObject_HEAD
    Hub *hub; /* owned */
    PyObject *name, *group, *contract; /* owned; contract may be NULL */
    struct row *row;
    uint64_t owner;
    uint32_t generation;
    bool retain, dropped;
    struct blob *retained; /* owned reference */
    uint64_t used_ns;
};

/* The limits that hold for one publisher on one topic (hub_limits.h). Owned tuples of Bucket; NULL: none. */
struct limits {
    PyObject *all;
    PyObject *held; /* those of `all` that limit the bytes held */
};

/* The last refusal of a rate within one frame, and the answer it became. The messages of a frame share their time, so
 * the next one that the same limit lets wait as long is answered with the same bytes: no Python for each message of a
 * flood. All NULL between two frames. */
struct limit_again {
    PyObject *bucket, *topic; /* owned: which limit, str of which topic */
    uint64_t retry_after_ms;
    PyObject *error; /* owned bytes; NULL while the first of them is still an exception */
};

struct Route {
    PyObject_HEAD
    HubTopic *topic; /* owned */
    PyObject *admit; /* owned or NULL */
    struct limits limits;
    uint32_t len;
    PyObject **targets; /* owned: Sub or Group */
    uint32_t topic_generation, all_generation;
};

struct cursor { /* a walk over the streams, during which they may close */
    Ingress *next; /* borrowed */
    struct cursor *outer;
};

struct Hub {
    PyObject_HEAD
    PyObject *topics; /* owned dict: name -> HubTopic */
    PyObject *classes; /* owned dict: class name -> capsule of its row (one reference of ours) */
    PyObject *encode_error; /* owned */
    struct row *rows, *class_rows; /* lists of all */
    uint64_t row_serial, folded; /* folded: rows, since the start */
    RowWalk *walks; /* list of those alive */
    char reasons[REASONS_MAX][REASON_BYTES];
    uint16_t reason_count;
    uint32_t generation;
    uint64_t serial;
    uint64_t message_bytes_max, queue_bytes_max, stall_ns, block_ns, transfer_window_bytes;
    uint32_t queue_messages_max, transfers_per_stream_max;
    Sub *watched; /* list of the open ones that time changes: what they hold expires, they stall, or stop to */
    Ingress *ingresses; /* list of open ones */
    uint32_t parked; /* messages that wait for room, over all ingresses */
    bool retry; /* room was made where somebody waits: a walk over all that wait for it is due */
    bool retrying;
    Ingress *retry_in; /* borrowed: where the walk under way goes on; NULL: none is under way */
    struct route_entry *retry_entry; /* borrowed: there; NULL: at its first topic */
    struct route_entry *line_first, *line_last; /* whose first message waits for a limit (hub_wait.c) */
    struct route_entry *line_next; /* where the walk under way goes on; it may leave meanwhile */
    uint32_t line_left; /* lines that this walk has not seen; 0: none is under way */
    bool line_moved; /* something went on in this walk */
    uint32_t line_count, waiting; /* lines; messages in them */
    uint64_t due_ns; /* when the first of them may have room; UINT64_MAX: time alone makes none; only with lines */
    PyObject *hurry; /* owned or NULL: called when something is due that no time made: bytes were given back, or a walk
                      * over all that wait for subscribers takes long */
    bool hurry_due;  /* by hub_tell() */
    uint64_t pass; /* number of the last walk over them: a bucket remembers when it refused one */
    bool releasing;
    struct cursor *cursors; /* walks under way, innermost first */
    Ingress *in_due;   /* owned list through due_next: to be told something by hub_tell() */
    Egress *out_due;
    uint32_t retained_ttl; /* retained messages that can expire */
    uint64_t now_ns; /* of the current call */
    struct sira_env *envs[4]; /* parsing, by depth: resolve() may publish */
    uint32_t env_depth;
    struct pick *picks; /* owned, PICKS_MAX + 1 of them */
    struct sira_shm page; /* base NULL: none yet (hub_direct.c) */
    /* statistics */
    uint64_t dropped[REASONS_MAX]; /* deliveries, over all topics, by reason */
    uint64_t frames_in, frames_out, bytes_in, bytes_out, messages_in, deliveries_out, chunks_in, chunks_out,
        routes_resolved, blob_count, blob_bytes, buffered_bytes, xfers, messages_direct, deliveries_direct;
};

struct row *hub_class_row(Hub *hub, const char *name);
struct row *row_new(Hub *hub, const char *name, bool is_class, struct row *class_row);
void topic_retain(HubTopic *topic, struct blob *blob);
void topic_expire_retained(HubTopic *topic);
void topic_drop(HubTopic *topic);
/* Post what waits for subscribers and has room now: what takes no time at once, the rest in slices. */
void hub_retry(Hub *hub, uint64_t now_ns);
void hub_retry_slice(Hub *hub, uint64_t now_ns); /* the next of these, about a millisecond; nothing where none is due */
void hub_tell(Hub *hub); /* make the calls to Python that are due. Requires: the books are closed */
struct sira_env *hub_env_enter(Hub *hub); /* NULL with an exception: nested too deep */
void hub_env_leave(Hub *hub);
PyObject *hub_error_bytes(Hub *hub);                 /* encode and clear the current exception; NULL: a new one */
int hub_call(PyObject *callable);                    /* call with no arguments; errors are written out, never raised */
/* hub_direct.c. Publishers of this name (NULL: of all) are to ask anew: at once, before anybody is answered. */
void hub_moved(Hub *hub, PyObject *name);
PyObject *hub_open_page(PyObject *self, PyObject *unused);
PyObject *hub_word_of(PyObject *self, PyObject *name);
PyObject *hub_word(PyObject *self, PyObject *index);
PyObject *hub_account(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *sub_get_idle(PyObject *self, void *unused);
uint64_t hub_topic_hash(struct sira_slice topic); /* the same as long as the node lives */
uint32_t hub_hist_bucket(uint64_t ns);
extern const uint64_t hub_hist_bounds_ns[HIST_BUCKETS - 1];

/* ---- streams --------------------------------------------------------------------------------------------------- */
struct receipt_slot {
    uint8_t id[SIRA_ID_BYTES];
    uint8_t state; /* 0 open, 1 accepted, 2 refused, 3 nothing to say, 4 accepted on an earlier stream */
    uint32_t matched;
    uint64_t bytes;
    PyObject *error; /* owned bytes; state 2 */
    uint8_t lane; /* 0: the stream's */
};

/* Receipts come in the order of messages, but for large ones: theirs come when they are whole, by their id, so
 * that nothing small waits for a 1 GiB tensor. */
#define SLOT_NONE UINT64_MAX
#define SLOT_LATE (UINT64_MAX - 1)

struct parked { /* a message that waits for room */
    struct parked *next;
    struct blob *blob; /* owned reference */
    uint64_t slot, deadline_ns; /* UINT64_MAX: it begins when nothing of its topic is before it */
    bool quiet, has_reply_to;
    bool waits; /* for room within a limit; what it uses up of that is not taken yet */
    bool patient; /* it did not say how long it may wait: `block_ns` for each room, see parked_due() */
};

struct route_entry {
    uint64_t hash;
    Route *route; /* owned; NULL: empty */
    struct parked *first, *last;
    uint64_t moved_ns; /* when a parked message of it found room last */
    struct route_entry *parked_prev, *parked_next; /* entries with parked messages */
    bool listed;
    bool in_line;
    Ingress *in; /* borrowed: it frees us */
    struct route_entry *line_prev, *line_next;
};

struct past { uint8_t id[SIRA_ID_BYTES]; uint64_t at_ns, bytes; uint32_t matched; };

struct History {
    PyObject_HEAD
    struct past *at;
    uint32_t cap, len, head, max, cursor;
    uint64_t window_ns;
};

void history_add(History *history, const uint8_t *id, uint32_t matched, uint64_t bytes, uint64_t now_ns);
const struct past *history_find(History *history, const uint8_t *id, uint64_t now_ns);

enum { LANE_GRPC = 1, LANE_SHM = 2, LANE_NUMBER_MAX = 3 }; /* of sira.v1.Lane */

struct Ingress {
    PyObject_HEAD
    Hub *hub; /* owned */
    PyObject *stamp, *resolve, *wake, *drained, *aside, *lender, *asked; /* owned; from drained on: or NULL */
    History *history; /* owned or NULL */
    Ingress *hub_prev, *hub_next;
    uint64_t client, serial;
    uint8_t lane; /* what receipts tell: the way its frames came */
    bool closed, idle, full;
    bool busy;    /* its lists are being walked: Python runs inside, but may not change them */
    bool closing; /* closed while busy: taken apart afterwards */
    bool listed, due, wake_due, drained_due;
    Ingress *due_next;
    uint32_t window_messages;
    uint64_t window_bytes;
    uint64_t resume; /* messages that are still repeats */
    bool waits; /* what a limit refuses for the moment waits here, in order */
    uint32_t waiting; /* such messages */
    uint64_t expire_ns; /* no deadline of what is parked is before this */
    uint64_t published, bytes;
    uint64_t limited_until_ns; /* when all rates that refused messages of the last frame have room; 0: none did */
    struct limit_again limited;
    struct route_entry **routes; /* open addressing by topic hash; entries are heap-allocated (stable) */
    uint32_t route_cap, route_len;
    struct route_entry *parked; /* entries with parked messages */
    uint32_t parked_count;
    uint64_t parked_bytes, buffered_bytes; /* buffered: chunks not yet sent on */
    struct xfer *xfers;
    struct xfer **buckets; /* the same by id */
    uint32_t bucket_cap, xfer_count;
    struct receipt_slot *slots; /* ring */
    uint32_t slot_cap, slot_len;
    uint64_t slot_base; /* absolute number of the oldest */
    PyObject *credits; /* owned list of encoded Items waiting to be sent */
};

void ingress_credit(Ingress *in, struct xfer *xfer);
void ingress_settle(Ingress *in, uint64_t slot, const uint8_t *id, uint8_t state, uint32_t matched, uint64_t bytes,
                    PyObject *error);
void ingress_answer(Ingress *in, const struct receipt_slot *slot); /* at once, outside of the order */
void ingress_settle_whole(Ingress *in, const struct xfer *xfer); /* a large message is here, and was given to all */
void ingress_wake(Ingress *in);
void ingress_due(Ingress *in); /* hub_tell() is to look at it */
void ingress_unfull(Ingress *in);
void ingress_close(Ingress *in, uint64_t now_ns);
/* Post what is parked and fits now, from hub->retry_entry on, until until_ns (CLOCK_MONOTONIC, as it is). Returns
 * whether it came to the end; else hub->retry_entry is where to go on. Requires: hub->retry_in is `in`. -1 with an
 * exception: at the end, too. */
int ingress_retry(Ingress *in, uint64_t now_ns, uint64_t until_ns);
/* Refuse what has waited long enough: until until_ns (CLOCK_MONOTONIC, as it is), and some in any case. What is left
 * is for the next time. */
int ingress_expire(Ingress *in, uint64_t now_ns, uint64_t until_ns);
/* What waits for a limit and has room now goes on, for about a millisecond; hub->line_left: there is more to look at. */
void hub_release(Hub *hub, uint64_t now_ns);

struct Egress {
    PyObject_HEAD
    Hub *hub; /* owned */
    PyObject *wake; /* owned */
    PyObject *lend; /* owned or NULL: gives a lease for a ShmSpan, 0: the bytes must be copied */
    PyObject *control; /* owned list of encoded Items */
    uint64_t client;
    bool closed, idle, chunk_turn;
    bool due;
    Egress *due_next;
    uint32_t batch_bytes;
    Sub **subs; /* owned, sorted by id */
    uint32_t sub_len, sub_cap;
    Sub *active_first, *active_last; /* subs that have something and may send it */
    struct out *outs; /* active transfers */
    uint64_t small_ns; /* when small messages last left */
};

void egress_activate(Egress *egress, Sub *sub);
void egress_deactivate(Egress *egress, Sub *sub);
void egress_wake(Egress *egress);
int egress_abort(Egress *egress, const struct out *out, uint16_t reason);
void egress_drop_outs(Egress *egress, const Sub *sub, uint16_t reason); /* active transfers to one subscription */

int hub_add_streams(PyObject *module); /* ingress, egress types */
int hub_add_history(PyObject *module);
int hub_add_queues(PyObject *module); /* sub, group types */
int hub_add_topics(PyObject *module); /* topic, route */
int hub_add_limits(PyObject *module);
int hub_add_walks(PyObject *module);
PyObject *hub_walk(PyObject *self, PyObject *args);
PyObject *hub_row(PyObject *self, PyObject *name);
int hub_put_u64(PyObject *dict, const char *key, uint64_t value);

#endif
