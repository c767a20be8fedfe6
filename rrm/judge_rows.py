"""Augmented rows -> the same rows with P_hat, by all processes of a run together (see filter_pairs.py)."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from accelerate.utils import broadcast_object_list
from augment_pairs import with_columns
from fourteen_comparisons import COMPARISONS, TYPES, hash_of, number_of
from read_examples import COLUMNS, with_known_columns

from useful_code.chat_pairs import check_pair, prompt_key, prompt_of
from useful_code.converting.batches import Batch
from useful_code.converting.checked import as_text
from useful_code.converting.schemas import PLACE, lengths_of, part_schema
from useful_code.pair_scoring import compared, comparison_group
from useful_code.processes import leave_together
from useful_code.read_rows import refused_record
from useful_code.reasons import RowRefused
from useful_code.resumable_scoring import score_resumably
from useful_code.row_readers import ReadRow, UnparsedLine, parsed
from useful_code.scoring import Group, Numbers, Scorer
from useful_code.user_errors import UserError

DIGITS = 6
NEW_COLUMNS = {"rrm_type": pyarrow.string(), "rrm_id": pyarrow.string(), "rrm_probability": pyarrow.float64()}


def right_probability(number: int) -> float:
    """P* of a comparison, by its number from 1 on."""
    return 0.5 if COMPARISONS[number - 1].tie else 1.0


def gap_of(number: int, probability: float) -> float:
    """|P_hat - P*|, rounded, so that a gap of exactly the limit is kept on either side of P*.

    >>> gap_of(1, 0.8), gap_of(9, 0.7), gap_of(9, 0.3)
    (0.2, 0.2, 0.2)
    """
    return round(abs(probability - right_probability(number)), DIGITS)


@dataclass(frozen=True)
class Judge:
    """Turns raw rows into rows with P_hat: "numbers", "gaps" (NaN of an original) and "prompts" (rows,) beside them."""

    scorer: Scorer
    max_length: int | None
    work: Path

    @property
    def schema(self) -> pyarrow.Schema:
        return with_columns(part_schema("pairs"), NEW_COLUMNS)

    def __call__(self, groups: Sequence[Sequence[ReadRow | UnparsedLine]]) -> Batch:
        raw_rows = [parsed(row) for (row,) in groups]
        good: list[tuple[ReadRow, dict[str, Any], int]] = []
        refused: list[tuple[ReadRow, RowRefused]] = []
        sequences: list[Group] = []  # of the augmented rows
        others: set[str] = set()
        for raw in raw_rows:
            try:
                if isinstance(raw.row, RowRefused):
                    raise raw.row
                pair = check_pair(raw.row)
                number = number_of(pair)
                if number:
                    left, right = (pair[side][-1]["content"] for side in ("chosen", "rejected"))
                    sequences.append(comparison_group(self.scorer, prompt_of(pair), left, right, self.max_length))
            except (RowRefused, RecursionError) as error:
                reason = error if isinstance(error, RowRefused) else RowRefused("wrong_type", "nested too deeply")
                refused.append((raw, reason))
                continue
            others |= pair.keys() - COLUMNS - NEW_COLUMNS.keys()
            good.append((raw, pair, number))
        first = raw_rows[0]
        parts = self.work / f"scores-{hash_of(f'{first.file}:{first.number}'):016x}"
        place = f"{first.file}, from row {first.number:,} on"
        probabilities = iter(self._probabilities(sequences, parts, place).tolist())
        rows, gaps = [], []
        for raw, pair, number in good:
            probability = round(next(probabilities), DIGITS) if number else None
            gaps.append(np.nan if probability is None else gap_of(number, probability))
            added = {"rrm_type": TYPES[number], "rrm_id": as_text(pair.get("rrm_id")), "rrm_probability": probability}
            rows.append(with_known_columns(pair) | added | lengths_of("pairs", pair))
            rows[-1][PLACE] = f"{raw.file}\t{raw.number}"
        arrays = {
            "numbers": np.array([number for *_, number in good], np.uint8),
            "gaps": np.array(gaps, np.float64),
            "prompts": np.array([int(prompt_key(prompt_of(pair))[:16], 16) for _, pair, _ in good], np.uint64),
            "others": np.frombuffer(json.dumps(sorted(others)).encode() + b"\n", np.uint8),
        }
        records = [json.dumps(refused_record(raw, reason), ensure_ascii=False) for raw, reason in refused]
        reasons = Counter(reason.reason for _, reason in refused)
        batch = pyarrow.RecordBatch.from_pylist(rows, schema=self.schema)
        return Batch(batch, arrays, records, reasons, len(groups), len(groups), len(rows))

    def _probabilities(self, sequences: Sequence[Group], parts: Path, place: str) -> np.ndarray:
        if not sequences:
            return np.zeros(0)
        try:
            return compared(self.scorer, score_on_all(self.scorer, sequences, parts)).probability
        except UserError as error:
            raise UserError(f"{place}: {error}") from error


# --- the processes: the first reads, renders and writes; all of them score ---


def score_on_all(scorer: Scorer, sequences: Sequence[Group], parts: Path) -> list[Numbers]:
    """Called by the first process: the others are in `help_to_score`."""
    broadcast_object_list([(sequences, parts)])
    return score_resumably(scorer, sequences, parts)


def help_to_score(scorer: Scorer) -> None:
    """What the other processes do until `dismiss_helpers`."""
    while (task := broadcast_object_list([None])[0]) is not None:
        score_resumably(scorer, *task)
    leave_together()


def dismiss_helpers() -> None:
    """All that follows is the first process's own, however long it takes."""
    broadcast_object_list([None])
    leave_together()
