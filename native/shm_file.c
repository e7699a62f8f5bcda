#include "shm_file.h"

#include "fault.h"

#include <errno.h>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum { SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static int open_memory(const char *name)
{
    /* The system is asked, not its C library: where neither has it, the module loads all the same. */
    const long fd = syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd >= 0 || errno != EINVAL) return (int)fd;
    return (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING); /* before Linux 6.3 */
}

int sira_shm_make(const char *name, size_t bytes, bool is_private, struct sira_shm *out)
{
    if (bytes == 0 || bytes > (size_t)INT64_MAX) return EINVAL;
    const int fd = open_memory(name);
    if (fd < 0) return errno;
    SIRA_FAULT_POINT("memory.opened");
    int error = 0;
    void *base = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) < 0) error = errno;
    if (!error && (base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) error = errno;
    if (!error && fcntl(fd, F_ADD_SEALS, SIZE_SEALS | (is_private ? F_SEAL_FUTURE_WRITE : 0)) < 0) error = errno;
    if (error) {
        if (base != MAP_FAILED) munmap(base, bytes);
        close(fd);
        return error;
    }
    SIRA_FAULT_POINT("memory.sealed");
    *out = (struct sira_shm){.fd = fd, .base = base, .bytes = bytes};
    return 0;
}

int sira_shm_map(int fd, size_t bytes, bool is_writable, bool is_private, struct sira_shm *out)
{
    const int wanted = SIZE_SEALS | (is_private ? F_SEAL_FUTURE_WRITE : 0);
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) return errno == EINVAL ? EPERM : errno; /* not a memfd */
    struct stat stat;
    if (fstat(fd, &stat) < 0) return errno;
    if ((seals & wanted) != wanted || stat.st_size < 0 || (uint64_t)stat.st_size != bytes || bytes == 0) return EPERM;
    void *base = mmap(NULL, bytes, is_writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return errno;
    SIRA_FAULT_POINT("memory.mapped");
    *out = (struct sira_shm){.fd = fd, .base = base, .bytes = bytes};
    return 0;
}

void sira_shm_close(struct sira_shm *shm)
{
    if (shm->base) munmap(shm->base, shm->bytes);
    if (shm->fd >= 0) close(shm->fd);
    *shm = (struct sira_shm){.fd = -1};
}

void sira_shm_populate(const struct sira_shm *shm, size_t offset, size_t bytes, bool is_writable)
{
    if (!shm->base || offset >= shm->bytes) return;
    if (bytes > shm->bytes - offset) bytes = shm->bytes - offset;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), first = offset / page * page;
    /* Before Linux 5.14 nothing happens, and the first use pays. */
    (void)madvise(shm->base + first, bytes + (offset - first), is_writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

#else

int sira_shm_make(const char *name, size_t bytes, bool is_private, struct sira_shm *out)
{
    (void)name, (void)bytes, (void)is_private, (void)out;
    return ENOSYS;
}

int sira_shm_map(int fd, size_t bytes, bool is_writable, bool is_private, struct sira_shm *out)
{
    (void)fd, (void)bytes, (void)is_writable, (void)is_private, (void)out;
    return ENOSYS;
}

void sira_shm_close(struct sira_shm *shm)
{
    shm->fd = -1;
    shm->base = NULL;
}

void sira_shm_populate(const struct sira_shm *shm, size_t offset, size_t bytes, bool is_writable)
{
    (void)shm, (void)offset, (void)bytes, (void)is_writable;
}

#endif
