"""A whole conversion: raw rows of one source -> a folder of checked rows with its card."""

import math
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from useful_code.converting.batches import Converter
from useful_code.converting.checked import AS_THEY_COME, Options
from useful_code.converting.choice import choose_rows
from useful_code.converting.grouping import group_rows
from useful_code.converting.inputs import (
    check_apart,
    describe_inputs,
    hub_commit,
    hub_names,
    input_files,
    progress_bar,
    read_all,
)
from useful_code.converting.parts import Part, write_parts
from useful_code.converting.publishing import Split, give_up, publish
from useful_code.converting.schemas import schema_of
from useful_code.converting.shards import REFUSED, write_refused_rows, write_shards
from useful_code.converting.work import fingerprint, finished_card, only_run, output_folder, start_work
from useful_code.read_rows import RowCounts, no_usable_row
from useful_code.run_info import git_commit
from useful_code.sources.source import Source
from useful_code.sources.table import SOURCES
from useful_code.user_errors import UserError


class Conversion(NamedTuple):
    """What decides the bytes of an output, beside the content of the inputs."""

    source_name: str
    inputs: list[str]
    options: Options
    columns: dict[str, str] | None
    max_pairs_per_prompt: int | None
    file_format: str
    split: str | None
    load_options: dict[str, Any]  # of hub data sets


def convert(
    source_name: str,
    inputs: list[str],
    output: str | os.PathLike,
    *,
    options: Options = AS_THEY_COME,
    columns: dict[str, str] | None = None,
    max_pairs_per_prompt: int | None = None,
    file_format: str = "parquet",
    split: str | None = None,
    num_proc: int = 1,
    **load_options: Any,
) -> dict[str, Any]:
    """Convert `inputs`, write rows, refused rows and data card, and return the card.

    `columns` are arguments of the source "columns". `load_options` go to `datasets.load_dataset` for hub inputs.
    Raises `UserError`; until everything is made, an older output stays as it was.
    """
    source = source_named(source_name, columns)
    for flag, value in (("max_pairs_per_prompt", max_pairs_per_prompt), ("num_proc", num_proc)):
        if value is not None and value < 1:
            raise UserError(f"--{flag} is {value}; it must be at least 1")
    _check_options(source_name, source, options)
    folder = output_folder(output)
    check_apart(inputs, folder)
    load_options = {key: value for key, value in load_options.items() if value}
    if load_options and not hub_names(inputs):
        flag = next(iter(load_options)).replace("name", "config_name")
        raise UserError(f"--{flag} belongs to data sets of the hub, and {', '.join(inputs[:3])} is none")
    conversion = Conversion(
        source_name, inputs, options, columns, max_pairs_per_prompt, file_format, split, load_options
    )
    with only_run(folder):
        return _convert(conversion, source, folder, num_proc)


def _convert(conversion: Conversion, source: Source, output: Path, num_proc: int) -> dict[str, Any]:
    name, inputs, options, columns, max_pairs_per_prompt, file_format, split, load_options = conversion
    names = input_files(inputs)
    revision = hub_commit(inputs, load_options.get("revision"))
    if revision:
        load_options = load_options | {"revision": revision}
    described = describe_inputs(inputs, names, revision)
    plan = {"source": name, "inputs": described, "columns": columns, "split": split, **load_options}
    plan |= options._asdict()
    made_from = fingerprint({**plan, "max_pairs_per_prompt": max_pairs_per_prompt, "format": file_format})
    if done := finished_card(output, made_from):
        print(f"{output}: already made from these inputs with these options", file=sys.stderr)
        return done
    work = start_work(output, fingerprint(plan))
    converter = Converter(name, source, options)
    parts = _make_parts(converter, read_all(inputs, names, split, **load_options), work, num_proc, list(names))
    reasons, prompts = choose_rows([part.file(".digests") for part in parts], work, max_pairs_per_prompt)
    schema = schema_of(converter.kind, source.scales or ())
    shards = write_shards(parts, reasons, work / "shards", schema, converter.kind, file_format, num_proc)
    dropped = write_refused_rows(parts, reasons, work / REFUSED)
    refused = sum((part.reasons for part in parts), Counter())
    card: dict[str, Any] = {
        "title": f"{name}, converted",
        "source": name,
        "kind": converter.kind,
        "origin": source.origin,
        "licence": source.licence,
        "raw_fields": source.fields,
        "rule": source.rule,
        "inputs": described,
        "options": {**options._asdict(), "max_pairs_per_prompt": max_pairs_per_prompt, "split": split}
        | load_options
        | (columns or {}),
        "code_commit": git_commit(),
        "made_from": made_from,
        "rows_read": sum(part.read for part in parts),
        "rows_used": sum(part.used for part in parts),
        "refused": dict(sorted(refused.items())),
        "dropped": dict(sorted(dropped.items())),
        "rows_kept": shards.statistics.rows,
    }
    if not shards.statistics.rows:
        raise UserError(no_usable_row(counts_of(card, give_up(output, work))))
    card |= {
        "prompts": prompts.total(),
        "prompts_by_number_of_rows": {str(rows): number for rows, number in sorted(prompts.items())},
        "statistics": shards.statistics.summary(),
    }
    publish(output, work, card, [Split(shards, "", "train")], schema)
    return card


def _make_parts(converter: Converter, rows: Any, work: Path, num_proc: int, files: list[Path]) -> list[Part]:
    """Convert all rows, with a progress bar where somebody watches."""
    group_key = converter.source.group_key
    with progress_bar(files, "rows") as progress:
        groups = group_rows(rows, group_key, work) if group_key else ([row] for row in rows)
        return write_parts(groups, converter, work, num_proc, progress)


def _check_options(name: str, source: Source, options: Options) -> None:
    """Raise UserError for an option that would do nothing."""
    if options.pairing != "all" and source.kind != "answers":
        raise UserError(f"--pairing belongs to sources with several scored answers; {name} gives {source.kind}")
    if source.kind not in ("pairs", "answers") and (options.min_gap is not None or options.keep_ties):
        flag = "--keep_ties" if options.keep_ties else "--min_gap"
        raise UserError(f"{flag} belongs to sources of pairs; {name} gives {source.kind}")
    if options.min_gap is not None and not 0 <= options.min_gap < math.inf:
        raise UserError(f"--min_gap is {options.min_gap}; it must be a number of at least 0")


def source_named(name: str, columns: dict[str, str] | None = None) -> Source:
    """The source of that name; the one called "columns" reads the user's own column names."""
    if name not in SOURCES:
        raise UserError(f"unknown source {name!r}; known are {', '.join(SOURCES)} (--list describes them)")
    if not columns:
        return SOURCES[name]
    if name != "columns":
        raise UserError(f"--{next(iter(columns))}_column belongs to --source columns; {name} has names of its own")
    return SOURCES[name]._replace(convert=partial(SOURCES[name].convert, **columns))


def counts_of(card: dict[str, Any], refused_path: Path) -> RowCounts:
    """The counts of a card; the refused rows are in `refused_path`."""
    refused = Counter(card["refused"]) + Counter(card["dropped"])
    what = ", ".join(entry.get("file") or entry["hub"] for entry in card["inputs"][:3])
    return RowCounts(what, card["rows_read"], card["rows_kept"], refused, str(refused_path))
