"""Command: several preference data sets -> one mixture to train on, as a recipe says.

    python useful_code/mix_datasets.py --config configs/mixtures/small.yaml --output pairs/small
    python useful_code/mix_datasets.py --config mine.yaml --output pairs/mine --decontaminate my_evaluation.jsonl \
        --input hh=downloads/hh.jsonl

The recipe (configs/mixtures/*.yaml) names the sources, raw or converted, and how many pairs each gives. Raw ones are
converted first, into `<output>-sources/`, and used again by the next mixture that asks for the same. Then: rows whose
prompt stands in an evaluation set, exact and contradictory duplicates, near-duplicates, and what is over the limits are
left out, each with its reason; the rest is split by prompt. The output has `train/`, `held_out/`, `refused_rows.jsonl`,
`card.json`, `DATA_CARD.md`, and a `README.md` by which `datasets.load_dataset` reads both parts. The same recipe,
inputs and seed give the same bytes, for any --num_proc.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from useful_code.converting.checked import Options
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.converting.convert import convert, counts_of
from useful_code.converting.inputs import check_apart, describe_inputs, hub_commit, input_files, progress_bar, read_all
from useful_code.converting.mixing import HELD_OUT, Mixer, decide, ids_of, table_of_sources
from useful_code.converting.parts import write_parts
from useful_code.converting.publishing import Split, give_up, publish
from useful_code.converting.recipe import EvaluationSet, Ingredient, Recipe, options_of, read_recipe
from useful_code.converting.schemas import schema_of
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
from useful_code.read_rows import no_usable_row, report_counts
from useful_code.row_readers import ReadRow, UnparsedLine
from useful_code.run_info import git_commit
from useful_code.sources.table import SOURCES
from useful_code.user_errors import UserError, exit_cleanly

SPLITS = (("train", "train", 0), ("held_out", "test", HELD_OUT))  # folder, name of its shards, code of its rows


def mix(recipe: Recipe, output: str | os.PathLike, file_format: str = "parquet", num_proc: int = 1) -> dict[str, Any]:
    """Make the mixture and return its card. Raises `UserError`; until all is made, an older output stays as it was."""
    folder = output_folder(output)
    for given in (*(each.input for each in recipe.ingredients), *([each.input] for each in recipe.evaluation_sets)):
        check_apart(given, folder)
    with only_run(folder):
        return _mix(recipe, folder, file_format, num_proc)


def _mix(recipe: Recipe, output: Path, file_format: str, num_proc: int) -> dict[str, Any]:
    folders = {each.name: _pairs_of(each, recipe.seed, output, num_proc) for each in recipe.ingredients}
    sets = [_ready(each, place, output, num_proc) for place, each in enumerate(recipe.evaluation_sets)]
    recipe = recipe._replace(evaluation_sets=sets)
    named = [*chain.from_iterable(folders.values()), *(each.input for each in recipe.evaluation_sets)]
    commits = {given: hub_commit([given], None) for given in named}
    inputs = _described(folders, recipe, commits)
    options = _options(recipe)
    made_from = fingerprint({"inputs": inputs, "options": options, "format": file_format})
    if done := finished_card(output, made_from):
        print(f"{output}: already made from these inputs by this recipe", file=sys.stderr)
        return done
    work = start_work(output, fingerprint({"inputs": inputs, "options": options}))
    evaluation = _evaluation_prompts(recipe, commits)
    mixer = Mixer(list(folders), recipe.seed, recipe.near_duplicate_threshold, evaluation)
    with progress_bar([file for paths in folders.values() for file in input_files(paths)], "pairs") as progress:
        rows = ([row] for name, paths in folders.items() for row in _rows_of(name, paths, commits))
        parts = write_parts(rows, mixer, work, num_proc, progress)
    if not parts:
        discard_work(work)
        raise UserError(f"{', '.join(folders)}: no source of the recipe holds a row")
    decided = decide(parts, recipe, work, lambda bands: tqdm(bands, desc="near-duplicates", disable=None))
    codes = np.split(decided.codes, np.cumsum([part.rows for part in parts])[:-1])
    others = ids_of(parts, {found.of for found in decided.near})
    details = {found.row: f"{others[found.of]} (Jaccard {found.similarity:.2f})" for found in decided.near}
    dropped = write_refused_rows(parts, codes, work / REFUSED, lambda row: details.get(row, ""))
    shards = {
        folder: write_shards(
            parts, [each != code for each in codes], work / folder, schema_of("pairs"), "pairs", file_format, num_proc
        )
        for folder, _, code in SPLITS
    }
    prompts = decided.prompts[0] + decided.prompts[HELD_OUT]
    card: dict[str, Any] = {
        "title": f"{output.name}, a mixture",
        "kind": "pairs",
        "origin": "several sources, see below",
        "licence": "those of the sources",
        "raw_fields": "chosen, rejected, scores (the cards of the sources say where they come from)",
        "rule": "pairs of several sources without those of evaluation sets, without duplicates, split by prompt",
        "inputs": inputs,
        "options": options,
        "code_commit": git_commit(),
        "made_from": made_from,
        "rows_read": sum(part.read for part in parts),
        "rows_used": sum(part.used for part in parts),
        "refused": dict(sorted(sum((part.reasons for part in parts), Counter()).items())),
        "dropped": dict(sorted(dropped.items())),
        "rows_kept": sum(each.statistics.rows for each in shards.values()),
        "sources": table_of_sources(recipe.ingredients, decided),
        "ingredients": {each.name: _described_ingredient(each) for each in recipe.ingredients},
        "short": {name: {"asked for": asked, "there are": there} for name, (asked, there) in decided.short.items()},
    }
    if not shards["train"].statistics.rows:
        refused = give_up(output, work)
        if card["rows_kept"]:
            raise UserError(
                f"{output}: all {card['rows_kept']:,} pairs are held out, none is left to train on; give more, "
                f"or a smaller held_out_share than {recipe.held_out_share:g}"
            )
        raise UserError(no_usable_row(replace(counts_of(card, refused), source=", ".join(folders))))
    card |= {
        "prompts": prompts.total(),
        "prompts_by_number_of_rows": {str(rows): number for rows, number in sorted(prompts.items())},
        "rows": {folder: each.statistics.rows for folder, each in shards.items()},
        "statistics": shards["train"].statistics.summary(),
    }
    splits = [Split(shards[folder], folder, name) for folder, name, _ in SPLITS]
    publish(output, work, card, splits, schema_of("pairs"))
    return card


def _pairs_of(ingredient: Ingredient, seed: int, output: Path, num_proc: int) -> list[str]:
    """Where the checked pairs of a source are; raw ones are converted now, or were by an earlier run."""
    if ingredient.source is None:
        return ingredient.input
    folder = _beside(output, ingredient.name)
    options = options_of(ingredient, seed)
    others = {key: value for key, value in ingredient.conversion.items() if key not in options._fields}
    if "config_name" in others:
        others["name"] = others.pop("config_name")
    card = convert(ingredient.source, ingredient.input, folder, options=options, num_proc=num_proc, **others)
    print(report_counts(counts_of(card, folder / REFUSED)))
    return [str(folder)]


def _ready(each: EvaluationSet, place: int, output: Path, num_proc: int) -> EvaluationSet:
    """An evaluation set whose prompts can be read: one with a source is converted, ties too."""
    if each.source is None:
        return each
    folder = _beside(output, f"decontaminate-{place}-{each.source}")
    options = Options(keep_ties=True)
    card = convert(each.source, [each.input], folder, options=options, split=each.split, num_proc=num_proc)
    print(report_counts(counts_of(card, folder / REFUSED)))
    return EvaluationSet(str(folder), source=each.source)


def _beside(output: Path, name: str) -> Path:
    output = output if output.name not in ("", "..") else output.resolve()
    return output.with_name(f"{output.name}-sources") / name


def _rows_of(name: str, paths: list[str], commits: dict[str, str | None]) -> Iterator[ReadRow | UnparsedLine]:
    files = input_files(paths)
    for given in paths:
        for row in read_all([given], files, None, revision=commits[given]):
            yield row._replace(file=f"{name}/{row.file}")


def _evaluation_prompts(recipe: Recipe, commits: dict[str, str | None]) -> EvaluationPrompts | None:
    prompts = [
        prompt
        for each in recipe.evaluation_sets
        for prompt in read_evaluation_prompts(each.input, each.column, each.split, commits[each.input])
    ]
    return EvaluationPrompts(prompts, recipe.min_overlap) if prompts else None


def _described(folders: dict[str, list[str]], recipe: Recipe, commits: dict[str, str | None]) -> list[dict[str, Any]]:
    """Names and hashes of all that the mixture is made of: pairs by source, and evaluation sets."""
    described = []
    for name, paths in folders.items():
        for entry in describe_inputs([], input_files(paths), None):
            described.append(entry | {"file": f"{name}: {entry['file']}"})
        for given in paths:
            described += [entry | {"source": name} for entry in describe_inputs([given], {}, commits[given])]
    for each in recipe.evaluation_sets:
        read = {"use": "decontaminate", "source": each.source, "column": each.column, "split": each.split}
        for entry in describe_inputs([each.input], input_files([each.input]), commits[each.input]):
            described.append(entry | read)
    return described


def _options(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the card shows it."""
    options = {key: value for key, value in recipe._asdict().items() if key not in ("ingredients", "evaluation_sets")}
    return options | {f"sources.{each.name}": _described_ingredient(each)["asked for"] for each in recipe.ingredients}


def _described_ingredient(each: Ingredient) -> dict[str, str]:
    taken = f"{each.num_pairs:,} pairs" if each.num_pairs else f"weight {each.weight}" if each.weight else "all"
    if not each.source:
        return {"asked for": taken, "origin": "pairs that were ready", "licence": "that of those pairs"}
    return {"asked for": taken, "origin": SOURCES[each.source].origin, "licence": SOURCES[each.source].licence}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", required=True, help="The recipe, a YAML file; configs/mixtures holds some to begin with.")
    add("--output", required=True, help="A folder. What a former run wrote there is replaced when this one is done.")
    add(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PATH",
        help="Read a source of the recipe from somewhere else.",
    )
    add(
        "--decontaminate",
        nargs="+",
        action="extend",
        default=[],
        metavar="[SOURCE=]PATH",
        help="More evaluation sets not to train on; SOURCE converts raw ones, as in convert_dataset.py --list.",
    )
    add("--format", choices=FORMATS, default="parquet", help="Of the files. Default: parquet.")
    add("--num_proc", type=int, default=1, help="Processes that work. The output does not depend on it. Default: 1.")
    arguments = parser.parse_args()
    if arguments.num_proc < 1:
        raise UserError(f"--num_proc is {arguments.num_proc}; it must be at least 1")
    if "" in arguments.decontaminate:
        raise UserError("--decontaminate: a name is empty")
    inputs = {}
    for given in arguments.input:
        name, equals, path = given.partition("=")
        if not (name and equals and path):
            raise UserError(f"--input {given}: write NAME=PATH, the name of a source and where its rows are")
        inputs[name] = path
    recipe = read_recipe(Path(arguments.config), inputs, arguments.decontaminate)
    with interruptions_told(arguments.output):
        card = mix(recipe, arguments.output, arguments.format, arguments.num_proc)
    print_summary(card)
    held_out = f", evaluate on {arguments.output}/held_out" if card["rows"]["held_out"] else ""
    print(f"Train on {arguments.output}/train{held_out}; DATA_CARD.md says what is in it")


def print_summary(card: dict[str, Any]) -> None:
    """A line for every source: what it gave, and why the rest was left out."""
    for name, counts in card["sources"].items():
        lost = ", ".join(
            f"{number:,} {reason}" for reason, number in counts.items() if reason not in ("pairs", "train", "held_out")
        )
        stayed = f"{counts['train']:,} train, {counts['held_out']:,} held out"
        print(f"{name:<20} {counts['pairs']:>10,} pairs: {stayed}; left out: {lost or 'none'}")
    for name, numbers in card["short"].items():
        print(f"{name}: the recipe asks for {numbers['asked for']:,} pairs, but only {numbers['there are']:,} are left")
    rows = ", ".join(f"{number:,} {folder}" for folder, number in card["rows"].items())
    print(f"{rows} pairs of {card['prompts']:,} prompts")


if __name__ == "__main__":
    exit_cleanly(main)
