"""Where a bundle's files lie: a folder, or one `.zip`. Reading is bounded, and nothing is ever unpacked to the disk."""

import contextlib
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from policy_gradients.errors import UserError

DESCRIPTION, WEIGHTS, GOLDEN = "policy.json", "policy.safetensors", "golden.safetensors"
NAMES = (DESCRIPTION, WEIGHTS, GOLDEN)

_MOST_DIRECTORY_BYTES = 1 << 14  # of a zip's list of files; ours takes 200
_END_RECORD, _MOST_COMMENT = 22, 1 << 16
_MOST_PACKED = 20  # how many times larger than in the zip a file may be: numbers hardly shrink, bombs a thousandfold


class Storage(NamedTuple):
    """A bundle's files.

    Attributes:
        path: The folder or the zip, for messages.
        read: The bytes of a file, by its name, of which at most so many are expected; None where it is not there.
            Raises `UserError` for more.
    """

    path: Path
    read: Callable[[str, int], bytes | None]


def open_storage(path: str | Path) -> Storage:
    """The files at a path: a bundle's folder, a run's folder that holds one as `policy`, or a zip.

    Raises:
        UserError: The zip is damaged, or holds anything but a bundle's files.
    """
    path = Path(path)
    try:
        if path.is_file():
            return _open_zip(path)
        if not (path / DESCRIPTION).is_file() and (path / "policy" / DESCRIPTION).is_file():
            path = path / "policy"
    except OSError as error:  # a name too long, a folder that may not be searched
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    return Storage(path, lambda name, most: _read_file(path / name, most))


def _read_file(path: Path, most: int) -> bytes | None:
    try:
        if not path.is_file():
            return None
        _check_size(path, path.stat().st_size, most)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _check_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise UserError(f"{path} has {size} bytes, but at most {most} were expected.")


def _open_zip(path: Path) -> Storage:
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise UserError(f"{path} is not a policy bundle: it is not a zip that can be read ({error}).") from None
    names = [info.filename for info in infos]
    if sorted(names) != sorted(NAMES):
        listed = ", ".join(repr(name[:40]) for name in names[:4])
        raise UserError(f"{path} is not a policy bundle: it should hold {', '.join(NAMES)}, not {listed or 'nothing'}.")
    for info in infos:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: {info.filename} is encrypted or packed in an unusual way; zip the bundle anew.")
        if info.file_size > _MOST_PACKED * info.compress_size + 1024:
            raise UserError(f"{path}: {info.filename} is packed suspiciously small; zip the bundle anew.")
    return Storage(path, lambda name, most: _read_member(path, name, most))


def _check_directory(path: Path) -> None:
    """Refuses a long list of files before it is read: the sizes stand at the zip's end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_RECORD - _MOST_COMMENT))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END_RECORD:
        raise ValueError("there is no end of a zip in it")
    if struct.unpack_from("<I", tail, at + 12)[0] > _MOST_DIRECTORY_BYTES:
        raise ValueError("its list of files is too long")


def _read_member(path: Path, name: str, most: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path / name, archive.getinfo(name).file_size, most)
            with archive.open(name) as member:
                data = member.read(most + 1)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: {name} is damaged ({error}).") from None
    _check_size(path / name, len(data), most)
    return data


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """One file with these in it, the same bytes for the same content; at every moment the old file or the new one.

    Raises:
        UserError: It cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
            for name, data in sorted(files.items()):
                archive.writestr(zipfile.ZipInfo(name), data)
        new.replace(path)
    except OSError as error:
        raise UserError(f"{path}: the policy bundle cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """A folder with these files at `path`, written beside it and moved there when complete.

    Other files that somebody put into the bundle before stay in it.

    Raises:
        UserError: Something else is there, or it cannot be written.
    """
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    if path.exists() and not (path / DESCRIPTION).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not a policy bundle; choose another path for the policy.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for name, data in files.items():
            with (new / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _swap(new, path, old)
        _carry_over(old, path)
    except OSError as error:
        raise UserError(f"{path}: the policy bundle cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _carry_over(old: Path, path: Path) -> None:
    """Moves what is not a bundle's own from the folder before into this one, and removes the rest of it."""
    if not old.is_dir():
        return
    for entry in old.iterdir():
        if entry.name not in NAMES:
            entry.replace(path / entry.name)
    shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    if path.exists():
        path.replace(old)
    try:
        new.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
