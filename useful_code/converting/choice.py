"""Which of the good rows stay: duplicates, contradictions and the limit per prompt, in constant memory.

Every row leaves a digest of 41 bytes. Equal rows have equal prompts, so the digests are dealt into files by prompt,
and each file is decided by itself.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from useful_code.chat_pairs import is_tie, prompt_key, prompt_of

DIGEST = np.dtype(
    [
        ("prompt_high", "u8"),  # equal for prompts that differ only in case, spaces and punctuation
        ("prompt_low", "u8"),
        ("row_high", "u8"),  # of the exact row; of a pair with its two responses in sorted order
        ("row_low", "u8"),
        ("rank", "u8"),  # a seeded hash: of too many rows of a prompt, those with the smallest rank stay
        ("in_order", "u1"),  # 1 if the chosen response sorts before the rejected one
    ]
)
NUM_BUCKETS = 64
REASON_CODES = (
    None,
    "exact_duplicate",
    "contradictory_duplicate",
    "over_prompt_limit",
    "near_duplicate",
    "contradictory_near_duplicate",
    "in_evaluation_set",
    "over_source_limit",
)
EXACT, CONTRADICTORY, OVER_LIMIT, NEAR, CONTRADICTORY_NEAR, CONTAMINATED, OVER_SOURCE_LIMIT = range(1, 8)


def digest_row(kind: str, row: dict[str, Any], seed: int) -> tuple[int, int, int, int, int, bool]:
    """The digest of a checked row of this kind, in the order of `DIGEST`.

    A tie is equal only to a tie. Two ratings of one answer are equal only if all ratings are.
    """
    in_order = True
    if kind == "pairs":
        prompt = prompt_of(row)
        responses = [row["chosen"][-1]["content"], row["rejected"][-1]["content"]]
        in_order = is_tie(row) or responses[0] < responses[1]
        content: list[Any] = [prompt, sorted(responses), is_tie(row)]
    elif kind == "ratings":
        prompt = row["messages"][:-1]
        content = [row["messages"], sorted(row["ratings"].items())]
    else:
        prompt = [{"role": "user", "content": row["prompt"]}]
        content = [row["prompt"], row["completions"], row["labels"], row.get("outcome")]
    exact = json.dumps(content).encode("ascii")
    digest = hashlib.blake2b(exact, digest_size=16).digest()
    rank = hashlib.blake2b(str(seed).encode() + b":" + digest, digest_size=8).digest()
    key = int(prompt_key(prompt), 16)
    return (
        key >> 64,
        key & 0xFFFFFFFFFFFFFFFF,
        int.from_bytes(digest[:8], "big"),
        int.from_bytes(digest[8:], "big"),
        int.from_bytes(rank, "big"),
        in_order,
    )


def decide(digests: np.ndarray, max_rows_per_prompt: int | None = None) -> np.ndarray:
    """For every digest (N,) of `DIGEST` an index (N,) into `REASON_CODES` (METHODS 11.3); 0: the row stays.

    A pair that occurs in both orders says nothing: all its copies are dropped. Of equal rows the first stays. Of a
    prompt's remaining rows the `max_rows_per_prompt` with the smallest rank stay, so that the choice does not depend
    on the order of rows.
    """
    reasons = np.zeros(len(digests), np.uint8)
    order = np.lexsort((np.arange(len(digests)), digests["row_low"], digests["row_high"]))
    ordered = digests[order]
    first_of = starts(ordered["row_high"], ordered["row_low"])
    group = np.cumsum(first_of) - 1  # number of the group of equal rows, in sorted order
    sizes = np.bincount(group)
    num_in_order = np.bincount(group, weights=ordered["in_order"])
    both_orders = (num_in_order > 0) & (num_in_order < sizes)
    reasons[order] = np.where(both_orders[group], CONTRADICTORY, np.where(first_of, 0, EXACT))
    if max_rows_per_prompt is not None:
        left = np.flatnonzero(reasons == 0)
        rows = digests[left]
        order = np.lexsort((rows["rank"], rows["prompt_low"], rows["prompt_high"]))
        new_prompt = starts(rows["prompt_high"][order], rows["prompt_low"][order])
        first = np.maximum.accumulate(np.where(new_prompt, np.arange(len(rows)), 0))
        reasons[left[order[np.arange(len(rows)) - first >= max_rows_per_prompt]]] = OVER_LIMIT
    return reasons


def drawn_again(ranks: np.ndarray) -> np.ndarray:
    """Other hashes of the same ranks (N,) of uint64, for a second choice that must not follow the first.

    Of a prompt with many rows the one with the smallest rank was kept; by the same rank it would win again. The
    finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    mixed = ranks + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def starts(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """True where a sorted pair of columns takes a new value."""
    new = np.ones(len(high), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return new


def choose_rows(
    parts: list[Path], folder: Path, max_rows_per_prompt: int | None = None, left_out: np.ndarray | None = None
) -> tuple[list[np.ndarray], Counter[int]]:
    """Decide over the digests in the files `parts`, with work files in `folder`, as if `left_out` (N,) were not there.

    Returns for every part its reasons as by `decide` (memory-mapped, a byte a row), and how many prompts keep how
    many rows: {rows: prompts}.
    """
    sizes = [part.stat().st_size // DIGEST.itemsize for part in parts]
    buckets = [folder / f"bucket-{number:02d}" for number in range(NUM_BUCKETS)]
    indexed = np.dtype([("index", "u8"), ("digest", DIGEST)])
    for bucket in buckets:
        bucket.write_bytes(b"")  # an interrupted run may have left some
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        records = np.empty(size, indexed)
        records["digest"] = np.fromfile(part, DIGEST)
        records["index"] = np.arange(start, start + size)
        start += size
        if left_out is not None:
            records = records[~left_out[start - size : start]]
        bucket_of = (records["digest"]["prompt_low"] % NUM_BUCKETS).astype(np.int64)
        order = np.argsort(bucket_of, kind="stable")
        ends = np.searchsorted(bucket_of[order], np.arange(NUM_BUCKETS + 1))
        for number, bucket in enumerate(buckets):
            with open(bucket, "ab") as file:
                records[order[ends[number] : ends[number + 1]]].tofile(file)
    reasons = np.memmap(folder / "reasons", np.uint8, "w+", shape=max(1, sum(sizes)))
    prompts: Counter[int] = Counter()
    for bucket in buckets:
        records = np.fromfile(bucket, indexed)
        bucket.unlink()
        decided = decide(records["digest"], max_rows_per_prompt)
        reasons[records["index"]] = decided
        kept = records["digest"][decided == 0]
        order = np.lexsort((kept["prompt_low"], kept["prompt_high"]))
        edges = np.flatnonzero(starts(kept["prompt_high"][order], kept["prompt_low"][order]))
        prompts.update(np.diff(np.append(edges, len(kept))).tolist())
    return np.split(reasons[: sum(sizes)], np.cumsum(sizes)[:-1]) if sizes else [], prompts
