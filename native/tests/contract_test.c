/* Contracts: which texts are one, which messages fit, which two fit together. */
#include "build.h"

static char why[512];

/* A contract of texts given as name, text, name, text, ..., NULL. */
static struct sira_contract *contract(const char *const *texts)
{
    struct sira_contract *made = calloc(1, sizeof *made);
    const char *error = NULL;
    CHECK(made);
    for (; *texts; texts += 2)
        if (!sira_contract_add(made, texts[0], strlen(texts[0]), texts[1], strlen(texts[1]), &error)) {
            fprintf(stderr, "%s: %s\n", texts[1], error);
            exit(1);
        }
    return made;
}

#define CONTRACT(...) contract((const char *const[]){__VA_ARGS__, NULL})

struct tensor {
    const char *name;
    uint32_t dtype, ndim;
    uint64_t shape[4];
};

static bool fits(struct sira_contract *contract, const struct tensor *tensors, uint32_t count)
{
    static struct sira_env env;
    struct buf *b = buf_new();
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bytes;
        CHECK(sira_tensor_bytes(tensors[i].shape, tensors[i].ndim, tensors[i].dtype, UINT64_MAX, &bytes));
        put_tensor(b, tensors[i].name, tensors[i].dtype, tensors[i].shape, tensors[i].ndim, bytes, NULL, 0);
    }
    size_t error_at;
    CHECK_EQUAL(sira_env_parse(b->bytes, b->len, SIRA_ENV_HEAD, UINT64_MAX, &env, &error_at), SIRA_OK);
    memset(why, 'z', sizeof why);
    char *exact = malloc(160); /* the least room that is promised to do */
    CHECK(exact);
    const bool fit = sira_contract_check(contract, &env, exact, 160);
    if (!fit) {
        CHECK(memchr(exact, 0, 160) && sira_utf8_check((uint8_t *)exact, strlen(exact)) && !strchr(exact, '\n'));
        strcpy(why, exact);
    }
    free(exact);
    free(b);
    free(contract);
    return fit;
}

#define FITS(contract, ...) \
    fits(contract, (const struct tensor[]){__VA_ARGS__}, sizeof((const struct tensor[]){__VA_ARGS__}) / sizeof(struct tensor))

static void check_why(const char *wanted)
{
    if (!strcmp(why, wanted)) return;
    fprintf(stderr, "it says   %s\nand not   %s\n", why, wanted);
    exit(1);
}

static void test_texts(void)
{
    static const char *const good[] = {"f32", "f32[]", "f32 | bf16 [ B , H <= 4096 , 3 ]", "u8[*]", "f32[0]", "bool[n_1]", "bytes", "utf8[N]", "bytes|utf8",
        "bytes|f32[2,3]", "f32[18446744073709551615]", "f32[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]",
        "f32[abcdefghijklmnopqrstuvwxyz01234]", "f32[N<=1,N<=2]"};
    static const char *const bad[] = {"", " ", "f33", "float32", "f32|", "|f32", "f32,bf16", "f32[", "f32]", "f32[1", "f32[1,]", "f32[,1]", "f32[1]x", "f32[1][2]",
        "f32[-1]", "f32[1.5]", "f32[2x]", "f32[N<4]", "f32[N<=]", "f32[N<=x]", "f32[N<= =4]", "f32[N>=4]", "f32[3<=4]", "f32[**]", "f32[*<=4]",
        "f32[18446744073709551616]", "f32[N<=99999999999999999999]", "f32[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]",
        "f32[abcdefghijklmnopqrstuvwxyz012345]", "bytes[2,3]", "utf8[]", "F32", "f32[\xc3\xa9]", "f32\n"};
    struct sira_contract *c = calloc(1, sizeof *c);
    CHECK(c);
    const char *error;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        memset(c, 0, sizeof *c);
        CHECK(sira_contract_add(c, "x", 1, good[i], strlen(good[i]), &error));
        for (size_t cut = 0; cut < strlen(good[i]); cut++) { /* whatever is cut off: no read past the end */
            char *exact = malloc(cut ? cut : 1);
            CHECK(exact);
            memcpy(exact, good[i], cut);
            memset(c, 0, sizeof *c);
            sira_contract_add(c, "x", 1, exact, cut, &error);
            free(exact);
        }
    }
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        error = NULL;
        if (sira_contract_add(c, "x", 1, bad[i], strlen(bad[i]), &error)) fprintf(stderr, "taken: %s\n", bad[i]), exit(1);
        CHECK(error && strlen(error) > 4 && c->tensor_count == 0 && c->var_count == 0); /* as if it had not been tried */
    }
    for (int i = 0; i < SIRA_CONTRACT_TENSORS_MAX; i++) {
        char name[16], text[32];
        snprintf(name, sizeof name, "t%d", i);
        snprintf(text, sizeof text, "f32[V%d]", i);
        CHECK(sira_contract_add(c, name, strlen(name), text, strlen(text), &error));
    }
    CHECK(!sira_contract_add(c, "more", 4, "f32", 3, &error) && strstr(error, "32 tensors"));
    c->tensor_count--;
    CHECK(!sira_contract_add(c, "more", 4, "f32[V32]", 8, &error) && strstr(error, "32 dimension names"));
    CHECK(!sira_contract_add(c, "t0", 2, "f32", 3, &error) && strstr(error, "twice"));
    char name[256];
    memset(name, 'n', sizeof name);
    CHECK(!sira_contract_add(c, name, 256, "f32", 3, &error));
    CHECK(!sira_contract_add(c, "a\0b", 3, "f32", 3, &error));
    CHECK(!sira_contract_add(c, "\xff", 1, "f32", 3, &error));
    CHECK(sira_contract_add(c, name, 255, "f32", 3, &error));
    free(c);
}

static void test_dtypes_and_shapes(void)
{
    CHECK(FITS(CONTRACT("x", "f32"), {"x", SIRA_DT_F32, 3, {1, 2, 3}}));
    CHECK(FITS(CONTRACT("x", "f32"), {"x", SIRA_DT_F32, 0, {0}}));
    CHECK(FITS(CONTRACT("x", "f32|bf16[2]"), {"x", SIRA_DT_BF16, 1, {2}}));
    CHECK(!FITS(CONTRACT("x", "f32|bf16[2]"), {"x", SIRA_DT_F16, 1, {2}}));
    check_why("\"x\": wanted f32|bf16[2], got f16[2]");
    CHECK(!FITS(CONTRACT("x", "f32[2]"), {"x", SIRA_DT_F32, 1, {3}}));
    check_why("\"x\": wanted f32[2], got f32[3]");
    CHECK(!FITS(CONTRACT("x", "f32[]"), {"x", SIRA_DT_F32, 1, {1}}));
    CHECK(!FITS(CONTRACT("x", "f32[*]"), {"x", SIRA_DT_F32, 0, {0}}));
    check_why("\"x\": wanted f32[*], got f32[]");
    CHECK(FITS(CONTRACT("x", "f32[*, *]"), {"x", SIRA_DT_F32, 2, {0, 1ull << 40}}));
    CHECK(FITS(CONTRACT("x", "f32[H<=4096, 3]"), {"x", SIRA_DT_F32, 2, {4096, 3}}));
    CHECK(!FITS(CONTRACT("x", "f32[H<=4096, 3]"), {"x", SIRA_DT_F32, 2, {4097, 3}}));
    check_why("\"x\": wanted f32[H<=4096, 3], got f32[4097, 3]");
}

static void test_one_name_is_one_size(void)
{
    CHECK(FITS(CONTRACT("x", "f32[N, N]"), {"x", SIRA_DT_F32, 2, {4, 4}}));
    CHECK(!FITS(CONTRACT("x", "f32[N, N]"), {"x", SIRA_DT_F32, 2, {4, 5}}));
    check_why("\"x\": wanted f32[N, N], got f32[4, 5] (N was 4 before)");
    CHECK(FITS(CONTRACT("x", "f32[B, N]", "y", "u8[N, B]"), {"y", SIRA_DT_U8, 2, {5, 4}}, {"x", SIRA_DT_F32, 2, {4, 5}}));
    CHECK(!FITS(CONTRACT("x", "f32[B, N]", "y", "u8[N, B]"), {"y", SIRA_DT_U8, 2, {4, 5}}, {"x", SIRA_DT_F32, 2, {4, 5}}));
    check_why("\"y\": wanted u8[N, B], got u8[4, 5] (N was 5 before)");
    CHECK(!FITS(CONTRACT("x", "f32[N]", "y", "f32[N<=9]"), {"x", SIRA_DT_F32, 1, {10}}, {"y", SIRA_DT_F32, 1, {10}}));
    check_why("\"y\": wanted f32[N<=9], got f32[10]");
    CHECK(FITS(CONTRACT("x", "f32[N]"), {"x", SIRA_DT_F32, 1, {0}}));
    CHECK(!FITS(CONTRACT("x", "f32[N, N]"), {"x", SIRA_DT_F32, 2, {0, 1}}));
}

static void test_exactly_the_named_tensors(void)
{
    CHECK(!FITS(CONTRACT("x", "f32", "y", "f32[2]"), {"x", SIRA_DT_F32, 0, {0}}));
    check_why("\"y\": wanted f32[2], but it is missing");
    CHECK(!FITS(CONTRACT("x", "f32"), {"x", SIRA_DT_F32, 0, {0}}, {"extra\n\x1b", SIRA_DT_U8, 0, {0}}));
    check_why("\"extra\?\?\": not in the contract, got u8");
    struct sira_contract *empty = calloc(1, sizeof *empty);
    CHECK(empty);
    CHECK(fits(empty, NULL, 0));
    /* Long names are cut at a whole character, and the line still ends in its room. */
    static char name[256];
    memset(name, 'n', 39);
    for (int i = 39; i < 255; i += 2) memcpy(name + i, "\xc3\xa9", 2);
    CHECK(!FITS(CONTRACT(name, "f32[1000000000000000000, 1000000000000000000, 1000000000000000000, 1000000000000000000, 1000000000000000000]"),
                {"x", SIRA_DT_F32, 0, {0}}));
    CHECK(strstr(why, "nnn...\": wanted f32[1000") && strlen(why) == 159);
}

static void test_bodies(void)
{
    static struct sira_env env;
    size_t error_at;
    struct buf *b = buf_new();
    put_tensor(b, "", SIRA_DT_UTF8, NULL, 0, 0, "hello", 5); /* no shape sent: it has one all the same */
    CHECK_EQUAL(sira_env_parse(b->bytes, b->len, 0, 100, &env, &error_at), SIRA_OK);
    static const struct {
        const char *text;
        bool fits;
    } table[] = {{"utf8", true}, {"bytes|utf8", true}, {"bytes", false}, {"utf8[5]", true}, {"utf8[4]", false}, {"utf8[N<=5]", true}, {"utf8[N<=4]", false},
                 {"u8[5]", false}, {"f32|utf8[1,5]", false}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct sira_contract *c = CONTRACT("", table[i].text);
        CHECK_EQUAL(sira_contract_check(c, &env, why, sizeof why), table[i].fits);
        free(c);
    }
    free(b);
}

static bool unify(struct sira_contract *a, struct sira_contract *b)
{
    char reverse[512];
    const bool back = sira_contract_unify(b, a, reverse, sizeof reverse);
    memset(why, 'z', sizeof why);
    const bool fit = sira_contract_unify(a, b, why, sizeof why);
    CHECK_EQUAL(fit, back); /* who asks whom does not matter */
    if (!fit) {
        const char *line = strchr(why, '\n');
        CHECK(memchr(why, 0, sizeof why) && why[0] == '-' && line && line[1] == '+' && !strchr(line + 1, '\n'));
    }
    free(a);
    free(b);
    return fit;
}

static void test_two_contracts_that_some_message_fits(void)
{
    CHECK(unify(CONTRACT("x", "f32"), CONTRACT("x", "f32|bf16[N]")));
    CHECK(unify(CONTRACT("x", "f32[N, 3]"), CONTRACT("x", "f32[2, M]")));
    CHECK(unify(CONTRACT("x", "f32[N, M]"), CONTRACT("x", "f32[N, N]")));
    CHECK(unify(CONTRACT("x", "f32[N]", "y", "f32[M]"), CONTRACT("y", "f32[N]", "x", "f32[M]"))); /* names are each side's own */
    CHECK(unify(CONTRACT("x", "f32[N<=4]"), CONTRACT("x", "f32[4]")));
    CHECK(unify(CONTRACT("x", "f32[N<=4]"), CONTRACT("x", "f32[K<=0]")));
    CHECK(unify(CONTRACT("x", "f32[*]", "y", "f32[*]"), CONTRACT("x", "f32[N<=4]", "y", "f32[N]")));
    CHECK(unify(CONTRACT("x", "bytes|f32"), CONTRACT("x", "f32|bytes[2, 3]")));
    CHECK(unify(CONTRACT("x", "bytes"), CONTRACT("x", "bytes|f32[N]")));
}

static void test_two_contracts_that_no_message_fits(void)
{
    CHECK(!unify(CONTRACT("x", "f32"), CONTRACT("x", "u8")));
    check_why("- \"x\": f32\n+ \"x\": u8 (no dtype in common)");
    CHECK(!unify(CONTRACT("x", "f32[N]"), CONTRACT("x", "f32[N, M]")));
    check_why("- \"x\": f32[N]\n+ \"x\": f32[N, M] (another number of dimensions)");
    CHECK(!unify(CONTRACT("x", "f32[N, 3]"), CONTRACT("x", "f32[N, 4]")));
    check_why("- \"x\": f32[N, 3]\n+ \"x\": f32[N, 4] (no size fits dimension 1)");
    CHECK(!unify(CONTRACT("x", "f32", "y", "u8"), CONTRACT("x", "f32")));
    check_why("- \"y\": u8\n+ \"y\": absent");
    CHECK(!unify(CONTRACT("x", "f32"), CONTRACT("x", "f32", "y", "u8[N<=3]")));
    check_why("- \"y\": absent\n+ \"y\": u8[N<=3]");
    CHECK(!unify(CONTRACT("x", "bytes|f32"), CONTRACT("x", "u8|bytes[2, 3]")));
    CHECK(!unify(CONTRACT("x", "f32[N<=4]"), CONTRACT("x", "f32[5]")));
    CHECK(!unify(CONTRACT("x", "f32[N, N]"), CONTRACT("x", "f32[3, 4]")));
    /* Only names tie these together: across tensors, through both sides, through a shape that one side leaves open. */
    CHECK(!unify(CONTRACT("x", "f32[N]", "y", "f32[N]"), CONTRACT("x", "f32[3]", "y", "f32[4]")));
    CHECK(!unify(CONTRACT("x", "f32[A, A, B]"), CONTRACT("x", "f32[2, C, C]", "y", "u8")));
    CHECK(!unify(CONTRACT("x", "f32[A, A, B]", "y", "u8[B]"), CONTRACT("x", "f32[2, C, C]", "y", "u8[3]")));
    CHECK(unify(CONTRACT("x", "f32[A, A, B]", "y", "u8[B]"), CONTRACT("x", "f32[2, C, C]", "y", "u8[2]")));
    CHECK(!unify(CONTRACT("x", "f32[N<=4]", "y", "f32[N]"), CONTRACT("x", "f32", "y", "f32[8]")));
    CHECK(!unify(CONTRACT("x", "f32[N]", "y", "f32[N<=4]"), CONTRACT("x", "f32[8]", "y", "f32[*]")));
    CHECK(!unify(CONTRACT("x", "f32[*]", "y", "f32[N]", "z", "f32[N]"), CONTRACT("x", "f32[M<=4]", "y", "f32[M]", "z", "f32[8]")));
    CHECK(unify(CONTRACT("x", "f32[*]", "y", "f32[N]", "z", "f32[N]"), CONTRACT("x", "f32[M<=4]", "y", "f32[M]", "z", "f32[4]")));
    static char name[256];
    memset(name, 'n', 255);
    CHECK(!unify(CONTRACT(name, "bool|u8|u16|u32|u64|i8|i16|i32|i64|f16|f32|f64|bf16|f8e4m3fn|f8e5m2|f8e4m3fnuz|f8e5m2fnuz|i4|u4|c64|c128"
                                "[abcdefghijklmnopqrstuvwxyz00001,abcdefghijklmnopqrstuvwxyz00002,abcdefghijklmnopqrstuvwxyz00003]"),
                 CONTRACT(name, "f32[1,2]")));
}

int main(void)
{
    test_texts();
    test_dtypes_and_shapes();
    test_one_name_is_one_size();
    test_exactly_the_named_tensors();
    test_bodies();
    test_two_contracts_that_some_message_fits();
    test_two_contracts_that_no_message_fits();
    return 0;
}
