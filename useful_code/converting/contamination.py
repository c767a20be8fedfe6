"""Decontamination: which prompts also stand in evaluation sets, by overlap of word n-grams.

A prompt is contaminated by an evaluation prompt of at least `NGRAM` words if it holds at least the share
`min_overlap` of its different n-grams (8-grams and one half, as Tulu 3 does, arXiv 2411.15124, section 3.2), and by a
shorter one if one of its user messages, or all of them together, is the same but for case, spaces and punctuation.
Only what users say is compared: an evaluated prompt that stands in a system message or an answer is not found.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from useful_code.chat_pairs import Message, prompt_key
from useful_code.converting.word_ngrams import ngram_hashes, words_of
from useful_code.read_rows import read_unparsed
from useful_code.reasons import RowRefused
from useful_code.row_readers import parsed
from useful_code.sources.transcripts import hh_messages
from useful_code.user_errors import UserError

NGRAM = 8
MIN_OVERLAP = 0.5
PROMPT_COLUMNS = ("prompt", "instruction", "question", "conversation_input", "messages", "chosen", "input")


class EvaluationPrompts:
    """The prompts of all evaluation sets, made ready for `contaminating`."""

    def __init__(self, prompts: Iterable[tuple[str, str]], min_overlap: float = MIN_OVERLAP):
        """`prompts`: (name, text) of every evaluation prompt; names come back from `contaminating`."""
        self.min_overlap = min_overlap
        prompts = list(prompts)
        self.names = [name for name, _ in prompts]
        long = [index for index, (_, text) in enumerate(prompts) if len(words_of(text)) >= NGRAM]
        short = set(range(len(prompts))) - set(long)
        self.short = {_key(prompts[index][1]): index for index in sorted(short, reverse=True)}
        hashes, offsets = ngram_hashes([prompts[index][1] for index in long], NGRAM)
        owners = np.repeat(np.array(long, np.int64), np.diff(offsets))
        pairs = np.unique(np.stack([hashes, owners.astype(np.uint64)], axis=1), axis=0)  # sorted by hash
        self.hashes, self.owners = pairs[:, 0], pairs[:, 1].astype(np.int64)
        self.sizes = np.bincount(self.owners, minlength=max(1, len(prompts)))  # different n-grams of each prompt

    def contaminating(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """For every prompt the evaluation prompt that it overlaps most, with the share, or None if it is clean.

        >>> known = EvaluationPrompts([("bench:1", "one two three four five six seven eight nine"), ("bench:2", "Hi!")])
        >>> ask = lambda text: [{"role": "user", "content": text}]
        >>> known.contaminating([ask("Now: ONE two three four five six seven eight, ten"), ask("hi"), ask("Hi there")])
        ['bench:1 (0.50)', 'bench:2 (1.00)', None]
        """
        turns = [[m["content"] for m in messages if m["role"] == "user"] for messages in conversations]
        hashes, offsets = ngram_hashes(["\n".join(texts) for texts in turns], NGRAM)
        found: list[str | None] = []
        for texts, start, end in zip(turns, offsets, offsets[1:], strict=False):
            found.append(self._by_ngrams(np.unique(hashes[start:end])) or self._by_equality(texts))
        return found

    def _by_ngrams(self, hashes: np.ndarray) -> str | None:
        first = np.searchsorted(self.hashes, hashes, "left")
        last = np.searchsorted(self.hashes, hashes, "right")
        hit = np.flatnonzero(last > first)
        if not len(hit):
            return None
        owners = np.concatenate([self.owners[first[place] : last[place]] for place in hit])
        candidates, counts = np.unique(owners, return_counts=True)
        shares = counts / self.sizes[candidates]
        best = int(np.argmax(shares))
        return f"{self.names[candidates[best]]} ({shares[best]:.2f})" if shares[best] >= self.min_overlap else None

    def _by_equality(self, texts: list[str]) -> str | None:
        for text in (*texts, "\n".join(texts)):
            index = self.short.get(_key(text)) if self.short else None
            if index is not None:
                return f"{self.names[index]} (1.00)"
        return None


def _key(text: str) -> str:
    return prompt_key([{"role": "user", "content": text}])


def read_evaluation_prompts(
    source: str, column: str | None = None, split: str | None = None, revision: str | None = None
) -> list[tuple[str, str]]:
    """(name, text) of the prompts of an evaluation set: any file, folder or hub name that read_rows.py reads.

    Without `column` the first of `PROMPT_COLUMNS` that a row has. A chat, or a transcript in the form of HH-RLHF,
    counts with its user messages. Rows without a prompt are counted on standard error. Raises `UserError` if a set has
    no prompt, or one whose end cannot be told.
    """
    prompts: list[tuple[str, str]] = []
    without = 0
    for read_row in map(parsed, read_unparsed(source, split, revision=revision)):
        row = read_row.row
        if isinstance(row, RowRefused):
            without += 1
            continue
        name = column or next((known for known in PROMPT_COLUMNS if known in row), None)
        if name is None or name not in row:
            found = ", ".join(map(str, list(row)[:20]))
            wanted = f"no column {name!r}" if name else "no column that is known to hold prompts"
            raise UserError(f"{source}: {wanted}; the columns are {found}")
        text = _text_of(row[name])
        if column is None and name == "chosen" and text and text == row[name]:
            raise UserError(
                f"{source}: {name} is text, where a prompt cannot be told from its answer; name the set's `source` "
                "(convert_dataset.py --list), or its `column` with the prompt"
            )
        if text.strip():
            file = Path(read_row.file).name if Path(source).exists() else read_row.file
            prompts.append((f"{file}:{read_row.number}", text))
        else:
            without += 1
    if not prompts:
        raise UserError(f"{source}: holds no prompt to compare with")
    if without:
        print(f"{source}: {without:,} rows have no prompt to compare with", file=sys.stderr)
    return prompts


def _text_of(value: Any) -> str:
    """The user's words in a text, in a transcript, or in a list of messages."""
    if isinstance(value, str) and "\n\nHuman:" in value:
        try:
            value = hh_messages(value, "prompt")
        except RowRefused:
            return value
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    messages = [message for message in value if isinstance(message, dict) and message.get("role") == "user"]
    return "\n".join(message["content"] for message in messages if isinstance(message.get("content"), str))
