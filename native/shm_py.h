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
    uint64_t *told; /* owned; of each of the first cells, what news() said last */
    uint32_t told_count;
    uint64_t told_posted;       /* of all of them, as the cells said before news() looked */
    bool told_waits;            /* something was yet to be taken then */
} ShmLink;
typedef struct {
    PyObject_HEAD
    ShmLink *memory;            /* owned */
    struct sira_link_writer writer;
    struct sira_spin spin;
    uint32_t waiting;           /* threads that sleep at `bell`: one ring may wake one alone */
    int peer_bell, bell;        /* owned; -1: none */
    uint32_t fork_depth;
    bool is_forsaken;           /* nobody will say that its reader is gone */
} ShmWriter;
/* Until `wants` slots or holds came back or `timeout_ns` is over (negative: no limit), or a hint of it. Without the GIL; the
 * caller keeps the writer alive. -1: an exception, also of a signal. */
int sira_writer_wait(ShmWriter *writer, uint32_t wants, int64_t timeout_ns);
typedef struct ShmReader {
    PyObject_HEAD
    ShmLink *memory;            /* owned */
    struct sira_link_reader reader;
    struct sira_maps maps;
    int peer_bell, bell;        /* owned; -1: none */
    uint32_t fork_depth;
    bool is_armed;              /* the writer will ring: nothing to look at until then */
    struct Cell **bound;        /* owned table by cell of borrowed entries; NULL: none was ever bound */
    unsigned int bound_count;
    uint64_t closed[SIRA_LINK_CELLS_MAX / 64]; /* cells whose messages nobody wants any more */
    PyObject *broken;           /* owned str: why the link is corrupt; NULL: it is not */
} ShmReader;
extern PyTypeObject sira_shm_link_type, sira_shm_writer_type, sira_shm_reader_type, sira_shm_view_type;
extern PyTypeObject sira_shm_bells_type;
bool sira_reader_is_child(const ShmReader *reader); /* of a fork: an exception is set */
/* The Message of `taken`, of `type`; linked NULL: as it stands. `stamp`: linked->stamp_len bytes. New reference, or NULL. */
PyObject *sira_reader_message(ShmReader *reader, const struct sira_taken *taken, PyTypeObject *type, PyObject *context,
                              const struct sira_linked *linked, const uint8_t *stamp);
/* The link is corrupt. The exception that is set says why, and is cleared; none: words that no honest peer writes. The
 * reader's own bell is rung, so that whoever listens looks at `broken`. */
void sira_reader_break(ShmReader *reader);

/* ---- mailboxes of a link (mailbox_cells.c) ---- */
/* Look, and let each mailbox with a cell in which something came know, to be called by mailbox_call_due. How many
 * messages came; -1: MemoryError, the rest is told next time. A corrupt link breaks and is 0. No Python code is run. */
Py_ssize_t sira_reader_share(ShmReader *reader, bool all);
/* No mailbox takes anything of it any more. */
void sira_reader_unbind(ShmReader *reader);
void sira_reader_unbind_cell(ShmReader *reader, uint32_t cell); /* nothing, if it is not bound */
/* Pass over what lies in a cell and what still comes there. Requires: not bound. */
void sira_reader_discard(ShmReader *reader, uint32_t cell);

#endif
