/* Frames: the items of a stream element, and the control messages that the data plane reads itself.
 * Proto: bus.proto. How long a Frame may be (SIRA_FRAME_BYTES_MAX) is for the caller to check. */
#include "pb.h"

#define TAG(field, wire) ((uint32_t)(field) << 3 | (uint32_t)(wire))

/* Check a run of packed varints. */
static enum sira_status check_packed(struct sira_slice run)
{
    struct pb_reader r = {run.data, run.data + run.len};
    uint64_t value;
    while (r.at != r.end)
        if (!pb_varint(&r, &value)) return r.end - r.at < 10 ? SIRA_TRUNCATED : SIRA_MALFORMED;
    return SIRA_OK;
}

/* One run of subscriptions an item: the slice points into the frame, so two runs could not be joined. */
static enum sira_status put_subs(struct sira_item *item, struct sira_slice run)
{
    if (run.len == 0) return SIRA_OK;
    if (item->subs.len) return SIRA_MALFORMED;
    const enum sira_status status = check_packed(run);
    if (status) return status;
    item->subs = run;
    size_t at = 0;
    sira_subs_next(&run, &at, &item->sub_first);
    return SIRA_OK;
}

static enum sira_status parse_item(struct sira_item *item)
{
    struct pb_reader r = {item->raw.data, item->raw.data + item->raw.len};
    while (r.at != r.end) {
        const uint8_t *start = r.at;
        uint32_t tag;
        uint64_t value;
        struct sira_slice run;
        enum sira_status status = SIRA_OK;
        bool fits;
        if (!pb_tag(&r, &tag)) return sira_pb_fault(start, r.end);
        switch (tag) {
        case TAG(SIRA_ITEM_MESSAGE, PB_LEN):
        case TAG(SIRA_ITEM_HEAD, PB_LEN):
        case TAG(SIRA_ITEM_CHUNK, PB_LEN):
        case TAG(SIRA_ITEM_ABORT, PB_LEN):
        case TAG(SIRA_ITEM_CREDIT, PB_LEN):
        case TAG(SIRA_ITEM_ACK, PB_LEN):
        case TAG(SIRA_ITEM_RECEIPT, PB_LEN):
        case TAG(SIRA_ITEM_OPEN, PB_LEN):
        case TAG(SIRA_ITEM_OPENED, PB_LEN):
        case TAG(SIRA_ITEM_CLOSE, PB_LEN):
        case TAG(SIRA_ITEM_ENDED, PB_LEN):
        case TAG(SIRA_ITEM_ASIDE, PB_LEN):
        case TAG(SIRA_ITEM_ASK, PB_LEN):
        case TAG(SIRA_ITEM_CELL_OPEN, PB_LEN):
        case TAG(SIRA_ITEM_CELL_END, PB_LEN):
            fits = pb_bytes(&r, &item->body);
            item->kind = tag >> 3; /* of a oneof given twice the last one counts */
            break;
        case TAG(12, PB_LEN):
            fits = pb_bytes(&r, &run);
            if (fits) status = put_subs(item, run);
            break;
        case TAG(12, PB_VARINT):
            run.data = r.at;
            fits = pb_varint(&r, &value);
            run.len = (size_t)(r.at - run.data);
            if (fits) status = put_subs(item, run);
            break;
        case TAG(13, PB_VARINT):
            fits = pb_varint(&r, &value);
            if (fits) item->quiet = value != 0;
            break;
        case TAG(14, PB_VARINT):
            fits = pb_varint(&r, &value);
            if (fits) item->has_wait = true, item->wait_ms = (uint32_t)value;
            break;
        case TAG(15, PB_VARINT):
            fits = pb_varint(&r, &value);
            if (fits) item->grade = (uint32_t)value;
            break;
        default: fits = tag >> 3 > 15 && pb_skip(&r, tag & 7);
        }
        if (!fits) return sira_pb_fault(start, r.end);
        if (status) return status;
    }
    return SIRA_OK;
}

enum sira_status sira_frame_next(const uint8_t *frame, size_t len, size_t *at, struct sira_item *item, bool *done)
{
    assert(*at <= len);
    *done = false;
    while (*at < len) {
        const uint8_t *start = frame + *at;
        struct pb_reader r = {start, frame + len};
        uint32_t tag;
        if (!pb_tag(&r, &tag)) return sira_pb_fault(start, r.end);
        if (tag != TAG(1, PB_LEN)) {
            if (tag >> 3 == 1 || !pb_skip(&r, tag & 7)) return sira_pb_fault(start, r.end);
            *at = (size_t)(r.at - frame);
            continue;
        }
        memset(item, 0, sizeof *item);
        if (!pb_bytes(&r, &item->raw)) return sira_pb_fault(start, r.end);
        *at = (size_t)(r.at - frame);
        return parse_item(item);
    }
    *done = true;
    return SIRA_OK;
}

bool sira_subs_next(const struct sira_slice *subs, size_t *at, uint32_t *subscription)
{
    if (*at >= subs->len) return false;
    struct pb_reader r = {subs->data + *at, subs->data + subs->len};
    uint64_t value;
    if (!pb_varint(&r, &value)) return false;
    *at = (size_t)(r.at - subs->data);
    *subscription = (uint32_t)value;
    return true;
}

/* ---- control messages ---------------------------------------------------------------------------------- */

enum { SHAPE_U32 = 1, SHAPE_U64, SHAPE_BOOL, SHAPE_SLICE, SHAPE_ID, SHAPE_BITS };

/* Where the value of one field goes. */
struct field {
    uint32_t number;
    uint32_t shape;
    void *out;   /* uint32_t, uint64_t, bool, struct sira_slice or, for SHAPE_BITS, uint32_t */
    bool *given; /* NULL: nobody asks */
};

/* SHAPE_BITS: a repeated enum, packed or not, as a set of 1 << value; values past 31 are unknown: left out. */
static enum sira_status put_bits(struct pb_reader *r, uint32_t wire, uint32_t *bits)
{
    struct sira_slice run;
    uint64_t value;
    if (wire == PB_VARINT) {
        if (!pb_varint(r, &value)) return SIRA_MALFORMED;
        if (value < 32) *bits |= UINT32_C(1) << value;
        return SIRA_OK;
    }
    if (wire != PB_LEN || !pb_bytes(r, &run)) return SIRA_MALFORMED;
    const enum sira_status status = check_packed(run);
    if (status) return status;
    struct pb_reader packed = {run.data, run.data + run.len};
    while (packed.at != packed.end && pb_varint(&packed, &value))
        if (value < 32) *bits |= UINT32_C(1) << value;
    return SIRA_OK;
}

static enum sira_status put_field(struct pb_reader *r, uint32_t wire, const struct field *field)
{
    uint64_t value = 0;
    if (field->shape == SHAPE_BITS) return put_bits(r, wire, field->out);
    if (field->shape == SHAPE_SLICE || field->shape == SHAPE_ID) {
        struct sira_slice *out = field->out;
        if (wire != PB_LEN || !pb_bytes(r, out)) return SIRA_MALFORMED;
        if (field->shape == SHAPE_ID && out->len && out->len != SIRA_ID_BYTES) return SIRA_BAD_ID;
    } else {
        if (wire != PB_VARINT || !pb_varint(r, &value)) return SIRA_MALFORMED;
        switch (field->shape) {
        case SHAPE_U32: *(uint32_t *)field->out = (uint32_t)value; break;
        case SHAPE_U64: *(uint64_t *)field->out = value; break;
        default: *(bool *)field->out = value != 0;
        }
    }
    if (field->given) *field->given = true;
    return SIRA_OK;
}

static inline enum sira_status parse_fields(struct sira_slice body, const struct field *fields, size_t count)
{
    if (body.len == 0) return SIRA_OK; /* body.data may be NULL: no arithmetic on it */
    struct pb_reader r = {body.data, body.data + body.len};
    while (r.at != r.end) {
        const uint8_t *start = r.at;
        uint32_t number, wire;
        if (!pb_key(&r, &number, &wire)) return sira_pb_fault(start, r.end);
        const struct field *field = fields;
        while (field != fields + count && field->number != number) field++;
        enum sira_status status;
        if (field == fields + count)
            status = pb_skip(&r, wire) ? SIRA_OK : SIRA_MALFORMED;
        else
            status = put_field(&r, wire, field);
        if (status == SIRA_MALFORMED) return sira_pb_fault(start, r.end);
        if (status) return status;
    }
    return SIRA_OK;
}

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

enum sira_status sira_chunk_parse(struct sira_slice body, struct sira_chunk *chunk)
{
    *chunk = (struct sira_chunk){.id = {NULL, 0}};
    struct sira_slice lent = {NULL, 0};
    const struct field fields[] = {
        {1, SHAPE_ID, &chunk->id, NULL},
        {2, SHAPE_U32, &chunk->tensor, NULL},
        {3, SHAPE_U64, &chunk->offset, NULL},
        {4, SHAPE_SLICE, &lent, NULL},
        {15, SHAPE_SLICE, &chunk->data, NULL},
    };
    enum sira_status status = parse_fields(body, fields, COUNT_OF(fields));
    if (status) return status;
    if (!chunk->id.len) return SIRA_BAD_ID; /* of which message? */
    if (!lent.data) return SIRA_OK;
    chunk->is_lent = true;
    const struct field of_lent[] = {
        {1, SHAPE_U32, &chunk->lent.segment, NULL},
        {2, SHAPE_U64, &chunk->lent.offset, NULL},
        {3, SHAPE_U64, &chunk->lent.bytes, NULL},
        {4, SHAPE_U64, &chunk->lent.lease, NULL},
    };
    status = parse_fields(lent, of_lent, COUNT_OF(of_lent));
    if (status) return status;
    return chunk->data.len || !chunk->lent.bytes || !chunk->lent.lease ? SIRA_MALFORMED : SIRA_OK;
}

enum sira_status sira_abort_parse(struct sira_slice body, struct sira_abort *abort)
{
    *abort = (struct sira_abort){{NULL, 0}, {NULL, 0}};
    const struct field fields[] = {
        {1, SHAPE_ID, &abort->id, NULL},
        {2, SHAPE_SLICE, &abort->error, NULL},
    };
    const enum sira_status status = parse_fields(body, fields, COUNT_OF(fields));
    if (status) return status;
    return abort->id.len ? SIRA_OK : SIRA_BAD_ID;
}

enum sira_status sira_credit_parse(struct sira_slice body, struct sira_credit *credit)
{
    *credit = (struct sira_credit){0, 0, {NULL, 0}, 0, 0};
    const struct field fields[] = {
        {1, SHAPE_U32, &credit->subscription, NULL},
        {2, SHAPE_U64, &credit->taken, NULL},
        {3, SHAPE_ID, &credit->id, NULL},
        {4, SHAPE_U64, &credit->bytes, NULL},
        {5, SHAPE_U64, &credit->total, NULL},
    };
    return parse_fields(body, fields, COUNT_OF(fields));
}

enum sira_status sira_receipt_parse(struct sira_slice body, struct sira_receipt *receipt)
{
    memset(receipt, 0, sizeof *receipt);
    const struct field fields[] = {
        {1, SHAPE_ID, &receipt->id, NULL},
        {2, SHAPE_U32, &receipt->matched, NULL},
        {3, SHAPE_U32, &receipt->grade, NULL},
        {4, SHAPE_U64, &receipt->offset, &receipt->has_offset},
        {5, SHAPE_BITS, &receipt->lane_bits, NULL},
        {6, SHAPE_U32, &receipt->copies, NULL},
        {7, SHAPE_U64, &receipt->bytes, NULL},
        {8, SHAPE_U32, &receipt->nodes, NULL},
        {9, SHAPE_BOOL, &receipt->spooled, NULL},
        {10, SHAPE_SLICE, &receipt->error, NULL},
    };
    return parse_fields(body, fields, COUNT_OF(fields));
}

enum sira_status sira_ask_parse(struct sira_slice body, struct sira_ask *ask)
{
    *ask = (struct sira_ask){0, {NULL, 0}};
    const struct field fields[] = {
        {1, SHAPE_U32, &ask->ask, NULL},
        {2, SHAPE_SLICE, &ask->topic, NULL},
    };
    const enum sira_status status = parse_fields(body, fields, COUNT_OF(fields));
    return status ? status : sira_topic_check(ask->topic.data, ask->topic.len);
}
