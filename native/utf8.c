/* Strict UTF-8 (Unicode 15, table 3-7): every string that enters is checked once, so readers need not. */
#include "wire.h"

#define HIGH_BITS UINT64_C(0x8080808080808080)

static uint64_t load64(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

/* Length of the well-formed sequence at p (its first byte >= 0x80), 0 if there is none. */
static size_t sequence_bytes(const uint8_t *p, size_t left)
{
    const uint8_t lead = p[0];
    uint8_t low = 0x80, high = 0xbf; /* bounds of the second byte: the later ones are always 80..bf */
    size_t bytes;
    if (lead >= 0xc2 && lead <= 0xdf) {
        bytes = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        bytes = 3;
        if (lead == 0xe0) low = 0xa0;  /* overlong below */
        if (lead == 0xed) high = 0x9f; /* surrogates above */
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        bytes = 4;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f; /* past U+10FFFF above */
    } else {
        return 0;
    }
    if (left < bytes || p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < bytes; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return bytes;
}

bool sira_utf8_check(const uint8_t *text, size_t len)
{
    size_t at = 0;
    while (at < len) {
        if (len - at >= 8) {
            if (!(load64(text + at) & HIGH_BITS)) {
                at += 8;
                continue;
            }
        } else if (len >= 8 && !(load64(text + len - 8) & HIGH_BITS)) {
            return true; /* the tail by one overlapping load: only reached at a character's start, all ASCII */
        }
        if (text[at] < 0x80) {
            at++;
            continue;
        }
        const size_t bytes = sequence_bytes(text + at, len - at);
        if (!bytes) return false;
        at += bytes;
    }
    return true;
}
