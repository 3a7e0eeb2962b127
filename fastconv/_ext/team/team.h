/* One team of threads for the process: a caller and helpers that nobody waits for. See team.c. */

#ifndef FASTCONV_TEAM_H
#define FASTCONV_TEAM_H

#include <stddef.h>
#include <stdint.h>

/* Does one task of a region. `slot` is below the region's number of threads, and no two threads have the same at a
   time: scratch belongs to it. */
typedef void (*team_task)(void *data, const void *context, ptrdiff_t task, int slot);

/* Asked between the caller's tasks, every 0.05 s or after a longer task: not 0 ends the region early. */
typedef int (*team_interrupted)(void);

/* Does tasks 0 .. count - 1 on at most `threads` threads, the caller's among them; returns when all are done. 0, or what
   `interrupted` (NULL: never asked) returned: then some tasks may never have begun. */
int team_run(
    team_task function, void *data, const void *context, ptrdiff_t count, int threads, team_interrupted interrupted
);

/* Has this thread asked next in `ns` nanoseconds. */
void team_ask_in(int64_t ns);

/* At most `size` - 1 helpers from the next region on. */
void team_resize(int size);

/* The helpers that there are now. */
int team_helpers(void);

#endif
