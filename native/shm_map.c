#include "shm_map.h"

#include "fault.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

void sira_maps_open(struct sira_maps *maps)
{
    *maps = (struct sira_maps){0};
}

static void destroy(struct sira_map *map)
{
    sira_shm_close(&map->shm);
    free(map);
}

static struct sira_map *find(struct sira_maps *maps, uint32_t id)
{
    if (maps->hot < maps->count && maps->maps[maps->hot]->id == id) return maps->maps[maps->hot];
    for (uint32_t i = 0; i < maps->count; i++)
        if (maps->maps[i]->id == id) {
            maps->hot = i;
            return maps->maps[i];
        }
    return NULL;
}

/* Entry `index` leaves the table. */
static void drop(struct sira_maps *maps, uint32_t index)
{
    struct sira_map *map = maps->maps[index];
    maps->maps[index] = maps->maps[--maps->count];
    map->is_dropped = true;
    SIRA_FAULT_POINT("map.dropped");
    if (map->views == 0) destroy(map);
}

void sira_maps_close(struct sira_maps *maps)
{
    while (maps->count) drop(maps, maps->count - 1);
    free(maps->maps);
    *maps = (struct sira_maps){0};
}

int sira_maps_add(struct sira_maps *maps, uint32_t id, int fd, uint64_t bytes, uint32_t forwarded_id)
{
    if (find(maps, id)) return EEXIST;
    if (maps->count == maps->room) {
        const uint32_t room = maps->room ? maps->room * 2 : 4;
        struct sira_map **grown = realloc(maps->maps, room * sizeof *grown);
        if (!grown) return ENOMEM;
        maps->maps = grown;
        maps->room = room;
    }
    struct sira_map *map = calloc(1, sizeof *map);
    if (!map) return ENOMEM;
    const int error = bytes > SIZE_MAX ? EPERM : sira_shm_map(fd, (size_t)bytes, false, true, &map->shm);
    if (error) {
        free(map);
        return error;
    }
    map->id = id;
    map->forwarded_id = forwarded_id;
    maps->maps[maps->count++] = map;
    SIRA_FAULT_POINT("map.added");
    return 0;
}

void sira_maps_drop(struct sira_maps *maps, uint32_t id)
{
    if (find(maps, id)) drop(maps, maps->hot);
}

const uint8_t *sira_maps_range(struct sira_maps *maps, uint32_t id, uint64_t offset, uint64_t bytes,
                               struct sira_map **map)
{
    struct sira_map *found = find(maps, id);
    if (!found || offset > found->shm.bytes || bytes > found->shm.bytes - offset) return NULL;
    *map = found;
    return found->shm.base + offset;
}

void sira_map_hold(struct sira_map *map)
{
    map->views++;
}

void sira_map_give(struct sira_map *map)
{
    assert(map->views > 0);
    if (--map->views == 0 && map->is_dropped) destroy(map);
}
