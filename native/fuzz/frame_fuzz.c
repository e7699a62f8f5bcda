/* libFuzzer: any bytes as a Frame, a Message, a head and each control message.
 * Seeds: corpus/frame, by make_corpus.py. Run: make fuzz. */
#include "invariants.h"

static const uint64_t BYTES_MAX = UINT64_C(16) << 30;

static void must_hold_of_tensors(const struct sira_env *env, bool head)
{
    uint64_t sum = 0;
    MUST(env->tensor_count <= SIRA_TENSORS_MAX && env->dim_count <= SIRA_DIMS_MAX);
    for (uint32_t i = 0; i < env->tensor_count; i++) {
        const struct sira_tensor *tensor = &env->tensors[i];
        MUST(sira_dtype_name(tensor->dtype) != NULL);
        MUST(tensor->ndim <= SIRA_NDIM_MAX && tensor->shape_index <= env->dim_count);
        MUST(tensor->ndim <= env->dim_count - tensor->shape_index);
        MUST(tensor->name.len <= SIRA_NAME_BYTES_MAX);
        must_lie_in(tensor->name, env->raw.data, env->raw.len);
        MUST(sira_utf8_check(tensor->name.data, tensor->name.len));
        uint64_t bytes;
        MUST(sira_tensor_bytes(&env->dims[tensor->shape_index], tensor->ndim, tensor->dtype, INT64_MAX, &bytes));
        MUST(bytes == tensor->bytes);
        sum += bytes;
        if (head || bytes == 0)
            MUST(tensor->data == NULL);
        else
            must_lie_in((struct sira_slice){tensor->data, bytes}, env->raw.data, env->raw.len);
        for (uint32_t j = 0; j < i; j++) {
            const struct sira_slice other = env->tensors[j].name;
            MUST(other.len != tensor->name.len || (other.len && memcmp(other.data, tensor->name.data, other.len)));
        }
    }
    MUST(sum == env->payload_bytes && sum <= BYTES_MAX);
}

static void must_hold(const struct sira_env *env, uint32_t flags)
{
    const struct sira_slice texts[] = {env->topic, env->reply_to, env->content_type, env->type, env->schema, env->source,
                                       env->traceparent, env->dedupe_key, env->key, env->principal, env->tenant};
    const struct sira_slice ids[] = {env->id, env->correlation_id, env->causation_id, env->intent_id, env->stream_id};
    const struct sira_slice others[] = {env->error, env->expect, env->fence, env->sealed};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        must_lie_in(texts[i], env->raw.data, env->raw.len);
        MUST(sira_utf8_check(texts[i].data, texts[i].len));
    }
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        must_lie_in(ids[i], env->raw.data, env->raw.len);
        MUST(ids[i].len == 0 || ids[i].len == SIRA_ID_BYTES);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) must_lie_in(others[i], env->raw.data, env->raw.len);
    MUST(env->header_count <= SIRA_HEADERS_MAX);
    for (uint32_t i = 0; i < env->header_count; i++) {
        must_lie_in(env->headers[i].key, env->raw.data, env->raw.len);
        must_lie_in(env->headers[i].value, env->raw.data, env->raw.len);
        MUST(sira_utf8_check(env->headers[i].value.data, env->headers[i].value.len));
    }
    MUST(env->priority < SIRA_PRIORITIES);
    if (env->ttl_at) {
        MUST(env->raw.len >= 8 && env->ttl_at <= env->raw.len - 8);
        MUST(!memcmp(env->raw.data + env->ttl_at, &env->ttl_ns, 8));
    }
    must_hold_of_tensors(env, flags & SIRA_ENV_HEAD);
    MUST(env->raw.len - (flags & SIRA_ENV_HEAD ? 0 : env->payload_bytes) <= SIRA_ENVELOPE_BYTES_MAX);
    if (flags & SIRA_ENV_CLIENT) {
        MUST(env->id.len == SIRA_ID_BYTES && sira_topic_check(env->topic.data, env->topic.len) == SIRA_OK);
        MUST(!env->principal.len && !env->tenant.len && !env->attempt && !env->has_offset);
    }
}

/* Hops rewrite ttl_ns in place and the node appends its stamp: the message must stay one. */
static void must_survive_a_hop(const struct sira_env *env, uint32_t flags)
{
    static struct sira_env again;
    uint8_t *copy = malloc(env->raw.len + 64);
    if (!copy) return;
    memcpy(copy, env->raw.data, env->raw.len);
    const uint64_t ttl_ns = 0x0123456789abcdef;
    if (env->ttl_at) memcpy(copy + env->ttl_at, &ttl_ns, 8);
    uint8_t *end = pb_put_bytes(copy + env->raw.len, 28, "p", 1);
    end = pb_put_uint(pb_put_bytes(end, 29, "t", 1), 30, 2);
    size_t error_at;
    const enum sira_status status = sira_env_parse(copy, (size_t)(end - copy), flags & ~SIRA_ENV_CLIENT, BYTES_MAX, &again, &error_at);
    if (flags & SIRA_ENV_CLIENT || status != SIRA_TOO_LARGE) { /* else the stamp may be what was too much */
        MUST(status == SIRA_OK);
        MUST(again.principal.len == 1 && again.tenant.len == 1 && again.attempt == 2);
        MUST(again.ttl_at == env->ttl_at && again.ttl_ns == (env->ttl_at ? ttl_ns : 0));
        MUST(again.tensor_count == env->tensor_count && again.payload_bytes == env->payload_bytes);
    }
    free(copy);
}

static void try_message(struct sira_slice raw)
{
    static struct sira_env env;
    enum sira_status by_flags[4];
    for (uint32_t flags = 0; flags < 4; flags++) {
        size_t error_at = SIZE_MAX;
        by_flags[flags] = sira_env_parse(raw.data, raw.len, flags, BYTES_MAX, &env, &error_at);
        MUST((unsigned)by_flags[flags] < SIRA_STATUS_COUNT);
        if (by_flags[flags]) {
            MUST(error_at <= raw.len);
            continue;
        }
        must_hold(&env, flags);
        must_survive_a_hop(&env, flags);
    }
    MUST(by_flags[SIRA_ENV_CLIENT] || !by_flags[0]); /* what a client may send, anyone may */
    MUST(by_flags[SIRA_ENV_CLIENT | SIRA_ENV_HEAD] || !by_flags[SIRA_ENV_HEAD]);
}

static void try_control(struct sira_slice body)
{
    struct sira_chunk chunk;
    struct sira_abort broken;
    struct sira_credit credit;
    struct sira_receipt receipt;
    struct sira_ask ask;
    if (!sira_abort_parse(body, &broken)) {
        must_lie_in(broken.error, body.data, body.len);
        MUST(broken.id.len == SIRA_ID_BYTES);
    }
    if (!sira_chunk_parse(body, &chunk)) {
        must_lie_in(chunk.id, body.data, body.len);
        must_lie_in(chunk.data, body.data, body.len);
        MUST(chunk.id.len == SIRA_ID_BYTES);
    }
    if (!sira_ask_parse(body, &ask)) {
        must_lie_in(ask.topic, body.data, body.len);
        MUST(sira_topic_check(ask.topic.data, ask.topic.len) == SIRA_OK);
    }
    if (!sira_credit_parse(body, &credit)) {
        must_lie_in(credit.id, body.data, body.len);
        MUST(credit.id.len == 0 || credit.id.len == SIRA_ID_BYTES);
    }
    if (!sira_receipt_parse(body, &receipt)) {
        must_lie_in(receipt.id, body.data, body.len);
        must_lie_in(receipt.error, body.data, body.len);
        MUST(receipt.has_offset || receipt.offset == 0);
    }
}

static void must_hold_of_item(const struct sira_item *item, const uint8_t *frame, size_t len)
{
    must_lie_in(item->raw, frame, len);
    must_lie_in(item->body, item->raw.data, item->raw.len);
    must_lie_in(item->subs, item->raw.data, item->raw.len);
    MUST(item->kind <= SIRA_ITEM_CELL_END && (item->kind != SIRA_ITEM_NONE || item->body.data == NULL));
    MUST(item->has_wait || item->wait_ms == 0);
    size_t at = 0, count = 0;
    uint32_t sub, first = 0;
    while (sira_subs_next(&item->subs, &at, &sub))
        if (count++ == 0) first = sub;
    MUST(at == item->subs.len && first == item->sub_first && count <= item->subs.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sira_item item;
    size_t at = 0;
    for (bool done = false; !done;) {
        const size_t before = at;
        const enum sira_status status = sira_frame_next(data, len, &at, &item, &done);
        MUST(at <= len && (unsigned)status < SIRA_STATUS_COUNT);
        if (status) break;
        if (done) {
            MUST(at == len);
            break;
        }
        MUST(at > before);
        must_hold_of_item(&item, data, len);
        if (item.kind == SIRA_ITEM_MESSAGE || item.kind == SIRA_ITEM_HEAD)
            try_message(item.body);
        else
            try_control(item.body);
    }
    try_message((struct sira_slice){data, len});
    try_control((struct sira_slice){data, len});
    return 0;
}
