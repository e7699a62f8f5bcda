/* The client's data plane. Read client.c first, then the way of a message: outbox.c (queue and batches), sender.c
 * (one publisher), outbox_upload.c (large messages), outbox_lend.c (those in shared memory), outbox_feed.c (answers),
 * outbox_lost.c (lost connections); inbox.c (split,
 * reassemble), inbox_order.c (what waits for what), inbox_cells.c (what the node says of links), mailbox.c (one
 * subscription), mailbox_cells.c (its messages that are in links), pool.c (memory of large messages).
 *
 * Everything is guarded by the GIL. It is released around copies of SIRA_UNLOCKED_COPY_BYTES and more, and may
 * be lost in any call into Python (a body's DLPack methods, a callback, the end of an object); so state is made
 * consistent before such a call and looked up again after it. */
#ifndef SIRA_CLIENT_H
#define SIRA_CLIENT_H

#include "pyutil.h"

enum {
    /* A copy of this size takes longer (10 us and more) than handing the GIL over and back. */
    SIRA_UNLOCKED_COPY_BYTES = 128 << 10,
    /* Data of a chunk. A gRPC message costs about 50 us a side whatever is in it, so chunks are as long as a frame
     * takes; while small messages are about they are short, so that little is ahead of one. Both leave room for
     * the framing: a chunk that is some bytes longer than the window of its stream waits for the way there and
     * back with its last bytes. Whole pages, so that tensors stay aligned. */
    SIRA_CHUNK_BYTES = SIRA_FRAME_BYTES_MAX - (8 << 10),
    SIRA_CHUNK_BYTES_BUSY = (256 << 10) - (4 << 10),
};

/* memcpy, without the GIL when it is long. Requires: the GIL; the caller keeps both sides alive. */
static inline void sira_copy_bytes(uint8_t *to, const uint8_t *from, size_t len)
{
    if (len < SIRA_UNLOCKED_COPY_BYTES) {
        memcpy(to, from, len);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, len);
    Py_END_ALLOW_THREADS
}

/* Call `callable` (borrowed; NULL or None: nothing). What it raises is reported as unraisable: a callback is
 * no part of the operation that set it off. A KeyboardInterrupt is raised again by the main thread. May run anything. */
void sira_callback(PyObject *callable);

/* ---- Ready (client.c) ---------------------------------------------------------------------------------- */
extern PyTypeObject sira_ready_type;
/* An awaitable that is done: `await` gives `value` without suspending. Steals `value`; new reference. */
PyObject *sira_ready_new(PyObject *value);

/* ---- warm memory (pool.c) -------------------------------------------------------------------------------- */
/* Buffers for reassembly. A buffer is a Python object; when its last reference goes, its memory returns to the
 * pool, which outlives whoever made it by as long as one buffer does. */
struct sira_pool;
extern PyTypeObject sira_buffer_type;
struct sira_pool *sira_pool_new(uint64_t warm_bytes_max); /* NULL: memory, no exception set */
void sira_pool_release(struct sira_pool *pool);           /* the owner's hold; NULL is allowed */
uint64_t sira_pool_warm_bytes(const struct sira_pool *pool);
uint64_t sira_pool_mapped_count(const struct sira_pool *pool); /* buffers made so far, not reused ones */
/* Room for `bytes` (> 0), at a page boundary; address space only until it is written. New reference, or NULL
 * with MemoryError. */
PyObject *sira_buffer_new(struct sira_pool *pool, uint64_t bytes);
uint8_t *sira_buffer_data(PyObject *buffer);
/* The first `end` bytes are about to be written, the last `len` of them now. */
void sira_buffer_touch(PyObject *buffer, uint64_t end, uint64_t len);
/* A large message goes out or comes in, and more may follow: let malloc keep the pages of gRPC's buffers. */
void sira_heap_warm(void);

/* ---- mailboxes (mailbox.c) -------------------------------------------------------------------------------- */
struct mailbox_entry {
    PyObject *message; /* owned: a Message; or a Cell: the next one of this priority in it */
    uint64_t place;    /* number of the arrival; of a Cell MAILBOX_NOWHERE */
    uint64_t bytes;    /* of a Cell 0 */
};
#define MAILBOX_NOWHERE UINT64_MAX
struct mailbox_link {
    struct ShmReader *reader; /* borrowed: cells of it are bound */
    uint32_t cells;
};
struct mailbox_queue { /* ring */
    struct mailbox_entry *at;
    uint32_t room; /* power of two, or 0 */
    uint32_t head, len;
};
typedef struct Mailbox {
    PyObject_HEAD
    PyTypeObject *message_type; /* owned */
    PyObject *context;          /* owned */
    PyObject *wake, *on_credit; /* owned, NULL: none */
    struct mailbox_queue queues[SIRA_PRIORITIES];
    uint32_t mask; /* bit p: queue p holds something */
    bool armed, noted;
    struct Mailbox *noted_next;
    uint64_t depth, held_bytes;
    /* Places [base, next) are not confirmed; taken[place & (room - 1)] says which of them were taken. */
    uint64_t base, next;
    uint8_t *taken;
    uint64_t taken_room;
    uint64_t confirmed;              /* places that left at `base` since the last take_credit */
    uint64_t credit_every, credit_at; /* 0: on_credit is never called */
    uint64_t taken_bytes, credit_bytes; /* taken since the last call; on_credit after so many, too; 0: never */
    struct Cell *cells;              /* owned references: all that are bound, a list */
    struct mailbox_link *links;      /* owned: the links that they lie in */
    uint32_t cell_count, link_count, links_room;
    bool closed;                     /* to links: what lies there is not given out */
    bool over;                       /* no thread waits here without a look at why nothing comes */
    uint32_t looks_left;             /* how often an empty pop() may still look at links */
    uint64_t looked;                 /* inbox_frames when links were last looked at */
} Mailbox;
extern PyTypeObject sira_mailbox_type;

/* A place in the order of arrival, for a message that is here or announced. -1: MemoryError. */
int mailbox_reserve(Mailbox *mailbox, uint64_t *place);
/* Room for one more message of this priority, so that mailbox_put cannot fail. -1: MemoryError. What links hold at the
 * begin of the frame that is being fed is put before it. */
int mailbox_room(Mailbox *mailbox, uint32_t priority);
int mailbox_queue_room(Mailbox *mailbox, uint32_t priority); /* the same without a look at links */
/* Steals `message`. Requires: mailbox_room since the last put. No Python code is run. */
void mailbox_put(Mailbox *mailbox, uint32_t priority, PyObject *message, uint64_t place, uint64_t bytes);
/* That place will stay empty: it counts as taken. */
void mailbox_skip(Mailbox *mailbox, uint64_t place);
/* A new subscription or connection: what is here stays, but is not confirmed to anybody. */
void mailbox_forget(Mailbox *mailbox);
/* Somebody waits: the next arrival calls wake(), and links are looked at again. */
void mailbox_awaits(Mailbox *mailbox);
static inline bool mailbox_calls(const Mailbox *mailbox)
{
    return (mailbox->armed && mailbox->mask) || mailbox->confirmed >= mailbox->credit_at;
}
void mailbox_call(Mailbox *mailbox); /* wake() and on_credit() where due. May run anything. */

/* mailbox_cells.c: how a mailbox gets what publishers post past the node. Each message that is known to lie in a bound
 * cell has an entry in the queue of its priority, and is taken from the link when the entry comes to the front. So what
 * the mailbox held when the cell was bound comes before (the cell opens behind what the node had sent), and what the
 * node sends later comes behind, as links are looked at before it is put. */
enum { MAILBOX_LOOKS = 8 }; /* of an empty pop() between two turns of an event loop: another publisher has its turn */
extern PyTypeObject sira_cell_type;
int mailbox_look(Mailbox *mailbox); /* at all of its links. -1: MemoryError. No Python code is run */
/* The message that the entry of a Cell (borrowed) stands for. NULL without an exception: it is gone. May run anything. */
PyObject *mailbox_from_cell(Mailbox *mailbox, PyObject *cell, uint32_t priority);
bool mailbox_is_child(PyObject *cell); /* after a fork: an exception is set */
int mailbox_bind(Mailbox *mailbox, PyObject *reader, uint32_t cell, PyObject *topic, PyObject *stamp); /* -1: exception */
void mailbox_unbind_all(Mailbox *mailbox);
void mailbox_close_cells(Mailbox *mailbox); /* give out nothing of links from now on, and leave it where it lies */
/* The next message, a new reference; NULL without an exception: none. May run anything after it has left. */
PyObject *mailbox_take(Mailbox *mailbox);
/* Call the mailboxes that looks found something for. An exception that is set stays set. May run anything. */
void mailbox_call_due(void);
PyObject *mailbox_bind_method(Mailbox *mailbox, PyObject *args);
PyObject *mailbox_unbind_method(Mailbox *mailbox, PyObject *args);

/* ---- inbox (inbox.c, inbox_order.c) -------------------------------------------------------------------------- */
struct port;

/* A message that has its place in a mailbox and waits: for itself (announced) or for one before it. */
struct waiting {
    struct waiting *next; /* in its lane */
    struct lane *lane;
    struct port *port;
    PyObject *message; /* owned; NULL: not complete */
    uint64_t place, bytes;
    bool dead; /* will not come */
};

/* All that waits of one (source, topic, priority) in one subscription. Exists while an announced message of it
 * is unfinished; its front is unfinished whenever no call is running. */
struct lane {
    struct lane *next;
    struct waiting *first, *last;
    uint64_t hash;
    uint32_t priority;
    uint32_t source_len, topic_len;
    uint8_t key[]; /* source, then topic */
};

/* An attached subscription. */
struct port {
    uint32_t subscription;
    Mailbox *mailbox; /* owned */
    struct lane *lanes;
};

struct lane_key {
    struct sira_slice source, topic;
    uint32_t priority;
};

struct lane *lane_find(const struct port *port, const struct lane_key *key);
/* To be completed, at the end of the lane of `key`, which is made if need be. NULL: MemoryError, and nothing
 * changed. The caller sets message, or dead, and then calls lane_advance. */
struct waiting *lane_append(struct port *port, const struct lane_key *key, uint64_t place);
/* Deliver what no longer waits; a lane left empty is freed. -1: MemoryError, the rest still waits. */
int lane_advance(struct port *port, struct lane *lane);
void port_clear(struct port *port); /* drop all lanes: their messages go, their places count as taken */

/* A message announced to a subscription. */
struct target {
    uint32_t subscription;
    struct waiting *waiting; /* owned by its lane; NULL: the subscription is gone */
};

/* A large message that is arriving. The same id may arrive several times at once, for different subscriptions;
 * the items of all but the first then name one. */
struct transfer {
    struct transfer *next, *prev;
    uint8_t id[SIRA_ID_BYTES];
    PyObject *head;       /* owned bytes: the Message without its data */
    PyObject *buffer;     /* owned; NULL: no byte of it was needed yet */
    bool wanted;          /* somebody waits for it; if not, it has neither buffer nor spans, or is busy */
    uint32_t tensor_count, tensor; /* of the next chunk */
    uint64_t offset;      /* of the next chunk, in its tensor */
    uint64_t total, room; /* bytes of the payload, of the buffer */
    uint64_t *bytes, *starts; /* of each tensor; starts: in the buffer, 64-byte aligned. Owned, one allocation */
    PyObject **spans;     /* of each tensor: owned ShmSpan that it is; NULL: it is in the buffer. Owned; NULL: none is */
    uint32_t target_count;
    struct target *targets; /* owned */
    uint32_t busy;        /* calls that use it while others may run */
    bool dropped;         /* unlinked while busy: the last user frees it */
};

typedef struct Inbox {
    PyObject_HEAD
    struct sira_pool *pool; /* owned */
    PyObject *maps;         /* owned ShmMaps; NULL: chunks come with their bytes */
    uint64_t message_bytes_max;
    struct port **ports;    /* open addressing by subscription; NULL: empty */
    uint32_t port_count, ports_room; /* room: power of two, or 0 */
    struct transfer *transfers; /* unfinished */
    uint64_t transfer_count, aborted, stray;
    Mailbox *noted;         /* owned references: to be called when the frame is done */
    PyObject *links;        /* owned dict: number -> ShmReader; NULL: none */
    bool feeding;
} Inbox;
extern uint64_t inbox_frames; /* frames that were fed, by any inbox */

enum {
    /* A message of this length or more never has its bytes copied out of its frame. Below, it is copied when it
     * is a small part of a frame that is not small: inbox.c, message_of(). */
    INBOX_SHARE_BYTES = 8 << 10,
    INBOX_SMALL_FRAME_BYTES = 4 << 10,
    INBOX_SHARE_PART = 8,
    INBOX_TRANSFERS_MAX = 4096, /* unfinished at once; past it the node does not keep to its windows */
    INBOX_ALIGN_BYTES = 64,
};

/* inbox.c */
struct port *inbox_port(const Inbox *self, uint32_t subscription); /* NULL: not attached */
void inbox_note(Inbox *self, Mailbox *mailbox); /* call it at the end of the frame, if something is due */

/* inbox_cells.c. 1: done; 0: for Python to look at; -1: exception. No Python code is run but to raise. */
int inbox_cell_open(Inbox *self, const struct sira_item *item);
int inbox_cell_end(Inbox *self, const struct sira_item *item);
PyObject *inbox_link_method(Inbox *self, PyObject *args);
PyObject *inbox_unlink_method(Inbox *self, PyObject *number);

/* inbox_transfer.c. All: 0, or -1 with an exception; the inbox is consistent either way. */
int inbox_head(Inbox *self, const struct sira_item *item);
int inbox_chunk(Inbox *self, PyObject *frame, const struct sira_item *item);
int inbox_abort(Inbox *self, const struct sira_item *item);
int inbox_drop(Inbox *self, struct transfer *transfer); /* it will not come: counted, what waited goes on */
void inbox_forget_port(Inbox *self, const struct port *port); /* transfers go on without it */
void transfer_release(Inbox *self, struct transfer *transfer); /* unlink, free when nobody uses it */

/* ---- outbox (outbox*.c) ----------------------------------------------------------------------------------- */
struct upload;

enum { RECORD_OPEN, RECORD_DONE };

/* One message in a batch. */
struct record {
    uint8_t id[SIRA_ID_BYTES];
    PyObject *ticket;      /* owned, NULL: none */
    struct upload *upload; /* the head of this; NULL: a whole message. Borrowed */
    uint64_t written_ns;   /* when the ttl in the bytes was right; only with ttl_at */
    uint32_t start, len;   /* the Item in the frame, with its tag */
    uint32_t ttl_at;       /* offset in the frame of the ttl; 0: none */
    uint8_t state;
    bool quiet;
};

/* Messages that leave in one Frame: being filled, or sent and not all answered. */
struct batch {
    struct batch *next, *prev;
    PyObject *frame;  /* owned bytes; while filling nobody else has a reference and `room` is its size */
    uint32_t used, room;
    uint32_t count, records_room;
    uint32_t at;      /* sent: records before it are answered, or heads */
    uint32_t live;    /* sent: records that a lost connection would have to send again */
    uint8_t priority;
    bool has_ttl;
    struct record *records; /* owned */
};
struct batches {
    struct batch *first, *last;
};

enum upload_state { UPLOAD_QUEUED, UPLOAD_ACTIVE, UPLOAD_SENT };

/* A large message on its way. */
struct upload {
    struct upload *next, *prev;
    uint8_t id[SIRA_ID_BYTES];
    PyObject *ticket;     /* owned, NULL: none */
    struct sira_body body; /* the caller's memory, until the last chunk is taken */
    struct batch *batch;  /* with the head; NULL once it need not be kept */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t served;      /* turn of its last chunk */
    uint64_t taken, credited; /* bytes of this connection */
    uint64_t lent;        /* of the bytes taken: by reference */
    uint64_t offset;      /* next chunk: in tensor */
    uint32_t tensor;
    uint32_t head_len;    /* as counted in unanswered_bytes */
    uint8_t priority;
    enum upload_state state;
    bool quiet;
    uint32_t busy;        /* copies without the GIL going on, and calls that come back to it */
    bool dropped;         /* unlinked while busy: whoever copies frees it */
    struct upload *lent_next; /* in a list of outbox_lend_heads() */
};

/* A chunk that was sent by reference and may still be read. */
struct lease {
    uint64_t number;      /* 0: empty */
    PyObject *chunk;      /* owned ShmChunk */
};

/* Large messages not answered: past so many there is no room for another, and none is taken past twice as many; a node
 * takes 1,024 of a stream at once. */
enum { OUTBOX_UPLOADS_MAX = 448 };
enum { OUTBOX_FORGOTTEN_MAX = 64, OUTBOX_SPARE_BATCHES_MAX = 8 };

/* Topics on which messages go past the node, or may soon: route.h. */
enum route_state { ROUTE_IDLE, ROUTE_REFUSED, ROUTE_WANTED, ROUTE_ASKED, ROUTE_LIVE };
struct ShmRoute;
struct route_list {
    struct ShmRoute *first, *last; /* borrowed from by_topic */
    uint32_t count;
};
struct outbox_routes {
    bool on;
    PyObject *by_topic;     /* owned dict {str: ShmRoute}; NULL: none yet */
    struct route_list idle; /* and refused; the one used longest ago first */
    struct route_list asks; /* wanted and asked */
    struct route_list live;
    uint32_t wanted;        /* of `asks`: to be asked for */
    uint32_t lined;         /* routes that somebody waits for */
    uint32_t ask_last;
    uint32_t *ended;        /* owned: asks whose routes were left, which the node is to be told */
    uint32_t ended_count, ended_room;
    PyObject *broken;       /* owned list of ShmWriter that Python is to be told of; NULL: none */
    unsigned long long granted, left, posted;
};

typedef struct Outbox {
    PyObject_HEAD
    PyObject *source; /* owned str */
    PyObject *wake;   /* owned, NULL: none */
    uint64_t window_messages, window_bytes, transfer_window_bytes;
    uint32_t batch_bytes, inline_bytes_max, chunk_bytes, chunk_bytes_busy;
    struct batches queues[SIRA_PRIORITIES]; /* to be sent */
    struct batches again;                   /* sent on a lost connection, to be sent first */
    struct batches sent;                    /* in the order of sending */
    struct batch *cursor;                   /* the batch in `sent` that the next receipt is expected from */
    struct batch *spare;
    uint32_t spare_count;
    uint32_t mask;        /* bit p: queues[p] holds something */
    uint32_t room_hint;   /* bytes of the last frame, for the next one's first allocation */
    struct upload *uploads, *oldest_upload; /* all not answered or not sent, the newest first */
    uint32_t active_uploads; /* of them: in UPLOAD_ACTIVE */
    uint32_t upload_count;   /* of all */
    uint64_t turn;
    uint64_t unanswered, unanswered_bytes; /* not quiet; bytes as encoded, of uploads the head */
    uint64_t quiet_queued, quiet_queued_bytes;
    uint64_t quiet_sent;  /* records of quiet messages in `sent` */
    uint64_t upload_bytes; /* payload not taken yet */
    uint64_t accepted, refused;
    uint64_t small_ns;    /* when a whole message last left; 0: never */
    bool small_last;      /* the last frame held small messages */
    bool signalled;       /* wake was called, or is not needed, until take() returns None */
    bool quiet_forgotten; /* a refusal may name a message that is no longer known */
    PyObject *broken;     /* owned exception: raised by the next feed(), after outcomes that came before it */
    PyObject *placer;     /* owned, NULL: none. (topic, bytes) -> ShmChunk | None */
    unsigned long long lend_bytes_min; /* payload of the smallest body that the placer is asked for */
    char lends;           /* bool of structmember.h: the stream under it takes chunks by reference */
    struct lease *leases; /* owned: open addressing by number */
    uint32_t leases_room; /* power of two, or 0 */
    unsigned long long lease_count;
    uint64_t lease_last, lease_floor; /* the newest number; up to this one all were forgotten */
    /* Transfers that ended before they were answered: an answer may still come. */
    uint8_t forgotten[OUTBOX_FORGOTTEN_MAX][SIRA_ID_BYTES];
    uint32_t forgotten_len, forgotten_at;
    struct outbox_routes routes;
} Outbox;
extern PyTypeObject sira_outbox_type;

/* outbox.c */
/* Let shared memory hold the tensors of `body`: those that lie in `loan` (borrowed, a ShmChunk; NULL: none) already, else
 * those of at least lend_bytes_min for which the placer has a chunk, which are copied there. 0, or -1 with an exception.
 * Before outbox_push_body. `topic`: borrowed, a checked str. May run anything; nothing of the outbox is held meanwhile. */
int outbox_place(Outbox *self, PyObject *topic, struct sira_body *body, PyObject *loan);
/* Arguments of a fast call by place or name, into values[known_count], borrowed; all NULL before. False without an
 * exception: not such a call, or one of the first two is missing. */
bool outbox_arguments(PyObject *const *args, Py_ssize_t count, PyObject *names, const char *const *known, int known_count,
                      PyObject **values);
enum outbox_pushed { OUTBOX_PUSHED, OUTBOX_FULL /* past twice the window; no exception */, OUTBOX_FAILED };
/* Encode and queue; the caller then calls outbox_signal(). Takes over `body` when it is large. The id goes to `id`.
 * Requires: topic is checked. Ensures: nothing changed unless OUTBOX_PUSHED. Runs Python code only to raise. */
enum outbox_pushed outbox_push_body(Outbox *self, struct sira_slice topic, struct sira_body *body,
                                    const struct sira_options *options, PyObject *ticket, uint8_t *id);
bool outbox_room(const Outbox *self); /* the window takes one more message */
bool outbox_full(const Outbox *self, bool large); /* past twice the window: nothing is queued */
void outbox_signal(Outbox *self); /* wake(), if the writer waits and something is ready. May run anything */
bool outbox_ready(const Outbox *self);

/* route.c: messages past the node */
/* A message on this topic was queued to go by the node: what is live is left, and a route may be wanted. Runs no Python
 * code, raises nothing. To be called at once, before anything else can run. */
void routes_pushed(Outbox *self, PyObject *topic, const struct sira_options *options);
bool routes_asking(const Outbox *self, PyObject *topic); /* an answer is expected, and nothing went by the node since */
bool routes_wait(const Outbox *self, PyObject *topic);   /* that, or others wait already */
static inline bool routes_ready(const Outbox *self) /* all else has left: it is time to ask */
{
    return self->routes.wanted && !self->again.first && !self->mask && !self->active_uploads;
}
static inline bool routes_any_live(const Outbox *self)
{
    return self->routes.live.count > 0;
}
PyObject *routes_take(Outbox *self); /* the asks, as a Frame. Requires: routes_ready. NULL: MemoryError, nothing changed */
void routes_forget_asks(Outbox *self); /* nobody will answer them */
void routes_drop(Outbox *self);        /* all of them, and what is to be told of them */
PyObject *outbox_route(Outbox *self, PyObject *args, PyObject *kwargs);
PyObject *outbox_refuse(Outbox *self, PyObject *args, PyObject *kwargs);
PyObject *outbox_asking(Outbox *self, PyObject *topic);
PyObject *outbox_line(Outbox *self, PyObject *args);
PyObject *outbox_route_state(Outbox *self, PyObject *topic);
PyObject *outbox_asked_ended(Outbox *self, PyObject *ignored);
PyObject *outbox_broken_links(Outbox *self, PyObject *ignored);
PyObject *outbox_drop_routes(Outbox *self, PyObject *ignored);

/* route_direct.c */
enum outbox_direct {
    DIRECT_FAILED = -1, /* an exception */
    DIRECT_NOT,         /* it has to go by the node */
    DIRECT_POSTED,
    DIRECT_NO_ROOM,     /* or wait until a target has taken something: outbox_blocked */
};
/* Post it past the node, if its topic has a live route and all targets have room. POSTED: its id is in `id`, *receipt
 * points to that. Else nobody has it; `body` may lie in a chunk now (body->chunk). May run anything. */
enum outbox_direct outbox_direct_body(Outbox *self, PyObject *topic, struct sira_body *body,
                                      const struct sira_options *options, PyObject *loan, uint8_t *id,
                                      struct sira_receipt *receipt);
/* The same, and where there is no room wait for it: as long as a route waits at most (route.h), and `wait_ns`. Never on
 * an event loop's thread. */
enum outbox_direct outbox_direct_wait(Outbox *self, PyObject *topic, struct sira_body *body,
                                      const struct sira_options *options, PyObject *loan, uint8_t *id,
                                      struct sira_receipt *receipt, int64_t wait_ns);
int64_t outbox_wait_ns(PyObject *wait_s); /* of seconds, None or NULL (0), infinity; -1: an exception */
PyObject *outbox_direct(Outbox *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
/* route_ask.c */
PyObject *outbox_ask(Outbox *self, PyObject *const *args, Py_ssize_t count);
PyObject *outbox_answer(Outbox *self, PyObject *const *args, Py_ssize_t count);
/* route_wait.c */
PyObject *outbox_blocked(Outbox *self, PyObject *topic);
PyObject *outbox_sleeps(Outbox *self, PyObject *topic);
PyObject *outbox_room_s(Outbox *self, PyObject *topic);

/* outbox_batch.c */
void batches_append(struct batches *list, struct batch *batch);
void batches_remove(struct batches *list, struct batch *batch);
/* A batch of that priority with room for an Item of `len` bytes and one record, at the end of `list`.
 * NULL: MemoryError, nothing changed. */
struct batch *batch_for(Outbox *self, struct batches *list, uint32_t priority, size_t len);
/* The Item of `len` bytes just written at `used`. Takes over `ticket`. Requires: batch_for. */
struct record *batch_record(struct batch *batch, const uint8_t *id, PyObject *ticket, size_t len);
PyObject *batch_seal(struct batch *batch); /* the Frame, borrowed; NULL: MemoryError, nothing changed */
void batch_remove_record(struct batch *batch, uint32_t index); /* with its bytes. Requires: not sealed */
void batch_free(Outbox *self, struct batch *batch); /* may run anything: unlink it first */
void batch_settle(Outbox *self, struct batch *batch); /* of `sent`: let go what is not wanted any more */
void batch_find_ttl(struct record *record, const uint8_t *frame, const uint8_t *message, size_t len);
void batch_age(struct batch *batch, uint64_t now_ns); /* write what is left of each ttl. Requires: not shared */

/* outbox_upload.c */
struct upload *upload_find(const Outbox *self, const uint8_t *id);
void upload_link(Outbox *self, struct upload *upload);
static inline void upload_enter(Outbox *self, struct upload *upload, enum upload_state state)
{
    self->active_uploads += (state == UPLOAD_ACTIVE) - (upload->state == UPLOAD_ACTIVE);
    upload->state = state;
}
/* Unlink and uncount it, release its batch. Its ticket goes to the caller (owned, may be NULL), its memory goes
 * now or when nobody copies from it. May run anything. */
PyObject *upload_end(Outbox *self, struct upload *upload);
void upload_restart(Outbox *self, struct upload *upload); /* from its head, on a new connection */
struct upload *upload_next(const Outbox *self);  /* whose turn it is; NULL: none may send */
PyObject *upload_chunk(Outbox *self, struct upload *upload, uint64_t now_ns); /* a Frame; NULL: MemoryError */
int upload_abort_item(Outbox *self, const struct upload *upload); /* queue an Abort. -1: MemoryError */
void outbox_forget(Outbox *self, const uint8_t *id);    /* an answer may still come: it will be ignored */
bool outbox_forgotten(Outbox *self, const uint8_t *id); /* true once for each outbox_forget */

void upload_done(Outbox *self, struct upload *upload); /* its last byte was taken: give the memory back. May run anything */

/* outbox_lend.c */
int outbox_check_chunk(PyObject *object); /* a ShmChunk of this process? -1 with an exception */
/* What the placer has for a body of so many bytes: *chunk, owned, of any size, or NULL. -1 with an exception. May run
 * anything. */
int outbox_ask_placer(Outbox *self, PyObject *topic, uint64_t bytes, PyObject **chunk);
bool outbox_lies_in(const struct sira_body *body, PyObject *chunk); /* all of it */
bool outbox_touches(const struct sira_body *body, PyObject *chunk); /* some of it: copied there it would be spoilt */
/* Copy it into `chunk` (taken over), which holds it from now on. -1: that has less than `bytes`. May run anything. */
int outbox_copy_in(struct sira_body *body, PyObject *chunk, uint64_t bytes);
bool upload_lends(const Outbox *self, const struct upload *upload); /* what is left of it goes by reference */
/* All that is left of it, by reference, in one Frame; NULL: MemoryError. Requires: upload_lends. */
PyObject *upload_lend(Outbox *self, struct upload *upload);
/* `frame` (owned) of a batch that leaves, with all of its large messages behind it that may go by reference and fit.
 * New reference, perhaps `frame` itself. The caller ends *sent by outbox_lent(). Runs nothing. */
PyObject *outbox_lend_heads(Outbox *self, struct batch *batch, PyObject *frame, struct upload **sent);
void outbox_lent(Outbox *self, struct upload *sent); /* may run anything */
void outbox_forget_leases(Outbox *self); /* memory that they stand for is not used again. Runs nothing */
PyObject *outbox_returned(Outbox *self, PyObject *leases);

/* sender.c */
extern PyTypeObject sira_sender_type;
static inline bool sender_check(PyObject *ticket)
{
    return PyObject_TypeCheck(ticket, &sira_sender_type);
}
/* Take a receipt without an error. True: somebody waits to be told. Requires: sender_check. Runs no Python code. */
bool sender_accepted(PyObject *sender, const struct sira_receipt *receipt);
int sira_sender_init(void); /* names that are looked up. -1: MemoryError */

/* outbox_feed.c */
PyObject *outbox_feed(Outbox *self, PyObject *frame);
void outbox_forget_quiet(Outbox *self); /* keep the newest window_messages records of quiet messages */

/* outbox_lost.c */
PyObject *outbox_rewind(Outbox *self, PyObject *ignored);
PyObject *outbox_cancel(Outbox *self, PyObject *ticket);
PyObject *outbox_clear(Outbox *self, PyObject *ignored);

/* inbox.c, client.c */
extern PyTypeObject sira_inbox_type;

#endif
