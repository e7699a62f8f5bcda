/* The wire format in C: protobuf primitives, envelope, tensors, frames. Pure C: no Python, no allocation,
 * callable without the GIL. Read this file first; proto/sira/v1/{tensor,message,bus}.proto are the format.
 *
 * Trust: every function that reads takes bytes from a stranger. A length is checked against what is there
 * and against a named limit before it is used. */
#ifndef SIRA_WIRE_H
#define SIRA_WIRE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    SIRA_NDIM_MAX = 64,            /* NumPy's own limit */
    SIRA_TENSORS_MAX = 256,        /* of one message: bounds the fixed arrays of struct sira_env */
    SIRA_HEADERS_MAX = 64,
    SIRA_TOPIC_BYTES_MAX = 255,
    SIRA_TOPIC_TOKENS_MAX = 16,
    SIRA_NAME_BYTES_MAX = 255,     /* of a tensor */
    SIRA_ID_BYTES = 16,
    SIRA_PRIORITIES = 8,
    SIRA_FRAME_BYTES_MAX = 2 << 20,
    /* What is pending leaves together up to this. A gRPC message costs some 150 us of CPU and a dozen changes of
     * thread over both ends, so 256 B messages cost a quarter less than in frames of 64 KiB; more than the window
     * of a stream (256 KiB) would wait half sent. */
    SIRA_BATCH_BYTES = 224 << 10,
    SIRA_ENVELOPE_BYTES_MAX = 64 << 10, /* everything of a message that is not tensor data */
    SIRA_STAMP_BYTES_MAX = 1 << 10, /* of it, kept free for what a node appends to a client's message: without this
                                     * room one publisher's message could be too large for its subscribers */
};

/* A slice of a buffer that somebody else keeps alive. */
struct sira_slice {
    const uint8_t *data;
    size_t len;
};

/* Why bytes were refused. The names of the stable codes are sira_status_code(). */
enum sira_status {
    SIRA_OK = 0,
    SIRA_TRUNCATED,      /* FRAME_CORRUPT: a length reaches past the end */
    SIRA_MALFORMED,      /* FRAME_CORRUPT: not protobuf, wrong wire type, varint past 64 bits */
    SIRA_BAD_DTYPE,      /* FRAME_CORRUPT: unknown or missing dtype */
    SIRA_BAD_SHAPE,      /* FRAME_CORRUPT: shape x dtype is not the length of data, or past 64 bits */
    SIRA_TOO_MANY_DIMS,  /* FRAME_CORRUPT */
    SIRA_TOO_MANY,       /* MESSAGE_TOO_LARGE: tensors or headers past their limit */
    SIRA_TOO_LARGE,      /* MESSAGE_TOO_LARGE: bytes past message_bytes_max or the envelope limit */
    SIRA_BAD_TOPIC,      /* BAD_TOPIC: empty token, wildcard in a name, control character, not UTF-8, too long */
    SIRA_BAD_ID,         /* BAD_REQUEST: an id that is not 16 bytes */
    SIRA_BAD_PRIORITY,   /* BAD_REQUEST */
    SIRA_BAD_TEXT,       /* BAD_REQUEST: a string field is not UTF-8 */
    SIRA_DUPLICATE_NAME, /* BAD_REQUEST: two tensors of one name */
    SIRA_FORGED,         /* DENIED: principal, tenant, attempt or offset set by a client */
    SIRA_STATUS_COUNT
};
const char *sira_status_code(enum sira_status status);  /* "FRAME_CORRUPT" */
const char *sira_status_text(enum sira_status status);  /* one clause for people */

/* ---- protobuf primitives (pb.h has the inline readers and writers) ------------------------------- */

/* Strict UTF-8: no overlong form, no surrogate, nothing past U+10FFFF. */
bool sira_utf8_check(const uint8_t *text, size_t len);

/* ---- dtypes ---------------------------------------------------------------------------------------- */
enum sira_dtype { /* = proto DType */
    SIRA_DT_NONE, SIRA_DT_BOOL, SIRA_DT_U8, SIRA_DT_U16, SIRA_DT_U32, SIRA_DT_U64, SIRA_DT_I8, SIRA_DT_I16,
    SIRA_DT_I32, SIRA_DT_I64, SIRA_DT_F16, SIRA_DT_F32, SIRA_DT_F64, SIRA_DT_BF16, SIRA_DT_F8E4M3FN,
    SIRA_DT_F8E5M2, SIRA_DT_F8E4M3FNUZ, SIRA_DT_F8E5M2FNUZ, SIRA_DT_I4, SIRA_DT_U4, SIRA_DT_C64, SIRA_DT_C128,
    SIRA_DT_BYTES, SIRA_DT_UTF8, SIRA_DT_COUNT
};
/* Bits of one element (4 for i4/u4); 0 for an unknown code. */
uint32_t sira_dtype_bits(uint32_t dtype);
const char *sira_dtype_name(uint32_t dtype);                   /* "f32"; NULL if unknown */
uint32_t sira_dtype_from_name(const char *name, size_t len);   /* 0 if unknown */
/* Bytes of a C-ordered tensor; an odd count of i4/u4 is rounded up. false: past `limit`, or the dimensions that
 * are not 0 multiply to more than INT64_MAX (NumPy could not hold such a shape); *out untouched.
 * Requires: ndim <= SIRA_NDIM_MAX and a known dtype. */
bool sira_tensor_bytes(const uint64_t *shape, uint32_t ndim, uint32_t dtype, uint64_t limit, uint64_t *out);

/* ---- topics ---------------------------------------------------------------------------------------- */
/* Names: 1..SIRA_TOPIC_TOKENS_MAX tokens joined by dots, <= SIRA_TOPIC_BYTES_MAX bytes of UTF-8, no empty
 * token, no token "*" or ">" (no '*' or '>' anywhere), no byte <= 0x20 or 0x7f. */
enum sira_status sira_topic_check(const uint8_t *name, size_t len);
/* Patterns: as names, but a whole token may be "*" (one token) and the last may be ">" (one or more). */
enum sira_status sira_pattern_check(const uint8_t *pattern, size_t len);
/* Requires: both checked. A wildcard never matches a first token that begins with '_' (private reply
 * topics) and a pattern that begins with a wildcard never matches under "sira". */
bool sira_topic_match(const uint8_t *pattern, size_t pattern_len, const uint8_t *name, size_t name_len);

/* ---- envelope -------------------------------------------------------------------------------------- */
struct sira_tensor {
    struct sira_slice name;   /* empty: the bytes/text body */
    uint32_t dtype;
    uint32_t ndim;            /* BYTES and UTF8: always 1, [bytes], also when the shape was left out */
    uint32_t shape_index;     /* its dimensions are env->dims[shape_index .. + ndim) */
    uint64_t bytes;           /* of data, whether here or announced */
    const uint8_t *data;      /* NULL in a head, and when bytes == 0 */
};

enum { SIRA_DIMS_MAX = 1024 };  /* of all tensors of a message together; past it SIRA_TOO_MANY */

/* One parsed Message. Slices point into the bytes that were parsed. Only what was present is set: an absent
 * string is {NULL, 0}. */
struct sira_env {
    struct sira_slice raw;        /* the whole Message */
    struct sira_slice id, topic, reply_to, content_type, correlation_id, causation_id, type, schema, source,
        intent_id, traceparent, dedupe_key, key, stream_id, error, expect, fence, sealed, principal, tenant;
    uint64_t ttl_ns;
    size_t ttl_at;                /* offset in raw of the 8 little-endian bytes of ttl_ns; 0: absent */
    uint64_t time_ns, stream_seq, offset;
    uint32_t priority, reply_kind, attempt;
    bool stream_end, has_offset;
    uint32_t header_count;
    struct { struct sira_slice key, value; } headers[SIRA_HEADERS_MAX];
    uint32_t tensor_count;
    uint32_t dim_count;
    uint64_t payload_bytes;       /* sum over tensors */
    struct sira_tensor tensors[SIRA_TENSORS_MAX];
    uint64_t dims[SIRA_DIMS_MAX];
};

enum sira_env_flags {
    SIRA_ENV_HEAD = 1,      /* tensors announce data_bytes and carry no data; otherwise the reverse */
    SIRA_ENV_CLIENT = 2,    /* from a client: principal, tenant, attempt, offset are SIRA_FORGED;
                             * SIRA_STAMP_BYTES_MAX of the envelope must be free;
                             * id and topic must be present and valid, reply_to valid if given */
};
/* Parse one Message. Any field order is taken; unknown fields are skipped; a scalar given twice: the last
 * wins. `*error_at` gets the offset in data of what was refused.
 * Fast path: initialises only what it uses of the big arrays. */
enum sira_status sira_env_parse(const uint8_t *data, size_t len, uint32_t flags, uint64_t message_bytes_max,
                                struct sira_env *env, size_t *error_at);
/* The same of `len` bytes from a client (SIRA_ENV_CLIENT) and the `stamp_len` that follow them: fields that a node
 * vouches for, so that here they are no forgery. env->raw is both. Requires: the stamp has no tensors. */
enum sira_status sira_env_parse_stamped(const uint8_t *data, size_t len, size_t stamp_len, uint32_t flags,
                                        uint64_t message_bytes_max, struct sira_env *env, size_t *error_at);

/* ---- frames ---------------------------------------------------------------------------------------- */
enum sira_item_kind { /* = field numbers in Item */
    SIRA_ITEM_NONE = 0, SIRA_ITEM_MESSAGE = 1, SIRA_ITEM_HEAD = 2, SIRA_ITEM_CHUNK = 3, SIRA_ITEM_ABORT = 4,
    SIRA_ITEM_CREDIT = 5, SIRA_ITEM_ACK = 6, SIRA_ITEM_RECEIPT = 7, SIRA_ITEM_OPEN = 8, SIRA_ITEM_OPENED = 9,
    SIRA_ITEM_CLOSE = 10, SIRA_ITEM_ENDED = 11, SIRA_ITEM_ASIDE = 16,
    SIRA_ITEM_ASK = 17, SIRA_ITEM_CELL_OPEN = 18, SIRA_ITEM_CELL_END = 19
};
struct sira_item {
    uint32_t kind;             /* SIRA_ITEM_NONE: an unknown kind, to be skipped */
    struct sira_slice raw;     /* the Item */
    struct sira_slice body;    /* the submessage of the oneof */
    struct sira_slice subs;    /* packed varints of `subscriptions` (also assembled forms: see below) */
    uint32_t sub_first;        /* first subscription, 0 if none: the common case needs no walk */
    bool quiet, has_wait;
    uint32_t wait_ms, grade;
};
/* Next item of a Frame at *at (start with 0). SIRA_OK with *done true at the end. Unpacked `subscriptions`
 * are accepted when there is one of them; several unpacked are SIRA_MALFORMED. */
enum sira_status sira_frame_next(const uint8_t *frame, size_t len, size_t *at, struct sira_item *item, bool *done);
/* Next of the packed subscriptions; false at the end (they were checked by sira_frame_next). */
bool sira_subs_next(const struct sira_slice *subs, size_t *at, uint32_t *subscription);

/* Bytes of shared memory that stand for a chunk's. All its numbers are a stranger's. */
struct sira_lent { uint32_t segment; uint64_t offset, bytes, lease; };
/* Either `data` or, where `is_lent`, what `lent` names; then data is empty. */
struct sira_chunk { struct sira_slice id; uint32_t tensor; uint64_t offset; struct sira_slice data;
                    bool is_lent; struct sira_lent lent; };
enum sira_status sira_chunk_parse(struct sira_slice body, struct sira_chunk *chunk);
/* An Abort has an Error where a Chunk has a number: sira_chunk_parse cannot read it. */
struct sira_abort { struct sira_slice id, error; };
enum sira_status sira_abort_parse(struct sira_slice body, struct sira_abort *abort);
struct sira_credit { uint32_t subscription; uint64_t taken; struct sira_slice id; uint64_t bytes, total; };
enum sira_status sira_credit_parse(struct sira_slice body, struct sira_credit *credit);
struct sira_receipt { struct sira_slice id, error; uint32_t matched, grade, copies, nodes, lane_bits; bool has_offset, spooled;
                      uint64_t offset, bytes; };  /* lane_bits: 1 << Lane for each lane */
enum sira_status sira_receipt_parse(struct sira_slice body, struct sira_receipt *receipt);

/* `topic` is a checked name. */
struct sira_ask { uint32_t ask; struct sira_slice topic; };
enum sira_status sira_ask_parse(struct sira_slice body, struct sira_ask *ask);

/* ---- contracts ------------------------------------------------------------------------------------- */
/* "f32|bf16[B, H<=4096, 3]": dtype|dtype[dim, ...]; dim = N, name, name<=N or *. No brackets: any shape.
 * One name is one size within a message. */
enum { SIRA_CONTRACT_DIMS_MAX = 16, SIRA_CONTRACT_TENSORS_MAX = 32, SIRA_CONTRACT_VARS_MAX = 32 };
struct sira_contract_dim { uint8_t kind; /* 0 fixed, 1 variable, 2 bounded variable, 3 any */
                           uint8_t var; uint64_t size; };
struct sira_contract_tensor {
    char name[SIRA_NAME_BYTES_MAX + 1];
    uint64_t dtypes;      /* bit set of 1 << dtype */
    int32_t ndim;         /* -1: any shape */
    struct sira_contract_dim dims[SIRA_CONTRACT_DIMS_MAX];
};
struct sira_contract {
    uint32_t tensor_count, var_count;
    char vars[SIRA_CONTRACT_VARS_MAX][32];
    struct sira_contract_tensor tensors[SIRA_CONTRACT_TENSORS_MAX];
};
/* Add `name: text`. false: *error gets one clause (static string). */
bool sira_contract_add(struct sira_contract *contract, const char *name, size_t name_len, const char *text,
                       size_t text_len, const char **error);
/* Does this message fit? Exactly the named tensors must be there. On a mismatch `why` (why_len >= 160) gets
 * one line naming the tensor, what is wanted and what came. */
bool sira_contract_check(const struct sira_contract *contract, const struct sira_env *env, char *why, size_t why_len);
/* Can some message fit both? If not, `why` (why_len >= 512) gets two lines, "- " what `a` wants of the tensor
 * where they part and "+ " what `b` wants and the reason. The names of dimensions are each contract's own. */
bool sira_contract_unify(const struct sira_contract *a, const struct sira_contract *b, char *why, size_t why_len);

/* ---- ids -------------------------------------------------------------------------------------------- */
/* UUIDv7 (RFC 9562): 48 bits of Unix ms, then a 74-bit tail, a counter seeded by getrandom() that only grows
 * within one ms, so ids of one process are in order. After fork() the child reseeds. Not thread-safe: under
 * the GIL only. */
void sira_id_new(uint8_t id[SIRA_ID_BYTES]);
uint64_t sira_now_mono_ns(void);
uint64_t sira_now_wall_ns(void);

#endif
