/* libFuzzer: lines `name=text` make a contract; an empty line starts a second one, another the sizes of a message.
 * What holds: a contract written out reads back the same; unify does not care who asks; and where one message fits
 * both contracts, unify says so. */
#include "../contract.h"
#include "invariants.h"

static struct sira_contract first, second, again;
static struct sira_env env;

/* Take lines up to an empty one; true if every line was a contract. */
static bool read_contract(const uint8_t **at, const uint8_t *end, struct sira_contract *contract)
{
    bool good = true;
    contract->tensor_count = contract->var_count = 0;
    while (*at != end) {
        const uint8_t *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        *at = stop == end ? end : stop + 1;
        if (stop == line) break;
        const uint8_t *mid = memchr(line, '=', (size_t)(stop - line));
        if (!mid) return false;
        const uint32_t tensors = contract->tensor_count, vars = contract->var_count;
        const char *error = NULL;
        if (sira_contract_add(contract, (const char *)line, (size_t)(mid - line), (const char *)mid + 1, (size_t)(stop - mid - 1), &error)) {
            MUST(contract->tensor_count == tensors + 1);
            continue;
        }
        MUST(error && contract->tensor_count == tensors && contract->var_count == vars);
        good = false;
    }
    return good;
}

static void must_read_back(const struct sira_contract *contract)
{
    static char text[4096]; /* 16 dimensions of a 31-byte name and a 20-digit bound, all dtypes: under 1,300 bytes */
    again.tensor_count = again.var_count = 0;
    for (uint32_t i = 0; i < contract->tensor_count; i++) {
        const struct sira_contract_tensor *tensor = &contract->tensors[i];
        struct sira_words words = sira_words_start(text, sizeof text);
        sira_words_wanted(&words, contract, tensor);
        const char *error;
        MUST(sira_contract_add(&again, tensor->name, strlen(tensor->name), text, strlen(text), &error));
        MUST(again.tensors[i].dtypes == tensor->dtypes && again.tensors[i].ndim == tensor->ndim);
        for (int32_t j = 0; j < tensor->ndim; j++) {
            const struct sira_contract_dim *a = &again.tensors[i].dims[j], *b = &tensor->dims[j];
            MUST(a->kind == b->kind && a->var == b->var && a->size == b->size);
        }
    }
    MUST(again.var_count == contract->var_count);
}

/* A message with the tensors of `contract`, dtypes and small sizes from the bytes at *at. */
static void make_message(const struct sira_contract *contract, const uint8_t *at, const uint8_t *end)
{
    env.tensor_count = env.dim_count = 0;
    for (uint32_t i = 0; i < contract->tensor_count; i++) {
        const struct sira_contract_tensor *wanted = &contract->tensors[i];
        struct sira_tensor *tensor = &env.tensors[env.tensor_count++];
        tensor->name = (struct sira_slice){(const uint8_t *)wanted->name, strlen(wanted->name)};
        tensor->dtype = 1 + (at != end ? *at++ : 11) % (SIRA_DT_COUNT - 1);
        tensor->ndim = wanted->ndim >= 0 ? (uint32_t)wanted->ndim : (at != end ? *at++ : 1) % 4;
        if (tensor->dtype == SIRA_DT_BYTES || tensor->dtype == SIRA_DT_UTF8) tensor->ndim = 1; /* as the parser has it */
        tensor->shape_index = env.dim_count;
        for (uint32_t j = 0; j < tensor->ndim; j++) env.dims[env.dim_count++] = (at != end ? *at++ : 2) % 8;
    }
}

static bool fits(const struct sira_contract *contract)
{
    char why[160];
    memset(why, 'z', sizeof why);
    const bool fit = sira_contract_check(contract, &env, why, sizeof why);
    MUST(fit || (memchr(why, 0, sizeof why) && why[0] && sira_utf8_check((const uint8_t *)why, strlen(why))));
    return fit;
}

static bool unifies(const struct sira_contract *a, const struct sira_contract *b)
{
    char why[512];
    memset(why, 'z', sizeof why);
    const bool fit = sira_contract_unify(a, b, why, sizeof why);
    if (fit) return true;
    MUST(memchr(why, 0, sizeof why) && sira_utf8_check((const uint8_t *)why, strlen(why)));
    const char *line = strchr(why, '\n');
    MUST(why[0] == '-' && line && line[1] == '+' && !strchr(line + 1, '\n'));
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!len) return 0;
    const uint8_t *at = data, *end = data + len;
    read_contract(&at, end, &first);
    read_contract(&at, end, &second);
    must_read_back(&first);
    MUST(unifies(&first, &first));
    const bool both = unifies(&first, &second);
    MUST(both == unifies(&second, &first));
    make_message(&first, at, end);
    const bool fits_first = fits(&first), fits_second = fits(&second);
    MUST(!(fits_first && fits_second) || both);
    return 0;
}
