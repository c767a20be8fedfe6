"""The rows that were refused: how many for what reason, and a few of each."""

import json
from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from useful_code.inspecting.examples import box, cut
from useful_code.inspecting.seen import Reservoir
from useful_code.reasons import REASONS
from useful_code.report import Table, table_html
from useful_code.user_errors import UserError

EXAMPLES = 3  # of a reason
SHOWN_CHARACTERS = 600


def refused_html(files: Iterable[Path], seed: int) -> tuple[str, int]:
    """The part of the page, and how many rows are in the files. Raises `UserError` for a file of something else."""
    numbers: Counter[str] = Counter()
    samples: dict[str, Reservoir] = {}
    for file in files:
        for record in _records(file):
            numbers[record["reason"]] += 1
            samples.setdefault(record["reason"], Reservoir(EXAMPLES, seed)).offer(record)
    if not numbers:
        return '<p class="note">No row was refused.</p>', 0
    table = [(reason, f"{number:,}", REASONS.get(reason, "")) for reason, number in numbers.most_common()]
    parts = [table_html(Table("Refused rows", ("reason", "rows", "meaning"), table))]
    for reason, _ in numbers.most_common():
        parts.append(f"<h3>{escape(reason)}</h3>")
        parts += [_example(record) for record in samples[reason].items]
    return "\n".join(parts), numbers.total()


def _records(file: Path) -> Iterable[dict[str, Any]]:
    try:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                record = json.loads(line)
                if not isinstance(record, dict) or not isinstance(record.get("reason"), str):
                    raise UserError(f"{file}:{number}: not a refused row as our commands write them; give another file")
                yield record
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); the command that wrote it makes it anew") from error


def _example(record: dict[str, Any]) -> str:
    raw = str(record.get("raw", ""))
    text = cut(raw, SHOWN_CHARACTERS, int(record.get("raw_characters", len(raw))))
    head = [f"{record.get('file')}:{record.get('line')}", str(record.get("detail"))]
    return box(head, f'<div class="text">{text}</div>')
