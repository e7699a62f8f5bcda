/* libFuzzer: a pattern, a newline, a name. What is taken is matched as by a matcher written for reading. */
#include "invariants.h"

static size_t token(struct sira_slice text)
{
    size_t len = 0;
    while (len < text.len && text.data[len] != '.') len++;
    return len;
}

static bool token_is(struct sira_slice text, const char *wanted)
{
    const size_t len = token(text);
    return len == strlen(wanted) && !memcmp(text.data, wanted, len);
}

static struct sira_slice rest(struct sira_slice text, size_t skip)
{
    return skip >= text.len ? (struct sira_slice){text.data + text.len, 0}
                            : (struct sira_slice){text.data + skip, text.len - skip};
}

/* Token by token; no text left is no token left, as no token is empty. */
static bool slow_match(struct sira_slice pattern, struct sira_slice name)
{
    if (!pattern.len || !name.len) return pattern.len == name.len;
    if (token_is(pattern, ">")) return true;
    const size_t want = token(pattern), have = token(name);
    if (!token_is(pattern, "*") && (want != have || memcmp(pattern.data, name.data, want))) return false;
    return slow_match(rest(pattern, want + 1), rest(name, have + 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const uint8_t *line = len ? memchr(data, '\n', len) : NULL;
    if (!line) return 0;
    const struct sira_slice pattern = {data, (size_t)(line - data)}, name = {line + 1, len - pattern.len - 1};
    const bool is_pattern = sira_pattern_check(pattern.data, pattern.len) == SIRA_OK;
    const bool is_name = sira_topic_check(name.data, name.len) == SIRA_OK;
    if (is_name) {
        MUST(name.len > 0 && name.len <= SIRA_TOPIC_BYTES_MAX && sira_utf8_check(name.data, name.len));
        MUST(!memchr(name.data, '*', name.len) && !memchr(name.data, '>', name.len));
        MUST(name.data[0] != '.' && name.data[name.len - 1] != '.');
        MUST(sira_pattern_check(name.data, name.len) == SIRA_OK && sira_topic_match(name.data, name.len, name.data, name.len));
    }
    if (!is_pattern || !is_name) return 0;
    const bool kept = (token_is(pattern, "*") || token_is(pattern, ">")) && (name.data[0] == '_' || token_is(name, "sira"));
    MUST(sira_topic_match(pattern.data, pattern.len, name.data, name.len) == (!kept && slow_match(pattern, name)));
    return 0;
}
