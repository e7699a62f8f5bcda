/* Messages on the node: small ones (blob) and large ones on their way through (xfer, chunk, out).
 *
 * A large message is never assembled here: its chunks are forwarded as they come. A chunk is let go when its
 * last delivery has sent it, and only then does its publisher get credit for more. */
#include "hub_limits.h"
#include "pyutil.h"

enum {
    BLOB_COPY_BYTES_MAX = 4096, /* smaller messages are copied out of their frame */
    ENVELOPE_FREE_BYTES = 1024, /* a larger envelope counts in queues like payload */
};

/* What is less than half of its frame must not keep the frame: else a byte could hold 2 MiB that nobody counts. */
static bool pins_more(size_t len, PyObject *frame)
{
    return len < (size_t)PyBytes_GET_SIZE(frame) / 2;
}

/* ---- blobs ------------------------------------------------------------------------------------------------- */

/* Bytes that a message counts for: its payload, announced or here, and an envelope that is no small one. */
uint64_t message_cost(const struct sira_env *env, bool head)
{
    const uint64_t envelope = env->raw.len - (head ? 0 : env->payload_bytes);
    return env->payload_bytes + (envelope > ENVELOPE_FREE_BYTES ? envelope : 0);
}

/* One reference, the caller's. NULL with MemoryError. */
struct blob *blob_new(Ingress *in, HubTopic *topic, PyObject *frame, const struct sira_env *env, bool head,
                      uint64_t now_ns)
{
    Hub *hub = in->hub;
    const size_t stamp_len = (size_t)PyBytes_GET_SIZE(in->stamp);
    const bool copy = env->raw.len <= BLOB_COPY_BYTES_MAX || pins_more(env->raw.len, frame);
    struct blob *blob = PyMem_Malloc(sizeof *blob + (copy ? env->raw.len + stamp_len : 0));
    if (!blob) {
        PyErr_NoMemory();
        return NULL;
    }
    *blob = (struct blob){
        .refs = 1,
        .len = (uint32_t)env->raw.len,
        .ttl_at = (uint32_t)env->ttl_at,
        .priority = (uint8_t)env->priority,
        .row = topic->row,
        .topic = Py_NewRef(topic),
        .publisher = in->serial,
        .payload_bytes = env->payload_bytes,
        .cost = message_cost(env, head),
    };
    row_ref(blob->row);
    if (env->ttl_ns) {
        blob->deadline_ns = now_ns + env->ttl_ns;
        if (blob->deadline_ns < now_ns) blob->deadline_ns = UINT64_MAX;
    }
    if (copy) {
        memcpy(blob->here, env->raw.data, env->raw.len);
        memcpy(blob->here + env->raw.len, PyBytes_AS_STRING(in->stamp), stamp_len);
        blob->len += (uint32_t)stamp_len;
        blob->data = blob->here;
    } else {
        blob->frame = Py_NewRef(frame);
        blob->stamp = Py_NewRef(in->stamp);
        blob->data = env->raw.data;
    }
    hub->blob_count++;
    hub->blob_bytes += blob->len;
    return blob;
}

void blob_ref(struct blob *blob)
{
    blob->refs++;
}

void blob_unref(Hub *hub, struct blob *blob)
{
    assert(blob->refs > 0);
    if (--blob->refs) return;
    hub->blob_count--;
    hub->blob_bytes -= blob->len;
    if (blob->xfer) {
        blob->xfer->head = NULL;
        xfer_unref(hub, blob->xfer);
    }
    row_unref(hub, blob->row);
    PyObject *topic = blob->topic, *held = blob->held;
    const uint64_t cost = blob->cost;
    Py_XDECREF(blob->stamp);
    Py_XDECREF(blob->frame);
    PyMem_Free(blob);
    held_give(hub, held, cost);
    Py_DECREF(topic);
}

/* It counts for this topic from now on. Requires: nothing was counted for it yet. */
void blob_rehome(Hub *hub, struct blob *blob, HubTopic *topic)
{
    if (blob->topic == (PyObject *)topic) return;
    struct row *old = blob->row;
    row_ref(topic->row);
    blob->row = topic->row;
    Py_SETREF(blob->topic, Py_NewRef(topic));
    row_unref(hub, old);
}

size_t blob_bytes(const struct blob *blob)
{
    return blob->len + (blob->stamp ? (size_t)PyBytes_GET_SIZE(blob->stamp) : 0);
}

/* Write the Message with what is left of its time. */
uint8_t *blob_write(const struct blob *blob, uint8_t *p, uint64_t now_ns)
{
    memcpy(p, blob->data, blob->len);
    if (blob->deadline_ns && blob->ttl_at) {
        const uint64_t left_ns = blob->deadline_ns > now_ns ? blob->deadline_ns - now_ns : 1;
        memcpy(p + blob->ttl_at, &left_ns, 8);
    }
    p += blob->len;
    if (blob->stamp) {
        const size_t len = (size_t)PyBytes_GET_SIZE(blob->stamp);
        memcpy(p, PyBytes_AS_STRING(blob->stamp), len);
        p += len;
    }
    return p;
}

/* ---- chunks -------------------------------------------------------------------------------------------------- */

/* Bytes of it that the node holds. */
static uint64_t burden(const struct chunk *chunk)
{
    return chunk->parsed.is_lent ? 0 : chunk->parsed.data.len;
}

static void chunk_unref(Hub *hub, struct xfer *xfer, struct chunk *chunk)
{
    assert(chunk->refs > 0);
    if (--chunk->refs) return;
    if (xfer->last == chunk) xfer->last = NULL;
    hub->buffered_bytes -= burden(chunk);
    Py_DECREF(chunk->frame);
    PyMem_Free(chunk);
}

/* Nobody needs to send this chunk any more: its publisher may send another. */
static void chunk_credit(struct xfer *xfer, struct chunk *chunk)
{
    if (chunk->credited) return;
    chunk->credited = true;
    const uint64_t held = burden(chunk);
    xfer->buffered -= held;
    Ingress *in = xfer->ingress;
    if (!in) return;
    in->buffered_bytes -= held;
    xfer->credit_due += held;
    if (held && !xfer->complete && xfer->credit_due >= in->hub->transfer_window_bytes / 4) ingress_credit(in, xfer);
    ingress_unfull(in);
}

/* One delivery has sent it. */
void chunk_sent(Hub *hub, struct xfer *xfer, struct chunk *chunk)
{
    assert(chunk->unsent > 0);
    if (--chunk->unsent == 0) chunk_credit(xfer, chunk);
    chunk_unref(hub, xfer, chunk);
}

/* ---- transfers ------------------------------------------------------------------------------------------------- */

static uint32_t id_bucket(const uint8_t *id, uint32_t cap)
{
    uint64_t a, b;
    memcpy(&a, id, 8);
    memcpy(&b, id + 8, 8);
    return (uint32_t)(((a ^ b << 1) * 0x9e3779b97f4a7c15u) >> 32) & (cap - 1);
}

/* Chains keep short: ids made to collide cost at most transfers_per_stream_max steps a chunk. */
static int buckets_reserve(Ingress *in)
{
    if (in->xfer_count < in->bucket_cap) return 0;
    const uint32_t cap = in->bucket_cap ? in->bucket_cap * 2 : 8;
    struct xfer **buckets = PyMem_Calloc(cap, sizeof *buckets);
    if (!buckets) {
        PyErr_NoMemory();
        return -1;
    }
    for (struct xfer *xfer = in->xfers; xfer; xfer = xfer->next) {
        struct xfer **bucket = &buckets[id_bucket(xfer->id, cap)];
        xfer->bucket_next = *bucket;
        *bucket = xfer;
    }
    PyMem_Free(in->buckets);
    in->buckets = buckets;
    in->bucket_cap = cap;
    return 0;
}

struct xfer *xfer_find(const Ingress *in, struct sira_slice id)
{
    if (id.len != SIRA_ID_BYTES || !in->bucket_cap) return NULL;
    struct xfer *xfer = in->buckets[id_bucket(id.data, in->bucket_cap)];
    while (xfer && memcmp(xfer->id, id.data, SIRA_ID_BYTES) != 0) xfer = xfer->bucket_next;
    return xfer;
}

/* Two references: the caller's, and the ingress's until the transfer is whole or given up. */
struct xfer *xfer_new(Ingress *in, const struct sira_env *env)
{
    if (buckets_reserve(in) < 0) return NULL;
    struct xfer *xfer = PyMem_Calloc(1, sizeof *xfer);
    uint64_t *bytes = xfer ? PyMem_Malloc((env->tensor_count + 1) * sizeof *bytes) : NULL;
    if (!bytes) {
        PyMem_Free(xfer);
        PyErr_NoMemory();
        return NULL;
    }
    for (uint32_t i = 0; i < env->tensor_count; i++) bytes[i] = env->tensors[i].bytes;
    xfer->refs = 2;
    xfer->serial = ++in->hub->serial;
    memcpy(xfer->id, env->id.data, SIRA_ID_BYTES);
    xfer->ingress = in;
    xfer->tensor_count = env->tensor_count;
    xfer->tensor_bytes = bytes;
    xfer->total = env->payload_bytes;
    xfer->priority = (uint8_t)env->priority;
    xfer->slot = SLOT_NONE;
    while (xfer->tensor_at < xfer->tensor_count && bytes[xfer->tensor_at] == 0) xfer->tensor_at++;
    xfer->next = in->xfers;
    if (in->xfers) in->xfers->prev = xfer;
    in->xfers = xfer;
    in->xfer_count++;
    struct xfer **bucket = &in->buckets[id_bucket(xfer->id, in->bucket_cap)];
    xfer->bucket_next = *bucket;
    *bucket = xfer;
    in->hub->xfers++;
    return xfer;
}

/* The stream has nothing more to do with it. Drops the ingress's reference. */
void xfer_unlink(struct xfer *xfer)
{
    Ingress *in = xfer->ingress;
    if (!in) return;
    if (xfer->prev) xfer->prev->next = xfer->next;
    else in->xfers = xfer->next;
    if (xfer->next) xfer->next->prev = xfer->prev;
    xfer->prev = xfer->next = NULL;
    struct xfer **link = &in->buckets[id_bucket(xfer->id, in->bucket_cap)];
    while (*link != xfer) link = &(*link)->bucket_next;
    *link = xfer->bucket_next;
    in->xfer_count--;
    in->buffered_bytes -= xfer->buffered; /* what is still buffered is no longer this stream's debt */
    xfer->ingress = NULL;
    ingress_unfull(in);
    xfer_unref(in->hub, xfer);
}

void xfer_unref(Hub *hub, struct xfer *xfer)
{
    assert(xfer->refs > 0);
    if (--xfer->refs) return;
    assert(!xfer->outs && !xfer->ingress);
    xfer->keep = xfer->parked = false;
    xfer_release_held(hub, xfer);
    hub->xfers--;
    PyObject *held = xfer->held;
    const uint64_t total = xfer->total;
    Py_XDECREF(xfer->name);
    PyMem_Free(xfer->tensor_bytes);
    PyMem_Free(xfer);
    held_give(hub, held, total);
}

/* Let go of the chunks that the transfer itself held. Requires: neither keep nor parked is set any more. */
void xfer_release_held(Hub *hub, struct xfer *xfer)
{
    assert(!xfer->keep && !xfer->parked);
    struct chunk *chunk = xfer->first;
    xfer->first = NULL;
    while (chunk) {
        struct chunk *next = chunk->next;
        if (chunk->unsent == 0) chunk_credit(xfer, chunk);
        chunk_unref(hub, xfer, chunk);
        chunk = next;
    }
}

/* The transfer is whole: its receipt is due, and a `latest` topic keeps it. */
void xfer_complete(Hub *hub, struct xfer *xfer)
{
    xfer->complete = true;
    if (xfer->ingress && xfer->slot != SLOT_NONE && !xfer->parked) {
        ingress_settle_whole(xfer->ingress, xfer);
        xfer->slot = SLOT_NONE;
    }
    struct blob *head = xfer->keep_head; /* owned: goes to the topic */
    xfer->keep_head = NULL;
    if (head) {
        HubTopic *topic = (HubTopic *)head->topic;
        if (topic->dropped) {
            xfer->keep = false;
            xfer_release_held(hub, xfer);
            blob_unref(hub, head);
        } else {
            row_live(topic->row)->owed++;
            topic_retain(topic, head);
        }
    }
    if (!xfer->parked) xfer_unlink(xfer);
}

/* Take the next chunk. `alone`: the frame holds nothing else. -1 with an exception: it does not fit. */
int xfer_feed(Hub *hub, struct xfer *xfer, PyObject *frame, const struct sira_chunk *parsed, bool alone)
{
    if (xfer->complete || xfer->tensor_at >= xfer->tensor_count || parsed->tensor != xfer->tensor_at ||
        parsed->offset != xfer->offset_at || parsed->data.len == 0 ||
        parsed->data.len > xfer->tensor_bytes[xfer->tensor_at] - xfer->offset_at) {
        sira_raise("FRAME_CORRUPT", "chunk of tensor %u at byte %llu, %zu bytes long: expected tensor %u at byte %llu",
                   parsed->tensor, (unsigned long long)parsed->offset, parsed->data.len, xfer->tensor_at,
                   (unsigned long long)xfer->offset_at);
        return -1;
    }
    struct chunk *chunk = PyMem_Malloc(sizeof *chunk);
    if (!chunk) {
        PyErr_NoMemory();
        return -1;
    }
    const size_t len = parsed->data.len;
    *chunk = (struct chunk){.refs = 1, .alone = alone, .parsed = *parsed};
    if (parsed->is_lent || !pins_more(len, frame)) {
        chunk->frame = Py_NewRef(frame);
    } else {
        chunk->frame = PyBytes_FromStringAndSize((const char *)parsed->data.data, (Py_ssize_t)len);
        if (!chunk->frame) {
            PyMem_Free(chunk);
            return -1;
        }
        chunk->alone = false;
        chunk->parsed.data.data = (const uint8_t *)PyBytes_AS_STRING(chunk->frame);
    }
    const uint64_t held = burden(chunk);
    hub->buffered_bytes += held;
    xfer->buffered += held;
    xfer->ingress->buffered_bytes += held;
    xfer->received += len;
    xfer->lent += len - held;
    xfer->offset_at += len;
    while (xfer->tensor_at < xfer->tensor_count && xfer->offset_at == xfer->tensor_bytes[xfer->tensor_at]) {
        xfer->tensor_at++;
        xfer->offset_at = 0;
    }
    if (xfer->last) xfer->last->next = chunk;
    xfer->last = chunk;
    for (struct out *out = xfer->outs; out; out = out->peer) {
        chunk->refs++;
        chunk->unsent++;
        if (!out->chunk) out->chunk = chunk;
        if (out->active && out->sub->egress) egress_wake(out->sub->egress);
    }
    if (xfer->keep || xfer->parked) {
        chunk->refs++;
        if (!xfer->first) xfer->first = chunk;
    }
    if (chunk->unsent == 0 && !xfer->parked) chunk_credit(xfer, chunk);
    chunk_unref(hub, xfer, chunk);
    if (xfer->received == xfer->total) {
        xfer->refs++;
        xfer_complete(hub, xfer);
        xfer_unref(hub, xfer);
    }
    return 0;
}

/* Nobody was given it and nobody will be. Its publisher is told, and what still comes of it is passed over. */
void xfer_refuse(Hub *hub, struct xfer *xfer)
{
    assert(!xfer->outs && !xfer->keep_head);
    xfer->keep = xfer->parked = false;
    xfer->refs++;
    xfer_release_held(hub, xfer);
    xfer_unlink(xfer);
    xfer_unref(hub, xfer);
}

/* It will not be completed. Every delivery of it is counted as dropped for `reason`. */
void xfer_abort(Hub *hub, struct xfer *xfer, uint16_t reason, uint64_t now_ns)
{
    (void)now_ns;
    if (xfer->aborted || xfer->complete) return;
    xfer->refs++;
    xfer->aborted = true;
    xfer->keep = xfer->parked = false;
    while (xfer->outs) {
        struct out *out = xfer->outs;
        Sub *sub = out->sub;
        if (out->active && sub->egress && egress_abort(sub->egress, out, reason) < 0) PyErr_Clear();
        const bool active = out->active;
        sub_remove_xfer(sub, xfer, reason); /* frees `out` with its slot when it was waiting */
        if (active) out_free(hub, out);
    }
    xfer_release_held(hub, xfer);
    if (xfer->keep_head) {
        struct blob *head = xfer->keep_head;
        xfer->keep_head = NULL;
        blob_unref(hub, head);
    }
    xfer_unlink(xfer);
    xfer_unref(hub, xfer);
}

/* ---- deliveries of a transfer -------------------------------------------------------------------------------------- */

/* Requires: no chunk has come, or all that came are held by the transfer. */
struct out *out_new(Hub *hub, struct xfer *xfer, Sub *sub)
{
    (void)hub;
    struct out *out = PyMem_Calloc(1, sizeof *out);
    if (!out) {
        PyErr_NoMemory();
        return NULL;
    }
    out->xfer = xfer;
    xfer->refs++;
    out->sub = sub;
    out->chunk = xfer->first;
    for (struct chunk *chunk = xfer->first; chunk; chunk = chunk->next) {
        chunk->refs++;
        chunk->unsent++;
    }
    out->peer = xfer->outs;
    xfer->outs = out;
    return out;
}

void out_free(Hub *hub, struct out *out)
{
    struct xfer *xfer = out->xfer;
    if (out->active && out->sub->egress) {
        struct out **link = &out->sub->egress->outs;
        while (*link && *link != out) link = &(*link)->next;
        if (*link) *link = out->next;
    }
    struct chunk *chunk = out->chunk;
    while (chunk) {
        struct chunk *next = chunk->next;
        chunk_sent(hub, xfer, chunk);
        chunk = next;
    }
    struct out **link = &xfer->outs;
    while (*link != out) link = &(*link)->peer;
    *link = out->peer;
    PyMem_Free(out);
    xfer_unref(hub, xfer);
}
