"""Learning curves: what is read, what belongs together, what is drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from policy_gradients.errors import UserError
from policy_gradients.evaluation import plots
from policy_gradients.evaluation.curves import Curve, average, group_runs, read_run
from policy_gradients.evaluation.plots import plot_runs

STEPS, TRAINING = "time/total_timesteps", "rollout/ep_rew_mean"


def make_run(folder: Path, algorithm: str = "ppo", env: str = "Toy-v0", seed: int = 0, **settings: Any) -> Path:
    """A run of ten updates of 1,000 steps; training returns 0, 10, 20 … + seed from the third update on."""
    folder.mkdir(parents=True)
    config = {
        "algorithm": algorithm,
        "seed": seed,
        "env": {"id": env},
        "hyperparameters": settings,
        "video": bool(seed),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = []
    for u in range(10):
        row = {"time/iterations": u + 1, STEPS: 1000 * (u + 1), "time/time_elapsed": 10.0 * u, "time/fps": 123456.0}
        row |= {TRAINING: 10 * u + seed} if u >= 2 else {}
        if u % 5 == 4:
            row |= {"eval/mean_reward": 100 * u + seed, "eval/std_reward": 7.0, "eval/stochastic_mean_reward": 90 * u}
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Figure]:
    """The figure that `plot_runs` would save."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_picture", lambda figure, out: figures.append(figure))

    def draw(runs: list[Path], **options: Any) -> Figure:
        plot_runs(runs, tmp_path / "curve.png", **options)
        return figures[-1]

    return draw


def texts(figure: Figure) -> str:
    axes = figure.axes[0]
    return "\n".join([axes.get_title(loc="left"), axes.get_xlabel(), *(text.get_text() for text in axes.texts)])


def test_a_line_cut_off_in_mid_write_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"time/iterations": 11, "rollout/ep_re')
    assert len(read_run(run).rows) == 10


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("metrics.jsonl", None, "metrics.jsonl cannot be read"),
        ("config.yaml", None, "config.yaml cannot be read"),
        ("metrics.jsonl", "", "metrics.jsonl holds nothing yet"),
        ("metrics.jsonl", '{"a": 1}\nhello\n{"a": 2}\n', "line 2 of metrics.jsonl is not a JSON object"),
        ("config.yaml", "a: [", "is damaged"),
        ("config.yaml", "- 1", "config.yaml should hold a mapping"),
        ("config.yaml", "!!python/object/apply:os.getcwd []", "is damaged"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(file: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / file).unlink() if text is None else (run / file).write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_a_curve_holds_the_updates_that_logged_both_metrics(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    np.testing.assert_array_equal(run.curve(STEPS, "eval/mean_reward"), [[5000, 10_000], [400, 900]])
    assert run.curve(STEPS, TRAINING).x[0] == 3000
    assert run.curve(STEPS, "train/none").x.size == 0


def test_a_curve_is_in_the_order_of_its_axis(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    np.testing.assert_array_equal(run._replace(rows=run.rows[::-1]).curve(STEPS, TRAINING), run.curve(STEPS, TRAINING))


def test_runs_that_differ_only_in_their_seed_are_one_group(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"a{seed}", seed=seed, gamma=0.99) for seed in range(3)]
    folders += [make_run(tmp_path / f"b{seed}", seed=seed, gamma=0.9) for seed in range(2)]
    folders += [make_run(tmp_path / "c", algorithm="trpo", gamma=0.99)]
    groups = group_runs([read_run(folder) for folder in folders])
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("PPO, gamma 0.99", 3),
        ("PPO, gamma 0.9", 2),
        ("TRPO", 1),
    ]


def test_the_average_interpolates_where_all_curves_are_known() -> None:
    curves = [Curve(np.array([0.0, 10.0]), np.array([0.0, 10.0])), Curve(np.array([5.0, 20.0]), np.array([3.0, 3.0]))]
    band = average(curves)
    np.testing.assert_array_equal(band.x, [5, 10])
    np.testing.assert_allclose(band.mean, [4, 6.5])
    np.testing.assert_allclose((band.low, band.high), [[3, 3], [5, 10]])


def test_the_band_is_the_bootstrap_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(10, 2, 40)
    band = average([Curve(np.array([0.0, 1.0]), np.full(2, value)) for value in values])
    width = 2 * 1.96 * values.std() / np.sqrt(40)
    np.testing.assert_allclose(band.high - band.low, width, rtol=0.1)
    assert ((band.low < band.mean) & (band.mean < band.high)).all()


def test_a_long_curve_is_drawn_from_few_points() -> None:
    x = np.arange(5000.0)
    band = average([Curve(x, x), Curve(x, x)])
    assert band.x.size == 200
    np.testing.assert_allclose(band.mean, band.x)


def test_one_run_shows_training_and_both_evaluations(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    figure = drawn([make_run(tmp_path / "run", seed=3)])
    lines = {tuple(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines == {(403, 903), (360, 810), tuple(range(23, 94, 10))}
    assert 10_000 < figure.axes[0].get_xlim()[1] < 11_000
    written = texts(figure)
    for expected in ("PPO · Toy-v0 · seed 3", "training", "deterministic", "sampled", "10,000 steps in 1:30 min"):
        assert expected in written
    assert "123,456 steps/s · last evaluation 903.0 ± 7.0" in written


@pytest.mark.parametrize(("factor", "unit"), [(1, "thousands"), (100, "millions")])
def test_steps_are_counted_in_thousands_or_millions(
    factor: int, unit: str, tmp_path: Path, drawn: Callable[..., Figure]
) -> None:
    run = make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps({**row, STEPS: factor * row[STEPS]}) for row in rows))
    axes = drawn([run]).axes[0]
    assert f"environment steps ({unit})" in axes.get_xlabel()
    shown = axes.xaxis.get_major_formatter()(factor * 5_000, 0)
    assert shown == {"thousands": "5", "millions": "0.5"}[unit]


def test_several_seeds_become_a_mean_a_band_and_thin_lines(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    figure = drawn([make_run(tmp_path / str(seed), seed=seed) for seed in range(3)])
    axes = figure.axes[0]
    strong = [line for line in axes.lines if line.get_linewidth() > 2]
    assert [tuple(line.get_ydata()) for line in strong] == [(401, 901)]
    assert len(axes.lines) == 4 and len(axes.collections) == 1
    assert "seeds 0–2" in axes.get_title(loc="left")


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("y", [TRAINING, "eval/mean_reward"])
def test_one_point_is_seen(y: str, seeds: int, tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in range(seeds)]
    for run in runs:
        last = (run / "metrics.jsonl").read_text().splitlines()[-1]
        (run / "metrics.jsonl").write_text(last + "\n")
    for options in ({}, {"y": y}):
        lines = drawn(runs, **options).axes[0].get_lines()
        assert lines and all(line.get_marker() == "o" for line in lines)


def test_other_runs_get_a_colour_and_a_name_each(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    runs = [make_run(tmp_path / name, algorithm=name) for name in ("ppo", "trpo", "a2c")]
    figure = drawn(runs, y=TRAINING)
    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == 3
    names = {text.get_text(): text for text in figure.axes[0].texts}
    assert names.keys() == {"PPO", "TRPO", "A2C"}
    heights = sorted(text.get_position()[1] for text in names.values())
    assert min(np.diff(heights)) > 0.04  # all curves end at the same point, their names do not


def test_every_environment_has_its_panel(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    runs = [make_run(tmp_path / env, env=env) for env in ("Ant-v4", "Hopper-v4", "Toy-v0")]
    visible = [axes for axes in drawn(runs).axes if axes.get_visible()]
    assert [axes.get_title(loc="left").split(" · ")[1] for axes in visible] == ["Ant-v4", "Hopper-v4", "Toy-v0"]


def test_a_run_without_evaluations_shows_its_training(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    run = make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: x for name, x in row.items() if not name.startswith("eval/")} for row in rows]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, kept)))
    assert len(drawn([run]).axes[0].lines) == 1


def test_the_picture_is_the_same_under_any_style_and_leaves_it_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    plot_runs([run], tmp_path / "plain.png")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        before = dict(matplotlib.rcParams)
        plot_runs([run], tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    plain, styled = (matplotlib.image.imread(tmp_path / name) for name in ("plain.png", "styled.png"))
    assert plain.shape == (720, 1200, 4)
    assert len(np.unique(plain.reshape(-1, 4), axis=0)) > 100
    np.testing.assert_array_equal(plain, styled)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plain.png", "run", "styled.png"]


@pytest.mark.parametrize(
    ("out", "options", "sentence"),
    [
        ("curve.png", {"y": "rollout/ep_rew_maen"}, "Did you mean 'rollout/ep_rew_mean'?"),
        ("curve.xyz", {}, "pictures can be .png, .svg or .pdf"),
        ("nowhere/curve.png", {}, "cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_plotted_is_refused(out: str, options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match=sentence.replace("?", "[?]")):
        plot_runs([run], tmp_path / out, **options)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_run_in_which_no_episode_ended_yet_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(first + "\n")
    with pytest.raises(UserError, match="let it run until an episode ends"):
        plot_runs([run], tmp_path / "curve.png")
    with pytest.raises(UserError, match="There is no run to plot"):
        plot_runs([], tmp_path / "curve.png")
