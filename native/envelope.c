/* Parsing one Message: the hot path of every lane. Proto: message.proto and tensor.proto.
 *
 * What is accepted here, any other protobuf parser can read too: a node passes messages on unread, and one
 * publisher must not be able to break the streams of others. */
#include "pb.h"

#define TAG(field, wire) ((uint32_t)(field) << 3 | (uint32_t)(wire))

/* ---- parts that are carried, not read ----------------------------------------------------------------- */

enum shape { NONE, UINT, TEXT, RAW, TEXT_MAP };

/* Shapes of the fields of a submessage, by number. */
static const uint8_t ENTRY_FIELDS[] = {NONE, TEXT, TEXT};
static const uint8_t ERROR_FIELDS[] = {NONE, TEXT, TEXT, TEXT_MAP, UINT, UINT, TEXT};
static const uint8_t EXPECT_FIELDS[] = {NONE, UINT, UINT};
static const uint8_t FENCE_FIELDS[] = {NONE, TEXT, UINT};
static const uint8_t SEALED_FIELDS[] = {NONE, TEXT, TEXT, RAW};

/* Walk a submessage whose field numbers below `count` have the given shapes.
 * Ensures: not SIRA_OK -> *fault is the start of the field that was refused. */
static enum sira_status check_fields(struct sira_slice body, const uint8_t *shapes, uint32_t count,
                                     const uint8_t **fault)
{
    struct pb_reader r = {body.data, body.data + body.len};
    while (r.at != r.end) {
        const uint8_t *start = *fault = r.at;
        uint32_t field, wire;
        uint64_t number;
        struct sira_slice slice;
        if (!pb_key(&r, &field, &wire)) return sira_pb_fault(start, r.end);
        const uint32_t shape = field < count ? shapes[field] : NONE;
        if (shape == NONE) {
            if (!pb_skip(&r, wire)) return sira_pb_fault(start, r.end);
            continue;
        }
        if (wire != (shape == UINT ? PB_VARINT : PB_LEN)) return SIRA_MALFORMED;
        if (!(shape == UINT ? pb_varint(&r, &number) : pb_bytes(&r, &slice))) return sira_pb_fault(start, r.end);
        if (shape == TEXT && !sira_utf8_check(slice.data, slice.len)) return SIRA_BAD_TEXT;
        if (shape == TEXT_MAP) {
            const enum sira_status status = check_fields(slice, ENTRY_FIELDS, 3, fault); /* one level, no deeper */
            if (status) return status;
        }
    }
    return SIRA_OK;
}

/* ---- fields: each reads one value; SIRA_MALFORMED also stands for "did not fit", told apart at the end --- */

static inline enum sira_status take_text(struct pb_reader *r, struct sira_slice *out)
{
    if (!pb_bytes(r, out)) return SIRA_MALFORMED;
    return sira_utf8_check(out->data, out->len) ? SIRA_OK : SIRA_BAD_TEXT;
}

static inline enum sira_status take_id(struct pb_reader *r, struct sira_slice *out)
{
    if (!pb_bytes(r, out)) return SIRA_MALFORMED;
    return out->len == SIRA_ID_BYTES || out->len == 0 ? SIRA_OK : SIRA_BAD_ID;
}

static inline enum sira_status take_topic(struct pb_reader *r, bool strict, struct sira_slice *out)
{
    if (!pb_bytes(r, out)) return SIRA_MALFORMED;
    if (!strict || out->len == 0) return sira_utf8_check(out->data, out->len) ? SIRA_OK : SIRA_BAD_TOPIC;
    return sira_topic_check(out->data, out->len);
}

/* uint32 and enum fields: the low 32 bits, as every protobuf parser reads them. */
static inline enum sira_status take_u32(struct pb_reader *r, uint32_t *out)
{
    uint64_t value;
    if (!pb_varint(r, &value)) return SIRA_MALFORMED;
    *out = (uint32_t)value;
    return SIRA_OK;
}

static inline enum sira_status take_u64(struct pb_reader *r, uint64_t *out)
{
    return pb_varint(r, out) ? SIRA_OK : SIRA_MALFORMED;
}

static enum sira_status take_submessage(struct pb_reader *r, const uint8_t *shapes, uint32_t count,
                                        struct sira_slice *out, const uint8_t **fault)
{
    if (!pb_bytes(r, out)) return SIRA_MALFORMED;
    return check_fields(*out, shapes, count, fault);
}

static enum sira_status take_header(struct pb_reader *outer, struct sira_env *env, const uint8_t **fault)
{
    struct sira_slice body;
    if (!pb_bytes(outer, &body)) return SIRA_MALFORMED;
    if (env->header_count == SIRA_HEADERS_MAX) return SIRA_TOO_MANY;
    struct sira_slice pair[2] = {{NULL, 0}, {NULL, 0}}; /* an absent key or value is "" */
    struct pb_reader r = {body.data, body.data + body.len};
    while (r.at != r.end) {
        const uint8_t *start = *fault = r.at;
        uint32_t tag;
        enum sira_status status = SIRA_OK;
        if (!pb_tag(&r, &tag))
            status = SIRA_MALFORMED;
        else if (tag == TAG(1, PB_LEN) || tag == TAG(2, PB_LEN))
            status = take_text(&r, &pair[(tag >> 3) - 1]);
        else if (tag >> 3 <= 2 || !pb_skip(&r, tag & 7))
            status = SIRA_MALFORMED;
        if (status == SIRA_MALFORMED) return sira_pb_fault(start, r.end);
        if (status) return status;
    }
    env->headers[env->header_count].key = pair[0];
    env->headers[env->header_count].value = pair[1];
    env->header_count++;
    return SIRA_OK;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

/* Append a dimension to the tensor whose first is env->dims[first]. */
static inline enum sira_status put_dim(struct sira_env *env, uint32_t first, uint64_t size)
{
    if (env->dim_count - first == SIRA_NDIM_MAX) return SIRA_TOO_MANY_DIMS;
    if (env->dim_count == SIRA_DIMS_MAX) return SIRA_TOO_MANY;
    env->dims[env->dim_count++] = size;
    return SIRA_OK;
}

static enum sira_status take_dims(struct pb_reader *outer, struct sira_env *env, uint32_t first, const uint8_t **fault)
{
    struct sira_slice packed;
    if (!pb_bytes(outer, &packed)) return SIRA_MALFORMED;
    struct pb_reader r = {packed.data, packed.data + packed.len};
    while (r.at != r.end) {
        uint64_t size;
        *fault = r.at;
        if (!pb_varint(&r, &size)) return r.end - r.at < 10 ? SIRA_TRUNCATED : SIRA_MALFORMED;
        const enum sira_status status = put_dim(env, first, size);
        if (status) return status;
    }
    return SIRA_OK;
}

/* Do shape, dtype and length agree? Sets tensor->bytes, ndim, data. */
static enum sira_status settle(struct sira_tensor *tensor, struct sira_env *env, bool head, uint64_t announced,
                               struct sira_slice data)
{
    if (head && data.len) return SIRA_MALFORMED;
    if (!head && announced && announced != data.len) return SIRA_BAD_SHAPE;
    const uint64_t bytes = head ? announced : data.len;
    tensor->ndim = env->dim_count - tensor->shape_index;
    if (tensor->dtype == SIRA_DT_BYTES || tensor->dtype == SIRA_DT_UTF8) {
        if (tensor->ndim == 0) {
            const enum sira_status status = put_dim(env, tensor->shape_index, bytes);
            if (status) return status;
            tensor->ndim = 1;
        }
        if (tensor->ndim != 1 || env->dims[tensor->shape_index] != bytes || bytes > INT64_MAX) return SIRA_BAD_SHAPE;
    } else {
        uint64_t wanted;
        if (!sira_tensor_bytes(&env->dims[tensor->shape_index], tensor->ndim, tensor->dtype, UINT64_MAX, &wanted))
            return SIRA_BAD_SHAPE;
        if (wanted != bytes) return SIRA_BAD_SHAPE;
    }
    tensor->bytes = bytes;
    tensor->data = data.len ? data.data : NULL;
    return SIRA_OK;
}

static enum sira_status take_tensor(struct pb_reader *outer, struct sira_env *env, bool head, uint64_t bytes_max,
                                    const uint8_t **fault)
{
    struct sira_slice body, data = {NULL, 0};
    if (!pb_bytes(outer, &body)) return SIRA_MALFORMED;
    if (env->tensor_count == SIRA_TENSORS_MAX) return SIRA_TOO_MANY;
    struct sira_tensor *tensor = &env->tensors[env->tensor_count];
    tensor->name = (struct sira_slice){NULL, 0};
    tensor->shape_index = env->dim_count;
    uint64_t dtype = SIRA_DT_NONE, announced = 0, size;
    struct pb_reader r = {body.data, body.data + body.len};
    while (r.at != r.end) {
        const uint8_t *start = r.at;
        uint32_t tag;
        enum sira_status status = SIRA_OK;
        if (!pb_tag(&r, &tag)) tag = 0; /* which is no tag: the default */
        switch (tag) {
        case TAG(1, PB_LEN):
            status = take_text(&r, &tensor->name);
            if (!status && tensor->name.len > SIRA_NAME_BYTES_MAX) status = SIRA_TOO_LARGE;
            break;
        case TAG(2, PB_VARINT):
            status = take_u64(&r, &dtype);
            break;
        case TAG(3, PB_LEN):
            status = take_dims(&r, env, tensor->shape_index, fault);
            break;
        case TAG(3, PB_VARINT):
            status = take_u64(&r, &size);
            if (!status) status = put_dim(env, tensor->shape_index, size);
            break;
        case TAG(4, PB_VARINT):
            status = take_u64(&r, &announced);
            break;
        case TAG(15, PB_LEN):
            if (!pb_bytes(&r, &data)) status = SIRA_MALFORMED;
            break;
        default:
            if (tag >> 3 <= 4 || tag >> 3 == 15 || !pb_skip(&r, tag & 7)) status = SIRA_MALFORMED;
        }
        if (status == SIRA_OK) {
            *fault = NULL;
            continue;
        }
        if (!*fault) *fault = start;
        return status == SIRA_MALFORMED ? sira_pb_fault(start, r.end) : status;
    }
    if (dtype == SIRA_DT_NONE || dtype >= SIRA_DT_COUNT) return SIRA_BAD_DTYPE;
    tensor->dtype = (uint32_t)dtype;
    const enum sira_status status = settle(tensor, env, head, announced, data);
    if (status) return status;
    if (__builtin_add_overflow(env->payload_bytes, tensor->bytes, &env->payload_bytes)) return SIRA_TOO_LARGE;
    if (env->payload_bytes > bytes_max) return SIRA_TOO_LARGE;
    env->tensor_count++;
    return SIRA_OK;
}

static bool same_name(const struct sira_tensor *a, const struct sira_tensor *b)
{
    return a->name.len == b->name.len && (a->name.len == 0 || !memcmp(a->name.data, b->name.data, a->name.len));
}

/* The second tensor of a name, NULL if all names differ. A table of hashes past 8 tensors; names chosen to
 * collide cost at most SIRA_TENSORS_MAX squared comparisons. */
static const struct sira_tensor *find_duplicate(const struct sira_env *env)
{
    enum { SLOTS = 2 * SIRA_TENSORS_MAX, QUADRATIC_MAX = 8 };
    if (env->tensor_count <= QUADRATIC_MAX) {
        for (uint32_t i = 1; i < env->tensor_count; i++)
            for (uint32_t j = 0; j < i; j++)
                if (same_name(&env->tensors[i], &env->tensors[j])) return &env->tensors[i];
        return NULL;
    }
    uint16_t slots[SLOTS] = {0}; /* 1 + index; 0: free */
    for (uint32_t i = 0; i < env->tensor_count; i++) {
        const struct sira_slice name = env->tensors[i].name;
        uint32_t hash = 2166136261u; /* FNV-1a */
        for (size_t at = 0; at < name.len; at++) hash = (hash ^ name.data[at]) * 16777619u;
        uint32_t slot = (hash ^ hash >> 16) % SLOTS;
        for (; slots[slot]; slot = (slot + 1) % SLOTS)
            if (same_name(&env->tensors[slots[slot] - 1], &env->tensors[i])) return &env->tensors[i];
        slots[slot] = (uint16_t)(i + 1);
    }
    return NULL;
}

/* ---- the message ----------------------------------------------------------------------------------------- */

/* What only the whole message shows. *fault is set, or left NULL for the start. */
static enum sira_status check_whole(const struct sira_env *env, uint32_t flags, const uint8_t **fault)
{
    const uint64_t inline_bytes = flags & SIRA_ENV_HEAD ? 0 : env->payload_bytes;
    const uint64_t envelope_bytes_max = SIRA_ENVELOPE_BYTES_MAX - (flags & SIRA_ENV_CLIENT ? SIRA_STAMP_BYTES_MAX : 0);
    if (env->raw.len - inline_bytes > envelope_bytes_max) return SIRA_TOO_LARGE;
    if (flags & SIRA_ENV_CLIENT) {
        if (env->id.len != SIRA_ID_BYTES) return SIRA_BAD_ID;
        if (env->topic.len == 0) return SIRA_BAD_TOPIC;
    }
    const struct sira_tensor *duplicate = find_duplicate(env);
    if (!duplicate) return SIRA_OK;
    *fault = duplicate->name.data;
    return SIRA_DUPLICATE_NAME;
}

/* Fields by number; a helper per shape keeps this the one place that knows the numbers. */
static inline enum sira_status take_field(struct pb_reader *r, uint32_t tag, uint32_t flags, uint64_t bytes_max,
                                          struct sira_env *env, const uint8_t **fault)
{
    const bool client = flags & SIRA_ENV_CLIENT;
    enum sira_status status;
    uint64_t value;
    switch (tag) {
    case TAG(1, PB_LEN): return take_id(r, &env->id);
    case TAG(2, PB_LEN): return take_topic(r, client, &env->topic);
    case TAG(3, PB_VARINT):
        if (!pb_varint(r, &value)) return SIRA_MALFORMED;
        if (value >= SIRA_PRIORITIES) return SIRA_BAD_PRIORITY;
        env->priority = (uint32_t)value;
        return SIRA_OK;
    case TAG(4, PB_FIXED64):
        env->ttl_at = (size_t)(r->at - env->raw.data);
        return pb_fixed64(r, &env->ttl_ns) ? SIRA_OK : SIRA_MALFORMED;
    case TAG(5, PB_LEN): return take_topic(r, client, &env->reply_to);
    case TAG(6, PB_LEN): return take_text(r, &env->content_type);
    case TAG(7, PB_FIXED64): return pb_fixed64(r, &env->time_ns) ? SIRA_OK : SIRA_MALFORMED;
    case TAG(8, PB_LEN): return take_id(r, &env->correlation_id);
    case TAG(9, PB_LEN): return take_id(r, &env->causation_id);
    case TAG(10, PB_LEN): return take_text(r, &env->type);
    case TAG(11, PB_LEN): return take_text(r, &env->schema);
    case TAG(12, PB_LEN): return take_text(r, &env->source);
    case TAG(13, PB_LEN): return take_id(r, &env->intent_id);
    case TAG(14, PB_LEN): return take_tensor(r, env, flags & SIRA_ENV_HEAD, bytes_max, fault);
    case TAG(16, PB_LEN): return take_text(r, &env->traceparent);
    case TAG(17, PB_LEN): return take_header(r, env, fault);
    case TAG(18, PB_LEN): return take_text(r, &env->dedupe_key);
    case TAG(19, PB_LEN): return take_text(r, &env->key);
    case TAG(20, PB_LEN): return take_id(r, &env->stream_id);
    case TAG(21, PB_VARINT): return take_u64(r, &env->stream_seq);
    case TAG(22, PB_VARINT):
        if (!pb_varint(r, &value)) return SIRA_MALFORMED;
        env->stream_end = value != 0;
        return SIRA_OK;
    case TAG(23, PB_VARINT): return take_u32(r, &env->reply_kind);
    case TAG(24, PB_LEN): return take_submessage(r, ERROR_FIELDS, sizeof ERROR_FIELDS, &env->error, fault);
    case TAG(25, PB_LEN): return take_submessage(r, EXPECT_FIELDS, sizeof EXPECT_FIELDS, &env->expect, fault);
    case TAG(26, PB_LEN): return take_submessage(r, FENCE_FIELDS, sizeof FENCE_FIELDS, &env->fence, fault);
    case TAG(27, PB_LEN): return take_submessage(r, SEALED_FIELDS, sizeof SEALED_FIELDS, &env->sealed, fault);
    /* Some writers put out defaults: empty is as good as absent, but each occurrence counts. */
    case TAG(28, PB_LEN):
        status = take_text(r, &env->principal);
        return !status && client && env->principal.len ? SIRA_FORGED : status;
    case TAG(29, PB_LEN):
        status = take_text(r, &env->tenant);
        return !status && client && env->tenant.len ? SIRA_FORGED : status;
    case TAG(30, PB_VARINT):
        status = take_u32(r, &env->attempt);
        return !status && client && env->attempt ? SIRA_FORGED : status;
    case TAG(31, PB_VARINT):
        env->has_offset = true;
        status = take_u64(r, &env->offset);
        return !status && client ? SIRA_FORGED : status;
    default:
        if (tag >> 3 <= 31 && tag >> 3 != 15) return SIRA_MALFORMED; /* a known number, another wire type */
        return pb_skip(r, tag & 7) ? SIRA_OK : SIRA_MALFORMED;
    }
}

/* Read the fields of [r->at, r->end) into `env`, whose bytes begin at `data`. */
static inline enum sira_status take_fields(struct pb_reader *r, const uint8_t *data, uint32_t flags,
                                           uint64_t message_bytes_max, struct sira_env *env, size_t *error_at)
{
    const uint8_t *fault = NULL; /* set by what looks deeper than one field */
    while (r->at != r->end) {
        const uint8_t *start = r->at;
        uint32_t tag;
        enum sira_status status =
            pb_tag(r, &tag) ? take_field(r, tag, flags, message_bytes_max, env, &fault) : SIRA_MALFORMED;
        if (status == SIRA_OK) {
            fault = NULL;
            continue;
        }
        if (status == SIRA_MALFORMED) status = sira_pb_fault(start, r->end);
        *error_at = (size_t)((fault ? fault : start) - data);
        return status;
    }
    return SIRA_OK;
}

enum sira_status sira_env_parse(const uint8_t *data, size_t len, uint32_t flags, uint64_t message_bytes_max,
                                struct sira_env *env, size_t *error_at)
{
    if (len == 0) data = (const uint8_t *)""; /* no arithmetic on NULL */
    memset(env, 0, offsetof(struct sira_env, headers));
    env->raw = (struct sira_slice){data, len};
    env->tensor_count = 0;
    env->dim_count = 0;
    env->payload_bytes = 0;
    struct pb_reader r = {data, data + len};
    enum sira_status status = take_fields(&r, data, flags, message_bytes_max, env, error_at);
    if (status) return status;
    const uint8_t *fault = NULL;
    status = check_whole(env, flags, &fault);
    if (status) *error_at = fault ? (size_t)(fault - data) : 0;
    return status;
}

enum sira_status sira_env_parse_stamped(const uint8_t *data, size_t len, size_t stamp_len, uint32_t flags,
                                        uint64_t message_bytes_max, struct sira_env *env, size_t *error_at)
{
    const enum sira_status status = sira_env_parse(data, len, flags | SIRA_ENV_CLIENT, message_bytes_max, env, error_at);
    if (status || !stamp_len) return status;
    env->raw.len = len + stamp_len;
    struct pb_reader r = {data + len, data + len + stamp_len};
    return take_fields(&r, data, flags & ~(uint32_t)SIRA_ENV_CLIENT, message_bytes_max, env, error_at);
}
