"""The C text that is the same for every policy, with $names for what differs."""

from string import Template

HEADER = Template("""\
/* $title
 *
 * Acts without heap, files, threads or global state: the caller owns the scratch memory, so any number of threads may
 * act, each with its own. Compile as C99 or C++17 with -ffp-contract=off; $prefix_selftest() says whether this build,
 * on this processor, gives the answers that it should.
 */
#ifndef ${PREFIX}_H
#define ${PREFIX}_H

#ifdef __cplusplus
extern "C" {
#endif

$sizes

typedef $obs_type ${prefix}_obs;
typedef $action_type ${prefix}_action;

/* Scratch memory of one call; its contents mean nothing before and after. Alignment to 64 bytes is a little faster. */
typedef struct {
    float a[$buffer_a];
    float b[$buffer_b];
    float distribution[${PREFIX}_DISTRIBUTION_SIZE];
} ${prefix}_scratch;

/* What every function returns. The action is written only with ${PREFIX}_OK: after a refusal the last one is still
 * there. */
enum {
    ${PREFIX}_OK = 0,
    ${PREFIX}_BAD_OBSERVATION = 1, /* a NaN or an infinity in the observation, or in the noise */
    ${PREFIX}_BAD_OUTPUT = 2,      /* the network overflowed: the observation is too large for it */
    ${PREFIX}_NULL_POINTER = 3,
    ${PREFIX}_INEXACT = 4,         /* self-test: within 1e-5, but not the same bits */
    ${PREFIX}_WRONG = 5            /* self-test: do not act with this build */
};

/* The most likely action for one observation as the simulator gives it$in_units. */
int ${prefix}_act(const ${prefix}_obs *obs, ${prefix}_action *action, ${prefix}_scratch *scratch);

/* A drawn action. noise: ${PREFIX}_NOISE_SIZE numbers, $noise. */
int ${prefix}_sample(const ${prefix}_obs *obs, const float *noise, ${prefix}_action *action,
    ${prefix}_scratch *scratch);

/* ${PREFIX}_DISTRIBUTION_SIZE numbers: $distribution. */
int ${prefix}_distribution(const ${prefix}_obs *obs, float *distribution, ${prefix}_scratch *scratch);

/* Acts on ${PREFIX}_GOLDEN_ROWS observations with known answers: ${PREFIX}_OK, ${PREFIX}_INEXACT or ${PREFIX}_WRONG. */
int ${prefix}_selftest(${prefix}_scratch *scratch);

/* Which policy this is, with its sizes: what a program that loads it as a library compares before anything else. */
const char *${prefix}_identity(void);
$push_declaration
#ifdef __cplusplus
}
#endif

#endif
""")

PUSH_DECLARATION = Template("""
/* Puts the simulator's newest observation behind the older ones; first is not 0 at the beginning of an episode. */
void ${prefix}_push(${prefix}_obs *stacked, const ${prefix}_obs *newest, int first);
""")

PREAMBLE = Template("""\
/* $title */
#include "$prefix.h"

#include <float.h>
$math_include#include <stddef.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && (__FINITE_MATH_ONLY__ != 0))
#error "Compile without -ffast-math: it would change the answers and let NaN through."
#endif
#if (FLT_EVAL_METHOD < 0) || (FLT_EVAL_METHOD == 1) || (FLT_EVAL_METHOD == 2)
#error "Arithmetic has to be rounded to float; on 32-bit x86 add -msse2 -mfpmath=sse."
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__cplusplus)
#define RESTRICT __restrict
#else
#define RESTRICT restrict
#endif
#if defined(__GNUC__)
#define ALIGNED __attribute__((aligned(64)))
#else
#define ALIGNED
#endif
""")

LOAD = Template("""\
/* The observation as the first layer takes it; not 0 where a number is not finite. */
static int load(const ${prefix}_obs *RESTRICT obs, float *RESTRICT x)
{
    int refused = 0;
    int i;
    for (i = 0; i < $size; i++) {
        const float v = (float)obs[i];
        refused |= 1 - is_finite(v);
        x[i] = v;
    }
    return refused;
}
""")

PUBLIC = Template("""\
const char *${prefix}_identity(void)
{
    return $identity;
}

int ${prefix}_distribution(const ${prefix}_obs *obs, float *distribution, ${prefix}_scratch *scratch)
{
    float *a;
    float *b;
    int refused = 0;
    int i;
    if ((obs == $null) || (distribution == $null) || (scratch == $null)) {
        return ${PREFIX}_NULL_POINTER;
    }
    a = scratch->a;
    b = scratch->b;
    if (load(obs, a) != 0) {
        return ${PREFIX}_BAD_OBSERVATION;
    }
$calls
    for (i = 0; i < $head_size; i++) {
        refused |= 1 - is_finite($last[i]);
    }
    if (refused != 0) {
        return ${PREFIX}_BAD_OUTPUT;
    }
    describe($last, distribution);
    return ${PREFIX}_OK;
}

int ${prefix}_act(const ${prefix}_obs *obs, ${prefix}_action *action, ${prefix}_scratch *scratch)
{
    int status = ${PREFIX}_NULL_POINTER;
    if ((action != $null) && (scratch != $null)) {
        status = ${prefix}_distribution(obs, scratch->distribution, scratch);
    }
    if (status == ${PREFIX}_OK) {
        control(scratch->distribution, action);
    }
    return status;
}

int ${prefix}_sample(const ${prefix}_obs *obs, const float *noise, ${prefix}_action *action, ${prefix}_scratch *scratch)
{
    int status = ${PREFIX}_NULL_POINTER;
    int i;
    if ((noise != $null) && (action != $null) && (scratch != $null)) {
        status = ${prefix}_distribution(obs, scratch->distribution, scratch);
    }
    for (i = 0; (status == ${PREFIX}_OK) && (i < ${PREFIX}_NOISE_SIZE); i++) {
        status = (is_finite(noise[i]) != 0) ? ${PREFIX}_OK : ${PREFIX}_BAD_OBSERVATION;
    }
    if (status == ${PREFIX}_OK) {
        draw(scratch->distribution, noise);
        control(scratch->distribution, action);
    }
    return status;
}

int ${prefix}_selftest(${prefix}_scratch *scratch)
{
    ${prefix}_action action[${PREFIX}_ACTION_SIZE];
    int result = ${PREFIX}_OK;
    int row;
    int i;
    for (row = 0; row < ${PREFIX}_GOLDEN_ROWS; row++) {
        const float *expected = &known_distributions[row * ${PREFIX}_DISTRIBUTION_SIZE];
        int status = ${prefix}_act(&known_observations[row * ${PREFIX}_OBS_SIZE], action, scratch);
        if (status != ${PREFIX}_OK) {
            return ${PREFIX}_WRONG;
        }
        for (i = 0; i < ${PREFIX}_DISTRIBUTION_SIZE; i++) {
            result = worse(result, scratch->distribution[i], expected[i], known_tolerances[row]);
        }
        for (i = 0; i < ${PREFIX}_ACTION_SIZE; i++) {
            const ${prefix}_action answer = known_actions[(row * ${PREFIX}_ACTION_SIZE) + i];
            result = worse(result, (float)action[i], (float)answer, known_tolerances[row]);
        }
    }
    return result;
}
""")

WORSE = Template("""\
static int worse(int result, float found, float expected, float tolerance)
{
    const float error = (found > expected) ? (found - expected) : (expected - found);
    int seen = ${PREFIX}_WRONG;
    if (error <= 0.0F) {
        seen = ${PREFIX}_OK;
    } else if (error <= tolerance) {
        seen = ${PREFIX}_INEXACT;
    } else {
        /* wrong: also where the error is a NaN */
    }
    return (seen > result) ? seen : result;
}
""")

PUSH = Template("""\
void ${prefix}_push(${prefix}_obs *stacked, const ${prefix}_obs *newest, int first)
{
    int row;
    int i;
    for (row = 0; row < $rows; row++) {
        ${prefix}_obs *to = &stacked[row * $width];
        const ${prefix}_obs *from = &newest[row * $frame];
        for (i = 0; i < $width; i++) {
            if (first != 0) {
                to[i] = from[i % $frame];
            } else if (i < $older) {
                to[i] = to[i + $frame];
            } else {
                to[i] = from[i - $older];
            }
        }
    }
}
""")

MAIN = Template("""\
#ifdef ${PREFIX}_MAIN
/* Without an argument: the self-test, then an action in words for every row of standard input.
 * With -b: raw ${prefix}_obs in, raw ${prefix}_action out, for other programs. */
#include <stdio.h>
#include <stdlib.h>

/* The next character of this line that is no space; it stays to be read. */
static int ahead(void)
{
    int c = getchar();
    while ((c == ' ') || (c == '\\t') || (c == '\\r') || (c == '\\v') || (c == '\\f')) {
        c = getchar();
    }
    if (c != EOF) {
        (void)ungetc(c, stdin);
    }
    return c;
}

/* Not 0 where the next word is a number, and nothing else. */
static int read_number(float *number)
{
    char word[128];
    char *end = word;
    int c;
    if (scanf("%127s", word) == 1) {
        *number = strtof(word, &end);
    }
    c = getchar();
    if (c != EOF) {
        (void)ungetc(c, stdin);
    }
    return ((end != word) && (*end == '\\0') && ((c == EOF) || (c == ' ') || ((c >= '\\t') && (c <= '\\r')))) ? 1 : 0;
}

/* 1: a row was read; 0: there are no more; -1: it is refused. */
static int read_row(${prefix}_obs *obs, unsigned long row)
{
    unsigned long count = 0UL;
    float number = 0.0F;
    int c = ahead();
    while (c == '\\n') {
        (void)getchar();
        c = ahead();
    }
    if (c == EOF) {
        return 0;
    }
    for (; (c != '\\n') && (c != EOF); c = ahead()) {
        if ((read_number(&number) == 0) || !($castable)) {
            (void)fprintf(stderr,
                "refused: number %lu of row %lu does not fit; an observation is %d numbers$of_range\\n",
                count + 1UL, row, ${PREFIX}_OBS_SIZE);
            return -1;
        }
        if (count < (unsigned long)${PREFIX}_OBS_SIZE) {
            obs[count] = (${prefix}_obs)number;
        }
        count++;
    }
    if (count != (unsigned long)${PREFIX}_OBS_SIZE) {
        (void)fprintf(stderr, "refused: row %lu has %lu numbers; an observation is %d numbers$of_range\\n", row, count,
            ${PREFIX}_OBS_SIZE);
        return -1;
    }
    return 1;
}

/* As read_row. */
static int read_bytes(${prefix}_obs *obs, unsigned long row)
{
    const size_t size = sizeof(${prefix}_obs) * (size_t)${PREFIX}_OBS_SIZE;
    const size_t got = fread(obs, 1U, size, stdin);
    if ((got > 0U) && (got < size)) {
        (void)fprintf(stderr, "refused: row %lu has %lu bytes; an observation is %lu bytes\\n", row,
            (unsigned long)got, (unsigned long)size);
        return -1;
    }
    return (got > 0U) ? 1 : 0;
}

/* Not 0 where it could be written. */
static int write_action(const ${prefix}_action *action, int binary)
{
    int i;
    if (binary != 0) {
        const size_t put = fwrite(action, sizeof(${prefix}_action), ${PREFIX}_ACTION_SIZE, stdout);
        return ((put == (size_t)${PREFIX}_ACTION_SIZE) && (fflush(stdout) == 0)) ? 1 : 0;
    }
    for (i = 0; i < ${PREFIX}_ACTION_SIZE; i++) {
        if (printf((i > 0) ? " %.9g" : "%.9g", (double)action[i]) < 0) {
            return 0;
        }
    }
    return (printf("\\n") < 0) ? 0 : 1;
}

static int test_itself(${prefix}_scratch *scratch)
{
    const int status = ${prefix}_selftest(scratch);
    (void)fprintf(stderr, "self-test: %s\\n", (status == ${PREFIX}_OK) ? "every bit right"
        : ((status == ${PREFIX}_INEXACT) ? "right within 1e-5, other bits" : "WRONG"));
    return status;
}

/* An action for every observation; the program's exit code. */
static int answer_all(${prefix}_scratch *scratch, int binary)
{
    static ${prefix}_obs obs[${PREFIX}_OBS_SIZE];
    static ${prefix}_action action[${PREFIX}_ACTION_SIZE];
    unsigned long row = 1UL;
    int written = 1;
    int found = (binary != 0) ? read_bytes(obs, row) : read_row(obs, row);
    while ((found > 0) && (written != 0)) {
        const int status = ${prefix}_act(obs, action, scratch);
        if (status != ${PREFIX}_OK) {
            (void)fprintf(stderr, "refused: row %lu %s\\n", row,
                (status == ${PREFIX}_BAD_OBSERVATION) ? "holds a NaN or an infinity" : "makes the network overflow");
            return 1;
        }
        written = write_action(action, binary);
        if (written != 0) {
            row++;
            found = (binary != 0) ? read_bytes(obs, row) : read_row(obs, row);
        }
    }
    if ((fflush(stdout) != 0) || (written == 0)) {
        (void)fprintf(stderr, "the actions cannot be written\\n");
        return 1;
    }
    if (ferror(stdin) != 0) {
        (void)fprintf(stderr, "the observations cannot be read\\n");
        return 1;
    }
    return (found < 0) ? 1 : 0; /* what is refused has been named */
}

int main(int argc, char **argv)
{
    static ${prefix}_scratch scratch;
    const int binary = ((argc == 2) && (argv[1][0] == '-') && (argv[1][1] == 'b') && (argv[1][2] == '\\0')) ? 1 : 0;
    if ((argc > 1) && (binary == 0)) {
        (void)fprintf(stderr, "usage: $prefix [-b] < observations > actions\\n"
            "a row of %d numbers each; -b: raw $obs_type in, raw $action_type out, and no self-test\\n",
            ${PREFIX}_OBS_SIZE);
        return 2;
    }
    if ((binary == 0) && (test_itself(&scratch) == ${PREFIX}_WRONG)) {
        return ${PREFIX}_WRONG;
    }
    return answer_all(&scratch, binary);
}
#endif
""")
