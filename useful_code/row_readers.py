"""One reader per file format, each yielding rows with their location. `read_rows.py` chooses among them."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from useful_code.reasons import RowRefused
from useful_code.table_reader import GZIP_ERRORS, read_table
from useful_code.user_errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", *TABLE_SUFFIXES)
PARQUET_BATCH_ROWS = 256
DEEPEST = 500  # lists and objects inside each other; the parser's own limit depends on who calls it


class ReadRow(NamedTuple):
    """One row and where it stood. `number` counts lines of a `.jsonl`, rows of anything else, from 1."""

    file: str
    number: int
    row: dict[str, Any] | RowRefused
    raw: str | None  # the line as it was read, or None where the source has no lines


class UnparsedLine(NamedTuple):
    """A line of a `.jsonl` file, to be parsed by `parsed`, perhaps in another process."""

    file: str
    number: int
    line: bytes


def read_file(path: Path) -> Iterator[ReadRow | UnparsedLine]:
    """Yield the rows of one file by its suffix; `UserError` if the file as a whole cannot be read."""
    name = path.name
    try:
        if name.endswith(".parquet"):
            yield from _read_parquet(path)
        elif name.endswith((".json", ".json.gz")):
            yield from _read_json(path)
        elif name.endswith(TABLE_SUFFIXES):
            with open_binary(path) as binary:
                for number, row, raw in read_table(path, binary):
                    yield ReadRow(str(path), number, row, raw)
        else:
            yield from _read_json_lines(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_binary(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb")


def _read_json_lines(path: Path) -> Iterator[ReadRow | UnparsedLine]:
    number = 0
    with open_binary(path) as handle:
        lines = iter(handle)
        while True:
            try:
                line = next(lines, None)
            except GZIP_ERRORS as error:
                yield ReadRow(str(path), number + 1, RowRefused("broken_gzip", str(error)), None)
                return
            if line is None:
                return
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.strip()
            if line:
                yield UnparsedLine(str(path), number, line)


def parsed(row: ReadRow | UnparsedLine, allow_nan: bool = False) -> ReadRow:
    """The row itself, or the line as JSON; a line that is no JSON object becomes a refused row.

    NaN and Infinity are refused unless `allow_nan`, for raw data that pandas wrote: there NaN means "nothing here".
    """
    if isinstance(row, ReadRow):
        return row
    file, number, line = row
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", errors="backslashreplace")
        return ReadRow(file, number, RowRefused("broken_utf8", f"byte {error.start}: {error.reason}"), raw)
    try:
        row = (_lenient_decoder if allow_nan else _decoder).decode(text)
    except RowRefused as refused:
        return ReadRow(file, number, refused, text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
        return ReadRow(file, number, RowRefused("malformed_json", str(error)), text)
    if not isinstance(row, dict):
        return ReadRow(file, number, RowRefused("not_an_object", f"the line is {type(row).__name__}"), text)
    if line.count(b"[") + line.count(b"{") > DEEPEST and _is_too_deep(row):
        return ReadRow(file, number, RowRefused("malformed_json", f"nested deeper than {DEEPEST} levels"), text)
    return ReadRow(file, number, row, text)


def _is_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for group in children for child in group if isinstance(child, dict | list)]
    return bool(level)


def _refuse_constant(name: str) -> None:
    raise RowRefused("non_finite_number", f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_lenient_decoder = json.JSONDecoder()


def _read_json(path: Path) -> Iterator[ReadRow | UnparsedLine]:
    try:
        with open_binary(path) as handle:
            content = handle.read()
    except GZIP_ERRORS as error:
        raise UserError(f"{path}: the compressed file is damaged ({error})") from error
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = ""
        if text.lstrip().startswith("{") and getattr(error, "msg", "") == "Extra data":
            hint = ". If each line is an object of its own, rename the file to .jsonl"
        raise UserError(f"{path}: not valid JSON ({error}){hint}") from error
    if not isinstance(rows, list):
        found = f"an object with the keys {list(rows)[:8]}" if isinstance(rows, dict) else type(rows).__name__
        raise UserError(
            f"{path}: holds {found}, not a list of rows. Save the list itself, or one row per line (.jsonl)"
        )
    for number, row in enumerate(rows, start=1):
        if _is_too_deep(row):
            yield ReadRow(str(path), number, RowRefused("malformed_json", f"nested deeper than {DEEPEST} levels"), None)
            continue
        problem = _problem_of_parsed(row)
        if problem and problem.reason == "non_finite_number":
            yield UnparsedLine(str(path), number, json.dumps(row).encode())  # `parsed` decides
            continue
        raw = json.dumps(row, ensure_ascii=False) if problem else None
        yield ReadRow(str(path), number, problem or row, raw)


def _problem_of_parsed(row: Any) -> RowRefused | None:
    """What the reader of lines would have refused, for a row of a file that had to be parsed whole."""
    if not isinstance(row, dict):
        return RowRefused("not_an_object", f"the row is {type(row).__name__}")
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        if "\udc80" <= error.object[error.start] <= "\udcff":  # what surrogateescape makes of a broken byte
            return RowRefused("broken_utf8", "a text in this row is not valid UTF-8")
    except ValueError:
        return RowRefused("non_finite_number", "NaN or Infinity in this row")
    return None


def _read_parquet(path: Path) -> Iterator[ReadRow]:
    import pyarrow
    import pyarrow.parquet

    if path.stat().st_size == 0:  # an empty shard beside others
        return
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error
    number = 0
    with table:
        batches = table.iter_batches(batch_size=PARQUET_BATCH_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError) as error:
                detail = str(error).splitlines()[0]
                yield ReadRow(str(path), number + 1, RowRefused("broken_parquet", detail), None)
                return
            if batch is None:
                return
            for row in _batch_rows(batch):
                number += 1
                yield ReadRow(str(path), number, row, None)


def _batch_rows(batch: Any) -> list[Any]:
    """The rows of a parquet batch; if one cannot be read out, row by row, so that only that row is refused."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, KeyError) as error:  # of one value: text, a date that Python does not have, ...
        if batch.num_rows > 1:
            return [row for index in range(batch.num_rows) for row in _batch_rows(batch.slice(index, 1))]
        if isinstance(error, UnicodeDecodeError):
            return [RowRefused("broken_utf8", f"byte {error.start} of a text: {error.reason}")]
        return [RowRefused("wrong_type", f"a value cannot be read out: {error}")]
