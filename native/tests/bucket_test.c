/* Token buckets and held bytes, alone: what passes, when the rest would, and that a refusal uses nothing up. */
#include "../bucket.h"
#include "build.h"

#include <math.h>

static const uint64_t S = 1000000000u;

static struct sira_bucket bucket(double messages_per_s, double bytes_per_s, double burst_s, uint64_t held_max)
{
    struct sira_bucket made = {0};
    sira_bucket_set(&made, messages_per_s, bytes_per_s, burst_s, held_max);
    return made;
}

/* 0: it passed; else how long it must wait, in ns. */
static uint64_t pass(struct sira_bucket *at, uint64_t bytes, uint64_t now_ns)
{
    double wait_s = 0;
    if (sira_bucket_ask(at, 1, bytes, now_ns, &wait_s) == SIRA_ROOM) {
        sira_bucket_take(at, now_ns);
        return 0;
    }
    return (uint64_t)llround(wait_s * 1e9);
}

static void a_new_bucket_holds_its_burst_and_fills_with_time(void)
{
    struct sira_bucket at = bucket(10, 0, 2, 0);
    for (int i = 0; i < 20; i++) CHECK_EQUAL(pass(&at, 1, S), 0);
    CHECK_EQUAL(pass(&at, 1, S), S / 10);
    CHECK_EQUAL(pass(&at, 1, S + S / 20), S / 20);
    CHECK_EQUAL(pass(&at, 1, S + S / 10), 0);
    CHECK_EQUAL(pass(&at, 1, S + S / 10), S / 10);
    for (int i = 0; i < 20; i++) CHECK_EQUAL(pass(&at, 1, 1000 * S), 0); /* no more than the burst, however long */
    CHECK(pass(&at, 1, 1000 * S) > 0);
}

static void what_is_larger_than_the_burst_goes_from_a_full_bucket(void)
{
    struct sira_bucket at = bucket(0, 1000, 1, 0);
    CHECK_EQUAL(pass(&at, 5000, S), 0);
    CHECK_EQUAL(pass(&at, 1, S), 4001 * (S / 1000));
    CHECK_EQUAL(pass(&at, 5000, S), 5 * S); /* until it is full again */
    CHECK_EQUAL(pass(&at, 5000, 6 * S), 0);
    struct sira_bucket slow = bucket(1e-9, 0, 1, 0);
    CHECK_EQUAL(pass(&slow, 0, S), 0);
    CHECK(pass(&slow, 0, 2 * S) > 900000000 * S);
}

static void a_refusal_uses_nothing_up_and_loses_nothing_to_rounding(void)
{
    struct sira_bucket at = bucket(1000, 0, 3600, 0);
    for (uint32_t i = 0; i < 3600 * 1000; i++) CHECK_EQUAL(pass(&at, 0, S), 0);
    for (uint64_t now_ns = S; now_ns < S + 999999; now_ns += 7) CHECK(pass(&at, 0, now_ns) > 0);
    CHECK_EQUAL(pass(&at, 0, S + S / 1000 + 1), 0);
    struct sira_bucket both = bucket(1, 1000, 1, 0);
    CHECK_EQUAL(pass(&both, 1000, S), 0);
    CHECK(pass(&both, 0, S + S / 2) > 0); /* no message left: no bytes are taken */
    CHECK_EQUAL(pass(&both, 1000, 2 * S), 0);
}

static void time_that_goes_back_gives_nothing(void)
{
    struct sira_bucket at = bucket(1, 0, 1, 0);
    CHECK_EQUAL(pass(&at, 0, 10 * S), 0);
    CHECK_EQUAL(pass(&at, 0, 9 * S), S);
    CHECK_EQUAL(pass(&at, 0, 11 * S), 0);
}

static void held_bytes_come_back(void)
{
    struct sira_bucket at = bucket(0, 0, 1, 100);
    double wait_s = 0;
    CHECK_EQUAL(sira_bucket_ask(&at, 1, 101, 0, &wait_s), SIRA_ROOM_NEVER);
    CHECK_EQUAL(sira_bucket_ask(&at, 1, 100, 0, &wait_s), SIRA_ROOM);
    sira_bucket_hold(&at, 60);
    CHECK_EQUAL(sira_bucket_ask(&at, 1, 41, 0, &wait_s), SIRA_ROOM_HELD);
    CHECK_EQUAL(sira_bucket_ask(&at, 1, 40, 0, &wait_s), SIRA_ROOM);
    CHECK(!sira_bucket_idle(&at, S));
    sira_bucket_set(&at, 0, 0, 1, 50); /* less than what is held: nothing passes until it is given back */
    CHECK_EQUAL(sira_bucket_ask(&at, 1, 1, 0, &wait_s), SIRA_ROOM_HELD);
    sira_bucket_give(&at, 60);
    CHECK_EQUAL(sira_bucket_ask(&at, 1, 50, 0, &wait_s), SIRA_ROOM);
    CHECK(sira_bucket_idle(&at, S));
}

static void other_limits_keep_what_is_owed(void)
{
    struct sira_bucket at = bucket(0, 0, 1, 0);
    CHECK_EQUAL(pass(&at, 1000000, S), 0);
    sira_bucket_set(&at, 10, 0, 1, 0); /* unlimited so far: it begins full */
    for (int i = 0; i < 10; i++) CHECK_EQUAL(pass(&at, 0, S), 0);
    sira_bucket_set(&at, 1000, 0, 1, 0);
    CHECK_EQUAL(pass(&at, 0, S), S / 1000);
    sira_bucket_set(&at, 5, 0, 1, 0);
    for (int i = 0; i < 5; i++) CHECK_EQUAL(pass(&at, 0, 100 * S), 0);
    CHECK(pass(&at, 0, 100 * S) > 0);
    CHECK(!sira_bucket_idle(&at, 100 * S));
    CHECK(sira_bucket_idle(&at, 101 * S));
}

int main(void)
{
    a_new_bucket_holds_its_burst_and_fills_with_time();
    what_is_larger_than_the_burst_goes_from_a_full_bucket();
    a_refusal_uses_nothing_up_and_loses_nothing_to_rounding();
    time_that_goes_back_gives_nothing();
    held_bytes_come_back();
    other_limits_keep_what_is_owed();
    return 0;
}
