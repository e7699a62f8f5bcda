/* Places where a test ends or stops the process: SIRA_FAULT_POINT("post.claimed") stands between two steps of the
 * shared-memory protocol. Only a build with SIRA_FAULTS has them; in a release the names are gone, and a line costs
 * nothing. */
#ifndef SIRA_FAULT_H
#define SIRA_FAULT_H

#if defined(SIRA_FAULTS)
extern void (*sira_fault_hook)(const char *name); /* shm_link.c; NULL: go on */
/* The linker puts the names in one list, `sira_faults`: a new point is walked without anybody telling of it. */
#define SIRA_FAULT_POINT(text)                                                                                       \
    do {                                                                                                             \
        static const char *const sira_fault_name __attribute__((section("sira_faults"), used)) = text;               \
        if (sira_fault_hook) sira_fault_hook(sira_fault_name);                                                       \
    } while (0)
#else
#define SIRA_FAULT_POINT(text) ((void)0)
#endif

#endif
