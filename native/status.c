/* Why bytes were refused: stable codes, words for people, and the cause of a failed protobuf read. */
#include "pb.h"

static const struct {
    const char *code, *text;
} STATUSES[SIRA_STATUS_COUNT] = {
    [SIRA_OK] = {"OK", "no error"},
    [SIRA_TRUNCATED] = {"FRAME_CORRUPT", "a length reaches past the end"},
    [SIRA_MALFORMED] = {"FRAME_CORRUPT", "not protobuf of the expected form"},
    [SIRA_BAD_DTYPE] = {"FRAME_CORRUPT", "the dtype of a tensor is missing or unknown"},
    [SIRA_BAD_SHAPE] = {"FRAME_CORRUPT", "shape and dtype of a tensor do not give the length of its data"},
    [SIRA_TOO_MANY_DIMS] = {"FRAME_CORRUPT", "a tensor has more than 64 dimensions"},
    [SIRA_TOO_MANY] = {"MESSAGE_TOO_LARGE", "more than 256 tensors, 64 headers or 1024 dimensions in one message"},
    [SIRA_TOO_LARGE] = {"MESSAGE_TOO_LARGE", "the message, its envelope or a tensor name is over its limit"},
    [SIRA_BAD_TOPIC] = {"BAD_TOPIC", "not a topic: 1 to 16 tokens joined by dots, at most 255 bytes of UTF-8, no "
                                     "empty token, space, control character or misplaced wildcard"},
    [SIRA_BAD_ID] = {"BAD_REQUEST", "an id is not 16 bytes"},
    [SIRA_BAD_PRIORITY] = {"BAD_REQUEST", "the priority is not 0 to 7"},
    [SIRA_BAD_TEXT] = {"BAD_REQUEST", "a text field is not UTF-8"},
    [SIRA_DUPLICATE_NAME] = {"BAD_REQUEST", "two tensors have one name"},
    [SIRA_FORGED] = {"DENIED", "principal, tenant, attempt and offset are set by the node only"},
};

const char *sira_status_code(enum sira_status status)
{
    assert((unsigned)status < SIRA_STATUS_COUNT);
    return STATUSES[status].code;
}

const char *sira_status_text(enum sira_status status)
{
    assert((unsigned)status < SIRA_STATUS_COUNT);
    return STATUSES[status].text;
}

/* A varint that did not fit: did it end too early, or is it too long? */
static enum sira_status varint_fault(const struct pb_reader *r)
{
    const uint8_t *p = r->at;
    while (p != r->end && *p >= 0x80) p++;
    return p == r->end && p - r->at < 10 ? SIRA_TRUNCATED : SIRA_MALFORMED;
}

enum sira_status sira_pb_fault(const uint8_t *field, const uint8_t *end)
{
    struct pb_reader r = {field, end};
    uint32_t tag;
    uint64_t value;
    struct pb_reader start = r;
    if (!pb_tag(&r, &tag)) return varint_fault(&start);
    start = r;
    switch (tag & 7) {
    case PB_VARINT: return pb_varint(&r, &value) ? SIRA_MALFORMED : varint_fault(&start);
    case PB_FIXED64: return r.end - r.at < 8 ? SIRA_TRUNCATED : SIRA_MALFORMED;
    case PB_FIXED32: return r.end - r.at < 4 ? SIRA_TRUNCATED : SIRA_MALFORMED;
    case PB_LEN:
        if (!pb_varint(&r, &value)) return varint_fault(&start);
        return value > (uint64_t)(r.end - r.at) ? SIRA_TRUNCATED : SIRA_MALFORMED;
    default: return SIRA_MALFORMED;
    }
}
