"""What became of known tasks as a pool grew, read from evaluations of known scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from t2.evaluation.growth import Growth, contrasts, growth_table, main, read_growth, tasks_table
from t2.evaluation.results import Results, Selection
from t2.run.results import SAMPLES_FILE

TASKS = ("one", "two", "three", "four")
Right = dict[str, dict[str, int]]  # system -> task -> how many of ten answers are right


def written(run: Path, right: Right, *, seed: int = 0, chosen: bool = False) -> None:
    """A finished evaluation with ten questions a task."""
    run.mkdir(parents=True)
    tasks = list(next(iter(right.values())))
    lines = [
        {"task": task, "system": system, "prompt": f"{task} {i}", "reference": "", "score": float(i < count)}
        for system, of in right.items()
        for task, count in of.items()
        for i in range(10)
    ]
    (run / SAMPLES_FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    selection = {task: Selection("val", 10, "base+shots", None, {}) for task in tasks} if chosen else None
    Results(
        command="evaluate", base_model="m", adapter="svf", task=tasks, split="test", headline=0.0,
        trainable_parameters=1, scores={}, paired={}, data={}, seconds={}, seed=seed, strategy="centroid",
        selection=selection,
    ).write(run)  # fmt: skip


def grown(folder: Path, *, seed: int = 0, forgets: int = 0) -> Path:
    """Pools of three and four, where the expert in sequence has lost `forgets` answers of the first task for each."""

    def all_of(size: int, count: int) -> dict[str, int]:
        return dict.fromkeys(TASKS[:size], count)

    for size in (3, 4):
        right: Right = {"base": all_of(size, 1), "centroid": all_of(size, 9), "all": all_of(size, 4)}
        if size == 4:
            right["base+shots"] = all_of(4, 2)
            right["base+instruction"] = {"two": 3}  # a task whose form has no instruction is not told so
        written(folder / f"score_pool_{size}", right, seed=seed, chosen=size == 4)
        sequence = {**all_of(size, 9), "one": 9 - forgets * size}
        written(folder / f"score_sequence_{size}", {"base": all_of(size, 1), "expert": sequence}, seed=seed)
    for number, task in enumerate(TASKS, start=1):
        written(folder / f"score_own_{number}", {"base": {task: 1}, "expert": {task: 10}}, seed=seed)
    written(folder / "score_joint", {"base": all_of(4, 1), "expert": all_of(4, 9)}, seed=seed)
    return folder


def test_each_pool_is_scored_on_the_tasks_that_it_has_learned(tmp_path: Path) -> None:
    table = growth_table([read_growth(grown(tmp_path / "a", forgets=1))])
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header[1:] == ["3", "4"]
    assert rows["centroid"] == ["90.0 %", "90.0 %"]
    assert rows["in sequence"] == ["80.0 %", "80.0 %"]  # (6 + 9 + 9) / 30 and (5 + 9 + 9 + 9) / 40
    assert rows["together"] == ["", "90.0 %"]  # it has learned the fourth task, too
    assert rows["form"] == ["20.0 %", "20.0 %"]
    assert rows["its own expert"] == ["100.0 %", "100.0 %"]


def with_singles(folder: Path) -> Path:
    """The same, where each expert was scored on every task: right on its own, on others as often as the base."""
    for size in (3, 4):
        (folder / f"pool_{size}").mkdir()
        for name in (*TASKS[:size], "centroids"):
            (folder / f"pool_{size}" / f"{name}.safetensors").touch()
    path = folder / "score_pool_4" / SAMPLES_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for domain in TASKS:
        for line in [one for one in lines if one["system"] == "base"]:
            right = line["task"] == domain or (domain == "four" and line["prompt"] == "one 9")
            lines.append(line | {"system": f"expert:{domain}", "score": float(right)})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_the_oracle_takes_the_best_of_the_base_and_of_the_experts_that_a_pool_has(tmp_path: Path) -> None:
    folder = with_singles(grown(tmp_path / "a"))
    path = folder / "score_pool_4" / SAMPLES_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:  # the first expert is wrong where the fourth is right: the pool of three cannot be
        if line["system"] == "expert:one" and line["prompt"] == "one 9":
            line["score"] = 0.0
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    one = read_growth(folder)
    assert one.scores[3]["oracle"]["one"] == [*[1.0] * 9, 0.0]
    assert one.scores[4]["oracle"]["one"] == [1.0] * 10
    rows = {row[0]: row[1:] for row in growth_table([one]).rows}
    assert rows["oracle"] == ["96.7 %", "100.0 %"]
    assert rows["centroid, share of the oracle"] == ["93.1 %", "90.0 %"]  # 27 of 29
    (folder / "pool_4" / "five.safetensors").touch()
    with pytest.raises(ValueError, match=r"expert:five was not scored; run .* with ORACLE=true"):
        read_growth(folder)


def test_tasks_are_listed_in_the_order_of_learning(tmp_path: Path) -> None:
    table = tasks_table([read_growth(grown(tmp_path / "a", forgets=1))])
    assert [row[0] for row in table.rows] == list(TASKS)
    assert table.rows[0][table.header.index("in sequence")] == "50.0 %"


def test_contrasts_are_of_the_largest_pool_and_corrected_together(tmp_path: Path) -> None:
    found = contrasts([read_growth(grown(tmp_path / str(seed), seed=seed, forgets=seed)) for seed in (1, 2)])
    assert [one.second for one in found] == ["in sequence", "together", "all"]
    sequence, together, everything = (one.paired.difference for one in found)
    assert sequence == pytest.approx(((9 - 5) + (9 - 1)) / 2 / 40)  # the mean over the seeds
    assert together == 0.0
    assert everything == pytest.approx(0.5)
    assert found[1].p_holm == 1.0
    assert found[2].p_holm >= found[2].paired.p_value


@pytest.mark.parametrize("make", [with_singles, lambda folder: folder], ids=["with the oracle", "without"])
def test_the_command_prints_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    folders = [str(make(grown(tmp_path / str(seed), seed=seed, forgets=1))) for seed in (1, 2)]
    main([*folders, "--out", str(tmp_path / "out")])
    assert "centroid - together" in capsys.readouterr().out
    assert (tmp_path / "out" / "growth.png").stat().st_size > 10_000
    assert "| centroid - all |" in (tmp_path / "out" / "growth.md").read_text()


def test_a_folder_without_pools_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"scripts/growth\.sh"):
        main([str(tmp_path)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "in sequence was scored on other questions of three than"),
        (
            lambda lines: [line.replace("one 3", "another 3") for line in lines],
            "base was scored on other questions of one",
        ),
        (lambda lines: [line for line in lines if "three" not in line], "in sequence was scored on other tasks than"),
    ],
)
def test_other_questions_are_refused(tmp_path: Path, change: Callable[[list[str]], list[str]], message: str) -> None:
    folder = grown(tmp_path / "a")
    path = folder / "score_sequence_3" / SAMPLES_FILE
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=message):
        read_growth(folder)


def test_a_task_counts_as_much_as_any_other_in_a_contrast(tmp_path: Path) -> None:
    of = {"centroid": (1.0, 0.0), "in sequence": (0.0, 0.0), "together": (0.0, 1.0), "all": (0.0, 0.0)}
    scores = {name: {"few": [few] * 2, "many": [many] * 8} for name, (few, many) in {**of, "base": (0.0, 0.0)}.items()}
    found = contrasts([Growth(tmp_path, {2: scores})])
    assert [one.paired.difference for one in found] == pytest.approx([0.5, 0.0, 0.5])
