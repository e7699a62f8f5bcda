/* Spans: bytes of somebody's segment, mapped read-only, for as long as a reference lives (ShmMaps.span).
 *
 * For the data planes, which hold spans and hand them on. Everything needs the GIL; nothing here runs Python but to raise. */
#ifndef SIRA_SHM_SPAN_H
#define SIRA_SHM_SPAN_H

#include "pyutil.h"

extern PyTypeObject sira_shm_maps_type, sira_shm_span_type;

/* A span of `maps` (borrowed, a ShmMaps). When its last reference goes, its lease is among ended(). New reference.
 * NULL with FRAME_CORRUPT: no such segment, or not within it; the lease is among ended() then, too. */
PyObject *sira_span_new(PyObject *maps, const struct sira_lent *lent);
const uint8_t *sira_span_data(PyObject *span);
/* What it stands for: segment and offset as its maps name them, bytes, lease. */
struct sira_lent sira_span_lent(PyObject *span);

#endif
