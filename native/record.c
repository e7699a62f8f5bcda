/* Heads of records: see record.h. */
#include "record.h"

#include <assert.h>

static uint32_t u32_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

enum sira_record_fault sira_record_read(const uint8_t *head, uint32_t bytes_max, struct sira_record *out)
{
    const struct sira_record found = {
        .bytes = u32_at(head), .call = u32_at(head + 4), .kind = head[8], .descriptors = head[9]};
    if (found.kind < SIRA_RECORD_HELLO || found.kind >= SIRA_RECORD_KINDS) return SIRA_RECORD_BAD_KIND;
    if (head[10] || head[11] || u32_at(head + 12)) return SIRA_RECORD_BAD_RESERVED;
    if (found.descriptors > SIRA_RECORD_DESCRIPTORS_MAX) return SIRA_RECORD_BAD_DESCRIPTORS;
    const bool has_none = found.kind == SIRA_RECORD_HELLO || found.kind >= SIRA_RECORD_SEGMENT;
    if (!found.call && !has_none && found.kind != SIRA_RECORD_STATUS) return SIRA_RECORD_BAD_CALL;
    if (found.call && has_none) return SIRA_RECORD_BAD_CALL;
    if (found.bytes > bytes_max) return SIRA_RECORD_TOO_LONG;
    *out = found;
    return SIRA_RECORD_OK;
}

const char *sira_record_fault_text(enum sira_record_fault fault)
{
    assert(fault != SIRA_RECORD_OK);
    switch (fault) {
    case SIRA_RECORD_BAD_KIND: return "a record of no known kind";
    case SIRA_RECORD_BAD_CALL: return "a record whose call does not fit its kind";
    case SIRA_RECORD_BAD_DESCRIPTORS: return "a record with more descriptors than a message carries";
    case SIRA_RECORD_BAD_RESERVED: return "a record whose reserved bits are not zero";
    default: return "a record longer than is taken";
    }
}
