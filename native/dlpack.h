/* The parts of the DLPack 1.1 ABI that we use, declared after its published specification
 * (https://dmlc.github.io/dlpack/latest/c_api.html). Layouts and numbers are the specification's. */
#ifndef SIRA_DLPACK_H
#define SIRA_DLPACK_H

#include <stdint.h>

enum { DLPACK_MAJOR = 1, DLPACK_MINOR = 1 };

enum dl_device_type { /* of which we read those whose memory the CPU sees */
    DL_CPU = 1, DL_CUDA_HOST = 3, DL_ROCM_HOST = 11,
};
enum dl_type_code {
    DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_COMPLEX = 5, DL_BOOL = 6,
    DL_FLOAT8_E4M3FN = 10, DL_FLOAT8_E4M3FNUZ = 11, DL_FLOAT8_E5M2 = 12, DL_FLOAT8_E5M2FNUZ = 13,
};
enum {
    DL_FLAG_READ_ONLY = 1 << 0,
    DL_FLAG_IS_COPIED = 1 << 1,
    DL_FLAG_IS_SUBBYTE_TYPE_PADDED = 1 << 2, /* elements of less than a byte take a byte each */
};

struct dl_device {
    int32_t type;  /* enum dl_device_type */
    int32_t id;
};
struct dl_dtype {
    uint8_t code;  /* enum dl_type_code */
    uint8_t bits;
    uint16_t lanes;
};
struct dl_tensor {
    void *data;
    struct dl_device device;
    int32_t ndim;
    struct dl_dtype dtype;
    int64_t *shape;
    int64_t *strides;  /* in elements; NULL: C order */
    uint64_t byte_offset;
};
/* In a capsule named "dltensor", "used_dltensor" once taken. */
struct dl_managed {
    struct dl_tensor tensor;
    void *manager;
    void (*deleter)(struct dl_managed *self);
};
/* In a capsule named "dltensor_versioned", "used_dltensor_versioned" once taken. */
struct dl_managed_versioned {
    struct { uint32_t major, minor; } version;
    void *manager;
    void (*deleter)(struct dl_managed_versioned *self);
    uint64_t flags;
    struct dl_tensor tensor;
};

#define DL_NAME "dltensor"
#define DL_NAME_USED "used_dltensor"
#define DL_NAME_VERSIONED "dltensor_versioned"
#define DL_NAME_VERSIONED_USED "used_dltensor_versioned"

#endif
