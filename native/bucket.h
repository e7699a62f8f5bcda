/* Limits of one holder: two token buckets (messages, bytes) and a counter of bytes held. Pure; time is given.
 *
 * Asked and taken in two steps, so that a message passes several of them all or not at all, and one that is refused
 * uses nothing up. Tokens are doubles: the level is counted anew from the last message taken, never from a refused
 * one, so asking often loses nothing to rounding. */
#ifndef SIRA_BUCKET_H
#define SIRA_BUCKET_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

struct sira_tokens {
    double per_s; /* 0: unlimited */
    double burst; /* most that is saved up */
    double left;  /* at sira_bucket.at_ns; below 0 after something larger than the burst */
    double next;  /* what will be left when the message that was asked for is taken */
};

struct sira_bucket {
    struct sira_tokens messages, bytes;
    uint64_t at_ns;              /* last message taken */
    uint64_t held_max, held;     /* bytes; held_max 0: unlimited, and counted all the same */
};

enum sira_room { SIRA_ROOM, SIRA_ROOM_LATER, SIRA_ROOM_HELD, SIRA_ROOM_NEVER };

/* Requires: per_s >= 0, burst_s > 0, both finite. What was unlimited begins full. */
static inline void sira_tokens_set(struct sira_tokens *tokens, double per_s, double burst_s)
{
    assert(per_s >= 0 && burst_s > 0);
    const double burst = per_s * burst_s;
    if (tokens->per_s == 0 || tokens->left > burst) tokens->left = burst;
    tokens->per_s = per_s;
    tokens->burst = burst;
}

/* Put other limits in force; what is held, and what is owed to the rates, stays. Begin with a zeroed bucket. */
static inline void sira_bucket_set(struct sira_bucket *bucket, double messages_per_s, double bytes_per_s, double burst_s,
                                   uint64_t held_max)
{
    sira_tokens_set(&bucket->messages, messages_per_s, burst_s);
    sira_tokens_set(&bucket->bytes, bytes_per_s, burst_s);
    bucket->held_max = held_max;
}

static inline double sira_tokens_at(const struct sira_tokens *tokens, double passed_s)
{
    const double left = tokens->left + passed_s * tokens->per_s;
    return left < tokens->burst ? left : tokens->burst;
}

/* Seconds until `need` is there; 0: now. What is larger than the burst goes when the bucket is full. */
static inline double sira_tokens_wait_s(struct sira_tokens *tokens, double passed_s, double need)
{
    if (tokens->per_s == 0) return 0;
    const double left = sira_tokens_at(tokens, passed_s);
    tokens->next = left - need;
    const double missing = (need < tokens->burst ? need : tokens->burst) - left;
    return missing > 0 ? missing / tokens->per_s : 0;
}

static inline double sira_bucket_passed_s(const struct sira_bucket *bucket, uint64_t now_ns)
{
    return now_ns > bucket->at_ns ? (double)(now_ns - bucket->at_ns) / 1e9 : 0; /* streams may be told different times */
}

/* Is so much held that so many bytes more have no room beside it? */
static inline bool sira_bucket_full(const struct sira_bucket *bucket, uint64_t bytes)
{
    if (!bucket->held_max) return false;
    return bytes > bucket->held_max - (bucket->held < bucket->held_max ? bucket->held : bucket->held_max);
}

/* Is there room for this many messages of so many bytes together?
 * Ensures: SIRA_ROOM_LATER -> *wait_s > 0; nothing but `next` changes. */
static inline enum sira_room sira_bucket_ask(struct sira_bucket *bucket, uint64_t messages, uint64_t bytes,
                                             uint64_t now_ns, double *wait_s)
{
    if (bucket->held_max && bytes > bucket->held_max) return SIRA_ROOM_NEVER;
    if (sira_bucket_full(bucket, bytes)) return SIRA_ROOM_HELD;
    const double passed_s = sira_bucket_passed_s(bucket, now_ns);
    const double one = sira_tokens_wait_s(&bucket->messages, passed_s, (double)messages);
    const double other = sira_tokens_wait_s(&bucket->bytes, passed_s, (double)bytes);
    *wait_s = one > other ? one : other;
    return *wait_s > 0 ? SIRA_ROOM_LATER : SIRA_ROOM;
}

/* Take what was asked for. Requires: the last sira_bucket_ask() said SIRA_ROOM, with the same now_ns. */
static inline void sira_bucket_take(struct sira_bucket *bucket, uint64_t now_ns)
{
    if (bucket->messages.per_s != 0) bucket->messages.left = bucket->messages.next;
    if (bucket->bytes.per_s != 0) bucket->bytes.left = bucket->bytes.next;
    if (now_ns > bucket->at_ns) bucket->at_ns = now_ns;
}

static inline void sira_bucket_hold(struct sira_bucket *bucket, uint64_t bytes)
{
    assert(bytes <= UINT64_MAX - bucket->held);
    bucket->held += bytes;
}

static inline void sira_bucket_give(struct sira_bucket *bucket, uint64_t bytes)
{
    assert(bytes <= bucket->held);
    bucket->held -= bytes;
}

/* Would a new one in its place be the same? */
static inline bool sira_bucket_idle(const struct sira_bucket *bucket, uint64_t now_ns)
{
    const double passed_s = sira_bucket_passed_s(bucket, now_ns);
    return bucket->held == 0 && sira_tokens_at(&bucket->messages, passed_s) == bucket->messages.burst &&
           sira_tokens_at(&bucket->bytes, passed_s) == bucket->bytes.burst;
}

#endif
