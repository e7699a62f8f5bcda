/* Words of texts of any bytes, in buffers of exactly their size; BM25 beside a plain table of who has what. */
#include "build.h"

#include "bm25.h"
#include "codes.h"
#include "words.h"

static uint64_t state = 42;

static uint32_t below(uint32_t limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % limit;
}

static void test_words_of_any_ascii(void)
{
    static const char alphabet[] = "aAzZ09_ .-singeding";
    for (int round = 0; round < 3000; round++) {
        const size_t len = below(round % 100 ? 40 : SIRA_TEXT_CHARS_MAX + 1);
        uint8_t *text = malloc(len ? len : 1), *lower = malloc(len ? len : 1);
        struct sira_word *words = malloc((len ? len : 1) * sizeof *words);
        CHECK(text && lower && words);
        for (size_t i = 0; i < len; i++)
            text[i] = round % 3 ? (uint8_t)alphabet[below(sizeof alphabet - 1)] : (uint8_t)below(128);
        const size_t count = sira_words_split(text, len, lower, words);
        size_t total = 0;
        for (size_t i = 0; i < count; i++) {
            uint8_t stem[SIRA_WORD_BYTES_MAX];
            CHECK(words[i].len > 0 && words[i].len <= SIRA_WORD_CHARS_MAX);
            const size_t left = sira_word_stem(words[i], stem);
            CHECK(left > 0 && left <= words[i].len);
            total += words[i].len;
        }
        CHECK(total <= len);
        const size_t most = sira_words_places_max(words, count);
        uint32_t *places = malloc((most ? most : 1) * sizeof *places), *counts = malloc((most ? most : 1) * sizeof *counts);
        uint32_t *spare = malloc((most ? most : 1) * sizeof *spare);
        CHECK(places && counts && spare);
        const size_t made = sira_words_places(words, count, places);
        CHECK(made <= most);
        const size_t unique = sira_places_unique(places, made, counts, spare);
        size_t counted = 0;
        for (size_t i = 0; i < unique; i++) {
            CHECK(places[i] < SIRA_PLACES && (!i || places[i - 1] < places[i]));
            counted += counts[i];
        }
        CHECK(counted == made);
        free(places), free(counts), free(spare), free(text), free(lower), free(words);
    }
}

static void test_words_of_other_scripts(void)
{
    /* 32 characters of four bytes, and one that is cut nowhere. */
    uint8_t *longest = malloc(SIRA_WORD_BYTES_MAX);
    CHECK(longest);
    for (int i = 0; i < SIRA_WORD_CHARS_MAX; i++) memcpy(longest + 4 * i, "\xf0\x9d\x94\xb8", 4);
    const struct sira_word words[] = {{longest, SIRA_WORD_BYTES_MAX}, {(const uint8_t *)"\xc3\x9f", 2}};
    uint32_t *places = malloc(sira_words_places_max(words, 2) * sizeof *places);
    CHECK(places);
    CHECK(sira_words_places(words, 2, places) == (1 + 32 + 31 + 30) + (1 + 1) + 1);
    free(places), free(longest);
}

enum { SLOTS = 40, TERMS = 60, STEPS = 20000 };

static void test_postings_are_who_has_what(void)
{
    static float held[SLOTS][TERMS]; /* weight; 0: it has it not */
    static bool stands[SLOTS];
    struct sira_bm25 *bm25 = sira_bm25_new(state);
    CHECK(bm25);
    for (int step = 0; step < STEPS; step++) {
        const uint32_t slot = below(SLOTS);
        CHECK(sira_bm25_drop(bm25, slot) == stands[slot]);
        stands[slot] = below(3) > 0;
        memset(held[slot], 0, sizeof held[slot]);
        if (stands[slot]) {
            struct sira_weighed_term terms[48];
            const size_t count = below(48);
            for (size_t i = 0; i < count; i++) {
                terms[i] = (struct sira_weighed_term){below(TERMS) * 1000003ull, (float)(1 + below(3))};
                held[slot][terms[i].term / 1000003] += terms[i].weight;
            }
            CHECK(sira_bm25_put(bm25, slot, terms, sira_terms_unique(terms, count)));
        }
        if (step % 100) continue;
        size_t standing = 0;
        for (uint32_t i = 0; i < SLOTS; i++) standing += stands[i];
        CHECK(sira_bm25_count(bm25) == standing && sira_bm25_slots(bm25) <= SLOTS);
        for (uint32_t term = 0; term < TERMS; term++) {
            uint32_t have = 0;
            for (uint32_t i = 0; i < SLOTS; i++) {
                const bool has = stands[i] && held[i][term] > 0;
                have += has;
                CHECK(sira_bm25_has(bm25, i, term * 1000003ull) == has);
            }
            CHECK(sira_bm25_have(bm25, term * 1000003ull) == have);
            float scores[SLOTS] = {0};
            const struct sira_weighed_term asked = {term * 1000003ull, 1};
            sira_bm25_scores(bm25, &asked, 1, 2, 0.5f, scores);
            for (uint32_t i = 0; i < SLOTS; i++) CHECK((scores[i] > 0) == (stands[i] && held[i][term] > 0));
        }
    }
    sira_bm25_free(bm25);
}

static void test_distances_in_memory_of_exactly_their_size(void)
{
    static const size_t of_dims[] = {1, 2, 63, 64, 65, 300, 512, 513, 1000, 4096, 5000};
    for (size_t each = 0; each < sizeof of_dims / sizeof *of_dims; each++) {
        const size_t dims = of_dims[each], words = sira_codes_words(dims), rows = 1 + below(4);
        CHECK(words * 64 >= (dims < SIRA_CODE_BITS_MAX ? dims : SIRA_CODE_BITS_MAX) && words * 64 <= SIRA_CODE_BITS_MAX);
        float *vector = malloc(dims * sizeof *vector), *room = malloc(sira_codes_room(dims) * sizeof *room);
        uint64_t *codes = malloc(rows * words * sizeof *codes);
        uint64_t *planes = malloc(SIRA_CODE_PLANES * words * sizeof *planes);
        uint16_t *distances = malloc(rows * sizeof *distances);
        CHECK(vector && room && codes && planes && distances);
        for (size_t row = 0; row < rows; row++) {
            for (size_t i = 0; i < dims; i++) vector[i] = (float)below(2001) - 1000;
            sira_codes_of(vector, dims, room, codes + row * words);
        }
        sira_codes_planes(vector, dims, room, planes); /* the last row's own: the highest plane is its code */
        CHECK(memcmp(planes + (SIRA_CODE_PLANES - 1) * words, codes + (rows - 1) * words, words * sizeof *codes) == 0);
        sira_codes_distances(codes, rows, words, planes, distances);
        for (size_t row = 0; row < rows; row++) {
            unsigned sum = 0;
            for (size_t bit = 0; bit < SIRA_CODE_PLANES * words * 64; bit++) {
                const size_t plane = bit / (words * 64), at = bit % (words * 64);
                const uint64_t other = codes[row * words + at / 64] ^ planes[plane * words + at / 64];
                sum += (unsigned)(other >> at % 64 & 1) << plane;
            }
            CHECK(distances[row] == sum);
            CHECK(distances[row] >= distances[rows - 1]);
        }
        free(vector), free(room), free(codes), free(planes), free(distances);
    }
}

static void test_products_in_memory_of_exactly_their_size(void)
{
    for (size_t dims = 1; dims < 140; dims++) {
        float *a = malloc(dims * sizeof *a), *b = malloc(dims * sizeof *b), sum = 0;
        CHECK(a && b);
        for (size_t i = 0; i < dims; i++) {
            a[i] = (float)below(201) - 100; /* whole numbers: no order of adding them rounds */
            b[i] = (float)below(201) - 100;
            sum += a[i] * b[i];
        }
        CHECK(sira_product(a, b, dims) == sum);
        free(a), free(b);
    }
}

int main(void)
{
    sira_words_begin();
    test_words_of_any_ascii();
    test_words_of_other_scripts();
    test_postings_are_who_has_what();
    test_distances_in_memory_of_exactly_their_size();
    test_products_in_memory_of_exactly_their_size();
    return 0;
}
