/* Element types: their names, their sizes, and how many bytes an array of them takes. */
#include "wire.h"

static const struct {
    const char *name;
    uint32_t bits;
} DTYPES[SIRA_DT_COUNT] = {
    [SIRA_DT_BOOL] = {"bool", 8},
    [SIRA_DT_U8] = {"u8", 8},
    [SIRA_DT_U16] = {"u16", 16},
    [SIRA_DT_U32] = {"u32", 32},
    [SIRA_DT_U64] = {"u64", 64},
    [SIRA_DT_I8] = {"i8", 8},
    [SIRA_DT_I16] = {"i16", 16},
    [SIRA_DT_I32] = {"i32", 32},
    [SIRA_DT_I64] = {"i64", 64},
    [SIRA_DT_F16] = {"f16", 16},
    [SIRA_DT_F32] = {"f32", 32},
    [SIRA_DT_F64] = {"f64", 64},
    [SIRA_DT_BF16] = {"bf16", 16},
    [SIRA_DT_F8E4M3FN] = {"f8e4m3fn", 8},
    [SIRA_DT_F8E5M2] = {"f8e5m2", 8},
    [SIRA_DT_F8E4M3FNUZ] = {"f8e4m3fnuz", 8},
    [SIRA_DT_F8E5M2FNUZ] = {"f8e5m2fnuz", 8},
    [SIRA_DT_I4] = {"i4", 4},
    [SIRA_DT_U4] = {"u4", 4},
    [SIRA_DT_C64] = {"c64", 64},
    [SIRA_DT_C128] = {"c128", 128},
    [SIRA_DT_BYTES] = {"bytes", 8},
    [SIRA_DT_UTF8] = {"utf8", 8},
};

uint32_t sira_dtype_bits(uint32_t dtype)
{
    return dtype < SIRA_DT_COUNT ? DTYPES[dtype].bits : 0;
}

const char *sira_dtype_name(uint32_t dtype)
{
    return dtype < SIRA_DT_COUNT ? DTYPES[dtype].name : NULL;
}

uint32_t sira_dtype_from_name(const char *name, size_t len)
{
    for (uint32_t dtype = 1; dtype < SIRA_DT_COUNT; dtype++)
        if (strlen(DTYPES[dtype].name) == len && !memcmp(DTYPES[dtype].name, name, len)) return dtype;
    return SIRA_DT_NONE;
}

bool sira_tensor_bytes(const uint64_t *shape, uint32_t ndim, uint32_t dtype, uint64_t limit, uint64_t *out)
{
    const uint32_t bits = sira_dtype_bits(dtype);
    assert(ndim <= SIRA_NDIM_MAX);
    assert(bits > 0);
    uint64_t bytes = bits >= 8 ? bits / 8 : 1; /* i4/u4: one a byte first, as NumPy will hold them */
    bool empty = false;
    for (uint32_t i = 0; i < ndim; i++) {
        if (shape[i] == 0)
            empty = true; /* but go on: the answer must not depend on the order of the dimensions */
        else if (__builtin_mul_overflow(bytes, shape[i], &bytes) || bytes > INT64_MAX)
            return false;
    }
    if (bits == 4) bytes = bytes / 2 + bytes % 2;
    if (empty) bytes = 0;
    if (bytes > limit) return false;
    *out = bytes;
    return true;
}
