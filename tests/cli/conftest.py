"""Commands run inside the test's process; none may touch the user's cache or the environment of later tests."""

import pytest

from policy_gradients.cli.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # undone after the test, whatever the command set


@pytest.fixture
def run(capsys):
    """`run("envs", "CartPole")` is the exit code, standard output and standard error of that command."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    return command
