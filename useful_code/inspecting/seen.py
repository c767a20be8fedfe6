"""One pass over a data set: numbers of every row, texts of a few. About 100 bytes are held per row, and no text."""

import hashlib
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np

from useful_code.chat_pairs import Message, prompt_key
from useful_code.inspecting.texts import TRACES
from useful_code.row_readers import ReadRow

EXAMPLES_OF_TRACE = 3
MOST_NAMES = 1000  # subsets, and columns, that are told apart
OTHERS = "(others)"


class Shown(NamedTuple):
    """A row whose texts are kept, and where it stood."""

    place: str  # "<file>:<row>"
    row: dict[str, Any]


class Measured(NamedTuple):
    """What a kind of row tells of one of its rows."""

    prompt: Sequence[Message]
    answers: tuple[str, ...]  # everything after the prompt
    numbers: Mapping[str, float]  # column -> number; NaN or absent: the row does not have it


class Reservoir:
    """A uniform random sample of a stream, its size fixed, by Vitter's algorithm R (1985).

    The same stream, size and seed give the same sample.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.offered = 0
        self.items: list[Any] = []
        self._random = random.Random(seed)

    def offer(self, item: Any) -> None:
        self.offered += 1
        if len(self.items) < self.size:
            self.items.append(item)
        elif (place := self._random.randrange(self.offered)) < self.size:
            self.items[place] = item

    def shuffled(self) -> list[Any]:
        """The sample in random order, so that its first items are a sample too."""
        return random.Random(self.size).sample(self.items, len(self.items))


class Seen:
    """What is known of the rows that passed the check."""

    def __init__(self, sample_size: int, seed: int):
        self.rows = 0
        self.columns: dict[str, array] = {}
        self.prompts = array("Q")  # a hash per row, (N,)
        self.contents = array("Q")  # hash of prompt and answers in their order, (N,)
        self.answers_either_way = array("Q")  # hash of prompt and answers in any order, (N,)
        self.subsets: Counter[str] = Counter()
        self.subset_of = array("H")  # number of the row's subset in the order of `subsets`, (N,)
        self.traces: dict[str, list[Shown]] = {name: [] for name in TRACES}
        self.rows_with_trace: Counter[str] = Counter()
        self.sample = Reservoir(sample_size, seed)
        self._numbers: dict[str, int] = {}  # subset -> its number

    def add(self, place: str, row: dict[str, Any], measured: Measured) -> None:
        prompt = _hash(prompt_key(measured.prompt))
        answers = [_hash(answer.strip()) for answer in measured.answers]
        self.prompts.append(prompt)
        self.contents.append(_hash(f"{prompt} {answers}"))
        self.answers_either_way.append(_hash(f"{prompt} {sorted(answers)}"))
        subset = str(row.get("subset") or row.get("source") or "-")
        if subset not in self._numbers and len(self._numbers) >= MOST_NAMES:
            subset = OTHERS
        self.subset_of.append(self._numbers.setdefault(subset, len(self._numbers)))
        self.subsets[subset] += 1
        for name, number in measured.numbers.items():
            if name not in self.columns:
                if len(self.columns) >= MOST_NAMES:
                    continue
                self.columns[name] = array("f", [nan]) * self.rows
            self.columns[name].append(number)
        self.rows += 1
        for column in self.columns.values():
            if len(column) < self.rows:
                column.append(nan)
        # One search for all messages; what stands between them is part of no trace.
        text = "\n-\n".join([*(message["content"] for message in measured.prompt), *measured.answers])
        for name, trace in TRACES.items():
            if trace.pattern.search(text):
                self.rows_with_trace[name] += 1
                if len(self.traces[name]) < EXAMPLES_OF_TRACE:
                    self.traces[name].append(Shown(place, row))
        self.sample.offer(Shown(place, row))

    def column(self, name: str) -> np.ndarray:
        """The numbers of one column, (N,), NaN where a row has none; all NaN if no row has it."""
        if name in self.columns:
            return np.frombuffer(self.columns[name], dtype=np.float32)
        return np.full(self.rows, np.nan, dtype=np.float32)

    def known(self, name: str) -> np.ndarray:
        """The numbers of one column without NaN."""
        values = self.column(name)
        return values[~np.isnan(values)]

    def rows_per_prompt(self) -> np.ndarray:
        """How many rows every different prompt has, (P,)."""
        return np.unique(np.asarray(self.prompts), return_counts=True)[1]

    def duplicates(self) -> tuple[int, int]:
        """Rows that repeat an earlier one, and rows whose two answers an earlier row has in the other order."""
        contents, either = np.asarray(self.contents), np.asarray(self.answers_either_way)
        different = len(np.unique(contents))
        return self.rows - different, different - len(np.unique(either))


def look_at(
    rows: Iterable[tuple[ReadRow, dict[str, Any]]],
    measure: Callable[[dict[str, Any]], Measured],
    sample_size: int,
    seed: int,
) -> Seen:
    """Take in all rows, each once."""
    seen = Seen(sample_size, seed)
    for read_row, row in rows:
        seen.add(f"{read_row.file}:{read_row.number}", row, measure(row))
    return seen


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
