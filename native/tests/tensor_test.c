/* Tensors from bytes: shape, dtype and data agree, or the message is refused. */
#include "build.h"

static struct sira_env env;
static size_t error_at;
static const uint8_t ZEROS[4096];
static const uint64_t GIB = 1 << 30;

/* Status of a Message with one tensor "x". */
static enum sira_status one(uint32_t flags, uint64_t dtype, const uint64_t *shape, uint32_t ndim, uint64_t announced,
                            size_t len)
{
    struct buf *b = buf_new();
    put_tensor(b, "x", dtype, shape, ndim, announced, ZEROS, len);
    const enum sira_status status = parse_exact(b->bytes, b->len, flags, 16 * GIB, &env, &error_at);
    free(b);
    return status;
}

#define SHAPE(...) (uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / 8

static void test_every_dtype_has_its_size(void)
{
    static const struct {
        const char *name;
        size_t bytes_of_6;
    } wanted[SIRA_DT_COUNT] = {{"", 0}, {"bool", 6}, {"u8", 6}, {"u16", 12}, {"u32", 24}, {"u64", 48}, {"i8", 6}, {"i16", 12},
        {"i32", 24}, {"i64", 48}, {"f16", 12}, {"f32", 24}, {"f64", 48}, {"bf16", 12}, {"f8e4m3fn", 6}, {"f8e5m2", 6},
        {"f8e4m3fnuz", 6}, {"f8e5m2fnuz", 6}, {"i4", 3}, {"u4", 3}, {"c64", 48}, {"c128", 96}};
    for (uint32_t dtype = 1; dtype < SIRA_DT_BYTES; dtype++) {
        CHECK(!strcmp(sira_dtype_name(dtype), wanted[dtype].name));
        CHECK_EQUAL(sira_dtype_from_name(wanted[dtype].name, strlen(wanted[dtype].name)), dtype);
        for (size_t len = 0; len < 120; len++)
            CHECK_EQUAL(one(0, dtype, SHAPE(2, 3), 0, len), len == wanted[dtype].bytes_of_6 ? SIRA_OK : SIRA_BAD_SHAPE);
        CHECK_EQUAL(one(0, dtype, NULL, 0, 0, (sira_dtype_bits(dtype) + 7) / 8), SIRA_OK); /* 0-d is one element */
        CHECK_EQUAL(one(0, dtype, SHAPE(0, 7), 0, 0), SIRA_OK);
        CHECK(env.tensors[0].data == NULL && env.tensors[0].ndim == 2);
    }
    CHECK_EQUAL(sira_dtype_from_name("bytes", 5), SIRA_DT_BYTES);
    CHECK_EQUAL(sira_dtype_from_name("utf8", 4), SIRA_DT_UTF8);
    CHECK_EQUAL(sira_dtype_from_name("f3", 2), SIRA_DT_NONE);
    CHECK_EQUAL(sira_dtype_from_name("f32x", 4), SIRA_DT_NONE);
    CHECK(!sira_dtype_name(SIRA_DT_NONE) && !sira_dtype_name(SIRA_DT_COUNT) && !sira_dtype_bits(UINT32_MAX));
}

static void test_unknown_dtypes_are_refused(void)
{
    static const uint64_t bad[] = {0, SIRA_DT_COUNT, 63, 64, 1000, UINT32_MAX, (1ull << 32) + SIRA_DT_U8, UINT64_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (uint32_t flags = 0; flags < 4; flags++) CHECK_EQUAL(one(flags, bad[i], SHAPE(1), 1, 0), SIRA_BAD_DTYPE);
}

static void test_odd_counts_of_four_bits_round_up(void)
{
    for (uint64_t count = 0; count < 20; count++) {
        CHECK_EQUAL(one(0, SIRA_DT_I4, SHAPE(count), 0, (count + 1) / 2), SIRA_OK);
        CHECK_EQUAL(one(0, SIRA_DT_U4, SHAPE(count), 0, (count + 1) / 2 + 1), SIRA_BAD_SHAPE);
    }
    uint64_t bytes;
    CHECK(sira_tensor_bytes(SHAPE(3, 3), SIRA_DT_I4, UINT64_MAX, &bytes) && bytes == 5); /* over all, not per row */
    CHECK(sira_tensor_bytes(SHAPE(INT64_MAX), SIRA_DT_U4, UINT64_MAX, &bytes) && bytes == 1ull << 62);
}

static void test_sizes_past_64_bits_are_refused_whatever_the_order(void)
{
    uint64_t bytes = 77;
    CHECK(!sira_tensor_bytes(SHAPE(1ull << 32, 1ull << 32), SIRA_DT_U8, UINT64_MAX, &bytes));
    CHECK(!sira_tensor_bytes(SHAPE(1ull << 62), SIRA_DT_U16, UINT64_MAX, &bytes));
    CHECK(!sira_tensor_bytes(SHAPE(UINT64_MAX, 0), SIRA_DT_U8, UINT64_MAX, &bytes));
    CHECK(!sira_tensor_bytes(SHAPE(0, UINT64_MAX), SIRA_DT_U8, UINT64_MAX, &bytes));
    CHECK(!sira_tensor_bytes(SHAPE(1ull << 40, 1ull << 40, 0), SIRA_DT_F32, UINT64_MAX, &bytes));
    CHECK(!sira_tensor_bytes(SHAPE(100), SIRA_DT_F32, 399, &bytes));
    CHECK_EQUAL(bytes, 77); /* untouched */
    CHECK(sira_tensor_bytes(SHAPE(100), SIRA_DT_F32, 400, &bytes) && bytes == 400);
    CHECK(sira_tensor_bytes(SHAPE(5, 1ull << 30), SIRA_DT_U8, UINT64_MAX, &bytes) && bytes == 5 * GIB);
    CHECK_EQUAL(one(0, SIRA_DT_U8, SHAPE(1ull << 32, 1ull << 32), 0, 0), SIRA_BAD_SHAPE);
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, SHAPE(1ull << 32, 1ull << 32), 0, 0), SIRA_BAD_SHAPE);
}

static void test_64_dimensions_are_read_and_65_refused(void)
{
    uint64_t shape[65];
    for (int i = 0; i < 65; i++) shape[i] = 1;
    CHECK_EQUAL(one(0, SIRA_DT_U8, shape, 64, 0, 1), SIRA_OK);
    CHECK_EQUAL(env.tensors[0].ndim, 64);
    CHECK_EQUAL(one(0, SIRA_DT_U8, shape, 65, 0, 1), SIRA_TOO_MANY_DIMS);
    struct buf *tensor = buf_new(), *b = buf_new();
    put_uint(tensor, 2, SIRA_DT_U8);
    put_bytes(tensor, 15, ZEROS, 1);
    for (int i = 0; i < 65; i++) {
        put_uint(tensor, 3, 1); /* not packed */
        b->len = 0;
        put_buf(b, 14, tensor);
        CHECK_EQUAL(status_of(b, 0), i < 64 ? SIRA_OK : SIRA_TOO_MANY_DIMS);
    }
    b->len = 0; /* 17 tensors of 64: past what a message may have in all */
    for (int i = 0; i < 17; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        put_tensor(b, name, SIRA_DT_U8, shape, 64, 0, ZEROS, 1);
        CHECK_EQUAL(status_of(b, 0), i < 16 ? SIRA_OK : SIRA_TOO_MANY);
    }
    free(tensor);
    free(b);
}

static void test_shapes_are_read_packed_unpacked_and_in_pieces(void)
{
    struct buf *tensor = buf_new(), *b = buf_new();
    put_bytes(tensor, 15, ZEROS, 24); /* data first */
    put_bytes(tensor, 3, "\x02", 1);
    put_uint(tensor, 3, 3);
    put_uint(tensor, 4, 7);  /* wrong, but not the last */
    put_uint(tensor, 4, 24);
    put_bytes(tensor, 3, "\x82\x00\x01", 3); /* 2 written long, 1 */
    put_uint(tensor, 2, SIRA_DT_C128);
    put_uint(tensor, 2, SIRA_DT_U16);
    put_text(tensor, 1, "old");
    put_text(tensor, 1, "name");
    put_buf(b, 14, tensor);
    CHECK_EQUAL(sira_env_parse(b->bytes, b->len, 0, 100, &env, &error_at), SIRA_OK);
    const uint64_t *shape = &env.dims[env.tensors[0].shape_index];
    CHECK(env.tensors[0].ndim == 4 && shape[0] == 2 && shape[1] == 3 && shape[2] == 2 && shape[3] == 1);
    CHECK(env.tensors[0].dtype == SIRA_DT_U16 && env.tensors[0].name.len == 4);
    CHECK(env.tensors[0].data > b->bytes && env.tensors[0].data + 24 <= b->bytes + b->len);
    free(tensor);
    free(b);
}

static void test_what_is_announced_is_what_the_shape_says(void)
{
    const uint64_t ten_gib[] = {10 * GIB};
    CHECK_EQUAL(one(0, SIRA_DT_U8, ten_gib, 1, 0, 10), SIRA_BAD_SHAPE); /* 10 GiB announced, 10 bytes sent */
    CHECK_EQUAL(one(0, SIRA_DT_U8, ten_gib, 1, 10 * GIB, 10), SIRA_BAD_SHAPE);
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, ten_gib, 1, 10 * GIB, 0), SIRA_OK);
    CHECK(env.payload_bytes == 10 * GIB && env.tensors[0].bytes == 10 * GIB && !env.tensors[0].data);
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, SHAPE(16 * GIB + 1), 16 * GIB + 1, 0), SIRA_TOO_LARGE);
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, SHAPE(10), 10, 10), SIRA_MALFORMED); /* a head has no data */
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, SHAPE(10), 9, 0), SIRA_BAD_SHAPE);
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, SHAPE(10), 0, 0), SIRA_BAD_SHAPE);
    CHECK_EQUAL(one(SIRA_ENV_HEAD, SIRA_DT_U8, SHAPE(0), 0, 0), SIRA_OK);
    CHECK_EQUAL(one(0, SIRA_DT_U8, SHAPE(10), 10, 10), SIRA_OK);
    CHECK_EQUAL(one(0, SIRA_DT_U8, SHAPE(10), 9, 10), SIRA_BAD_SHAPE);

    struct buf *b = buf_new(); /* sums past the limit, and past 64 bits */
    put_tensor(b, "a", SIRA_DT_U8, SHAPE(INT64_MAX), INT64_MAX, NULL, 0);
    put_tensor(b, "b", SIRA_DT_U8, SHAPE(INT64_MAX), INT64_MAX, NULL, 0);
    put_tensor(b, "c", SIRA_DT_U8, SHAPE(2), 2, NULL, 0);
    CHECK_EQUAL(parse_exact(b->bytes, b->len, SIRA_ENV_HEAD, UINT64_MAX, &env, &error_at), SIRA_TOO_LARGE);
    b->len = 0;
    put_tensor(b, "a", SIRA_DT_U8, SHAPE(60), 0, ZEROS, 60);
    put_tensor(b, "b", SIRA_DT_U8, SHAPE(41), 0, ZEROS, 41);
    CHECK_EQUAL(parse_exact(b->bytes, b->len, 0, 101, &env, &error_at), SIRA_OK);
    CHECK_EQUAL(parse_exact(b->bytes, b->len, 0, 100, &env, &error_at), SIRA_TOO_LARGE);
    free(b);
}

static void test_bodies_have_one_dimension_given_or_not(void)
{
    for (uint32_t dtype = SIRA_DT_BYTES; dtype <= SIRA_DT_UTF8; dtype++) {
        for (size_t len = 0; len < 200; len += 10) {
            CHECK_EQUAL(one(0, dtype, NULL, 0, 0, len), SIRA_OK);
            CHECK(env.tensors[0].ndim == 1 && env.dims[env.tensors[0].shape_index] == len && env.tensors[0].bytes == len);
            CHECK_EQUAL(one(0, dtype, SHAPE(len), 0, len), SIRA_OK);
            CHECK_EQUAL(one(0, dtype, SHAPE(len + 1), 0, len), SIRA_BAD_SHAPE);
            CHECK_EQUAL(one(0, dtype, SHAPE(1, len), 0, len), SIRA_BAD_SHAPE);
            CHECK_EQUAL(one(SIRA_ENV_HEAD, dtype, NULL, 0, len, 0), SIRA_OK);
            CHECK(env.tensors[0].ndim == 1 && env.tensors[0].bytes == len);
        }
        CHECK_EQUAL(one(SIRA_ENV_HEAD, dtype, NULL, 0, 1ull << 63, 0), SIRA_BAD_SHAPE);
    }
}

static void test_two_tensors_of_one_name_are_refused(void)
{
    struct buf *b = buf_new();
    static const uint32_t counts[] = {1, 2, 7, 8, 9, 10, 64, 256};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        const uint32_t count = counts[c];
        for (uint32_t same = 0; same < count; same++) { /* the last is named as tensor `same`: itself, at the end */
            b->len = 0;
            for (uint32_t i = 0; i < count; i++) {
                char name[16];
                snprintf(name, sizeof name, "t%u", i == count - 1 ? same : i);
                put_tensor(b, name, SIRA_DT_U8, NULL, 0, 0, ZEROS, 1);
            }
            CHECK_EQUAL(status_of(b, 0), same < count - 1 ? SIRA_DUPLICATE_NAME : SIRA_OK);
        }
    }
    put_tensor(b, "more", SIRA_DT_U8, NULL, 0, 0, ZEROS, 1);
    CHECK_EQUAL(status_of(b, 0), SIRA_TOO_MANY);
    b->len = 0;
    put_tensor(b, "", SIRA_DT_BYTES, NULL, 0, 0, "x", 1);
    put_tensor(b, "", SIRA_DT_UTF8, NULL, 0, 0, "x", 1);
    CHECK_EQUAL(status_of(b, 0), SIRA_DUPLICATE_NAME);
    b->len = 0; /* 200 names that fall into few slots are still told apart: one byte differs */
    for (uint32_t i = 0; i < 200; i++) put_tensor(b, (char[]){(char)('!' + i % 90), (char)('!' + i / 90), 0}, SIRA_DT_U8, NULL, 0, 0, ZEROS, 1);
    CHECK_EQUAL(status_of(b, 0), SIRA_OK);
    char name[257];
    memset(name, 'n', sizeof name);
    for (size_t len = 254; len <= 256; len++) {
        name[len] = 0;
        b->len = 0;
        put_tensor(b, name, SIRA_DT_U8, NULL, 0, 0, ZEROS, 1);
        CHECK_EQUAL(status_of(b, 0), len <= SIRA_NAME_BYTES_MAX ? SIRA_OK : SIRA_TOO_LARGE);
        name[len] = 'n';
    }
    free(b);
}

int main(void)
{
    test_every_dtype_has_its_size();
    test_unknown_dtypes_are_refused();
    test_odd_counts_of_four_bits_round_up();
    test_sizes_past_64_bits_are_refused_whatever_the_order();
    test_64_dimensions_are_read_and_65_refused();
    test_shapes_are_read_packed_unpacked_and_in_pieces();
    test_what_is_announced_is_what_the_shape_says();
    test_bodies_have_one_dimension_given_or_not();
    test_two_tensors_of_one_name_are_refused();
    return 0;
}
