/* Inside of the shared-memory types for Python: shared by shm_*_py.c only. Everything needs the GIL. */
#ifndef SIRA_SHM_PY_H
#define SIRA_SHM_PY_H

#include "pyutil.h"
#include "shm_arena.h"
#include "shm_bell.h"
#include "shm_link.h"
#include "shm_map.h"

/* How many forks lie between this process and the one that loaded the module. A child must neither ring nor give back
 * what is its parent's: objects keep the number they were made with. Kept by pthread_atfork. */
extern uint32_t sira_fork_depth;
int sira_fork_watch(void); /* idempotent; -1 with an exception */

/* Raise for an errno of making or mapping memory. Always NULL. */
PyObject *sira_shm_raise(const char *what, int error);

/* ---- arenas (shm_arena_py.c) ---- */
typedef struct {
    PyObject_HEAD
    struct sira_arena arena;
    uint32_t fork_depth;
} ShmArena;
/* Writable memory in an arena, by the buffer protocol. Held once while the object lives. */
typedef struct {
    PyObject_HEAD
    struct sira_shm_chunk chunk;
    uint32_t fork_depth;
} ShmChunk;
extern PyTypeObject sira_shm_arena_type, sira_shm_chunk_type;
/* In place of a chunk's number: the owner is not a segment but a ShmView, whose memory is another's. */
#define SIRA_SHM_VIEWED UINT32_MAX
/* Hold what a post refers to once more; give it back (sira_link_release). */
void sira_shm_hold(void *owner, uint32_t chunk);
void sira_shm_release(void *owner, uint32_t chunk);

/* ---- posts (shm_post_py.c) ---- */
/* One message written once, to be posted to any number of links. */
struct sira_shm_post {
    struct sira_post post;      /* but for its cell; inline_data points to `inlined`; post.owner is held */
    uint8_t inlined[SIRA_LINK_INLINE_BYTES_MAX];
    uint8_t id[SIRA_ID_BYTES];
    uint32_t copies;             /* of payload: 1, or 0 from a loan */
};
typedef struct {
    PyObject_HEAD
    uint32_t fork_depth;
    struct sira_shm_post post;
} ShmPost;
extern PyTypeObject sira_shm_post_type;

/* ---- links (shm_link_py.c) and their ends (shm_writer_py.c, shm_reader_py.c) ---- */
typedef struct {
    PyObject_HEAD
    struct sira_shm shm;
    struct sira_link link;
} ShmLink;
typedef struct {
    PyObject_HEAD
    ShmLink *memory;            /* owned */
    struct sira_link_writer writer;
    struct sira_spin spin;
    int peer_bell, bell;        /* owned; -1: none */
    uint32_t fork_depth;
} ShmWriter;
typedef struct {
    PyObject_HEAD
    ShmLink *memory;            /* owned */
    struct sira_link_reader reader;
    struct sira_maps maps;
    int peer_bell, bell;        /* owned; -1: none */
    uint32_t fork_depth;
    bool is_armed;              /* the writer will ring: nothing to look at until then */
} ShmReader;
extern PyTypeObject sira_shm_link_type, sira_shm_writer_type, sira_shm_reader_type, sira_shm_view_type;
extern PyTypeObject sira_shm_bells_type;

#endif
