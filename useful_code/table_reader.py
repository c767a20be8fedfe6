"""Rows of a table with a head line: comma-separated (`.csv`) or tab-separated (`.tsv`) values."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError

LONGEST_FIELD = 2**31 - 1  # characters; the library's own limit of 131,072 is shorter than some answers
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def read_table(path: Path, binary: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | RowRefused, str | None]]:
    """Yield (number from 1, row, raw text or None) for every record below the head line.

    Quoted fields may hold line breaks. A record with too many or too few fields, or with text that is not UTF-8, is
    refused. A quote that is never closed ends the file: what follows it cannot be told from the field.
    """
    csv.field_size_limit(LONGEST_FIELD)
    dialect = "excel-tab" if path.name.removesuffix(".gz").endswith(".tsv") else "excel"
    with TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="") as handle:
        records = csv.reader(handle, dialect, strict=True)
        try:
            names = next(records, None)
        except csv.Error as error:
            raise UserError(f"{path}: the head line is no list of column names ({error})") from error
        except GZIP_ERRORS as error:
            yield 1, RowRefused("broken_gzip", str(error)), None
            return
        if names is None:  # an empty file beside others
            return
        if not any(names):
            raise UserError(f"{path}: the first line must name the columns; it is empty")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: the first line must name the columns; {twice!r} stands there twice")
        number = 1
        while True:
            line = records.line_num + 1
            try:
                values = next(records, None)
            except csv.Error as error:
                yield number, RowRefused("malformed_table", f"line {line}: {error}"), None
                number += 1
                continue
            except GZIP_ERRORS as error:
                yield number, RowRefused("broken_gzip", str(error)), None
                return
            if values is None:
                return
            if values:  # a blank line is no record
                yield number, *_row(names, values, line)
                number += 1


def _row(names: list[str], values: list[str], line: int) -> tuple[dict[str, Any] | RowRefused, str | None]:
    raw = json.dumps(values, ensure_ascii=False)
    if len(values) != len(names):
        return RowRefused(
            "wrong_number_of_fields", f"line {line}: {len(values)} fields, the head has {len(names)}"
        ), raw
    try:
        raw.encode("utf-8")
    except UnicodeEncodeError:
        return RowRefused("broken_utf8", f"line {line}: a field is not valid UTF-8"), raw
    return dict(zip(names, values, strict=True)), None
