"""Numbers as C writes them."""

import numpy as np

_PER_LINE = 8


def literal(value: float) -> str:
    """A float constant, exact: hexadecimal, without trailing zeros."""
    mantissa, _, exponent = float(np.float32(value)).hex().partition("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}p{exponent}F"


def array(name: str, values: np.ndarray, kind: str = "float") -> str:
    """A static constant array, in the order in which memory holds it."""
    numbers = np.asarray(values).reshape(-1).tolist()
    words = [literal(number) for number in numbers] if values.dtype.kind == "f" else list(map(str, numbers))
    lines = [", ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    body = ",\n    ".join(lines)
    return f"static const {kind} {name}[{len(words)}] ALIGNED = {{\n    {body}\n}};\n"
