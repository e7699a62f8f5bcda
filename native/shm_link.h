/* The link: the shared memory of one ordered pair of processes, and both its ends. Plain C, no Python, no descriptor,
 * no clock: memory and time are given.
 *
 * Layout, every word 64 bits, little-endian, native atomics:
 *
 *     head      64 bytes: magic, version, shape                           the node, before anybody maps it
 *     W line    w_wants: the writer sleeps until so much has come back    writer sets, either clears
 *     R line    r_sleeps: the reader wants the bell                       reader sets, either clears
 *     posted    a bit for each slot: "look here"                          writer sets, reader clears
 *     returned  a bit for each slot: "look here"                          reader sets, writer clears
 *     holds     a bit for each hold: "I have done with it"                reader sets, writer clears
 *     cells     64 bytes for each subscription: posted, withdrawn[7]      writer only
 *     lent      48 bytes for each hold: what the reader has, since when   writer; the last word the reader
 *     slots     512 bytes each: 64 of header, 448 inline                  writer; the state word by compare-and-swap
 *
 * The state word of a slot is the truth, and the only place where anything happens: `number << 3 | kind`, where
 * `number` counts the posts of the link and never comes again, so a state names one message for ever.
 *
 *     POSTED --reader--> TAKEN | EXPIRED        POSTED --writer--> WITHDRAWN        all of these --writer--> WRITING
 *
 * All else is a hint (bits, flags) or can be worked out (counts). Bits have no order, cannot overflow, cannot be out
 * of range and may be set twice; order is in the numbers. A reader copies first and takes then: the compare-and-swap
 * that takes also says that the copy is whole, and gives the slot back at once.
 *
 * Counts and death. A step that counts writes the count's value *after* the step into the slot first, then commits by
 * the state word, then stores the count. Whoever reads the counts (sira_link_counts) adds the one step that was
 * committed and not yet stored. So a process may die between any two stores, nothing is ever repaired, and the node
 * needs only to read. `taken` is not stored: it is posted - withdrawn - pending.
 *
 * Trust: all of it may be any bits at any time. An end keeps its own books privately and believes shared words only
 * about what the other end owns. What cannot be from an honest peer is SIRA_LINK_CORRUPT, for ever, for this link.
 *
 * Threads: one thread at a time for each end (the GIL), but sira_link_give_hold: any thread, any time. */
#ifndef SIRA_SHM_LINK_H
#define SIRA_SHM_LINK_H

#include "shm_atomic.h"

enum {
    SIRA_LINK_SLOT_BYTES = 512,
    SIRA_LINK_INLINE_BYTES_MAX = 448,  /* a small message whole, or the head of a large one */
    SIRA_LINK_SLOTS_MAX = 2048,        /* a window of 1024 and the reserve fit; unused slots cost no memory */
    SIRA_LINK_HOLDS_MAX = 4096,
    SIRA_LINK_CELLS_MAX = 1024,
    SIRA_LINK_PRIORITIES = 8,
    SIRA_LINK_RESERVE = 8,             /* one slot in so many is left to priority > 0 */
    /* 96 slots, 128 holds, 128 cells: 64 KiB, of which what is never used is never made. */
    SIRA_LINK_SLOTS_DEFAULT = 96,
    SIRA_LINK_HOLDS_DEFAULT = 128,
    SIRA_LINK_CELLS_DEFAULT = 128,
};
#define SIRA_LINK_NONE UINT32_MAX

enum sira_link_status {
    SIRA_LINK_OK = 0,
    SIRA_LINK_EMPTY,       /* nothing to take */
    SIRA_LINK_NO_SLOT,     /* all slots are used, or the rest is left to priority > 0 */
    SIRA_LINK_NO_CREDIT,   /* the subscription's window is used up */
    SIRA_LINK_NO_HOLD,     /* as many chunks as there are holds are with the reader */
    SIRA_LINK_HELD_BYTES,  /* the reader holds as many bytes as the subscription may */
    SIRA_LINK_GONE,        /* withdraw: the reader was first */
    SIRA_LINK_NO_MEMORY,
    SIRA_LINK_BAD_SHAPE,   /* sizes out of limits */
    SIRA_LINK_CORRUPT,     /* words that no honest peer writes */
    SIRA_LINK_STATUS_COUNT
};
const char *sira_link_status_text(enum sira_link_status status);

/* Why a message was withdrawn. What the node's ledger calls the reason. */
enum sira_link_reason {
    SIRA_LINK_EXPIRED, SIRA_LINK_CANCELLED, SIRA_LINK_REVOKED, SIRA_LINK_SUPERSEDED, SIRA_LINK_PEER_LOST,
    SIRA_LINK_MOVED,   /* given to another member of its group: owed there now */
    SIRA_LINK_DROPPED, /* the subscription ended, or stalled */
    SIRA_LINK_REASONS
};

enum sira_slot_kind { SIRA_SLOT_WRITING, SIRA_SLOT_POSTED, SIRA_SLOT_TAKEN, SIRA_SLOT_EXPIRED, SIRA_SLOT_WITHDRAWN };
enum { SIRA_SLOT_KIND_BITS = 3, SIRA_COUNT_BITS = 61 }; /* of a state; of a count below its reason */

/* ---- the memory -------------------------------------------------------------------------------------- */
struct sira_link_shape {
    uint32_t slots, holds, cells;
};

struct sira_link_cell { /* one line */
    uint64_t posted, withdrawn[SIRA_LINK_REASONS];
};

struct sira_link_lent { /* what a hold is out for, told to whoever asks who keeps memory; the protocol needs none of it */
    uint64_t number;            /* of the post; 0: the hold is free. Written last, and first when it comes back */
    uint64_t where;             /* segment << 32 | slot */
    uint64_t offset, bytes;     /* of the chunk in its segment */
    uint64_t since_ns;          /* when it was posted, CLOCK_MONOTONIC */
    uint64_t given;             /* by the reader: the number under which it last gave the hold back. Its bit in `holds`
                                 * would not do: a writer that dies has perhaps just taken it */
};
enum { SIRA_LINK_LENT_WORDS = 4 }; /* behind the number */

struct sira_link_place { /* where and what, in words */
    uint64_t kind;              /* cell << 32 | priority << 24 | flags << 16 | inline bytes */
    uint64_t chunk;             /* segment << 32 | hold; hold NONE: all is inline */
    uint64_t deadline_ns;       /* CLOCK_MONOTONIC; 0: none */
    uint64_t offset, bytes;     /* of the chunk in its segment */
};
enum { SIRA_LINK_PLACE_WORDS = 5 };

struct sira_link_slot {
    uint64_t state;
    uint64_t posted_after;      /* cell.posted when this post is done */
    uint64_t withdrawn_after;   /* reason << 61 | cell.withdrawn[reason] when this withdrawal is done */
    struct sira_link_place place;
    uint8_t inline_data[SIRA_LINK_INLINE_BYTES_MAX];
};
_Static_assert(sizeof(struct sira_link_place) == 40, "the header of a slot is one line");
_Static_assert(sizeof(struct sira_link_slot) == SIRA_LINK_SLOT_BYTES, "slots lie 8 to a page");
_Static_assert(sizeof(struct sira_link_cell) == 64, "a cell is one line");
_Static_assert(sizeof(struct sira_link_lent) == 48, "six words");
_Static_assert(SIRA_LINK_REASONS <= 1 << (64 - SIRA_COUNT_BITS), "a reason fits above its count");

/* Where the parts of a mapped link lie. Copied freely; the mapping belongs to somebody else. */
struct sira_link {
    struct sira_link_shape shape;
    uint64_t *w_wants, *r_sleeps, *posted, *returned, *holds;
    struct sira_link_cell *cells;
    struct sira_link_lent *lent;
    struct sira_link_slot *slots;
};

/* Bytes of a link of this shape, whole pages; 0: not a shape. */
size_t sira_link_bytes(const struct sira_link_shape *shape);
/* Write the head into fresh zeroed memory. Requires: sira_link_bytes(shape) bytes at `memory`. Node only. */
void sira_link_format(void *memory, const struct sira_link_shape *shape, uint64_t generation);
/* Requires: `bytes` mapped at `memory`, sealed against shrinking; shape and generation as the node's introduction told
 * them, not as the memory says. Ensures: OK -> *out points into it; else CORRUPT or BAD_SHAPE. Only the head is read. */
enum sira_link_status sira_link_open(void *memory, size_t bytes, const struct sira_link_shape *shape,
                                     uint64_t generation, struct sira_link *out);

/* ---- counts: node, or anybody with the mapping ----------------------------------------------------------- */
struct sira_link_counts {
    uint64_t posted, taken, pending, withdrawn[SIRA_LINK_REASONS];
};
/* Counts of every cell, out[link->shape.cells], from one pass over the memory; reads only. What a writer committed and
 * did not live to count is in. Exact when nobody writes, so after a death; else compare two passes.
 * Ensures: posted == taken + pending + sum(withdrawn) in each; CORRUPT if shared words deny it (all counts of such
 * a cell are 0 but `posted` and `withdrawn`, as they stand). */
enum sira_link_status sira_link_counts(const struct sira_link *link, struct sira_link_counts *out);

/* A chunk that is out. */
struct sira_link_piece {
    uint64_t offset, bytes, since_ns;
    uint32_t segment;
    bool is_taken; /* the reader has it; else it waits to be taken */
};
/* What one hold is out for. Reads only. false: for nothing, or its writer is just at it. What a dead writer had out
 * stays readable here until the reader has given it back; so does what a writer that has closed its end lent.
 * Requires: hold < link->shape.holds. */
bool sira_link_piece(const struct sira_link *link, uint32_t hold, struct sira_link_piece *out);

/* ---- writer ------------------------------------------------------------------------------------------------ */
struct sira_link_ticket { /* one message in the link */
    uint64_t number; /* 0: none */
    uint32_t slot;
};

struct sira_writer_slot {
    uint64_t number; /* 0: free */
    uint32_t cell, hold;
};
struct sira_writer_hold {
    void *owner;     /* NULL: free; then `next` counts */
    uint64_t bytes, number;
    uint32_t chunk, cell, slot, next;
};
struct sira_writer_cell {
    uint32_t outstanding, window;        /* messages not yet taken; most of them */
    uint64_t outstanding_bytes, window_bytes; /* of their chunks; none is posted once there are so many */
    uint64_t held_bytes, held_bytes_max; /* of chunks that have not come back, taken or not */
    struct sira_link_cell counts;        /* as they were last stored; shared memory is never asked */
};
/* Gives a chunk of `owner` back: the reader has done with it, or it never came so far. Must not touch the link. */
typedef void sira_link_release(void *owner, uint32_t chunk);

struct sira_link_writer {
    struct sira_link link;
    sira_link_release *release;
    uint64_t number;                     /* of the last post */
    uint64_t free_bits[SIRA_LINK_SLOTS_MAX / 64];
    uint32_t free_count, reserve, hold_free; /* hold_free: first of the list, SIRA_LINK_NONE at its end */
    uint32_t hold_count, holds_made;     /* live; entries that were ever used */
    bool corrupt;
    struct sira_writer_slot *slots;      /* owned, as the next two */
    struct sira_writer_hold *holds;
    struct sira_writer_cell *cells;
};

/* Ensures: OK -> close with sira_link_writer_close. Requires: a link that nobody wrote to before. */
enum sira_link_status sira_link_writer_open(struct sira_link_writer *writer, const struct sira_link *link,
                                            sira_link_release *release);
/* Gives every hold back (the reader is gone, or its link ended) and frees; what is pending stays as it stands, and so
 * does `lent`: the reader may look at it for long. */
void sira_link_writer_close(struct sira_link_writer *writer);
/* Limits of a subscription; needed before its first post. `window` in messages, the others in bytes. */
void sira_link_writer_cell(struct sira_link_writer *writer, uint32_t cell, uint32_t window, uint64_t window_bytes,
                           uint64_t held_bytes_max);

struct sira_post {
    uint32_t cell;
    uint8_t priority, flags;
    uint16_t inline_bytes;
    const uint8_t *inline_data;
    uint64_t deadline_ns;
    void *owner;                /* of the chunk; NULL: all is inline. The writer gives it back exactly once */
    uint32_t chunk, segment;
    uint64_t offset, bytes;     /* in the segment */
    uint64_t now_ns;            /* for `lent`; of a message in a chunk alone */
};
/* Can this be posted now, when `planned` others are to be posted before it? Asks the reader's bits if it must.
 * `chunk_bytes` 0: no chunk. OK, NO_SLOT, NO_CREDIT, NO_HOLD, HELD_BYTES or CORRUPT. A subscription that holds nothing
 * may take one chunk of any size. */
enum sira_link_status sira_link_room(struct sira_link_writer *writer, uint32_t cell, uint32_t priority,
                                     uint64_t chunk_bytes, uint32_t planned);
/* Post one message. Ensures: OK -> *ticket names it, post->owner's chunk is given back by the writer one day;
 * else nothing happened and the chunk is the caller's. After one or many posts ask sira_link_calls_reader. */
enum sira_link_status sira_link_post(struct sira_link_writer *writer, const struct sira_post *post,
                                     struct sira_link_ticket *ticket);
/* Take back what nobody took yet. OK: it will never be read, its chunk is back; GONE: the reader was first. */
enum sira_link_status sira_link_withdraw(struct sira_link_writer *writer, struct sira_link_ticket ticket,
                                         enum sira_link_reason reason);
/* Post `post` and withdraw `*newest` as SUPERSEDED, the newest of its publisher, topic and subscription, in this
 * order if there is room for both, so that a reader always finds one. *newest becomes the new one. */
enum sira_link_status sira_link_supersede(struct sira_link_writer *writer, const struct sira_post *post,
                                          struct sira_link_ticket *newest);
/* Is this message still untaken, as far as anybody can tell now? */
bool sira_link_pending(const struct sira_link_writer *writer, struct sira_link_ticket ticket);
/* Learn what was taken and given back. OK or CORRUPT. `all`: look at every slot, not only where bits say (the reader
 * is dead: it may have died before it set one). */
enum sira_link_status sira_link_collect(struct sira_link_writer *writer, bool all);
/* Withdraw all that is pending of one cell, or of all (SIRA_LINK_NONE). Returns how many. */
uint32_t sira_link_withdraw_all(struct sira_link_writer *writer, uint32_t cell, enum sira_link_reason reason);
/* After posting: does the reader want its bell rung? Asks once a batch. */
bool sira_link_calls_reader(struct sira_link_writer *writer);
/* Before sleeping for room: the reader will ring when `wants` (at least 1; fewer if fewer are out) slots or holds have
 * come back. false: they have, do not sleep. */
bool sira_link_writer_sleeps(struct sira_link_writer *writer, uint32_t wants);
void sira_link_writer_wakes(struct sira_link_writer *writer);

/* ---- reader ------------------------------------------------------------------------------------------------ */
struct sira_reader_slot {
    uint64_t number;         /* 0: not queued */
    uint16_t cell, previous, next;
    uint8_t priority;
};
struct sira_reader_queue { uint16_t first, last; };
struct sira_reader_cell {
    struct sira_reader_queue queues[SIRA_LINK_PRIORITIES];
    uint16_t counts[SIRA_LINK_PRIORITIES]; /* messages in each */
    uint8_t mask;            /* bit p: queues[p] is not empty */
};
struct sira_link_reader {
    struct sira_link link;
    uint64_t early[SIRA_LINK_SLOTS_MAX / 64]; /* seen, but perhaps not all before them */
    uint64_t ready[SIRA_LINK_CELLS_MAX / 64]; /* cells with something queued */
    uint64_t fresh[SIRA_LINK_CELLS_MAX / 64]; /* cells in which something was queued; whoever asks clears it */
    uint32_t queued;
    bool corrupt;
    struct sira_reader_slot *slots;           /* owned, as the next */
    struct sira_reader_cell *cells;
};
struct sira_taken {
    uint64_t number, deadline_ns, offset, bytes;
    uint32_t cell, segment, hold, inline_bytes; /* inline_bytes is within the limit */
    uint8_t priority, flags;
    uint8_t inline_data[SIRA_LINK_INLINE_BYTES_MAX];
};

enum sira_link_status sira_link_reader_open(struct sira_link_reader *reader, const struct sira_link *link);
void sira_link_reader_close(struct sira_link_reader *reader);
/* Queue what was posted since. OK or CORRUPT. `all`: look at every slot (the writer is dead). */
enum sira_link_status sira_link_look(struct sira_link_reader *reader, bool all);
/* Highest priority queued for a cell, or -1. What is queued may have been withdrawn since. */
int sira_link_peek(const struct sira_link_reader *reader, uint32_t cell);
/* Take the oldest message of the highest priority of `cell`. OK, EMPTY or CORRUPT. Messages whose deadline is before
 * `now_ns` are passed over and counted EXPIRED. *out is private: check it, believe it no further than its writer. A
 * message with hold != SIRA_LINK_NONE is owed one sira_link_give_hold. After one or many ask sira_link_calls_writer. */
enum sira_link_status sira_link_take(struct sira_link_reader *reader, uint32_t cell, uint64_t now_ns,
                                     struct sira_taken *out);
/* The oldest of one priority alone. OK as above; GONE: it was withdrawn, or passed over as expired; EMPTY or CORRUPT. */
enum sira_link_status sira_link_take_oldest(struct sira_link_reader *reader, uint32_t cell, uint32_t priority,
                                            uint64_t now_ns, struct sira_taken *out);
/* Pass over all that is queued for a cell, as if it had expired: its slots and chunks go back. OK or CORRUPT. */
enum sira_link_status sira_link_pass_over(struct sira_link_reader *reader, uint32_t cell);
/* Say that the views of a hold are gone. true: ring the writer's bell. No lock, no private state: any thread, also
 * within another call. Requires: hold < link->shape.holds. */
bool sira_link_give_hold(const struct sira_link *link, uint32_t hold);
/* After taking: does the writer want its bell rung? */
bool sira_link_calls_writer(const struct sira_link *link);
/* How many slots and holds have come back and were not collected: what w_wants is held against. */
uint32_t sira_link_back_count(const struct sira_link *link);
/* Before sleeping. false: there is something, do not sleep. Stays in force until the bell was rung, so an idle link
 * need not be armed again. */
bool sira_link_reader_sleeps(struct sira_link_reader *reader);
/* Is there anything to look at? One or two loads: for spinning. */
bool sira_link_stirs(const struct sira_link_reader *reader);

static inline uint64_t sira_slot_state(uint64_t number, enum sira_slot_kind kind)
{
    return number << SIRA_SLOT_KIND_BITS | (uint64_t)kind;
}

static inline enum sira_slot_kind sira_slot_kind(uint64_t state)
{
    return (enum sira_slot_kind)(state & ((1u << SIRA_SLOT_KIND_BITS) - 1));
}

static inline uint32_t sira_link_words(uint32_t bits)
{
    return (bits + 63) / 64;
}

#endif
