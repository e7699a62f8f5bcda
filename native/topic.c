/* Topic names and patterns: what is one, and which name a pattern matches. */
#include "wire.h"

enum { BAD = 1, DOT = 2, WILD = 4, HIGH = 8 };

/* What a byte means in a name or pattern; 0: part of a token. A table, because every message is checked. */
static const uint8_t CLASSES[256] = {
    [0 ... 0x20] = BAD, [0x7f] = BAD, ['.'] = DOT, ['*'] = WILD, ['>'] = WILD, [0x80 ... 0xff] = HIGH,
};

static enum sira_status check(const uint8_t *text, size_t len, bool wildcards)
{
    if (len == 0 || len > SIRA_TOPIC_BYTES_MAX) return SIRA_BAD_TOPIC;
    uint32_t tokens = 1, seen = 0;
    size_t start = 0; /* of the token */
    for (size_t i = 0; i <= len; i++) {
        const uint32_t class = i == len ? DOT : CLASSES[text[i]];
        if (class == 0) continue;
        seen |= class;
        switch (class) {
        case BAD: return SIRA_BAD_TOPIC;
        case DOT:
            if (i == start) return SIRA_BAD_TOPIC;
            start = i + 1;
            if (i < len && ++tokens > SIRA_TOPIC_TOKENS_MAX) return SIRA_BAD_TOPIC;
            break;
        case WILD:
            if (!wildcards || i != start) return SIRA_BAD_TOPIC;
            if (text[i] == '>' ? i + 1 != len : i + 1 != len && text[i + 1] != '.') return SIRA_BAD_TOPIC;
            break;
        default: break;
        }
    }
    if (seen & HIGH && !sira_utf8_check(text, len)) return SIRA_BAD_TOPIC;
    return SIRA_OK;
}

enum sira_status sira_topic_check(const uint8_t *name, size_t len)
{
    return check(name, len, false);
}

enum sira_status sira_pattern_check(const uint8_t *pattern, size_t len)
{
    return check(pattern, len, true);
}

static size_t token_len(const uint8_t *text, size_t len)
{
    const uint8_t *dot = memchr(text, '.', len);
    return dot ? (size_t)(dot - text) : len;
}

bool sira_topic_match(const uint8_t *pattern, size_t pattern_len, const uint8_t *name, size_t name_len)
{
    assert(pattern_len > 0 && name_len > 0);
    if (pattern[0] == '*' || pattern[0] == '>') { /* checked: so the first token is that wildcard */
        if (name[0] == '_') return false;
        if (token_len(name, name_len) == 4 && !memcmp(name, "sira", 4)) return false;
    }
    for (;;) {
        if (pattern[0] == '>') return true; /* the last token of the pattern, and the name has one more */
        const size_t want = token_len(pattern, pattern_len), have = token_len(name, name_len);
        if (pattern[0] != '*' && (want != have || memcmp(pattern, name, want))) return false;
        if (want == pattern_len || have == name_len) return want == pattern_len && have == name_len;
        pattern += want + 1, pattern_len -= want + 1;
        name += have + 1, name_len -= have + 1;
    }
}
