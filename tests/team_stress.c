/* The team under stress: several callers, regions of random size, regions inside regions, early ends, forks, resizing,
   refused threads. Ends with 0 when every task of every region was done once, by slots that nobody shared.

   cc -O1 -g -fsanitize=thread -I fastconv/_ext/team tests/team_stress.c fastconv/_ext/team/team.c -lpthread
   ./a.out SECONDS [SEED] */

#define _GNU_SOURCE
#include "team.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CALLERS = 4, MOST_TASKS = 5000, MOST_THREADS = 64 };

struct region {
    int count, length, inner, slots;
    unsigned char done[MOST_TASKS];           /* written by who does the task, read by the caller afterwards */
    long scratch[MOST_THREADS];               /* by slot, without atomics: two threads with one slot are a race */
};

static atomic_long regions, shared, stopped, forked;
static atomic_int over;

static void fail(const char *what) {
    fprintf(stderr, "team_stress: %s\n", what);
    _exit(1);
}

static uint32_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 11);
}

static void inner_task(void *data, const void *context, ptrdiff_t task, int slot) {
    (void)context;
    if (slot != 0) fail("a region inside a region has helpers");
    ((unsigned char *)data)[task]++;
}

static void one_task(void *data, const void *context, ptrdiff_t task, int slot) {
    struct region *region = data;
    if (context != data) fail("the data of one region with the context of another");
    if (task < 0 || task >= region->count) fail("a task that is none");
    if (slot < 0 || slot >= region->slots) fail("a slot that is none");
    region->scratch[slot]++;
    for (volatile int i = 0; i < region->length; i++) {}
    region->done[task]++;
    if (slot) atomic_fetch_add_explicit(&shared, 1, memory_order_relaxed);
    if (region->inner && task % 97 == 0) {
        unsigned char seen[5] = {0};
        team_run(inner_task, seen, NULL, 5, 4, NULL);
        for (int i = 0; i < 5; i++)
            if (seen[i] != 1) fail("a task of an inner region was not done once");
    }
}

static int stop_now(void) { return 7; }

static _Thread_local int is_child;

/* What a signal's handler may do: the child goes on with what is left of the region. */
static int fork_now(void) {
    if (is_child) return 0;
    pid_t process = fork();
    if (process == 0) {
        alarm(60);
        is_child = 1;
        return 0;
    }
    int status = 0;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {}
    if (status) fail("a child that was forked inside a region failed or hung");
    atomic_fetch_add(&forked, 1);
    return 0;
}

static void run_one(struct region *region, uint64_t *state) {
    region->count = 1 + (int)(draw(state) % (draw(state) % 8 ? 40 : MOST_TASKS));
    region->length = (int)(draw(state) % (draw(state) % 16 ? 300 : 30000));
    if (region->count > 200) region->length %= 300;
    region->inner = draw(state) % 8 == 0;
    region->slots = 1 + (int)(draw(state) % MOST_THREADS);
    memset(region->done, 0, sizeof region->done);
    memset(region->scratch, 0, sizeof region->scratch);
    int slow = draw(state) % 1000 == 0; /* long enough to be asked whether to stop */
    if (slow) region->length = 40000000 / region->count;
    int forks = slow && draw(state) % 2;
    int result = team_run(
        one_task, region, region, region->count, region->slots, forks ? fork_now : slow ? stop_now : NULL
    );
    long done = 0, tasks = 0;
    for (int i = 0; i < region->count; i++) {
        if (region->done[i] > 1) fail("a task was done twice");
        done += region->done[i];
    }
    for (int i = 0; i < MOST_THREADS; i++) tasks += region->scratch[i];
    if (done != tasks) fail("slots counted other tasks");
    if (result ? result != 7 || !slow : done != region->count) fail("a region ended early");
    if (is_child) _exit(0);
    if (result) atomic_fetch_add(&stopped, 1);
    atomic_fetch_add_explicit(&regions, 1, memory_order_relaxed);
}

static void *caller(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed * 0x9E3779B97F4A7C15u | 1;
    struct region *region = malloc(sizeof *region);
    while (!atomic_load(&over)) {
        run_one(region, &state);
        if (draw(&state) % 64 == 0) usleep(draw(&state) % 500); /* helpers fall asleep */
    }
    free(region);
    return NULL;
}

#ifdef __has_feature /* Clang */
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
enum { THREADS_OF_A_CHILD = 1 }; /* ThreadSanitizer's own locks do not survive a fork beside threads */
#else
enum { THREADS_OF_A_CHILD = 8 };
#endif

static void child(uint64_t state) {
    static struct region region;
    alarm(60);
    if (team_helpers()) fail("a child was born with helpers");
    team_resize(THREADS_OF_A_CHILD);
    for (int i = 0; i < 20; i++) run_one(&region, &state);
    _exit(0);
}

int main(int count, char **arguments) {
    double seconds = count > 1 ? atof(arguments[1]) : 5;
    uint64_t state = (count > 2 ? strtoull(arguments[2], NULL, 10) : 1) * 0x9E3779B97F4A7C15u | 1;
    pthread_t callers[CALLERS];
    team_resize(MOST_THREADS);
    for (uintptr_t i = 0; i < CALLERS; i++) pthread_create(&callers[i], NULL, caller, (void *)(i + 1 + state));
    time_t end = time(NULL) + (time_t)seconds;
    struct rlimit threads, none;
    getrlimit(RLIMIT_NPROC, &threads);
    while (time(NULL) < end) {
        usleep(draw(&state) % 5000);
        switch (draw(&state) % 4) {
        case 0: team_resize(1 + (int)(draw(&state) % MOST_THREADS)); break;
        case 1: team_resize(1 + (int)(draw(&state) % 4)); break;
        case 2: { /* no more threads for a while; root is never refused */
            none = threads;
            none.rlim_cur = 1;
            setrlimit(RLIMIT_NPROC, &none);
            team_resize(1);
            team_resize(MOST_THREADS);
            usleep(2000);
            setrlimit(RLIMIT_NPROC, &threads);
            break;
        }
        default: {
            pid_t process = fork();
            if (process == 0) child(state);
            int status = 0;
            while (waitpid(process, &status, 0) < 0 && errno == EINTR) {}
            if (status) fail("a forked child failed or hung");
            atomic_fetch_add(&forked, 1);
        }
        }
    }
    atomic_store(&over, 1);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    printf(
        "%ld regions, %ld tasks by helpers, %ld ended early, %ld forks\n", (long)regions, (long)shared, (long)stopped,
        (long)forked
    );
    return shared == 0;
}
