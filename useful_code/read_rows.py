"""Reading rows from files, folders and the hub, so that every row is either used or accounted for.

A source is a file (`.jsonl`, `.json`, `.csv`, `.tsv`, all also with `.gz`; `.parquet`), a folder (all such files in
it and below, in sorted order; or what `datasets.save_to_disk` wrote), or the name of a data set on the hub
("owner/name"). No pickle is ever loaded. A broken row costs one row, never the file:

- `.jsonl`: line by line, in constant memory. Blank lines and a byte-order mark at the head are ignored.
- `.json`: one list of objects, read whole; rows are numbered from 1.
- `.csv`, `.tsv`: record by record; the first line names the columns.
- `.parquet`: batch by batch.
- a `.gz` that is cut off gives all rows before the break, and the break counts as one refused row.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from useful_code.chat_pairs import check_pair
from useful_code.data_set_reader import is_hub_name, is_saved_data_set, read_data_set
from useful_code.reasons import RowRefused
from useful_code.row_readers import SUFFIXES, ReadRow, UnparsedLine, parsed, read_file
from useful_code.user_errors import UserError

RAW_CHARACTERS = 2000  # of a refused row that are written out; enough to recognise it
# What our own commands and `datasets` write beside the data.
NOT_DATA = (  # these names, or ending in _ and one of them
    "refused_rows.jsonl",
    "card.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
)


@dataclass
class RowCounts:
    """What happened to the rows of a source: read == kept + sum of refused."""

    source: str
    read: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # reason -> rows
    refused_path: str | None = None  # where the refused rows were written, if they were


def read_rows(source: str | os.PathLike, split: str | None = None, **load_options: Any) -> Iterator[ReadRow]:
    """Yield every row of `source` with its location, as a dict or as a `RowRefused`; see `read_unparsed`."""
    return map(parsed, read_unparsed(source, split, **load_options))


def read_unparsed(
    source: str | os.PathLike, split: str | None = None, **load_options: Any
) -> Iterator[ReadRow | UnparsedLine]:
    """Yield every row of `source` with its location; lines of JSON are left to `parsed`.

    `split` names a part of a hub or `save_to_disk` data set; None takes the only one there is, or "train".
    `load_options` of a hub data set go to `datasets.load_dataset` (name, data_dir, revision, streaming).
    Raises `UserError` at once for a source that does not exist, is empty or has an unknown suffix, and
    while reading for a `.json` or `.parquet` file that cannot be parsed at all.
    """
    path = Path(source)
    if is_saved_data_set(path) or (not path.exists() and is_hub_name(str(source))):
        return read_data_set(str(source), split, **load_options)
    files = list_files(source)
    if split is not None:
        raise UserError(f"{source}: only hub data sets have splits ({split!r}); name the file instead")
    return (row for file in files for row in read_file(file))


def list_files(source: str | os.PathLike) -> list[Path]:
    """The data files of a file or folder, sorted. Raises `UserError` where there is nothing to read."""
    path = Path(source)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.name.endswith(SUFFIXES)
            and not any(file.name == name or file.name.endswith(f"_{name}") for name in NOT_DATA)
            and not file.name.endswith(".jsonl.completions.jsonl")  # the memory of math-rm/make_rollouts.py
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not files:
            raise UserError(f"{source}: no file in this folder ends in {', '.join(SUFFIXES)}")
        splits = {folder for file in files for folder in file.parents if path in folder.parents}
        for folder in sorted(splits):
            if folder.name == "train" and folder.with_name("held_out") in splits:
                where = f"{folder.parent} holds train/ and held_out/"
                raise UserError(f"{source}: {where}; name one of them, so that they are not mixed up")
    else:
        if not path.exists():
            raise UserError(f"{source}: no such file or folder")
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"{source}: unknown suffix; give a file that ends in {', '.join(SUFFIXES)}")
        files = [path]
    if all(file.stat().st_size == 0 for file in files):
        raise UserError(f"{source}: {'the file is' if files == [path] else 'all files are'} empty")
    return files


def checked_rows(
    source: str | os.PathLike,
    counts: RowCounts,
    check: Callable[[Any], dict[str, Any]] = check_pair,
    refused_path: str | os.PathLike | None = None,
    split: str | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Yield `check(row)` for every row that passes; see `checked_with_place`."""
    with closing(checked_with_place(source, counts, check, refused_path, split)) as good_rows:
        for _, row in good_rows:
            yield row


def checked_with_place(
    source: str | os.PathLike,
    counts: RowCounts,
    check: Callable[[Any], dict[str, Any]] = check_pair,
    refused_path: str | os.PathLike | None = None,
    split: str | None = None,
    **load_options: Any,
) -> Generator[tuple[ReadRow, dict[str, Any]], None, None]:
    """Yield every row that passes, as it was read and as `check(row)`, in constant memory; `counts` is kept up to date.

    `check` returns the normalised row or raises `RowRefused`. With a `refused_path` that file is always
    written anew, one JSON object per refused row (file, line, reason, detail, raw: the first
    `RAW_CHARACTERS` characters); an empty file says that no row was refused. None writes nothing: for all
    but the first process of a run. `load_options` as in `read_unparsed`.
    """
    rows = read_rows(source, split, **load_options)
    if refused_path is not None and Path(refused_path).resolve() == Path(source).resolve():
        raise UserError(f"{source}: the refused rows would overwrite their source; choose another output folder")
    with open_refused(refused_path) as refused_file:
        counts.refused_path = str(refused_path) if refused_path is not None else None
        for read_row in rows:
            counts.read += 1
            try:
                if isinstance(read_row.row, RowRefused):
                    raise read_row.row
                checked = check(read_row.row)
            except RowRefused as refused:
                counts.refused[refused.reason] += 1
                write_refused(refused_file, read_row, refused)
                continue
            counts.kept += 1
            yield read_row, checked


def load_checked(
    source: str | os.PathLike,
    check: Callable[[Any], dict[str, Any]] = check_pair,
    refused_path: str | os.PathLike | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> tuple[list[dict[str, Any]], RowCounts]:
    """`checked_rows` as a list, with the counts. `limit` stops after that many usable rows.

    Raises `UserError` when no usable row is left, naming the reasons.
    """
    if limit is not None and limit < 1:
        raise UserError(f"the limit is {limit} rows; it must be at least 1")
    counts = RowCounts(str(source))
    rows: list[dict[str, Any]] = []
    with closing(checked_rows(source, counts, check, refused_path, split)) as good_rows:
        for row in good_rows:
            rows.append(row)
            if len(rows) == limit:
                break
    if not rows:
        raise UserError(no_usable_row(counts))
    return rows, counts


def no_usable_row(counts: RowCounts) -> str:
    """The text of the error when nothing was kept."""
    if counts.read == 0:
        return f"{counts.source}: holds no rows"
    where = f". They are in {counts.refused_path}" if counts.refused_path else ""
    return f"{counts.source}: none of {counts.read:,} rows can be used ({_reasons(counts)}){where}"


def report_counts(counts: RowCounts) -> str:
    """One paragraph for a person.

    >>> report_counts(RowCounts("a.jsonl", 3, 2, Counter(role_order=1), "out/refused_rows.jsonl"))
    'a.jsonl: 3 rows read, 2 kept, 1 refused (1 role_order). Refused rows are in out/refused_rows.jsonl'
    """
    refused = counts.refused.total()
    text = f"{counts.source}: {counts.read:,} rows read, {counts.kept:,} kept, {refused:,} refused"
    if counts.refused:
        text += f" ({_reasons(counts)})"
        if counts.refused_path:
            text += f". Refused rows are in {counts.refused_path}"
    return text


def _reasons(counts: RowCounts) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.refused.most_common())


def open_refused(refused_path: str | os.PathLike | None) -> IO[str]:
    """Open the file of refused rows for `write_refused`; with None what is written goes nowhere."""
    if refused_path is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    try:
        Path(refused_path).parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate becomes \udxxx, which is its JSON escape: whatever was read can be written.
        return open(refused_path, "w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{refused_path}: refused rows cannot be written here ({error.strerror})") from error


def write_refused(refused_file: IO[str], read_row: ReadRow, refused: RowRefused) -> None:
    """Write one refused row as a line of JSON."""
    refused_file.write(json.dumps(refused_record(read_row, refused), ensure_ascii=False) + "\n")


def refused_record(read_row: ReadRow, refused: RowRefused) -> dict[str, Any]:
    """What is written of a refused row; `raw` is cut short, `raw_characters` is its whole length."""
    raw = read_row.raw
    if raw is None:
        row = None if isinstance(read_row.row, RowRefused) else read_row.row
        raw = "" if row is None else json.dumps(row, ensure_ascii=False, default=str)
    return {
        "file": read_row.file,
        "line": read_row.number,
        "reason": refused.reason,
        "detail": refused.detail,
        "raw": raw[:RAW_CHARACTERS],
        "raw_characters": len(raw),
    }
