"""What a training run leaves beside its weights: run.json, report.html with pictures, and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer

from useful_code import metrics, report_figures
from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.read_rows import report_counts
from useful_code.report import Picture, Table, table_text, write_report
from useful_code.run_info import git_commit, write_run_info
from useful_code.training.data import TrainingData


def write_training_record(
    trainer: Trainer,
    *,
    method: str,
    arguments: Mapping[str, Any],
    data: TrainingData,
    rewards_before: np.ndarray | None,  # (N, 2) chosen, rejected; None: not measured before training
    rewards_after: np.ndarray,  # (N, 2)
    started_at: float,
    curves: Mapping[str, tuple[str, str, float | None]] = report_figures.CURVES,
    more_tables: Sequence[Table] = (),
    **extra: Any,
) -> None:
    """Write the record of a scalar reward model to the output directory and print its held-out table.

    Called by all processes; the main one works. `data.held_out` rows carry `label`; pairs without a winner (label 0.5)
    are left out of every number. `more_tables` follow the held-out table; `extra` goes into run.json.
    """
    if not trainer.is_world_process_zero():
        return
    output_dir, history = str(trainer.args.output_dir), trainer.state.log_history
    decided = [i for i, row in enumerate(data.held_out) if row["label"] > 0.5]
    rows = [data.held_out[i] for i in decided]
    after = held_out_numbers(rows, rewards_after[decided])
    before = None if rewards_before is None else held_out_numbers(rows, rewards_before[decided])
    write_run_info(
        output_dir,
        arguments,
        started_at,
        method=method,
        held_out=after,
        held_out_before=before,
        **data_counts(data, len(decided)),
        **extra,
    )
    tables = [_table(before, after), *more_tables]
    write_report(
        output_dir,
        title=f"{method} reward model",
        lead=f"{arguments['model_name_or_path']}, trained on {len(data.train):,} rows of {arguments['dataset']}.",
        headline={
            "held-out accuracy": with_interval(after),
            "calibration error": f"{after['expected_calibration_error']:.3f}",
            "longer answer wins": f"{after['length']['longer_wins_accuracy']:.3f}",
        },
        figures=_pictures(rows, history, curves, rewards_before, rewards_after, decided),
        tables=tables,
        notes=[report_counts(counts) for counts in data.counts],
        commands=usage(output_dir),
    )
    write_atomically(Path(output_dir) / "README.md", _model_card(output_dir, method, arguments, data, after))
    text = "\n\n".join(map(table_text, tables))
    print(f"\n{text}\n\nreport: {Path(output_dir) / 'report.html'}\n\n{usage(output_dir)}")


def data_counts(data: TrainingData, num_decided: int) -> dict[str, Any]:
    """For run.json: what became of the rows; `num_decided` held-out pairs have a winner."""
    return {
        "rows": [vars(counts) | {"refused": dict(counts.refused)} for counts in data.counts],  # asdict breaks a Counter
        "num_train": len(data.train),
        "num_held_out": len(data.held_out),
        "num_without_winner": len(data.held_out) - num_decided,
        "num_dropped": data.dropped,
    }


def held_out_numbers(rows: Sequence[Mapping[str, Any]], rewards: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval (pairs of one prompt resampled together), calibration and length report.

    `rewards` (B, 2): chosen, rejected; lengths are characters of the response.
    """
    margins = (rewards[:, 0] - rewards[:, 1]).astype(float)  # (B,)
    lengths = response_lengths(rows)  # (B, 2)
    outcomes = metrics.pair_outcomes(margins)
    groups = [prompt_key(prompt_of(dict(row))) for row in rows]
    return {
        "accuracy": metrics.pair_accuracy(margins),
        "accuracy_interval": list(metrics.bootstrap_interval(outcomes, groups=groups)),
        "pairs": len(rows),
        "prompts": len(set(groups)),
        "loss": float(np.logaddexp(0, -margins).mean()),
        "mean_margin": float(margins.mean()),
        "equal_rewards": float((margins == 0).mean()),
        "expected_calibration_error": metrics.expected_calibration_error(
            *metrics.preference_confidence(margins), lowest=0.5
        ),
        "temperature": metrics.fit_temperature(margins),
        "length": metrics.length_report(
            rewards.astype(float).flatten(), lengths.flatten(), margins, lengths[:, 0] - lengths[:, 1]
        ),
    }


def response_lengths(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Characters of the last message of chosen and rejected: (B, 2). The prompt's length says nothing of a taste."""
    return np.array([[len(row[side][-1]["content"]) for side in ("chosen", "rejected")] for row in rows], dtype=float)


def usage(output_dir: str) -> str:
    """The three lines that use the model, for a report, a model card and the end of a run."""
    return (
        f"python useful_code/score.py --reward_name_or_path {output_dir} --input rows.jsonl --output scores.jsonl\n"
        f"python useful_code/eval_reward_bench_bt.py --reward_name_or_path {output_dir}"
        " --record_dir bench_mark_eval.txt\n"
        f'AutoModelForSequenceClassification.from_pretrained("{output_dir}")  # plain Transformers: logits are rewards'
    )


def _table(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Table:
    def row(name: str, value) -> list[str]:
        return [name, *(value(numbers) for numbers in (before, after) if numbers is not None)]

    def side(key: str):
        return lambda n: "-" if n["length"][key]["accuracy"] is None else f"{n['length'][key]['accuracy']:.3f}"

    def correlation(n: Mapping[str, Any]) -> str:
        return "-" if n["length"]["pearson"] is None else f"{n['length']['pearson']:.2f}"

    return Table(
        f"Held-out pairs: {after['pairs']:,} of {after['prompts']:,} prompts. Intervals: 95 %, prompts resampled.",
        ["", *(["before"] if before is not None else []), "after"],
        [
            row("accuracy", with_interval),
            row("loss", lambda n: f"{n['loss']:.3f}"),
            row("mean margin", lambda n: f"{n['mean_margin']:.3f}"),
            row("equal rewards (count as wrong)", lambda n: f"{n['equal_rewards']:.3f}"),
            row("expected calibration error", lambda n: f"{n['expected_calibration_error']:.3f}"),
            row("accuracy where chosen is longer", side("chosen_longer")),
            row("accuracy where chosen is shorter", side("chosen_shorter")),
            row("Pearson of reward with response length", correlation),
            row("floor: the longer answer wins", lambda n: f"{n['length']['longer_wins_accuracy']:.3f}"),
        ],
    )


def with_interval(numbers: Mapping[str, Any]) -> str:
    low, high = numbers["accuracy_interval"]
    return f"{numbers['accuracy']:.3f} ({low:.3f}-{high:.3f})"


def _pictures(rows, history, curves, rewards_before, rewards_after, decided) -> list[Picture]:
    after = rewards_after[decided]  # (B, 2)
    panels = {} if rewards_before is None else {"before training": tuple(rewards_before[decided].T)}
    panels["after training"] = tuple(after.T)
    lengths = response_lengths(rows)  # (B, 2)
    return [
        Picture("curves", report_figures.training_curves(history, curves), "Training, step by step."),
        Picture(
            "rewards", report_figures.reward_histograms(panels), "Held-out rewards: the two shapes should come apart."
        ),
        Picture(
            "reliability",
            report_figures.reliability_diagram(after[:, 0] - after[:, 1]),
            "Stated confidence against how often it was right: on the diagonal the model means what it says.",
        ),
        Picture(
            "length",
            report_figures.reward_against_length(after[:, 0], lengths[:, 0], after[:, 1], lengths[:, 1], "characters"),
            "Reward against response length: a slope here is a preference for long or short answers.",
        ),
    ]


def _model_card(output_dir: str, method: str, arguments: Mapping[str, Any], data: TrainingData, after) -> str:
    counts = "\n".join(f"- {report_counts(part)}" for part in data.counts)
    return f"""---
library_name: transformers
pipeline_tag: text-classification
base_model: {arguments["model_name_or_path"]}
tags: [reward-model]
---
# {method} reward model

A plain one-label sequence classifier. The reward of a conversation is the raw logit; only differences for the same
prompt mean anything: P(first better) = sigmoid(difference).

- Base model: `{arguments["model_name_or_path"]}`
- Trained on {len(data.train):,} rows of `{arguments["dataset"]}`, seed {arguments["seed"]}, commit {git_commit()}
{counts}
- Held-out accuracy: {with_interval(after)}, {after["pairs"]:,} pairs of {after["prompts"]:,} prompts, none of them in
  training; "the longer answer wins" reaches {after["length"]["longer_wins_accuracy"]:.3f}
- Expected calibration error: {after["expected_calibration_error"]:.3f}

```
{usage(output_dir)}
```

Every argument, version and number is in `run.json`; pictures are in `report.html`. Licence: that of the base model and
of the data; not decided by this run.
"""
