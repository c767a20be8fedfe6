"""Command: augmented pairs -> all originals, and the comparisons that a model of the originals does not get right yet.

    python rrm/filter_pairs.py --reward_name_or_path runs/rrm-plain --dataset pairs/hh-rrm --output pairs/filtered
    accelerate launch --num_processes 8 rrm/filter_pairs.py ...      # the same on eight GPUs

P_hat is P(left is better) by a model that was trained on the original rows: a pairwise one, which reads both orders, or
a scalar one. P* is 1 where the left answer wins and 1/2 for a tie. Kept are (METHODS 4.4)

    every original row, unchanged and not scored;    every augmented row with |P_hat - P*| >= least_gap

Scored rows have `rrm_probability`, P_hat in six digits. The folder is like that of augment_pairs.py. Rows over
`--max_length` are refused and counted, not cut. Rows are taken `CHUNK_ROWS` at a time, so that memory does not grow
with the data; an interrupted run goes on where it stopped, also with another --least_gap.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from augment_pairs import with_columns
from fourteen_comparisons import TYPES
from judge_rows import NEW_COLUMNS, Judge, dismiss_helpers, help_to_score
from read_examples import other_columns

from useful_code.converting.inputs import check_apart, describe_inputs, hub_commit, input_files, progress_bar, read_all
from useful_code.converting.inputs import sha256_of as hash_of_file
from useful_code.converting.parts import Part, write_parts
from useful_code.converting.publishing import Split, give_up, publish
from useful_code.converting.schemas import schema_of
from useful_code.converting.shards import FORMATS, REFUSED, write_refused_rows, write_shards
from useful_code.converting.work import (
    discard_work,
    fingerprint,
    finished_card,
    interruptions_told,
    only_run,
    output_folder,
    start_work,
)
from useful_code.processes import start_processes
from useful_code.read_rows import RowCounts, no_usable_row, report_counts
from useful_code.run_info import git_commit
from useful_code.scoring import Scorer, add_length_argument, add_model_arguments, add_tie_argument, load_scorer
from useful_code.user_errors import UserError, exit_cleanly

CODE = ("filter_pairs.py", "judge_rows.py", "fourteen_comparisons.py", "read_examples.py")  # decides the bytes
CHUNK_ROWS = 10_000  # whose token ids are in memory at once
DROPPED = 255  # the code of a row that is left out without a line in the refused rows: the card counts them


def is_kept(numbers: np.ndarray, gaps: np.ndarray, least_gap: float) -> np.ndarray:
    """Of rows with these numbers and gaps (rows,): originals, and gaps of at least `least_gap`: (rows,) of bool."""
    return (numbers == 0) | (gaps >= least_gap)


def filter_pairs(scorer: Scorer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the filtered data set and return its card. Raises `UserError`; until then an older output stays."""
    folder = output_folder(arguments.output)
    check_apart([arguments.dataset], folder)
    with only_run(folder):
        return _filter_pairs(scorer, arguments, folder)


def _filter_pairs(scorer: Scorer, arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    dataset, split, least_gap = arguments.dataset, arguments.dataset_split, arguments.least_gap
    names = input_files([dataset])
    revision = hub_commit([dataset], None)
    options = {
        "reward_name_or_path": arguments.reward_name_or_path,
        "model_fingerprint": scorer.fingerprint,
        "labels": ",".join(scorer.verdicts.labels) if scorer.verdicts else None,
        "max_length": arguments.max_length,
        "split": split,
    }
    plan = options | {
        "inputs": describe_inputs([dataset], names, revision),
        "chat_template": scorer.template.tokenizer.chat_template,
        "code_of_rrm": [hash_of_file(Path(__file__).with_name(name)) for name in CODE],
    }
    made_from = fingerprint(plan | {"least_gap": least_gap, "format": arguments.format})
    if done := finished_card(output, made_from):
        print(f"{output}: already made from these inputs with this model and these options")
        dismiss_helpers()
        return done
    work = start_work(output, fingerprint(plan))
    judge = Judge(scorer, arguments.max_length, work)
    load_options = {"revision": revision} if revision else {}
    with progress_bar(list(names), "rows") as progress:
        raw = ([row] for row in read_all([dataset], names, split, **load_options))
        parts = write_parts(raw, judge, work, 1, progress, CHUNK_ROWS)
    dismiss_helpers()
    refused = sum((part.reasons for part in parts), Counter())
    write_refused_rows(parts, [np.zeros(0)] * len(parts), work / REFUSED)
    counts = RowCounts(dataset, sum(part.read for part in parts), sum(part.used for part in parts), refused)
    if not counts.kept:
        counts.refused_path = str(give_up(output, work))
        raise UserError(no_usable_row(counts))
    numbers, gaps = _of_all(parts, "numbers", np.uint8), _of_all(parts, "gaps", np.float64)
    kept = is_kept(numbers, gaps, least_gap)
    if not numbers.any():
        discard_work(work)
        raise UserError(f"{dataset}: no row has an rrm_type, so there is nothing to filter; run augment_pairs.py first")
    if not kept.any():
        raise UserError(f"{dataset}: no gap is {least_gap} or more, and there are no originals. Lower --least_gap")
    codes = np.split(np.where(kept, 0, DROPPED).astype(np.uint8), np.cumsum([part.rows for part in parts])[:-1])
    schema = with_columns(schema_of("pairs"), NEW_COLUMNS)
    shards = write_shards(parts, codes, work / "shards", schema, "pairs", arguments.format)
    columns = other_columns(parts)
    card: dict[str, Any] = {
        "title": f"{output.name}, filtered",
        "kind": "pairs",
        "origin": "the rows below, augmented, less what a model of the originals gets right (RRM, arXiv 2409.13156)",
        "licence": "that of the rows below",
        "raw_fields": "those of augment_pairs.py" + (f", without {', '.join(columns)}" if columns else ""),
        "rule": f"every original, and every comparison where the model is at least {least_gap} off",
        "inputs": plan["inputs"],
        "options": options | {"least_gap": least_gap},
        "code_commit": git_commit(),
        "made_from": made_from,
        "rows_read": counts.read,
        "rows_used": int(kept.sum()),
        "refused": dict(sorted(refused.items())),
        "dropped": {},
        "rows_kept": shards.statistics.rows,
        "statistics": shards.statistics.summary(),
        "counts": {
            "Kept, by rrm_type": _by_type(numbers[kept], 0),
            f"Dropped, by rrm_type: the model is less than {least_gap} off": _by_type(numbers[~kept], 1),
        },
        "mean_gaps": {  # null where there are no such rows
            "off_topic": _mean(gaps[(numbers > 0) & (numbers < 9)]),
            "ties": _mean(gaps[numbers > 8]),
        },
    }
    _, rows_of = np.unique(_of_all(parts, "prompts", np.uint64)[kept], return_counts=True)
    spread = sorted(Counter(rows_of.tolist()).items())
    card |= {"prompts": len(rows_of), "prompts_by_number_of_rows": {str(rows): number for rows, number in spread}}
    publish(output, work, card, [Split(shards, "", "train")], schema)
    return card


def _of_all(parts: list[Part], name: str, kind: type) -> np.ndarray:
    return np.concatenate([np.fromfile(part.file(f".{name}"), kind) for part in parts])


def _by_type(numbers: np.ndarray, first: int) -> dict[str, int]:
    rows = np.bincount(numbers, minlength=len(TYPES)).tolist()
    return {f"{number} {TYPES[number]}": rows[number] for number in range(first, len(TYPES))}


def _mean(gaps: np.ndarray) -> float | None:
    return round(float(gaps.mean()), 4) if len(gaps) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_tie_argument(parser)
    add_length_argument(parser)
    add = parser.add_argument
    add("--dataset", required=True, help="What augment_pairs.py wrote: a folder, a file or a hub data set.")
    add("--dataset_split", help="Split of a hub data set.")
    add("--output", required=True, help="A folder. What a former run wrote there is replaced when this one is done.")
    add("--least_gap", type=float, default=0.2, help="Keep where the model is at least so far off. Default: 0.2.")
    add("--format", choices=FORMATS, default="parquet", help="Of the files. Default: parquet.")
    arguments = parser.parse_args()
    if not 0 <= arguments.least_gap <= 1:
        raise UserError(f"--least_gap is {arguments.least_gap}; it must be at least 0 and at most 1")
    state = start_processes()
    scorer = load_scorer(arguments, state)
    if not state.is_main_process:
        return help_to_score(scorer)
    with interruptions_told(arguments.output):
        card = filter_pairs(scorer, arguments)
    used = card["rows_read"] - sum(card["refused"].values())
    refused_path = str(Path(arguments.output) / REFUSED)
    print(report_counts(RowCounts(arguments.dataset, card["rows_read"], used, Counter(card["refused"]), refused_path)))
    print(summary(card))
    print(f"Rows and data card are in {arguments.output}")


def summary(card: dict[str, Any]) -> str:
    """One line: what stays of the off-topic comparisons and of the ties."""
    kept, dropped = (list(counts.values()) for counts in card["counts"].values())
    parts = [f"{kept[0]:,} originals"]
    for name, first, last in (("off-topic comparisons", 1, 9), ("ties", 9, 15)):
        stay = sum(kept[first:last])
        parts.append(f"{stay:,} of {stay + sum(dropped[first - 1 : last - 1]):,} {name}")
    return f"kept: {', '.join(parts)} (gap of at least {card['options']['least_gap']})"


if __name__ == "__main__":
    exit_cleanly(main)
