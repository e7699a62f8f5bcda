/* Inside of messages: shared by message*.c, view.c, body.c and topic_py.c only. */
#ifndef SIRA_MESSAGE_H
#define SIRA_MESSAGE_H

#include "ndarray.h"

#include <stddef.h>
#include <structmember.h>

struct message_view {
    struct sira_slice name;
    const uint8_t *data;     /* NULL when there are no bytes */
    uint64_t bytes;
    PyObject *owner;         /* owned by the message; NULL: the message's own owner keeps data alive */
    uint32_t dtype, ndim;
    uint32_t dim_index;      /* into message->dims */
};
enum { MESSAGE_VIEWS_SMALL = 2, MESSAGE_DIMS_SMALL = 8 };
/* A Message: the raw bytes and the fields that every receiver asks for; the others are parsed when asked for. */
struct message {
    PyObject_HEAD
    PyObject *owner;         /* owned; keeps raw alive */
    PyObject *context;       /* owned; NULL: None */
    PyObject *weakrefs;
    struct sira_slice raw, topic, source, reply_to;
    const uint8_t *id, *correlation_id, *stream_id; /* 16 bytes each, or NULL */
    uint64_t payload_bytes, stream_seq;
    uint32_t priority, reply_kind;
    uint32_t view_count;
    bool assembled;          /* raw is a head */
    bool stream_end;
    bool is_traced;          /* it has an intent_id or a traceparent, which are parsed when asked for */
    struct message_view *views;  /* small_views or PyMem */
    uint64_t *dims;              /* small_dims or PyMem */
    struct message_view small_views[MESSAGE_VIEWS_SMALL];
    uint64_t small_dims[MESSAGE_DIMS_SMALL];
};
/* The one message that is being parsed, see message.c. */
extern struct sira_env sira_message_scratch;
/* A new Message without content, of `type` (Message or a subclass); may run the collector: parse afterwards. */
struct message *sira_message_allocate(PyTypeObject *type, PyObject *owner, PyObject *context);
/* Copy what is kept of `env` into the fresh `self`. -1: MemoryError. */
int sira_message_fill(struct message *self, const struct sira_env *env);
/* Parse raw again, for what struct message does not hold. Raises on a refusal (the bytes were changed). */
int sira_message_parse(const struct message *message, struct sira_env *env);
/* Dimensions, sizes and memory as NumPy takes them. New references. */
PyObject *sira_view_array(const struct message *message, const struct message_view *view);
PyObject *sira_view_packed(const struct message *message, const struct message_view *view);

/* Tables of the other files, added by sira_add_message. */
extern PyMemberDef sira_message_members[];      /* message_fields.c */
extern PyGetSetDef sira_message_getset[];
extern PyMethodDef sira_encode_functions[];     /* encode.c */
extern PyMethodDef sira_frame_functions[];      /* frame_py.c */
extern PyMethodDef sira_dlpack_functions[];     /* dlpack.c */
int sira_dlpack_in_init(void);                  /* dlpack_in.c; the names that are looked up */
int sira_options_init(void);                    /* options.c; likewise */

#endif
