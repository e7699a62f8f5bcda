/* Messages whose tensors lie in shared memory, and messages out of links, which no node has looked at. */
#include "message.h"

/* Where the tensors of the head in sira_message_scratch lie: one behind the other. false: they do not fit. */
static bool place_tensors(const uint8_t *data, size_t len)
{
    struct sira_env *env = &sira_message_scratch;
    size_t place = 0;
    for (uint32_t i = 0; i < env->tensor_count; i++) {
        struct sira_tensor *tensor = &env->tensors[i];
        if (!tensor->bytes) continue;
        place = sira_placed_at(place);
        if (place > len || tensor->bytes > len - place) return false;
        tensor->data = data + place;
        place += tensor->bytes;
    }
    return true;
}

/* Fill `self` (owned; taken over) from sira_message_scratch, whose tensors are placed. New reference, or NULL. */
static PyObject *fill_placed(struct message *self, PyObject *data_owner)
{
    if (sira_message_fill(self, &sira_message_scratch) == 0) {
        for (uint32_t i = 0; data_owner && i < self->view_count; i++)
            if (self->views[i].bytes) self->views[i].owner = Py_NewRef(data_owner);
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return NULL;
}

PyObject *sira_message_new_placed(PyTypeObject *type, PyObject *head_owner, const uint8_t *head, size_t head_len,
                                  PyObject *data_owner, const uint8_t *data, size_t len, PyObject *context)
{
    struct message *self = sira_message_allocate(type, head_owner, context); /* owned */
    if (!self) return NULL;
    self->assembled = true;
    size_t at = 0;
    const enum sira_status status =
        sira_env_parse(head, head_len, SIRA_ENV_HEAD, UINT64_MAX, &sira_message_scratch, &at);
    if (status != SIRA_OK) {
        sira_raise_status(status, at);
    } else if (!place_tensors(data, len)) {
        sira_raise("FRAME_CORRUPT", "the tensors take more than the %zu bytes that are there", len);
    } else {
        return fill_placed(self, data_owner);
    }
    Py_DECREF(self);
    return NULL;
}

static bool is_same(struct sira_slice a, struct sira_slice b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

PyObject *sira_message_new_linked(PyTypeObject *type, PyObject *owner, uint8_t *data, size_t len,
                                  const struct sira_linked *linked, PyObject *data_owner, const uint8_t *placed,
                                  size_t placed_len, PyObject *context)
{
    struct message *self = sira_message_allocate(type, owner, context); /* owned */
    if (!self) return NULL;
    self->assembled = data_owner != NULL;
    struct sira_env *env = &sira_message_scratch;
    size_t at = 0;
    const enum sira_status status = sira_env_parse_stamped(data, len, linked->stamp_len,
                                                           data_owner ? SIRA_ENV_HEAD : 0, UINT64_MAX, env, &at);
    if (status != SIRA_OK) {
        sira_raise_status(status, at);
    } else if (!is_same(env->topic, linked->topic)) {
        sira_raise("PROTOCOL_ERROR", "a message of another topic than its cell");
    } else if (env->priority != linked->priority) {
        sira_raise("PROTOCOL_ERROR", "a message says priority %u, its slot %u", env->priority, linked->priority);
    } else if (data_owner && !place_tensors(placed, placed_len)) {
        sira_raise("FRAME_CORRUPT", "the tensors take more than the %zu bytes that are there", placed_len);
    } else {
        if (env->ttl_at && linked->left_ns) memcpy(data + env->ttl_at, &linked->left_ns, 8); /* little-endian */
        return fill_placed(self, data_owner);
    }
    Py_DECREF(self);
    return NULL;
}
