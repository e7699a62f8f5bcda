/* Posting past the node: one message into the links of all targets of a live route, or nowhere. Read route.h first. */
#include "route.h"

/* ---- room ----------------------------------------------------------------------------------------------------- */
/* Take back what readers have done with: memory that is warm, and the next to be written to. */
static enum outbox_direct collect(Outbox *self, ShmRoute *route)
{
    for (uint32_t i = 0; i < route->target_count; i++) {
        ShmWriter *writer = route->targets[i].writer;
        if (!route->targets[i].rings || sira_link_collect(&writer->writer, false) == SIRA_LINK_OK) continue;
        route_broken(self, route, writer);
        return DIRECT_NOT;
    }
    return DIRECT_POSTED;
}

/* ---- placing -------------------------------------------------------------------------------------------------- */
struct placing {
    uint64_t tensors, head; /* bytes; head: of what stands behind the tensors, 0: it is inline */
    uint64_t bytes;         /* of both, in one piece */
};

static bool is_known(const ShmRoute *route, const ShmChunk *chunk)
{
    if (!chunk->chunk.segment->arena) return false; /* closed: nothing new is in it */
    for (uint32_t i = 0; i < route->segment_count; i++)
        if (route->segments[i] == chunk->chunk.segment->id) return true;
    return false;
}

/* The tensors lie in the chunk already, one behind the other from a multiple of 64 on? Where they begin; NULL: they do not. */
static const uint8_t *placed_in(const struct sira_body *body, const ShmChunk *chunk)
{
    const uint8_t *base = sira_chunk_data(chunk->chunk), *end = base + sira_chunk_bytes(chunk->chunk);
    for (uint32_t i = 0; i < body->tensor_count; i++) {
        const uint8_t *at = body->tensors[i].data;
        if (!body->tensors[i].bytes) continue;
        if ((at - chunk->chunk.segment->shm.base) % 64) return NULL;
        return sira_body_is_placed(body, at, (uint64_t)(end - at)) ? at : NULL;
    }
    return NULL;
}

/* Have the tensors in memory that all targets have mapped: body->chunk, where DIRECT_POSTED. The placer runs Python, and
 * the GIL may go meanwhile: the route is to be looked up again. *copied: not as they came. */
static enum outbox_direct place(Outbox *self, PyObject *topic, struct sira_body *body, PyObject *loan,
                                const struct placing *placing, bool *copied)
{
    *copied = false;
    if (loan && body->payload_bytes && outbox_lies_in(body, loan)) {
        body->chunk = Py_NewRef(loan);
        body->is_loan = true;
        return DIRECT_POSTED;
    }
    PyObject *chunk; /* owned */
    if (outbox_ask_placer(self, topic, placing->bytes, &chunk) < 0) return DIRECT_FAILED;
    if (!chunk) return DIRECT_NOT;
    if (body->payload_bytes && outbox_lies_in(body, chunk)) {
        body->chunk = chunk;
        body->is_loan = true;
        return DIRECT_POSTED;
    }
    const ShmRoute *route = route_live(self, topic); /* borrowed */
    if (!route || !is_known(route, (ShmChunk *)chunk) || outbox_touches(body, chunk)) {
        Py_DECREF(chunk);
        return DIRECT_NOT;
    }
    *copied = true;
    return outbox_copy_in(body, chunk, placing->bytes) < 0 ? DIRECT_FAILED : DIRECT_POSTED;
}

/* ---- posting -------------------------------------------------------------------------------------------------- */
/* Requires: route_room, and nothing run since. */
static void post_to_all(ShmRoute *route, struct sira_post *post)
{
    for (uint32_t i = 0; i < route->target_count; i++) {
        const struct route_target *target = &route->targets[i];
        struct sira_link_ticket ticket;
        post->cell = target->cell;
        if (post->owner) sira_shm_hold(post->owner, post->chunk); /* the writer's own, given back by it */
        const enum sira_link_status status = sira_link_post(&target->writer->writer, post, &ticket);
        assert(status == SIRA_LINK_OK);
        if (status != SIRA_LINK_OK && post->owner) sira_shm_release(post->owner, post->chunk);
        SIRA_FAULT_POINT("route.posted_to_one");
    }
    for (uint32_t i = 0; i < route->target_count; i++) {
        const struct route_target *target = &route->targets[i];
        if (target->rings && sira_link_calls_reader(&target->writer->writer))
            (void)sira_bell_ring(target->writer->peer_bell);
    }
    route->posted++;
    route->slow = false;
}

/* What lies in a chunk. The head, where a slot has no room for it, stands behind the tensors, its length last. */
static enum outbox_direct post_chunk(Outbox *self, PyObject *topic, const struct sira_envelope *envelope,
                                     struct sira_body *body, PyObject *loan, struct sira_post *post, uint8_t *inlined,
                                     bool *copied)
{
    const size_t head = sira_encode_size(envelope, body, true);
    const bool is_inline = head <= SIRA_LINK_INLINE_BYTES_MAX;
    struct placing placing = {.tensors = sira_body_placed_bytes(body), .head = is_inline ? 0 : head};
    placing.bytes = is_inline ? placing.tensors : sira_placed_at(placing.tensors + head + 8);
    ShmRoute *route = route_live(self, topic); /* borrowed */
    if (!route) return DIRECT_NOT;
    enum outbox_direct result = collect(self, route);
    if (result == DIRECT_POSTED) result = route_room(self, route, post->priority, placing.bytes);
    if (result == DIRECT_POSTED) result = place(self, topic, body, loan, &placing, copied);
    if (result != DIRECT_POSTED) return result;
    SIRA_FAULT_POINT("route.placed");

    route = route_live(self, topic);
    const ShmChunk *chunk = (const ShmChunk *)body->chunk;
    if (!route || !is_known(route, chunk)) return DIRECT_NOT;
    const uint8_t *at = body->is_loan ? placed_in(body, chunk) : sira_chunk_data(chunk->chunk);
    if (!at || (body->is_loan && !is_inline)) return DIRECT_NOT; /* as it lies it can only be lent by the node */
    result = route_room(self, route, post->priority, placing.bytes);
    if (result != DIRECT_POSTED) return result;
    post->owner = chunk->chunk.segment;
    post->chunk = chunk->chunk.index;
    post->segment = chunk->chunk.segment->id;
    post->offset = (uint64_t)(at - chunk->chunk.segment->shm.base);
    post->bytes = placing.bytes;
    post->now_ns = sira_now_mono_ns();
    if (is_inline) {
        post->inline_bytes = (uint16_t)head;
        sira_encode_write(inlined, envelope, body, true);
    } else {
        const uint64_t length = head;
        uint8_t *end = chunk->chunk.segment->shm.base + post->offset + post->bytes - 8;
        memcpy(end, &length, 8);
        sira_encode_write(end - head, envelope, body, true);
    }
    post_to_all(route, post);
    return DIRECT_POSTED;
}

enum { LANE_SHM = 2 }; /* of sira.v1.Lane */

enum outbox_direct outbox_direct_body(Outbox *self, PyObject *topic, struct sira_body *body,
                                      const struct sira_options *options, PyObject *loan, uint8_t *id,
                                      struct sira_receipt *receipt)
{
    ShmRoute *route = route_live(self, topic); /* borrowed */
    if (!route || sira_options_need_node(options)) return DIRECT_NOT;
    if (options->has_id) memcpy(id, options->id, SIRA_ID_BYTES);
    else sira_id_new(id);
    Py_ssize_t topic_len, source_len;
    const char *name = PyUnicode_AsUTF8AndSize(route->topic, &topic_len); /* cached, as is the source */
    const char *source = PyUnicode_AsUTF8AndSize(self->source, &source_len);
    if (!name || !source) return DIRECT_FAILED;
    const struct sira_envelope envelope = {
        .topic = {(const uint8_t *)name, (size_t)topic_len},
        .source = {(const uint8_t *)source, (size_t)source_len},
        .id = id,
        .time_ns = sira_now_wall_ns(),
        .options = options,
    };
    const size_t whole = sira_encode_size(&envelope, body, false);
    if (!whole) return DIRECT_FAILED;
    uint8_t inlined[SIRA_LINK_INLINE_BYTES_MAX];
    struct sira_post post = {.priority = (uint8_t)options->priority, .inline_data = inlined};
    if (options->ttl_ns && __builtin_add_overflow(sira_now_mono_ns(), options->ttl_ns, &post.deadline_ns))
        post.deadline_ns = UINT64_MAX;
    uint32_t matched = route->matched;
    const bool is_inline = whole <= SIRA_LINK_INLINE_BYTES_MAX && !(loan && body->payload_bytes && outbox_lies_in(body, loan));
    bool copied = true;
    enum outbox_direct result;
    if (is_inline) {
        result = route_room(self, route, options->priority, 0);
        if (result != DIRECT_POSTED) return result;
        post.inline_bytes = (uint16_t)whole;
        sira_encode_write(inlined, &envelope, body, false);
        post_to_all(route, &post);
    } else {
        PyObject *kept = Py_NewRef(route); /* owned: its name is in the envelope */
        result = post_chunk(self, topic, &envelope, body, loan, &post, inlined, &copied);
        matched = ((ShmRoute *)kept)->matched;
        Py_DECREF(kept);
        if (result != DIRECT_POSTED) return result;
    }
    self->routes.posted++;
    *receipt = (struct sira_receipt){
        .id = {id, SIRA_ID_BYTES}, .matched = matched, .grade = 1, .lane_bits = 1u << LANE_SHM,
        .copies = copied, .bytes = body->payload_bytes};
    return DIRECT_POSTED;
}

/* ---- what Python calls ------------------------------------------------------------------------------------------ */
enum outbox_direct outbox_direct_wait(Outbox *self, PyObject *topic, struct sira_body *body,
                                      const struct sira_options *options, PyObject *loan, uint8_t *id,
                                      struct sira_receipt *receipt, int64_t wait_ns)
{
    enum outbox_direct result = outbox_direct_body(self, topic, body, options, loan, id, receipt);
    if (result != DIRECT_NO_ROOM || wait_ns <= 0) return result;
    const uint64_t most_ns = route_room_ns(body->payload_bytes);
    const uint64_t until_ns = sira_now_mono_ns() + ((uint64_t)wait_ns < most_ns ? (uint64_t)wait_ns : most_ns);
    while (result == DIRECT_NO_ROOM && !body->chunk) { /* one that was placed while there was room has lost it to another */
        const int waited = route_wait(self, topic, until_ns);
        if (waited < 0) return DIRECT_FAILED;
        if (waited == 0) return DIRECT_NOT;
        result = outbox_direct_body(self, topic, body, options, loan, id, receipt);
    }
    return result;
}

int64_t outbox_wait_ns(PyObject *wait_s)
{
    const double seconds = wait_s && wait_s != Py_None ? PyFloat_AsDouble(wait_s) : 0;
    if (seconds == -1 && PyErr_Occurred()) return -1;
    return !(seconds > 0) ? 0 : seconds > 9e9 ? INT64_MAX : (int64_t)(seconds * 1e9);
}

PyObject *outbox_direct(Outbox *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    enum { KNOWN = 5 };
    static const char *const known[KNOWN] = {"topic", "body", "options", "loan", "wait_s"};
    PyObject *values[KNOWN] = {NULL, NULL, NULL, NULL, NULL}; /* borrowed */
    if (!outbox_arguments(args, count, names, known, KNOWN, values)) goto bad_call;
    if (!route_live(self, values[0])) Py_RETURN_NONE;
    const struct sira_options *options = sira_options_of(values[2]);
    const int64_t wait_ns = outbox_wait_ns(values[4]);
    struct sira_body body;
    if (!options || wait_ns < 0 || sira_body_from_py(values[1], &body) < 0) return NULL; /* may run anything */
    PyObject *loan = values[3] == Py_None ? NULL : values[3];
    struct sira_receipt receipt;
    uint8_t id[SIRA_ID_BYTES];
    enum outbox_direct result = DIRECT_FAILED;
    if (!loan || outbox_check_chunk(loan) == 0)
        result = outbox_direct_wait(self, values[0], &body, options, loan, id, &receipt, wait_ns);
    sira_body_clear(&body);
    if (result == DIRECT_POSTED) return sira_receipt_new(&receipt);
    if (result == DIRECT_FAILED) return NULL;
    Py_RETURN_NONE;
bad_call:
    PyErr_SetString(PyExc_TypeError, "direct(topic, body, options=None, loan=None, wait_s=0)");
    return NULL;
}
