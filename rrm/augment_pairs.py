"""Command: checked pairs -> the same pairs and comparisons with answers to other prompts, for a robust reward model.

    python rrm/augment_pairs.py --dataset pairs/hh/train --output pairs/hh-rrm
    python rrm/augment_pairs.py --dataset pairs/hh/train --output pairs/hh-rrm --augmented_share 1 --match length

RRM (arXiv 2409.13156): for each example i two others, j and k, are drawn (draw_others.py), and their answers are set
beside those of i on the prompt of i (fourteen_comparisons.py). Off its prompt an answer loses whatever its length and
style, and two answers off their prompts are equally good. A random share of these comparisons is kept.

Every row of the output has `rrm_type`, "original" or the name of the comparison, and `rrm_id`, "<example>/<number of
the comparison>", where the original has number 0; examples count from 0 over the checked rows. Ties are kept, not
augmented. The folder is like one of useful_code/convert_dataset.py. An interrupted run goes on where it stopped; the
same input, options and seed give the same bytes, for any --num_proc. Texts stay on the disk, also those of j and k.

Augment after the split: what is held out of an output has its answers in rows of other prompts that are trained on.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from draw_others import Examples, TooAlike, draw_others
from fourteen_comparisons import TYPES, augmented_rows
from read_examples import EXAMPLE, MATCHES, WHY_NOT, Lines, Reader, other_columns
from tqdm import tqdm

from useful_code.converting.batches import Batch
from useful_code.converting.inputs import check_apart, describe_inputs, hub_commit, input_files, progress_bar, read_all
from useful_code.converting.inputs import sha256_of as hash_of_file
from useful_code.converting.parts import write_parts
from useful_code.converting.publishing import Split, give_up, publish
from useful_code.converting.schemas import PLACE, lengths_of, part_schema, schema_of
from useful_code.converting.shards import FORMATS, REFUSED, write_refused_rows, write_shards
from useful_code.converting.work import (
    discard_work,
    fingerprint,
    finished_card,
    interruptions_told,
    only_run,
    output_folder,
    start_work,
)
from useful_code.read_rows import RowCounts, no_usable_row, report_counts
from useful_code.row_readers import ReadRow, UnparsedLine
from useful_code.run_info import git_commit
from useful_code.user_errors import UserError, exit_cleanly

CODE = ("augment_pairs.py", "draw_others.py", "fourteen_comparisons.py", "read_examples.py")  # decides the bytes
NEW_COLUMNS = {"rrm_type": pyarrow.string(), "rrm_id": pyarrow.string()}


class Options(NamedTuple):
    """What the user chose, as far as it decides which rows there are."""

    seed: int = 0
    augmented_share: float = 0.5  # of the paper, before its filter
    match: str = "none"


@dataclass(frozen=True)
class Augmenter:
    """Turns groups of lines, i alone or i, j and k, into rows; "types" (rows,) are their indices into `TYPES`."""

    options: Options

    @property
    def schema(self) -> pyarrow.Schema:
        return with_columns(part_schema("pairs"))

    def __call__(self, groups: Sequence[Sequence[ReadRow | UnparsedLine]]) -> Batch:
        rows, types = [], []
        for group in groups:
            example = group[0].number
            i, *others = (json.loads(each.line) for each in group if isinstance(each, UnparsedLine))
            made = [(0, i)]
            if others:
                j, k = others
                made += augmented_rows(i, j, k, self.options.seed, self.options.augmented_share)
            for number, row in made:
                names = {"rrm_type": TYPES[number], "rrm_id": f"{example}/{number}", PLACE: f"\t{example}"}
                rows.append(row | names | lengths_of("pairs", row))
                types.append(number)
        batch = pyarrow.RecordBatch.from_pylist(rows, schema=self.schema)
        arrays = {"types": np.array(types, np.uint8)}
        return Batch(batch, arrays, [], Counter(), len(groups), len(groups), len(groups))


def augment(
    dataset: str,
    output: str,
    options: Options,
    split: str | None = None,
    file_format: str = "parquet",
    num_proc: int = 1,
) -> dict[str, Any]:
    """Write the augmented data set and return its card. Raises `UserError`; until then an older output stays."""
    if options.seed < 0 or num_proc < 1:
        raise UserError(f"--seed is {options.seed} and --num_proc {num_proc}; they must be at least 0 and 1")
    if not 0 < options.augmented_share <= 1:
        raise UserError(f"--augmented_share is {options.augmented_share}; it must be above 0 and at most 1")
    folder = output_folder(output)
    check_apart([dataset], folder)
    with only_run(folder):
        return _augment(dataset, folder, options, split, file_format, num_proc)


def _augment(dataset: str, output: Path, options: Options, split: str | None, file_format: str, num_proc: int):
    names = input_files([dataset])
    revision = hub_commit([dataset], None)
    described = describe_inputs([dataset], names, revision)
    code = [hash_of_file(Path(__file__).with_name(name)) for name in CODE]
    plan = {"inputs": described, "split": split, **options._asdict(), "code_of_rrm": code}
    made_from = fingerprint(plan | {"format": file_format})
    if done := finished_card(output, made_from):
        print(f"{output}: already made from these inputs with these options", file=sys.stderr)
        return done
    work = start_work(output, fingerprint(plan))
    (work / "read").mkdir(exist_ok=True)
    load_options = {"revision": revision} if revision else {}
    with progress_bar(list(names), "rows") as progress:
        raw = ([row] for row in read_all([dataset], names, split, **load_options))
        read = write_parts(raw, Reader(options.match), work / "read", num_proc, progress)
    refused = sum((part.reasons for part in read), Counter())
    write_refused_rows(read, [np.zeros(0)] * len(read), work / REFUSED)
    counts = RowCounts(dataset, sum(part.read for part in read), sum(part.used for part in read), refused)
    if not counts.kept:
        counts.refused_path = str(give_up(output, work))
        raise UserError(no_usable_row(counts))
    by_part = [np.fromfile(part.file(".examples"), EXAMPLE) for part in read]
    examples = np.concatenate(by_part)
    with Lines(read, by_part) as lines:
        try:
            others = drawn_others(dataset, examples, lines, options.seed)
        except UserError:
            discard_work(work)
            raise
        with tqdm(total=len(examples), desc="examples", unit=" examples", disable=None) as progress:
            parts = write_parts(_groups(lines, others), Augmenter(options), work, num_proc, progress)
    columns = other_columns(read)
    types = np.concatenate([np.fromfile(part.file(".types"), np.uint8) for part in parts])
    schema = with_columns(schema_of("pairs"))
    codes = [np.zeros(part.rows, np.uint8) for part in parts]
    shards = write_shards(parts, codes, work / "shards", schema, "pairs", file_format, num_proc)
    card: dict[str, Any] = {
        "title": f"{output.name}, augmented",
        "kind": "pairs",
        "origin": "the rows below, and comparisons made of them (RRM, arXiv 2409.13156)",
        "licence": "that of the rows below",
        "raw_fields": "those of pairs" + (f", without {', '.join(columns)}" if columns else ""),
        "rule": "every row once, and on its prompt a share of the fourteen comparisons with the answers of two others",
        "inputs": described,
        "options": options._asdict() | {"split": split},
        "code_commit": git_commit(),
        "made_from": made_from,
        "rows_read": counts.read,
        "rows_used": counts.kept,
        "refused": dict(sorted(refused.items())),
        "dropped": {},
        "rows_kept": shards.statistics.rows,
        "statistics": shards.statistics.summary(),
        "counts": _counts(examples, others, types, options),
    } | _prompts(examples, types)
    publish(output, work, card, [Split(shards, "", "train")], schema)
    return card


def with_columns(schema: pyarrow.Schema, columns: dict[str, pyarrow.DataType] = NEW_COLUMNS) -> pyarrow.Schema:
    for name, kind in columns.items():
        schema = schema.append(pyarrow.field(name, kind))
    return schema


def drawn_others(dataset: str, examples: np.ndarray, lines: Lines, seed: int) -> np.ndarray:
    """For every example (N,) the rows of its j and k (N, 2); -1 where it is not augmented. Raises `UserError`."""
    chosen = np.flatnonzero(examples["why_not"] == 0)
    if len(chosen) < 3:
        raise UserError(f"{dataset}: there are {len(chosen)} examples with a winner; each needs two others. Add rows")
    few = examples[chosen]
    others = np.full((len(examples), 2), -1, np.int64)
    try:
        drawn = draw_others(Examples(few["prompt"], few["chosen"], few["rejected"], few["bucket"]), seed)
    except TooAlike as error:
        row = json.loads(lines[int(chosen[error.example])])
        prompt, answer = (row["chosen"][place]["content"][:60] for place in (-2, -1))
        raise UserError(f"{dataset}: {error}. An example: {prompt!a}, answered {answer!a}") from error
    others[chosen] = chosen[np.stack(drawn, axis=1)]
    return others


def _groups(lines: Lines, others: np.ndarray) -> Iterator[list[UnparsedLine]]:
    for i, (j, k) in enumerate(others.tolist()):
        rows = [i] if j < 0 else [i, j, k]
        yield [UnparsedLine("", row, lines[row]) for row in rows]


def _counts(examples: np.ndarray, others: np.ndarray, types: np.ndarray, options: Options) -> dict[str, dict[str, int]]:
    """For the card: rows by type, what was not augmented, and where j and k are from."""
    of_type = np.bincount(types, minlength=len(TYPES)).tolist()
    counts = {"Rows by rrm_type": {f"{number} {TYPES[number]}": rows for number, rows in enumerate(of_type)}}
    why_not = np.bincount(examples["why_not"], minlength=len(WHY_NOT)).tolist()
    counts["Rows that are kept but not augmented"] = dict(zip(WHY_NOT[1:], why_not[1:], strict=True))
    if options.match != "none":
        augmented = others[others[:, 0] >= 0]
        alike = int((examples["bucket"][augmented] == examples["bucket"][others[:, 0] >= 0][:, None]).sum())
        of = "of its source" if options.match == "source" else "of its length, between two powers of two characters"
        counts["Where j and k come from"] = {of: alike, "elsewhere, for want of such": augmented.size - alike}
    return counts


def _prompts(examples: np.ndarray, types: np.ndarray) -> dict[str, Any]:
    """For the card: the number of different prompts, and {rows of a prompt: prompts}."""
    originals = np.append(np.flatnonzero(types == 0), len(types))
    _, prompts = np.unique(examples["prompt"], return_inverse=True)
    rows = np.bincount(prompts, weights=np.diff(originals)).astype(np.int64)
    spread = sorted(Counter(rows.tolist()).items())
    return {"prompts": len(rows), "prompts_by_number_of_rows": {str(number): count for number, count in spread}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="Checked pairs: a file, a folder or the name of a hub data set.")
    add("--dataset_split", help="Split of a hub data set.")
    add("--output", required=True, help="A folder. What a former run wrote there is replaced when this one is done.")
    add("--augmented_share", type=float, default=0.5, help="Of the comparisons, to keep at random. Default: 0.5.")
    add(
        "--match",
        choices=MATCHES,
        default="none",
        help="Draw j and k among examples of the same length or source where there are enough: harder to tell from i.",
    )
    add("--seed", type=int, default=0, help="Of what is drawn and of what is kept. Default: 0.")
    add("--format", choices=FORMATS, default="parquet", help="Of the files. Default: parquet.")
    add("--num_proc", type=int, default=1, help="Processes that work. The output does not depend on it. Default: 1.")
    given = parser.parse_args()
    options = Options(given.seed, given.augmented_share, given.match)
    with interruptions_told(given.output):
        card = augment(given.dataset, given.output, options, given.dataset_split, given.format, given.num_proc)
    refused, refused_path = Counter(card["refused"]), str(Path(given.output) / REFUSED)
    print(report_counts(RowCounts(given.dataset, card["rows_read"], card["rows_used"], refused, refused_path)))
    print(summary(card))
    print(f"Rows and data card are in {given.output}")


def summary(card: dict[str, Any]) -> str:
    """One line: originals, what was added, and what could not be augmented."""
    original, *made = card["counts"]["Rows by rrm_type"].values()
    winners, ties = sum(made[:8]), sum(made[8:])
    left = sum(card["counts"]["Rows that are kept but not augmented"].values())
    added = f"{winners + ties:,} augmented rows ({winners:,} with a winner, {ties:,} ties)"
    return f"{original:,} originals and {added}; {left:,} rows without a winner are not augmented"


if __name__ == "__main__":
    exit_cleanly(main)
