/* Explores every interleaving of two scripts over one link, store buffers and deaths included.
 *
 * The scripts call the real sira_link_*() of this build, in which SIRA_MODEL puts each access to shared memory through
 * here. A script is run again from its beginning for each of its steps, and is answered from a log of what it read
 * before; at the first access without an answer it is left by longjmp. So a state is explicit (memory, store buffers,
 * logs), needs no second stack, and exploring is a depth-first search that undoes its steps and skips states seen.
 *
 * Memory is x86's: each side has a store buffer, first in first out, of which one entry may reach memory at any time;
 * a load sees its own buffer first; what changes a word atomically waits until its own buffer is empty. A killed side
 * takes no step more; its buffer still drains, and only then is its death told.
 *
 * In each state the counts that anybody can work out from memory are held against what happened: how many slots were
 * posted, taken, withdrawn. When nothing can move any more, nothing may be pending. */
#ifndef SIRA_TEST_SHM_MODEL_H
#define SIRA_TEST_SHM_MODEL_H

#include "../shm_link.h"

#include <stdio.h>

enum side { WRITER, READER, SIDES };

/* One way to spoil the protocol; the search must find what it breaks. */
enum mutation {
    NONE,
    READER_FLAG_NOT_FENCED, POSTED_BIT_NOT_FENCED, WRITER_FLAG_NOT_FENCED, RETURNED_BIT_NOT_FENCED,
    NUMBER_NOT_COMPARED, WRITING_NOT_STORED, POSTED_AFTER_NOT_STORED, WITHDRAWN_AFTER_NOT_STORED,
    POSTED_NOT_STORED, WITHDRAWN_NOT_STORED, POSTED_BIT_NOT_SET, RETURNED_BIT_NOT_SET, HOLD_BIT_NOT_SET,
    COMMITTED_BEFORE_WRITTEN, COUNTED_BEFORE_COMMITTED, NO_SECOND_LOOK, DEAD_NOT_SCANNED,
    MUTATIONS
};
extern enum mutation model_mutation;

struct scenario {
    const char *name;
    struct sira_link_shape shape;
    void (*scripts[SIDES])(void);
    bool kills[SIDES];      /* may this side die, once, anywhere? */
    bool waits_for_death;   /* the writer ends only when the reader has died */
};

/* The link of the scenario; a script opens its end of it anew each time. */
struct sira_link model_link(void);
/* A bell: ring it; wait until it rang since the last wait, or the other side is dead and its stores are visible. */
void model_ring(enum side whose);
void model_wait(enum side whose);
bool model_peer_is_dead(enum side whose_peer);
/* Ghosts: chunk `id` is in use by the reader from here to there, is given back by the writer. */
void model_view(uint32_t id, bool begins);
void model_release(uint32_t id);
/* Just before sira_link_look. */
void model_looks(void);
/* What a script found wrong. Does not return. */
void model_wrong(const char *why) __attribute__((noreturn));

/* Number of states; *wrong: NULL, or what was found first. */
uint64_t model_explore(const struct scenario *scenario, const char **wrong);

#endif
