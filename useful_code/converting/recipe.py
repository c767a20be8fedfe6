"""The recipe of a mixture: a YAML file, checked before any work begins."""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from useful_code.converting.checked import Options
from useful_code.converting.contamination import MIN_OVERLAP
from useful_code.sources.pairing import PAIRINGS
from useful_code.sources.table import SOURCES
from useful_code.user_errors import UserError

LOAD_OPTIONS = ("config_name", "data_dir", "revision", "streaming")
CONVERSION = ("split", "columns", "min_gap", "keep_ties", "pairing", "max_pairs_per_prompt", *LOAD_OPTIONS)
COLUMNS = ("prompt", "chosen", "rejected", "system")  # that a source of the kind "columns" can name


class Ingredient(NamedTuple):
    """One source of a mixture: raw rows and how to convert them, or pairs that are ready."""

    name: str
    source: str | None  # a converter; None: `input` holds pairs
    input: list[str]
    num_pairs: int | None
    weight: float | None
    conversion: dict[str, Any]  # keys of CONVERSION


class EvaluationSet(NamedTuple):
    """A set whose prompts must not be trained on."""

    input: str
    column: str | None = None  # with the prompt; None: the first that is known
    split: str | None = None  # of a hub data set
    source: str | None = None  # a converter, which knows where the prompt is


class Recipe(NamedTuple):
    ingredients: list[Ingredient]
    seed: int
    held_out_share: float
    max_pairs_per_prompt: int | None
    total_pairs: int | None  # shared out by the weights; None: as many as the scarcest source allows
    near_duplicate_threshold: float | None  # None: near-duplicates stay
    evaluation_sets: list[EvaluationSet]
    min_overlap: float


def read_recipe(path: Path, inputs: dict[str, str], evaluation_sets: list[str]) -> Recipe:
    """Read and check a recipe.

    `inputs` replace what sources (by their names) and evaluation sets (by what the recipe calls them) are read from;
    `evaluation_sets` are added, each "PATH" or "SOURCE=PATH".
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # also ValueError and others, from values such as 2024-13-45
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    at = _Place(str(path), content)
    sources = at.take("sources", dict, None)
    if not sources:
        raise UserError(f"{path}: `sources` must name at least one source")
    ingredients = [
        _ingredient(_Place(f"{path}: sources.{name}", entry), str(name), inputs) for name, entry in sources.items()
    ]
    for each in ingredients:  # the name becomes the name of a folder, and the head of the place of every row
        if not re.fullmatch(r"\w[\w.-]*", each.name):
            raise UserError(f"{path}: sources: {each.name!r} is no name; use letters, digits, _, and - or . inside")
    sets = [_evaluation_set(path, entry) for entry in at.take("decontaminate", list, [])]
    known = [ingredient.name for ingredient in ingredients] + [each.input for each in sets]
    for name in inputs:
        if name not in known:
            raise UserError(f"--input {name}: the recipe has no source of that name; it has {', '.join(known)}")
    sets = [each._replace(input=inputs[each.input], split=None) if each.input in inputs else each for each in sets]
    sets += [_given_evaluation_set(given) for given in evaluation_sets]
    recipe = Recipe(
        ingredients=ingredients,
        seed=at.take("seed", int, 0),
        held_out_share=at.number("held_out_share", 0.0, 0, 1, "from 0 up to, not including, 1", open_end=True),
        max_pairs_per_prompt=at.count("max_pairs_per_prompt"),
        total_pairs=at.count("total_pairs"),
        near_duplicate_threshold=at.number("near_duplicate_threshold", None, 0.5, 1, "from 0.5 to 1"),
        evaluation_sets=sets,
        min_overlap=at.number("min_overlap", MIN_OVERLAP, 1e-9, 1, "above 0 and at most 1"),
    )
    at.nothing_left()
    weighted = [ingredient for ingredient in ingredients if ingredient.weight is not None]
    if weighted and len(weighted) < len(ingredients):
        other = next(ingredient for ingredient in ingredients if ingredient.weight is None)
        raise UserError(f"{path}: {weighted[0].name} has a weight and {other.name} has none; give all sources one")
    if recipe.total_pairs and not weighted:
        raise UserError(f"{path}: total_pairs is shared out by weights, but no source has a weight")
    return recipe


def _ingredient(at: "_Place", name: str, inputs: dict[str, str]) -> Ingredient:
    source = at.take("source", str, None)
    if source is not None and source not in SOURCES:
        raise UserError(
            f"{at.where}: source: there is no {source!r}; convert_dataset.py --list describes all there are"
        )
    if source is not None and SOURCES[source].kind not in ("pairs", "answers"):
        raise UserError(f"{at.where}: source: {source} gives {SOURCES[source].kind}, not pairs")
    given = at.take("input", (str, list), None)
    files = [inputs[name]] if name in inputs else given if isinstance(given, list) else [given] if given else []
    if not files or not all(isinstance(file, str) and file for file in files):
        raise UserError(f"{at.where}: `input` must name a file, a folder or a data set on the hub")
    weight = at.number("weight", None, 1e-9, 1e9, "above 0")
    num_pairs = at.count("num_pairs")
    if weight is not None and num_pairs is not None:
        raise UserError(f"{at.where}: give num_pairs or weight, not both")
    kinds = {"columns": dict, "keep_ties": bool, "streaming": bool}
    conversion = {}
    for key in CONVERSION:
        if key == "max_pairs_per_prompt":
            value: Any = at.count(key)
        elif key == "min_gap":
            value = at.number(key, None, 0, sys.float_info.max, "a number of at least 0")
        else:
            value = at.take(key, kinds.get(key, str), None)
        of_the_hub = key in ("split", *LOAD_OPTIONS)
        if value is not None and not (name in inputs and of_the_hub):  # what stands in for it has no such parts
            conversion[key] = value
    at.nothing_left()
    _check_conversion(at.where, source, conversion)
    return Ingredient(name, source, files, num_pairs, weight, conversion)


def _check_conversion(where: str, source: str | None, conversion: dict[str, Any]) -> None:
    """Raise UserError for options that no conversion has, or that would do nothing in this one."""
    if source is None and conversion:
        raise UserError(
            f"{where}: {next(iter(conversion))} needs a `source` that converts; without one, pairs are read"
        )
    pairing = conversion.get("pairing")
    if pairing is not None and pairing not in PAIRINGS:
        raise UserError(f"{where}: pairing must be {' or '.join(PAIRINGS)}, not {pairing!r}")
    if pairing is not None and source is not None and SOURCES[source].kind != "answers":
        raise UserError(f"{where}: pairing belongs to sources with several scored answers; {source} gives pairs")
    if "columns" in conversion and source != "columns":
        raise UserError(f"{where}: columns belongs to `source: columns`; {source} has names of its own")
    for role, column in conversion.get("columns", {}).items():
        if role not in COLUMNS or not isinstance(column, str):
            raise UserError(f"{where}: columns must name the columns of {', '.join(COLUMNS)}, not {role!r}: {column!r}")


def options_of(ingredient: Ingredient, seed: int) -> Options:
    """The options of the conversion that belong to single rows."""
    chosen = {key: value for key, value in ingredient.conversion.items() if key in Options._fields}
    return Options(**chosen, seed=seed)


def _evaluation_set(path: Path, entry: Any) -> EvaluationSet:
    if isinstance(entry, str) and entry:
        return EvaluationSet(entry)
    if isinstance(entry, dict) and "input" in entry and entry.keys() <= set(EvaluationSet._fields):
        if all(isinstance(value, str) and value for value in entry.values()):
            chosen = EvaluationSet(**entry)
            _check_evaluation_source(f"{path}: decontaminate: {chosen.input}", chosen)
            return chosen
    raise UserError(
        f"{path}: an entry of `decontaminate` is a name, or has `input` and perhaps `column`, `split` and `source`; "
        f"found {repr(entry)[:80]}"
    )


def _given_evaluation_set(given: str) -> EvaluationSet:
    """One of the command line: a name, or SOURCE=PATH with the name of a converter."""
    source, equals, path = given.partition("=")
    if not equals or source not in SOURCES:
        return EvaluationSet(given)
    each = EvaluationSet(path, source=source)
    _check_evaluation_source(f"--decontaminate {given}", each)
    return each


def _check_evaluation_source(where: str, each: EvaluationSet) -> None:
    if each.source is None:
        return
    if each.source not in SOURCES or SOURCES[each.source].kind not in ("pairs", "answers"):
        raise UserError(f"{where}: source: there is no {each.source!r} that gives pairs; --list shows those there are")
    if each.column is not None:
        raise UserError(f"{where}: give a source or a column, not both: the source knows where the prompt is")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        known = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in known:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            known.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Place:
    """A mapping of the recipe; what nobody takes is a mistake of the user's."""

    def __init__(self, where: str, content: Any):
        if not isinstance(content, dict):
            raise UserError(f"{where}: must be a mapping of keys to values, not {type(content).__name__}")
        self.where, self.left = where, dict(content)
        self.known: list[str] = []

    def take(self, key: str, kind: Any, default: Any) -> Any:
        self.known.append(key)
        value = self.left.pop(key, None)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(each.__name__ for each in kinds)
            raise UserError(f"{self.where}: {key} must be {names}, not {value!r:.80}")
        return value

    def count(self, key: str) -> int | None:
        value = self.take(key, int, None)
        if value is not None and value < 1:
            raise UserError(f"{self.where}: {key} must be at least 1, not {value}")
        return value

    def number(self, key: str, default: Any, low: float, high: float, words: str, open_end: bool = False) -> Any:
        value = self.take(key, (int, float), None)
        if value is None:
            return default
        if not low <= value <= high or (open_end and value == high):
            raise UserError(f"{self.where}: {key} must be {words}, not {value}")
        return float(value)

    def nothing_left(self) -> None:
        if self.left:
            known = ", ".join(self.known)
            raise UserError(f"{self.where}: unknown key {next(iter(self.left))!r}; known are {known}")
