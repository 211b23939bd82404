"""The generated C: every bit as the NumPy arithmetic says, silent compilers, and what it refuses."""

import ctypes
import resource
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.deployment.c99 import CPolicy, arithmetic, build, c_source, compile_c, load_c_policy, write_c
from policy_gradients.deployment.c99.literals import literal
from policy_gradients.deployment.c99.reference import reference_answers
from policy_gradients.environments.base import box
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig

Agent: TypeAlias = Any  # of conftest.py
Make: TypeAlias = Callable[..., Agent]
PIXELS = box(0, 255, (44, 40, 3), np.uint8)
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror", "-O1"]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less optimisation: the bits are the same, and compiling takes half the time."""
    monkeypatch.setattr(build, "FLAGS", ("-std=c99", "-O1", "-ffp-contract=off"))


def observations(agent: Agent, count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    if agent.spec.obs_space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *agent.spec.obs_space.shape), np.uint8)
    return (3 + 30 * rng.standard_normal((count, *agent.spec.obs_space.shape))).astype(np.float32)


def assert_exact(agent: Agent, folder: Path, count: int = 200) -> None:
    """C gives the predicted bits, and agrees with the NumPy runtime."""
    path = agent.write(folder)
    policy, numpy_policy, bundle = load_c_policy(path), load_policy(path), read_bundle(path)
    obs = observations(agent, count)
    expected = reference_answers(bundle, obs.reshape(count, -1))
    found = policy(obs)
    assert policy.exact
    np.testing.assert_array_equal(found.reshape(count, -1), expected.action)
    np.testing.assert_array_equal(np.concatenate(list(policy.distribution(obs).values()), -1), expected.distribution)
    np.testing.assert_allclose(found, numpy_policy(obs), rtol=0, atol=1e-5)
    assert found.dtype == numpy_policy(obs).dtype


@pytest.mark.parametrize(
    ("distribution", "action_map"),
    [("normal", "clip"), ("normal", "none"), ("tanh_normal", "tanh"), ("categorical", "")],
)
def test_c_gives_every_predicted_bit(make_agent: Make, distribution: str, action_map: str, tmp_path: Path) -> None:
    network = NetworkConfig(hidden=(9, 7), distribution=distribution)  # type: ignore[arg-type]
    assert_exact(make_agent(network, None, distribution == "categorical", action_map), tmp_path / "policy")


@pytest.mark.parametrize("activation", ["relu", "elu", "gelu", "silu", "leaky_relu", "softplus"])
def test_every_activation_is_exact(make_agent: Make, activation: str, tmp_path: Path) -> None:
    assert_exact(make_agent(NetworkConfig(hidden=(7,), activation=activation)), tmp_path / "policy")  # type: ignore[arg-type]


def test_a_cnn_is_exact(make_agent: Make, tmp_path: Path) -> None:
    assert_exact(make_agent(NetworkConfig(hidden=(8,)), PIXELS, discrete=True), tmp_path / "policy", 20)


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_pixels_flattened_into_a_perceptron_are_exact(
    make_agent: Make, hidden: tuple[int, ...], tmp_path: Path
) -> None:
    agent = make_agent(NetworkConfig(hidden=hidden), box(0, 255, (7, 7, 3), np.uint8))
    assert_exact(agent, tmp_path / "policy", 20)


def test_float_images_are_exact(make_agent: Make, tmp_path: Path) -> None:
    assert_exact(make_agent(NetworkConfig(hidden=(4,)), box(-1, 1, (12, 10, 3))), tmp_path / "policy", 20)


def test_layer_norm_and_a_state_dependent_std_are_exact(make_agent: Make, tmp_path: Path) -> None:
    network = NetworkConfig(
        hidden=(8, 6), layer_norm=True, shared_torso=True, state_dependent_std=True, log_std_range=(-0.6, 0.2)
    )
    assert_exact(make_agent(network, action_map="clip"), tmp_path / "policy")


@pytest.mark.parametrize("name", sorted(arithmetic.ACTIVATIONS))
def test_activations_are_those_of_the_numpy_runtime(name: str) -> None:
    from policy_gradients.deployment.numpy_network import ACTIVATIONS

    x = np.concatenate([np.linspace(-30, 30, 20_001), [-1e4, 1e4, 0, 1e-30, 3e38, -3e38]]).astype(np.float32)
    expected = ACTIVATIONS[name](x.copy())
    np.testing.assert_allclose(arithmetic.ACTIVATIONS[name](x), expected, rtol=1e-6, atol=5e-6)


def test_tanh_is_accurate_to_four_parts_in_ten_million() -> None:
    x = np.linspace(-12, 12, 200_001).astype(np.float32)
    exact = np.tanh(x.astype(np.float64))
    found = arithmetic.tanh(x)
    assert np.abs(found - exact).max() < 4e-7
    assert (found[np.abs(x) >= 9] == np.sign(x[np.abs(x) >= 9])).all()
    assert np.isnan(arithmetic.tanh(np.float32([np.nan]))).all()


@pytest.mark.parametrize("bound", [2.0, 5.0, 100.0])
def test_exp_is_accurate_over_its_range(bound: float) -> None:
    x = np.linspace(-min(bound, 80), min(bound, 80), 10_001).astype(np.float32)
    found = arithmetic.exp(x, arithmetic.halvings_for(bound))
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=6e-7 * max(1.0, bound))


def test_literals_hold_every_bit() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 1 << 32, 2000, np.uint32).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    for number in (*numbers, np.float32(0), np.float32(-0.0), np.float32(1e-45)):
        text = literal(number)
        assert text[-1] == "F" and np.float32(float.fromhex(text[:-1])).tobytes() == np.float32(number).tobytes()


@pytest.mark.parametrize(
    "compiler", ["gcc -std=c99", "clang -std=c99", "g++ -x c++ -std=c++17", "clang++ -x c++ -std=c++17"]
)
@pytest.mark.parametrize("kind", ["box", "discrete", "pixels"])
def test_compilers_say_nothing(make_agent: Make, compiler: str, kind: str, tmp_path: Path) -> None:
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"{compiler} is not installed")
    if kind == "pixels":
        agent = make_agent(NetworkConfig(hidden=()), box(0, 255, (36, 36, 2), np.uint8), discrete=True)
        agent = agent._replace(spec=replace(agent.spec, frames=2))
    else:
        network = NetworkConfig(
            hidden=(6,), layer_norm=kind == "box", state_dependent_std=kind == "box", activation="gelu"
        )
        agent = make_agent(network, discrete=kind == "discrete", action_map="tanh")
    source = write_c(read_bundle(agent.write(tmp_path / "policy")), tmp_path, "walker")[1]
    for main in ([], ["-DWALKER_MAIN"]):
        done = subprocess.run(
            [*compiler.split(), *STRICT, *main, "-c", str(source), "-o", str(tmp_path / "x.o")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_the_same_policy_gives_the_same_source(toy_bundle: Path) -> None:
    assert c_source(read_bundle(toy_bundle)) == c_source(read_bundle(toy_bundle))


def test_the_source_uses_no_heap_and_no_global_state(toy_bundle: Path) -> None:
    text = c_source(read_bundle(toy_bundle))["policy.c"].partition("#ifdef POLICY_MAIN")[0]
    assert "malloc" not in text and "free(" not in text and "stdlib" not in text and "math.h" not in text
    for line in text.splitlines():
        assert not line.startswith("static") or line.startswith(("static const", "static inline")) or "(" in line


@pytest.fixture
def c_policy(toy_bundle: Path) -> CPolicy:
    return load_c_policy(toy_bundle, seed=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_non_finite_observation_is_refused(c_policy: CPolicy, value: float) -> None:
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            obs = np.array([0, 0, value, 0, 0], dtype)
        with pytest.raises(UserError, match="NaN or an infinity"):
            c_policy(obs)
        with pytest.raises(UserError, match="NaN or an infinity"):
            c_policy(obs[None], deterministic=False)
        with pytest.raises(UserError, match="NaN or an infinity"):
            c_policy.distribution(obs)


def test_an_ill_shaped_observation_is_refused(c_policy: CPolicy) -> None:
    with pytest.raises(UserError, match=r"shape \(5,\)"):
        c_policy(np.zeros(6, np.float32))


def test_a_refused_observation_leaves_the_action_as_it_was(toy_bundle: Path, tmp_path: Path) -> None:
    source = write_c(read_bundle(toy_bundle), tmp_path / "c")[1]
    library = ctypes.CDLL(str(compile_c(source, tmp_path / "policy.so")))
    obs, action, scratch = (
        (ctypes.c_float * 5)(*[float("nan")] * 5),
        (ctypes.c_float * 3)(7, 7, 7),
        (ctypes.c_float * 999)(),
    )
    assert library.policy_act(obs, action, scratch) == 1
    assert library.policy_act(None, action, scratch) == 3
    assert library.policy_act(obs, None, scratch) == 3
    assert library.policy_act(obs, action, None) == 3
    noise = (ctypes.c_float * 3)(0, float("inf"), 0)
    assert library.policy_sample((ctypes.c_float * 5)(), noise, action, scratch) == 1
    assert list(action) == [7, 7, 7]


def test_an_output_that_overflows_is_refused(make_agent: Make, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp

    agent = make_agent(NetworkConfig(hidden=(4,), activation="relu"), obs_clip=3e38)
    agent = agent._replace(params=jax.tree.map(lambda leaf: 100 * jnp.abs(leaf), agent.params))
    policy = load_c_policy(agent.write(tmp_path / "policy"))
    with pytest.raises(UserError, match="output is not finite"):
        policy(np.full(5, 3e38, np.float32))


@pytest.mark.parametrize(
    ("network", "size"),
    [({"hidden": (2, 2), "activation": "relu"}, 3e38), ({"hidden": (4,), "layer_norm": True}, 1e25)],
)
def test_an_overflow_that_a_later_layer_would_hide_is_refused(
    make_agent: Make, network: dict[str, Any], size: float, tmp_path: Path
) -> None:
    import jax

    agent = make_agent(NetworkConfig(**network), obs_clip=3e38)
    agent = agent._replace(params=jax.tree.map(lambda leaf: 10 * leaf, agent.params))
    policy = load_c_policy(agent.write(tmp_path / "policy"))
    with pytest.raises(UserError, match="output is not finite"):
        policy(np.full(5, size, np.float32))


def test_draws_are_those_of_the_numpy_runtime(toy_bundle: Path, c_policy: CPolicy) -> None:
    obs = np.zeros(5)
    drawn = c_policy(obs, deterministic=False, rng=np.random.default_rng(1))
    expected = load_policy(toy_bundle)(obs, deterministic=False, rng=np.random.default_rng(1))
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    assert (drawn != c_policy(obs)).any()


def test_discrete_draws_follow_the_probabilities(make_agent: Make, tmp_path: Path) -> None:
    policy = load_c_policy(make_agent(NetworkConfig(hidden=(4,)), discrete=True).write(tmp_path / "policy"), seed=0)
    obs = np.full(5, 3.0, np.float32)
    draws = policy(np.tile(obs, (20_000, 1)), deterministic=False)
    logits = policy.distribution(obs)["logits"]
    np.testing.assert_allclose(
        np.bincount(draws + 1, minlength=4) / 20_000, np.exp(logits) / np.exp(logits).sum(), atol=0.02
    )


def test_threads_may_act_with_one_c_policy(c_policy: CPolicy) -> None:
    obs = np.random.default_rng(0).standard_normal((400, 5))
    expected = [c_policy(row) for row in obs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(c_policy, obs, chunksize=7))
        assert pool.submit(lambda: c_policy._memory.scratch_at).result() != c_policy._memory.scratch_at
    np.testing.assert_array_equal(found, expected)


def test_the_self_test_finds_contracted_arithmetic_and_wrong_answers(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle)
    source = write_c(bundle, tmp_path / "c")[1]
    text = source.read_text()
    source.write_text(text.replace("sum = sum + (x1", "sum = (sum * 1.0000001F) + (x1"))
    assert not CPolicy(compile_c(source, tmp_path / "inexact.so"), bundle.description).exact
    source.write_text(text.replace("sum = sum + (x1", "sum = sum - (x1"))
    with pytest.raises(UserError, match="self-test fails"):
        CPolicy(compile_c(source, tmp_path / "wrong.so"), bundle.description)


def compile_bundle(path: Path, folder: Path) -> Path:
    return compile_c(write_c(read_bundle(path), folder)[1], folder / "policy.so")


def test_a_library_with_other_sizes_is_refused_before_memory_is_made_for_it(
    make_agent: Make, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_agent(NetworkConfig(hidden=(9,)), box(-np.inf, np.inf, (17,))).write(tmp_path / "other")
    library = compile_bundle(other, tmp_path / "c")
    monkeypatch.setattr(build, "_Memory", lambda *_: pytest.fail("memory was made"))
    with pytest.raises(UserError, match=r"expected 5 float32 in, 3 float32 out.*not 17 float32 in.*compile the policy"):
        CPolicy(library, read_bundle(toy_bundle).description)


def test_a_library_compiled_before_the_policy_was_trained_again_is_refused(toy: Agent, tmp_path: Path) -> None:
    library = compile_bundle(toy.write(tmp_path / "policy", total_timesteps=1000), tmp_path / "c")
    same, again = tmp_path / "policy", toy.write(tmp_path / "again", total_timesteps=2000)
    assert CPolicy(library, read_bundle(same).description).exact
    with pytest.raises(UserError, match="is not the policy of this description"):
        CPolicy(library, read_bundle(again).description)


def test_a_library_that_does_not_say_which_policy_it_is_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle)
    for path in write_c(bundle, tmp_path / "c"):
        path.write_text(path.read_text().replace("policy_identity", "policy_else"))
    library = compile_c(tmp_path / "c" / "policy.c", tmp_path / "policy.so")
    with pytest.raises(UserError, match=r"policy\.so does not say which policy it is.*compile it again"):
        CPolicy(library, bundle.description)


def test_what_is_no_policy_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.so").write_text("not a library")
    with pytest.raises(UserError, match="is not a policy compiled from C"):
        CPolicy(tmp_path / "policy.so", read_bundle(toy_bundle).description)


def test_a_full_disk_leaves_the_files_of_the_export_before(make_agent: Make, toy_bundle: Path, tmp_path: Path) -> None:
    header, source = write_c(read_bundle(toy_bundle), tmp_path / "c")
    before = header.read_bytes(), source.read_bytes()
    larger = read_bundle(make_agent(NetworkConfig(hidden=(16, 16))).write(tmp_path / "larger"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[0]) + 1000, limits[1]))
    try:
        with pytest.raises(UserError, match="the C files cannot be written"):
            write_c(larger, tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (header.read_bytes(), source.read_bytes()) == before
    assert sorted((tmp_path / "c").iterdir()) == [source, header]


def test_both_files_of_an_export_are_replaced_or_none(make_agent: Make, toy_bundle: Path, tmp_path: Path) -> None:
    header, source = write_c(read_bundle(toy_bundle), tmp_path / "c")
    before = header.read_bytes()
    source.unlink()
    source.mkdir()
    larger = read_bundle(make_agent(NetworkConfig(hidden=(16, 16))).write(tmp_path / "larger"))
    with pytest.raises(UserError, match="the C files cannot be written"):
        write_c(larger, tmp_path / "c")
    assert header.read_bytes() == before
    assert sorted((tmp_path / "c").iterdir()) == [source, header]
    source.rmdir()
    assert [path.read_text() for path in write_c(larger, tmp_path / "c")] == list(c_source(larger).values())
    assert sorted((tmp_path / "c").iterdir()) == [source, header]


def test_fast_math_does_not_compile(toy_bundle: Path, tmp_path: Path) -> None:
    source = write_c(read_bundle(toy_bundle), tmp_path / "c")[1]
    with pytest.raises(UserError, match=r"cannot compile policy\.c"):
        compile_c(source, tmp_path / "policy.so", flags=("-std=c99", "-ffast-math"))


def test_the_program_answers_in_words_and_in_bytes(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle)
    program = compile_c(write_c(bundle, tmp_path / "c")[1], tmp_path / "program", main="policy")
    rows, expected = bundle.golden["obs"][10:12], load_policy(toy_bundle)(bundle.golden["obs"][10:12])
    words = "\n".join(" ".join(map(str, row)) for row in rows)
    said = subprocess.run([program], input=words, capture_output=True, text=True, check=True)
    assert said.stderr == "self-test: every bit right\n"
    np.testing.assert_allclose(
        [list(map(float, line.split())) for line in said.stdout.splitlines()], expected, atol=1e-5
    )
    raw = subprocess.run([program, "-b"], input=rows.tobytes(), capture_output=True, check=True)
    np.testing.assert_allclose(np.frombuffer(raw.stdout, np.float32).reshape(2, 3), expected, atol=1e-5)
    for bad in ("1 2 nan 4 5", "1 2 three 4 5", words + "\n1 2"):
        refused = subprocess.run([program], input=bad, capture_output=True, text=True, check=False)
        assert refused.returncode == 1 and len(refused.stdout.splitlines()) == (2 if bad.startswith(words) else 0)
        assert refused.stderr.endswith("an observation is 5 numbers, all of them finite\n")
    for bad, sentence in ((-1, b"row 2 has 19 bytes"), (-18, b"row 2 has 2 bytes")):
        cut = subprocess.run([program, "-b"], input=rows.tobytes()[:bad], capture_output=True, check=False)
        assert cut.returncode == 1 and cut.stderr == b"refused: " + sentence + b"; an observation is 20 bytes\n"


@pytest.fixture(scope="module")
def program(toy: Agent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    source = write_c(read_bundle(toy.write(folder / "policy")), folder)[1]
    return compile_c(source, folder / "program", flags=("-std=c99", "-O1", "-ffp-contract=off"), main="policy")


def answers(program: Path, rows: str) -> tuple[int, int, str]:
    """The program's exit code, how many actions it wrote, and the last line of what else it said."""
    done = subprocess.run([program], input=rows.encode(), capture_output=True, check=False)
    return done.returncode, len(done.stdout.splitlines()), done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize(
    ("rows", "actions", "said"),
    [
        ("1 2 3 4\n1 2 3 4\n1 2\n", 0, "row 1 has 4 numbers"),
        ("1 2 3 4 5\n\n1 2 3 4 5 6\n", 1, "row 2 has 6 numbers"),
        ("1 2 3 4 5 1 2 3 4 5\n", 0, "row 1 has 10 numbers"),
        ("1 2 3 4 5\n1 2 3 4 5\n7", 2, "row 3 has 1 numbers"),
        ("1 2 3 4 5\n1 2 inf 4 5\n", 1, "number 3 of row 2 does not fit"),
        ("1 2 3 4 five\n", 0, "number 5 of row 1 does not fit"),
        ("1,2,3,4,5\n", 0, "number 1 of row 1 does not fit"),
        ("1 2 3 4-5 6\n", 0, "number 4 of row 1 does not fit"),
        ("1 2 3 4 " + "5" * 500 + "\n", 0, "number 5 of row 1 does not fit"),
        ("1 2 3 4 5e\n", 0, "number 5 of row 1 does not fit"),
    ],
)
def test_a_row_that_is_no_observation_is_refused_by_its_number(
    program: Path, rows: str, actions: int, said: str
) -> None:
    expected = f"refused: {said}; an observation is 5 numbers, all of them finite"
    assert answers(program, rows) == (1, actions, expected)


@pytest.mark.parametrize(
    ("rows", "actions"),
    [
        ("", 0),
        ("\n \n\r\n", 0),
        ("1 2 3 4 5", 1),
        ("1 2 3 4 5\r\n1 2 3 4 5\r\n", 2),
        ("\n\t1\t2  3 4 5 \n\n \n1e0 0x2 +3 4. .5\n\n", 2),
    ],
)
def test_a_row_ends_with_its_line(program: Path, rows: str, actions: int) -> None:
    assert answers(program, rows) == (0, actions, "self-test: every bit right")


def test_a_row_is_answered_as_its_numbers_are(program: Path) -> None:
    asked = [b"1 2 3 4 5\n-1 0 1 2 3\n", b"\r\n1\t2 3 4 5\r\n\r\n -1 0 1 2 3"]
    plain, odd = (subprocess.run([program], input=rows, capture_output=True, check=True).stdout for rows in asked)
    assert plain == odd and len(set(plain.splitlines())) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [[], ["-b"]])
def test_actions_that_cannot_be_written_are_an_error(program: Path, arguments: list[str]) -> None:
    rows = np.ones(5, np.float32).tobytes() if arguments else b"1 2 3 4 5\n"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([program, *arguments], input=rows, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, b"the actions cannot be written")


@pytest.mark.parametrize("arguments", [[], ["-b"]])
def test_observations_that_cannot_be_read_are_an_error(program: Path, arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        f"'{program}' {' '.join(arguments)} < '{tmp_path}'", shell=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, b"the observations cannot be read")


@pytest.mark.parametrize("arguments", [["--foo"], ["-bb"], ["-"], [""], ["-b", "-b"], ["-b", "rows.txt"]])
def test_an_unknown_argument_is_answered_with_the_usage(program: Path, arguments: list[str]) -> None:
    done = subprocess.run([program, *arguments], input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"") and done.stderr.startswith(b"usage: policy [-b]")


def test_frames_are_pushed_as_the_environment_stacks_them(make_agent: Make, tmp_path: Path) -> None:
    from policy_gradients.deployment.acting import FrameStack

    agent = make_agent(NetworkConfig(hidden=(4,)), box(-np.inf, np.inf, (6,)))
    agent = agent._replace(spec=replace(agent.spec, frames=3, obs_names=()))
    bundle = read_bundle(agent.write(tmp_path / "policy"))
    library = ctypes.CDLL(str(compile_c(write_c(bundle, tmp_path / "c")[1], tmp_path / "policy.so")))
    stack, stacked = FrameStack(bundle.description), (ctypes.c_float * 6)()
    for i, first in enumerate((True, False, False, True, False)):
        frame = np.float32([i, 10 + i])
        library.policy_push(stacked, (ctypes.c_float * 2)(*frame), int(first))
        expected = stack.reset(frame) if first else stack.push(frame)
        np.testing.assert_array_equal(list(stacked), expected)
    np.testing.assert_array_equal(expected, [3, 13, 3, 13, 4, 14])


def test_a_missing_compiler_is_named(toy_bundle: Path) -> None:
    with pytest.raises(UserError, match="none of nocc is installed"):
        load_c_policy(toy_bundle, compiler="nocc")


@pytest.mark.parametrize("name", ["", "Policy", "1st", "a b", "a-b", "é", "x" * 40])
def test_a_name_that_is_no_identifier_is_refused(toy_bundle: Path, name: str) -> None:
    with pytest.raises(UserError, match="lower-case identifier"):
        c_source(read_bundle(toy_bundle), name)


def test_text_from_the_bundle_stays_in_its_comment(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,)))
    spec = replace(agent.spec, id='x*/ int evil; /* \n#include "/etc/passwd" ??/')
    header, text = c_source(read_bundle(agent._replace(spec=spec).write(tmp_path / "policy"))).values()
    comments = text.splitlines()[0], header.splitlines()[0]
    assert all("evil" in line and "*/" not in line[2:-2] and "/*" not in line[2:] for line in comments)
    assert "?" not in comments[0] and "evil" not in text.replace(comments[0], "")
