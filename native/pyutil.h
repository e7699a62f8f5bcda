/* What the Python-facing files of the C core share: errors, messages, bodies, encoding. Include this before
 * anything else (it brings Python.h). Everything here needs the GIL.
 *
 * Files: module.c (init, errors, bound dtypes), message.c (Message), message_placed.c (from links), view.c (arrays over message memory),
 * options.c, body.c and dlpack_in.c (Python body -> struct sira_body), encode.c, dlpack.c (our producer),
 * receipt.c, topic_py.c (topics and contracts). */
#ifndef SIRA_PYUTIL_H
#define SIRA_PYUTIL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "wire.h"

/* ---- errors (module.c) ----------------------------------------------------------------------------- */
/* Raise the exception that the bound factory makes for a stable `code`; ValueError "CODE: text" while none is
 * bound. `fmt` as PyUnicode_FromFormat. Always returns NULL. An exception already set becomes its cause. */
PyObject *sira_raise(const char *code, const char *fmt, ...);
/* The same for refused bytes; `at` (offset in them) goes into the text and into details["offset"]. */
PyObject *sira_raise_status(enum sira_status status, size_t at);

/* ---- module groups: each adds its types and functions; 0, or -1 with an exception -------------------- */
int sira_add_message(PyObject *module); /* options.c body.c encode.c message.c dlpack.c receipt.c */
int sira_add_topic(PyObject *module);
int sira_add_client(PyObject *module);  /* N3: outbox.c inbox.c mailbox.c pool.c */
int sira_add_hub(PyObject *module);     /* LEAD: hub*.c */
int sira_add_stepper(PyObject *module); /* stepper.c */
int sira_add_record(PyObject *module);  /* record_py.c */
int sira_add_shm(PyObject *module);     /* shm_*_py.c */
int sira_add_search(PyObject *module);  /* search_py.c */
int sira_add_sparse(PyObject *module);  /* sparse_py.c */
int sira_add_index(PyObject *module);   /* index_py.c */
int sira_add_files(PyObject *module);   /* files_py.c */
int sira_add_faults(PyObject *module);  /* fault_py.c; only with SIRA_FAULTS */
/* PyType_Ready, then add under the last part of tp_name. */
int sira_add_type(PyObject *module, PyTypeObject *type);
/* Functions to add to a module (PyModule_AddFunctions by its plain name). */
int sira_add_functions(PyObject *module, PyMethodDef *methods);

/* ---- messages (message.c) ---------------------------------------------------------------------------- */
extern PyTypeObject sira_message_type; /* Message; subclasses add methods only */
#define sira_message_check(object) PyObject_TypeCheck((object), &sira_message_type)

/* An inline Message over `data`. `owner` keeps those bytes alive and unchanged; the message takes its own
 * reference (both `owner` and `context` are borrowed here; context may be NULL = None).
 * Parses once, with SIRA_ENV flags 0; a refusal raises its typed error. New reference. */
PyObject *sira_message_new(PyTypeObject *type, PyObject *owner, const uint8_t *data, size_t len, PyObject *context);
/* The same from bytes that the caller has just parsed (flags without SIRA_ENV_HEAD); env is only read. */
PyObject *sira_message_from_env(PyTypeObject *type, PyObject *owner, const struct sira_env *env, PyObject *context);

/* Memory of one tensor of a reassembled message. */
struct sira_part {
    PyObject *owner;     /* keeps data alive and unchanged; borrowed here; NULL: the tensor is empty */
    const uint8_t *data;
    size_t len;          /* must be the announced data_bytes */
};
/* A Message whose head was parsed apart and whose tensors lie in buffers of their own, parts[i] for tensor i.
 * References as above (the message takes its own). */
PyObject *sira_message_new_assembled(PyTypeObject *type, PyObject *head_owner, const uint8_t *head, size_t head_len,
                                     const struct sira_part *parts, size_t count, PyObject *context);

/* A Message whose tensors lie in `data` one behind the other, each at the next multiple of 64 bytes (sira_placed_at),
 * as in shared memory. They must fit into `len`. References as above; the arrays keep data_owner alive. */
PyObject *sira_message_new_placed(PyTypeObject *type, PyObject *head_owner, const uint8_t *head, size_t head_len,
                                  PyObject *data_owner, const uint8_t *data, size_t len, PyObject *context);
/* What the node's introduction says of a message in a link, against what the message says. */
struct sira_linked {
    struct sira_slice topic; /* must be its topic */
    uint32_t priority;       /* must be its priority */
    uint64_t left_ns;        /* what is left of its ttl; 0: it has none */
    size_t stamp_len;        /* bytes behind the message that the node vouches for */
};
/* A Message out of a link: `len` bytes of a client and the node's stamp behind them, in `owner`. They are checked as a
 * node checks them; the ttl in them becomes what is left of it. data_owner NULL: it is inline; else its tensors lie as
 * sira_message_new_placed says. A refusal raises its typed error, PROTOCOL_ERROR where it is not what `linked` says. */
PyObject *sira_message_new_linked(PyTypeObject *type, PyObject *owner, uint8_t *data, size_t len,
                                  const struct sira_linked *linked, PyObject *data_owner, const uint8_t *placed,
                                  size_t placed_len, PyObject *context);
static inline size_t sira_placed_at(size_t end)
{
    return (end + 63) & ~(size_t)63;
}

/* Requires: sira_message_check(message). Slices live as long as the message. */
struct sira_slice sira_message_topic(PyObject *message);
struct sira_slice sira_message_source(PyObject *message);
struct sira_slice sira_message_id(PyObject *message);  /* 16 bytes, or {NULL, 0} */
uint32_t sira_message_priority(PyObject *message);
uint64_t sira_message_payload_bytes(PyObject *message);

/* ---- options (options.c) ------------------------------------------------------------------------------ */
extern PyTypeObject sira_options_type;
/* What Options holds. `fields` is every envelope field that it sets, encoded, but for id and priority and ttl. */
struct sira_options {
    const uint8_t *fields;
    size_t fields_len;
    uint64_t ttl_ns;      /* 0: none */
    uint32_t priority;    /* 0..7 */
    uint32_t wait_ms, grade;
    bool quiet, has_wait, has_id, has_source;
    bool needs_node;      /* only a node can keep what they ask for: dedupe_key, fence */
    uint8_t id[SIRA_ID_BYTES];
};
/* NULL or None -> the defaults (static); Options -> its contents, alive as long as it is. Anything else:
 * TypeError and NULL. */
const struct sira_options *sira_options_of(PyObject *options);
/* Does a message with them have to go by the node? */
static inline bool sira_options_need_node(const struct sira_options *options)
{
    return options->needs_node || options->grade > 1; /* 1: accepted */
}

/* ---- bodies (body.c) ----------------------------------------------------------------------------------- */
struct sira_body_tensor {
    struct sira_slice name;   /* UTF-8 inside name_owner; empty for a bytes or text body */
    PyObject *name_owner;     /* owned; NULL when the name is empty */
    PyObject *owner;          /* owned; keeps data alive; NULL when there are no bytes */
    const uint8_t *data;
    uint64_t bytes;
    uint32_t dtype;           /* enum sira_dtype */
    uint32_t ndim;
    uint32_t dim_index;       /* its dimensions are body->dims[dim_index .. + ndim) */
    bool gathered;            /* data is a copy that we made: strided, byte-swapped, 4-bit or a plain list */
};
enum { SIRA_BODY_TENSORS_SMALL = 2, SIRA_BODY_DIMS_SMALL = 8 };
/* A body ready for the wire. Points into itself: never copy it by assignment, use sira_body_move. */
struct sira_body {
    uint32_t tensor_count, dim_count;
    uint32_t tensor_room, dim_room;
    uint32_t gathered_count;
    uint64_t payload_bytes;
    PyObject *chunk;                    /* owned: the ShmChunk that all tensors lie in; NULL: they lie anywhere */
    bool is_loan;                       /* with chunk: its caller wrote them there */
    struct sira_body_tensor *tensors;   /* small_tensors or the heap */
    uint64_t *dims;
    struct sira_body_tensor small_tensors[SIRA_BODY_TENSORS_SMALL];
    uint64_t small_dims[SIRA_BODY_DIMS_SMALL];
};
/* Mapping, bytes-like, str, Message or None -> *out. 0, or -1 with an exception (BAD_REQUEST,
 * MESSAGE_TOO_LARGE, ...) and nothing to clear. May run Python code (DLPack, lists). */
int sira_body_from_py(PyObject *body, struct sira_body *out);
void sira_body_clear(struct sira_body *body);                          /* idempotent */
void sira_body_move(struct sira_body *to, struct sira_body *from);     /* from is left cleared */

/* ---- bodies in one piece of memory (body_place.c) ------------------------------------------------------------ */
/* Bytes of the tensors one behind the other, each at the next multiple of 64 (sira_placed_at). */
uint64_t sira_body_placed_bytes(const struct sira_body *body);
/* Copy them there. Without the GIL when it is long: the caller holds the body and what is written to. */
void sira_body_place(const struct sira_body *body, uint8_t *base);
/* Are they there already, as sira_body_place would put them? */
bool sira_body_is_placed(const struct sira_body *body, const uint8_t *base, uint64_t bytes);
/* Is every one of them within [base, base + bytes), wherever? */
bool sira_body_is_within(const struct sira_body *body, const uint8_t *base, uint64_t bytes);

/* ---- encoding (encode.c) --------------------------------------------------------------------------------- */
/* What goes into one Message besides the body. */
struct sira_envelope {
    struct sira_slice topic;     /* checked by sira_topic_of_py or sira_topic_check */
    struct sira_slice source;    /* default source, written when the options set none; may be empty */
    const uint8_t *id;           /* 16 bytes */
    uint64_t time_ns;            /* wall clock */
    const struct sira_options *options;  /* never NULL: sira_options_of(NULL) gives the defaults */
};
/* Bytes of the encoded Message; `head`: data announced, not there. 0 with MESSAGE_TOO_LARGE raised when all but
 * the tensor data passes SIRA_ENVELOPE_BYTES_MAX. (A Message is never empty: it has an id.) */
size_t sira_encode_size(const struct sira_envelope *envelope, const struct sira_body *body, bool head);
/* Write exactly that many bytes at `at`; returns the end. Copies each payload once. Cannot fail. */
uint8_t *sira_encode_write(uint8_t *at, const struct sira_envelope *envelope, const struct sira_body *body, bool head);
/* str -> its UTF-8, borrowed from the object, checked as a topic name. -1 with BAD_TOPIC (or TypeError). */
int sira_topic_of_py(PyObject *topic, struct sira_slice *out);

/* ---- receipts, contracts (receipt.c, topic_py.c) ----------------------------------------------------------- */
extern PyTypeObject sira_receipt_type;
PyObject *sira_receipt_new(const struct sira_receipt *receipt); /* new reference; receipt->error is not kept */
extern PyTypeObject sira_contract_type;
const struct sira_contract *sira_contract_of(PyObject *contract); /* Requires: a Contract. Borrowed. */

/* ---- views (view.c) ------------------------------------------------------------------------------------------ */
/* Read-only memoryview (format B) of memory that `owner` (borrowed; a reference is taken) keeps alive. */
PyObject *sira_memoryview(PyObject *owner, const uint8_t *data, size_t len);
/* "019b..-....-7..." of 16 bytes, "" for an empty slice. New reference. */
PyObject *sira_uuid_text(struct sira_slice id);

#endif
