/* Memory without a name: memfds, sealed so that who gets one can neither shrink it under the others nor, where it is
 * not theirs to write, write to it. Linux; elsewhere every call answers ENOSYS and the lane is not offered. */
#ifndef SIRA_SHM_FILE_H
#define SIRA_SHM_FILE_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

struct sira_shm {
    int fd;        /* -1: none */
    uint8_t *base;
    size_t bytes;
};

/* A new memfd of `bytes` zeros, mapped read-write here, then sealed against every change of size and against more
 * seals. `is_private`: also against every later writable mapping, so this one stays the only one.
 * 0, or an errno (ENOSYS, EINVAL: the kernel lacks memfd or F_SEAL_FUTURE_WRITE, Linux 5.1), *out untouched. */
int sira_shm_make(const char *name, size_t bytes, bool is_private, struct sira_shm *out);
/* Map what somebody handed over. Refused (EPERM) unless it is a memfd of exactly `bytes`, sealed against changes of
 * size, and, for a read-only mapping of another's memory (`is_private`), against later writable mappings. Takes over
 * `fd` when it succeeds. 0 or an errno. */
int sira_shm_map(int fd, size_t bytes, bool is_writable, bool is_private, struct sira_shm *out);
/* Unmap and close; idempotent. */
void sira_shm_close(struct sira_shm *shm);
/* Make the pages of a range present now, off the hot path; for writing or for reading. Best effort. Any thread. */
void sira_shm_populate(const struct sira_shm *shm, size_t offset, size_t bytes, bool is_writable);

#endif
