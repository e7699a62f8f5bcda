/* Topics: what is a name or a pattern, and the table of what matches what. */
#include "build.h"

static bool is_name(const char *text, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    CHECK(exact);
    memcpy(exact, text, len);
    const bool name = sira_topic_check(exact, len) == SIRA_OK, pattern = sira_pattern_check(exact, len) == SIRA_OK;
    CHECK(!name || pattern); /* a name is a pattern too */
    free(exact);
    return name;
}

static bool is_pattern(const char *text)
{
    return sira_pattern_check((const uint8_t *)text, strlen(text)) == SIRA_OK;
}

static void test_names(void)
{
    static const char *const good[] = {"a", "cam.front", "_inbox.1.2", "sira.node", "$SYS", "a-b/c:d@e", "caf\xc3\xa9.\xf0\x9f\x90\x88",
        "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16"};
    static const char *const bad[] = {"", ".", "a.", ".a", "a..b", "*", ">", "a.*", "a.>", "a*", "a>b", "a b", "a\tb", "a\nb", "a\x7f",
        "\x01", "a.\xc3", "\xed\xa0\x80", "\xc0\xae", "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) CHECK(is_name(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(!is_name(bad[i], strlen(bad[i])));
    CHECK(!is_name("a\0b", 3));
    char *longest = malloc(64 << 10);
    CHECK(longest);
    memset(longest, 'a', 64 << 10);
    CHECK(is_name(longest, 255));
    CHECK(!is_name(longest, 256));
    CHECK(!is_name(longest, 64 << 10));
    free(longest);
}

static void test_patterns(void)
{
    static const char *const good[] = {"*", ">", "a.*", "*.a", "a.*.b", "a.>", "*.>", "*.*", "a", "\xc3\xa9.*"};
    static const char *const bad[] = {"", "a*", "*a", "a.b*", "**", "*>", ">>", ">.a", "a.>.b", "a>", ".>", "*.", "a..*", "* ", "a.*b.c", "\xc3.*",
        "*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.>"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) CHECK(is_pattern(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(!is_pattern(bad[i]));
}

static void test_the_table_of_matches(void)
{
    static const struct {
        const char *pattern, *name;
        bool matches;
    } table[] = {
        {"a", "a", true}, {"a", "b", false}, {"a", "ab", false}, {"ab", "a", false}, {"a.b", "a.b", true}, {"a.b", "a", false},
        {"a", "a.b", false}, {"a.b", "a.c", false}, {"a.b", "ab", false},
        {"*", "a", true}, {"*", "a.b", false}, {"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false},
        {"*.b", "a.b", true}, {"*.b", "b", false}, {"a.*.c", "a.b.c", true}, {"a.*.c", "a.c", false}, {"a.*.c", "a.b.d", false},
        {">", "a", true}, {">", "a.b.c", true}, {"a.>", "a.b", true}, {"a.>", "a.b.c.d", true}, {"a.>", "a", false}, {"a.>", "ab", false},
        {"a.>", "b.a", false}, {"*.>", "a.b", true}, {"*.>", "a", false}, {"a.*.>", "a.b.c", true}, {"a.*.>", "a.b", false},
        {"a.bb.*", "a.b.c", false}, {"a.b.*", "a.bb.c", false},
        /* private replies and what is the node's own are never met by a wildcard in front */
        {">", "_inbox.7", false}, {"*", "_inbox", false}, {"*.7", "_inbox.7", false}, {"_inbox.*", "_inbox.7", true},
        {"_inbox.>", "_inbox.7.8", true}, {"_inbox.7", "_inbox.7", true}, {">", "a._b", true}, {"a.*", "a._b", true},
        {">", "sira.link", false}, {"*.link", "sira.link", false}, {">", "sira", false}, {"*", "sira", false}, {"sira.>", "sira.link", true},
        {"sira.*", "sira.link", true}, {"sira", "sira", true}, {">", "siran.x", true}, {">", "sir", true}, {"*.x", "SIRA.x", true},
        {">", "a.sira.b", true},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const size_t pattern_len = strlen(table[i].pattern), name_len = strlen(table[i].name);
        CHECK(is_pattern(table[i].pattern) && is_name(table[i].name, name_len));
        uint8_t *pattern = malloc(pattern_len), *name = malloc(name_len);
        CHECK(pattern && name);
        memcpy(pattern, table[i].pattern, pattern_len);
        memcpy(name, table[i].name, name_len);
        if (sira_topic_match(pattern, pattern_len, name, name_len) != table[i].matches) {
            fprintf(stderr, "%s on %s is not %d\n", table[i].pattern, table[i].name, table[i].matches);
            exit(1);
        }
        free(pattern);
        free(name);
    }
}

/* All patterns and names of up to 3 tokens over a small alphabet, against a matcher written by recursion. */
static bool slow_match(const char *pattern, const char *name)
{
    const size_t want = strcspn(pattern, "."), have = strcspn(name, ".");
    if (*pattern == '>') return *name != 0;
    if (!*name) return false;
    if (*pattern != '*' && (want != have || strncmp(pattern, name, want))) return false;
    if (!pattern[want] || !name[have]) return pattern[want] == name[have];
    return slow_match(pattern + want + 1, name + have + 1);
}

static void test_matching_agrees_with_a_slow_matcher(void)
{
    static const char *const tokens[] = {"a", "b", "aa", "_", "*", ">"};
    char texts[6 + 36 + 216][16];
    uint32_t count = 0, matched = 0;
    for (int i = 0; i < 6; i++) {
        snprintf(texts[count++], 16, "%s", tokens[i]);
        for (int j = 0; j < 6; j++) {
            snprintf(texts[count++], 16, "%s.%s", tokens[i], tokens[j]);
            for (int k = 0; k < 6; k++) snprintf(texts[count++], 16, "%s.%s.%s", tokens[i], tokens[j], tokens[k]);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!is_pattern(texts[i])) continue;
        for (uint32_t j = 0; j < count; j++) {
            if (!is_name(texts[j], strlen(texts[j]))) continue;
            const bool wild = texts[i][0] == '*' || texts[i][0] == '>';
            const bool wanted = !(wild && texts[j][0] == '_') && slow_match(texts[i], texts[j]);
            CHECK_EQUAL(sira_topic_match((const uint8_t *)texts[i], strlen(texts[i]), (const uint8_t *)texts[j], strlen(texts[j])), wanted);
            matched += wanted;
        }
    }
    CHECK(matched > 200);
}

int main(void)
{
    test_names();
    test_patterns();
    test_the_table_of_matches();
    test_matching_agrees_with_a_slow_matcher();
    return 0;
}
