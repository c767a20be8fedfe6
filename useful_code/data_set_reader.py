"""Data sets of the hub, and folders that `datasets.save_to_disk` wrote, row by row."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from useful_code.row_readers import SUFFIXES, ReadRow
from useful_code.user_errors import UserError, first_line


def is_hub_name(source: str) -> bool:
    """True for "owner/name" without a suffix of ours: what may be a data set on the hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None and not source.endswith(SUFFIXES)


def is_saved_data_set(path: Path) -> bool:
    """True for a folder that `datasets.save_to_disk` wrote."""
    return path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists())


def read_data_set(source: str, split: str | None, **load_options: Any) -> Iterator[ReadRow]:
    """Yield the rows of a hub data set, or of one that `save_to_disk` wrote; memory-mapped or streamed, not loaded.

    `load_options` are keyword arguments of `datasets.load_dataset`: name, data_dir, revision, streaming.
    """
    import datasets

    on_disk = is_saved_data_set(Path(source))
    if not on_disk:
        print(f"{source} is no path here; asking the hub for a data set of that name", file=sys.stderr)
    try:
        loaded = datasets.load_from_disk(source) if on_disk else datasets.load_dataset(source, **load_options)
    except Exception as error:  # the library and the network raise many kinds
        what = "cannot be loaded" if on_disk else "no such file or folder, and not loadable from the hub"
        raise UserError(f"{source}: {what} ({type(error).__name__}: {first_line(error)})") from error
    name = Path(source).name if on_disk else source  # a place must not depend on the machine
    if isinstance(loaded, dict):  # a DatasetDict or, streamed, an IterableDatasetDict
        names = list(loaded)
        chosen = split or (names[0] if len(names) == 1 else "train")
        if chosen not in names:
            raise UserError(f"{source}: no split {chosen!r}; it has {', '.join(names)}")
        loaded, name = loaded[chosen], f"{name}/{chosen}"
    elif split is not None:
        raise UserError(f"{source}: holds one data set without named splits; leave the split out")
    number, rows = 0, iter(loaded)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # as above
            problem = f"reading stopped after {number:,} rows ({type(error).__name__}: {first_line(error)})"
            raise UserError(f"{source}: {problem}; give the command again") from error
        if row is None:
            return
        number += 1
        yield ReadRow(name, number, row, None)
