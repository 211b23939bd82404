"""From a bundle to one `.c` and one `.h`: straight-line C99 with every size a constant and every weight a hex float."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from string import Template

import numpy as np

from policy_gradients.deployment.bundle import Bundle
from policy_gradients.deployment.c99 import templates
from policy_gradients.deployment.c99.arithmetic import (
    ARTANH_TERMS,
    GELU_CUBIC,
    GELU_SCALE,
    TANH_BOUND,
    TANH_P,
    TANH_Q,
    halvings_for,
)
from policy_gradients.deployment.c99.helpers import HELPERS
from policy_gradients.deployment.c99.layers import layer_source
from policy_gradients.deployment.c99.literals import array, literal
from policy_gradients.deployment.c99.reference import Answers, reference_answers
from policy_gradients.deployment.description import PolicyDescription, tensor_shapes
from policy_gradients.deployment.layers import (
    Convolution,
    Dense,
    Layer,
    LayerNorm,
    input_sizes,
    output_size,
    policy_layers,
)
from policy_gradients.deployment.numpy_network import control_constants
from policy_gradients.errors import UserError

_DIGITS = 16  # of the description's SHA-256: 64 bits, against mistakes and not against attackers
_GOLDEN_NUMBERS = 32_768
"""Most numbers of observations that the self-test carries, unless that would be fewer than 4 rows."""


def c_source(bundle: Bundle, prefix: str = "policy") -> dict[str, str]:
    """The policy as C: file name to text, `<prefix>.h` and `<prefix>.c`.

    Args:
        bundle: What to export.
        prefix: Of the files and of every public name.

    Raises:
        UserError: `prefix` is not a C identifier, or the bundle's golden answers are not what the C would answer.
    """
    if re.fullmatch(r"[a-z][a-z0-9_]{0,30}", prefix) is None:
        raise UserError(f"The C files' name has to be a lower-case identifier such as my_policy, not {prefix!r}.")
    description, layers = bundle.description, policy_layers(bundle.description, bundle.tensors)
    rows = min(len(bundle.golden["obs"]), max(4, _GOLDEN_NUMBERS // math.prod(description.observation.shape)))
    obs = bundle.golden["obs"][:rows].reshape(rows, -1)
    answers = reference_answers(bundle, obs)
    _check_answers(bundle, answers, rows)
    sizes = input_sizes(layers, math.prod(description.observation.shape))
    names = _names(description, layers, prefix, rows)
    parts = [
        *(layer_source(i, layer, size) for i, (layer, size) in enumerate(zip(layers, sizes, strict=True))),
        templates.LOAD.substitute(names),
        _describe(bundle),
        _control(description),
        _draw(bundle),
        _golden(obs, answers, names),
        templates.WORSE.substitute(names),
        templates.PUBLIC.substitute(names),
        templates.PUSH.substitute(names) if description.observation.frames > 1 else "",
        templates.MAIN.substitute(names),
    ]
    body = _with_helpers("\n".join(part for part in parts if part), description)
    header = re.sub(r"\n{3,}", "\n\n", templates.HEADER.substitute(names))
    return {f"{prefix}.h": header, f"{prefix}.c": f"{templates.PREAMBLE.substitute(names)}\n{body}"}


def scratch_size(description: PolicyDescription) -> int:
    """How many floats the C's scratch memory holds."""
    shapes = tensor_shapes(description)
    layers = policy_layers(description, {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()})
    a, b, _, _ = _calls(layers, math.prod(description.observation.shape))
    return a + b + output_size(description)


def identity(description: PolicyDescription) -> str:
    """What `<prefix>_identity` returns: the sizes that a caller's memory has to have, and a hash of the description.

    The description holds no hash of the weights; of two policies that were trained alike, its provenance (seed, steps,
    mean reward) tells one from the other.
    """
    observation, action = description.observation, description.action
    inputs = f"{math.prod(observation.shape)} {observation.dtype}"
    outputs = f"1 of {action.n}" if action.kind == "discrete" else f"{math.prod(action.shape)} float32"
    document = json.dumps(dataclasses.asdict(description), sort_keys=True, default=str)
    digest = hashlib.sha256(document.encode()).hexdigest()[:_DIGITS]
    return f"{inputs} in, {outputs} out, scratch {scratch_size(description)}, description {digest}"


def _check_answers(bundle: Bundle, answers: Answers, rows: int) -> None:
    """Against the NumPy runtime's answers, so that no wrong policy leaves."""
    golden = bundle.golden
    parts = ("logits",) if "logits" in golden else ("mean", "log_std")
    expected = np.concatenate([golden[name][:rows] for name in parts], axis=-1)
    error = np.abs(answers.distribution - expected).max(axis=-1)
    if not (error <= 10 * answers.tolerance).all():
        raise UserError(
            f"The C would answer {error.max():.2g} away from the bundle's golden vectors; export the policy again."
        )


def _names(description: PolicyDescription, layers: Sequence[Layer], prefix: str, rows: int) -> dict[str, object]:
    """What the templates ask for."""
    observation, action = description.observation, description.action
    size = math.prod(observation.shape)
    buffer_a, buffer_b, last, calls = _calls(layers, size)
    castable, of_range = "is_finite(number) != 0", ", all of them finite"
    if observation.dtype == "uint8":
        castable, of_range = "(number >= 0.0F) && (number <= 255.0F)", " from 0 to 255"
    frame = observation.shape[-1] // observation.frames if observation.shape else 1
    return {
        "title": _title(description),
        "prefix": prefix,
        "PREFIX": prefix.upper(),
        "prefix_selftest": f"{prefix}_selftest",
        "identity": f'"{identity(description)}"',
        "null": "NULL",
        "sizes": _sizes(description, prefix.upper(), rows),
        "obs_type": "unsigned char" if observation.dtype == "uint8" else "float",
        "action_type": "int" if action.kind == "discrete" else "float",
        "castable": castable,
        "of_range": of_range,
        "in_units": "" if action.kind == "discrete" else "; within the simulator's bounds",
        "noise": "standard Gumbel" if action.kind == "discrete" else "standard normal",
        "distribution": "the logits" if action.kind == "discrete" else "means, then log sigma, before the action map",
        "math_include": "#include <math.h>\n" if any(isinstance(layer, LayerNorm) for layer in layers) else "",
        "buffer_a": buffer_a,
        "buffer_b": buffer_b,
        "last": last,
        "calls": calls,
        "head_size": _head(layers).bias.size,
        "size": size,
        "rows": math.prod(observation.shape[:-1]),
        "width": observation.shape[-1] if observation.shape else 1,
        "frame": frame,
        "older": (observation.shape[-1] if observation.shape else 1) - frame,
        "push_declaration": templates.PUSH_DECLARATION.substitute(prefix=prefix) if observation.frames > 1 else "",
    }  # fmt: skip


def _title(description: PolicyDescription) -> str:
    origin = description.provenance
    words = [f"Policy for {description.environment.id}"]
    if origin.get("algorithm"):
        words.append(f"trained by {origin['algorithm']}")
    if origin.get("total_timesteps"):
        words.append(f"{origin['total_timesteps']} steps")
    if origin.get("config_hash"):
        words.append(f"configuration {origin['config_hash']}")
    return re.sub(r"[^ -~]|\*/|/\*|\\|\?\?", "_", ", ".join(map(str, words)))[:200]  # it stands in a comment


def _sizes(description: PolicyDescription, prefix: str, rows: int) -> str:
    action, observation = description.action, description.observation
    size = action.n if action.kind == "discrete" else math.prod(action.shape)
    lines = [
        f"#define {prefix}_OBS_SIZE {math.prod(observation.shape)}",
        f"#define {prefix}_ACTION_SIZE {1 if action.kind == 'discrete' else size}",
        f"#define {prefix}_NOISE_SIZE {size}",
        f"#define {prefix}_DISTRIBUTION_SIZE {size if action.kind == 'discrete' else 2 * size}",
        f"#define {prefix}_GOLDEN_ROWS {rows}",
    ]
    if observation.frames > 1:
        lines.append(f"#define {prefix}_FRAMES {observation.frames}")
    if description.environment.dt is not None:
        lines.append(f"#define {prefix}_SECONDS_PER_ACTION {description.environment.dt!r}")
    return "\n".join(lines)


def _calls(layers: Sequence[Layer], size: int) -> tuple[int, int, str, str]:
    """Sizes of the two buffers, the one that the head writes, and the calls of all layers in turn."""
    sizes, here, there, lines = {"a": size, "b": 1}, "a", "b", []
    results = [*input_sizes(layers, size)[1:], _head(layers).bias.size]
    for i, (layer, out) in enumerate(zip(layers, results, strict=True)):
        if isinstance(layer, Dense | Convolution):
            lines.append(f"    layer_{i}({here}, {there});")
            sizes[there] = max(sizes[there], out)
            here, there = there, here
        elif isinstance(layer, LayerNorm):
            lines.append(f"    refused |= layer_{i}({here});")
        else:
            lines.append(f"    layer_{i}({here});")
    return sizes["a"], sizes["b"], here, "\n".join(lines)


def _head(layers: Sequence[Layer]) -> Dense:
    head = layers[-1]
    assert isinstance(head, Dense)
    return head


def _with_helpers(body: str, description: PolicyDescription) -> str:
    """The body behind those small functions that it calls, and those that they call."""
    halvings = halvings_for(max(map(abs, description.network.log_std_range)))
    numbers = {
        "bound": literal(TANH_BOUND),
        "p": _horner(TANH_P),
        "q": _horner(TANH_Q),
        "gelu_scale": literal(GELU_SCALE),
        "gelu_cubic": literal(GELU_CUBIC),
        "artanh": _horner(ARTANH_TERMS),
        "factor": literal(0.5 / 2**halvings),
        "halvings": halvings,
    }
    for name, text in reversed(HELPERS.items()):
        if f"{name}(" in body:
            body = f"{Template(text).substitute(numbers)}\n{body}"
    return body


def _horner(coefficients: Sequence[float]) -> str:
    """The polynomial in u, nested from the highest power down."""
    text = literal(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        text = f"(({text} * u) + {literal(coefficient)})"
    return text


def _describe(bundle: Bundle) -> str:
    """From the head's outputs to the distribution's parameters."""
    description, network = bundle.description, bundle.description.network
    size = description.action.n if description.action.kind == "discrete" else math.prod(description.action.shape)
    before, second = "", ""
    if network.distribution != "categorical":
        low, high = map(literal, network.log_std_range)
        if network.state_dependent_std:
            log_std = f"clamp(x[{size} + i] + {literal(network.log_std_init)}, {low}, {high})"
        else:
            before = array("log_std", np.clip(bundle.tensors["log_std"], *network.log_std_range))
            log_std = "log_std[i]"
        second = f"\n        distribution[{size} + i] = {log_std};"
    return f"""{before}\
static void describe(const float *RESTRICT x, float *RESTRICT distribution)
{{
    int i;
    for (i = 0; i < {size}; i++) {{
        distribution[i] = x[i];{second}
    }}
}}
"""


def _control(description: PolicyDescription) -> str:
    """From what is drawn, or most likely, to the simulator's action."""
    action = description.action
    if action.kind == "discrete":
        return f"""\
static void control(const float *logits, int *action)
{{
    int best = 0;
    int i;
    for (i = 1; i < {action.n}; i++) {{
        if (logits[i] > logits[best]) {{
            best = i;
        }}
    }}
    *action = best + ({action.start});
}}
"""
    low, high, half, centre = control_constants(action)
    arrays = array("low", low) + array("high", high)
    mapped = "u[i]"
    if action.map != "none":
        arrays += array("half", half) + array("centre", centre)
        mapped = f"({'tanh_of(u[i])' if action.map == 'tanh' else 'u[i]'} * half[i]) + centre[i]"
    return f"""{arrays}\
static void control(const float *RESTRICT u, float *RESTRICT action)
{{
    int i;
    for (i = 0; i < {low.size}; i++) {{
        action[i] = clamp({mapped}, low[i], high[i]);
    }}
}}
"""


def _draw(bundle: Bundle) -> str:
    """Adds the noise, in place of the most likely value."""
    action, network = bundle.description.action, bundle.description.network
    size, before, noise = action.n or math.prod(action.shape), "", "noise[i]"
    if action.kind == "box":
        std = f"exp_of(distribution[{size} + i])"
        if not network.state_dependent_std:
            before = array("sigma", np.exp(np.clip(bundle.tensors["log_std"], *network.log_std_range)))
            std = "sigma[i]"
        noise = f"({std} * noise[i])"
    return f"""{before}\
static void draw(float *distribution, const float *noise)
{{
    int i;
    for (i = 0; i < {size}; i++) {{
        distribution[i] = distribution[i] + {noise};
    }}
}}
"""


def _golden(obs: np.ndarray, answers: Answers, names: dict[str, object]) -> str:
    prefix = str(names["prefix"])
    return (
        array("known_observations", obs, f"{prefix}_obs")
        + array("known_distributions", answers.distribution)
        + array("known_actions", answers.action, f"{prefix}_action")
        + array("known_tolerances", answers.tolerance)
    )
