"""Command: public preference data -> checked rows to train on, with every dropped row accounted for.

    python useful_code/convert_dataset.py --list
    python useful_code/convert_dataset.py --source hh_rlhf --input Anthropic/hh-rlhf --output pairs/hh
    python useful_code/convert_dataset.py --source columns --input mine.csv --chosen_column good --rejected_column bad \
        --output pairs/mine

The output is a folder: `train-00000-of-00001.parquet` and so on (or `.jsonl`), `refused_rows.jsonl`, `card.json`,
`DATA_CARD.md`, and a `README.md` by which `datasets.load_dataset` reads it. Memory does not grow with the input (where
rows of one prompt must be brought together, it holds a 64th of them). What is finished survives an interruption: the
same command goes on from the last finished part and ends in the same bytes, for any --num_proc.
"""

import argparse
from pathlib import Path
from typing import Any

from useful_code.converting.checked import Options
from useful_code.converting.convert import convert, counts_of
from useful_code.converting.inputs import input_files, read_all
from useful_code.converting.shards import FORMATS, REFUSED
from useful_code.converting.work import interruptions_told
from useful_code.read_rows import report_counts
from useful_code.reasons import RowRefused
from useful_code.row_readers import parsed
from useful_code.sources.pairing import PAIRINGS
from useful_code.sources.table import SOURCES
from useful_code.user_errors import UserError, exit_cleanly


def check_columns(inputs: list[str], split: str | None, columns: dict[str, str], **load_options: Any) -> None:
    """Raise `UserError` with the names that there are, if the first row lacks one of `columns`."""
    for row in map(parsed, read_all(inputs, input_files(inputs), split, **load_options)):
        if not isinstance(row.row, RowRefused):
            for role, column in columns.items():
                if column not in row.row:
                    found = ", ".join(map(repr, row.row))
                    raise UserError(f"{row.file}: no column {column!r} (--{role}_column); the columns are {found}")
            return


def list_sources() -> str:
    return "\n".join(
        f"{name} ({source.kind})\n  {source.origin}; licence: {source.licence}\n"
        f"  raw fields: {source.fields}\n  rule: {source.rule}"
        for name, source in SOURCES.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", action="store_true", help="Print the known sources with their raw fields and rules, and stop.")
    add("--source", help="Which raw format the input has; --list describes them all.")
    add("--input", nargs="+", help="Files, folders, or the name of a data set on the hub (owner/name).")
    add("--output", help="A folder. What a former run wrote there is replaced when this one is done.")
    add("--format", choices=FORMATS, default="parquet", help="Of the files in it. Default: parquet.")
    add("--split", help='Split of a hub data set. Default: the only one, else "train".')
    add("--config_name", help="Configuration of a hub data set, for those that have several.")
    add("--data_dir", help="Folder of a hub data set, for those that keep parts in folders.")
    add("--revision", help="Branch, tag or commit of a hub data set. Default: the newest; the card names its commit.")
    add("--streaming", action="store_true", help="Read a hub data set as it comes, without storing it first.")
    add("--prompt_column", help='Of --source columns: the column with the prompt. Default: "prompt".')
    add("--chosen_column", help='... with the better answer. Default: "chosen".')
    add("--rejected_column", help='... with the worse answer. Default: "rejected".')
    add("--system_column", help="... with the system message. Default: there is none.")
    add("--min_gap", type=float, help="Leave out pairs whose scores (or margin) differ by less. Default: none.")
    add("--keep_ties", action="store_true", help="Keep ties, as rows with `tie`. Default: they are refused.")
    add("--pairing", choices=PAIRINGS, default="all", help="Of several scored answers: all pairs, or best_random.")
    add("--max_pairs_per_prompt", type=int, help="Keep at most this many rows of one prompt. Default: all.")
    add("--seed", type=int, default=0, help="Of what --max_pairs_per_prompt and best_random choose. Default: 0.")
    add("--num_proc", type=int, default=1, help="Processes that convert. The output does not depend on it. Default: 1.")
    arguments = parser.parse_args()
    if arguments.list:
        print(list_sources())
        return
    for name in ("source", "input", "output"):
        if not getattr(arguments, name):
            raise UserError(f"--{name} is missing (--help shows how this command is used)")
    columns = {
        role: getattr(arguments, f"{role}_column")
        for role in ("prompt", "chosen", "rejected", "system")
        if getattr(arguments, f"{role}_column")
    }
    load_options = {"name": arguments.config_name}
    load_options |= {name: getattr(arguments, name) for name in ("data_dir", "revision", "streaming")}
    load_options = {name: value for name, value in load_options.items() if value}
    if arguments.source == "columns":
        columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"} | columns
        check_columns(arguments.input, arguments.split, columns, **load_options)
    with interruptions_told(arguments.output):
        card = convert(
            arguments.source,
            arguments.input,
            arguments.output,
            options=Options(arguments.min_gap, arguments.keep_ties, arguments.pairing, arguments.seed),
            columns=columns or None,
            max_pairs_per_prompt=arguments.max_pairs_per_prompt,
            file_format=arguments.format,
            split=arguments.split,
            num_proc=arguments.num_proc,
            **load_options,
        )
    print(report_counts(counts_of(card, Path(arguments.output) / REFUSED)))
    longer = card["statistics"].get("chosen_longer_share")
    print(
        f"{card['prompts']:,} prompts" + (f"; chosen is longer in {longer:.1%} of pairs" if longer is not None else "")
    )
    print(f"Rows and data card are in {arguments.output}")


if __name__ == "__main__":
    exit_cleanly(main)
