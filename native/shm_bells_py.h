/* Inside of ShmBells: shm_bells_py.c and shm_lead_py.c. Everything needs the GIL. */
#ifndef SIRA_SHM_BELLS_PY_H
#define SIRA_SHM_BELLS_PY_H

#include "client.h"
#include "shm_py.h"

/* One descriptor for many members, for an event loop, and another with the same members and kick(), for a thread: each hears
 * every ring, so neither takes from the other what it sleeps for, and none lies in the other, which would cost the thread a
 * fifth of its wake-up. What one has taken care of rings for nothing at the other, once.
 *
 * A writer or another descriptor is only listened to. A reader that rang, or was looked at, is *awake*: waiting looks at its
 * words. One that slept through a whole wait is *armed*: its writer rings, and waiting need not look at it. */
typedef struct {
    PyObject_HEAD
    PyObject *members; /* owned: {token: ShmReader, ShmWriter or descriptor} */
    PyObject *waiting; /* owned or NULL: {id: who waits for a reply to it}, of threads and of the loop */
    PyObject *followers; /* owned or NULL: dict of who waits until it may lead, or what it waits for is here */
    PyObject *left;    /* owned or NULL: called by who led where others are to be thought of */
    struct sira_spin spin;
    int bells;            /* epoll of the members, for an event loop */
    int threads, kick;    /* epoll of the members and of an eventfd, for who waits here */
    uint64_t next_token;
    unsigned long leader; /* the thread that leads, or led last */
    uint32_t leads;       /* how often it does: what it called has been interrupted by what waits, too */
    uint64_t turns;       /* how often somebody began to lead */
    uint32_t fork_depth;
    bool is_led;          /* a thread takes what rings for all */
    bool is_watched;      /* by the loop */
    bool is_closed;
} ShmBells;

/* Wait as `bells.take`; what rang is given to its mailboxes, and the next message of this one is returned. NULL: there is
 * none, or an exception. Tokens of broken links go into the list `broken`; NULL: they ring for the next wait. */
PyObject *sira_bells_take(ShmBells *bells, Mailbox *mailbox, double timeout_s, PyObject *broken);

void sira_bells_shut(ShmBells *bells); /* Requires: nobody leads. Again is nothing */

/* ---- shm_lead_py.c ---- */
PyObject *sira_bells_lead(PyObject *bells, PyObject *ignored);
PyObject *sira_bells_wake(PyObject *bells, PyObject *ignored);
PyObject *sira_bells_leave(PyObject *bells, PyObject *ignored);
PyObject *sira_bells_next(PyObject *bells, PyObject *const *args, Py_ssize_t count);
PyObject *sira_bells_ask(PyObject *bells, PyObject *const *args, Py_ssize_t count);
PyObject *sira_bells_reply(PyObject *bells, PyObject *const *args, Py_ssize_t count);

#endif
