/* Messages from bytes: what is read, what is refused, and with which status. */
#include "build.h"

static struct sira_env env;
static size_t error_at;
static const uint8_t ID[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const uint8_t ZEROS[4096];

static bool is(struct sira_slice slice, const char *text)
{
    return slice.len == strlen(text) && !memcmp(slice.data, text, slice.len);
}

/* ---- a message with every field, in pieces ---------------------------------------------------------------- */

enum { PIECES_MAX = 48 };
struct pieces {
    struct buf *piece[PIECES_MAX];
    uint32_t count;
};

static struct buf *next_piece(struct pieces *pieces)
{
    CHECK(pieces->count < PIECES_MAX);
    return pieces->piece[pieces->count++] = buf_new();
}

static void fill(struct pieces *p)
{
    static const uint32_t texts[] = {2, 5, 6, 10, 11, 12, 16, 18, 19, 28, 29};
    static const uint32_t ids[] = {1, 8, 9, 13, 20};
    p->count = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[16];
        snprintf(text, sizeof text, "text.%u", texts[i]);
        put_text(next_piece(p), texts[i], text);
    }
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        uint8_t id[16];
        memset(id, (int)ids[i], sizeof id);
        put_bytes(next_piece(p), ids[i], id, 16);
    }
    put_uint(next_piece(p), 3, 7);
    put_fixed64(next_piece(p), 4, 4444);
    put_fixed64(next_piece(p), 7, 7777);
    put_uint(next_piece(p), 21, 1ull << 40);
    put_uint(next_piece(p), 22, 1);
    put_uint(next_piece(p), 23, 2);
    put_uint(next_piece(p), 30, 30);
    put_uint(next_piece(p), 31, 0);
    struct buf *body = buf_new();
    put_text(body, 1, "QUEUE_FULL");
    put_buf(next_piece(p), 24, body);
    body->len = 0;
    put_uint(body, 1, 5);
    put_buf(next_piece(p), 25, body);
    body->len = 0;
    put_text(body, 1, "lease");
    put_uint(body, 2, 9);
    put_buf(next_piece(p), 26, body);
    body->len = 0;
    put_text(body, 1, "aes");
    put_buf(next_piece(p), 27, body);
    body->len = 0;
    put_text(body, 1, "k");
    put_text(body, 2, "v");
    put_buf(next_piece(p), 17, body);
    free(body);
    put_tensor(next_piece(p), "x", SIRA_DT_F32, (uint64_t[]){2, 3}, 2, 0, ZEROS, 24);
    put_uint(next_piece(p), 15, 1);             /* unknown, of each wire type */
    put_fixed64(next_piece(p), 40, 1);
    put_bytes(next_piece(p), 1000, "abc", 3);
    put_raw(next_piece(p), "\xcd\x02" "1234", 6); /* field 41, fixed32 */
}

static void join(struct buf *whole, const struct pieces *pieces, const uint32_t *order, size_t *ends)
{
    whole->len = 0;
    for (uint32_t i = 0; i < pieces->count; i++) {
        const struct buf *piece = pieces->piece[order ? order[i] : i];
        put_raw(whole, piece->bytes, piece->len);
        if (ends) ends[i] = whole->len;
    }
}

static void check_filled(const struct buf *whole)
{
    const struct sira_slice ids[] = {env.id, env.correlation_id, env.causation_id, env.intent_id, env.stream_id};
    static const uint8_t values[] = {1, 8, 9, 13, 20};
    for (size_t i = 0; i < 5; i++) CHECK(ids[i].len == 16 && ids[i].data[0] == values[i] && ids[i].data[15] == values[i]);
    CHECK(is(env.topic, "text.2") && is(env.reply_to, "text.5") && is(env.content_type, "text.6"));
    CHECK(is(env.type, "text.10") && is(env.schema, "text.11") && is(env.source, "text.12"));
    CHECK(is(env.traceparent, "text.16") && is(env.dedupe_key, "text.18") && is(env.key, "text.19"));
    CHECK(is(env.principal, "text.28") && is(env.tenant, "text.29"));
    CHECK(env.priority == 7 && env.ttl_ns == 4444 && env.time_ns == 7777 && env.stream_seq == 1ull << 40);
    CHECK(env.stream_end && env.reply_kind == 2 && env.attempt == 30 && env.has_offset && env.offset == 0);
    CHECK(env.error.len == 12 && env.expect.len == 2 && env.fence.len == 9 && env.sealed.len == 5);
    CHECK(env.header_count == 1 && is(env.headers[0].key, "k") && is(env.headers[0].value, "v"));
    CHECK(env.raw.data == whole->bytes && env.raw.len == whole->len);
    uint64_t ttl_ns;
    memcpy(&ttl_ns, env.raw.data + env.ttl_at, 8);
    CHECK_EQUAL(ttl_ns, 4444);
    CHECK(env.tensor_count == 1 && is(env.tensors[0].name, "x") && env.tensors[0].dtype == SIRA_DT_F32);
    CHECK(env.tensors[0].ndim == 2 && env.dims[env.tensors[0].shape_index] == 2 && env.dims[env.tensors[0].shape_index + 1] == 3);
    CHECK(env.tensors[0].bytes == 24 && env.payload_bytes == 24 && !memcmp(env.tensors[0].data, ZEROS, 24));
}

static void test_every_field_is_read_in_any_order(const struct pieces *pieces)
{
    struct buf *whole = buf_new();
    uint32_t order[PIECES_MAX], seed = 1;
    for (uint32_t i = 0; i < pieces->count; i++) order[i] = pieces->count - 1 - i;
    for (uint32_t round = 0; round < 200; round++) {
        join(whole, pieces, round ? order : NULL, NULL);
        memset(&env, 0xa5, sizeof env); /* nothing may be left from a message before */
        CHECK_EQUAL(sira_env_parse(whole->bytes, whole->len, 0, 1 << 20, &env, &error_at), SIRA_OK);
        check_filled(whole);
        for (uint32_t i = pieces->count - 1; round && i; i--) {
            seed = seed * 1664525 + 1013904223;
            const uint32_t j = (seed >> 8) % (i + 1), swap = order[i];
            order[i] = order[j], order[j] = swap;
        }
    }
    free(whole);
}

static void test_every_truncation_is_named(const struct pieces *pieces)
{
    struct buf *whole = buf_new();
    size_t ends[PIECES_MAX];
    join(whole, pieces, NULL, ends);
    for (size_t cut = 0, piece = 0; cut <= whole->len; cut++) {
        const enum sira_status status = parse_exact(whole->bytes, cut, 0, 1 << 20, &env, &error_at);
        const bool boundary = cut == 0 || cut == ends[piece];
        CHECK_EQUAL(status, boundary ? SIRA_OK : SIRA_TRUNCATED);
        if (!boundary) CHECK_EQUAL(error_at, piece ? ends[piece - 1] : 0); /* at the field that is cut */
        if (cut == ends[piece]) piece++;
    }
    /* The same one level down: the outer length is right, the tensor inside is cut. */
    const struct buf *tensor = pieces->piece[pieces->count - 5];
    CHECK_EQUAL(tensor->bytes[0], 14 << 3 | 2);
    struct buf *cut = buf_new();
    for (size_t len = 0; len < tensor->len - 2; len++) {
        cut->len = 0;
        put_bytes(cut, 14, tensor->bytes + 2, len);
        const enum sira_status status = status_of(cut, 0);
        if (len == 0 || len == 3) CHECK_EQUAL(status, SIRA_BAD_DTYPE);
        else if (len == 5 || len == 9) CHECK_EQUAL(status, SIRA_BAD_SHAPE); /* 0-d, or a shape with no data */
        else CHECK_EQUAL(status, SIRA_TRUNCATED);
    }
    free(cut);
    free(whole);
}

static void test_last_of_a_repeated_scalar_counts(void)
{
    struct buf *b = buf_new();
    put_text(b, 2, "first");
    put_text(b, 2, "second");
    put_fixed64(b, 4, 1);
    put_fixed64(b, 4, 2);
    put_uint(b, 3, 1);
    put_uint(b, 3, 0);
    put_uint(b, 30, (1ull << 32) + 5); /* uint32: the low 32 bits, as protobuf has it */
    CHECK_EQUAL(sira_env_parse(b->bytes, b->len, 0, 100, &env, &error_at), SIRA_OK);
    CHECK(is(env.topic, "second") && env.ttl_ns == 2 && env.priority == 0 && env.attempt == 5);
    CHECK_EQUAL(env.raw.data[env.ttl_at], 2);
    free(b);
}

/* ---- limits, and what only the node may set ----------------------------------------------------------------- */

static void test_limits_of_one_message(void)
{
    struct buf *b = buf_new(), *pair = buf_new();
    for (uint32_t i = 0; i < SIRA_HEADERS_MAX + 1; i++) {
        if (i == SIRA_HEADERS_MAX) CHECK_EQUAL(status_of(b, 0), SIRA_OK);
        put_buf(b, 17, pair);
    }
    CHECK_EQUAL(status_of(b, 0), SIRA_TOO_MANY);
    b->len = 0;
    char *text = calloc(1, SIRA_ENVELOPE_BYTES_MAX);
    CHECK(text);
    memset(text, 'a', SIRA_ENVELOPE_BYTES_MAX - 1);
    put_bytes(b, 6, text, SIRA_ENVELOPE_BYTES_MAX - 4);
    CHECK_EQUAL(b->len, SIRA_ENVELOPE_BYTES_MAX);
    CHECK_EQUAL(status_of(b, 0), SIRA_OK);
    put_tensor(b, "", SIRA_DT_BYTES, NULL, 0, 0, text, 1000); /* what frames the data counts */
    CHECK_EQUAL(status_of(b, 0), SIRA_TOO_LARGE);
    b->len = 0;
    put_bytes(b, 6, text, SIRA_ENVELOPE_BYTES_MAX - 3);
    CHECK_EQUAL(status_of(b, 0), SIRA_TOO_LARGE);
    b->len = 0; /* the data itself does not */
    put_tensor(b, "x", SIRA_DT_BYTES, NULL, 0, 0, text, SIRA_ENVELOPE_BYTES_MAX - 1);
    put_tensor(b, "y", SIRA_DT_BYTES, NULL, 0, 0, text, SIRA_ENVELOPE_BYTES_MAX - 1);
    CHECK_EQUAL(status_of(b, 0), SIRA_OK);
    b->len = 0;
    put_uint(b, 3, 8);
    CHECK_EQUAL(status_of(b, 0), SIRA_BAD_PRIORITY);
    static const uint32_t ids[] = {1, 8, 9, 13, 20};
    for (size_t i = 0; i < 5; i++)
        for (size_t len = 0; len < 40; len++) {
            b->len = 0;
            put_bytes(b, ids[i], ZEROS, len);
            CHECK_EQUAL(status_of(b, 0), len == 0 || len == 16 ? SIRA_OK : SIRA_BAD_ID);
        }
    free(text);
    free(pair);
    free(b);
}

static void start_client(struct buf *b)
{
    b->len = 0;
    put_bytes(b, 1, ID, 16);
    put_text(b, 2, "cam.front");
}

static void test_a_client_cannot_set_what_the_node_sets(void)
{
    struct buf *b = buf_new();
    start_client(b);
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_OK);
    for (uint32_t field = 28; field <= 31; field++) {
        start_client(b);
        if (field <= 29) put_text(b, field, "root"); else put_uint(b, field, 1);
        CHECK_EQUAL(status_of(b, 0), SIRA_OK);
        CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_FORGED);
        if (field <= 29) put_text(b, field, ""); else put_uint(b, field, 0); /* an empty one after it hides nothing */
        CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_FORGED);
        start_client(b);
        if (field <= 29) put_text(b, field, ""); else put_uint(b, field, 0);
        CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), field == 31 ? SIRA_FORGED : SIRA_OK);
    }
    start_client(b);
    put_text(b, 2, "cam.*");
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_BAD_TOPIC);
    put_text(b, 2, "cam.front"); /* the last counts, but another parser would still see a topic that is none */
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_BAD_TOPIC);
    start_client(b);
    put_text(b, 5, "_inbox.1.");
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_BAD_TOPIC);
    b->len = 0;
    put_text(b, 2, "cam.front");
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_BAD_ID);
    b->len = 0;
    put_bytes(b, 1, ID, 16);
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_BAD_TOPIC);
    CHECK_EQUAL(sira_env_parse(NULL, 0, SIRA_ENV_CLIENT, 100, &env, &error_at), SIRA_BAD_ID);
    CHECK_EQUAL(sira_env_parse(NULL, 0, 0, 100, &env, &error_at), SIRA_OK);
    free(b);
}

static void test_a_message_that_a_client_may_send_has_room_for_the_stamp(void)
{
    struct buf *b = buf_new();
    char *text = malloc(SIRA_ENVELOPE_BYTES_MAX);
    CHECK(text);
    memset(text, 'a', SIRA_ENVELOPE_BYTES_MAX);
    start_client(b);
    put_bytes(b, 6, text, SIRA_ENVELOPE_BYTES_MAX - SIRA_STAMP_BYTES_MAX - b->len - 4);
    CHECK_EQUAL(b->len, SIRA_ENVELOPE_BYTES_MAX - SIRA_STAMP_BYTES_MAX);
    CHECK_EQUAL(status_of(b, SIRA_ENV_CLIENT), SIRA_OK);
    struct buf *longer = buf_new();
    *longer = *b;
    put_uint(longer, 3, 1);
    CHECK_EQUAL(status_of(longer, SIRA_ENV_CLIENT), SIRA_TOO_LARGE);
    put_bytes(b, 28, text, SIRA_STAMP_BYTES_MAX - 4); /* what a node appends at most */
    CHECK_EQUAL(b->len, SIRA_ENVELOPE_BYTES_MAX);
    CHECK_EQUAL(status_of(b, 0), SIRA_OK);
    free(longer);
    free(text);
    free(b);
}

static enum sira_status stamped(const struct buf *b, size_t stamp_len)
{
    return sira_env_parse_stamped(b->bytes, b->len - stamp_len, stamp_len, 0, 100, &env, &error_at);
}

static void test_what_follows_a_clients_bytes_is_the_nodes(void)
{
    struct buf *b = buf_new();
    start_client(b);
    put_text(b, 12, "gpu-1");
    const size_t own = b->len;
    CHECK_EQUAL(stamped(b, 0), SIRA_OK);
    CHECK_EQUAL(env.raw.len, own);
    put_text(b, 28, "alice");
    put_text(b, 29, "lab");
    CHECK_EQUAL(stamped(b, b->len - own), SIRA_OK);
    CHECK(is(env.principal, "alice") && is(env.tenant, "lab") && is(env.source, "gpu-1"));
    CHECK_EQUAL(env.raw.len, b->len);
    const size_t first = b->len; /* now the client has written them */
    put_text(b, 28, "root");
    CHECK_EQUAL(stamped(b, b->len - first), SIRA_FORGED);
    CHECK_EQUAL(stamped(b, b->len - own + 1), SIRA_TRUNCATED); /* the border goes through a field */
    b->len = own;
    put_bytes(b, 28, "\xff", 1);
    CHECK_EQUAL(stamped(b, b->len - own), SIRA_BAD_TEXT);
    CHECK_EQUAL(error_at, own);
    free(b);
}

static void test_every_status_has_a_code_and_words(void)
{
    for (int i = 0; i < SIRA_STATUS_COUNT; i++) CHECK(strlen(sira_status_code(i)) > 1 && strlen(sira_status_text(i)) > 4);
    CHECK(!strcmp(sira_status_code(SIRA_FORGED), "DENIED"));
}

int main(void)
{
    struct pieces pieces;
    fill(&pieces);
    test_every_field_is_read_in_any_order(&pieces);
    test_every_truncation_is_named(&pieces);
    test_last_of_a_repeated_scalar_counts();
    test_limits_of_one_message();
    test_a_client_cannot_set_what_the_node_sets();
    test_a_message_that_a_client_may_send_has_room_for_the_stamp();
    test_what_follows_a_clients_bytes_is_the_nodes();
    test_every_status_has_a_code_and_words();
    for (uint32_t i = 0; i < pieces.count; i++) free(pieces.piece[i]);
    return 0;
}
