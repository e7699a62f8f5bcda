/* Message ids (UUIDv7) and the two clocks. */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* The 74-bit tail as a number: 10 high bits and 64 low ones. Under the GIL only, as wire.h says. */
static struct {
    bool fork_watched, seeded;
    uint64_t ms;
    uint64_t low;
    uint32_t high;
} ids;

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t sira_now_mono_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

uint64_t sira_now_wall_ns(void)
{
    return now_ns(CLOCK_REALTIME);
}

/* A child that went on counting would repeat its parent's ids. */
static void after_fork(void)
{
    ids.seeded = false;
}

/* Random bytes, or no process: an id that may collide would lose messages silently. */
static void fill_random(void *out, size_t len)
{
    uint8_t *p = out;
    while (len) {
        const ssize_t got = getrandom(p, len, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) break;
        p += got, len -= (size_t)got;
    }
    if (!len) return;
    const int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC); /* a sandbox may forbid the call */
    while (file >= 0 && len) {
        const ssize_t got = read(file, p, len);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        p += got, len -= (size_t)got;
    }
    if (file >= 0) close(file);
    if (len) abort();
}

static void seed(uint64_t ms)
{
    uint8_t tail[10];
    fill_random(tail, sizeof tail);
    memcpy(&ids.low, tail, 8);
    ids.high = (uint32_t)(tail[8] | tail[9] << 8) & 0x1ff; /* top bit clear: 2^73 ids of room within the ms */
    ids.ms = ms;
    ids.seeded = true;
}

void sira_id_new(uint8_t id[SIRA_ID_BYTES])
{
    if (!ids.fork_watched) {
        if (pthread_atfork(NULL, NULL, after_fork)) abort(); /* out of memory for one list node */
        ids.fork_watched = true;
    }
    const uint64_t ms = sira_now_wall_ns() / 1000000;
    if (!ids.seeded || ms > ids.ms)
        seed(ms); /* a clock set back keeps the old ms and goes on counting: ids stay in order */
    else if (++ids.low == 0)
        ids.high++;

    for (uint32_t i = 0; i < 6; i++) id[i] = (uint8_t)(ids.ms >> (40 - 8 * i));
    const uint32_t rand_a = ids.high << 2 | (uint32_t)(ids.low >> 62); /* 12 bits */
    id[6] = (uint8_t)(0x70 | (rand_a >> 8 & 0x0f));
    id[7] = (uint8_t)rand_a;
    id[8] = (uint8_t)(0x80 | (ids.low >> 56 & 0x3f));
    for (uint32_t i = 9; i < 16; i++) id[i] = (uint8_t)(ids.low >> (120 - 8 * i));
}
