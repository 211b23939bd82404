"""The C's small functions: activations, and what they are made of. `arithmetic` does the same in NumPy."""

ACTIVATIONS = {
    "tanh": "tanh_of(x)",
    "relu": "relu_of(x)",
    "leaky_relu": "(x > 0.0F) ? x : (x * $leak)",
    "elu": "(x > 0.0F) ? x : expm1_of((x > 0.0F) ? 0.0F : x)",
    "silu": "x * (0.5F + (0.5F * tanh_of(x * 0.5F)))",
    "swish": "x * (0.5F + (0.5F * tanh_of(x * 0.5F)))",
    "gelu": "x * (0.5F + (0.5F * tanh_of(gelu_inner(clamp(x, -10.0F, 10.0F)))))",
    "softplus": "((x > 0.0F) ? x : 0.0F) + log1p_exp(tanh_of(((x > 0.0F) ? -x : x) * 0.5F))",
}
"""Each as an expression in x."""

HELPERS = {
    "is_finite": """\
static inline int is_finite(float x)
{
    return (int)(x >= -FLT_MAX) & (int)(x <= FLT_MAX);
}
""",
    "clamp": """\
static inline float clamp(float x, float low, float high)
{
    return (x < low) ? low : ((x > high) ? high : x);
}
""",
    "relu_of": """\
/* A NaN stays one, so that it is seen in the output. */
static inline float relu_of(float x)
{
    return (x > 0.0F) ? x : ((x <= 0.0F) ? 0.0F : x);
}
""",
    "tanh_of": """\
/* Rational minimax approximation, error below 4e-7; exactly 1 from $bound on. */
static inline float tanh_of(float x)
{
    const float z = clamp(x, -$bound, $bound);
    const float u = z * z;
    const float p = $p;
    const float q = $q;
    const float ratio = (z * p) / q;
    return (x >= $bound) ? 1.0F : ((x <= -$bound) ? -1.0F : ratio);
}
""",
    "expm1_of": """\
static inline float expm1_of(float x)
{
    const float t = tanh_of(x * 0.5F);
    return (2.0F * t) / (1.0F - t);
}
""",
    "gelu_inner": """\
static inline float gelu_inner(float z)
{
    return $gelu_scale * (z + ($gelu_cubic * ((z * z) * z)));
}
""",
    "log1p_exp": """\
/* log(1 + e^x) for x = 2 artanh(t) <= 0. */
static inline float log1p_exp(float t)
{
    const float e = (1.0F + t) / (1.0F - t);
    const float s = e / (2.0F + e);
    const float u = s * s;
    return (2.0F * s) * $artanh;
}
""",
    "exp_of": """\
static inline float exp_of(float x)
{
    const float t = tanh_of(x * $factor);
    float y = (1.0F + t) / (1.0F - t);
    int i;
    for (i = 0; i < $halvings; i++) {
        y = y * y;
    }
    return y;
}
""",
}
"""Small functions by name; one calls only those before it."""
