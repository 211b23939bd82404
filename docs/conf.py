"""Sphinx settings: `sphinx-build -W -b html docs docs/_build`. Nothing is fetched, so the build works offline."""

import re
from typing import Any

project = "policy-gradients"
author = "policy-gradients contributors"
copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "policy-gradients"
pygments_style = "friendly"
python_maximum_signature_line_length = 100

default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

_MARKUP_OR_SIGN = re.compile(r"(`+[^`]*`+|\*\*\w[^*]*\*\*)|(?<!\\)([*|])")
_SHORTER = {
    r"~?(jax\.)?jaxlib\._jax\.Array": "Array",
    r"~jaxtyping\.Key\[Array, ''\][^)]*'4'\]": "Key",
    r"~numpy\._typing\._array_like\._Buffer.*?_NestedSequence\[complex[^]]*\]": "ArrayLike",
    r"Array \| ~numpy\.ndarray.*?~typing\.Mapping\[~typing\.Any, ArrayTree\]": "OptState",
}
"""Types that Sphinx can only spell out, and how the source writes them."""


def _escape_signs(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In [*batch, A] and |u| reStructuredText would take the signs for markup."""
    lines[:] = [_MARKUP_OR_SIGN.sub(lambda match: match[1] or "\\" + match[2], line) for line in lines]


def _shorten_types(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """The signature with types by the names that the source has for them."""
    for long, short in _SHORTER.items():
        signature, returns = (text and re.sub(long, short, text) for text in (signature, returns))
    return signature, returns


def setup(app: Any) -> None:
    """Registers the hooks; docstrings after napoleon, which escapes the stars of `*args` itself."""
    app.connect("autodoc-process-docstring", _escape_signs, priority=600)
    app.connect("autodoc-process-signature", _shorten_types)
