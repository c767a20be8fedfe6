"""The rows of RewardBench for every command that scores them, and the options that name them."""

import argparse
from pathlib import Path

from useful_code.data_set_reader import is_saved_data_set
from useful_code.read_rows import list_files, read_rows
from useful_code.rewardbench import check_rows
from useful_code.user_errors import UserError

HUB_DATA_SET, HUB_SPLIT = "allenai/reward-bench", "filtered"


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options about data and record that the original scripts had, and the split."""
    parser.add_argument("--record_dir", default="./bench_mark_eval.txt", help="Text file to append the scores to.")
    parser.add_argument(
        "--data_set_name", default=HUB_DATA_SET, help="Hub data set, or a local file with the columns of RewardBench."
    )
    parser.add_argument(
        "--split", default=None, help=f'Split of a hub data set. Default: "{HUB_SPLIT}" of {HUB_DATA_SET}.'
    )


def load_rows(source: str, split: str | None = None) -> list[dict]:
    """All rows of a hub data set or of local files; a row that cannot be read stops the evaluation.

    Raises UserError for a folder that holds RewardBench's two splits, of which only "filtered" is the benchmark.
    """
    if Path(source).is_dir() and not is_saved_data_set(Path(source)):
        files = list_files(source)
        raw, filtered = ([file for file in files if file.name.startswith(kind)] for kind in ("raw", HUB_SPLIT))
        if raw and filtered:
            raise UserError(f"{source} holds the splits raw and {HUB_SPLIT}; name the file instead: {filtered[0]}")
    rows = []
    for read in read_rows(source, split or (HUB_SPLIT if source == HUB_DATA_SET else None)):
        if not isinstance(read.row, dict):
            raise UserError(f"{read.file}, row {read.number}: {read.row}. Mend the file: no row may be left out")
        rows.append(read.row)
    return check_rows(rows, source)
