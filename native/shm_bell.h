/* Waking another process: an eventfd that is rung only when the other side says that it sleeps, and how long to spin
 * before sleeping. Plain C; the clock and the descriptors are here, the shared words are not.
 *
 * A wake-up costs 4 to 40 us, mostly the machine's and not ours, while an answer often comes within 5. So a waiter
 * spins first, as long as that pays. How long the last waits took does not tell: where both sides share a CPU, each
 * answer comes quickly, but only after the spinner has left. What tells is whether spinning saw the answer: after one
 * that did not, the next wait sleeps at once, after two in a row the next two, then four, up to 64; after one that
 * did, all spin again. */
#ifndef SIRA_SHM_BELL_H
#define SIRA_SHM_BELL_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SIRA_SPIN_NS_DEFAULT = 50000, /* `spin_us_max`: about two wake-ups of a halted virtual CPU */
    SIRA_SPIN_SKIP_MAX = 64,      /* waits that sleep at once: bounds what spinning in vain costs to 1 us a wait */
};
#define SIRA_SPIN_FOREVER UINT64_MAX

struct sira_spin {
    uint64_t ns_max;    /* 0: never spin; SIRA_SPIN_FOREVER: never sleep */
    uint32_t skip;      /* waits that slept at once after the last failure; 0: the last spin paid */
    uint32_t left;      /* of those, still to come */
};

/* Is there more than one CPU? Not how many are ours: a process that is pinned to one waits for one that may be pinned to
 * another. Where both are on the same, learning finds out. */
bool sira_spin_pays(void);
/* `ns_max` as above; on a machine of one CPU a bounded spin becomes 0. */
void sira_spin_init(struct sira_spin *spin, uint64_t ns_max);
/* How long to spin in the wait that begins now, in ns. Pure; each wait asks once. */
uint64_t sira_spin_budget(struct sira_spin *spin);
/* A spin ended: did it see what it waited for? Pure. */
void sira_spin_learn(struct sira_spin *spin, bool paid);

/* A new eventfd, nonblocking and close-on-exec, or -1 (errno). */
int sira_bell_make(void);
/* Ring. Never blocks; a counter at its end is loud enough. 0, or an errno other than EAGAIN. */
int sira_bell_ring(int bell);

/* One epoll descriptor, on which a thread or an event loop waits for many bells. Bells are edge-triggered, so no
 * wake-up costs a read. -1: errno. */
int sira_bells_make(void);
int sira_bells_add(int bells, int bell, uint64_t token);
int sira_bells_remove(int bells, int bell);

/* What a waiter waits for. Both are asked from the waiting thread, often; neither may block. */
struct sira_sleeper {
    bool (*stirs)(void *of);   /* is something there? */
    bool (*sleeps)(void *of);  /* set the flag "I sleep", look again; false: something is there, do not sleep */
    void *of;
};
enum sira_wait { SIRA_WAIT_STIRS, SIRA_WAIT_RANG, SIRA_WAIT_TIMEOUT, SIRA_WAIT_SIGNAL, SIRA_WAIT_FAILED };
/* Wait until something is there, a bell rang, or `timeout_ns` is over (negative: no limit). RANG: *count tokens of
 * those that rang, at most `room`; they need looking at. Without the GIL. */
enum sira_wait sira_bells_wait(struct sira_spin *spin, int bells, const struct sira_sleeper *sleeper,
                               int64_t timeout_ns, uint64_t *tokens, uint32_t room, uint32_t *count);

/* The same on one bell alone, whose counter is read empty. Never FAILED for a good descriptor. */
enum sira_wait sira_bell_wait(struct sira_spin *spin, int bell, const struct sira_sleeper *sleeper, int64_t timeout_ns);

#endif
