"""Several files that belong together, replaced together."""

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes all files or none: beside their places first, and moved there when the last one is complete.

    Raises:
        OSError: They cannot be written; what was there before is there still.
    """
    new, old = (
        {path: path.with_name(f".{path.name}.{os.getpid()}.{kind}") for path in files} for kind in ("new", "old")
    )
    try:
        for path, data in files.items():
            with new[path].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _swap(new, old)
    finally:
        _remove(new.values())


def _swap(new: Mapping[Path, Path], old: Mapping[Path, Path]) -> None:
    """Moves every new file to its place; where one cannot be moved, those before it are taken back."""
    done = []
    try:
        for path in new:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if path.exists():
                path.replace(old[path])
            done.append(path)
            new[path].replace(path)
    except OSError:
        for path in done:
            path.unlink(missing_ok=True)
            if old[path].exists():
                old[path].replace(path)
        raise
    _remove(old.values())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
