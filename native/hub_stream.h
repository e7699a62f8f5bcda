/* The streams' inner parts that their Python faces (hub_stream.c) call. */
#ifndef SIRA_HUB_STREAM_H
#define SIRA_HUB_STREAM_H

#include "hub.h"

/* hub_route.c */
struct route_entry *route_of(Ingress *in, struct sira_slice topic); /* borrowed; NULL with an exception: refused */
struct route_entry *route_find(const Ingress *in, struct sira_slice topic); /* borrowed; NULL: never asked for */
int route_refresh(Ingress *in, struct route_entry *entry);          /* -1 with an exception: refused */
void routes_free(Ingress *in);

/* hub_post.c */
bool route_has_room(const Route *route, const struct blob *blob);
int post(Ingress *in, Route *route, struct blob *blob, uint64_t slot, bool quiet, bool has_reply_to, uint64_t now_ns);
int park(Ingress *in, struct route_entry *entry, struct blob *blob, uint64_t slot, const struct sira_item *item,
         bool has_reply_to, bool waits, uint64_t now_ns);
/* Post what has room, up to what waits for a limit; until until_ns (CLOCK_MONOTONIC, as it is; UINT64_MAX: all of it),
 * and one in any case. Returns 1 where that ended it, -1 with an exception. */
int entry_retry(Ingress *in, struct route_entry *entry, uint64_t now_ns, uint64_t until_ns);
int refuse_first(Ingress *in, struct route_entry *entry, const char *code); /* with the current exception */
uint64_t unpark_xfer(Ingress *in, const struct xfer *xfer); /* its slot; SLOT_NONE: it was not parked */
void parked_drop_all(Ingress *in);
void parked_sweep(Ingress *in);
void entry_update(Ingress *in, struct route_entry *entry); /* as parked_sweep(), of one entry */
void note_full(Ingress *in);
void expire_by(Ingress *in, uint64_t deadline_ns); /* something parked has this deadline now */
/* Answer all that is parked with `error`, encoded, of that code. Requires: it is not busy. -1 with MemoryError. */
int ingress_refuse_parked(Ingress *in, PyObject *error, const char *code, uint64_t now_ns);

/* hub_wait.c */
enum admission {
    ADMIT_REFUSED = -1, /* with an exception */
    ADMIT_TAKEN,
    ADMIT_WAITS,
    ADMIT_AGAIN, /* refused as in->limited says, without an exception */
};
/* May a message of so many bytes pass the limits of its route? What is taken is used up. Python runs inside. */
enum admission entry_admit(Ingress *in, struct route_entry *entry, const struct sira_item *item, uint64_t bytes,
                           uint64_t now_ns);
void line_update(Ingress *in, struct route_entry *entry); /* its first message is another one */
void line_leave(Hub *hub, struct route_entry *entry);

/* hub_receipts.c */
uint64_t slot_open(Ingress *in, const struct sira_env *env, bool head); /* SLOT_NONE with MemoryError */
int settle_refused(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic, const char *code);
/* Takes over `error`, encoded: the answer to a message, counted where a topic is known. -1 with MemoryError. */
int settle_error(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic, const char *code, PyObject *error);
/* The same with the answer of the message before, which in->limited holds: refused for its rate. */
int settle_again(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic);
void hub_exception_code(char *code, size_t len);
uint64_t ingress_unread(const Ingress *in); /* answers that the client has not taken, or that are still due */
void slots_free(Ingress *in);

/* hub_direct.c */
int ingress_ask(Ingress *in, const struct sira_item *item); /* Python runs inside */
PyObject *ingress_waits_py(PyObject *self, PyObject *name);

/* Takes a frame from *at on, for about work_ns (0: to its end). Requires: *at is 0, or what the last call with this
 * frame left there. Ensures: *at is where to go on, the length of the frame where it is done. */
int ingress_feed(Ingress *in, PyObject *frame, uint64_t now_ns, uint64_t work_ns, size_t *at);
void ingress_leave(Ingress *in, uint64_t now_ns); /* no longer busy */
PyObject *frame_of_items(PyObject *list);
PyObject *ingress_next_frame(Ingress *in, uint64_t now_ns); /* new reference, or NULL without an exception: nothing */

PyObject *egress_feed(Egress *egress, PyObject *frame, uint64_t now_ns); /* new reference: None or list */
PyObject *egress_next_frame(Egress *egress, uint64_t now_ns);
Sub *egress_find(const Egress *egress, uint32_t id); /* borrowed */
int egress_insert(Egress *egress, Sub *sub);         /* takes a reference */
void egress_close_sub(Egress *egress, Sub *sub, uint16_t reason, uint64_t now_ns);
void egress_close(Egress *egress, uint16_t reason, uint64_t now_ns);

#endif
