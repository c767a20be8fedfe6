"""Every completion of a generator in one file, as it arrives: a run that was killed goes on and pays none twice.

A line of JSON each, appended and never changed; two kinds:

    {"question": key, "generator": ..., "sampling": {...}, "prompt": ..., "prefix": ...}      once, before the first of
    {"question": key, "sample": 0, "text": ..., "finished": true}                              its completions

The key is a hash of the first kind's other columns. Failed requests are not stored, so that they are asked again.
"""

import fcntl
import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout_generators import Generator, Question
from tqdm import tqdm

from useful_code.judging.cache import key_of
from useful_code.judging.interface import Reply, Sampling
from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError

NOT_THERE = -1


class CompletionStore:
    """Replies by question and sample. One process at a time; texts stay on disk, in memory are their places alone."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.num_stored = 0
        self.num_broken = 0  # lines that cannot be read; a half-written last one is not counted
        self._places: dict[bytes, array] = {}  # question -> place in the file of every sample
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise UserError(f"{path}: completions cannot be stored here ({error.strerror})") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{path} is in use by another run; wait for its end, or give another --output") from error
        self._read_all()

    def _read_all(self) -> None:
        self._file.seek(0)
        place = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # cut off by a kill
            try:
                record = json.loads(line)
                question = bytes.fromhex(record["question"])
                if "sample" in record:
                    _reply(record)
                    self._note(question, int(record["sample"]), place)
                else:
                    self._places.setdefault(question, array("q"))
            except (ValueError, KeyError, TypeError) as error:
                if place == 0:
                    raise UserError(f"{self.path} holds something else; move it, or give another --output") from error
                self.num_broken += 1
            place += len(line)
        self._file.truncate(place)
        self._end = place

    def _note(self, question: bytes, sample: int, place: int) -> None:
        places = self._places.setdefault(question, array("q"))
        places.extend([NOT_THERE] * (sample + 1 - len(places)))
        self.num_stored += places[sample] == NOT_THERE
        places[sample] = place

    def has(self, key: str, sample: int) -> bool:
        places = self._places.get(bytes.fromhex(key), ())
        return sample < len(places) and places[sample] != NOT_THERE

    def read(self, key: str, sample: int) -> Reply:
        """A stored reply."""
        self._file.seek(self._places[bytes.fromhex(key)][sample])
        return _reply(json.loads(self._file.readline()))

    def keep(self, key: str, described: dict[str, Any], sample: int, reply: Reply) -> None:
        """Store a reply; it is safe from a kill of this process when this returns."""
        if bytes.fromhex(key) not in self._places:
            self._write({"question": key, **described})
        place = self._write({"question": key, "sample": sample, "text": reply.text, "finished": reply.finished})
        self._note(bytes.fromhex(key), sample, place)

    def _write(self, record: dict[str, Any]) -> int:
        place, line = self._end, (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); what is there is kept") from error
        self._end += len(line)
        return place

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk, again: `keep` has said so
            pass


def _reply(record: dict[str, Any]) -> Reply:
    """The reply of a stored line. Raises KeyError or TypeError where it holds none."""
    text, finished = record["text"], record["finished"]
    if not (isinstance(text, str) and isinstance(finished, bool)):
        raise TypeError(f"text {text!r}, finished {finished!r}")
    return Reply(text, finished)


@dataclass
class Asked:
    """What a run asked its generator."""

    new: int = 0
    stored_before: int = 0  # completions that an earlier run, or an equal prefix, had paid for
    failed: int = 0  # requests that gave no completion
    too_long: int = 0  # completions not asked for: prefix and new tokens are more than the model can read
    cut_off: int = 0  # at the limit of new tokens
    prompt_tokens: int = 0
    new_tokens: int = 0
    first_error: str = ""


class Sampler:
    """A generator with its memory."""

    def __init__(self, generator: Generator, store: CompletionStore, sampling: Sampling, progress: bool = False):
        self.generator = generator
        self.store = store
        self.sampling = sampling
        self.asked = Asked()
        self._bar = tqdm(total=0, unit="completion", desc="sampling", disable=not progress)

    def sample(self, questions: Sequence[Question], num_samples: int) -> list[list[Reply]]:
        """Up to `num_samples` completions of every question, in order; fewer where requests failed."""
        described = [self._describe(question) for question in questions]
        keys = [key_of(facts) for facts in described]
        missing: dict[tuple[str, int], int] = {}  # of equal questions the first place
        unreadable = set()
        for place, key in enumerate(keys):
            new = [n for n in range(num_samples) if not self.store.has(key, n) and (key, n) not in missing]
            self.asked.stored_before += num_samples - len(new)
            try:
                if new and key not in unreadable:
                    self.generator.check(questions[place])
                    missing |= {(key, n): place for n in new}
            except RowRefused:
                unreadable.add(key)
                self.asked.too_long += len(new)
        self._ask(list(missing), [questions[place] for place in missing.values()], described, list(missing.values()))
        return [[self.store.read(key, n) for n in range(num_samples) if self.store.has(key, n)] for key in keys]

    def _ask(self, slots: list[tuple[str, int]], questions: list[Question], described: list, places: list[int]) -> None:
        if not slots:
            return
        self._bar.total += len(slots)
        self._bar.refresh()
        seeds = [int(key_of(key, n)[:8], 16) >> 1 for key, n in slots]  # of this completion alone
        for number, reply in self.generator.generate(questions, seeds, self.sampling):
            key, sample = slots[number]
            if reply.error:
                self.asked.failed += 1
                self.asked.first_error = self.asked.first_error or reply.error
            else:
                self.store.keep(key, described[places[number]], sample, reply)
                self.asked.new += 1
                self.asked.cut_off += not reply.finished
                self.asked.prompt_tokens += reply.prompt_tokens
                self.asked.new_tokens += reply.new_tokens
            self._bar.update()

    def _describe(self, question: Question) -> dict[str, Any]:
        sampling = self.sampling._asdict()
        return {"generator": self.generator.identity, "sampling": sampling, **question._asdict()}

    def close(self) -> None:
        self._bar.close()
        self.store.close()
