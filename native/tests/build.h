/* Building encoded messages for the C tests, well-formed or not. */
#ifndef SIRA_TEST_BUILD_H
#define SIRA_TEST_BUILD_H

#include "../pb.h"

#include <stdio.h>
#include <stdlib.h>

/* assert() that cannot be compiled away and says what was there. */
#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);     \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)
#define CHECK_EQUAL(got, wanted)                                                          \
    do {                                                                                  \
        const long long got_ = (long long)(got), wanted_ = (long long)(wanted);           \
        if (got_ != wanted_) {                                                            \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, wanted_); \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

struct buf {
    uint8_t bytes[256 << 10];
    size_t len;
};

static inline struct buf *buf_new(void)
{
    struct buf *buf = malloc(sizeof *buf);
    CHECK(buf);
    buf->len = 0;
    return buf;
}

static inline void put_bytes(struct buf *buf, uint32_t field, const void *data, size_t len)
{
    CHECK(buf->len + len + 16 <= sizeof buf->bytes);
    buf->len = (size_t)(pb_put_bytes(buf->bytes + buf->len, field, data, len) - buf->bytes);
}

static inline void put_text(struct buf *buf, uint32_t field, const char *text)
{
    put_bytes(buf, field, text, strlen(text));
}

static inline void put_uint(struct buf *buf, uint32_t field, uint64_t value)
{
    CHECK(buf->len + 32 <= sizeof buf->bytes);
    buf->len = (size_t)(pb_put_uint(buf->bytes + buf->len, field, value) - buf->bytes);
}

static inline void put_fixed64(struct buf *buf, uint32_t field, uint64_t value)
{
    CHECK(buf->len + 32 <= sizeof buf->bytes);
    buf->len = (size_t)(pb_put_fixed64(buf->bytes + buf->len, field, value) - buf->bytes);
}

static inline void put_raw(struct buf *buf, const void *data, size_t len)
{
    CHECK(buf->len + len <= sizeof buf->bytes);
    if (len) memcpy(buf->bytes + buf->len, data, len);
    buf->len += len;
}

static inline void put_buf(struct buf *buf, uint32_t field, const struct buf *body)
{
    put_bytes(buf, field, body->bytes, body->len);
}

/* A Tensor as field 14 of a Message; shape packed; data_bytes left out when announced is 0. */
static inline void put_tensor(struct buf *buf, const char *name, uint64_t dtype, const uint64_t *shape, uint32_t ndim,
                              uint64_t announced, const void *data, size_t len)
{
    static struct buf bufs[2]; /* not from the heap: ASan keeps what is freed, and tests make many */
    struct buf *tensor = &bufs[0], *dims = &bufs[1];
    tensor->len = dims->len = 0;
    for (uint32_t i = 0; i < ndim; i++)
        dims->len = (size_t)(pb_put_varint(dims->bytes + dims->len, shape[i]) - dims->bytes);
    if (name[0]) put_text(tensor, 1, name);
    if (dtype) put_uint(tensor, 2, dtype);
    if (ndim) put_buf(tensor, 3, dims);
    if (announced) put_uint(tensor, 4, announced);
    if (len) put_bytes(tensor, 15, data, len);
    put_buf(buf, 14, tensor);
}

/* Parse out of memory of exactly that size, so that ASan sees a read past the end. */
static inline enum sira_status parse_exact(const uint8_t *data, size_t len, uint32_t flags, uint64_t bytes_max,
                                           struct sira_env *env, size_t *error_at)
{
    uint8_t *exact = malloc(len ? len : 1);
    CHECK(exact);
    if (len) memcpy(exact, data, len);
    const enum sira_status status = sira_env_parse(exact, len, flags, bytes_max, env, error_at);
    if (status) CHECK(*error_at <= len);
    free(exact); /* the slices of env hang now: callers look at numbers only */
    return status;
}

/* Status of a Message given no flags but `flags` and a limit of 1 GiB. */
static inline enum sira_status status_of(const struct buf *buf, uint32_t flags)
{
    static struct sira_env env;
    size_t error_at;
    return parse_exact(buf->bytes, buf->len, flags, 1 << 30, &env, &error_at);
}

#endif
