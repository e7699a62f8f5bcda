/* ShmPost: one message written once, inline or into a chunk, to be posted to any number of links.
 *
 * A message whose whole encoding fits a slot is inline. Otherwise its tensors lie in one chunk, each at the next
 * multiple of 64 bytes, and its head is inline; a head too long for that stands behind the tensors, its length in the
 * last 8 bytes of the chunk. */
#include "shm_py.h"

#include <structmember.h>

/* Take or hold a chunk with the tensors in it, the head behind them if it is `tail_bytes` long. */
static int place_tensors(struct sira_shm_post *out, const struct sira_body *body, ShmArena *arena, ShmChunk *loan,
                         uint64_t tail_bytes)
{
    const uint64_t tensors = sira_body_placed_bytes(body);
    const uint64_t bytes = tail_bytes ? sira_placed_at(tensors + tail_bytes + 8) : tensors;
    struct sira_shm_chunk chunk;
    if (loan) {
        if (!sira_body_is_placed(body, sira_chunk_data(loan->chunk), sira_chunk_bytes(loan->chunk))) {
            sira_raise("BAD_REQUEST", "the body is not what the loan was made for: its tensors lie elsewhere");
            return -1;
        }
        if (bytes > sira_chunk_bytes(loan->chunk)) {
            sira_raise("MESSAGE_TOO_LARGE", "the loan has no room for an envelope of %llu bytes",
                       (unsigned long long)tail_bytes);
            return -1;
        }
        chunk = loan->chunk;
        sira_chunk_hold(chunk);
    } else {
        if (arena->fork_depth != sira_fork_depth) {
            sira_raise("CONNECTION_CLOSED", "this arena belongs to the parent process: connect anew after fork()");
            return -1;
        }
        const int error = sira_arena_take(&arena->arena, bytes, &chunk);
        if (error) {
            sira_shm_raise("publish", error);
            return -1;
        }
        out->copies = 1;
        sira_body_place(body, sira_chunk_data(chunk)); /* both are held */
    }
    out->post.owner = chunk.segment;
    out->post.chunk = chunk.index;
    out->post.segment = chunk.segment->id;
    out->post.offset = sira_chunk_offset(chunk);
    out->post.bytes = bytes;
    return 0;
}

/* Encode into *out. 0, or -1 with an exception and nothing held. `arena` or `loan` is needed for what does not fit. */
static int write_post(struct sira_shm_post *out, const struct sira_envelope *envelope, const struct sira_body *body,
                      ShmArena *arena, ShmChunk *loan)
{
    struct sira_post *post = &out->post;
    const size_t whole = sira_encode_size(envelope, body, false);
    if (!whole) return -1;
    post->inline_data = out->inlined;
    if (whole <= SIRA_LINK_INLINE_BYTES_MAX && !loan) {
        sira_encode_write(out->inlined, envelope, body, false);
        post->inline_bytes = (uint16_t)whole;
        return 0;
    }
    const size_t head = sira_encode_size(envelope, body, true);
    const bool is_inline = head <= SIRA_LINK_INLINE_BYTES_MAX;
    if (!arena && !loan) {
        sira_raise("BAD_REQUEST", "a message of %zu bytes needs an arena", whole);
        return -1;
    }
    if (is_inline && !body->payload_bytes) { /* a loan of nothing */
        sira_encode_write(out->inlined, envelope, body, false);
        post->inline_bytes = (uint16_t)whole;
        return 0;
    }
    if (place_tensors(out, body, arena, loan, is_inline ? 0 : head) < 0) return -1;
    if (is_inline) {
        sira_encode_write(out->inlined, envelope, body, true);
        post->inline_bytes = (uint16_t)head;
        return 0;
    }
    const uint64_t head_length = head;
    uint8_t *end = ((struct sira_segment *)post->owner)->shm.base + post->offset + post->bytes - 8;
    memcpy(end, &head_length, 8);
    sira_encode_write(end - head, envelope, body, true);
    return 0;
}

static PyObject *post_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"topic", "body", "options", "arena", "loan", "source", NULL};
    PyObject *topic, *body_object, *options_object = NULL, *arena = NULL, *loan = NULL; /* borrowed */
    const char *source = NULL;
    Py_ssize_t source_len = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OOOz#:ShmPost", names, &topic, &body_object, &options_object,
                                     &arena, &loan, &source, &source_len))
        return NULL;
    if (arena == Py_None) arena = NULL;
    if (loan == Py_None) loan = NULL;
    if ((arena && Py_TYPE(arena) != &sira_shm_arena_type) || (loan && Py_TYPE(loan) != &sira_shm_chunk_type))
        return PyErr_Format(PyExc_TypeError, "want arena: ShmArena and loan: ShmChunk");
    const struct sira_options *options = sira_options_of(options_object);
    if (!options) return NULL;
    struct sira_envelope envelope = {.source = {(const uint8_t *)source, (size_t)source_len}, .options = options};
    if (sira_topic_of_py(topic, &envelope.topic) < 0) return NULL;
    ShmPost *self = (ShmPost *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->fork_depth = sira_fork_depth;
    struct sira_body body;
    if (sira_body_from_py(body_object, &body) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (options->has_id) memcpy(self->post.id, options->id, SIRA_ID_BYTES);
    else sira_id_new(self->post.id);
    envelope.id = self->post.id;
    envelope.time_ns = sira_now_wall_ns();
    self->post.post.priority = (uint8_t)options->priority;
    if (options->ttl_ns) {
        const uint64_t now_ns = sira_now_mono_ns();
        self->post.post.deadline_ns = options->ttl_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + options->ttl_ns;
    }
    const int result = write_post(&self->post, &envelope, &body, (ShmArena *)arena, (ShmChunk *)loan);
    sira_body_clear(&body);
    if (result == 0) return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static void post_dealloc(PyObject *object)
{
    ShmPost *self = (ShmPost *)object;
    const struct sira_post *post = &self->post.post;
    if (post->owner && self->fork_depth == sira_fork_depth) sira_shm_release(post->owner, post->chunk);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *post_id(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBytes_FromStringAndSize((const char *)((ShmPost *)object)->post.id, SIRA_ID_BYTES);
}

static PyGetSetDef post_getset[] = {
    {"id_bytes", post_id, NULL, "16 bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef post_members[] = {
    {"copies", T_UINT, offsetof(ShmPost, post.copies), READONLY, "Copies made of the payload before it was posted."},
    {"chunk_bytes", T_ULONGLONG, offsetof(ShmPost, post.post.bytes), READONLY, "Bytes in shared memory; 0: inline."},
    {"segment", T_UINT, offsetof(ShmPost, post.post.segment), READONLY, "Segment of those bytes; 0: inline."},
    {"priority", T_UBYTE, offsetof(ShmPost, post.post.priority), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject sira_shm_post_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.ShmPost",
    .tp_doc = PyDoc_STR("ShmPost(topic, body, options=None, arena=None, loan=None, source=None): a message, written once."),
    .tp_basicsize = sizeof(ShmPost),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = post_new,
    .tp_dealloc = post_dealloc,
    .tp_getset = post_getset,
    .tp_members = post_members,
};
