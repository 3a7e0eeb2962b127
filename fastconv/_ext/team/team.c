/* One team of threads for the process.

A region is `count` tasks. Its caller begins with them at once, and helpers that are awake take some: whoever claims a
task does it. The caller returns when every claimed task is done, and so waits for no helper that never came. Who
computes what is left to chance; tasks are therefore cut by shape, and sums are added up in an order of their own.

    claim     the region's number, and how many units (some tasks) have been claimed by the caller, and by helpers: he
              begins with the first one, they with the one in the middle, so that each goes through its own part of
              memory, in order. One word, so that a late helper that still looks at a region that has ended cannot claim
              from the next one. CLOSED: nothing is left
    region    what the tasks are. It changes only while `claim` is closed: a helper whose claim succeeds has read the
              region that it claimed from
    done      units that helpers have done; the caller may sleep on it
    busy      held by the caller of the running region. Who finds it held computes alone: another Python thread, or a
              task that begins a region of its own

Shares are few and short: who loses its core with one holds up no more than that. Before the caller asks whether to stop
it closes the claims and waits for what is claimed: a signal's handler may fork, and the child does what is left.

A helper spins for a moment after its last task, a short one where it has lost its core lately; then it is parked (the
state machine is that of Rust's std::thread::park on a futex). It rounds as the region's caller does. A forked child has
no helpers and gets new ones at its first region.

Acquire and release order everything; there are no fences, which ThreadSanitizer would not see. */

#define _GNU_SOURCE
#include "team.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __linux__
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#if !defined(TEAM_WITHOUT_FUTEX) /* to test what other systems do */
#define FUTEX
#include <linux/futex.h>
#endif
#endif

enum { MOST = 1024, SHARES = 8, LONGEST_STRIDE = 32, REGIONS_UNTIL_RETRY = 1000, STACK = 2 << 20 };

/* ns; bench/NOTES.md */
static const int64_t SPIN = 500 * 1000;            /* that a helper looks for another region before it sleeps */
static const int64_t SPIN_CROWDED = 20 * 1000;     /* the same where others want its core */
static const int64_t LOOK = 50 * 1000 * 1000;      /* between two looks how often a thread lost its core: */
static const int64_t ENOUGH = 120 * 1000 * 1000;   /* that it had one, to tell; */
static const int64_t OFTEN = 12 * 1000 * 1000;     /* others want it that lost it every so often */
static const int64_t PATIENCE = 500 * 1000;        /* that a caller looks for the last result before it sleeps */
static const int64_t ASK_AGAIN = 50 * 1000 * 1000; /* between two questions whether to stop */
static const int64_t SHORT = 500 * 1000;           /* shares that take less grow, those that take twice as long shrink */

enum { UNIT_BITS = 20, MOST_UNITS = (1 << UNIT_BITS) - 2, CLOSED = (1 << UNIT_BITS) - 1 };
static const uint32_t WAITING = (uint32_t)1 << 31;

enum { EMPTY, CALLED, LEAVE, PARKED };

struct helper {
    _Alignas(64) _Atomic uint32_t state;
    atomic_int crowded;            /* others want its core */
    atomic_int thread;             /* the system's number of it; 0: not known yet */
    int slot, avoids;              /* avoids: a core that it may not run on; -1: none. Only who holds `busy` */
};

static struct {
    _Alignas(64) _Atomic uint64_t claim;
    _Alignas(64) _Atomic uint32_t done;
    _Alignas(64) atomic_int busy;
    atomic_int size;    /* that was asked for, with the caller */
    atomic_int leaving; /* helpers that were told to go and may still claim a task */
    atomic_int present; /* helpers */
    /* the region */
    _Alignas(64) _Atomic(team_task) function;
    _Atomic(void *) data;
    _Atomic(const void *) context;
    _Atomic ptrdiff_t count, unit; /* tasks of the region, and of one unit */
    _Atomic uint32_t units, rounding;
    atomic_int threads;
    atomic_int crowded; /* others want the caller's core */
    /* only who holds `busy` */
    struct helper *helpers[MOST];
    int helper_count, regions_until_retry;
    int forks;     /* that this process came from */
    int fork_safe; /* children will forget the helpers */
    uint64_t number;
} team = {.claim = CLOSED, .size = 1};

static _Thread_local int inside; /* a region: what begins another one computes it alone */

#define load(at, order) atomic_load_explicit(at, memory_order_##order)
#define store(at, value, order) atomic_store_explicit(at, value, memory_order_##order)

/* --- waiting ---------------------------------------------------------------------------------------------------- */

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

#ifdef FUTEX

/* Sleeps while *word is `value`; may return without a reason. */
static void sleep_on(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

static void forget_sleepers(void) {}

#else

static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void sleep_on(_Atomic uint32_t *word, uint32_t value) {
    pthread_mutex_lock(&sleeping);
    while (load(word, acquire) == value) pthread_cond_wait(&changed, &sleeping);
    pthread_mutex_unlock(&sleeping);
}

static void wake(_Atomic uint32_t *word) {
    (void)word;
    pthread_mutex_lock(&sleeping);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&sleeping);
}

/* In a forked child, whose copies may be locked for ever. */
static void forget_sleepers(void) {
    sleeping = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

#endif

/* Tells a helper something. It may be gone as soon as it was told to leave: the word is not read after that. */
static void tell(struct helper *helper, uint32_t what) {
    if (atomic_exchange_explicit(&helper->state, what, memory_order_acq_rel) == PARKED) wake(&helper->state);
}

/* Sleeps until told something, unless it was already; what it was told. */
static uint32_t park(struct helper *self) {
    uint32_t told = EMPTY;
    if (atomic_compare_exchange_strong_explicit(
            &self->state, &told, PARKED, memory_order_acq_rel, memory_order_acquire
        ))
        while ((told = load(&self->state, acquire)) == PARKED) sleep_on(&self->state, PARKED);
    if (told == CALLED) /* else it is told to leave, now or between these lines */
        atomic_compare_exchange_strong_explicit(
            &self->state, &told, EMPTY, memory_order_acq_rel, memory_order_acquire
        );
    return told;
}

/* --- claiming --------------------------------------------------------------------------------------------------- */

/* How this thread rounds, and what it does with denormal numbers; without the flags of what happened. */
static uint32_t get_rounding(void) {
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr() & ~(uint32_t)63;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (uint32_t)mode;
#else
    return 0;
#endif
}

static void set_rounding(uint32_t mode) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#else
    (void)mode;
#endif
}

static uint32_t by_caller(uint64_t claim) { return (uint32_t)claim & CLOSED; }

static uint32_t by_helpers(uint64_t claim) { return (uint32_t)(claim >> UNIT_BITS) & CLOSED; }

static uint64_t number_of(uint64_t claim) { return claim >> 2 * UNIT_BITS; }

/* The first of the units that are the caller's, or the helpers', from the n-th on: their own half in order, then the
other one from its end. `share`: so many are asked for, and there. */
static uint32_t place_of(int is_caller, uint32_t n, uint32_t units, uint32_t *share) {
    uint32_t middle = units / 2, own = is_caller ? middle : units - middle;
    if (n < own) {
        if (*share > own - n) *share = own - n;
        return is_caller ? n : middle + n;
    }
    return (is_caller ? units : middle) - (n - own) - *share;
}

static uint64_t closed(void) { return team.number << 2 * UNIT_BITS | CLOSED; }

/* A thread's longest share of a region. */
struct pace {
    uint64_t number;
    uint32_t most;
};

/* Claims some units for `slot` and does them; how many. */
static uint32_t do_some(int slot, struct pace *pace) {
    uint64_t claim = load(&team.claim, acquire);
    for (;;) {
        uint32_t units = load(&team.units, relaxed);
        uint32_t callers = by_caller(claim), helpers = by_helpers(claim);
        int threads = load(&team.threads, relaxed);
        if (callers == CLOSED || callers + helpers >= units || slot >= threads) return 0;
        if (pace->number != number_of(claim)) *pace = (struct pace){number_of(claim), 1};
        uint32_t share = (units - callers - helpers) / (uint32_t)(SHARES * threads);
        if (share > pace->most) share = pace->most;
        if (share == 0) share = 1;
        uint32_t place = place_of(slot == 0, slot == 0 ? callers : helpers, units, &share);
        team_task function = load(&team.function, relaxed);
        void *data = load(&team.data, relaxed);
        const void *context = load(&team.context, relaxed);
        ptrdiff_t count = load(&team.count, relaxed), unit = load(&team.unit, relaxed);
        uint32_t rounding = load(&team.rounding, relaxed);
        uint64_t more = slot == 0 ? share : (uint64_t)share << UNIT_BITS;
        if (!atomic_compare_exchange_weak_explicit(
                &team.claim, &claim, claim + more, memory_order_acq_rel, memory_order_acquire
            ))
            continue;
        if (slot != 0 && rounding != get_rounding()) set_rounding(rounding);
        ptrdiff_t first = unit * (ptrdiff_t)place;
        ptrdiff_t last = first + unit * (ptrdiff_t)share;
        int64_t began = now();
        for (ptrdiff_t task = first; task < last && task < count; task++) function(data, context, task, slot);
        int64_t took = now() - began;
        if (took < SHORT && share == pace->most && share < MOST_UNITS / 2) pace->most = 2 * share;
        if (took > 2 * SHORT) pace->most = share / 2 ? share / 2 : 1;
        return share;
    }
}

/* --- helpers ---------------------------------------------------------------------------------------------------- */

/* A name, and the cores and the niceness of the process's first thread, whoever hired this one. */
static void take_after_process(int slot) {
#if defined(__linux__)
    char name[16];
    snprintf(name, sizeof name, "fastconv-%d", slot);
    pthread_setname_np(pthread_self(), name);
    cpu_set_t cores;
    if (sched_getaffinity(getpid(), sizeof cores, &cores) == 0) sched_setaffinity(0, sizeof cores, &cores);
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, (id_t)getpid())); /* may be refused */
#else
    (void)slot;
#endif
}

static _Thread_local int64_t looked, used; /* when this thread last looked, and the time that it had had a core */
static _Thread_local long taken;           /* and how often that was taken away */

/* Sets `crowded`, from time to time: whether others want this thread's core, which was taken away OFTEN while it had it. */
static void look_around(atomic_int *crowded, int64_t time) {
#ifdef __linux__
    struct rusage usage;
    if (time - looked < LOOK || getrusage(RUSAGE_THREAD, &usage)) return;
    looked = time;
    int64_t had = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * (int64_t)1000000000 +
                  (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * (int64_t)1000 - used;
    if (had < ENOUGH) return;
    store(crowded, (usage.ru_nivcsw - taken) * OFTEN >= had, relaxed);
    used += had;
    taken = usage.ru_nivcsw;
#else
    (void)crowded, (void)time;
#endif
}

/* Whether others want this helper's core or the caller's. */
static int is_crowded(struct helper *helper) { return load(&helper->crowded, relaxed) || load(&team.crowded, relaxed); }

/* Where others want the cores, a helper is kept away from its caller's, wherever he is now: the system tends to wake it
   there, where it takes the place of the one whom it is to help. Elsewhere it may run on all of the process's. */
static void steer(struct helper *helper) {
#ifdef __linux__
    int thread = load(&helper->thread, relaxed), core = is_crowded(helper) ? sched_getcpu() : -1;
    if (core == helper->avoids || thread == 0) return;
    cpu_set_t cores;
    if (sched_getaffinity(getpid(), sizeof cores, &cores)) return;
    if (core >= 0) CPU_CLR(core, &cores);
    if (CPU_COUNT(&cores) && sched_setaffinity(thread, sizeof cores, &cores) == 0) helper->avoids = core;
#else
    (void)helper;
#endif
}

static void *help(void *argument) {
    struct helper *self = argument;
    struct pace pace = {0, 1};
    inside = 1;
    take_after_process(self->slot);
#ifdef __linux__
    store(&self->thread, (int)syscall(SYS_gettid), relaxed);
#endif
    uint32_t told = EMPTY;
    while (told != LEAVE) {
        int64_t since = now();
        while ((told = load(&self->state, acquire)) != LEAVE) {
            uint32_t did = do_some(self->slot, &pace);
            if (did) {
                if (atomic_fetch_add_explicit(&team.done, did, memory_order_acq_rel) & WAITING) wake(&team.done);
                since = 0;
                continue;
            }
            for (int i = 0; i < 16; i++) relax();
            int64_t time = now();
            if (since == 0) since = time;
            look_around(&self->crowded, time);
            if (time - since > (is_crowded(self) ? SPIN_CROWDED : SPIN)) break;
        }
        if (told == LEAVE) break;
        told = park(self);
    }
    free(self);
    atomic_fetch_sub_explicit(&team.leaving, 1, memory_order_release);
    return NULL;
}

/* One helper more; whether there was a thread for it. */
static int hire(void) {
    struct helper *helper = NULL;
    if (posix_memalign((void **)&helper, 64, sizeof *helper)) return 0;
    atomic_init(&helper->state, EMPTY);
    atomic_init(&helper->crowded, 0);
    atomic_init(&helper->thread, 0);
    helper->slot = team.helper_count + 1;
    helper->avoids = -1;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) {
        free(helper);
        return 0;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    sigset_t all, before;
    sigfillset(&all); /* signals are the caller's, but for those that a task of the helper's own raises */
    const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* a new thread inherits it */
    pthread_t thread;
    int refused = pthread_create(&thread, &attributes, help, helper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (refused) {
        free(helper);
        return 0;
    }
    team.helpers[team.helper_count++] = helper;
    store(&team.present, team.helper_count, relaxed);
    return 1;
}

static void dismiss_down_to(int count) {
    while (team.helper_count > count) {
        atomic_fetch_add_explicit(&team.leaving, 1, memory_order_relaxed);
        tell(team.helpers[--team.helper_count], LEAVE);
        store(&team.present, team.helper_count, relaxed);
    }
}

/* As many helpers as a region of `threads` threads can have; how many that are. */
static int staff(int threads) {
    int most = load(&team.size, relaxed) - 1;
    dismiss_down_to(most);
    if (most > threads - 1) most = threads - 1;
    if (!team.fork_safe) return 0;
    if (team.regions_until_retry > 0) team.regions_until_retry--;
    while (team.helper_count < most && team.regions_until_retry == 0) {
        if (load(&team.leaving, acquire)) break; /* it still has the slot of the next one */
        if (!hire()) team.regions_until_retry = REGIONS_UNTIL_RETRY;
    }
    return team.helper_count < most ? team.helper_count : most;
}

static int try_to_hold(void) { return !atomic_exchange_explicit(&team.busy, 1, memory_order_acquire); }

/* Whoever asked for a smaller team meanwhile found it held. */
static void let_go(void) {
    dismiss_down_to(load(&team.size, relaxed) - 1);
    store(&team.busy, 0, release);
}

void team_resize(int size) {
    store(&team.size, size < 1 ? 1 : size > MOST ? MOST : size, relaxed);
    if (try_to_hold()) {
        dismiss_down_to(load(&team.size, relaxed) - 1);
        team.regions_until_retry = 0;
        let_go();
    }
}

int team_helpers(void) { return load(&team.present, relaxed); }

static void forget_helpers(void) {
    forget_sleepers();
    looked = used = taken = 0; /* a child's thread begins to count */
    store(&team.crowded, 0, relaxed);
    store(&team.claim, closed(), relaxed);
    store(&team.leaving, 0, relaxed);
    store(&team.present, 0, relaxed);
    team.helper_count = team.regions_until_retry = 0;
    team.forks++;
    let_go();
}

__attribute__((constructor)) static void prepare_for_forks(void) {
    team.fork_safe = pthread_atfork(NULL, NULL, forget_helpers) == 0;
}

/* --- regions ---------------------------------------------------------------------------------------------------- */

static _Thread_local int64_t asked; /* when this thread last asked whether to stop, in whatever region */

void team_ask_in(int64_t ns) { asked = now() - ASK_AGAIN + ns; }

static int is_time_to_ask(team_interrupted interrupted, int64_t time) {
    return interrupted && time - asked >= ASK_AGAIN;
}

static int ask(team_interrupted interrupted) {
    int stop = interrupted();
    asked = now();
    return stop;
}

/* Tasks first .. last - 1. */
static int alone(
    team_task function, void *data, const void *context, ptrdiff_t first, ptrdiff_t last, team_interrupted interrupted
) {
    int64_t looked = now();
    ptrdiff_t stride = 1, next = first; /* tasks between two looks at the clock: more where tasks are short */
    for (ptrdiff_t task = first; task < last; task++) {
        function(data, context, task, 0);
        if (!interrupted || task < next) continue;
        int64_t time = now();
        stride = time - looked > SHORT ? 1 : stride < LONGEST_STRIDE ? 2 * stride : stride;
        next = task + stride;
        looked = time;
        int stop = is_time_to_ask(interrupted, time) ? ask(interrupted) : 0;
        if (stop) return stop;
    }
    return 0;
}

/* Waits until helpers have done `count` units of this region. */
static void wait_for(uint32_t count) {
    if (load(&team.done, acquire) == count) return;
    int64_t since = now();
    while (now() - since < PATIENCE) {
        for (int i = 0; i < 8; i++) relax();
        if (load(&team.done, acquire) == count) return;
    }
    uint32_t done = atomic_fetch_or_explicit(&team.done, WAITING, memory_order_acq_rel) | WAITING;
    while (done != (count | WAITING)) {
        sleep_on(&team.done, done);
        done = load(&team.done, acquire);
    }
}

static void open_claims(uint32_t callers, uint32_t helpers) {
    store(&team.done, 0, relaxed);
    team.number++;
    store(&team.claim, team.number << 2 * UNIT_BITS | (uint64_t)helpers << UNIT_BITS | callers, release);
}

/* The last claim; `before` units were the helpers' when claims were opened: what was claimed since is done now. */
static uint64_t close_claims(uint32_t before) {
    uint64_t claim = atomic_exchange_explicit(&team.claim, closed(), memory_order_acq_rel);
    wait_for(by_helpers(claim) - before);
    return claim;
}

/* A region of this caller, which holds the team, and `helpers`. */
static int together(
    team_task function, void *data, const void *context, ptrdiff_t count, int helpers, team_interrupted interrupted
) {
    ptrdiff_t unit = 1 + (count - 1) / MOST_UNITS;
    uint32_t units = (uint32_t)(1 + (count - 1) / unit);
    store(&team.function, function, relaxed);
    store(&team.data, data, relaxed);
    store(&team.context, context, relaxed);
    store(&team.count, count, relaxed);
    store(&team.unit, unit, relaxed);
    store(&team.units, units, relaxed);
    store(&team.rounding, get_rounding(), relaxed);
    store(&team.threads, helpers + 1, relaxed);
    look_around(&team.crowded, now());
    open_claims(0, 0);

    struct pace pace = {0, 1};
    int called = 0, calls = units <= (uint32_t)helpers + 1 ? helpers : 2, forks = team.forks;
    uint32_t before = 0;
    do {
        uint64_t claim = load(&team.claim, relaxed);
        uint32_t left = units - by_caller(claim) - by_helpers(claim);
        for (int i = 0; i < calls && called < helpers && (uint32_t)called + 1 < left; i++) {
            struct helper *helper = team.helpers[called++];
            steer(helper);
            tell(helper, CALLED);
        }
        calls *= 2;
        if (is_time_to_ask(interrupted, now())) {
            claim = close_claims(before);
            int stop = ask(interrupted);
            if (stop) return stop;
            if (team.forks != forks) { /* a child: what was claimed is done, and there are no helpers */
                for (uint32_t n = by_caller(claim); !stop && n + by_helpers(claim) < units; n++) {
                    uint32_t one = 1;
                    ptrdiff_t first = unit * (ptrdiff_t)place_of(1, n, units, &one);
                    stop = alone(function, data, context, first, first + unit < count ? first + unit : count, interrupted);
                }
                return stop;
            }
            before = by_helpers(claim);
            open_claims(by_caller(claim), before);
        }
    } while (do_some(0, &pace));
    close_claims(before);
    return 0;
}

int team_run(
    team_task function, void *data, const void *context, ptrdiff_t count, int threads, team_interrupted interrupted
) {
    if (count < 1) return 0;
    if (threads > count) threads = (int)count;
    int was_inside = inside, stop;
    inside = 1;
    if (was_inside || threads < 2 || !try_to_hold()) {
        stop = alone(function, data, context, 0, count, interrupted);
    } else {
        int helpers = staff(threads), forks = team.forks;
        stop = helpers ? together(function, data, context, count, helpers, interrupted)
                       : alone(function, data, context, 0, count, interrupted);
        if (team.forks == forks) let_go(); /* a child holds nothing any more */
    }
    inside = was_inside;
    return stop;
}
