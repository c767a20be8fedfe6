"""The rows of RewardBench v1, for every command that is evaluated on them."""

from pathlib import Path

from useful_code.data_set_reader import is_saved_data_set
from useful_code.read_rows import list_files, read_rows
from useful_code.rewardbench import check_rows
from useful_code.user_errors import UserError

HUB_DATA_SET, HUB_SPLIT = "allenai/reward-bench", "filtered"


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
