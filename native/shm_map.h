/* A reader's side of one publisher's arenas: read-only mappings by segment id.
 *
 * Sizes are what the node's introduction told and the kernel confirmed, never what a message says. A segment that its
 * publisher retired stays mapped while a view of it lives. One thread at a time (the GIL). */
#ifndef SIRA_SHM_MAP_H
#define SIRA_SHM_MAP_H

#include "shm_file.h"

struct sira_map {
    struct sira_shm shm;
    uint32_t id, views;
    uint32_t forwarded_id; /* what those know it by to whom it is relayed: ids of two publishers may be the same */
    bool is_dropped;       /* nobody finds it any more; the last view closes it */
};
struct sira_maps {
    struct sira_map **maps; /* owned, each at an address that stays */
    uint32_t count, room, hot;
};

void sira_maps_open(struct sira_maps *maps);
/* Forget all; what is viewed is closed by its last view. */
void sira_maps_close(struct sira_maps *maps);
/* Map a segment of `bytes`, relayed as `forwarded_id`. Takes over `fd` when it succeeds. 0; EEXIST: the id is known; EPERM: not a sealed memfd of
 * this size; or an errno. */
int sira_maps_add(struct sira_maps *maps, uint32_t id, int fd, uint64_t bytes, uint32_t forwarded_id);
/* Forget a segment; an unknown id is nothing. */
void sira_maps_drop(struct sira_maps *maps, uint32_t id);
/* The bytes [offset, offset + bytes) of a segment, or NULL: unknown, or not within it. *map: for holding. */
const uint8_t *sira_maps_range(struct sira_maps *maps, uint32_t id, uint64_t offset, uint64_t bytes,
                               struct sira_map **map);
void sira_map_hold(struct sira_map *map);
void sira_map_give(struct sira_map *map);

#endif
