/* Time of one policy_act, measured from C: p50, p99 and p99.9 in nanoseconds. Built by deploy.py. */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy.c"

#define CALLS 20000
#define ROWS ((POLICY_GOLDEN_ROWS < 8) ? POLICY_GOLDEN_ROWS : 8) /* more would push the weights out of the cache */

static int by_size(const void *a, const void *b)
{
    const long x = *(const long *)a;
    const long y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    static policy_scratch scratch ALIGNED;
    static policy_obs obs[POLICY_OBS_SIZE];
    static policy_action action[POLICY_ACTION_SIZE];
    static long times[CALLS];
    const int calls = (argc > 1) ? atoi(argv[1]) : CALLS;
    int call;
    int i;
    for (call = 0; call < calls && call < CALLS; call++) {
        struct timespec begin;
        struct timespec end;
        for (i = 0; i < POLICY_OBS_SIZE; i++) {
            obs[i] = known_observations[((call % ROWS) * POLICY_OBS_SIZE) + i];
        }
        (void)clock_gettime(CLOCK_MONOTONIC, &begin);
        (void)policy_act(obs, action, &scratch);
        (void)clock_gettime(CLOCK_MONOTONIC, &end);
        times[call] = ((end.tv_sec - begin.tv_sec) * 1000000000L) + (end.tv_nsec - begin.tv_nsec);
    }
    qsort(times, (size_t)calls, sizeof times[0], by_size);
    (void)printf("%ld %ld %ld\n", times[calls / 2], times[(calls * 99) / 100], times[(calls * 999) / 1000]);
    return 0;
}
