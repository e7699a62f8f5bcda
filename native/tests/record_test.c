/* Heads of records: each field is judged, and nothing is written for a head that is refused. */
#include "record.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { LIMIT = 4 << 20 };

static void put(uint8_t head[16], uint32_t bytes, uint32_t call, uint8_t kind, uint8_t descriptors)
{
    memset(head, 0, 16);
    for (int i = 0; i < 4; i++) head[i] = (uint8_t)(bytes >> 8 * i), head[4 + i] = (uint8_t)(call >> 8 * i);
    head[8] = kind;
    head[9] = descriptors;
}

static void every_kind_is_read_with_its_numbers(void)
{
    uint8_t head[16];
    for (uint8_t kind = SIRA_RECORD_HELLO; kind < SIRA_RECORD_KINDS; kind++) {
        const bool has_none = kind == SIRA_RECORD_HELLO || kind >= SIRA_RECORD_SEGMENT;
        const uint32_t call = has_none ? 0 : 0xfedcba98u;
        put(head, LIMIT, call, kind, 253);
        struct sira_record record;
        assert(sira_record_read(head, LIMIT, &record) == SIRA_RECORD_OK);
        assert(record.bytes == LIMIT && record.call == call && record.kind == kind && record.descriptors == 253);
    }
}

static void refused(const uint8_t head[16], enum sira_record_fault wanted)
{
    struct sira_record record, before;
    memset(&record, 0xa5, sizeof record);
    before = record;
    assert(sira_record_read(head, LIMIT, &record) == wanted);
    assert(!memcmp(&record, &before, sizeof record));
    assert(sira_record_fault_text(wanted)[0]);
}

static void what_is_wrong_is_told(void)
{
    uint8_t head[16];
    put(head, LIMIT + 1, 1, SIRA_RECORD_MESSAGE, 0), refused(head, SIRA_RECORD_TOO_LONG);
    put(head, UINT32_MAX, 1, SIRA_RECORD_MESSAGE, 0), refused(head, SIRA_RECORD_TOO_LONG);
    put(head, 0, 1, 0, 0), refused(head, SIRA_RECORD_BAD_KIND);
    put(head, 0, 1, SIRA_RECORD_KINDS, 0), refused(head, SIRA_RECORD_BAD_KIND);
    put(head, 0, 1, 255, 0), refused(head, SIRA_RECORD_BAD_KIND);
    put(head, 0, 0, SIRA_RECORD_MESSAGE, 0), refused(head, SIRA_RECORD_BAD_CALL);
    put(head, 0, 0, SIRA_RECORD_WINDOW, 0), refused(head, SIRA_RECORD_BAD_CALL);
    put(head, 0, 1, SIRA_RECORD_HELLO, 0), refused(head, SIRA_RECORD_BAD_CALL);
    put(head, 0, 1, SIRA_RECORD_SEGMENT, 1), refused(head, SIRA_RECORD_BAD_CALL);
    put(head, 0, 1, SIRA_RECORD_STOP, 0), refused(head, SIRA_RECORD_BAD_CALL);
    put(head, 0, 1, SIRA_RECORD_MESSAGE, 254), refused(head, SIRA_RECORD_BAD_DESCRIPTORS);
    for (int at = 10; at < 16; at++) {
        put(head, 0, 1, SIRA_RECORD_MESSAGE, 0);
        head[at] = 0x80;
        refused(head, SIRA_RECORD_BAD_RESERVED);
    }
}

static void any_bits_are_read_or_refused_and_never_past_the_limit(void)
{
    uint64_t seed = 0x9e3779b97f4a7c15u;
    uint32_t good = 0;
    for (int i = 0; i < 1000000; i++) {
        uint8_t head[16] = {0};
        for (int j = 0; j < (i & 1 ? 16 : 10); j++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            head[j] = (uint8_t)(seed >> 32);
        }
        if (!(i & 1)) head[8] %= SIRA_RECORD_KINDS, head[3] = 0, head[2] %= 0x60;
        struct sira_record record;
        if (sira_record_read(head, LIMIT, &record) != SIRA_RECORD_OK) continue;
        good++;
        assert(record.bytes <= LIMIT && record.kind && record.kind < SIRA_RECORD_KINDS);
        assert(record.descriptors <= SIRA_RECORD_DESCRIPTORS_MAX);
    }
    assert(good > 1000);
}

int main(void)
{
    every_kind_is_read_with_its_numbers();
    what_is_wrong_is_told();
    any_bits_are_read_or_refused_and_never_past_the_limit();
    puts("ok");
    return 0;
}
