"""Rows of a table with a head line: comma-separated (`.csv`) or tab-separated (`.tsv`) values."""

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError

LONGEST_MALFORMED = 100  # lines in which the end of a malformed record is looked for
LONGEST_FIELD = 2**31 - 1  # characters; the library's own limit of 131,072 is shorter than some answers
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def read_table(path: Path, binary: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | RowRefused, str | None]]:
    """Yield (number from 1, row, raw text or None) for every record below the head line.

    Quoted fields may hold line breaks. A record with too many or too few fields, or with text that is not UTF-8, is
    refused. A record whose quotes are wrong is refused up to the line that closes them, so that no line of a field is
    taken for a record. A quote that is never closed ends the file: what follows it cannot be told from the field.
    """
    csv.field_size_limit(LONGEST_FIELD)
    dialect = "excel-tab" if path.name.removesuffix(".gz").endswith(".tsv") else "excel"
    with TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="") as handle:
        lines = _Lines(handle)
        records = csv.reader(lines, dialect, strict=True)
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
            line = lines.begin_record()
            try:
                values = next(records, None)
            except csv.Error as error:
                yield number, RowRefused("malformed_table", f"line {line}: {error}"), lines.end_of_quotes()
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


class _Lines:
    """The lines of a table for `csv.reader`, and those of the record that is being read."""

    def __init__(self, handle: TextIOWrapper):
        self.handle = handle
        self.number = 0
        self.record: list[str] = []
        self.ahead: deque[str] = deque()
        self.error: Exception | None = None  # of reading ahead, to be raised where the lines end

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if not self.ahead and self.error:
            raise self.error
        line = self.ahead.popleft() if self.ahead else next(self.handle)
        self.number += 1
        self.record.append(line)
        return line

    def begin_record(self) -> int:
        """The number of the record's first line."""
        self.record = []
        return self.number + 1

    def end_of_quotes(self) -> str:
        """Pass over the rest of a malformed record, and return all of it.

        With an odd number of quotes it may be in the middle of a field: then it ends with the next line that has an
        odd number too, or, if there is none near, where it is.
        """
        if sum(line.count('"') for line in self.record) % 2:
            try:
                self.ahead.extend(islice(self.handle, LONGEST_MALFORMED - len(self.ahead)))
            except GZIP_ERRORS as error:
                self.error = error
            closing = next((place for place, line in enumerate(self.ahead) if line.count('"') % 2), -1)
            for _ in range(closing + 1):
                next(self)
        return "".join(self.record).encode("utf-8", "backslashreplace").decode()


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
