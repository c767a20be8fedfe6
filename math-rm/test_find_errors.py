"""First errors: the command's numbers by hand where the scores are known, and what it refuses.

Travels with the folder when it is copied.
"""

import json
import sys
from pathlib import Path

import find_errors
import pytest
from solution_picture import title_lines
from test_best_of_n import TOLERANCE, plain_scores, read, save_models, write

from useful_code.user_errors import exit_cleanly

STEPS = ["We add.", "3 + 4 is 7.", "The answer is 7."]


def solution(prompt: str, labels: list, **columns) -> dict:
    return {"prompt": prompt, "completions": STEPS[: len(labels)], "labels": labels, **columns}


ROWS = [
    solution("a?", [True, False, None], source_id=1),
    solution("b?", [True, True, True]),
    solution("c?", [0, None]),
    solution("d?", [1.0, 1.0, 0.0]),
    solution("a?", [True, True]),
]
SCORES = [[0.9, 0.4, 0.9], [0.9, 0.5, 0.8], [0.6, 0.3], [0.2, 0.9, 0.1], [0.4, 0.4]]
#         found at 1       left alone       one late    two early        an error that is none
REFUSED = [
    solution("e?", [True, 0.5, None]),  # a share of rollouts: nobody said which step is wrong
    solution("f?", [True, None, False]),
    solution("g?", [None, None, None]),
    {"prompt": "h?", "completions": ["x" * 500], "labels": [True]},
    {"prompt": "i?", "completions": [], "labels": []},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("find_errors")
    save_models(folder)
    write(folder / "steps.jsonl", [*ROWS, *REFUSED])
    return folder


def set_command(monkeypatch, world: Path, kind: str, output: str, *flags) -> Path:
    """What `main` will read; returns the directory that it will write."""
    words = ["--reward_name_or_path", world / kind, "--dataset", world / "steps.jsonl", "--output_dir", world / output]
    monkeypatch.setattr(sys, "argv", ["find_errors.py", *map(str, [*words, "--max_length", 300, *flags])])
    return world / output


def test_numbers_by_hand(world, monkeypatch, capsys):
    """Of three wrong solutions one is found and one missed by one step; of two right ones one is left alone:
    1/3 and 1/2, F1 = 2 (1/3) (1/2) / (5/6) = 0.4."""
    monkeypatch.setattr(find_errors, "score_solutions", lambda scorer, read, parts: [[scores] for scores in SCORES])
    output = set_command(monkeypatch, world, "verdicts", "by-hand")
    find_errors.main()
    record = json.loads((output / "run.json").read_text())
    found = {name: record["model"][name] for name in ("accuracy_wrong", "within_one_wrong", "accuracy_right", "f1")}
    assert found == pytest.approx(
        {"accuracy_wrong": 1 / 3, "within_one_wrong": 2 / 3, "accuracy_right": 1 / 2, "f1": 0.4}
    )
    assert record["model"]["num_wrong"] == 3 and record["model"]["num_right"] == 2
    assert record["floors"]["always the first step"]["accuracy_wrong"] == pytest.approx(1 / 3)
    rows = read(output / "predictions.jsonl")
    assert [row["predicted_error"] for row in rows] == [1, None, 1, 0, 0]
    assert [row["first_error"] for row in rows] == [1, None, 0, 2, None] and rows[0]["source_id"] == 1
    assert [row["scores"] for row in rows] == SCORES
    printed = capsys.readouterr().out
    assert "10 rows read, 5 kept, 5 refused" in printed
    assert "model" in printed and "33.3" in printed and "a random step or none" in printed
    page = (output / "report.html").read_text()
    assert "0.400" in page and "3 solutions with one, 2 without" in page
    refused = [row["reason"] for row in read(output / "refused_rows.jsonl")]
    assert refused == ["not_labelled", "not_labelled", "not_labelled", "over_max_length", "no_messages"]


def test_another_threshold(world, monkeypatch):
    monkeypatch.setattr(find_errors, "score_solutions", lambda scorer, read, parts: [[scores] for scores in SCORES])
    output = set_command(monkeypatch, world, "verdicts", "threshold", "--threshold", 0.35)
    find_errors.main()
    assert [row["predicted_error"] for row in read(output / "predictions.jsonl")] == [None, None, 1, 0, None]


@pytest.mark.parametrize("kind", ["verdicts", "tags"])
def test_scores_are_those_of_plain_transformers(world, monkeypatch, kind):
    output = set_command(monkeypatch, world, kind, f"run-{kind}")
    find_errors.main()
    rows = read(output / "predictions.jsonl")
    assert len(rows) == len(ROWS) and not list(output.glob("*.part-*"))
    for row in rows:
        expected = plain_scores(world, kind, row["prompt"], row["completions"])
        assert row["scores"] == pytest.approx(expected, abs=TOLERANCE)


def test_the_picture_says_what_the_model_found_however_long_the_problem_is(monkeypatch):
    drawn = []
    monkeypatch.setattr(find_errors, "solution_picture", lambda shown: drawn.extend(map(title_lines, shown)))
    rows = [{"prompt": "words " * 500, "completions": STEPS, "first_error": error} for error in (1, None)]
    find_errors.picture_of(rows, SCORES[:2], [1, None])
    assert [lines[-1] for lines in drawn] == ["[by the model: first error at step 2]", "[by the model: no error]"]


def test_only_right_solutions(world, monkeypatch, capsys):
    """No error to find: the F1 is no number, and the reports say so."""
    data = write(world / "right.jsonl", [ROWS[1], ROWS[4]])
    output = set_command(monkeypatch, world, "verdicts", "right", "--dataset", data)
    find_errors.main()
    assert "none" in capsys.readouterr().out and json.loads((output / "run.json").read_text())["model"]["f1"] == "nan"


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("outcome", [], "judges whole solutions, not steps; give a process model"),
        ("scalar", [], "judges whole solutions, not steps; give a process model"),
        ("verdicts", ["--reward_of", "outcome"], "judges whole solutions"),
        ("verdicts", ["--threshold", "1"], "--threshold is 1"),
        ("verdicts", ["--max_length", "0"], "--max_length is 0; it must be at least 1"),
        ("verdicts", ["--max_length", "-5"], "--max_length is -5"),
        ("verdicts", ["--max_length", "3"], "none of 10 rows can be used"),
        ("verdicts", ["--dataset", "nowhere.jsonl"], "no such file"),
    ],
)
def test_what_cannot_work_is_one_line(world, monkeypatch, capsys, kind, flags, message):
    set_command(monkeypatch, world, kind, "bad", *flags)
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(find_errors.main)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and line.startswith("error: ") and message in line


@pytest.mark.parametrize(
    ("dataset", "output", "message"),
    [
        ("lost/predictions.jsonl", "lost", "predictions.jsonl would overwrite the input"),
        ("lost", "lost", "lies in the folder of the input"),
        ("lost", "lost/deeper", "lies in the folder of the input"),
        ("lost/predictions.jsonl", "taken", "taken has a folder predictions.jsonl, where a file must be written"),
        ("lost/predictions.jsonl", "lost/predictions.jsonl", "is a file; give a directory"),
    ],
)
def test_an_output_that_would_lose_something_is_refused_before_the_model_is_loaded(
    world, monkeypatch, capsys, dataset, output, message
):
    (world / "taken" / "predictions.jsonl").mkdir(parents=True, exist_ok=True)
    (world / "lost").mkdir(exist_ok=True)
    rows = write(world / "lost" / "predictions.jsonl", [{"prompt": "?"}]).read_bytes()
    monkeypatch.setattr(find_errors, "load_solution_scorer", None)
    set_command(monkeypatch, world, "verdicts", output)
    sys.argv += ["--dataset", str(world / dataset)]
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(find_errors.main)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and line.startswith("error: --output_dir ") and message in line
    assert (world / "lost" / "predictions.jsonl").read_bytes() == rows and len(list((world / "lost").iterdir())) == 1
