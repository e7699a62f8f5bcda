/* Inside of bodies: shared by body.c and dlpack_in.c only. */
#ifndef SIRA_BODY_H
#define SIRA_BODY_H

#include "message.h"

/* ---- bodies ---- */
/* One more tensor with room for ndim dimensions, all else zero. NULL: MESSAGE_TOO_LARGE or no memory. The
 * pointer holds until the next call. */
struct sira_body_tensor *sira_body_add(struct sira_body *body, uint32_t ndim);

/* ---- arrays from other libraries (dlpack_in.c) ---- */
/* An ndarray over the memory of a DLPack producer on the CPU. New reference; NULL with the producer's own
 * exception, or, with *elsewhere true, BAD_REQUEST for memory of another device. `name` (borrowed) is for its text. */
PyObject *sira_array_from_dlpack(PyObject *producer, PyObject *name, bool *elsewhere);
/* 1: it has __dlpack__ and __dlpack_device__; 0: not; -1: exception. */
int sira_is_dlpack(PyObject *object);

#endif
