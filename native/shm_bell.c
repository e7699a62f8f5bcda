#include "shm_bell.h"

#include "fault.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- spinning: how long ---------------------------------------------------------------------------------- */
bool sira_spin_pays(void)
{
    return sysconf(_SC_NPROCESSORS_ONLN) != 1;
}

void sira_spin_init(struct sira_spin *spin, uint64_t ns_max)
{
    if (ns_max != SIRA_SPIN_FOREVER && !sira_spin_pays()) ns_max = 0;
    *spin = (struct sira_spin){.ns_max = ns_max};
}

uint64_t sira_spin_budget(struct sira_spin *spin)
{
    if (spin->left == 0) return spin->ns_max;
    spin->left--;
    return 0;
}

void sira_spin_learn(struct sira_spin *spin, bool paid)
{
    if (spin->ns_max == SIRA_SPIN_FOREVER || paid) spin->skip = 0;
    else if (spin->skip == 0) spin->skip = 1;
    else if (spin->skip < SIRA_SPIN_SKIP_MAX) spin->skip *= 2;
    spin->left = spin->skip;
}

/* ---- bells ----------------------------------------------------------------------------------------------- */
int sira_bell_make(void)
{
    return (int)syscall(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK); /* as in shm_file.c: not by the C library */
}

int sira_bell_ring(int bell)
{
    const uint64_t one = 1;
    SIRA_FAULT_POINT("bell.ringing");
    while (write(bell, &one, sizeof one) < 0)
        if (errno != EINTR) return errno == EAGAIN ? 0 : errno;
    return 0;
}

int sira_bells_make(void)
{
    return epoll_create1(EPOLL_CLOEXEC);
}

int sira_bells_add(int bells, int bell, uint64_t token)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = token};
    return epoll_ctl(bells, EPOLL_CTL_ADD, bell, &event);
}

int sira_bells_remove(int bells, int bell)
{
    return epoll_ctl(bells, EPOLL_CTL_DEL, bell, NULL);
}

/* ---- waiting --------------------------------------------------------------------------------------------- */
static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spin until something stirs or `until_ns`; looks at the clock now and then only. */
static bool spin_until(const struct sira_sleeper *sleeper, uint64_t until_ns)
{
    enum { LOOKS = 32 };
    for (;;) {
        for (int i = 0; i < LOOKS; i++) {
            if (sleeper->stirs(sleeper->of)) return true;
            relax();
        }
        if (now_ns() >= until_ns) return false;
    }
}

enum { EVENTS_MAX = 64 };

/* What a wait sleeps on: an epoll descriptor and where its tokens go, or one bell. */
struct bed {
    int fd;
    bool is_bell;
    uint64_t *tokens;
    uint32_t room, count;
};

static int to_ms(int64_t timeout_ns)
{
    if (timeout_ns < 0) return -1;
    const int64_t ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

static enum sira_wait sleep_on(struct bed *bed, int64_t timeout_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int got;
    if (bed->is_bell) {
        struct pollfd poll_fd = {.fd = bed->fd, .events = POLLIN};
        got = poll(&poll_fd, 1, to_ms(timeout_ns));
        uint64_t rung;
        if (got > 0 && read(bed->fd, &rung, sizeof rung) < 0 && errno != EAGAIN && errno != EINTR)
            return SIRA_WAIT_FAILED;
    } else {
        got = epoll_wait(bed->fd, events, bed->room < EVENTS_MAX ? (int)bed->room : EVENTS_MAX, to_ms(timeout_ns));
    }
    if (got < 0) return errno == EINTR ? SIRA_WAIT_SIGNAL : SIRA_WAIT_FAILED;
    if (got) SIRA_FAULT_POINT("bell.heard");
    bed->count = (uint32_t)got;
    for (int i = 0; !bed->is_bell && i < got; i++) bed->tokens[i] = events[i].data.u64;
    return got ? SIRA_WAIT_RANG : SIRA_WAIT_TIMEOUT;
}

static enum sira_wait wait_on(struct sira_spin *spin, struct bed *bed, const struct sira_sleeper *sleeper,
                              int64_t timeout_ns)
{
    if (sleeper->stirs(sleeper->of)) return SIRA_WAIT_STIRS;
    if (timeout_ns == 0) return sleep_on(bed, 0);
    const uint64_t budget_ns = sira_spin_budget(spin);
    const uint64_t start_ns = timeout_ns < 0 && !budget_ns ? 0 : now_ns();
    const uint64_t end_ns = timeout_ns < 0 || (uint64_t)timeout_ns > UINT64_MAX - start_ns
                                ? UINT64_MAX : start_ns + (uint64_t)timeout_ns;
    /* A spin without end looks at the bells of links that were idle, too, once a slice. */
    const uint64_t slice_ns = budget_ns == SIRA_SPIN_FOREVER ? SIRA_SPIN_NS_DEFAULT : budget_ns;
    while (budget_ns) {
        uint64_t until_ns = now_ns() + slice_ns;
        if (until_ns > end_ns) until_ns = end_ns;
        if (spin_until(sleeper, until_ns)) {
            sira_spin_learn(spin, true);
            return SIRA_WAIT_STIRS;
        }
        if (budget_ns != SIRA_SPIN_FOREVER) {
            sira_spin_learn(spin, false);
            break;
        }
        const enum sira_wait polled = sleep_on(bed, 0);
        if (polled != SIRA_WAIT_TIMEOUT || now_ns() >= end_ns) return polled;
    }
    if (!sleeper->sleeps(sleeper->of)) return SIRA_WAIT_STIRS;
    if (timeout_ns < 0) return sleep_on(bed, -1);
    const uint64_t slept_ns = now_ns();
    return sleep_on(bed, slept_ns >= end_ns ? 0 : (int64_t)(end_ns - slept_ns));
}

enum sira_wait sira_bells_wait(struct sira_spin *spin, int bells, const struct sira_sleeper *sleeper,
                               int64_t timeout_ns, uint64_t *tokens, uint32_t room, uint32_t *count)
{
    struct bed bed = {.fd = bells, .tokens = tokens, .room = room};
    const enum sira_wait woken = wait_on(spin, &bed, sleeper, timeout_ns);
    *count = bed.count;
    return woken;
}

enum sira_wait sira_bell_wait(struct sira_spin *spin, int bell, const struct sira_sleeper *sleeper, int64_t timeout_ns)
{
    struct bed bed = {.fd = bell, .is_bell = true};
    return wait_on(spin, &bed, sleeper, timeout_ns);
}
