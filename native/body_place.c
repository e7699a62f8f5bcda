/* The tensors of a body in one piece of memory, each at the next multiple of 64 bytes: what is shared by reference. */
#include "pyutil.h"

enum { FREE_GIL_BYTES = 256 << 10 }; /* a copy as long as a hand-over of the GIL costs several times */

uint64_t sira_body_placed_bytes(const struct sira_body *body)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < body->tensor_count; i++)
        if (body->tensors[i].bytes) end = sira_placed_at(end) + body->tensors[i].bytes;
    return end;
}

static void copy_tensors(const struct sira_body *body, uint8_t *base)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const struct sira_body_tensor *tensor = &body->tensors[i];
        if (!tensor->bytes) continue;
        const uint64_t at = sira_placed_at(end);
        memcpy(base + at, tensor->data, tensor->bytes);
        end = at + tensor->bytes;
    }
}

void sira_body_place(const struct sira_body *body, uint8_t *base)
{
    if (body->payload_bytes < FREE_GIL_BYTES) {
        copy_tensors(body, base);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    copy_tensors(body, base);
    Py_END_ALLOW_THREADS
}

bool sira_body_is_placed(const struct sira_body *body, const uint8_t *base, uint64_t bytes)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const struct sira_body_tensor *tensor = &body->tensors[i];
        if (!tensor->bytes) continue;
        const uint64_t at = sira_placed_at(end);
        end = at + tensor->bytes;
        if (end > bytes || tensor->data != base + at) return false;
    }
    return true;
}

bool sira_body_is_within(const struct sira_body *body, const uint8_t *base, uint64_t bytes)
{
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const struct sira_body_tensor *tensor = &body->tensors[i];
        if (!tensor->bytes) continue;
        const uintptr_t from = (uintptr_t)base, at = (uintptr_t)tensor->data; /* of two objects: compared as numbers */
        if (at < from || at - from > bytes || tensor->bytes > bytes - (at - from)) return false;
    }
    return true;
}
