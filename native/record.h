/* Records of the node's Unix socket: a head of 16 bytes, then a body. Layout: docs/shm.md, "The socket".
 * Pure C, no allocation: what a stranger sends is judged here, before anything is kept of it. */
#ifndef SIRA_RECORD_H
#define SIRA_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIRA_RECORD_HEAD_BYTES = 16, SIRA_RECORD_DESCRIPTORS_MAX = 253 }; /* Linux: SCM_MAX_FD */

enum sira_record_kind {
    SIRA_RECORD_HELLO = 1, /* first in each direction; of no call */
    SIRA_RECORD_CALL,      /* begins a call: method, metadata, timeout */
    SIRA_RECORD_MESSAGE,
    SIRA_RECORD_HALF_CLOSE, /* no more messages come this way */
    SIRA_RECORD_STATUS,     /* ends a call; of no call: ends the connection */
    SIRA_RECORD_CANCEL,
    SIRA_RECORD_WINDOW, /* bytes of messages that the receiver takes again */
    SIRA_RECORD_SEGMENT,  /* this and all below: of no call; shared memory that chunks will name */
    SIRA_RECORD_GONE,     /* segments that no chunk will name any more */
    SIRA_RECORD_RETURNED, /* leases that are over */
    SIRA_RECORD_STOP,     /* segments that shall not be written to */
    SIRA_RECORD_LINK,       /* one end of memory that two clients share */
    SIRA_RECORD_LINK_OVER,  /* the other end has gone, or this one gave it up */
    SIRA_RECORD_PAGE,       /* the words that say whether a route holds */
    SIRA_RECORD_ROUTE,      /* the answer to an ask */
    SIRA_RECORD_ROUTE_LEFT, /* routes that nothing goes by any more */
    SIRA_RECORD_KINDS   /* one past the last */
};

struct sira_record {
    uint32_t bytes, call; /* of the body; 0: of no call */
    uint8_t kind, descriptors;
};

enum sira_record_fault {
    SIRA_RECORD_OK = 0,
    SIRA_RECORD_BAD_KIND,
    SIRA_RECORD_BAD_CALL,        /* a call where none may be, or none where one must be */
    SIRA_RECORD_BAD_DESCRIPTORS, /* more than one sendmsg carries */
    SIRA_RECORD_BAD_RESERVED,    /* bits that mean nothing are set */
    SIRA_RECORD_TOO_LONG
};

/* Read a head.
 * Requires: `head` has SIRA_RECORD_HEAD_BYTES bytes.
 * Ensures:  SIRA_RECORD_OK -> *out is the record, and its body has at most `bytes_max` bytes;
 *           else *out is untouched. */
enum sira_record_fault sira_record_read(const uint8_t *head, uint32_t bytes_max, struct sira_record *out);

/* What is wrong, for people. Requires: fault != SIRA_RECORD_OK. */
const char *sira_record_fault_text(enum sira_record_fault fault);

#endif
