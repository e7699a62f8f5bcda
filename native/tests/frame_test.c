/* Frames: items, subscriptions, chunks, credits, receipts. */
#include "build.h"

static const uint8_t ID[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

/* Walk a frame that lies in memory of exactly its size. Status of the first item refused; *items walked before. */
static enum sira_status walk(const uint8_t *frame, size_t len, uint32_t *items)
{
    uint8_t *exact = malloc(len ? len : 1);
    CHECK(exact);
    if (len) memcpy(exact, frame, len);
    struct sira_item item;
    size_t at = 0;
    bool done;
    enum sira_status status;
    *items = 0;
    for (;;) {
        const size_t before = at;
        status = sira_frame_next(exact, len, &at, &item, &done);
        if (status || done) break;
        CHECK(at > before && at <= len);
        CHECK(item.raw.data >= exact && item.raw.data + item.raw.len <= exact + len);
        (*items)++;
    }
    free(exact);
    return status;
}

static enum sira_status item_of(const struct buf *body, struct sira_item *item)
{
    static struct buf frame; /* item points into it */
    frame.len = 0;
    put_buf(&frame, 1, body);
    size_t at = 0;
    bool done;
    const enum sira_status status = sira_frame_next(frame.bytes, frame.len, &at, item, &done);
    CHECK(!done && at == frame.len);
    return status;
}

static void test_items_come_in_order_and_unknown_fields_are_skipped(void)
{
    struct buf *frame = buf_new(), *item = buf_new();
    struct sira_item got;
    size_t at = 0;
    bool done;
    for (uint32_t kind = 1; kind <= SIRA_ITEM_ENDED; kind++) {
        item->len = 0;
        put_uint(item, 99, kind);
        put_text(item, kind, "body");
        put_buf(frame, 1, item);
        put_text(frame, 7, "unknown");
    }
    item->len = 0;
    put_text(item, SIRA_ITEM_ASIDE, "body");
    put_buf(frame, 1, item);
    item->len = 0;
    put_text(item, SIRA_ITEM_CELL_END, "body");
    put_buf(frame, 1, item);
    item->len = 0;
    put_text(item, 20, "a kind of a later version");
    put_buf(frame, 1, item);
    const uint32_t late[] = {SIRA_ITEM_ASIDE, SIRA_ITEM_CELL_END, SIRA_ITEM_NONE};
    for (uint32_t kind = 1; kind <= SIRA_ITEM_ENDED + 3; kind++) {
        CHECK_EQUAL(sira_frame_next(frame->bytes, frame->len, &at, &got, &done), SIRA_OK);
        CHECK(!done);
        CHECK_EQUAL(got.kind, kind <= SIRA_ITEM_ENDED ? kind : late[kind - SIRA_ITEM_ENDED - 1]);
        if (got.kind) CHECK(got.body.len == 4 && !memcmp(got.body.data, "body", 4));
        CHECK(got.sub_first == 0 && got.subs.len == 0 && !got.quiet && !got.has_wait && got.grade == 0);
    }
    CHECK_EQUAL(sira_frame_next(frame->bytes, frame->len, &at, &got, &done), SIRA_OK);
    CHECK(done);
    at = 0;
    CHECK_EQUAL(sira_frame_next(NULL, 0, &at, &got, &done), SIRA_OK);
    CHECK(done);
    free(frame);
    free(item);
}

static void test_every_truncation_of_a_frame_is_named(void)
{
    struct buf *frame = buf_new(), *item = buf_new();
    size_t ends[3];
    for (uint32_t i = 0; i < 3; i++) {
        item->len = 0;
        put_text(item, SIRA_ITEM_MESSAGE, "0123456789");
        put_bytes(item, 12, "\x01\x82\x01", 3);
        put_uint(item, 14, 300);
        put_buf(frame, 1, item);
        ends[i] = frame->len;
    }
    uint32_t items;
    for (size_t cut = 0, passed = 0; cut <= frame->len; cut++) {
        const bool boundary = cut == 0 || cut == ends[passed];
        if (cut && boundary) passed++;
        CHECK_EQUAL(walk(frame->bytes, cut, &items), boundary ? SIRA_OK : SIRA_TRUNCATED);
        CHECK_EQUAL(items, passed);
    }
    const size_t pieces[] = {0, 12, 17, item->len}; /* the item's own fields, cut inside a whole frame */
    for (size_t cut = 0, passed = 0; cut <= item->len; cut++) {
        frame->len = 0;
        put_bytes(frame, 1, item->bytes, cut);
        const bool boundary = cut == pieces[passed];
        if (boundary) passed++;
        CHECK_EQUAL(walk(frame->bytes, frame->len, &items), boundary ? SIRA_OK : SIRA_TRUNCATED);
    }
    free(frame);
    free(item);
}

static void test_subscriptions_are_read_packed_or_one_by_itself(void)
{
    struct buf *item = buf_new();
    struct sira_item got;
    uint32_t sub;
    size_t at = 0;
    put_bytes(item, 12, "\x05\xac\x02\xff\xff\xff\xff\x0f", 8);
    CHECK_EQUAL(item_of(item, &got), SIRA_OK);
    CHECK_EQUAL(got.sub_first, 5);
    CHECK(sira_subs_next(&got.subs, &at, &sub) && sub == 5);
    CHECK(sira_subs_next(&got.subs, &at, &sub) && sub == 300);
    CHECK(sira_subs_next(&got.subs, &at, &sub) && sub == UINT32_MAX);
    CHECK(!sira_subs_next(&got.subs, &at, &sub));
    put_bytes(item, 12, "", 0);
    CHECK_EQUAL(item_of(item, &got), SIRA_OK);
    put_uint(item, 12, 1);
    CHECK_EQUAL(item_of(item, &got), SIRA_MALFORMED);
    item->len = 0;
    put_uint(item, 12, 300);
    CHECK_EQUAL(item_of(item, &got), SIRA_OK);
    at = 0;
    CHECK(got.sub_first == 300 && sira_subs_next(&got.subs, &at, &sub) && sub == 300 && !sira_subs_next(&got.subs, &at, &sub));
    put_uint(item, 12, 301);
    CHECK_EQUAL(item_of(item, &got), SIRA_MALFORMED);
    item->len = 0;
    put_bytes(item, 12, "\x01\x80", 2);
    CHECK_EQUAL(item_of(item, &got), SIRA_TRUNCATED);
    item->len = 0;
    put_bytes(item, 12, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10);
    CHECK_EQUAL(item_of(item, &got), SIRA_MALFORMED);
    free(item);
}

static void test_the_last_of_a_oneof_and_of_a_scalar_counts(void)
{
    struct buf *item = buf_new();
    struct sira_item got;
    put_uint(item, 14, 0);
    put_text(item, SIRA_ITEM_MESSAGE, "first");
    put_uint(item, 13, 1);
    put_uint(item, 15, 3);
    put_text(item, SIRA_ITEM_CREDIT, "last");
    put_uint(item, 15, 1);
    CHECK_EQUAL(item_of(item, &got), SIRA_OK);
    CHECK(got.kind == SIRA_ITEM_CREDIT && got.body.len == 4 && got.quiet && got.grade == 1 && got.has_wait && got.wait_ms == 0);
    put_uint(item, SIRA_ITEM_HEAD, 1);
    CHECK_EQUAL(item_of(item, &got), SIRA_MALFORMED);
    free(item);
}

static void test_chunks(void)
{
    struct buf *b = buf_new();
    struct sira_chunk chunk;
    put_bytes(b, 15, "data", 4);
    put_uint(b, 3, 1ull << 40);
    put_uint(b, 2, 7);
    put_uint(b, 99, 1);
    CHECK_EQUAL(sira_chunk_parse((struct sira_slice){b->bytes, b->len}, &chunk), SIRA_BAD_ID); /* of no message */
    put_bytes(b, 1, ID, 16);
    CHECK_EQUAL(sira_chunk_parse((struct sira_slice){b->bytes, b->len}, &chunk), SIRA_OK);
    CHECK(!memcmp(chunk.id.data, ID, 16) && chunk.tensor == 7 && chunk.offset == 1ull << 40);
    CHECK(chunk.data.len == 4 && !memcmp(chunk.data.data, "data", 4));
    for (size_t cut = 0; cut < b->len; cut++) CHECK(sira_chunk_parse((struct sira_slice){b->bytes, cut}, &chunk) != SIRA_OK);
    put_bytes(b, 1, ID, 15);
    CHECK_EQUAL(sira_chunk_parse((struct sira_slice){b->bytes, b->len}, &chunk), SIRA_BAD_ID);
    b->len = 0;
    put_uint(b, 15, 1);
    CHECK_EQUAL(sira_chunk_parse((struct sira_slice){b->bytes, b->len}, &chunk), SIRA_MALFORMED);
    b->len = 0;
    put_text(b, 2, "tensor");
    CHECK_EQUAL(sira_chunk_parse((struct sira_slice){b->bytes, b->len}, &chunk), SIRA_MALFORMED);
    free(b);
}

static void test_aborts(void)
{
    struct buf *b = buf_new();
    struct sira_abort abort;
    put_bytes(b, 1, ID, 16);
    CHECK_EQUAL(sira_abort_parse((struct sira_slice){b->bytes, b->len}, &abort), SIRA_OK);
    CHECK(!memcmp(abort.id.data, ID, 16) && !abort.error.data);
    put_text(b, 2, "an Error");
    CHECK_EQUAL(sira_abort_parse((struct sira_slice){b->bytes, b->len}, &abort), SIRA_OK);
    CHECK(abort.error.len == 8 && !memcmp(abort.error.data, "an Error", 8));
    for (size_t cut = 19; cut < b->len; cut++)
        CHECK_EQUAL(sira_abort_parse((struct sira_slice){b->bytes, cut}, &abort), SIRA_TRUNCATED);
    CHECK_EQUAL(sira_abort_parse((struct sira_slice){b->bytes, 0}, &abort), SIRA_BAD_ID);
    free(b);
}

static void test_credits(void)
{
    struct buf *b = buf_new();
    struct sira_credit credit;
    CHECK_EQUAL(sira_credit_parse((struct sira_slice){b->bytes, 0}, &credit), SIRA_OK);
    CHECK(credit.subscription == 0 && credit.taken == 0 && credit.id.len == 0 && credit.bytes == 0);
    put_uint(b, 1, 3);
    put_uint(b, 2, UINT64_MAX);
    put_bytes(b, 3, ID, 16);
    put_uint(b, 4, 1 << 20);
    put_uint(b, 5, 1 << 21);
    CHECK_EQUAL(sira_credit_parse((struct sira_slice){b->bytes, b->len}, &credit), SIRA_OK);
    CHECK(credit.subscription == 3 && credit.taken == UINT64_MAX && credit.id.len == 16 && credit.bytes == 1 << 20);
    CHECK(credit.total == 1 << 21);
    b->bytes[b->len - 1] |= 0x80;
    CHECK_EQUAL(sira_credit_parse((struct sira_slice){b->bytes, b->len}, &credit), SIRA_TRUNCATED);
    free(b);
}

static void test_asks(void)
{
    struct buf *b = buf_new();
    struct sira_ask ask;
    put_uint(b, 1, UINT32_MAX);
    put_text(b, 2, "robot.arm");
    put_uint(b, 9, 1); /* of a later version */
    CHECK_EQUAL(sira_ask_parse((struct sira_slice){b->bytes, b->len}, &ask), SIRA_OK);
    CHECK(ask.ask == UINT32_MAX && ask.topic.len == 9 && !memcmp(ask.topic.data, "robot.arm", 9));
    for (size_t cut = 7; cut < b->len - 2; cut++)
        CHECK_EQUAL(sira_ask_parse((struct sira_slice){b->bytes, cut}, &ask), SIRA_TRUNCATED);
    b->bytes[b->len - 3] = '*';
    CHECK_EQUAL(sira_ask_parse((struct sira_slice){b->bytes, b->len}, &ask), SIRA_BAD_TOPIC);
    CHECK_EQUAL(sira_ask_parse((struct sira_slice){b->bytes, 6}, &ask), SIRA_BAD_TOPIC); /* of no topic */
    b->len = 0;
    put_text(b, 1, "7");
    put_text(b, 2, "x");
    CHECK_EQUAL(sira_ask_parse((struct sira_slice){b->bytes, b->len}, &ask), SIRA_MALFORMED);
    free(b);
}

/* An item of a kind of a later version has no body: whoever parses it all the same gets an empty message. */
static void test_no_body_is_an_empty_one(void)
{
    const struct sira_slice none = {NULL, 0};
    struct sira_chunk chunk;
    struct sira_credit credit;
    struct sira_receipt receipt;
    CHECK_EQUAL(sira_chunk_parse(none, &chunk), SIRA_BAD_ID);
    struct sira_ask ask;
    CHECK_EQUAL(sira_credit_parse(none, &credit), SIRA_OK);
    CHECK_EQUAL(sira_ask_parse(none, &ask), SIRA_BAD_TOPIC);
    CHECK_EQUAL(sira_receipt_parse(none, &receipt), SIRA_OK);
}

static void test_receipts(void)
{
    struct buf *b = buf_new();
    struct sira_receipt receipt;
    put_bytes(b, 1, ID, 16);
    put_uint(b, 2, 12);
    put_uint(b, 3, 1);
    CHECK_EQUAL(sira_receipt_parse((struct sira_slice){b->bytes, b->len}, &receipt), SIRA_OK);
    CHECK(!receipt.has_offset && !receipt.error.data);
    put_uint(b, 4, 0);
    put_bytes(b, 5, "\x01", 1);
    put_uint(b, 5, 2);
    put_uint(b, 5, 1000); /* a lane of a later version */
    put_uint(b, 6, 2);
    put_uint(b, 7, 1ull << 33);
    put_uint(b, 8, 4);
    put_uint(b, 9, 1);
    put_bytes(b, 10, "", 0);
    CHECK_EQUAL(sira_receipt_parse((struct sira_slice){b->bytes, b->len}, &receipt), SIRA_OK);
    CHECK(receipt.id.len == 16 && receipt.matched == 12 && receipt.grade == 1 && receipt.has_offset && receipt.offset == 0);
    CHECK(receipt.lane_bits == 6 && receipt.copies == 2 && receipt.bytes == 1ull << 33 && receipt.nodes == 4 && receipt.spooled);
    CHECK(receipt.error.data && receipt.error.len == 0); /* there, though empty: refused */
    put_uint(b, 5, 31);
    CHECK_EQUAL(sira_receipt_parse((struct sira_slice){b->bytes, b->len}, &receipt), SIRA_OK);
    CHECK_EQUAL(receipt.lane_bits, 6 | 1u << 31);
    put_fixed64(b, 5, 1);
    CHECK_EQUAL(sira_receipt_parse((struct sira_slice){b->bytes, b->len}, &receipt), SIRA_MALFORMED);
    free(b);
}

int main(void)
{
    test_items_come_in_order_and_unknown_fields_are_skipped();
    test_every_truncation_of_a_frame_is_named();
    test_subscriptions_are_read_packed_or_one_by_itself();
    test_the_last_of_a_oneof_and_of_a_scalar_counts();
    test_chunks();
    test_aborts();
    test_credits();
    test_asks();
    test_no_body_is_an_empty_one();
    test_receipts();
    return 0;
}
