/* Tensor contracts: reading their text, and whether a message fits. */
#include "contract.h"

#include <stdio.h>

/* ---- words ------------------------------------------------------------------------------------------------ */

struct sira_words sira_words_start(char *out, size_t len)
{
    assert(len > 0);
    out[0] = 0;
    return (struct sira_words){out, out + len - 1};
}

static void put(struct sira_words *words, const char *text, size_t len)
{
    const size_t room = (size_t)(words->end - words->at);
    if (len > room) {
        len = room;
        while (len && ((uint8_t)text[len] & 0xc0) == 0x80) len--; /* not through a character */
        words->end = words->at + len; /* nothing after a cut */
    }
    memcpy(words->at, text, len);
    words->at += len;
    *words->at = 0;
}

void sira_words_text(struct sira_words *words, const char *text)
{
    put(words, text, strlen(text));
}

void sira_words_number(struct sira_words *words, uint64_t number)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    sira_words_text(words, digits);
}

void sira_words_name(struct sira_words *words, const uint8_t *name, size_t len)
{
    enum { SHOWN_MAX = 40 };
    char shown[SHOWN_MAX];
    size_t shown_len = len < SHOWN_MAX ? len : SHOWN_MAX;
    while (shown_len && shown_len < len && (name[shown_len] & 0xc0) == 0x80) shown_len--;
    for (size_t i = 0; i < shown_len; i++) shown[i] = name[i] < 0x20 || name[i] == 0x7f ? '?' : (char)name[i];
    put(words, "\"", 1);
    put(words, shown, shown_len);
    sira_words_text(words, shown_len < len ? "...\"" : "\"");
}

void sira_words_wanted(struct sira_words *words, const struct sira_contract *contract,
                       const struct sira_contract_tensor *tensor)
{
    const char *between = "";
    for (uint32_t dtype = 1; dtype < SIRA_DT_COUNT; dtype++) {
        if (!(tensor->dtypes >> dtype & 1)) continue;
        sira_words_text(words, between);
        sira_words_text(words, sira_dtype_name(dtype));
        between = "|";
    }
    if (tensor->ndim < 0) return;
    put(words, "[", 1);
    for (int32_t i = 0; i < tensor->ndim; i++) {
        const struct sira_contract_dim *dim = &tensor->dims[i];
        if (i) put(words, ", ", 2);
        if (dim->kind == SIRA_DIM_ANY) put(words, "*", 1);
        if (dim->kind == SIRA_DIM_VAR || dim->kind == SIRA_DIM_BOUNDED) sira_words_text(words, contract->vars[dim->var]);
        if (dim->kind == SIRA_DIM_BOUNDED) put(words, "<=", 2);
        if (dim->kind == SIRA_DIM_BOUNDED || dim->kind == SIRA_DIM_FIXED) sira_words_number(words, dim->size);
    }
    put(words, "]", 1);
}

/* ---- parsing ---------------------------------------------------------------------------------------------- */

struct text {
    const char *at, *end;
};

static void skip_spaces(struct text *text)
{
    while (text->at != text->end && (*text->at == ' ' || *text->at == '\t')) text->at++;
}

/* Is `want` next, spaces before it aside? Then it is taken. */
static bool take(struct text *text, char want)
{
    skip_spaces(text);
    if (text->at == text->end || *text->at != want) return false;
    text->at++;
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

/* Letters, digits, underscores; empty if something else is next. */
static struct text take_word(struct text *text)
{
    skip_spaces(text);
    struct text word = {text->at, text->at};
    while (text->at != text->end && is_word(*text->at)) text->at++;
    word.end = text->at;
    return word;
}

/* Decimal digits of 64 bits at most. */
static bool to_number(struct text word, uint64_t *out)
{
    uint64_t number = 0;
    if (word.at == word.end) return false;
    for (const char *p = word.at; p != word.end; p++) {
        if (!is_digit(*p)) return false;
        if (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, *p - '0', &number)) return false;
    }
    *out = number;
    return true;
}

/* Index of the dimension name `word` in contract->vars, added if new; -1 and *error if there is no room. */
static int32_t intern(struct sira_contract *contract, struct text word, const char **error)
{
    const size_t len = (size_t)(word.end - word.at);
    if (len >= sizeof contract->vars[0]) {
        *error = "a dimension name is longer than 31 bytes";
        return -1;
    }
    for (uint32_t i = 0; i < contract->var_count; i++)
        if (strlen(contract->vars[i]) == len && !memcmp(contract->vars[i], word.at, len)) return (int32_t)i;
    if (contract->var_count == SIRA_CONTRACT_VARS_MAX) {
        *error = "more than 32 dimension names";
        return -1;
    }
    memcpy(contract->vars[contract->var_count], word.at, len);
    contract->vars[contract->var_count][len] = 0;
    return (int32_t)contract->var_count++;
}

static bool parse_dim(struct sira_contract *contract, struct text *text, struct sira_contract_dim *dim, const char **error)
{
    *dim = (struct sira_contract_dim){SIRA_DIM_ANY, 0, 0};
    if (take(text, '*')) return true;
    const struct text word = take_word(text);
    if (word.at == word.end) {
        *error = "a dimension is a number, a name, name<=number or *";
        return false;
    }
    if (is_digit(*word.at)) {
        dim->kind = SIRA_DIM_FIXED;
        if (to_number(word, &dim->size)) return true;
        *error = "a dimension is not a number of 64 bits";
        return false;
    }
    const int32_t var = intern(contract, word, error);
    if (var < 0) return false;
    dim->kind = SIRA_DIM_VAR;
    dim->var = (uint8_t)var;
    if (!take(text, '<')) return true;
    dim->kind = SIRA_DIM_BOUNDED;
    if (text->at != text->end && *text->at == '=') {
        text->at++;
        if (to_number(take_word(text), &dim->size)) return true;
    }
    *error = "a bound is written name<=number";
    return false;
}

static bool parse_dims(struct sira_contract *contract, struct text *text, struct sira_contract_tensor *tensor,
                       const char **error)
{
    tensor->ndim = 0;
    if (take(text, ']')) return true; /* [] is 0-d */
    do {
        if (tensor->ndim == SIRA_CONTRACT_DIMS_MAX) {
            *error = "more than 16 dimensions";
            return false;
        }
        if (!parse_dim(contract, text, &tensor->dims[tensor->ndim], error)) return false;
        tensor->ndim++;
    } while (take(text, ','));
    if (take(text, ']')) return true;
    *error = "a shape ends with ]";
    return false;
}

static bool parse_tensor(struct sira_contract *contract, struct text text, struct sira_contract_tensor *tensor,
                         const char **error)
{
    tensor->dtypes = 0;
    tensor->ndim = -1;
    do {
        const struct text word = take_word(&text);
        const uint32_t dtype = sira_dtype_from_name(word.at, (size_t)(word.end - word.at));
        if (!dtype) {
            *error = "unknown dtype";
            return false;
        }
        tensor->dtypes |= UINT64_C(1) << dtype;
    } while (take(&text, '|'));
    if (take(&text, '[') && !parse_dims(contract, &text, tensor, error)) return false;
    skip_spaces(&text);
    if (text.at != text.end) {
        *error = "text after the contract";
        return false;
    }
    if (tensor->ndim >= 0 && tensor->ndim != 1 && !(tensor->dtypes & ~SIRA_BODY_DTYPES)) {
        *error = "bytes and utf8 have one dimension";
        return false;
    }
    return true;
}

bool sira_contract_add(struct sira_contract *contract, const char *name, size_t name_len, const char *text,
                       size_t text_len, const char **error)
{
    if (name_len > SIRA_NAME_BYTES_MAX || memchr(name, 0, name_len) || !sira_utf8_check((const uint8_t *)name, name_len)) {
        *error = "a tensor name is UTF-8 of at most 255 bytes";
        return false;
    }
    for (uint32_t i = 0; i < contract->tensor_count; i++) {
        if (strlen(contract->tensors[i].name) != name_len || memcmp(contract->tensors[i].name, name, name_len)) continue;
        *error = "a tensor is named twice";
        return false;
    }
    if (contract->tensor_count == SIRA_CONTRACT_TENSORS_MAX) {
        *error = "more than 32 tensors";
        return false;
    }
    struct sira_contract_tensor *tensor = &contract->tensors[contract->tensor_count];
    const uint32_t vars_before = contract->var_count;
    if (!parse_tensor(contract, (struct text){text, text + text_len}, tensor, error)) {
        contract->var_count = vars_before;
        return false;
    }
    memcpy(tensor->name, name, name_len);
    tensor->name[name_len] = 0;
    contract->tensor_count++;
    return true;
}

/* ---- checking --------------------------------------------------------------------------------------------- */

/* Sizes of the dimension names, as far as this message has told them. */
struct bindings {
    uint32_t known; /* bit per name */
    uint64_t size[SIRA_CONTRACT_VARS_MAX];
};

_Static_assert(SIRA_CONTRACT_VARS_MAX <= 32, "struct bindings has a bit per name");

static const struct sira_tensor *find_tensor(const struct sira_env *env, const char *name)
{
    const size_t len = strlen(name);
    for (uint32_t i = 0; i < env->tensor_count; i++)
        if (env->tensors[i].name.len == len && (!len || !memcmp(env->tensors[i].name.data, name, len)))
            return &env->tensors[i];
    return NULL;
}

/* The first dimension that does not fit, ndim if all do. Binds names on the way. */
static uint32_t first_misfit(const struct sira_contract_tensor *wanted, const uint64_t *shape, struct bindings *bound)
{
    for (uint32_t i = 0; i < (uint32_t)wanted->ndim; i++) {
        const struct sira_contract_dim *dim = &wanted->dims[i];
        if (dim->kind == SIRA_DIM_ANY) continue;
        if (dim->kind == SIRA_DIM_FIXED) {
            if (shape[i] != dim->size) return i;
            continue;
        }
        if (dim->kind == SIRA_DIM_BOUNDED && shape[i] > dim->size) return i;
        const uint32_t bit = UINT32_C(1) << dim->var;
        if (bound->known & bit && bound->size[dim->var] != shape[i]) return i;
        bound->known |= bit;
        bound->size[dim->var] = shape[i];
    }
    return (uint32_t)wanted->ndim;
}

/* `"x": wanted f32[N, N], got f32[3, 4]` */
static struct sira_words tell(const struct sira_contract *contract, const struct sira_contract_tensor *wanted,
                              const struct sira_tensor *got, const uint64_t *shape, char *why, size_t why_len)
{
    struct sira_words words = sira_words_start(why, why_len);
    sira_words_name(&words, (const uint8_t *)wanted->name, strlen(wanted->name));
    sira_words_text(&words, ": wanted ");
    sira_words_wanted(&words, contract, wanted);
    if (!got) {
        sira_words_text(&words, ", but it is missing");
        return words;
    }
    sira_words_text(&words, ", got ");
    sira_words_text(&words, sira_dtype_name(got->dtype));
    sira_words_text(&words, "[");
    for (uint32_t i = 0; i < got->ndim; i++) {
        if (i) sira_words_text(&words, ", ");
        sira_words_number(&words, shape[i]);
    }
    sira_words_text(&words, "]");
    return words;
}

static bool check_tensor(const struct sira_contract *contract, const struct sira_contract_tensor *wanted,
                         const struct sira_env *env, struct bindings *bound, char *why, size_t why_len)
{
    const struct sira_tensor *got = find_tensor(env, wanted->name);
    if (!got) {
        tell(contract, wanted, NULL, NULL, why, why_len);
        return false;
    }
    const uint64_t *shape = &env->dims[got->shape_index];
    if (!(wanted->dtypes >> got->dtype & 1) || (wanted->ndim >= 0 && (uint32_t)wanted->ndim != got->ndim)) {
        tell(contract, wanted, got, shape, why, why_len);
        return false;
    }
    if (wanted->ndim < 0) return true;
    const uint32_t misfit = first_misfit(wanted, shape, bound);
    if (misfit == (uint32_t)wanted->ndim) return true;
    struct sira_words words = tell(contract, wanted, got, shape, why, why_len);
    const struct sira_contract_dim *dim = &wanted->dims[misfit];
    if (dim->kind == SIRA_DIM_VAR || (dim->kind == SIRA_DIM_BOUNDED && shape[misfit] <= dim->size)) {
        sira_words_text(&words, " (");
        sira_words_text(&words, contract->vars[dim->var]);
        sira_words_text(&words, " was ");
        sira_words_number(&words, bound->size[dim->var]);
        sira_words_text(&words, " before)");
    }
    return false;
}

bool sira_contract_check(const struct sira_contract *contract, const struct sira_env *env, char *why, size_t why_len)
{
    assert(why_len >= 160);
    struct bindings bound;
    bound.known = 0;
    for (uint32_t i = 0; i < contract->tensor_count; i++)
        if (!check_tensor(contract, &contract->tensors[i], env, &bound, why, why_len)) return false;
    if (env->tensor_count == contract->tensor_count) return true;

    for (uint32_t i = 0; i < env->tensor_count; i++) { /* all wanted are there: name one that is too many */
        const struct sira_slice name = env->tensors[i].name;
        uint32_t at = 0;
        while (at < contract->tensor_count && (strlen(contract->tensors[at].name) != name.len ||
                                               (name.len && memcmp(contract->tensors[at].name, name.data, name.len))))
            at++;
        if (at < contract->tensor_count) continue;
        struct sira_words words = sira_words_start(why, why_len);
        sira_words_name(&words, name.data, name.len);
        sira_words_text(&words, ": not in the contract, got ");
        sira_words_text(&words, sira_dtype_name(env->tensors[i].dtype));
        break;
    }
    return false;
}
