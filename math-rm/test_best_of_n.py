"""The real command on tiny models: scores against plain Transformers step by step, curves against all subsets.

Travels with the folder when it is copied.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import best_of_n
import pytest
import torch
from solution_picture import title_lines
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import useful_code
from useful_code.step_scoring import StepScorer
from useful_code.tiny import byte_tokenizer, save_tiny_judge, save_tiny_model, tiny_config
from useful_code.user_errors import exit_cleanly

SCRIPT = Path(best_of_n.__file__)
TOLERANCE = 1e-5  # float32, probabilities
KINDS = ["verdicts", "outcome", "tags", "scalar"]
RIGHT, WRONG = ["3 and 4 are 7.", "The answer is 7."], ["3 and 4 are 8.", "One more?", "The answer is 8."]
LONG = ["3 and 4. " * 60, "The answer is 7."]  # more than MAX_LENGTH tokens; a token is a byte
MAX_LENGTH = 400


def save_models(folder: Path) -> None:
    """One of every kind that can be scored, and a tokenizer of bytes beside each."""
    save_tiny_judge(folder / "verdicts")
    save_tiny_judge(folder / "outcome", reward_of="outcome", seed=1)
    save_tiny_model(folder / "scalar")
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = tiny_config("llama", len(tokenizer), num_labels=2, step_separator="\n\n")
        tagger = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
    tagger.save_pretrained(folder / "tags")
    tokenizer.save_pretrained(folder / "tags")


@torch.inference_mode()
def plain_scores(folder: Path, kind: str, prompt: str, steps: list[str]) -> list[float]:
    """The scores of a solution by plain Transformers: one pass for every step of it."""
    tokenizer = AutoTokenizer.from_pretrained(folder / kind)

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    if kind == "scalar":
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "\n".join(steps)}]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        model = AutoModelForSequenceClassification.from_pretrained(folder / kind)
        model.config.pad_token_id = tokenizer.pad_token_id
        return [torch.sigmoid(model(torch.tensor([ids])).logits[0, 0]).item()]
    scores = []
    if kind == "tags":
        model, text = AutoModelForTokenClassification.from_pretrained(folder / kind), prompt
        for step in steps:
            text += step + "\n\n"
            scores.append(model(torch.tensor([ids_of(text)])).logits[0, -1].softmax(-1)[1].item())
        return scores
    model, chat = AutoModelForCausalLM.from_pretrained(folder / kind), []
    signs = [ids_of(sign)[0] for sign in "-+"]
    for place, step in enumerate(["\n".join(steps)] if kind == "outcome" else steps):
        chat.append({"role": "user", "content": step if place else f"{prompt} {step}"})
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        scores.append(model(torch.tensor([ids])).logits[0, -1, signs].softmax(-1)[1].item())
        chat.append({"role": "assistant", "content": "+"})
    return scores


def rows_to_score() -> list[dict]:
    """Four problems with six solutions or seven: repeated, unanswered, empty and too long ones among them."""
    rows = []
    for i in range(4):
        solutions = [RIGHT, WRONG, [*RIGHT[:1], *RIGHT], RIGHT, ["I do not know."]]
        candidates = [{"steps": steps[i % 2 :] or steps, "answer": None, "correct": None} for steps in solutions]
        candidates += [{"response": None}, {"steps": LONG}][: 1 + i % 2]
        rows.append({"prompt": f"{i}: 3 + 4?", "gold": "7", "candidates": candidates, "source_id": i})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("best_of_n")
    save_models(folder)
    unlabelled = {"prompt": "3 + 4?", "candidates": [{"steps": RIGHT}]}
    write(folder / "candidates.jsonl", [*rows_to_score(), unlabelled, {"prompt": "?", "candidates": [], "gold": "7"}])
    return folder


def command_line(world: Path, kind: str, output: str, *flags) -> list[str]:
    words = ["--reward_name_or_path", world / kind, "--dataset", world / "candidates.jsonl"]
    return [str(word) for word in [*words, "--output_dir", world / output, *flags]]


def run_here(monkeypatch, world: Path, kind: str, output: str, *flags) -> tuple[list[dict], dict]:
    """The command inside this process: its scores and curves."""
    monkeypatch.setattr(sys, "argv", ["best_of_n.py", *command_line(world, kind, output, *flags)])
    best_of_n.main()
    return read(world / output / "scores.jsonl"), json.loads((world / output / "curves.json").read_text())


def aggregates_of(steps: list[float]) -> dict[str, float]:
    if not steps:
        return dict.fromkeys(("min", "product", "mean", "last"), 0.0)
    return {"min": min(steps), "product": math.prod(steps), "mean": sum(steps) / len(steps), "last": steps[-1]}


def curves_by_hand(rows: list[dict], sizes: list[int], names: list[str]) -> dict[str, list[float]]:
    """Every curve by going through all subsets of every problem."""
    found: dict[str, list[float]] = {}
    for n in sizes:
        of_problems: dict[str, list[float]] = {}
        for row in rows:
            of_subsets: dict[str, list[float]] = {}
            for subset in combinations(row["candidates"], n):
                correct = [candidate["correct"] for candidate in subset]
                numbers = {"pass@1": sum(correct) / n, "oracle (pass@N)": float(any(correct))}
                weights = {"majority": [1.0] * n}
                for name in names:
                    scores = [aggregates_of(candidate["step_scores"])[name] for candidate in subset]
                    best = [right for right, score in zip(correct, scores, strict=True) if score == max(scores)]
                    numbers[f"best of N, {name}"] = sum(best) / len(best)
                    weights[f"weighted vote, {name}"] = scores
                for name, weight in weights.items():
                    votes = Counter()
                    for candidate, one in zip(subset, weight, strict=True):
                        if candidate["answer"] is not None:
                            votes[candidate["answer"]] += one
                    winners = [answer for answer, number in votes.items() if number >= max(votes.values()) - 1e-12]
                    numbers[name] = winners.count("7") / len(winners) if winners else 0.0
                for name, number in numbers.items():
                    of_subsets.setdefault(name, []).append(number)
            for name, numbers in of_subsets.items():
                of_problems.setdefault(name, []).append(sum(numbers) / len(numbers))
        for name, numbers in of_problems.items():
            found.setdefault(name, []).append(sum(numbers) / len(numbers))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_curves_are_those_by_hand(world, monkeypatch, capsys, kind):
    rows, curves = run_here(monkeypatch, world, kind, f"run-{kind}", "--max_length", MAX_LENGTH)
    assert [row["source_id"] for row in rows] == [0, 1, 2, 3]
    num_unread = 0
    for row in rows:
        for candidate in row["candidates"]:
            if not candidate["steps"] or candidate["steps"] == LONG:
                assert candidate["step_scores"] == []
                num_unread += 1
            else:
                expected = plain_scores(world, kind, row["prompt"], candidate["steps"])
                assert candidate["step_scores"] == pytest.approx(expected, abs=TOLERANCE)
    names = ["min", "product", "mean", "last"] if kind in ("verdicts", "tags") else ["last"]
    assert curves["sizes"] == [1, 2, 4, 6] and curves["num_problems"] == 4
    by_hand = curves_by_hand(rows, curves["sizes"], names)
    assert by_hand.keys() == curves["curves"].keys()
    for name, expected in by_hand.items():
        assert curves["curves"][name]["accuracy"] == pytest.approx(expected, abs=1e-9), name

    printed = capsys.readouterr().out
    assert num_unread == 6 and "6 solutions could not be read and have the score 0; the first: " in printed
    assert "26 solutions of 4 problems" in printed and "problems have 6 to 7 solutions; N goes to 6" in printed
    refused = read(world / f"run-{kind}" / "refused_rows.jsonl")
    assert [row["reason"] for row in refused] == ["not_labelled", "no_candidates"]
    record = json.loads((world / f"run-{kind}" / "run.json").read_text())
    assert record["num_unread"] == 6 and record["reward_of"] == ("steps" if len(names) == 4 else "outcome")
    headline = "best of N, min, N = 6" if len(names) == 4 else "best of N, last, N = 6"
    assert headline in (world / f"run-{kind}" / "report.html").read_text()
    assert not list((world / f"run-{kind}").glob("*.part-*"))


def test_a_smaller_n_and_a_model_told_to_judge_whole_solutions(world, monkeypatch):
    _, curves = run_here(monkeypatch, world, "verdicts", "whole", "--num_n", 3, "--reward_of", "outcome")
    assert curves["sizes"] == [1, 2, 3] and "best of N, min" not in curves["curves"]


def test_an_n_that_is_too_large_is_refused_before_anything_is_scored(world, monkeypatch, capsys):
    """What an interrupted run has scored stays."""
    output = world / "too-large"
    output.mkdir()
    kept = output / "scores.jsonl.part-0-0.jsonl"
    kept.write_text('["key", [[0.0]]]\n')
    monkeypatch.setattr(best_of_n, "score_solutions", None)
    monkeypatch.setattr(sys, "argv", ["x", *command_line(world, "verdicts", "too-large", "--num_n", 7)])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(best_of_n.main)
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert stopped.value.code == 2 and line.startswith("error: ")
    assert "N = 7 was asked for, but 2 of 4 problems have fewer candidates, the least 6" in line
    assert kept.exists() and not (output / "scores.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_n", "0"], "--num_n is 0"),
        (["--draws", "0"], "--draws is 0"),
        (["--max_length", "0"], "--max_length is 0; it must be at least 1"),
        (["--max_length", "-5"], "--max_length is -5"),
        (["--dataset", "nowhere.jsonl"], "no such file"),
        (["--reward_name_or_path", "./nowhere"], "nowhere"),
        (["--max_tokens_per_batch", "0"], "--max_tokens_per_batch is 0"),
    ],
)
def test_options_that_cannot_work_are_one_line(world, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["best_of_n.py", *command_line(world, "verdicts", "bad", *flags)])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(best_of_n.main)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and line.startswith("error: ") and message in line


@pytest.mark.parametrize(
    ("dataset", "output", "message"),
    [
        ("lost/scores.jsonl", "lost", "scores.jsonl would overwrite the input"),
        ("lost", "lost", "lies in the folder of the input"),
        ("lost", "lost/deeper", "lies in the folder of the input"),
        ("lost/scores.jsonl", "taken", "taken has a folder scores.jsonl, where a file must be written"),
        ("lost/scores.jsonl", "lost/scores.jsonl", "is a file; give a directory"),
    ],
)
def test_an_output_that_would_lose_something_is_refused_before_the_model_is_loaded(
    world, monkeypatch, capsys, dataset, output, message
):
    (world / "taken" / "scores.jsonl").mkdir(parents=True, exist_ok=True)
    (world / "lost").mkdir(exist_ok=True)
    rows = write(world / "lost" / "scores.jsonl", [{"prompt": "?"}]).read_bytes()
    monkeypatch.setattr(best_of_n, "load_solution_scorer", None)
    monkeypatch.setattr(sys, "argv", ["x", *command_line(world, "verdicts", output)])
    sys.argv += ["--dataset", str(world / dataset)]
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(best_of_n.main)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and line.startswith("error: --output_dir ") and message in line
    assert (world / "lost" / "scores.jsonl").read_bytes() == rows and len(list((world / "lost").iterdir())) == 1


@pytest.mark.parametrize("prompt", ["3 + 4?", "trains and apples, " * 100])
def test_the_picture_says_which_solution_is_right(monkeypatch, prompt):
    drawn = []
    monkeypatch.setattr(best_of_n, "solution_picture", lambda shown: drawn.extend(map(title_lines, shown)))
    scored = [{"steps": RIGHT, "step_scores": [0.9, 0.8], "correct": True}]
    scored += [{"steps": WRONG, "step_scores": [0.9, 0.1, 0.2], "correct": False}]
    best_of_n.picture_of({"prompt": prompt, "candidates": scored})
    notes = ["[highest score; the answer is right]", "[lowest score; the answer is wrong]"]
    assert [lines[-1] for lines in drawn] == notes


def test_a_solution_longer_than_the_model_reads_has_the_score_0(world, monkeypatch, capsys):
    """Without --max_length: the model has 2048 positions."""
    data = write(world / "longest.jsonl", [{"prompt": "?", "gold": "7", "candidates": ["It is 7.", "7" * 2100]}])
    rows, _ = run_here(monkeypatch, world, "tags", "longest", "--dataset", data)
    assert [len(candidate["step_scores"]) for candidate in rows[0]["candidates"]] == [1, 0]
    assert "1 solutions could not be read and have the score 0; the first: over_max_length" in capsys.readouterr().out


def test_the_test_sets_of_rlhflow_are_read(world, monkeypatch):
    """`prompt`, `answers`, `label`; the steps end in that set's mark."""
    rows = [
        {
            "prompt": f"{i}: 3 + 4?",
            "answers": ["3 and 4 are 7. ки\nThe answer is: 7 ки", "It is 8. ки\nThe answer is: 8 ки"],
            "label": [1, 0],
        }
        for i in range(3)
    ]
    data = write(world / "rlhflow.jsonl", rows)
    scored, curves = run_here(monkeypatch, world, "verdicts", "rlhflow", "--dataset", data)
    assert curves["sizes"] == [1, 2] and curves["curves"]["pass@1"]["accuracy"] == [0.5, 0.5]
    for row in scored:
        assert [candidate["steps"] for candidate in row["candidates"]] == [
            ["3 and 4 are 7.", "The answer is: 7"],
            ["It is 8.", "The answer is: 8"],
        ]
        for candidate in row["candidates"]:
            expected = plain_scores(world, "verdicts", row["prompt"], candidate["steps"])
            assert candidate["step_scores"] == pytest.approx(expected, abs=TOLERANCE)


def test_only_solutions_without_text(world, monkeypatch):
    """Nothing to score and nothing to draw, and still a table."""
    data = write(world / "empty.jsonl", [{"prompt": "?", "gold": "7", "candidates": [" ", None]}])
    rows, curves = run_here(monkeypatch, world, "verdicts", "empty", "--dataset", data)
    assert [candidate["step_scores"] for candidate in rows[0]["candidates"]] == [[], []]
    assert all(set(curve["accuracy"]) == {0.0} for curve in curves["curves"].values())
    assert (world / "empty" / "report.html").exists()


def test_an_interrupted_run_goes_on_where_it_stopped(world, monkeypatch, capsys):
    """Stopped at the third batch, then in the counting of votes: each problem is scored once in all."""
    scored, stop_at = [], ""
    numbers = StepScorer.numbers

    def counted(scorer, batch, sequences):
        if len(scored) == 2 and stop_at == "scoring":
            raise KeyboardInterrupt
        scored.append(len(sequences))
        return numbers(scorer, batch, sequences)

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(StepScorer, "numbers", counted)
    flags = ("--max_length", MAX_LENGTH, "--max_tokens_per_batch", 160)
    expected = run_here(monkeypatch, world, "tags", "undisturbed", *flags)
    num_batches = len(scored)
    for stop_at in ("scoring", "votes"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if stop_at == "scoring":
                scored.clear()
            else:
                patch.setattr(best_of_n, "curves_of", stopped)
            run_here(monkeypatch, world, "tags", "interrupted", *flags)
    stop_at = ""
    again = run_here(monkeypatch, world, "tags", "interrupted", *flags)
    assert again == expected and len(scored) == num_batches > 2
    assert "4 of 4 rows are scored already" in capsys.readouterr().out
    assert not list((world / "interrupted").glob("*.part-*"))


@pytest.mark.slow
def test_two_processes_give_the_same_scores(world, monkeypatch):
    """Real processes, as `accelerate launch` starts them; the second problem's batches are on another one."""
    expected = run_here(monkeypatch, world, "verdicts", "one", "--max_length", MAX_LENGTH)
    # On a CPU too: with --cpu in place of --multi_gpu only one process is started.
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--main_process_port", "0"]
    words = [
        sys.executable,
        *launcher,
        str(SCRIPT),
        *command_line(world, "verdicts", "two", "--max_length", MAX_LENGTH),
    ]
    paths = os.pathsep.join(filter(None, [str(Path(useful_code.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    finished = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows, curves = read(world / "two" / "scores.jsonl"), json.loads((world / "two" / "curves.json").read_text())
    assert json.loads((world / "two" / "run.json").read_text())["num_processes"] == 2
    assert curves == expected[1] and finished.stdout.count("report: ") == 1
    for one, other in zip(rows, expected[0], strict=True):
        for candidate, same in zip(one["candidates"], other["candidates"], strict=True):
            assert candidate["step_scores"] == pytest.approx(same["step_scores"], abs=TOLERANCE)
    assert not list((world / "two").glob("*.part-*"))
