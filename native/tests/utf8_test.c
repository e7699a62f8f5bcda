/* Text: strict UTF-8, wherever in a message it stands. */
#include "build.h"

static void test_text_is_utf8(void)
{
    static const char *const good[] = {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "plain ascii, rather long", "1234567\xc3\xa9"};
    static const char *const bad[] = {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2\x20", "\xe0\x80\x80", "\xe0\x9f\xbf",
        "\xe1\x80", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xff", "12345678\xff", "1234567\xc3", "\xe2\x82\xac\xe2\x82"};
    static const uint32_t fields[] = {6, 10, 11, 12, 16, 18, 19, 28, 29};
    struct buf *b = buf_new(), *inner = buf_new();
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        for (size_t pad = 0; pad < 20; pad++) { /* at every distance from the words that are read at once */
            char text[64];
            snprintf(text, sizeof text, "%.*s%s%.*s", (int)pad, "aaaaaaaaaaaaaaaaaaaa", good[i], (int)(pad / 2), "bbbbbbbbbb");
            CHECK(sira_utf8_check((const uint8_t *)text, strlen(text)));
        }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (size_t pad = 0; pad < 20; pad++) {
            char text[64];
            snprintf(text, sizeof text, "%.*s%s%.*s", (int)pad, "aaaaaaaaaaaaaaaaaaaa", bad[i], (int)(pad / 2), "bbbbbbbbbb");
            CHECK(!sira_utf8_check((const uint8_t *)text, strlen(text)));
        }
        for (size_t j = 0; j < sizeof fields / sizeof *fields; j++) {
            b->len = 0;
            put_text(b, fields[j], bad[i]);
            CHECK_EQUAL(status_of(b, 0), SIRA_BAD_TEXT);
        }
        b->len = 0;
        put_text(b, 2, bad[i]);
        CHECK_EQUAL(status_of(b, 0), SIRA_BAD_TOPIC);
        for (uint32_t where = 0; where < 3; where++) { /* a header, a tensor's name, error.message */
            inner->len = b->len = 0;
            put_text(inner, where ? where == 1 ? 1 : 2 : 2, bad[i]);
            put_buf(b, where == 0 ? 17 : where == 1 ? 14 : 24, inner);
            CHECK_EQUAL(status_of(b, 0), SIRA_BAD_TEXT);
        }
    }
    free(b);
    free(inner);
}

int main(void)
{
    test_text_is_utf8();
    return 0;
}
