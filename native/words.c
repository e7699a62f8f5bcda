/* See words.h. */
#include "words.h"

#include <assert.h>
#include <string.h>

/* ---- CRC-32 (ISO 3309, as zlib's), a byte at a time: features are a few bytes long ------------------------------ */
static uint32_t crc_table[256];

static inline uint32_t crc_step(uint32_t crc, uint8_t byte)
{
    return crc_table[(crc ^ byte) & 0xff] ^ (crc >> 8);
}

static uint32_t crc_over(uint32_t crc, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) crc = crc_step(crc, data[i]);
    return crc;
}

static inline uint32_t place_of(uint32_t crc)
{
    return ~crc & (SIRA_PLACES - 1);
}

/* ---- function words ---------------------------------------------------------------------------------------------- */
/* As STOP_WORDS of features.py. None is longer than a uint64_t. */
static const char *const stop_words[] = {
    "a", "an", "and", "any", "are", "as", "at", "be", "by", "can", "could", "do", "does", "for", "from", "has", "have",
    "how", "i", "if", "in", "is", "it", "its", "me", "my", "of", "on", "or", "our", "so", "that", "the", "them",
    "there", "these", "this", "those", "to", "us", "was", "we", "what", "when", "where", "which", "who", "will", "with",
    "would", "you", "your", "their",
};
enum { STOP_SEATS = 256 };
static uint64_t stop_table[STOP_SEATS]; /* open addressing; 0: free */

static uint64_t packed(const uint8_t *data, size_t len)
{
    uint64_t made = 0;
    for (size_t i = 0; i < len; i++) made = made << 8 | data[i];
    return made;
}

static inline size_t stop_seat(uint64_t key)
{
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> 56);
}

void sira_words_begin(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        crc_table[i] = crc;
    }
    memset(stop_table, 0, sizeof stop_table);
    for (size_t i = 0; i < sizeof stop_words / sizeof *stop_words; i++) {
        const uint64_t key = packed((const uint8_t *)stop_words[i], strlen(stop_words[i]));
        size_t seat = stop_seat(key);
        while (stop_table[seat]) seat = (seat + 1) % STOP_SEATS;
        stop_table[seat] = key;
    }
}

bool sira_word_is_stop(struct sira_word word)
{
    if (word.len > sizeof(uint64_t)) return false;
    const uint64_t key = packed(word.data, word.len);
    for (size_t seat = stop_seat(key); stop_table[seat]; seat = (seat + 1) % STOP_SEATS)
        if (stop_table[seat] == key) return true;
    return false;
}

/* ---- words ------------------------------------------------------------------------------------------------------- */
static inline bool is_upper(uint8_t c)
{
    return c >= 'A' && c <= 'Z';
}

static inline bool is_lower(uint8_t c)
{
    return c >= 'a' && c <= 'z';
}

static inline bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

size_t sira_words_split(const uint8_t *text, size_t len, uint8_t *lower, struct sira_word *words)
{
    assert(len <= SIRA_TEXT_CHARS_MAX);
    size_t count = 0;
    for (size_t i = 0; i < len;) {
        const uint8_t c = text[i];
        const size_t begin = i;
        if (is_digit(c)) {
            while (i < len && is_digit(text[i])) lower[i] = text[i], i++;
        } else if (is_upper(c) || is_lower(c)) {
            /* `getHTTPStatus`: before a capital after a small letter, and before the last of several capitals. */
            do {
                lower[i] = text[i] | 0x20;
                i++;
            } while (i < len && (is_lower(text[i])
                                 || (is_upper(text[i]) && is_upper(text[i - 1])
                                     && !(i + 1 < len && is_lower(text[i + 1])))));
        } else {
            i++;
            continue;
        }
        const size_t chars = i - begin;
        words[count++] =
            (struct sira_word){lower + begin, chars < SIRA_WORD_CHARS_MAX ? chars : SIRA_WORD_CHARS_MAX};
    }
    return count;
}

static size_t chars_of(struct sira_word word)
{
    size_t count = 0;
    for (size_t i = 0; i < word.len; i++) count += (word.data[i] & 0xC0) != 0x80;
    return count;
}

/* Suffix -> what stands in its place; the first that fits is taken. As _SUFFIXES of features.py. */
static const struct { const char *suffix; const char *instead; uint8_t suffix_len, instead_len; } suffixes[] = {
    {"ational", "ate", 7, 3}, {"izations", "ize", 8, 3}, {"ization", "ize", 7, 3}, {"nesses", "", 6, 0},
    {"ness", "", 4, 0}, {"ments", "", 5, 0}, {"ment", "", 4, 0}, {"ations", "at", 6, 2}, {"ation", "at", 5, 2},
    {"ings", "", 4, 0}, {"ing", "", 3, 0}, {"ies", "y", 3, 1}, {"edly", "", 4, 0}, {"ers", "", 3, 0}, {"er", "", 2, 0},
    {"ed", "", 2, 0}, {"ly", "", 2, 0}, {"es", "", 2, 0}, {"s", "", 1, 0}, {"e", "", 1, 0},
};
enum { STEM_CHARS_MIN = 3, STEMMED_CHARS_MIN = 5 };

size_t sira_word_stem(struct sira_word word, uint8_t *out)
{
    assert(word.len > 0 && word.len <= SIRA_WORD_BYTES_MAX);
    const uint8_t *end = word.data + word.len;
    memcpy(out, word.data, word.len);
    const size_t chars = chars_of(word);
    if (chars < STEMMED_CHARS_MIN || (end[-1] == 's' && end[-2] == 's')) return word.len;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        const size_t cut = suffixes[i].suffix_len;
        if (chars < cut + STEM_CHARS_MIN || memcmp(end - cut, suffixes[i].suffix, cut) != 0) continue;
        memcpy(out + word.len - cut, suffixes[i].instead, suffixes[i].instead_len);
        return word.len - cut + suffixes[i].instead_len;
    }
    return word.len;
}

/* ---- features ---------------------------------------------------------------------------------------------------- */
enum { GRAM_CHARS_MIN = 3, GRAM_CHARS_MAX = 5, GRAM_SIZES = GRAM_CHARS_MAX - GRAM_CHARS_MIN + 1 };

size_t sira_words_places_max(const struct sira_word *words, size_t count)
{
    size_t most = 2 * count; /* a stem each, and a pair but for the last */
    for (size_t i = 0; i < count; i++) most += GRAM_SIZES * words[i].len;
    return most;
}

/* N-grams of ` word `, so that a beginning and an end differ from a middle. */
static size_t grams(struct sira_word word, uint32_t *places)
{
    uint8_t whole[SIRA_WORD_BYTES_MAX + 2];
    size_t starts[SIRA_WORD_CHARS_MAX + 3]; /* of each character, and the end */
    size_t chars = 0, count = 0;
    whole[0] = ' ';
    memcpy(whole + 1, word.data, word.len);
    whole[word.len + 1] = ' ';
    for (size_t i = 0; i < word.len + 2; i++)
        if ((whole[i] & 0xC0) != 0x80) starts[chars++] = i;
    starts[chars] = word.len + 2;
    for (size_t i = 0; i + GRAM_CHARS_MIN <= chars; i++) {
        uint32_t crc = crc_over(~0u, whole + starts[i], starts[i + GRAM_CHARS_MIN] - starts[i]);
        places[count++] = place_of(crc);
        for (size_t end = i + GRAM_CHARS_MIN + 1; end <= i + GRAM_CHARS_MAX && end <= chars; end++) {
            crc = crc_over(crc, whole + starts[end - 1], starts[end] - starts[end - 1]);
            places[count++] = place_of(crc);
        }
    }
    return count;
}

size_t sira_words_places(const struct sira_word *words, size_t count, uint32_t *places)
{
    uint8_t stems[2][SIRA_WORD_BYTES_MAX];
    size_t lens[2] = {0, 0}, made = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t *stem = stems[i & 1], *before = stems[~i & 1];
        const size_t len = lens[i & 1] = sira_word_stem(words[i], stem);
        places[made++] = place_of(crc_over(crc_step(~0u, 'w'), stem, len));
        if (!sira_word_is_stop(words[i])) made += grams(words[i], places + made);
        if (i) {
            const uint32_t crc = crc_over(crc_step(~0u, 'b'), before, lens[~i & 1]);
            places[made++] = place_of(crc_over(crc_step(crc, ' '), stem, len));
        }
    }
    return made;
}

size_t sira_places_unique(uint32_t *places, size_t count, uint32_t *counts, uint32_t *spare)
{
    enum { DIGIT_BITS = 9, DIGITS = 1 << DIGIT_BITS };
    uint32_t *from = places, *to = spare;
    for (int shift = 0; shift < 2 * DIGIT_BITS; shift += DIGIT_BITS) { /* radix, least digit first */
        uint32_t begins[DIGITS] = {0}, sum = 0;
        for (size_t i = 0; i < count; i++) begins[from[i] >> shift & (DIGITS - 1)]++;
        for (size_t digit = 0; digit < DIGITS; digit++) {
            const uint32_t here = begins[digit];
            begins[digit] = sum;
            sum += here;
        }
        for (size_t i = 0; i < count; i++) to[begins[from[i] >> shift & (DIGITS - 1)]++] = from[i];
        uint32_t *other = from;
        from = to;
        to = other;
    }
    assert(from == places);
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        if (left && places[left - 1] == places[i]) {
            counts[left - 1]++;
        } else {
            places[left] = places[i];
            counts[left++] = 1;
        }
    }
    return left;
}

/* ---- terms ------------------------------------------------------------------------------------------------------- */
/* The finaliser of MurmurHash3 (Appleby, public domain): every bit of the input moves every bit of the output. */
static inline uint64_t stirred(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDu;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53u;
    return x ^ x >> 33;
}

uint64_t sira_term_of_stem(const uint8_t *stem, size_t len)
{
    uint64_t made = stirred(len);
    for (; len >= 8; stem += 8, len -= 8) made = stirred(made ^ packed(stem, 8));
    return stirred(made + packed(stem, len) + 1);
}

uint64_t sira_term_of_pair(uint64_t first, uint64_t second)
{
    return stirred(first * 3 + stirred(second) + 1);
}
