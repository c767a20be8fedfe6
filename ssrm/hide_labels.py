"""Command: labelled pairs -> a few labelled ones, many without a label, and apart from them what an audit may know.

    python ssrm/hide_labels.py --dataset pairs/hh/train --output pairs/hh-ssrm --labelled_share 0.1

To try semi-supervised training on a set whose labels are known (METHODS 3.2). It writes

    <output>/labelled.jsonl      checked pairs of a share of the prompts, as they were
    <output>/unlabelled.jsonl    {"id", "prompt", "responses": [two texts]} of the others; which text stands first is
                                 drawn by a hash of the texts, so that nothing in the file tells the better one
    <output>-audit.jsonl         {"id", "winner": 0, 1 or null without one}, for report_rounds.py alone

A prompt is in one of the two files. Which one is decided by a hash of the seed and the prompt.
"""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from useful_code.chat_pairs import check_pair, is_held_out, is_tie, preferred_first, prompt_key, prompt_of
from useful_code.converting.inputs import check_apart
from useful_code.pair_prompt import is_shown_first
from useful_code.read_rows import RowCounts, checked_rows, report_counts
from useful_code.user_errors import UserError, exit_cleanly


def hidden(row: dict[str, Any], number: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row without its label, and its line for an audit."""
    pair = preferred_first(row)
    chosen, rejected = (pair[side][-1]["content"] for side in ("chosen", "rejected"))
    chosen_first = is_shown_first(prompt_of(pair), chosen, rejected, seed)
    responses = [chosen, rejected] if chosen_first else [rejected, chosen]
    unlabelled = {"id": number, "prompt": prompt_of(pair), "responses": responses}
    has_winner = not is_tie(pair) and pair.get("label", 1.0) > 0.5  # a split vote has none
    return unlabelled, {"id": number, "winner": int(not chosen_first) if has_winner else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Checked pairs: a file, a folder or a hub data set.")
    parser.add_argument("--dataset_split", default=None, help="Split of a hub data set.")
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument("--labelled_share", type=float, default=0.1, help="Share of the prompts that keep their label.")
    parser.add_argument("--seed", type=int, default=0, help="Of the split and of which response stands first.")
    arguments = parser.parse_args()
    if not 0 < arguments.labelled_share < 1:
        raise UserError(f"--labelled_share is {arguments.labelled_share}; it must lie between 0 and 1")
    output = Path(arguments.output)
    check_apart([arguments.dataset], output)
    paths = [output / "labelled.jsonl", output / "unlabelled.jsonl", output.with_name(f"{output.name}-audit.jsonl")]
    output.mkdir(parents=True, exist_ok=True)
    counts = RowCounts(arguments.dataset)
    numbers = [0, 0]
    with ExitStack() as stack:
        partial = [path.with_name(f"{path.name}.partial") for path in paths]
        labelled, unlabelled, audit = (stack.enter_context(path.open("w", encoding="utf-8")) for path in partial)
        rows = checked_rows(
            arguments.dataset, counts, check_pair, output / "refused_rows.jsonl", arguments.dataset_split
        )
        for row in rows:
            # Not the hash of the prompt alone: other splits of the same seed go by that.
            is_labelled = is_held_out(
                "labelled " + prompt_key(prompt_of(row)), arguments.labelled_share, arguments.seed
            )
            if is_labelled:
                labelled.write(json.dumps(row, default=str) + "\n")
            else:
                for file, line in zip((unlabelled, audit), hidden(row, numbers[0], arguments.seed), strict=True):
                    file.write(json.dumps(line) + "\n")
            numbers[is_labelled] += 1
    print(report_counts(counts))
    if not all(numbers):
        raise UserError(f"{numbers[1]} labelled rows and {numbers[0]} unlabelled: give more prompts or another share")
    for path, written in zip(paths, partial, strict=True):
        written.replace(path)
    print(f"{numbers[1]:,} labelled rows, {numbers[0]:,} without a label, in {output}; the labels are in {paths[2]}")


if __name__ == "__main__":
    exit_cleanly(main)
