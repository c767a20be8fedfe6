"""The columns of converted rows, one fixed Arrow schema per kind, so that files of different sources go together."""

from collections.abc import Iterable
from typing import Any

import pyarrow

from useful_code.chat_pairs import prompt_of

MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
LENGTHS = {  # kind -> the parts whose characters are counted
    "pairs": ("prompt", "chosen", "rejected"),
    "ratings": ("prompt", "response"),
    "steps": ("prompt", "response"),
}
# Columns of unfinished parts only, beside the lengths:
PLACE = "_place"  # "<file>\t<row>" of the raw row
DETAIL = "_detail"  # of why the row will be dropped, if that is known when the part is made


def schema_of(kind: str, objectives: Iterable[str] = ()) -> pyarrow.Schema:
    """The columns of finished rows; what a row does not have is null."""
    text, number = pyarrow.string(), pyarrow.float64()
    columns: list[tuple[str, Any]]
    if kind == "pairs":
        scores = [(name, number) for name in ("chosen_score", "rejected_score", "margin", "label")]
        columns = [("chosen", MESSAGES), ("rejected", MESSAGES), *scores, ("tie", pyarrow.bool_())]
    elif kind == "ratings":
        ratings = pyarrow.struct([(name, number) for name in objectives])
        scales = pyarrow.struct([(name, pyarrow.list_(number)) for name in objectives])
        columns = [("messages", MESSAGES), ("ratings", ratings), ("scales", scales)]
    else:
        columns = [("prompt", text), ("completions", pyarrow.list_(text)), ("labels", pyarrow.list_(number))]
        columns += [("outcome", pyarrow.bool_())]
    return pyarrow.schema([*columns, ("subset", text), ("source", text), ("source_id", text)])


def part_schema(kind: str, objectives: Iterable[str] = ()) -> pyarrow.Schema:
    """The columns of unfinished parts: those of finished rows, the place, and the lengths in characters."""
    schema = schema_of(kind, objectives)
    for name in (PLACE, DETAIL):
        schema = schema.append(pyarrow.field(name, pyarrow.string()))
    for name in LENGTHS[kind]:
        schema = schema.append(pyarrow.field(f"_{name}", pyarrow.int32()))
    return schema


def lengths_of(kind: str, row: dict[str, Any]) -> dict[str, int]:
    """Characters of the parts of a checked row, under the names of the part's columns."""
    if kind == "pairs":
        sides = {f"_{side}": len(row[side][-1]["content"]) for side in ("chosen", "rejected")}
        return {"_prompt": sum(len(message["content"]) for message in prompt_of(row)), **sides}
    if kind == "ratings":
        *prompt, response = (len(message["content"]) for message in row["messages"])
        return {"_prompt": sum(prompt), "_response": response}
    return {"_prompt": len(row["prompt"]), "_response": sum(len(step) for step in row["completions"])}


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON lines should show it: no column that is null, no objective without a rating."""
    kept = {key: value for key, value in row.items() if value is not None}
    for key in ("ratings", "scales"):
        if key in kept:
            kept[key] = {name: value for name, value in kept[key].items() if value is not None}
    return kept
