/* protobuf wire primitives, inline. A reader never looks past `end`; a writer's caller has reserved room. */
#ifndef SIRA_PB_H
#define SIRA_PB_H

#include "wire.h"

enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_LEN = 2, PB_FIXED32 = 5 };

struct pb_reader {
    const uint8_t *at, *end;
};

/* false: truncated, or more than 64 bits. */
static inline bool pb_varint(struct pb_reader *r, uint64_t *out)
{
    if (r->at != r->end && *r->at < 0x80) {
        *out = *r->at++;
        return true;
    }
    uint64_t value = 0;
    const uint8_t *p = r->at;
    for (uint32_t shift = 0; shift < 70; shift += 7) {
        if (p == r->end) return false;
        const uint8_t byte = *p++;
        if (shift == 63 && byte > 1) return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            r->at = p;
            *out = value;
            return true;
        }
    }
    return false;
}

/* Key of a field: number << 3 | wire type. false: truncated or impossible (field 0, number past 2^29 - 1, more
 * than 5 bytes: the other protobuf parsers refuse those, and what we pass on they must be able to read). */
static inline bool pb_tag(struct pb_reader *r, uint32_t *tag)
{
    if (r->at != r->end && *r->at < 0x80) {
        *tag = *r->at++;
        return *tag >= 8;
    }
    const uint8_t *start = r->at;
    uint64_t key;
    if (!pb_varint(r, &key)) return false;
    if (key >> 32 || key < 8 || r->at - start > 5) return false;
    *tag = (uint32_t)key;
    return true;
}

/* Field number and wire type, as pb_tag. */
static inline bool pb_key(struct pb_reader *r, uint32_t *field, uint32_t *wire)
{
    uint32_t tag;
    if (!pb_tag(r, &tag)) return false;
    *field = tag >> 3;
    *wire = tag & 7;
    return true;
}

/* A length that is padded with zeros past 5 bytes is refused: see pb_tag. */
static inline bool pb_bytes(struct pb_reader *r, struct sira_slice *out)
{
    const uint8_t *start = r->at;
    uint64_t len;
    if (!pb_varint(r, &len) || len > (uint64_t)(r->end - r->at)) return false;
    if (r->at - start > 5 && r->at[-1] == 0) return false;
    out->data = r->at;
    out->len = (size_t)len;
    r->at += len;
    return true;
}

static inline bool pb_fixed64(struct pb_reader *r, uint64_t *out)
{
    if (r->end - r->at < 8) return false;
    memcpy(out, r->at, 8); /* little-endian hosts only: checked at build */
    r->at += 8;
    return true;
}

/* Skip one field's value. Groups (3, 4) are refused. */
static inline bool pb_skip(struct pb_reader *r, uint32_t wire)
{
    uint64_t ignored;
    struct sira_slice slice;
    switch (wire) {
    case PB_VARINT: return pb_varint(r, &ignored);
    case PB_FIXED64: return pb_fixed64(r, &ignored);
    case PB_LEN: return pb_bytes(r, &slice);
    case PB_FIXED32:
        if (r->end - r->at < 4) return false;
        r->at += 4;
        return true;
    default: return false;
    }
}

/* Why the field that starts at `field` could not be read: SIRA_TRUNCATED when it reaches past `end`, else
 * SIRA_MALFORMED. The readers above say only true or false; this is asked once something has failed. */
enum sira_status sira_pb_fault(const uint8_t *field, const uint8_t *end);

static inline size_t pb_varint_size(uint64_t value)
{
    return (size_t)(((63 - __builtin_clzll(value | 1)) * 9 + 73) / 64);
}

static inline uint8_t *pb_put_varint(uint8_t *p, uint64_t value)
{
    while (value >= 0x80) {
        *p++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *p++ = (uint8_t)value;
    return p;
}

static inline uint8_t *pb_put_key(uint8_t *p, uint32_t field, uint32_t wire)
{
    return pb_put_varint(p, (uint64_t)field << 3 | wire);
}

static inline uint8_t *pb_put_bytes(uint8_t *p, uint32_t field, const void *data, size_t len)
{
    p = pb_put_varint(pb_put_key(p, field, PB_LEN), len);
    if (len) memcpy(p, data, len);
    return p + len;
}

static inline uint8_t *pb_put_uint(uint8_t *p, uint32_t field, uint64_t value)
{
    return pb_put_varint(pb_put_key(p, field, PB_VARINT), value);
}

static inline uint8_t *pb_put_fixed64(uint8_t *p, uint32_t field, uint64_t value)
{
    p = pb_put_key(p, field, PB_FIXED64);
    memcpy(p, &value, 8);
    return p + 8;
}

static inline size_t pb_key_size(uint32_t field)
{
    return pb_varint_size((uint64_t)field << 3);
}

static inline size_t pb_bytes_size(uint32_t field, size_t len)
{
    return pb_key_size(field) + pb_varint_size(len) + len;
}

static inline size_t pb_uint_size(uint32_t field, uint64_t value)
{
    return pb_key_size(field) + pb_varint_size(value);
}

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little-endian and this code reads it in place"
#endif

#endif
