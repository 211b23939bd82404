"""Joining the other processes of a run, from the command line."""

import errno
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from policy_gradients.errors import UserError

OPTIONS = {
    "--coordinator": "HOST:PORT  Where the first of several processes listens for the others; auto asks the cluster.",
    "--num-processes": "N  How many processes train together.",
    "--process-id": "I     Which of them this one is; 0 writes the run's folder.",
}
"""Options of the commands that train, and what each means."""

AUTO = "auto"

PATIENCE = 300.0
"""Seconds that a process waits for the first, as long as JAX then waits for all."""


def take(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """These options out of a command's arguments, and the others.

    Raises:
        UserError: One lacks its value.
    """
    found: dict[str, str | None] = {}
    rest = []
    tokens = iter(arguments)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name not in OPTIONS:
            rest.append(token)
            continue
        found[name] = value if equals else next(tokens, "")
        if not found[name]:
            raise UserError(f"{name}: expected one value, got none.")
    return found, rest


def join(options: Mapping[str, str | None]) -> None:
    """Joins the other processes, before anything computes; nothing without these options.

    Args:
        options: The command's, by name; those that are not in `OPTIONS` do not matter.

    Raises:
        UserError: Some are missing or wrong, or the first process cannot be reached.
    """
    given = {name: value for name in OPTIONS if (value := options.get(name)) is not None}
    if not given:
        return
    auto = given.get("--coordinator") == AUTO
    if set(given) != ({"--coordinator"} if auto else set(OPTIONS)):
        raise UserError(
            f"{', '.join(OPTIONS)} belong together, or --coordinator auto alone under SLURM, Open MPI or Kubernetes; "
            f"got {', '.join(given)}."
        )
    where = {} if auto else _address(given)
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it swallows a SIGTERM that comes before training
    if not auto:
        _meet(**where)
    try:
        # Named processes ask no cluster, which would also choose a GPU for each.
        jax.distributed.initialize(**where, cluster_detection_method=None if auto else "deactivate")
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        way_out = "name the processes with " + ", ".join(OPTIONS) if auto else "start all of them again"
        raise UserError(f"This process could not join the others ({reason}); {way_out}.") from error


def _meet(coordinator_address: str, num_processes: int, process_id: int) -> None:
    """Says for whom this process waits, and waits until the first one listens."""
    name, _, port = coordinator_address.rpartition(":")
    where = name.strip("[]"), int(port)
    if process_id == 0:
        _check_free(coordinator_address, *where)
    whom = "process 0" if process_id else "the others"
    print(f"Process {process_id} of {num_processes} waits for {whom} at {coordinator_address} …", file=sys.stderr)
    if process_id == 0:
        return
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(where, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"--coordinator: nobody listened at {coordinator_address} for {PATIENCE:.0f} s ({error}); start "
                    "the process with --process-id 0 there."
                ) from error
        time.sleep(0.2)


def _check_free(address: str, host: str, port: int) -> None:
    """Refuses what would have the first process wait for others that cannot come.

    JAX's service would share a port with another one, and ask for a name's address for minutes.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--coordinator: cannot find the address of {host!r} ({error}); give this machine's name or address."
        ) from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run do not count
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"--coordinator: cannot listen at {address} ({error.strerror}).") from error
            raise UserError(
                f"--coordinator: somebody already listens at {address}; does another process have --process-id 0?"
            ) from error


def _address(given: Mapping[str, str]) -> dict[str, Any]:
    host, _, port = given["--coordinator"].rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UserError(f"--coordinator: expected HOST:PORT or auto, got {given['--coordinator']!r}.")
    count, index = (_number(name, given[name]) for name in ("--num-processes", "--process-id"))
    if count < 1:
        raise UserError(f"--num-processes: expected 1 or more, got {count}.")
    if not 0 <= index < count:
        raise UserError(f"--process-id: expected a number from 0 to {count - 1}, got {index}.")
    return {"coordinator_address": given["--coordinator"], "num_processes": count, "process_id": index}


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name}: expected a whole number, got {text!r}.")
    return int(text)
