/* Whether a region's caller lets go of Python's lock, the GIL, for as long as it lasts.

   It does: other Python threads go on meanwhile. But beside a thread of pure Python, which does not let go of the lock by
   itself, to get it back takes the interpreter's switch interval: once a region, that would be most of the time. Whoever
   had to wait so long keeps the lock from then on for a TURN of regions, the last of which lets go of it in its midst, and
   sees how long it takes now. */

#ifndef FASTCONV_GIL_H
#define FASTCONV_GIL_H

#include "team/team.h"

#include <Python.h>
#include <time.h>

static const int64_t TURN = 5 * 1000 * 1000; /* ns; the interpreter's switch interval, if nobody has changed it */
static const int64_t LONG = 2 * 1000 * 1000; /* for the lock to come back */

static unsigned long main_thread; /* Python runs signal handlers in its main thread alone */

static _Thread_local PyThreadState *released; /* NULL: the lock is held */
static _Thread_local int64_t left;            /* of this thread's turn */
static _Thread_local long long times_released;

static int64_t clock_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int let_go(void)
{
    if (released == NULL) {
        released = PyEval_SaveThread();
        times_released++;
    }
    return 0;
}

/* -1 with Python's error set where a signal's handler raised. */
static int interrupted(void)
{
    int raised = 0;
    if (PyThread_get_thread_ident() == main_thread) {
        PyGILState_STATE state = PyGILState_Ensure();
        raised = PyErr_CheckSignals();
        PyGILState_Release(state);
    }
    return raised ? raised : let_go();
}

/* team_run for a caller who holds the lock; whole: no signal ends it. */
static int run_region(team_task function, void *data, const void *context, ptrdiff_t count, int threads, int whole)
{
    PyThreadState *outer = released; /* of a region whose signal handler began this one */
    const int64_t began = clock_now();
    released = NULL;
    if (left > 0)
        team_ask_in(left);
    else
        let_go();
    const int stop = team_run(function, data, context, count, threads, whole ? let_go : interrupted);
    const int64_t ended = clock_now();
    if (released == NULL)
        left -= ended - began;
    else {
        PyEval_RestoreThread(released);
        left = clock_now() - ended > LONG ? TURN : 0;
    }
    released = outer;
    return stop;
}

#endif
