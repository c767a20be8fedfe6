"""Command: look at a data set before training. Writes a page: what stands out, pictures, numbers, rows to read.

    python useful_code/inspect_dataset.py --dataset pairs/small/train --output runs/look
    python useful_code/inspect_dataset.py --dataset mine.jsonl --output runs/look --tokenizer models/smollm2-135m

The rows are chosen/rejected pairs, rated answers or step-labelled solutions; which of them is seen from the columns.
Every row is read once. About 100 bytes are held of a row, and the texts of a random few; equal input and seed give
the same page.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from useful_code.atomic_write import write_atomically
from useful_code.converting.checked import CHECKS
from useful_code.converting.inputs import input_files, progress_bar
from useful_code.inspecting.beside import beside
from useful_code.inspecting.page import VIEWS, findings_of, kind_of, page_of
from useful_code.inspecting.refused import refused_html
from useful_code.inspecting.seen import look_at
from useful_code.inspecting.token_lengths import token_tables
from useful_code.read_rows import RowCounts, checked_with_place, no_usable_row, report_counts
from useful_code.report_figures import new_figure
from useful_code.user_errors import UserError, exit_cleanly

TOKENIZED_ROWS = 1000


def watched(rows: Iterator[Any], dataset: str, counts: RowCounts) -> Iterator[Any]:
    """The rows, with a progress bar where somebody watches."""
    with progress_bar(list(input_files([dataset])), "rows") as progress:
        for row in rows:
            yield row
            progress.update(counts.read - progress.n)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="File, folder, or data set on the hub (owner/name) of checked rows.")
    add("--output", required=True, help="A folder for report.html, its pictures and refused_rows.jsonl.")
    add("--split", help='Split of a hub data set. Default: the only one, else "train".')
    add("--refused", nargs="+", help="Files of refused rows. Default: those that the conversion wrote, if it did.")
    add("--num_examples", type=int, default=20, help="Rows to read, drawn at random. Default: 20.")
    add("--tokenizer", help=f"Count the tokens of {TOKENIZED_ROWS:,} rows too, with the tokenizer of this model.")
    add("--seed", type=int, default=0, help="Of what is drawn at random. Default: 0.")
    arguments = parser.parse_args()
    if arguments.num_examples < 0:
        raise UserError(f"--num_examples is {arguments.num_examples}; it must be at least 0")
    new_figure(width=1, height=1)  # without matplotlib, say so before the long part
    dataset, output, seed = arguments.dataset, Path(arguments.output), arguments.seed
    kind = kind_of(dataset, arguments.split)
    counts = RowCounts(dataset)
    refused_now = output / "refused_rows.jsonl"
    sample_size = max(arguments.num_examples, TOKENIZED_ROWS if arguments.tokenizer else 1)
    rows = checked_with_place(dataset, counts, CHECKS[kind], refused_now, arguments.split)
    seen = look_at(watched(rows, dataset, counts), VIEWS[kind].measure, sample_size, seed)
    if not seen.rows:
        raise UserError(no_usable_row(counts))
    files = [Path(file) for file in arguments.refused or []] or beside(dataset, "refused_rows.jsonl")
    refused, num_refused = refused_html([*files, refused_now], seed)
    tokenized = seen.sample.shuffled()[:TOKENIZED_ROWS]
    findings = findings_of(kind, seen, counts)
    html = page_of(
        kind,
        seen,
        counts,
        findings,
        refused=refused,
        num_examples=arguments.num_examples,
        more_tables=token_tables(tokenized, kind, arguments.tokenizer) if arguments.tokenizer else (),
        folder=output,
    )
    write_atomically(output / "report.html", html)
    print(report_counts(counts))
    print(f"{num_refused:,} refused rows are described on the page, of this and of the conversion")
    for finding in findings:
        print(f"- {finding.text}")
    print(f"The page is {output / 'report.html'}")


if __name__ == "__main__":
    exit_cleanly(main)
