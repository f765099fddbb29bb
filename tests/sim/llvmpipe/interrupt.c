/* For LD_PRELOAD: interrupts llvmpipe's drawing thread, counts the fences that are freed under it.
 *
 * INTERRUPT_EVERY_US, INTERRUPT_US: a timer halts the thread at any instant, as a scheduler would.
 * HOLD_UP_US: the thread sleeps whenever it wakes those who wait for a fence, which it has counted
 * as signalled by then; with ANY_THREAD=1, whichever thread does it (LP_NUM_THREADS=0).
 *
 * Tied to Mesa's struct lp_fence (the mutex lies before the condition) and to glibc on x86-64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef int of_condition(pthread_cond_t *);
enum { UNKNOWN, DRAWING, OTHER };
static __thread int thread = UNKNOWN;
static __thread int unlock_follows;
static pthread_cond_t *volatile signalling;
static volatile long fences, freed_locked;

static void wait_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static void halt(int number) {
    (void)number;
    wait_us(setting("INTERRUPT_US"));
}

static void recognise(void) {
    char name[17] = {0};
    prctl(PR_GET_NAME, name);
    thread = setting("ANY_THREAD") || !strncmp(name, "llvmpipe-", 9) ? DRAWING : OTHER;
    const long every = setting("INTERRUPT_EVERY_US");
    if (thread != DRAWING || !every) return;
    struct sigaction action = {.sa_handler = halt, .sa_flags = SA_RESTART};
    sigaction(SIGRTMIN + 5, &action, NULL);
    sigset_t unblocked; /* Mesa blocks every signal in its threads */
    sigemptyset(&unblocked);
    sigaddset(&unblocked, SIGRTMIN + 5);
    pthread_sigmask(SIG_UNBLOCK, &unblocked, NULL);
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN + 5;
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    struct timespec step = {every / 1000000, every % 1000000 * 1000};
    struct itimerspec times = {step, step};
    timer_settime(timer, 0, &times, NULL);
}

int pthread_cond_broadcast(pthread_cond_t *condition) {
    static of_condition *next;
    if (!next) next = (of_condition *)dlvsym(RTLD_NEXT, "pthread_cond_broadcast", "GLIBC_2.3.2");
    if (thread == UNKNOWN) recognise();
    if (thread == DRAWING) {
        signalling = condition;
        unlock_follows = 1;
        fences++;
        if (setting("HOLD_UP_US")) wait_us(setting("HOLD_UP_US"));
    }
    return next(condition);
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
    static int (*next)(pthread_mutex_t *);
    if (!next) next = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
    const int result = next(mutex);
    if (unlock_follows) {
        unlock_follows = 0;
        signalling = NULL;
    }
    return result;
}

int pthread_cond_destroy(pthread_cond_t *condition) {
    static of_condition *next;
    if (!next) next = (of_condition *)dlvsym(RTLD_NEXT, "pthread_cond_destroy", "GLIBC_2.3.2");
    if (signalling == condition && ((pthread_mutex_t *)condition)[-1].__data.__lock) freed_locked++;
    return next(condition);
}

__attribute__((destructor)) static void tell(void) {
    if (!fences) return;
    fprintf(stderr, "%ld fences signalled, %ld of them freed with their mutex locked\n", fences,
            freed_locked);
}
