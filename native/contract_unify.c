/* Whether two contracts can both be kept by one message: a publisher's and a subscriber's, say. */
#include "contract.h"

/* Dimension names of both sides, those of the second after those of the first, as sets of names that must be
 * one size (union-find); each set's root knows its size or its lowest bound. */
enum { NODES = 2 * SIRA_CONTRACT_VARS_MAX };

struct sizes {
    uint8_t parent[NODES];
    bool known[NODES];
    uint64_t size[NODES];
    uint64_t upper[NODES];
};

/* One side of a comparison. */
struct side {
    const struct sira_contract *contract;
    uint32_t first_node;
};

static void start(struct sizes *sizes)
{
    for (uint32_t i = 0; i < NODES; i++) {
        sizes->parent[i] = (uint8_t)i;
        sizes->known[i] = false;
        sizes->size[i] = 0;
        sizes->upper[i] = UINT64_MAX;
    }
}

static uint32_t root(const struct sizes *sizes, uint32_t node)
{
    while (sizes->parent[node] != node) node = sizes->parent[node];
    return node;
}

/* The three below are false when no size is left that the set of `node` could have. */
static bool fix(struct sizes *sizes, uint32_t node, uint64_t size)
{
    node = root(sizes, node);
    if (sizes->known[node] && sizes->size[node] != size) return false;
    sizes->known[node] = true;
    sizes->size[node] = size;
    return size <= sizes->upper[node];
}

static bool bound(struct sizes *sizes, uint32_t node, uint64_t upper)
{
    node = root(sizes, node);
    if (upper < sizes->upper[node]) sizes->upper[node] = upper;
    return !sizes->known[node] || sizes->size[node] <= sizes->upper[node];
}

static bool join(struct sizes *sizes, uint32_t a, uint32_t b)
{
    a = root(sizes, a);
    b = root(sizes, b);
    if (a == b) return true;
    sizes->parent[b] = (uint8_t)a;
    if (!bound(sizes, a, sizes->upper[b])) return false;
    return !sizes->known[b] || fix(sizes, a, sizes->size[b]);
}

static bool is_named(const struct sira_contract_dim *dim)
{
    return dim->kind == SIRA_DIM_VAR || dim->kind == SIRA_DIM_BOUNDED;
}

/* What one dimension says for itself, whatever the other side says. */
static bool keep_bound(struct sizes *sizes, const struct side *side, const struct sira_contract_dim *dim)
{
    return dim->kind != SIRA_DIM_BOUNDED || bound(sizes, side->first_node + dim->var, dim->size);
}

static bool meet(struct sizes *sizes, const struct side *a, const struct sira_contract_dim *da, const struct side *b,
                 const struct sira_contract_dim *db)
{
    if (!keep_bound(sizes, a, da) || !keep_bound(sizes, b, db)) return false;
    if (da->kind == SIRA_DIM_ANY || db->kind == SIRA_DIM_ANY) return true;
    if (is_named(da) && is_named(db)) return join(sizes, a->first_node + da->var, b->first_node + db->var);
    if (is_named(da)) return fix(sizes, a->first_node + da->var, db->size);
    if (is_named(db)) return fix(sizes, b->first_node + db->var, da->size);
    return da->size == db->size;
}

static const struct sira_contract_tensor *find(const struct sira_contract *contract, const char *name)
{
    for (uint32_t i = 0; i < contract->tensor_count; i++)
        if (!strcmp(contract->tensors[i].name, name)) return &contract->tensors[i];
    return NULL;
}

/* Why no tensor of that name fits both; NULL if one does. */
static const char *part(struct sizes *sizes, const struct side *a, const struct sira_contract_tensor *ta,
                        const struct side *b, const struct sira_contract_tensor *tb, int32_t *misfit)
{
    uint64_t dtypes = ta->dtypes & tb->dtypes;
    if (!dtypes) return "no dtype in common";
    if (ta->ndim >= 0 && tb->ndim >= 0 && ta->ndim != tb->ndim) return "another number of dimensions";
    const int32_t ndim = ta->ndim >= 0 ? ta->ndim : tb->ndim;
    if (ndim >= 0 && ndim != 1) dtypes &= ~SIRA_BODY_DTYPES; /* they have one */
    if (!dtypes) return "bytes and utf8 have one dimension";
    for (int32_t i = 0; i < ndim; i++) {
        *misfit = i;
        if (ta->ndim < 0 ? !keep_bound(sizes, b, &tb->dims[i])
            : tb->ndim < 0 ? !keep_bound(sizes, a, &ta->dims[i])
                           : !meet(sizes, a, &ta->dims[i], b, &tb->dims[i]))
            return "no size fits dimension ";
    }
    *misfit = -1;
    return NULL;
}

static void put_line(struct sira_words *words, const char *sign, const struct side *side, const char *name,
                     const struct sira_contract_tensor *tensor)
{
    sira_words_text(words, sign);
    sira_words_name(words, (const uint8_t *)name, strlen(name));
    sira_words_text(words, ": ");
    if (tensor)
        sira_words_wanted(words, side->contract, tensor);
    else
        sira_words_text(words, "absent");
}

/* Two lines; each has half of the room, so that a long first one cannot hide the second. */
static void tell(const struct side *a, const struct sira_contract_tensor *ta, const struct side *b,
                 const struct sira_contract_tensor *tb, const char *reason, int32_t misfit, char *why, size_t why_len)
{
    const char *name = ta ? ta->name : tb->name;
    struct sira_words words = sira_words_start(why, why_len / 2);
    put_line(&words, "- ", a, name, ta);
    words.end = why + why_len - 1;
    sira_words_text(&words, "\n");
    put_line(&words, "+ ", b, name, tb);
    if (!reason) return;
    sira_words_text(&words, " (");
    sira_words_text(&words, reason);
    if (misfit >= 0) sira_words_number(&words, (uint64_t)misfit);
    sira_words_text(&words, ")");
}

bool sira_contract_unify(const struct sira_contract *a, const struct sira_contract *b, char *why, size_t why_len)
{
    assert(why_len >= 512);
    const struct side left = {a, 0}, right = {b, SIRA_CONTRACT_VARS_MAX};
    struct sizes sizes;
    start(&sizes);
    for (uint32_t i = 0; i < a->tensor_count; i++) {
        const struct sira_contract_tensor *ta = &a->tensors[i], *tb = find(b, ta->name);
        int32_t misfit = -1;
        const char *reason = tb ? part(&sizes, &left, ta, &right, tb, &misfit) : NULL;
        if (tb && !reason) continue;
        tell(&left, ta, &right, tb, reason, misfit, why, why_len);
        return false;
    }
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        if (find(a, b->tensors[i].name)) continue;
        tell(&left, NULL, &right, &b->tensors[i], NULL, -1, why, why_len);
        return false;
    }
    return true;
}
