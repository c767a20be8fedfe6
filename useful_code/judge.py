"""Judge responses with an instruction model, on this machine or behind an endpoint: pairs, ratings, or the best of n.

    python useful_code/judge.py --judge models/my-model --task pairwise --input rows.jsonl --output judged.jsonl
    python useful_code/judge.py --endpoint http://localhost:8000/v1 --model my-model ...    # any OpenAI-compatible one

Input rows: `{"chosen": messages, "rejected": messages}`, or `{"prompt": text or messages, "responses": [text, ...]}`;
both may have a `reference` answer. Output: the same rows in the same order with `judged`: raw texts and parsed verdicts
of every order, scores, winners, status. Pairs are judged in both orders. `--to_pairs` writes rows to train on. Every
reply is kept in `--cache`: an interrupted run goes on where it stopped, and no question is asked twice.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from useful_code.atomic_write import write_atomically
from useful_code.judging.items import TASKS, Item, read_item, training_row
from useful_code.judging.judge_items import judge_items
from useful_code.judging.options import add_judge_arguments, check_chats, load_judge, open_asker, settings_of
from useful_code.judging.summary import format_summary, summarize
from useful_code.read_rows import load_checked, report_counts
from useful_code.reasons import RowRefused
from useful_code.response_rows import add_row_arguments, check_output, write_rows
from useful_code.user_errors import UserError, exit_cleanly


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_row_arguments(parser)
    parser.add_argument("--limit", type=int, default=None, help="Judge that many rows only, the first ones.")
    parser.add_argument("--to_pairs", default=None, help="JSON lines file of chosen/rejected rows for training.")
    parser.add_argument(
        "--num_orders", type=int, default=1, help="Of best_of_n: rotations of the responses. Pairs have both orders."
    )
    add_judge_arguments(parser, TASKS)
    return parser.parse_args()


def check_outputs(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """`check_output` of every file that is written; none may be another one, or the cache."""
    files = {"--output": arguments.output, "--to_pairs": arguments.to_pairs}
    outputs = {flag: check_output(file, arguments.input, flag) for flag, file in files.items() if file is not None}
    taken = {Path(arguments.cache).resolve(): "--cache"}
    for flag, (path, _) in outputs.items():
        if path.resolve() in taken:
            raise UserError(f"{flag} {path} would overwrite {taken[path.resolve()]}; give another file")
        taken[path.resolve()] = flag
    return outputs["--output"]


def training_rows(
    items: Sequence[Item], judged: Sequence[dict[str, Any]], judge: str
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Chosen/rejected rows of the decided items, and why the others give none."""
    rows: list[dict[str, Any]] = []
    without: Counter[str] = Counter()
    for item, verdict in zip(items, judged, strict=True):
        try:
            row = training_row(item, verdict, judge)
        except RowRefused as refused:
            without[refused.reason] += 1
            continue
        if row is None:
            without[verdict["status"] if verdict["status"] != "decided" else "single_answer"] += 1
        else:
            rows.append(row)
    return rows, without


def main() -> None:
    arguments = parse_arguments()
    settings = settings_of(arguments, arguments.num_orders)
    if arguments.num_orders < 1:
        raise UserError(f"--num_orders is {arguments.num_orders}; it must be at least 1")
    output, refused_path = check_outputs(arguments)
    judge = load_judge(arguments)
    asker = open_asker(arguments, judge)
    items: list[Item] = []

    def check(row: Any) -> dict[str, Any]:
        item = read_item(row, settings.task)
        check_chats(judge, item, settings)
        items.append(item)
        return row

    rows, counts = load_checked(arguments.input, check, refused_path, arguments.split, arguments.limit)
    try:
        judged = judge_items(asker, items, settings)
    finally:
        print(asker.cost.text())
    write_rows(output, rows, [{"judged": verdict} for verdict in judged])
    print(report_counts(counts))
    print(format_summary(summarize(items, judged)))
    print(f"written to {output}")
    if arguments.to_pairs is not None:
        pairs, without = training_rows(items, judged, judge.name)
        content = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        write_atomically(arguments.to_pairs, content)
        left_out = ", ".join(f"{number:,} {reason}" for reason, number in without.most_common())
        print(
            f"{len(pairs):,} pairs written to {arguments.to_pairs}" + (f"; no pair of {left_out}" if left_out else "")
        )


if __name__ == "__main__":
    exit_cleanly(main)
