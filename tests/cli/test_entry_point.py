"""The entry point: commands, exit codes, and what importing costs."""

import ast
import errno
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import policy_gradients
from policy_gradients.cli import main as entry
from policy_gradients.environments.base import EnvironmentFailure
from policy_gradients.errors import UserError

ROOT = Path(__file__).parents[2]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def failing(monkeypatch, run):
    """`failing(error)` runs a command that raises."""

    def command(error: BaseException):
        def raises(arguments):
            raise error

        monkeypatch.setattr(entry, "_dispatch", raises)
        return run("train")

    return command


def test_help_lists_every_command(run):
    code, out, _ = run("--help")
    assert code == 0 and all(command in out for command in entry.COMMANDS)


def test_no_command_prints_the_help_and_fails(run):
    code, out, _ = run()
    assert code == 2 and out.startswith("usage: policy-gradients")


def test_every_command_has_help(run, capsys):
    for command in entry.COMMANDS:
        try:
            code = entry.main([command, "--help"])
        except SystemExit as leave:  # argparse's way
            code = leave.code
        assert code == 0
        assert capsys.readouterr().out.startswith(f"usage: policy-gradients {command}")


def test_an_unknown_command_is_one_sentence_with_a_suggestion_and_exit_code_2(run):
    code, out, err = run("trian", "ppo")
    assert code == 2 and out == ""
    assert err == (
        "policy-gradients: there is no command 'trian'; expected one of train, resume, evaluate, sweep, "
        "export, verify, plot, envs, benchmark. Did you mean 'train'?\n"
    )


def test_an_unknown_option_of_a_command_is_suggested(run):
    code, _, err = run("resume", "runs/x", "--total-stepz", "3")
    assert code == 2 and "resume: there is no argument '--total-stepz'. Did you mean '--total-steps'?" in err


@pytest.mark.parametrize("bad", ["none", "0", "1.5", "-3"])
def test_a_wrong_number_for_an_option_is_refused(run, bad):
    code, _, err = run("resume", "runs/x", "--total-steps", bad)
    assert code == 2 and f"expected a whole number from 1 on, got '{bad}'" in err


def test_bad_input_is_a_sentence_without_a_traceback(failing):
    code, _, err = failing(UserError("Expected this, got that."))
    assert code == 2 and err == "policy-gradients: Expected this, got that.\n"


def test_a_failed_environment_shows_its_cause_and_what_was_noted_and_exits_with_2(failing):
    failure = EnvironmentFailure("MyEnv-v0 with seed 3 raised:\nTraceback …\nZeroDivisionError: division by zero")
    failure.add_note("The last checkpoint is runs/x/checkpoints/00012.")
    code, _, err = failing(failure)
    assert code == 2
    assert "ZeroDivisionError" in err and "The last checkpoint is runs/x/checkpoints/00012." in err


def test_ctrl_c_exits_with_130(failing):
    assert failing(KeyboardInterrupt())[0] == 130


def test_a_bug_keeps_its_traceback(failing):
    for bug in (RuntimeError("a bug"), ValueError("a bug"), ZeroDivisionError("a bug")):
        with pytest.raises(type(bug), match="a bug"):
            failing(bug)


def test_a_bug_in_one_of_several_processes_ends_it_at_once_and_keeps_its_traceback(failing, monkeypatch, capsys):
    """At a regular exit JAX would wait five minutes for the others, and they for this one."""
    monkeypatch.setattr(entry, "_joined", lambda: True)
    monkeypatch.setattr(entry.os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    for failure, code in ((ZeroDivisionError("a bug"), 1), (UserError("Expected this."), 2)):
        with pytest.raises(SystemExit) as left:
            failing(failure)
        told = capsys.readouterr().err
        assert left.value.code == code and ("Traceback" in told) == (code == 1)


def test_importing_the_package_imports_nothing_heavy_and_takes_milliseconds():
    code = (
        "import sys, time; before = time.process_time(); import policy_gradients; spent = time.process_time() - before;"
        "print(spent < 0.05, sorted({'numpy', 'jax', 'yaml', 'argparse', 'gymnasium'} & set(sys.modules)))"
    )
    assert python(code) == "True []"


def test_help_imports_nothing_heavy_and_takes_milliseconds():
    code = (
        "import sys, time; from policy_gradients.cli.main import main; main(['--help']);"
        "print(time.process_time() < 0.3, sorted({'numpy', 'jax', 'yaml', 'gymnasium', 'rich'} & set(sys.modules)))"
    )
    assert python(code).endswith("True []")


def test_loading_a_policy_does_not_bring_jax():
    assert python("import sys; from policy_gradients import load_policy; print('jax' in sys.modules)") == "False"


def test_every_public_name_can_be_had():
    assert set(policy_gradients.__all__) == {*policy_gradients._HOME, "__version__"}
    for name in policy_gradients.__all__:
        assert getattr(policy_gradients, name) is not None


def test_type_checkers_see_exactly_the_names_that_there_are():
    tree = ast.parse(Path(policy_gradients.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {(alias.asname, node.module) for node in imports for alias in node.names}
    assert seen == set(policy_gradients._HOME.items())


def test_dir_lists_the_public_names():
    assert {"train", "PPOConfig", "load_policy", "__version__"} <= set(dir(policy_gradients))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        policy_gradients.trian  # noqa: B018


def test_the_version_is_the_one_that_is_released():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert policy_gradients.__version__ == project["version"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/x/.lock"),
            "cannot use runs/x/.lock: Permission denied.",
        ),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), "cannot use runs/x: Read-only file system."),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xxx"), "cannot use xxx: File name too long."),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "the system gives no more: Too many open files (ulimit -a tells ",
        ),
    ],
)
def test_what_the_system_refuses_is_a_sentence(failing, error, sentence):
    code, _, err = failing(error)
    assert code == 2 and err.startswith(f"policy-gradients: {sentence}")


def test_a_file_that_is_missing_is_a_bug_where_no_command_expects_it(failing):
    with pytest.raises(FileNotFoundError):
        failing(FileNotFoundError(errno.ENOENT, "No such file or directory", "x"))


@pytest.mark.parametrize(("platform", "reason"), [("cuda", "(nothing installed provides it)"), ("abc", "'abc'")])
def test_a_back_end_that_is_not_there_is_a_sentence(platform, reason):
    if platform == "cuda" and find_spec("jax_plugins"):
        pytest.skip("JAX knows how to start CUDA here")
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "JAX_PLATFORMS": platform}
    command = [sys.executable, "-m", "policy_gradients", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and reason in done.stderr
    assert done.stderr.startswith(f"policy-gradients: JAX cannot compute with JAX_PLATFORMS={platform} (")


def test_output_that_nobody_reads_is_no_error():
    code = (
        "import os, sys; from policy_gradients.cli import main as entry\n"
        "def broken(arguments): raise BrokenPipeError\n"
        "entry._dispatch = broken; sys.stderr.write(str(entry.main(['envs'])))"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "141")


@pytest.mark.parametrize("arguments", [["--help"], ["plot", "--help"]])
@pytest.mark.parametrize("place", ["a full disk", "a closed pipe"])
def test_output_that_cannot_be_written_is_no_traceback(arguments, place):
    """Buffered output fails at the end only, where Python would complain in its own way and exit with 120."""
    code = "import sys; from policy_gradients.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    if place == "a full disk":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    os.close(out)
    sentence = "policy-gradients: cannot write the output: No space left on device.\n"
    assert (done.returncode, done.stderr) == ((2, sentence) if place == "a full disk" else (141, ""))


@pytest.mark.parametrize("place", ["a full disk", "a closed pipe"])
def test_a_run_whose_terminal_was_closed_has_its_exit_code_though_nothing_can_be_told(place):
    """A terminal that is gone, and a `tee` that ended with it, take no more lines; nor does Python at the exit."""
    code = (
        "import sys; from policy_gradients.cli import main as entry, train; from types import SimpleNamespace\n"
        "def ends(arguments):\n"
        "    for stream in (sys.stdout, sys.stderr): stream.write('unflushed')\n"
        "    return train.report(SimpleNamespace(path='runs/x', result={'status': 'disconnected'}))\n"
        "entry._dispatch = ends; sys.exit(entry.main([]))"
    )
    if place == "a full disk":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=out, env=environment, timeout=60)
    os.close(out)
    assert done.returncode == 129


def test_no_file_gets_the_number_of_a_stream_that_was_closed(tmp_path):
    """Libraries in C log into number 2, whatever it is: a run's metrics, perhaps."""
    code = (
        "import sys; from policy_gradients.cli import main as entry\n"
        "entry._dispatch = lambda arguments: open(arguments[0], 'w').write(str(open('/dev/null').fileno()))\n"
        "entry.main(sys.argv[1:])"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    shell = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    subprocess.run(["/bin/sh", "-c", shell, sys.executable, code, tmp_path / "number"], env=environment, timeout=60)
    assert int((tmp_path / "number").read_text()) > 2


def test_the_runtime_keeps_compiled_programs_in_the_users_cache(tmp_path):
    code = (
        "import os; from policy_gradients.cli.runtime import start_jax;"
        f"os.environ['XDG_CACHE_HOME'] = {str(tmp_path)!r}; start_jax(); import jax;"
        "print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)"
    )
    assert python(code) == f"{tmp_path}/policy-gradients/jax 0.0"
    assert (tmp_path / "policy-gradients" / "jax").is_dir()


def test_the_users_own_cache_folder_wins(tmp_path, monkeypatch):
    from policy_gradients.cli.runtime import start_jax

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    start_jax()
    import os

    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    from policy_gradients.cli.runtime import compilation_cache

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compilation_cache() is None


def test_modules_in_the_working_folder_can_be_environments_but_hide_no_library(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    run("--version")
    assert sys.path[-1] == str(tmp_path)


def test_a_working_folder_that_is_gone_is_done_without(run, tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    code, out, _ = run("--version")
    assert code == 0 and out.startswith("policy-gradients ")


def test_letters_that_the_terminal_lacks_are_no_traceback():
    code = "import sys; from policy_gradients.cli.main import main; sys.exit(main(['µs']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert done.returncode == 2 and b"there is no command '?s'" in done.stderr
