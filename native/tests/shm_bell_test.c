/* Bells and spinning: who sleeps is woken, who need not is not, and spinning in vain is given up. */
#include "../shm_bell.h"
#include "build.h"

#include <pthread.h>
#include <unistd.h>

struct word {
    bool value;
    int asked;
    bool refuses; /* sleeps() finds something at the last moment */
};

static bool stirs(void *of)
{
    struct word *word = of;
    word->asked++;
    return __atomic_load_n(&word->value, __ATOMIC_ACQUIRE);
}

static bool sleeps(void *of)
{
    return !((struct word *)of)->refuses;
}

static void a_ring_before_the_sleep_is_heard(void)
{
    const int bells = sira_bells_make(), one = sira_bell_make(), other = sira_bell_make();
    CHECK(sira_bells_add(bells, one, 11) == 0 && sira_bells_add(bells, other, 22) == 0);
    struct sira_spin spin;
    sira_spin_init(&spin, 0);
    struct word word = {0};
    const struct sira_sleeper sleeper = {stirs, sleeps, &word};
    uint64_t tokens[4];
    uint32_t count;
    CHECK_EQUAL(sira_bells_wait(&spin, bells, &sleeper, 0, tokens, 4, &count), SIRA_WAIT_TIMEOUT);
    CHECK_EQUAL(sira_bell_ring(other), 0);
    CHECK_EQUAL(sira_bells_wait(&spin, bells, &sleeper, -1, tokens, 4, &count), SIRA_WAIT_RANG);
    CHECK(count == 1 && tokens[0] == 22);
    CHECK_EQUAL(sira_bells_wait(&spin, bells, &sleeper, 1000, tokens, 4, &count), SIRA_WAIT_TIMEOUT); /* heard once */
    CHECK_EQUAL(sira_bell_ring(other), 0); /* though nobody has read the counter: an edge is enough */
    CHECK_EQUAL(sira_bells_wait(&spin, bells, &sleeper, -1, tokens, 4, &count), SIRA_WAIT_RANG);
    CHECK(sira_bells_remove(bells, other) == 0);
    CHECK_EQUAL(sira_bell_ring(other), 0);
    CHECK_EQUAL(sira_bells_wait(&spin, bells, &sleeper, 0, tokens, 4, &count), SIRA_WAIT_TIMEOUT);

    close(bells);
    close(one);
    close(other);
}

static void what_stirs_or_refuses_sleep_is_not_slept_on(void)
{
    const int bell = sira_bell_make();
    struct sira_spin spin;
    sira_spin_init(&spin, 0);
    struct word word = {.value = true};
    const struct sira_sleeper sleeper = {stirs, sleeps, &word};
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, -1), SIRA_WAIT_STIRS);
    word = (struct word){.refuses = true};
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, -1), SIRA_WAIT_STIRS);
    word = (struct word){0};
    CHECK_EQUAL(sira_bell_ring(bell), 0);
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, -1), SIRA_WAIT_RANG);
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, 1000000), SIRA_WAIT_TIMEOUT); /* it was emptied */
    close(bell);
}

static void a_full_bell_blocks_nobody(void)
{
    const int bell = sira_bell_make();
    const uint64_t most = UINT64_MAX - 1; /* what a hostile peer may leave in it */
    CHECK_EQUAL(write(bell, &most, sizeof most), (long)sizeof most);
    CHECK_EQUAL(sira_bell_ring(bell), 0);
    CHECK(sira_bell_ring(-1) != 0);
    close(bell);
}

static void *ring_late(void *of)
{
    usleep(2000);
    sira_bell_ring(*(int *)of);
    return NULL;
}

static void a_sleeper_is_woken_by_a_ring(void)
{
    const int bell = sira_bell_make();
    struct sira_spin spin;
    sira_spin_init(&spin, 0);
    struct word word = {0};
    const struct sira_sleeper sleeper = {stirs, sleeps, &word};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, ring_late, (void *)&bell) == 0);
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, -1), SIRA_WAIT_RANG);
    pthread_join(thread, NULL);
    close(bell);
}

static void spinning_in_vain_is_given_up_and_tried_again(void)
{
    struct sira_spin spin = {.ns_max = 50000};
    CHECK_EQUAL(sira_spin_budget(&spin), 50000);
    sira_spin_learn(&spin, true);
    CHECK_EQUAL(sira_spin_budget(&spin), 50000); /* it paid */
    uint32_t spun = 0;
    for (int wait = 0; wait < 6400; wait++)
        if (sira_spin_budget(&spin)) {
            spun++;
            sira_spin_learn(&spin, false);
        }
    CHECK(spun >= 100 && spun < 110); /* 1, 2, 4 ... then one wait in 65 */
    while (!sira_spin_budget(&spin)) {}
    sira_spin_learn(&spin, true);
    CHECK_EQUAL(sira_spin_budget(&spin), 50000); /* times have changed */

    struct sira_spin never = {0}, ever = {.ns_max = SIRA_SPIN_FOREVER};
    CHECK_EQUAL(sira_spin_budget(&never), 0);
    sira_spin_learn(&ever, false);
    CHECK(sira_spin_budget(&ever) == SIRA_SPIN_FOREVER);
}

static void a_spin_sees_what_comes_and_ends_when_nothing_does(void)
{
    const int bell = sira_bell_make();
    struct sira_spin spin = {.ns_max = 20000};
    struct word word = {0};
    const struct sira_sleeper sleeper = {stirs, sleeps, &word};
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, 1000000), SIRA_WAIT_TIMEOUT);
    CHECK(word.asked > 30); /* it did spin */
    CHECK(spin.skip == 1);
    word.asked = 0;
    CHECK_EQUAL(sira_bell_wait(&spin, bell, &sleeper, 1000000), SIRA_WAIT_TIMEOUT);
    CHECK_EQUAL(word.asked, 1); /* it did not */
    struct sira_spin ever = {.ns_max = SIRA_SPIN_FOREVER};
    CHECK_EQUAL(sira_bell_ring(bell), 0);
    CHECK_EQUAL(sira_bell_wait(&ever, bell, &sleeper, -1), SIRA_WAIT_RANG); /* who spins for ever hears bells, too */
    CHECK_EQUAL(sira_bell_wait(&ever, bell, &sleeper, 1000000), SIRA_WAIT_TIMEOUT);
    close(bell);
}

int main(void)
{
    a_ring_before_the_sleep_is_heard();
    what_stirs_or_refuses_sleep_is_not_slept_on();
    a_full_bell_blocks_nobody();
    a_sleeper_is_woken_by_a_ring();
    spinning_in_vain_is_given_up_and_tried_again();
    a_spin_sees_what_comes_and_ends_when_nothing_does();
    return 0;
}
