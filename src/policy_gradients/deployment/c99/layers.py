"""C functions of single layers. `arithmetic` does the same operations in the same order.

A matrix is applied row by row of its input: `y[j] += x[i] · w[i][j]`. Every output then is one sum in the order of the
inputs, so nothing has to be reassociated to let a compiler compute many outputs at a time; four rows per pass over y
keep it from being bound by loads and stores of y (8.8 µs for 376-256-256-256-17 on one Zen 4 core, where a pass per row
takes twice that, and reading the weights from the second-level cache alone takes 7.8).
"""

from string import Template

import numpy as np

from policy_gradients.deployment.c99.arithmetic import LEAK
from policy_gradients.deployment.c99.helpers import ACTIVATIONS
from policy_gradients.deployment.c99.literals import array, literal
from policy_gradients.deployment.layers import (
    LAYER_NORM_EPSILON,
    Activation,
    Clip,
    Convolution,
    Dense,
    Layer,
    LayerNorm,
    Normalize,
)

_ROWS = 4  # of the matrix, per pass over the outputs


def layer_source(index: int, layer: Layer, size: int) -> str:
    """`layer_<index>` and its constants; in place, or from x to y where the size changes.

    Args:
        index: Of the layer.
        layer: What it does.
        size: Numbers that it is given.
    """
    match layer:
        case Clip(bound):
            return _in_place(index, size, f"x[i] = clamp(x[i], -{literal(bound)}, {literal(bound)});")
        case Normalize(mean, scale, clip):
            bounded = f"clamp((x[i] - mean_{index}[i]) * scale_{index}[i], -{literal(clip)}, {literal(clip)})"
            constants = array(f"mean_{index}", mean) + array(f"scale_{index}", scale)
            return constants + _in_place(index, size, f"x[i] = {bounded};")
        case Activation(name):
            return _in_place(index, size, f"x[i] = activation_{index}(x[i]);", _activation(index, name))
        case LayerNorm():
            return _layer_norm(index, layer)
        case Dense(weight, bias):
            return _dense(index, weight, bias)
        case Convolution():
            return _convolution(index, layer)


def _in_place(index: int, size: int, statement: str, before: str = "") -> str:
    return f"""{before}\
static void layer_{index}(float *x)
{{
    int i;
    for (i = 0; i < {size}; i++) {{
        {statement}
    }}
}}
"""


def _activation(index: int, name: str) -> str:
    expression = Template(ACTIVATIONS[name]).substitute(leak=literal(LEAK))
    return f"""\
static inline float activation_{index}(float x)
{{
    return {expression};
}}
"""


def _dense(index: int, weight: np.ndarray, bias: np.ndarray) -> str:
    inputs, outputs = weight.shape
    return f"""{array(f"weight_{index}", weight)}{array(f"bias_{index}", bias)}\
static void layer_{index}(const float *RESTRICT x, float *RESTRICT y)
{{
    const float *RESTRICT w = weight_{index};
    int i;
    int j;
    for (j = 0; j < {outputs}; j++) {{
        y[j] = bias_{index}[j];
    }}
{_accumulate(inputs, outputs)}}}
"""


def _convolution(index: int, layer: Convolution) -> str:
    kernel, _, depth, filters = layer.weight.shape
    height, width, _ = layer.out_shape
    inputs = kernel * depth  # of one line of a window: neighbours in memory
    return f"""{array(f"weight_{index}", layer.weight)}{array(f"bias_{index}", layer.bias)}\
static void window_{index}(const float *RESTRICT x, const float *RESTRICT w, float *RESTRICT y)
{{
    int i;
    int j;
{_accumulate(inputs, filters)}}}

static void layer_{index}(const float *RESTRICT x, float *RESTRICT y)
{{
    int row;
    int column;
    int k;
    int j;
    for (row = 0; row < {height}; row++) {{
        for (column = 0; column < {width}; column++) {{
            float *out = &y[((row * {width}) + column) * {filters}];
            for (j = 0; j < {filters}; j++) {{
                out[j] = bias_{index}[j];
            }}
            for (k = 0; k < {kernel}; k++) {{
                const float *line = &x[((((row * {layer.stride}) + k) * {layer.width}) + (column * {layer.stride})) * {depth}];
                window_{index}(line, &weight_{index}[k * {inputs * filters}], out);
            }}
            for (j = 0; j < {filters}; j++) {{
                out[j] = relu_of(out[j]);
            }}
        }}
    }}
}}
"""  # noqa: E501, a line of C


def _accumulate(inputs: int, outputs: int) -> str:
    """y[j] += x[i] · w[i][j] for all i in turn, four at a time."""
    whole = inputs - inputs % _ROWS
    taken = "".join(f"        const float x{r} = x[i + {r}];\n" for r in range(_ROWS))
    added = "".join(f"            sum = sum + (x{r} * line[{r * outputs} + j]);\n" for r in range(_ROWS))
    text = ""
    if whole:
        text += f"""\
    for (i = 0; i < {whole}; i += {_ROWS}) {{
        const float *RESTRICT line = &w[i * {outputs}];
{taken}        for (j = 0; j < {outputs}; j++) {{
            float sum = y[j];
{added}            y[j] = sum;
        }}
    }}
"""
    if inputs % _ROWS:
        text += f"""\
    for (i = {whole}; i < {inputs}; i++) {{
        for (j = 0; j < {outputs}; j++) {{
            y[j] = y[j] + (x[i] * w[(i * {outputs}) + j]);
        }}
    }}
"""
    return text


def _layer_norm(index: int, layer: LayerNorm) -> str:
    """Returns not 0 where the squares overflow: x/∞ = 0 would hide it from the check of the outputs."""
    size = layer.scale.size
    share = literal(1 / size)
    return f"""{array(f"scale_{index}", layer.scale)}{array(f"offset_{index}", layer.offset)}\
static int layer_{index}(float *x)
{{
    float sum = 0.0F;
    float squares = 0.0F;
    float deviation;
    int i;
    for (i = 0; i < {size}; i++) {{
        sum = sum + x[i];
    }}
    for (i = 0; i < {size}; i++) {{
        x[i] = x[i] - (sum * {share});
        squares = squares + (x[i] * x[i]);
    }}
    deviation = sqrtf((squares * {share}) + {literal(LAYER_NORM_EPSILON)});
    for (i = 0; i < {size}; i++) {{
        x[i] = ((x[i] / deviation) * scale_{index}[i]) + offset_{index}[i];
    }}
    return 1 - is_finite(squares);
}}
"""
