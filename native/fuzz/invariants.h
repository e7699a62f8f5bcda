/* What must hold of anything that the parsers accepted. Broken: abort(), which libFuzzer reports. */
#ifndef SIRA_FUZZ_INVARIANTS_H
#define SIRA_FUZZ_INVARIANTS_H

#include "../pb.h"

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);    \
            abort();                                                                   \
        }                                                                              \
    } while (0)

static inline void must_lie_in(struct sira_slice slice, const uint8_t *data, size_t len)
{
    if (!slice.data) {
        MUST(slice.len == 0);
        return;
    }
    MUST(slice.data >= data && slice.data <= data + len && slice.len <= (size_t)(data + len - slice.data));
}

#endif
