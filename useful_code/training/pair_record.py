"""What a run of a pairwise model leaves beside its weights: run.json, report.html with pictures, and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer

from useful_code import metrics, report_figures
from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.pair_probability import BothOrders, judge_both_orders, log_odds
from useful_code.read_rows import report_counts
from useful_code.report import Picture, Table, table_text, write_report
from useful_code.run_info import git_commit, write_run_info
from useful_code.training.data import TrainingData
from useful_code.training.record import data_counts, response_lengths, with_interval

CURVES = {
    "loss": ("Loss", "nats per verdict", np.log(2)),
    "accuracy": ("Accuracy", "share of verdicts right", 0.5),
    "position_bias": ("Position bias", "mean change of P with the order", None),
}


def write_pair_record(
    trainer: Trainer,
    *,
    arguments: Mapping[str, Any],
    data: TrainingData,
    logits_before: np.ndarray | None,  # (N, 2, K) both orders of every pair; None: not measured before training
    logits_after: np.ndarray,  # (N, 2, K)
    started_at: float,
    method: str = "pairwise preference",
    curves: Mapping[str, tuple[str, str, float | None]] = CURVES,
    more_tables: Sequence[Table] = (),
    **extra: Any,
) -> None:
    """Write the record to the output directory and print its held-out table. Called by all processes; the main one
    works. `data.held_out` rows carry `label`; pairs without a winner (label 0.5) are left out of every number.
    `more_tables` follow the held-out table; `extra` goes into run.json.
    """
    if not trainer.is_world_process_zero():
        return
    output_dir, history = str(trainer.args.output_dir), trainer.state.log_history
    decided = [i for i, row in enumerate(data.held_out) if row["label"] > 0.5]
    rows = [data.held_out[i] for i in decided]
    both_after = _both(logits_after[decided])
    after = pair_numbers(rows, both_after)
    before = None if logits_before is None else pair_numbers(rows, _both(logits_before[decided]))
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
    reliability = report_figures.reliability_diagram(log_odds(both_after.probability))
    table = _table(before, after)
    write_report(
        output_dir,
        title=f"{method[0].upper()}{method[1:]} model",
        lead=f"{arguments['model_name_or_path']}, trained on {len(data.train):,} rows of {arguments['dataset']}.",
        headline={
            "held-out accuracy": with_interval(after),
            "position bias": f"{after['position_bias']:.3f}",
            "longer answer wins": f"{after['longer_wins_accuracy']:.3f}",
        },
        figures=[
            Picture("curves", report_figures.training_curves(history, curves), "Training, step by step."),
            Picture(
                "reliability", reliability, "Stated confidence of both orders together against how often it was right."
            ),
        ],
        tables=[table, *more_tables],
        notes=[report_counts(counts) for counts in data.counts],
        commands=usage(output_dir),
    )
    write_atomically(Path(output_dir) / "README.md", _model_card(output_dir, arguments, data, after))
    tables = "\n\n".join(table_text(each) for each in (table, *more_tables))
    print(f"\n{tables}\n\nreport: {Path(output_dir) / 'report.html'}\n\n{usage(output_dir)}")


def pair_numbers(rows: Sequence[Mapping[str, Any]], both: BothOrders) -> dict[str, Any]:
    """Accuracy of both orders together with its interval (pairs of one prompt resampled together), of each order alone,
    what the order changes, calibration, and accuracy by which answer is longer. `both` is about `chosen` as y1."""
    margins = both.probability - 0.5  # (B,)
    outcomes = metrics.pair_outcomes(margins, tie_credit=0.5)
    lengths = response_lengths(rows)  # (B, 2) characters
    longer = lengths[:, 0] - lengths[:, 1]
    groups = [prompt_key(prompt_of(dict(row))) for row in rows]
    by_length = metrics.length_report([0.0] * len(rows), longer, margins, longer, tie_credit=0.5)
    sides = ("chosen_longer", "chosen_shorter", "longer_wins_accuracy")
    return {
        "accuracy": float(outcomes.mean()),
        "accuracy_interval": list(metrics.bootstrap_interval(outcomes, groups=groups)),
        "accuracy_chosen_first": metrics.pair_accuracy(margins + both.position_bias / 2, tie_credit=0.5),
        "accuracy_chosen_second": metrics.pair_accuracy(margins - both.position_bias / 2, tie_credit=0.5),
        **both.summary(),
        "pairs": len(rows),
        "prompts": len(set(groups)),
        "expected_calibration_error": metrics.expected_calibration_error(
            *metrics.preference_confidence(log_odds(both.probability)), lowest=0.5
        ),
        # Targets a little under 1 (Platt 1999): without them, pairs that are all right would give a temperature of 0.
        "temperature": metrics.fit_temperature(
            log_odds(both.probability), np.full(len(rows), (len(rows) + 1) / (len(rows) + 2))
        ),
        **{side: by_length[side] for side in sides},
    }


def usage(output_dir: str) -> str:
    """The lines that use the model."""
    return (
        f"python useful_code/rank_responses.py --reward_name_or_path {output_dir} --input rows.jsonl "
        "--output ranked.jsonl\n"
        f"python useful_code/eval_reward_bench_pm.py --reward_name_or_path {output_dir}"
    )


def _both(logits: np.ndarray) -> BothOrders:
    return judge_both_orders(logits[:, 0], logits[:, 1])


def _table(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Table:
    def row(name: str, value) -> list[str]:
        return [name, *(value(numbers) for numbers in (before, after) if numbers is not None)]

    def number(key: str):
        return lambda numbers: f"{numbers[key]:.3f}"

    def side(key: str):
        return lambda n: "-" if n[key]["accuracy"] is None else f"{n[key]['accuracy']:.3f}"

    return Table(
        f"Held-out pairs: {after['pairs']:,} of {after['prompts']:,} prompts. Intervals: 95 %, prompts resampled.",
        ["", *(["before"] if before is not None else []), "after"],
        [
            row("accuracy, both orders", with_interval),
            row("accuracy, chosen shown first", number("accuracy_chosen_first")),
            row("accuracy, chosen shown second", number("accuracy_chosen_second")),
            row("position bias (mean size)", number("position_bias")),
            row("advantage of the first place", number("first_place_advantage")),
            row("winner depends on the order", number("flip_rate")),
            row("expected calibration error", number("expected_calibration_error")),
            row("accuracy where chosen is longer", side("chosen_longer")),
            row("accuracy where chosen is shorter", side("chosen_shorter")),
            row("floor: the longer answer wins", number("longer_wins_accuracy")),
        ],
    )


def _model_card(output_dir: str, arguments: Mapping[str, Any], data: TrainingData, after: Mapping[str, Any]) -> str:
    counts = "\n".join(f"- {report_counts(part)}" for part in data.counts)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {arguments["model_name_or_path"]}
tags: [preference-model]
---
# Pairwise preference model

A causal language model. In the turn of the user it reads "[CONTEXT] ... [RESPONSE A] ... [RESPONSE B] ..."; its next
token is the verdict, and `pair_labels` in config.json names them all. Ask in both orders and take the mean.

- Base model: `{arguments["model_name_or_path"]}`
- Trained on {len(data.train):,} rows of `{arguments["dataset"]}`, seed {arguments["seed"]}, commit {git_commit()}
{counts}
- Held-out accuracy: {with_interval(after)}, {after["pairs"]:,} pairs of {after["prompts"]:,} prompts, none of them in
  training; "the longer answer wins" reaches {after["longer_wins_accuracy"]:.3f}
- Position bias: {after["position_bias"]:.3f} on average; the winner depends on the order in {after["flip_rate"]:.1%}

```
{usage(output_dir)}
```

Every argument, version and number is in `run.json`; pictures are in `report.html`. Licence: that of the base model and
of the data; not decided by this run.
"""
