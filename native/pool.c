/* Warm memory for the reassembly of large messages.
 *
 * A fresh mapping costs a page fault for every 4 KiB written (or a zeroed 2 MiB page), which at 64 MiB is as much
 * as the copy itself; so a buffer that comes back is kept, and the last one back is the first one out: its pages
 * are likeliest to be in cache. A buffer is reserved with MAP_NORESERVE and never touched ahead of the data:
 * announcing bytes costs address space only.
 *
 * Guarded by the GIL: buffers are Python objects, so they also die under it, on whatever thread. The pool is
 * counted apart from its owner, because views of a message may outlive the inbox, up to the interpreter's end. */
#include "client.h"

#include <sys/mman.h>

enum {
    CLASS_BITS_MIN = 16, /* smallest buffer: 64 KiB */
    CLASS_BITS_MAX = 47, /* user address space */
    CLASS_STEPS = 4,     /* sizes from one power of two to the next */
    CLASS_COUNT = (CLASS_BITS_MAX - CLASS_BITS_MIN) * CLASS_STEPS,
    HUGE_PAGE_BYTES = 2 << 20,
    PAGE_BYTES = 4096,
};

struct block {
    struct block *next, *prev; /* while free: in its class, last in first */
    struct sira_pool *pool;    /* counted */
    uint8_t *base;
    uint64_t room;
    uint64_t touched; /* bytes that may have pages, since the mapping was made */
    uint64_t returned; /* turn of its return */
    uint32_t size_class;
    bool huge; /* huge pages were asked for */
};

struct sira_pool {
    uint64_t refs; /* the owner and every block that is out */
    uint64_t warm_bytes, warm_bytes_max;
    uint64_t turn, mapped_count;
    struct block *first[CLASS_COUNT], *last[CLASS_COUNT];
};

typedef struct {
    PyObject_HEAD
    struct block *block; /* owned */
} Buffer;

/* Smallest class that holds `bytes`; false: past the address space. */
static bool class_of(uint64_t bytes, uint32_t *size_class, uint64_t *room)
{
    for (uint32_t bits = CLASS_BITS_MIN; bits < CLASS_BITS_MAX; bits++) {
        if (bytes > UINT64_C(2) << bits) continue;
        for (uint32_t step = 0; step < CLASS_STEPS; step++) {
            const uint64_t size = (UINT64_C(1) << bits) / CLASS_STEPS * (CLASS_STEPS + step);
            if (bytes > size) continue;
            *size_class = (bits - CLASS_BITS_MIN) * CLASS_STEPS + step;
            *room = size;
            return true;
        }
    }
    return false;
}

static void block_unmap(struct block *block)
{
    munmap(block->base, block->room);
    free(block);
}

static void pool_unlink(struct sira_pool *pool, struct block *block)
{
    const uint32_t c = block->size_class;
    if (block->prev) block->prev->next = block->next;
    else pool->first[c] = block->next;
    if (block->next) block->next->prev = block->prev;
    else pool->last[c] = block->prev;
    pool->warm_bytes -= block->touched;
}

/* Unmap what has been lying longest. */
static void pool_evict(struct sira_pool *pool)
{
    struct block *oldest = NULL;
    for (uint32_t c = 0; c < CLASS_COUNT; c++) {
        struct block *last = pool->last[c];
        if (last && (!oldest || last->returned < oldest->returned)) oldest = last;
    }
    assert(oldest);
    pool_unlink(pool, oldest);
    block_unmap(oldest);
}

static void pool_unref(struct sira_pool *pool)
{
    if (--pool->refs) return;
    while (pool->warm_bytes) pool_evict(pool);
    free(pool);
}

struct sira_pool *sira_pool_new(uint64_t warm_bytes_max)
{
    struct sira_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->refs = 1;
    pool->warm_bytes_max = warm_bytes_max;
    return pool;
}

void sira_pool_release(struct sira_pool *pool)
{
    if (!pool) return;
    while (pool->warm_bytes) pool_evict(pool); /* nobody will ask for it again */
    pool->warm_bytes_max = 0;
    pool_unref(pool);
}

uint64_t sira_pool_warm_bytes(const struct sira_pool *pool)
{
    return pool->warm_bytes;
}

uint64_t sira_pool_mapped_count(const struct sira_pool *pool)
{
    return pool->mapped_count;
}

static struct block *block_new(struct sira_pool *pool, uint32_t size_class, uint64_t room)
{
    struct block *block = calloc(1, sizeof *block);
    if (!block) return NULL;
    void *base = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        free(block);
        return NULL;
    }
    block->base = base;
    block->room = room;
    block->size_class = size_class;
    pool->mapped_count++;
    return block;
}

PyObject *sira_buffer_new(struct sira_pool *pool, uint64_t bytes)
{
    assert(bytes > 0);
    uint32_t size_class = 0;
    uint64_t room = 0;
    if (!class_of(bytes, &size_class, &room)) return PyErr_NoMemory();
    Buffer *buffer = PyObject_New(Buffer, &sira_buffer_type); /* owned */
    if (!buffer) return NULL;
    struct block *block = pool->first[size_class];
    if (block) pool_unlink(pool, block);
    else block = block_new(pool, size_class, room);
    buffer->block = block;
    if (!block) {
        Py_DECREF(buffer);
        return PyErr_NoMemory();
    }
    block->pool = pool;
    pool->refs++;
    return (PyObject *)buffer;
}

uint8_t *sira_buffer_data(PyObject *buffer)
{
    return ((Buffer *)buffer)->block->base;
}

void sira_buffer_touch(PyObject *buffer, uint64_t end, uint64_t len)
{
    struct block *block = ((Buffer *)buffer)->block;
    assert(end <= block->room);
    /* Not before real data comes: a huge page for ten bytes would be 2 MiB. */
    if (!block->huge && block->room >= 2 * HUGE_PAGE_BYTES && len >= SIRA_UNLOCKED_COPY_BYTES) {
        block->huge = true;
        (void)madvise(block->base, block->room, MADV_HUGEPAGE); /* without it all works, slower */
    }
    const uint64_t unit = block->huge ? HUGE_PAGE_BYTES : PAGE_BYTES;
    uint64_t touched = (end + unit - 1) / unit * unit;
    if (touched > block->room) touched = block->room;
    if (touched > block->touched) block->touched = touched;
}

static void buffer_dealloc(PyObject *object)
{
    struct block *block = ((Buffer *)object)->block;
    PyObject_Free(object);
    if (!block) return;
    struct sira_pool *pool = block->pool;
    if (block->touched == 0 || block->touched > pool->warm_bytes_max) { /* nothing warm, or too much */
        block_unmap(block);
    } else {
        while (pool->warm_bytes + block->touched > pool->warm_bytes_max) pool_evict(pool);
        const uint32_t c = block->size_class;
        block->returned = ++pool->turn;
        block->prev = NULL;
        block->next = pool->first[c];
        if (block->next) block->next->prev = block;
        else pool->last[c] = block;
        pool->first[c] = block;
        pool->warm_bytes += block->touched;
    }
    pool_unref(pool);
}

/* glibc maps each buffer above a threshold (128 KiB) and gives freed heap above another back at once; gRPC has
 * several such buffers for each chunk, and their new pages cost more than the copy into them. When a mapped block
 * is freed, glibc raises the first threshold to its size and the second to twice that, up to 32 and 64 MiB: so one
 * block of the largest size, which is never touched, brings the process where any large array that it frees
 * would. Who has set the thresholds by hand (mallopt, MALLOC_TRIM_THRESHOLD_) has switched that off, and keeps
 * what they have set. */
void sira_heap_warm(void)
{
#if defined(__GLIBC__)
    enum { HEAP_BLOCK_BYTES = (32 << 20) - 2 * PAGE_BYTES };
    static bool done; /* guarded by the GIL */
    if (done) return;
    done = true;
    void *volatile block = malloc(HEAP_BLOCK_BYTES); /* volatile: a pair without use would be left out */
    free(block);
#endif
}

PyTypeObject sira_buffer_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native._Buffer",
    .tp_basicsize = sizeof(Buffer),
    .tp_dealloc = buffer_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Memory of a large message; not for Python.",
};
