"""What a run of a process or outcome model leaves beside its weights: run.json, report.html, and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from first_errors import first_error, first_error_floors, first_error_numbers, marked_error
from math_models import UNKNOWN
from scipy.stats import entropy
from solution_picture import Solution, solution_picture
from transformers import Trainer

from useful_code import metrics, report_figures
from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.read_rows import report_counts
from useful_code.reasons import RowRefused
from useful_code.report import Picture, Table, table_text, write_report
from useful_code.run_info import git_commit, write_run_info
from useful_code.training.data import TrainingData
from useful_code.training.record import data_counts, with_interval

GUESS = "a random step or none"  # of the guessers that read nothing, the one with an F1 above 0


def write_math_record(
    trainer: Trainer,
    *,
    method: str,  # "process reward" or "outcome reward"
    arguments: Mapping[str, Any],
    data: TrainingData,
    log_odds_before: np.ndarray | None,  # (N, K) filled at the end of each row; None: not measured before training
    log_odds_after: np.ndarray,  # (N, K)
    started_at: float,
    **extra: Any,
) -> None:
    """Write the record to the output directory and print its held-out table. Called by all processes; the main one
    works. `data.held_out` rows carry `places` and `targets`; `extra` goes into run.json."""
    if not trainer.is_world_process_zero():
        return
    output_dir, history = str(trainer.args.output_dir), trainer.state.log_history
    rows, of_steps = data.held_out, method.startswith("process")
    after = held_out_numbers(rows, log_odds_after, of_steps)
    before = None if log_odds_before is None else held_out_numbers(rows, log_odds_before, of_steps)
    counts = data_counts(data, len(rows))
    del counts["num_without_winner"]
    write_run_info(
        output_dir, arguments, started_at, method=method, held_out=after, held_out_before=before, **counts, **extra
    )
    table = _table(before, after)
    labels, z, _ = _labelled(rows, log_odds_after)
    reliability = report_figures.reliability_diagram(
        z, correct=_credit(labels, z), unit="steps" if of_steps else "solutions"
    )
    curves = {  # with what a constant reaches on the held-out labels
        "loss": ("Loss", "nats per label", after["constant_loss"]),
        "step_accuracy": ("Step accuracy", "share of labelled steps", after["commoner_label"]),
        "accuracy": ("Accuracy", "share of solutions", after["commoner_label"]),
    }
    pictures = [
        Picture("curves", report_figures.training_curves(history, curves), "Training, step by step."),
        Picture("reliability", reliability, "Stated confidence of a sign against how often it was right."),
    ]
    if of_steps:
        pictures += _example(rows, log_odds_after)
    write_report(
        output_dir,
        title=f"{method[0].upper()}{method[1:]} model",
        lead=f"{arguments['model_name_or_path']}, trained on {len(data.train):,} solutions of {arguments['dataset']}.",
        headline={
            "held-out accuracy": with_interval(after),
            "calibration error": f"{after['expected_calibration_error']:.3f}",
            "always the commoner label": f"{after['commoner_label']:.3f}",
        },
        figures=pictures,
        tables=[table],
        notes=[report_counts(counts) for counts in data.counts],
        commands=usage(output_dir, of_steps),
    )
    write_atomically(Path(output_dir) / "README.md", _model_card(output_dir, method, arguments, data, after))
    print(f"\n{table_text(table)}\n\nreport: {Path(output_dir) / 'report.html'}\n\n{usage(output_dir, of_steps)}")


def held_out_numbers(rows: Sequence[Mapping[str, Any]], log_odds: np.ndarray, of_steps: bool) -> dict[str, Any]:
    """Accuracy over the labels other than one half with its interval (those of one problem resampled together), the
    floor of the commoner label, the loss beside that of a constant, calibration, and, of steps, how first errors are
    found where the labels tell. `log_odds` (N, K)."""
    labels, z, row_of = _labelled(rows, log_odds)  # (M,) each
    prompts = [prompt_key(prompt_of(dict(row))) for row in rows]
    decided, right = labels != 0.5, labels > 0.5
    outcomes = metrics.pair_outcomes(np.where(right, z, -z))  # right, wrong; a score of exactly one half is wrong
    low, high = metrics.bootstrap_interval(outcomes[decided], groups=[prompts[i] for i in row_of[decided]])
    found: dict[str, Any] = {
        "accuracy": float(outcomes[decided].mean()),
        "accuracy_interval": [low, high],
        "commoner_label": float(max(right[decided].mean(), 1 - right[decided].mean())),
        "accuracy_of_right": _mean(outcomes[decided & right]),
        "accuracy_of_wrong": _mean(outcomes[decided & ~right]),
        "loss": float((labels * np.logaddexp(0, -z) + (1 - labels) * np.logaddexp(0, z)).mean()),
        "constant_loss": float(entropy([labels.mean(), 1 - labels.mean()])),
        "expected_calibration_error": metrics.expected_calibration_error(
            metrics.sigmoid(np.abs(z)), _credit(labels, z), lowest=0.5
        ),
        "mean_probability": float(metrics.sigmoid(z).mean()),
        "mean_label": float(labels.mean()),
        "labels": len(labels),
        "solutions": len(rows),
        "problems": len(set(prompts)),
    }
    marked = {i: place for i, row in enumerate(rows) for place in _marked(row["targets"])} if of_steps else {}
    if marked:
        true, groups = list(marked.values()), [prompts[i] for i in marked]
        num_steps = [len(rows[i]["targets"]) for i in marked]
        scores = [metrics.sigmoid(log_odds[i][:size]) for i, size in zip(marked, num_steps, strict=True)]
        found["first_error"] = first_error_numbers([first_error(each) for each in scores], true, groups)
        found["first_error_guess"] = first_error_floors(true, num_steps, groups)[GUESS]
    return found


def usage(output_dir: str, of_steps: bool) -> str:
    """The lines that use the model."""
    best = f"python math-rm/best_of_n.py --reward_name_or_path {output_dir} --dataset candidates.jsonl --output_dir out"
    find = f"\npython math-rm/find_errors.py --reward_name_or_path {output_dir} --dataset steps.jsonl --output_dir out"
    return best + (find if of_steps else "")


def _labelled(rows: Sequence[Mapping[str, Any]], log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The known labels (M,), their log-odds (M,), and the row of each (M,)."""
    places = [(i, k) for i, row in enumerate(rows) for k, label in enumerate(row["targets"]) if label != UNKNOWN]
    labels = np.array([rows[i]["targets"][k] for i, k in places], dtype=float)
    return labels, np.array([log_odds[i, k] for i, k in places], dtype=float), np.array([i for i, _ in places])


def _credit(labels: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """How right the sign of the log-odds is, (M,): a soft label of 0.75 is three quarters of a +."""
    return np.where(log_odds > 0, labels, 1 - labels)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _marked(targets: Sequence[float]) -> list[int | None]:
    """The first wrong step, or None for no wrong one; an empty list where the labels do not tell."""
    try:
        return [marked_error([None if label == UNKNOWN else label for label in targets])]
    except RowRefused:
        return []


def _example(rows: Sequence[Mapping[str, Any]], log_odds: np.ndarray) -> list[Picture]:
    """One held-out solution with a known mistake, its steps coloured by score: a middle one, not the best."""
    wrong = [i for i, row in enumerate(rows) if any(place is not None for place in _marked(row["targets"]))]
    wrong = wrong or list(range(len(rows)))
    i = wrong[len(wrong) // 2]
    row, scores = rows[i], metrics.sigmoid(log_odds[i][: len(rows[i]["targets"])]).tolist()
    figure = solution_picture(
        [Solution(row["prompt"], row["completions"], scores, next(iter(_marked(row["targets"])), None))]
    )
    return [Picture("example", figure, "A held-out solution that was not chosen for its score; colours are scores.")]


def _table(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Table:
    def row(name: str, value) -> list[str]:
        return [name, *(value(numbers) for numbers in (before, after) if numbers is not None)]

    def number(key: str):
        return lambda numbers: "-" if numbers[key] is None else f"{numbers[key]:.3f}"

    def of_first_error(key: str):
        return lambda numbers: _shown(numbers["first_error"][key])

    rows = [
        row("accuracy", with_interval),
        row("floor: always the commoner label", number("commoner_label")),
        row("accuracy where the label is right", number("accuracy_of_right")),
        row("accuracy where the label is wrong", number("accuracy_of_wrong")),
        row("loss (nats)", number("loss")),
        row("floor: a constant", number("constant_loss")),
        row("expected calibration error", number("expected_calibration_error")),
    ]
    if "first_error" in after:
        rows += [
            row("first error found exactly", of_first_error("accuracy_wrong")),
            row("right solutions left alone", of_first_error("accuracy_right")),
            row("first-error F1", of_first_error("f1")),
            row(f"floor: {GUESS}", lambda numbers: _shown(numbers["first_error_guess"]["f1"])),
        ]
    return Table(
        f"Held out: {after['labels']:,} labels of {after['solutions']:,} solutions of {after['problems']:,} problems. "
        "Intervals: 95 %, problems resampled.",
        ["", *(["before"] if before is not None else []), "after"],
        rows,
    )


def _shown(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"


def _model_card(output_dir: str, method: str, arguments: Mapping[str, Any], data: TrainingData, after) -> str:
    counts = "\n".join(f"- {report_counts(part)}" for part in data.counts)
    of_steps = method.startswith("process")
    tags = arguments["form"] == "tags"
    pipeline = "token-classification" if tags else "text-classification" if arguments["form"] == "scalar" else None
    reads = {
        "verdicts": "A causal language model: a chat in which the user's turns are the steps (the first behind the "
        "problem), or the whole solution; the assistant's next token, + or -, is the verdict.",
        "tags": "A token classifier: the problem, then every step with the separator of `step_separator` in "
        "config.json behind it; the labels - and + at the separator's last token are the verdict.",
        "scalar": "A sequence classifier: sigmoid(logit) is the probability that the answer is right.",
    }[arguments["form"]]
    return f"""---
library_name: transformers
pipeline_tag: {pipeline or "text-generation"}
base_model: {arguments["model_name_or_path"]}
tags: [reward-model]
---
# {"Process" if of_steps else "Outcome"} reward model for mathematics

{reads}

- Base model: `{arguments["model_name_or_path"]}`
- Trained on {len(data.train):,} solutions of `{arguments["dataset"]}`, seed {arguments["seed"]}, commit {git_commit()}
{counts}
- Held-out accuracy: {with_interval(after)}, {after["labels"]:,} labels of {after["problems"]:,} problems, none of them
  in training; always saying the commoner label reaches {after["commoner_label"]:.3f}

```
{usage(output_dir, of_steps)}
```

Every argument, version and number is in `run.json`; pictures are in `report.html`. Licence: that of the base model and
of the data; not decided by this run.
"""
