"""Near-duplicate pairs: found with MinHash signatures (the library rensa), confirmed by exact Jaccard similarity.

Two pairs are near-duplicates if their prompts, their chosen and their rejected answers all have a Jaccard similarity of
at least the threshold, over sets of word 5-grams. So a long shared prompt alone makes no duplicate: the six pairs of
four answers to one prompt stay. If instead the chosen of one is like the rejected of the other and vice versa, the two
contradict each other. A tie is like ties only, whichever way round. The signatures only propose candidates; what is
dropped was compared exactly. Where very many rows share a bucket (the pairs of one long prompt), their answers propose
them instead, by the prefix filter of Chaudhuri, Ganti and Kaushik (ICDE 2006), which misses none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rensa

from useful_code.chat_pairs import is_tie, prompt_of
from useful_code.converting.word_ngrams import ngram_hashes, words_of

NGRAM = 5
NUM_PERMUTATIONS = 128
RECALL = 0.99  # of pairs exactly at the threshold that become candidates; above it more do
CROWDED = 50  # rows of a bucket, from which on not every two of them are compared
_SIDES = np.array([1, 2], np.uint64)  # prompts and answers never count as shared words
_TIE = np.uint64(0x5555555555555555)  # nor do those of a tie and of a pair that has a winner


class NearDuplicate(NamedTuple):
    row: int
    of: int  # the earlier row that stays; for a contradiction another row, which goes too
    similarity: float  # the smallest of the three
    contradicts: bool


def num_bands(threshold: float) -> tuple[int, int]:
    """Bands and rows per band of the signature, so that pairs at the threshold share a band with `RECALL`.

    >>> num_bands(0.8)
    (21, 6)
    """
    for rows in range(NUM_PERMUTATIONS, 1, -1):
        bands = NUM_PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return NUM_PERMUTATIONS, 1


def signatures(pairs: Sequence[dict[str, Any]], threshold: float) -> dict[str, np.ndarray]:
    """For the pairs (N,) of a batch what finding and confirming needs, as arrays that can be put one after the other.

    `bands` (N, bands): hashes of which near-duplicates share at least one; `ngrams`: the sets of 32-bit n-gram hashes
    of prompt, chosen and rejected of every pair, sorted; `sizes` (N, 3): how many hashes each set has.
    """
    texts = []
    for pair in pairs:
        texts.append("\n".join(message["content"] for message in prompt_of(pair)))
        answers = [pair[side][-1]["content"] for side in ("chosen", "rejected")]
        texts += sorted(answers, key=words_of) if is_tie(pair) else answers
    hashes, offsets = ngram_hashes(texts, NGRAM)
    marks = np.where(np.array([is_tie(pair) for pair in pairs], bool), _TIE, np.uint64(0))
    hashes = hashes ^ np.repeat(marks, np.diff(offsets[::3]))
    sets = [
        np.unique((hashes[a:b] >> np.uint64(32)).astype(np.uint32)) for a, b in zip(offsets, offsets[1:], strict=False)
    ]
    sizes = np.array([len(each) for each in sets], np.uint32).reshape(-1, 3)
    side = np.repeat(np.tile(_SIDES[[0, 1, 1]], len(pairs)), np.diff(offsets))
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes ^ (side << np.uint64(62)), offsets[::3].astype(np.uint64), NUM_PERMUTATIONS, 1
    )
    digests = np.array(matrix.to_rows(), np.uint64).reshape(len(pairs), NUM_PERMUTATIONS)
    bands, rows = num_bands(threshold)
    multipliers = np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, rows + 1, dtype=np.uint64)
    hashed = (digests[:, : bands * rows].reshape(len(pairs), bands, rows) * multipliers).sum(axis=2, dtype=np.uint64)
    return {"bands": hashed, "ngrams": np.concatenate([np.zeros(0, np.uint32), *sets]), "sizes": sizes}


class NgramSets:
    """The n-gram sets of all rows, read from the files of the parts when they are asked for."""

    def __init__(self, ngrams: Sequence[Path], sizes: Sequence[Path]):
        self.values = [_mapped(path, np.uint32) for path in ngrams]
        self.ends = []
        self.starts = [0]
        for path in sizes:
            of_part = np.fromfile(path, np.uint32).reshape(-1, 3)
            self.ends.append(np.cumsum(of_part.ravel(), dtype=np.int64))
            self.starts.append(self.starts[-1] + len(of_part))

    def of(self, row: int) -> list[np.ndarray]:
        """The sets of prompt, chosen and rejected of a row, counted over all parts."""
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        place = 3 * (row - self.starts[part])
        ends = self.ends[part]
        begin = int(ends[place - 1]) if place else 0
        first, second, third = (int(end) for end in ends[place : place + 3])
        values = self.values[part]
        return [values[begin:first], values[first:second], values[second:third]]


def _mapped(path: Path, kind: Any) -> np.ndarray:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """|A and B| / |A or B| of two sorted sets; 1 for two empty ones.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def similarity(first: list[np.ndarray], second: list[np.ndarray], threshold: float) -> tuple[float, bool]:
    """The smallest similarity of the three parts, as they are or with the answers exchanged, and whether exchanged.

    Stops with 0 as soon as a part is below the threshold.
    """
    prompts = jaccard(first[0], second[0])
    if prompts < threshold:
        return 0.0, False
    as_is = min(prompts, jaccard(first[1], second[1]), jaccard(first[2], second[2]))
    if as_is >= threshold:
        return as_is, False
    exchanged = min(prompts, jaccard(first[1], second[2]), jaccard(first[2], second[1]))
    return (exchanged, True) if exchanged >= threshold else (0.0, False)


def find_near_duplicates(
    bands: Iterable[np.ndarray], alive: np.ndarray, sets: NgramSets, threshold: float, ties: np.ndarray
) -> list[NearDuplicate]:
    """The near-duplicates among the rows (N,) that are `alive`; `bands` are the hashes (N,) of one band after
    the other, and `ties` (N,) says which rows have no winner, so that nothing contradicts them.

    Rows are taken in order: one that is like an earlier row is dropped; two that contradict each other both are, and so
    is what is like the earlier of them, whichever way round. So every dropped row has a partner that it was compared
    with, and that stays unless it was contradicted.
    """
    clusters = _Clusters()
    crowds: set[tuple[int, ...]] = set()  # that were compared: the pairs of one prompt come together in every band
    for hashes in bands:
        for bucket in _buckets(hashes, alive):
            candidates: _Few | _Crowd = _Few()
            if len(bucket) > CROWDED:
                if tuple(bucket) in crowds:
                    continue
                crowds.add(tuple(bucket))
                candidates = _Crowd(threshold)
            for row in bucket:
                of_row = sets.of(row)
                for other in candidates.of(of_row):
                    if clusters.same(other, row) or similarity(sets.of(other), of_row, threshold)[0]:
                        clusters.join(other, row)
                        break
                else:
                    candidates.add(row, of_row)
    found = []
    for rows in clusters.lists():
        first_of_its_kind: list[int] = []
        contradicted: set[int] = set()
        for row in rows:
            for other in first_of_its_kind:
                value, exchanged = similarity(sets.of(other), sets.of(row), threshold)
                if value:
                    if exchanged and not ties[row] and other not in contradicted:
                        contradicted.add(other)
                        found.append(NearDuplicate(other, row, value, True))
                    found.append(NearDuplicate(row, other, value, other in contradicted))
                    break
            else:
                first_of_its_kind.append(row)
    return sorted(found)


def _buckets(hashes: np.ndarray, alive: np.ndarray) -> Iterator[list[int]]:
    """Lists of the rows, ascending, that share a hash with another row."""
    rows = np.flatnonzero(alive)
    values = hashes[rows]
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    for start, end in zip(edges, edges[1:], strict=False):
        if end - start > 1:
            yield rows[order[start:end]].tolist()


class _Few:
    """The unlike rows of a bucket: each may be like the next row."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def of(self, sets: list[np.ndarray]) -> list[int]:
        return self.rows

    def add(self, row: int, sets: list[np.ndarray]) -> None:
        self.rows.append(row)


class _Crowd:
    """The unlike rows of a crowded bucket, found by what both of their answers begin with.

    If two sets x, y have a Jaccard similarity of at least t, then the first |x| - ceil(t |x|) + 1 n-grams of x, in the
    order of their hashes, and the same of y have one in common.
    """

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.with_gram: tuple[dict[int, list[int]], dict[int, list[int]]] = (defaultdict(list), defaultdict(list))

    def of(self, sets: list[np.ndarray]) -> list[int]:
        chosen, rejected = self._prefix(sets[1]), self._prefix(sets[2])
        as_is = self._rows(0, chosen) & self._rows(1, rejected)
        return sorted(as_is | (self._rows(1, chosen) & self._rows(0, rejected)))

    def add(self, row: int, sets: list[np.ndarray]) -> None:
        for rows_of, answer in zip(self.with_gram, sets[1:], strict=True):
            for gram in self._prefix(answer):
                rows_of[gram].append(row)

    def _rows(self, side: int, grams: list[int]) -> set[int]:
        rows_of = self.with_gram[side]
        return {row for gram in grams for row in rows_of.get(gram, ())}

    def _prefix(self, answer: np.ndarray) -> list[int]:
        if not len(answer):
            return [-1]  # an answer without a word is like its kind
        return answer[: len(answer) - ceil(self.threshold * len(answer) - 1e-9) + 1].tolist()


class _Clusters:
    """Rows joined by confirmed similarity (union-find)."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def root(self, row: int) -> int:
        while (above := self.parent.get(row, row)) != row:
            self.parent[row] = self.parent.get(above, above)
            row = above
        return row

    def same(self, first: int, second: int) -> bool:
        return self.root(first) == self.root(second)

    def join(self, first: int, second: int) -> None:
        low, high = sorted((self.root(first), self.root(second)))
        self.parent[high] = low

    def lists(self) -> list[list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for row in self.parent:
            members[self.root(row)].append(row)
        return [sorted({root, *rows}) for root, rows in sorted(members.items())]
