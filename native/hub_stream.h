/* The streams' inner parts that their Python faces (hub_stream.c) call. */
#ifndef SIRA_HUB_STREAM_H
#define SIRA_HUB_STREAM_H

#include "hub.h"

PyObject *frame_of_items(PyObject *list);

int ingress_feed(Ingress *in, PyObject *frame, uint64_t now_ns);
void ingress_close(Ingress *in, uint64_t now_ns);
PyObject *ingress_next_frame(Ingress *in, uint64_t now_ns); /* new reference, or NULL without an exception: nothing */

PyObject *egress_feed(Egress *egress, PyObject *frame, uint64_t now_ns); /* new reference: None or list */
PyObject *egress_next_frame(Egress *egress, uint64_t now_ns);
Sub *egress_find(const Egress *egress, uint32_t id); /* borrowed */
int egress_insert(Egress *egress, Sub *sub);         /* takes a reference */
void egress_close_sub(Egress *egress, Sub *sub, uint16_t reason, uint64_t now_ns);
void egress_close(Egress *egress, uint16_t reason, uint64_t now_ns);

#endif
