/* A Publish stream on the node: what comes in is checked, routed, and posted or parked. */
#include "hub.h"
#include "hub_stream.h"
#include "pyutil.h"

/* ---- route cache: topic -> entry, open addressing ------------------------------------------------------------ */

enum { ROUTES_MAX = 16384 }; /* a publisher on more topics than this resolves them anew now and then */

/* A message in one piece, so that with the node's stamp and a subscription it still fits into a frame. */
enum { INLINE_BYTES_MAX = SIRA_FRAME_BYTES_MAX - SIRA_STAMP_BYTES_MAX - 64 };

static uint64_t topic_hash(struct sira_slice topic)
{
    uint64_t h = 0xcbf29ce484222325u;
    size_t i = 0;
    for (; i + 8 <= topic.len; i += 8) {
        uint64_t word;
        memcpy(&word, topic.data + i, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; i < topic.len; i++) h = (h ^ topic.data[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

static bool entry_is(const struct route_entry *entry, uint64_t hash, struct sira_slice topic)
{
    if (entry->hash != hash) return false;
    Py_ssize_t len;
    const char *name = PyUnicode_AsUTF8AndSize(entry->route->topic->name, &len); /* cached in the str: cannot fail */
    return name && (size_t)len == topic.len && memcmp(name, topic.data, topic.len) == 0;
}

static void entry_free(struct route_entry *entry)
{
    assert(!entry->first);
    Py_XDECREF(entry->route);
    PyMem_Free(entry);
}

static void routes_insert(struct route_entry **at, uint32_t cap, struct route_entry *entry)
{
    uint32_t i = (uint32_t)entry->hash & (cap - 1);
    while (at[i]) i = (i + 1) & (cap - 1);
    at[i] = entry;
}

/* Room for one more; past ROUTES_MAX everything that nobody waits at is forgotten. */
static int routes_reserve(Ingress *in)
{
    if ((in->route_len + 1) * 2 <= in->route_cap) return 0;
    const bool forget = in->route_len >= ROUTES_MAX;
    const uint32_t cap = in->route_cap ? in->route_cap * (forget ? 1 : 2) : 16;
    struct route_entry **at = PyMem_Calloc(cap, sizeof *at);
    if (!at) {
        PyErr_NoMemory();
        return -1;
    }
    struct route_entry **old = in->routes;
    const uint32_t old_cap = in->route_cap;
    in->routes = at;
    in->route_cap = cap;
    in->route_len = 0;
    for (uint32_t i = 0; i < old_cap; i++) {
        if (!old[i]) continue;
        if (forget && !old[i]->first) {
            entry_free(old[i]);
            continue;
        }
        routes_insert(at, cap, old[i]);
        in->route_len++;
    }
    PyMem_Free(old);
    return 0;
}

static bool route_fresh(const Route *route)
{
    return !route->topic->dropped && route->topic_generation == route->topic->generation &&
           route->all_generation == route->topic->hub->generation;
}

/* Ask Python where this topic goes. New reference, or NULL with an exception. */
static Route *resolve(Ingress *in, struct sira_slice topic)
{
    if (in->closed || !in->resolve) return (Route *)sira_raise("CONNECTION_CLOSED", "this stream is closed");
    PyObject *name = PyUnicode_DecodeUTF8((const char *)topic.data, (Py_ssize_t)topic.len, NULL); /* owned */
    if (!name) return NULL;
    PyObject *route = PyObject_CallOneArg(in->resolve, name); /* owned */
    Py_DECREF(name);
    in->hub->routes_resolved++;
    if (route && !Py_IS_TYPE(route, route_type)) {
        PyErr_Format(PyExc_TypeError, "resolve() gave %.100s, not a Route", Py_TYPE(route)->tp_name);
        Py_CLEAR(route);
    }
    return (Route *)route;
}

/* The entry of a topic with a route that is valid now. NULL with an exception: refused. */
static struct route_entry *route_of(Ingress *in, struct sira_slice topic)
{
    const uint64_t hash = topic_hash(topic);
    if (in->route_cap) {
        uint32_t i = (uint32_t)hash & (in->route_cap - 1);
        for (; in->routes[i]; i = (i + 1) & (in->route_cap - 1)) {
            struct route_entry *entry = in->routes[i];
            if (!entry_is(entry, hash, topic)) continue;
            if (route_fresh(entry->route)) return entry;
            Route *route = resolve(in, topic); /* owned */
            if (!route) return NULL; /* the stale one stays stale: asked again next time */
            Py_SETREF(entry->route, route);
            return entry;
        }
    }
    Route *route = resolve(in, topic); /* owned */
    if (!route) return NULL;
    struct route_entry *entry = PyMem_Calloc(1, sizeof *entry);
    if (!entry || routes_reserve(in) < 0) {
        if (!entry) PyErr_NoMemory();
        PyMem_Free(entry);
        Py_DECREF(route);
        return NULL;
    }
    entry->hash = hash;
    entry->route = route;
    routes_insert(in->routes, in->route_cap, entry);
    in->route_len++;
    return entry;
}

/* ---- answers -------------------------------------------------------------------------------------------------------- */

void ingress_wake(Ingress *in)
{
    if (!in->idle || in->closed) return;
    in->idle = false;
    hub_call(in->wake);
}

/* The place of a message's answer. SLOT_NONE with MemoryError. */
static uint64_t slot_open(Ingress *in, const struct sira_env *env, bool head)
{
    if (head) return SLOT_LATE;
    if (in->slot_len == in->slot_cap) {
        const uint32_t cap = in->slot_cap ? in->slot_cap * 2 : 16;
        struct receipt_slot *at = PyMem_Malloc(cap * sizeof *at);
        if (!at) {
            PyErr_NoMemory();
            return SLOT_NONE;
        }
        for (uint32_t i = 0; i < in->slot_len; i++)
            at[(in->slot_base + i) & (cap - 1)] = in->slots[(in->slot_base + i) & (in->slot_cap - 1)];
        PyMem_Free(in->slots);
        in->slots = at;
        in->slot_cap = cap;
    }
    const uint64_t number = in->slot_base + in->slot_len++;
    struct receipt_slot *slot = &in->slots[number & (in->slot_cap - 1)];
    *slot = (struct receipt_slot){0};
    if (env->id.len == SIRA_ID_BYTES) memcpy(slot->id, env->id.data, SIRA_ID_BYTES);
    return number;
}

/* Takes over `error`. `id`: 16 bytes, read only for SLOT_LATE. */
void ingress_settle(Ingress *in, uint64_t number, const uint8_t *id, uint8_t state, uint32_t matched, uint64_t bytes,
                    PyObject *error)
{
    if (number == SLOT_LATE) {
        struct receipt_slot late = {.state = state, .matched = matched, .bytes = bytes, .error = error};
        memcpy(late.id, id, SIRA_ID_BYTES);
        if (state == 1 && in->history) history_add(in->history, id, matched, bytes, in->hub->now_ns);
        if (state != 3) ingress_answer(in, &late);
        Py_XDECREF(error);
        return;
    }
    assert(number - in->slot_base < in->slot_len);
    struct receipt_slot *slot = &in->slots[number & (in->slot_cap - 1)];
    assert(slot->state == 0);
    slot->state = state;
    slot->matched = matched;
    slot->bytes = bytes;
    slot->error = error;
    if (state == 1 && in->history) history_add(in->history, slot->id, matched, bytes, in->hub->now_ns);
    if (number == in->slot_base) ingress_wake(in);
}

/* The current exception becomes the answer to a message; it is counted where a topic is known. */
static int settle_refused(Ingress *in, uint64_t number, const uint8_t *id, HubTopic *topic, const char *code)
{
    PyObject *error = hub_error_bytes(in->hub); /* owned */
    if (!error) return -1;
    if (topic && code && row_count(in->hub, &row_live(topic->row)->refused, hub_reason(in->hub, code), 1) < 0) {
        Py_DECREF(error);
        return -1;
    }
    ingress_settle(in, number, id, 2, 0, 0, error);
    return 0;
}

/* ---- posting ------------------------------------------------------------------------------------------------------------ */


/* Is there room at every `block` subscriber? Those without are marked, so that they say when there is. */
static bool route_has_room(const Route *route, const struct blob *blob)
{
    bool room = true;
    for (uint32_t i = 0; i < route->len; i++) {
        Group *group = Py_IS_TYPE(route->targets[i], group_type) ? (Group *)route->targets[i] : NULL; /* borrowed */
        Sub *sub = group ? group_pick(group, blob, false) : (Sub *)route->targets[i];                 /* borrowed */
        if (!sub || !sub->egress || sub->stalled || sub->overflow != OVERFLOW_BLOCK) continue;
        if (sub_room(sub, blob)) continue;
        room = false;
        sub->blocked = true;
        for (uint32_t j = 0; group && j < group->len; j++) group->members[j]->blocked = true;
    }
    return room;
}

/* Give the message to all who are matched. Settles its slot, but for a transfer that is not whole yet. */
static int post(Ingress *in, Route *route, struct blob *blob, uint64_t slot, bool quiet, bool has_reply_to,
                uint64_t now_ns)
{
    const uint8_t *id = blob->xfer ? blob->xfer->id : NULL; /* late answers go by it */
    HubTopic *topic = route->topic;
    struct row *row = row_live(topic->row);
    struct xfer *xfer = blob->xfer;
    uint32_t matched = 0;
    row->published++;
    topic->used_ns = now_ns;
    in->published++;
    in->bytes += blob->payload_bytes;
    if (xfer && topic->retain) {
        xfer->keep = true;
        xfer->keep_head = blob;
        blob_ref(blob);
    }
    for (uint32_t i = 0; i < route->len; i++) {
        PyObject *target = route->targets[i]; /* borrowed */
        Sub *sub = Py_IS_TYPE(target, group_type) ? group_pick((Group *)target, blob, true) : (Sub *)target; /* borrowed */
        if (!sub || !sub->egress) continue;
        if (sub_enqueue(sub, blob, now_ns) < 0) return -1;
        matched++;
        egress_wake(sub->egress);
    }
    if (topic->retain && !xfer) {
        row->owed++;
        blob_ref(blob);
        topic_retain(topic, blob);
    } else if (!matched && !topic->retain) {
        row->owed++;
        row->pending++;
        row_drop(in->hub, row, R_NO_MATCH, 1);
    }
    if (xfer) {
        xfer->matched = matched;
        if (xfer->parked) {
            xfer->parked = false;
            if (!xfer->keep) xfer_release_held(in->hub, xfer);
        }
    }
    if (!matched && has_reply_to) {
        sira_raise("NO_MATCH", "nobody listens on %U", topic->name);
        PyObject *error = hub_error_bytes(in->hub); /* owned */
        if (!error) return -1;
        if (xfer) xfer->refused = true;
        ingress_settle(in, slot, id, 2, 0, 0, error);
    } else if (quiet) {
        ingress_settle(in, slot, id, 3, matched, blob->payload_bytes, NULL);
    } else if (xfer && xfer->received < xfer->total) {
        xfer->slot = slot;
    } else {
        ingress_settle(in, slot, id, 1, matched, blob->payload_bytes, NULL);
    }
    if (xfer && xfer->received == xfer->total) xfer_complete(in->hub, xfer);
    return 0;
}

/* ---- parking: no room at a `block` subscriber -------------------------------------------------------------------------------- */

/* Answers that nobody reads take memory too. A client that keeps any window never comes near. */
enum { ANSWERS_MAX = 65536 };

static uint64_t answers(const Ingress *in)
{
    return in->slot_len + (uint64_t)PyList_GET_SIZE(in->credits);
}

static void note_full(Ingress *in)
{
    if (in->parked_count >= in->window_messages || in->parked_bytes + in->buffered_bytes >= in->window_bytes ||
        answers(in) >= ANSWERS_MAX)
        in->full = true;
}

static uint64_t parked_size(const struct blob *blob)
{
    return blob->xfer ? 0 : blob->payload_bytes; /* a transfer's chunks are counted as buffered */
}

static int park(Ingress *in, struct route_entry *entry, struct blob *blob, uint64_t slot, const struct sira_item *item,
                bool has_reply_to, uint64_t now_ns)
{
    struct parked *parked = PyMem_Malloc(sizeof *parked);
    if (!parked) {
        PyErr_NoMemory();
        return -1;
    }
    const uint64_t wait_ns = item->has_wait ? (uint64_t)item->wait_ms * 1000000u : in->hub->block_ns;
    *parked = (struct parked){.blob = blob, .slot = slot, .deadline_ns = now_ns + wait_ns, .quiet = item->quiet,
                              .has_reply_to = has_reply_to};
    blob_ref(blob);
    if (blob->xfer) blob->xfer->parked = true;
    if (entry->last) entry->last->next = parked;
    else entry->first = parked;
    entry->last = parked;
    if (!entry->listed) {
        entry->listed = true;
        entry->parked_next = in->parked;
        in->parked = entry;
    }
    in->parked_count++;
    in->parked_bytes += parked_size(blob);
    in->hub->parked++;
    note_full(in);
    return 0;
}

/* Take the first parked message of an entry. The caller owns it. */
static struct parked *unpark(Ingress *in, struct route_entry *entry)
{
    struct parked *parked = entry->first;
    entry->first = parked->next;
    if (!entry->first) entry->last = NULL;
    in->parked_count--;
    in->parked_bytes -= parked_size(parked->blob);
    in->hub->parked--;
    return parked;
}

static void parked_free(Hub *hub, struct parked *parked)
{
    blob_unref(hub, parked->blob);
    PyMem_Free(parked);
}

void ingress_unfull(Ingress *in)
{
    if (!in->full) return;
    if (in->parked_count * 2 >= in->window_messages) return;
    if ((in->parked_bytes + in->buffered_bytes) * 2 >= in->window_bytes) return;
    if (answers(in) * 2 >= ANSWERS_MAX) return;
    in->full = false;
    if (in->drained && !in->closed) hub_call(in->drained);
}

static int refuse_parked(Ingress *in, struct route_entry *entry, const char *code)
{
    struct parked *parked = unpark(in, entry);
    struct xfer *xfer = parked->blob->xfer;
    const int rc = settle_refused(in, parked->slot, xfer ? xfer->id : NULL, entry->route->topic, code);
    if (xfer) {
        xfer->parked = false;
        xfer->refused = true;
        xfer_release_held(in->hub, xfer);
        if (xfer->received == xfer->total) xfer_unlink(xfer);
    }
    parked_free(in->hub, parked);
    return rc;
}

static void parked_sweep(Ingress *in)
{
    struct route_entry **link = &in->parked;
    while (*link) {
        struct route_entry *entry = *link;
        if (entry->first) {
            link = &entry->parked_next;
            continue;
        }
        *link = entry->parked_next;
        entry->listed = false;
    }
    ingress_unfull(in);
}

/* Room was made somewhere: post what now fits, in order within each topic. */
int ingress_retry(Ingress *in, uint64_t now_ns)
{
    for (struct route_entry *entry = in->parked; entry; entry = entry->parked_next)
        while (entry->first) {
            struct parked *parked = entry->first;
            if (!route_fresh(entry->route)) {
                Py_ssize_t len;
                const char *name = PyUnicode_AsUTF8AndSize(entry->route->topic->name, &len); /* borrowed */
                Route *route = resolve(in, (struct sira_slice){(const uint8_t *)name, (size_t)len}); /* owned */
                if (!route) { /* it may not be published any more */
                    if (refuse_parked(in, entry, "DENIED") < 0) return -1;
                    continue;
                }
                Py_SETREF(entry->route, route);
            }
            if (!route_has_room(entry->route, parked->blob)) break;
            (void)unpark(in, entry);
            Route *route = (Route *)Py_NewRef(entry->route);
            blob_rehome(in->hub, parked->blob, route->topic); /* dropped and declared again while it waited */
            const int rc = post(in, route, parked->blob, parked->slot, parked->quiet, parked->has_reply_to, now_ns);
            Py_DECREF(route);
            parked_free(in->hub, parked);
            if (rc < 0) return -1;
        }
    parked_sweep(in);
    return 0;
}

/* Refuse what has waited long enough. Deadlines of one topic need not be in order: a later message may wait for less. */
int ingress_expire(Ingress *in, uint64_t now_ns)
{
    for (struct route_entry *entry = in->parked; entry; entry = entry->parked_next)
        while (entry->first && entry->first->deadline_ns <= now_ns) {
            sira_raise("QUEUE_FULL", "no room at a subscriber of %U in the time given", entry->route->topic->name);
            if (refuse_parked(in, entry, "QUEUE_FULL") < 0) return -1;
        }
    parked_sweep(in);
    return 0;
}

/* ---- items -------------------------------------------------------------------------------------------------------------------------- */

static struct xfer *xfer_find(const Ingress *in, struct sira_slice id)
{
    if (id.len != SIRA_ID_BYTES) return NULL;
    for (struct xfer *xfer = in->xfers; xfer; xfer = xfer->next)
        if (memcmp(xfer->id, id.data, SIRA_ID_BYTES) == 0) return xfer;
    return NULL;
}

static int admit(const Route *route, uint64_t bytes)
{
    if (!route->admit) return 0;
    PyObject *result = PyObject_CallFunction(route->admit, "KK", 1ull, (unsigned long long)bytes); /* owned */
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* What this kind of topic cannot promise is refused by name, never ignored. */
static bool promises_kept(const struct sira_item *item, const struct sira_env *env)
{
    if (item->grade > 1) {
        sira_raise("GRADE_UNAVAILABLE", "a volatile or latest topic reaches grade accepted, no more");
        return false;
    }
    if (env->dedupe_key.len || env->expect.data) {
        sira_raise("UNSUPPORTED", "%s needs a durable topic", env->dedupe_key.len ? "dedupe_key" : "expect");
        return false;
    }
    if (env->fence.data) {
        sira_raise("UNSUPPORTED", "fence needs leases, which this node does not have");
        return false;
    }
    return true;
}

static const char *exception_code(char *code, size_t len)
{
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    strncpy(code, "OTHER", len);
    PyObject *attribute = value ? PyObject_GetAttrString(value, "code") : NULL; /* owned */
    const char *text = attribute && PyUnicode_Check(attribute) ? PyUnicode_AsUTF8(attribute) : NULL;
    if (text) strncpy(code, text, len - 1);
    code[len - 1] = 0;
    Py_XDECREF(attribute);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
    return code;
}

static int take_parsed(Ingress *in, PyObject *frame, const struct sira_item *item, struct sira_env *env,
                       uint64_t now_ns)
{
    Hub *hub = in->hub;
    const bool head = item->kind == SIRA_ITEM_HEAD;
    size_t at = 0;
    const enum sira_status status = sira_env_parse(item->body.data, item->body.len,
                                                   SIRA_ENV_CLIENT | (head ? SIRA_ENV_HEAD : 0),
                                                   hub->message_bytes_max, env, &at);
    hub->messages_in++;
    static const uint8_t no_id[SIRA_ID_BYTES];
    const uint8_t *id = env->id.len == SIRA_ID_BYTES ? env->id.data : no_id;
    const uint64_t slot = slot_open(in, env, head);
    if (slot == SLOT_NONE) return -1;
    if (in->resume) { /* sent before, on a stream that was lost */
        in->resume--;
        const struct past *past =
            status == SIRA_OK && in->history ? history_find(in->history, env->id.data, now_ns) : NULL;
        if (past) {
            ingress_settle(in, slot, id, item->quiet ? 3 : 4, past->matched, past->bytes, NULL);
            if (head && env->payload_bytes) { /* its chunks come again and go nowhere */
                struct xfer *xfer = xfer_new(in, env);
                if (!xfer) return -1;
                xfer->refused = true;
                xfer_unref(hub, xfer);
            }
            return 0;
        }
    }
    if (status != SIRA_OK) {
        sira_raise_status(status, at);
        return settle_refused(in, slot, id, NULL, NULL);
    }
    if (!head && env->raw.len > INLINE_BYTES_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "a message of %zu bytes, at most %d: send larger ones in chunks", env->raw.len,
                   INLINE_BYTES_MAX);
        return settle_refused(in, slot, id, NULL, NULL);
    }
    struct route_entry *entry = NULL;
    struct blob *blob = NULL;
    struct xfer *xfer = NULL;
    int rc = -1;
    char code[REASON_BYTES];
    if (head && xfer_find(in, env->id)) {
        sira_raise("BAD_REQUEST", "a transfer with this id is under way on this stream");
        return settle_refused(in, slot, id, NULL, NULL);
    }
    if (head && !(xfer = xfer_new(in, env))) return -1;
    entry = promises_kept(item, env) ? route_of(in, env->topic) : NULL;
    if (entry && admit(entry->route, env->payload_bytes) == 0) {
        Route *route = entry->route; /* borrowed: nothing below runs Python that could replace it before post() */
        HubTopic *topic = route->topic;
        char why[256];
        if (topic->contract && !sira_contract_check(sira_contract_of(topic->contract), env, why, sizeof why))
            sira_raise("CONTRACT_MISMATCH", "%U: %s", topic->name, why);
        else
            blob = blob_new(in, topic, frame, env, now_ns);
    }
    if (!blob) {
        if (xfer) xfer->refused = true;
        exception_code(code, sizeof code);
        rc = settle_refused(in, slot, id, entry ? entry->route->topic : NULL, code);
        goto done;
    }
    if (xfer) {
        blob->xfer = xfer;
        xfer->refs++;
        xfer->head = blob;
    }
    const bool has_reply_to = env->reply_to.len > 0;
    if (entry->first || !route_has_room(entry->route, blob)) {
        if (item->has_wait && item->wait_ms == 0) {
            if (xfer) xfer->refused = true;
            sira_raise("QUEUE_FULL", "no room at a subscriber of %U", entry->route->topic->name);
            rc = settle_refused(in, slot, id, entry->route->topic, "QUEUE_FULL");
        } else {
            rc = park(in, entry, blob, slot, item, has_reply_to, now_ns);
        }
    } else {
        Route *route = (Route *)Py_NewRef(entry->route);
        rc = post(in, route, blob, slot, item->quiet, has_reply_to, now_ns);
        Py_DECREF(route);
    }
    blob_unref(hub, blob);
done:
    if (xfer) {
        if (xfer->total == 0 && xfer->refused) xfer_unlink(xfer); /* no chunk will come to end it */
        xfer_unref(hub, xfer);
    }
    return rc;
}

/* One message or head. Its refusal is an answer; -1 only when the node itself fails. */
static int take_message(Ingress *in, PyObject *frame, const struct sira_item *item, uint64_t now_ns)
{
    Hub *hub = in->hub;
    struct sira_env *env = hub_env_enter(hub);
    if (!env) return -1;
    const int rc = take_parsed(in, frame, item, env, now_ns);
    hub_env_leave(hub);
    return rc;
}

/* End a transfer before it is whole, answering its message with the current exception. */
static int give_up(Ingress *in, struct xfer *xfer, const char *reason, uint64_t now_ns)
{
    uint64_t slot = xfer->slot;
    xfer->slot = SLOT_NONE;
    xfer->refs++;
    for (struct route_entry *entry = in->parked; entry; entry = entry->parked_next) {
        struct parked *before = NULL, *parked = entry->first;
        for (; parked && parked->blob->xfer != xfer; parked = parked->next) before = parked;
        if (!parked) continue;
        if (before) before->next = parked->next;
        else entry->first = parked->next;
        if (entry->last == parked) entry->last = before;
        in->parked_count--;
        in->hub->parked--;
        slot = parked->slot;
        parked_free(in->hub, parked);
        break;
    }
    int rc = 0;
    if (slot != SLOT_NONE) rc = settle_refused(in, slot, xfer->id, NULL, NULL);
    else PyErr_Clear(); /* a quiet message, or one that was refused before */
    xfer_abort(in->hub, xfer, hub_reason(in->hub, reason), now_ns);
    xfer_unref(in->hub, xfer);
    parked_sweep(in);
    return rc;
}

static int take_chunk(Ingress *in, PyObject *frame, const struct sira_item *item, bool alone, uint64_t now_ns)
{
    struct sira_chunk chunk;
    const enum sira_status status = sira_chunk_parse(item->body, &chunk);
    if (status != SIRA_OK) {
        sira_raise_status(status, (size_t)(item->body.data - (const uint8_t *)PyBytes_AS_STRING(frame)));
        return -1;
    }
    in->hub->chunks_in++;
    struct xfer *xfer = xfer_find(in, chunk.id);
    if (!xfer) return 0; /* of a transfer that was given up meanwhile */
    if (xfer_feed(in->hub, xfer, frame, item, &chunk, alone) < 0) return give_up(in, xfer, "FRAME_CORRUPT", now_ns);
    return 0;
}

static int take_abort(Ingress *in, const struct sira_item *item, uint64_t now_ns)
{
    struct sira_abort abort; /* its error is the publisher's own affair */
    if (sira_abort_parse(item->body, &abort) != SIRA_OK) return 0;
    struct xfer *xfer = xfer_find(in, abort.id);
    if (!xfer) return 0;
    sira_raise("ABORTED", "the publisher gave this message up");
    return give_up(in, xfer, "ABORTED", now_ns);
}

int ingress_feed(Ingress *in, PyObject *frame, uint64_t now_ns)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(frame);
    const size_t len = (size_t)PyBytes_GET_SIZE(frame);
    Hub *hub = in->hub;
    hub->now_ns = now_ns;
    hub->frames_in++;
    hub->bytes_in += len;
    if (len > SIRA_FRAME_BYTES_MAX) {
        sira_raise("MESSAGE_TOO_LARGE", "a frame of %zu bytes, at most %d: send large messages in chunks", len,
                   SIRA_FRAME_BYTES_MAX);
        return -1;
    }
    size_t at = 0;
    for (;;) {
        struct sira_item item;
        bool done;
        const bool first = at == 0;
        const enum sira_status status = sira_frame_next(data, len, &at, &item, &done);
        if (status != SIRA_OK) {
            sira_raise_status(status, at);
            return -1;
        }
        if (done) break;
        int rc = 0;
        switch (item.kind) {
        case SIRA_ITEM_MESSAGE:
        case SIRA_ITEM_HEAD: rc = take_message(in, frame, &item, now_ns); break;
        case SIRA_ITEM_CHUNK: rc = take_chunk(in, frame, &item, first && at == len, now_ns); break;
        case SIRA_ITEM_ABORT: rc = take_abort(in, &item, now_ns); break;
        case SIRA_ITEM_NONE: break; /* of a later version: additive */
        default:
            sira_raise("PROTOCOL_ERROR", "an item of kind %u has no business on a Publish stream", item.kind);
            rc = -1;
        }
        if (rc < 0) return -1;
    }
    note_full(in);
    return 0;
}

/* The stream is gone: unfinished transfers are lost, what is parked was never accepted. */
void ingress_close(Ingress *in, uint64_t now_ns)
{
    if (in->closed) return;
    in->closed = true;
    in->hub->now_ns = now_ns;
    for (struct route_entry *entry = in->parked; entry; entry = entry->parked_next)
        while (entry->first) {
            struct parked *parked = unpark(in, entry);
            if (parked->blob->xfer) {
                parked->blob->xfer->parked = false;
                xfer_release_held(in->hub, parked->blob->xfer);
            }
            parked_free(in->hub, parked);
        }
    in->parked = NULL;
    while (in->xfers) {
        struct xfer *xfer = in->xfers;
        if (xfer->received < xfer->total) xfer_abort(in->hub, xfer, R_PEER_LOST, now_ns);
        else xfer_unlink(xfer);
    }
    for (uint32_t i = 0; i < in->route_cap; i++)
        if (in->routes[i]) entry_free(in->routes[i]);
    PyMem_Free(in->routes);
    in->routes = NULL;
    in->route_cap = in->route_len = 0;
    for (uint32_t i = 0; i < in->slot_len; i++) Py_XDECREF(in->slots[(in->slot_base + i) & (in->slot_cap - 1)].error);
    PyMem_Free(in->slots);
    in->slots = NULL;
    in->slot_cap = in->slot_len = 0;
    if (in->hub_prev) in->hub_prev->hub_next = in->hub_next;
    else in->hub->ingresses = in->hub_next;
    if (in->hub_next) in->hub_next->hub_prev = in->hub_prev;
    in->hub_prev = in->hub_next = NULL;
    Py_CLEAR(in->resolve);
    Py_CLEAR(in->wake);
    Py_CLEAR(in->drained);
    PyList_SetSlice(in->credits, 0, PyList_GET_SIZE(in->credits), NULL);
}
