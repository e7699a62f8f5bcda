/* Bytes that are no message: each is refused by its own status, and the place is told. */
#include "build.h"

static struct sira_env env;
static size_t error_at;
static const uint8_t ZEROS[4096];

static void test_lengths_are_held_against_what_is_there(void)
{
    static const uint64_t lens[] = {5, 1000, 1u << 31, 1ull << 32, 1ull << 63, UINT64_MAX};
    static const uint32_t fields[] = {1, 2, 14, 17, 24, 1000};
    struct buf *b = buf_new(), *inner = buf_new();
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
        for (size_t j = 0; j < sizeof fields / sizeof *fields; j++) {
            uint8_t *p = pb_put_varint(pb_put_key(b->bytes, fields[j], PB_LEN), lens[i]);
            b->len = (size_t)(p - b->bytes);
            put_raw(b, "abcd", 4);
            CHECK_EQUAL(status_of(b, 0), SIRA_TRUNCATED);
        }
    static const uint32_t inner_fields[] = {1, 3, 15, 99};
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
        for (size_t j = 0; j < 4; j++) {
            uint8_t *p = pb_put_varint(pb_put_key(inner->bytes, inner_fields[j], PB_LEN), lens[i]);
            inner->len = (size_t)(p - inner->bytes);
            put_raw(inner, "\1\1\1\1", 4);
            b->len = 0;
            put_buf(b, 14, inner);
            put_bytes(b, 6, ZEROS, 2000); /* bytes enough behind the tensor, but not its own */
            CHECK_EQUAL(status_of(b, 0), SIRA_TRUNCATED);
        }
    free(b);
    free(inner);
}

static void test_what_no_parser_reads_is_malformed(void)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11},     /* a length past 64 bits */
        {"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* of 11 bytes */
        {"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11},     /* 10 bytes, and none of them the last */
        {"\x12\x81\x80\x80\x80\x80\x00z", 8},                     /* padded past 5 bytes */
        {"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11},     /* a number past 64 bits */
        {"\x92\x80\x80\x80\x80\x00\x00", 7},                      /* a key of 6 bytes */
        {"\x80\x80\x80\x80\x10\x00", 6},                          /* a field number past 2^29 - 1 */
        {"\x00\x00", 2},                                          /* field 0 */
        {"\x13\x14", 2}, {"\xfb\x7f\xfc\x7f", 4},                 /* groups */
        {"\x16\x00", 2}, {"\x17\x00", 2},                         /* wire types that do not exist */
        {"\x10\x01", 2}, {"\x1a\x00", 2}, {"\x20\x01", 2},        /* topic, priority, ttl of another wire type */
        {"\x70\x01", 2}, {"\x8a\x01\x02\x08\x01", 5},             /* tensors; a header's key */
        {"\x72\x02\x08\x01", 4}, {"\x72\x03\x12\x01z", 5},        /* a tensor's name; its dtype */
        {"\xc2\x01\x02\x08\x01", 5},                              /* error.code */
        {"\x72\x0d\x1a\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 15}, /* a dimension past 64 bits */
    };
    struct buf *b = buf_new();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b->len = 0;
        put_raw(b, bad[i].bytes, bad[i].len);
        const enum sira_status status = status_of(b, 0);
        if (status != SIRA_MALFORMED) fprintf(stderr, "case %zu\n", i);
        CHECK_EQUAL(status, SIRA_MALFORMED);
    }
    free(b);
}

static void test_what_is_carried_unread_is_checked_all_the_same(void)
{
    struct buf *b = buf_new(), *error = buf_new(), *pair = buf_new();
    static const struct {
        const char *value;
        enum sira_status status;
    } values[] = {{"good", SIRA_OK}, {"\xff", SIRA_BAD_TEXT}};
    for (size_t i = 0; i < 2; i++) { /* error.details */
        pair->len = error->len = b->len = 0;
        put_text(pair, 1, "key");
        put_text(pair, 2, values[i].value);
        put_buf(error, 3, pair);
        put_buf(b, 24, error);
        CHECK_EQUAL(status_of(b, 0), values[i].status);
    }
    put_uint(error, 50, 1); /* of a later version: skipped, if it is protobuf at all */
    b->len = 0;
    put_buf(b, 24, error);
    CHECK_EQUAL(status_of(b, 0), SIRA_BAD_TEXT);
    error->len = 0;
    put_uint(error, 50, 1);
    b->len = 0;
    put_buf(b, 24, error);
    put_raw(error, "\x93\x03", 2); /* a group */
    CHECK_EQUAL(status_of(b, 0), SIRA_OK);
    b->len = 0;
    put_buf(b, 24, error);
    CHECK_EQUAL(status_of(b, 0), SIRA_MALFORMED);
    b->len = 0;
    put_bytes(b, 17, "\x80", 1); /* half a key */
    CHECK_EQUAL(status_of(b, 0), SIRA_TRUNCATED);
    error->len = 0;
    put_buf(error, 3, pair);
    error->len--;
    error->bytes[1]--; /* the map entry ends before its value does */
    b->len = 0;
    put_buf(b, 24, error);
    CHECK_EQUAL(status_of(b, 0), SIRA_TRUNCATED);
    free(pair);
    free(error);
    free(b);
}

static void test_the_place_of_a_fault_is_told(void)
{
    struct buf *b = buf_new(), *tensor = buf_new();
    put_text(b, 6, "text");
    put_bytes(tensor, 3, "\x01\x02", 2);
    const size_t name_at = tensor->len;
    put_text(tensor, 1, "\xff");
    put_buf(b, 14, tensor);
    CHECK_EQUAL(parse_exact(b->bytes, b->len, 0, 100, &env, &error_at), SIRA_BAD_TEXT);
    CHECK_EQUAL(error_at, 6 + 2 + name_at);
    b->len = 0;
    put_text(b, 6, "text");
    put_text(b, 10, "\xff");
    CHECK_EQUAL(parse_exact(b->bytes, b->len, 0, 100, &env, &error_at), SIRA_BAD_TEXT);
    CHECK_EQUAL(error_at, 6);
    free(tensor);
    free(b);
}

int main(void)
{
    test_lengths_are_held_against_what_is_there();
    test_what_no_parser_reads_is_malformed();
    test_what_is_carried_unread_is_checked_all_the_same();
    test_the_place_of_a_fault_is_told();
    return 0;
}
