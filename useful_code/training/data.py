"""Training rows and held-out rows that share no prompt, for every recipe in the same way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from useful_code.chat_pairs import drop_prompts, prompt_key, prompt_of, split_by_prompt
from useful_code.read_rows import RowCounts, report_counts
from useful_code.training.arguments import DataArguments
from useful_code.training.same_run import describe_run
from useful_code.user_errors import UserError

LoadRows = Callable[[str, str | None, Path | None], tuple[list[dict[str, Any]], RowCounts]]


@dataclass
class TrainingData:
    """What a run trains on and is judged on; no prompt is in both."""

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    counts: list[RowCounts]  # of the training rows, and of the held-out rows where they were read apart
    dropped: int  # training rows left out because their prompt is held out
    description: dict[str, Any] = field(default_factory=dict)  # what a resumed run must have in common with this one


def load_train_and_held_out(load: LoadRows, arguments: DataArguments, train_arguments) -> TrainingData:
    """Read `arguments.dataset`, and hold out `eval_dataset` or a share of the prompts, chosen by a hash and the seed.

    `load(source, split, refused_path)` is the recipe's own reader. Every process reads all rows; the main process
    writes the refused ones to `refused_rows.jsonl` (and `refused_eval_rows.jsonl`) in the output directory and
    prints what happened. Raises UserError when nothing is left to train on or to hold out.
    """
    is_main = train_arguments.process_index == 0
    output_dir = Path(train_arguments.output_dir)
    rows, counts = load(
        arguments.dataset, arguments.dataset_split, output_dir / "refused_rows.jsonl" if is_main else None
    )
    if arguments.eval_dataset:
        held_out, eval_counts = load(
            arguments.eval_dataset,
            arguments.eval_dataset_split,
            output_dir / "refused_eval_rows.jsonl" if is_main else None,
        )
        train, dropped = drop_prompts(rows, {prompt_key(prompt_of(row)) for row in held_out})
        data = TrainingData(train, held_out, [counts, eval_counts], len(dropped))
    else:
        train, held_out = split_by_prompt(rows, arguments.held_out_share, train_arguments.seed)
        data = TrainingData(train, held_out, [counts], 0)
    if is_main:
        for part in data.counts:
            print(report_counts(part))
        print(
            f"{len(data.train):,} rows to train on, {len(data.held_out):,} held out, no prompt in both"
            + (f"; {data.dropped:,} dropped because their prompt is held out" if data.dropped else "")
        )
    if data.held_out and all(row.get("label") == 0.5 for row in data.held_out):
        raise UserError(f"none of the {len(data.held_out)} held-out rows has a winner: accuracy cannot be measured")
    if not data.train or not data.held_out:
        remedy = "another --eval_dataset" if arguments.eval_dataset else "another --held_out_share"
        raise UserError(
            f"{len(data.train)} rows to train on and {len(data.held_out)} held out: give more rows, or {remedy}"
        )
    data.description = describe_run(data.train, data.held_out, arguments, train_arguments.seed)
    return data
