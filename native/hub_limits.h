/* Limits on a route: buckets that many routes share. Under the GIL, on the hub's thread. */
#ifndef SIRA_HUB_LIMITS_H
#define SIRA_HUB_LIMITS_H

#include "hub.h"

/* From a tuple of Bucket. -1 with TypeError or MemoryError, and nothing to clear. */
int limits_init(struct limits *limits, PyObject *buckets);
void limits_clear(struct limits *limits);

/* Let one message of so many bytes pass all limits, or raise the refusal of the one that lets it wait longest
 * and return -1. Then *wait_ns is how long; 0: it is no matter of the rate. Python runs inside.
 * Returns 1, with no exception, where `again` holds that same refusal and its answer; else a refusal for the rate is
 * noted there, without an answer. */
int limits_admit(const struct limits *limits, PyObject *topic, uint64_t bytes, uint64_t now_ns, uint64_t *wait_ns,
                 struct limit_again *again);

/* Forget it. */
void limit_again_clear(struct limit_again *again);

enum limits_room { LIMITS_TAKEN, LIMITS_LATER, LIMITS_HELD, LIMITS_NEVER };
/* As limits_admit(), but nothing is raised and no Python runs. LIMITS_LATER: *due_ns is when to ask again; the bucket
 * that says so remembers `pass`. LIMITS_HELD: the same, but before that, bytes must be given back, nobody knows when:
 * held_give() tells when so many were. LIMITS_NEVER: the message is longer than all that may be held. */
enum limits_room limits_try(const struct limits *limits, uint64_t bytes, uint64_t now_ns, uint64_t pass,
                            uint64_t *due_ns);
/* Has one of them refused something in this pass? */
bool limits_contended(const struct limits *limits, uint64_t pass);
/* Raise the refusal of the one that lets a message of so many bytes wait longest; any, if all have room. */
void limits_refuse(const struct limits *limits, PyObject *topic, uint64_t bytes, uint64_t now_ns);
/* Tell that something waits for what refused it in this pass. Python runs inside. */
void limits_tell(const struct limits *limits, uint64_t pass);

/* Count bytes as held by all of `held` until held_give(). Returns a new reference to give back then; NULL: none. */
PyObject *held_take(const struct limits *limits, uint64_t bytes);
/* Takes over the reference; NULL: nothing. Where a message waits for these bytes, hub->due_ns is 0 and hub->hurry_due set. */
void held_give(Hub *hub, PyObject *held, uint64_t bytes);

#endif
