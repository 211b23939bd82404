/* The libFuzzer entry: raw bytes are an observation and noise. Whatever they are, an action is finite and within the
 * bounds, or refused and left as it was. Built by hardening.py against a generated policy.c. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy.c"

#define UNTOUCHED ((policy_action)77)

static void check(int status, const policy_action *action)
{
    int i;
    for (i = 0; i < POLICY_ACTION_SIZE; i++) {
        const float value = (float)action[i];
        if (status == POLICY_OK ? !(value >= FUZZ_LOW && value <= FUZZ_HIGH) : action[i] != UNTOUCHED) {
            abort();
        }
    }
}

static void reset(policy_action *action)
{
    int i;
    for (i = 0; i < POLICY_ACTION_SIZE; i++) {
        action[i] = UNTOUCHED;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    policy_obs obs[POLICY_OBS_SIZE] = {0};
    float noise[POLICY_NOISE_SIZE] = {0};
    policy_action action[POLICY_ACTION_SIZE];
    policy_scratch scratch; /* not initialised on purpose: nothing in it may be read */
    const size_t first = size < sizeof obs ? size : sizeof obs;
    const size_t rest = size - first < sizeof noise ? size - first : sizeof noise;
    memcpy(obs, data, first);
    memcpy(noise, data + first, rest);
    reset(action);
    check(policy_act(obs, action, &scratch), action);
    reset(action);
    check(policy_sample(obs, noise, action, &scratch), action);
    return 0;
}
