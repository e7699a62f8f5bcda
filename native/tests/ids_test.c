/* Ids: UUIDv7, in order, never twice, also after fork; clocks. */
#include "build.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { IDS = 1000000, CHILD_IDS = 1000 };

static int64_t clock_s; /* the wall clock stands at this second; 0: it runs */

/* Takes the place of libc's: only so can two processes be made to count within one ms, and a clock be set back. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock != CLOCK_REALTIME || !clock_s) return (int)syscall(SYS_clock_gettime, clock, now);
    now->tv_sec = clock_s;
    now->tv_nsec = 0;
    return 0;
}

static int random_errno; /* what getrandom() fails with; EINTR: once; 0: it works */

/* Takes the place of libc's, as a sandbox would. */
ssize_t getrandom(void *out, size_t len, unsigned flags)
{
    if (!random_errno) return syscall(SYS_getrandom, out, len < 3 ? len : 3, flags); /* less than was asked for */
    errno = random_errno;
    if (random_errno == EINTR) random_errno = 0;
    return -1;
}

static void check_form(const uint8_t *id)
{
    CHECK_EQUAL(id[6] >> 4, 7);
    CHECK_EQUAL(id[8] >> 6, 2);
}

static uint64_t ms_of(const uint8_t *id)
{
    uint64_t ms = 0;
    for (int i = 0; i < 6; i++) ms = ms << 8 | id[i];
    return ms;
}

static void test_a_million_ids_are_in_order_and_new(void)
{
    uint8_t before[16], id[16];
    const uint64_t start_ms = sira_now_wall_ns() / 1000000;
    sira_id_new(before);
    check_form(before);
    CHECK(ms_of(before) >= start_ms && ms_of(before) <= sira_now_wall_ns() / 1000000);
    uint32_t same_ms = 0;
    for (uint32_t i = 1; i < IDS; i++) {
        sira_id_new(id);
        check_form(id);
        CHECK(memcmp(before, id, 16) < 0); /* so none is there twice either */
        same_ms += ms_of(before) == ms_of(id);
        memcpy(before, id, 16);
    }
    CHECK(same_ms > 0); /* the counter was what kept them in order, not the clock alone */
}

/* The ids a forked child makes, read through a pipe. */
static void ids_of_child(uint8_t (*ids)[16])
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        uint8_t id[16];
        for (int i = 0; i < CHILD_IDS; i++) {
            sira_id_new(id);
            if (write(ends[1], id, 16) != 16) _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    size_t got = 0;
    for (ssize_t n; got < 16 * CHILD_IDS && (n = read(ends[0], (uint8_t *)ids + got, 16 * CHILD_IDS - got)) > 0;) got += (size_t)n;
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_EQUAL(got, 16 * CHILD_IDS);
    close(ends[0]);
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

static void test_children_do_not_repeat_their_parent(void)
{
    enum { CHILDREN = 3 };
    static uint8_t ids[(CHILDREN + 1) * CHILD_IDS][16];
    clock_s = 4000000000; /* all in one ms: nothing but a new seed can part them */
    uint8_t first[16];
    sira_id_new(first);
    for (int child = 0; child < CHILDREN; child++) {
        ids_of_child(&ids[child * CHILD_IDS]);
        for (int i = 1; i < CHILD_IDS; i++) CHECK(memcmp(ids[child * CHILD_IDS + i - 1], ids[child * CHILD_IDS + i], 16) < 0);
    }
    for (int i = 0; i < CHILD_IDS; i++) sira_id_new(ids[CHILDREN * CHILD_IDS + i]);
    qsort(ids, sizeof ids / 16, 16, compare);
    for (size_t i = 0; i < sizeof ids / 16; i++) {
        CHECK_EQUAL(ms_of(ids[i]), ms_of(first));
        if (i) CHECK(memcmp(ids[i - 1], ids[i], 16));
    }
    clock_s = 0;
}

static void test_a_clock_set_back_does_not_reorder_ids(void)
{
    uint8_t before[16], id[16];
    sira_id_new(before);
    static const int64_t clocks_s[] = {4100000000, 4000000000, 1, 4100000000, 4100000001};
    for (size_t i = 0; i < sizeof clocks_s / sizeof *clocks_s; i++) {
        clock_s = clocks_s[i];
        for (int j = 0; j < 100; j++) {
            sira_id_new(id);
            CHECK(memcmp(before, id, 16) < 0);
            memcpy(before, id, 16);
        }
    }
    CHECK_EQUAL(ms_of(id), 4100000001000);
    clock_s = 0;
}

static void test_ids_are_random_where_getrandom_is_interrupted_or_forbidden(void)
{
    uint8_t ids[4][16];
    static const int errnos[] = {EINTR, EINTR, EPERM, ENOSYS};
    for (int i = 0; i < 4; i++) {
        random_errno = errnos[i];
        clock_s = 4000000001 + i; /* a new ms, so a new seed */
        sira_id_new(ids[i]);
        check_form(ids[i]);
        for (int j = 0; j < i; j++) CHECK(memcmp(ids[i] + 9, ids[j] + 9, 7));
        CHECK(memcmp(ids[i] + 9, (uint8_t[7]){0}, 7));
    }
    random_errno = 0;
    clock_s = 0;
}

static void test_clocks_run_forward(void)
{
    uint64_t before = sira_now_mono_ns();
    for (int i = 0; i < 1000; i++) {
        const uint64_t now = sira_now_mono_ns();
        CHECK(now >= before);
        before = now;
    }
    CHECK(sira_now_wall_ns() > 1600000000ull * 1000000000ull); /* ns since 1970 */
}

int main(void)
{
    test_a_million_ids_are_in_order_and_new();
    test_children_do_not_repeat_their_parent();
    test_ids_are_random_where_getrandom_is_interrupted_or_forbidden();
    test_clocks_run_forward();
    test_a_clock_set_back_does_not_reorder_ids();
    return 0;
}
