"""The steps of a mixture: read pairs into parts with all that choosing needs, then decide row by row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from useful_code.chat_pairs import check_pair, is_held_out, is_tie, preferred_first, prompt_of
from useful_code.converting import choice
from useful_code.converting.batches import Batch, as_batch
from useful_code.converting.checked import as_text, valid_text
from useful_code.converting.contamination import EvaluationPrompts
from useful_code.converting.near_duplicates import (
    NearDuplicate,
    NgramSets,
    find_near_duplicates,
    num_bands,
    signatures,
)
from useful_code.converting.parts import Part
from useful_code.converting.recipe import Ingredient, Recipe
from useful_code.converting.schemas import DETAIL, part_schema
from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow, UnparsedLine, parsed
from useful_code.user_errors import UserError

SURELY_SOME = 25  # prompts expected to be held out, from which on it is no accident (e^-25) that there are none
HELD_OUT = 255  # the code of a row that stays, for the held-out part


@dataclass(frozen=True)
class Mixer:
    """Turns groups of one pair each into a `Batch`; the file of a row begins with the name of its source."""

    names: list[str]  # of the sources
    seed: int
    threshold: float | None
    evaluation: EvaluationPrompts | None

    @property
    def schema(self) -> pyarrow.Schema:
        return part_schema("pairs")

    def __call__(self, groups: Sequence[Sequence[ReadRow | UnparsedLine]]) -> Batch:
        rows, losses = [], []
        for (read_row,) in groups:
            raw = parsed(read_row)
            try:
                if isinstance(raw.row, RowRefused):
                    raise raw.row
                pair = preferred_first(check_pair(raw.row))
            except (RowRefused, RecursionError) as error:
                refused = error if isinstance(error, RowRefused) else RowRefused("wrong_type", "nested too deeply")
                losses.append((raw, refused))
                continue
            name, _, file = raw.file.partition("/")
            pair |= {"source": name, "subset": as_text(pair.get("subset"))}
            pair["source_id"] = as_text(pair.get("source_id")) or valid_text(f"{file}:{raw.number}")
            rows.append((raw, pair))
        pairs = [pair for _, pair in rows]
        found: list[str | None] = [None] * len(pairs)
        if self.evaluation:
            found = self.evaluation.contaminating([prompt_of(pair) for pair in pairs])
        for pair, detail in zip(pairs, found, strict=True):
            pair[DETAIL] = detail
        batch = as_batch("pairs", self.schema, rows, losses, self.seed, len(groups), len(groups), len(rows))
        batch.arrays["sources"] = np.array([self.names.index(pair["source"]) for pair in pairs], np.uint16)
        batch.arrays["contaminated"] = np.array([detail is not None for detail in found], np.uint8)
        if self.threshold is not None:
            batch.arrays.update(signatures(pairs, self.threshold))
            batch.arrays["ties"] = np.array([is_tie(pair) for pair in pairs], np.uint8)
        return batch


@dataclass
class Decided:
    """What becomes of every row (N,) over all parts."""

    codes: np.ndarray  # 0: train, HELD_OUT, or an index into choice.REASON_CODES
    sources: np.ndarray  # index of its source
    near: list[NearDuplicate]
    prompts: dict[int, Counter[int]]  # for 0 and HELD_OUT: rows of a prompt -> prompts
    short: dict[str, tuple[int, int]]  # source -> pairs that the recipe asks for, and the fewer that there are


def decide(parts: list[Part], recipe: Recipe, work: Path, show: Any) -> Decided:
    """Evaluation prompts go first, then duplicates, near-duplicates, what is over the limits; the rest is split.

    `show` wraps the long loop of near-duplicates (a tqdm bar). Raises UserError if a weighted source is empty.
    """
    sources = _joined(parts, "sources", np.uint16)
    codes = np.where(_joined(parts, "contaminated", np.uint8) > 0, choice.CONTAMINATED, 0).astype(np.uint8)
    files = [part.file(".digests") for part in parts]

    def choose(limit: int | None) -> None:
        chosen, _ = choice.choose_rows(files, work, limit, codes > 0)
        np.copyto(codes, np.concatenate(chosen), where=codes == 0)

    choose(None)
    near = _near_duplicates(parts, recipe.near_duplicate_threshold, codes == 0, show)
    for found in near:
        codes[found.row] = choice.CONTRADICTORY_NEAR if found.contradicts else choice.NEAR
    if recipe.max_pairs_per_prompt:
        choose(recipe.max_pairs_per_prompt)
    digests = np.concatenate([np.fromfile(file, choice.DIGEST) for file in files])
    short: dict[str, tuple[int, int]] = {}
    for index, wanted in enumerate(
        numbers_wanted(recipe, np.bincount(sources[codes == 0], minlength=len(recipe.ingredients)))
    ):
        here = np.flatnonzero((codes == 0) & (sources == index))
        if wanted is not None and len(here) > wanted:
            again = choice.drawn_again(digests["rank"][here])
            codes[here[np.argsort(again, kind="stable")[wanted:]]] = choice.OVER_SOURCE_LIMIT
        elif wanted is not None and len(here) < wanted:
            short[recipe.ingredients[index].name] = (int(wanted), len(here))
    prompts = _hold_out(codes, digests, recipe)
    return Decided(codes, sources, near, prompts, short)


def _hold_out(codes: np.ndarray, digests: np.ndarray, recipe: Recipe) -> dict[int, Counter[int]]:
    """Give whole prompts the code HELD_OUT, by a hash that does not depend on other rows; count rows per prompt."""
    prompts: dict[int, Counter[int]] = {0: Counter(), HELD_OUT: Counter()}
    alive = np.flatnonzero(codes == 0)
    order = alive[np.lexsort((digests["prompt_low"][alive], digests["prompt_high"][alive]))]
    starts = np.flatnonzero(choice.starts(digests["prompt_high"][order], digests["prompt_low"][order]))
    sizes = np.diff(np.append(starts, len(order)))
    first = digests[order[starts]]
    held_out = np.fromiter(
        (
            is_held_out(f"{high:016x}{low:016x}", recipe.held_out_share, recipe.seed)
            for high, low in zip(first["prompt_high"], first["prompt_low"], strict=True)
        ),
        bool,
        len(first),
    )
    expected = recipe.held_out_share * len(held_out)
    if expected >= SURELY_SOME and not held_out.any():
        raise UserError(
            f"none of {len(held_out):,} prompts is held out where about {expected:.0f} should be: they were split with "
            f"seed {recipe.seed} before; give another seed, or no held_out_share"
        )
    codes[order] = np.repeat(np.where(held_out, HELD_OUT, 0).astype(np.uint8), sizes)
    prompts[0].update(sizes[~held_out].tolist())
    prompts[HELD_OUT].update(sizes[held_out].tolist())
    return prompts


def numbers_wanted(recipe: Recipe, available: np.ndarray) -> list[int | None]:
    """How many pairs each source gives: its num_pairs, or its share of the total; None takes all.

    Without total_pairs the total is the largest at which no source with a weight falls short.
    """
    weights = [ingredient.weight for ingredient in recipe.ingredients]
    if None in weights:
        return [ingredient.num_pairs for ingredient in recipe.ingredients]
    if not np.all(available):
        name = recipe.ingredients[int(np.argmin(available))].name
        raise UserError(f"{name} has a weight but no pair is left of it; take it out of the recipe")
    parts = [Fraction(str(weight)) for weight in weights]  # exact, so that 1:2 of 10 and 20 pairs is all of them
    shares = [part / sum(parts) for part in parts]
    total = recipe.total_pairs or min(int(number) // share for number, share in zip(available, shares, strict=True))
    exact = [total * share for share in shares]
    wanted = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: wanted[index] - exact[index])
    for index in by_remainder[: total - sum(wanted)]:
        wanted[index] += 1
    return [*wanted]


def _near_duplicates(parts: list[Part], threshold: float | None, alive: np.ndarray, show: Any) -> list[NearDuplicate]:
    if threshold is None:
        return []
    bands, _ = num_bands(threshold)
    mapped = [
        np.memmap(part.file(".bands"), np.uint64, "r").reshape(-1, bands)
        if part.rows
        else np.zeros((0, bands), np.uint64)
        for part in parts
    ]
    sets = NgramSets([part.file(".ngrams") for part in parts], [part.file(".sizes") for part in parts])
    columns = (np.concatenate([each[:, band] for each in mapped]) for band in show(range(bands)))
    return find_near_duplicates(columns, alive, sets, threshold, _joined(parts, "ties", np.uint8) > 0)


def _joined(parts: list[Part], name: str, kind: Any) -> np.ndarray:
    return np.concatenate([np.fromfile(part.file(f".{name}"), kind) for part in parts])


def ids_of(parts: list[Part], rows: set[int]) -> dict[int, str]:
    """ "source:source_id" of some rows, numbered over all parts."""
    wanted, ids, start = sorted(rows), {}, 0
    for part in parts:
        here = [row - start for row in wanted if start <= row < start + part.rows]
        if here:
            columns = [part_schema("pairs").get_field_index(name) for name in ("source", "source_id")]
            options = pyarrow.ipc.IpcReadOptions(included_fields=columns)
            with pyarrow.OSFile(str(part.file(".arrow"))) as handle:
                table = pyarrow.ipc.open_file(handle, options=options).read_all()
            for place, row in zip(here, table.take(here).to_pylist(), strict=True):
                ids[start + place] = f"{row['source']}:{row['source_id']}"
        start += part.rows
    return ids


def table_of_sources(ingredients: list[Ingredient], decided: Decided) -> dict[str, dict[str, int]]:
    """For the card: what became of the pairs of every source."""
    names: dict[int, str] = {0: "train", HELD_OUT: "held_out"}
    names |= {code: reason for code, reason in enumerate(choice.REASON_CODES) if reason}
    table = {}
    for index, ingredient in enumerate(ingredients):
        counts = np.bincount(decided.codes[decided.sources == index], minlength=256)
        table[ingredient.name] = {"pairs": int(counts.sum())} | {
            name: int(counts[code]) for code, name in names.items() if counts[code] or code in (0, HELD_OUT)
        }
    return table
