"""What a run of a process or outcome model leaves beside its weights: run.json, report.html, and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from first_errors import first_error, first_error_numbers
from solution_picture import Solution, solution_picture
from transformers import Trainer

from useful_code import metrics, report_figures
from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.read_rows import report_counts
from useful_code.report import Picture, Table, table_text, write_report
from useful_code.run_info import git_commit, write_run_info
from useful_code.training.data import TrainingData
from useful_code.training.record import data_counts, with_interval

UNKNOWN = -100  # a step without label
CURVES = {
    "loss": ("Loss", "nats per label", np.log(2)),
    "step_accuracy": ("Step accuracy", "share of labelled steps", 0.5),
    "accuracy": ("Accuracy", "share of solutions", 0.5),
}


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
    signed, _ = _known(rows, log_odds_after)
    pictures = [
        Picture("curves", report_figures.training_curves(history, CURVES), "Training, step by step."),
        Picture(
            "reliability",
            report_figures.reliability_diagram(signed),
            "Stated confidence of a sign against how often it was right.",
        ),
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
    """Accuracy over the labelled steps with its interval (steps of one problem resampled together), the floor of the
    commoner label, calibration, and, of steps, how first errors are found. `log_odds` (N, K)."""
    signed, places = _known(rows, log_odds)  # (M,)
    labels = np.array([rows[i]["targets"][k] for i, k in places])
    z = np.where(labels > 0.5, signed, -signed)
    outcomes = metrics.pair_outcomes(signed)  # right, wrong; a score of exactly one half is wrong
    prompts = [prompt_key(prompt_of(dict(row))) for row in rows]
    soft = np.array([value for row in rows for value in row["targets"] if value != UNKNOWN])
    losses = np.concatenate([_losses(row["targets"], of_row) for row, of_row in zip(rows, log_odds, strict=True)])
    found: dict[str, Any] = {
        "accuracy": float(outcomes.mean()),
        "accuracy_interval": list(metrics.bootstrap_interval(outcomes, groups=[prompts[i] for i, _ in places])),
        "commoner_label": float(max((labels > 0.5).mean(), (labels < 0.5).mean())),
        "accuracy_of_right": _mean(outcomes[labels > 0.5]),
        "accuracy_of_wrong": _mean(outcomes[labels < 0.5]),
        "loss": float(losses.mean()),
        "expected_calibration_error": metrics.expected_calibration_error(
            *metrics.preference_confidence(signed), lowest=0.5
        ),
        "mean_probability": float(metrics.sigmoid(z).mean()),
        "mean_label": float(soft.mean()),
        "labels": len(labels),
        "solutions": len(rows),
        "problems": len(set(prompts)),
    }
    if of_steps:
        marked = [i for i, row in enumerate(rows) if UNKNOWN not in row["targets"][: _first_zero(row["targets"]) + 1]]
        if marked:
            found["first_error"] = first_error_numbers(
                [first_error(metrics.sigmoid(log_odds[i][: len(rows[i]["targets"])])) for i in marked],
                [_first_wrong(rows[i]["targets"]) for i in marked],
                [prompts[i] for i in marked],
            )
    return found


def usage(output_dir: str, of_steps: bool) -> str:
    """The lines that use the model."""
    best = f"python math-rm/best_of_n.py --reward_name_or_path {output_dir} --dataset candidates.jsonl --output_dir out"
    find = f"\npython math-rm/find_errors.py --reward_name_or_path {output_dir} --dataset steps.jsonl --output_dir out"
    return best + (find if of_steps else "")


def _known(rows: Sequence[Mapping[str, Any]], log_odds: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Log-odds of the right sign (M,), and (row, step) of each; labels of one half are left out."""
    places = [(i, k) for i, row in enumerate(rows) for k, y in enumerate(row["targets"]) if y not in (UNKNOWN, 0.5)]
    signed = [log_odds[i, k] * (1 if rows[i]["targets"][k] > 0.5 else -1) for i, k in places]
    return np.array(signed, dtype=float), places


def _losses(targets: Sequence[float], log_odds: np.ndarray) -> np.ndarray:
    y, z = np.array(targets), log_odds[: len(targets)].astype(float)
    losses = y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)
    return losses[y != UNKNOWN]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _first_zero(targets: Sequence[float]) -> int:
    """The first step that is marked as wrong, or the last step."""
    return next((k for k, label in enumerate(targets) if label == 0), len(targets) - 1)


def _first_wrong(targets: Sequence[float]) -> int | None:
    return next((k for k, label in enumerate(targets) if label == 0), None)


def _example(rows: Sequence[Mapping[str, Any]], log_odds: np.ndarray) -> list[Picture]:
    """One held-out solution with a known mistake, its steps coloured by score: a middle one, not the best."""
    wrong = [i for i, row in enumerate(rows) if 0.0 in row["targets"]] or list(range(len(rows)))
    i = wrong[len(wrong) // 2]
    row, scores = rows[i], metrics.sigmoid(log_odds[i][: len(rows[i]["targets"])]).tolist()
    figure = solution_picture([Solution(row["prompt"], row["completions"], scores, _first_wrong(row["targets"]))])
    return [Picture("example", figure, "A held-out solution that was not chosen for its score; colours are scores.")]


def _table(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Table:
    def row(name: str, value) -> list[str]:
        return [name, *(value(numbers) for numbers in (before, after) if numbers is not None)]

    def number(key: str):
        return lambda numbers: "-" if numbers[key] is None else f"{numbers[key]:.3f}"

    def of_first_error(key: str):
        return lambda numbers: "none" if np.isnan(numbers["first_error"][key]) else f"{numbers['first_error'][key]:.3f}"

    rows = [
        row("accuracy", with_interval),
        row("floor: always the commoner label", number("commoner_label")),
        row("accuracy where the label is right", number("accuracy_of_right")),
        row("accuracy where the label is wrong", number("accuracy_of_wrong")),
        row("loss (nats)", number("loss")),
        row("expected calibration error", number("expected_calibration_error")),
    ]
    if "first_error" in after:
        rows += [
            row("first error found exactly", of_first_error("accuracy_wrong")),
            row("right solutions left alone", of_first_error("accuracy_right")),
            row("first-error F1", of_first_error("f1")),
        ]
    return Table(
        f"Held out: {after['labels']:,} labels of {after['solutions']:,} solutions of {after['problems']:,} problems. "
        "Intervals: 95 %, problems resampled.",
        ["", *(["before"] if before is not None else []), "after"],
        rows,
    )


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
