"""Recipes: what a good one means, every mistake is one line that names file and key, and how weights are shared out."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.converting.checked import Options
from useful_code.converting.contamination import MIN_OVERLAP
from useful_code.converting.mixing import numbers_wanted
from useful_code.converting.recipe import EvaluationSet, Ingredient, Recipe, options_of, read_recipe
from useful_code.user_errors import UserError

MIXTURES = Path(__file__).parents[1] / "configs" / "mixtures"


def recipe_of(folder, content, inputs=None, evaluation_sets=()):
    """Read a recipe given as YAML text, or as what the text stands for."""
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return read_recipe(path, inputs or {}, list(evaluation_sets))


def of_source(**entry):
    return {"sources": {"a": {"input": "x.jsonl", **entry}}}


def of_raw(source="hh_rlhf", **entry):
    return of_source(source=source, **entry)


def test_a_whole_recipe(tmp_path):
    content = """
        seed: 7
        held_out_share: 0.25
        max_pairs_per_prompt: 4
        total_pairs: 1000
        near_duplicate_threshold: 0.9
        min_overlap: 1
        decontaminate: [bench.jsonl, {input: owner/bench, column: question, split: test}]
        sources:
          raw: {source: ultrafeedback, input: owner/name, split: train, pairing: best_random, min_gap: 1, weight: 2}
          mine: {source: columns, input: [a.csv, b.csv], columns: {chosen: good}, keep_ties: true, weight: 0.5}
          ready-1.2: {input: pairs, weight: 1}
    """
    recipe = recipe_of(tmp_path, content, evaluation_sets=["more.jsonl"])
    raw = {"split": "train", "min_gap": 1.0, "pairing": "best_random"}
    mine = {"columns": {"chosen": "good"}, "keep_ties": True}
    assert recipe == Recipe(
        ingredients=[
            Ingredient("raw", "ultrafeedback", ["owner/name"], None, 2.0, raw),
            Ingredient("mine", "columns", ["a.csv", "b.csv"], None, 0.5, mine),
            Ingredient("ready-1.2", None, ["pairs"], None, 1.0, {}),
        ],
        seed=7,
        held_out_share=0.25,
        max_pairs_per_prompt=4,
        total_pairs=1000,
        near_duplicate_threshold=0.9,
        evaluation_sets=[
            EvaluationSet("bench.jsonl"),
            EvaluationSet("owner/bench", "question", "test"),
            EvaluationSet("more.jsonl"),
        ],
        min_overlap=1.0,
    )
    assert options_of(recipe.ingredients[0], 7) == Options(min_gap=1.0, pairing="best_random", seed=7)
    assert options_of(recipe.ingredients[1], 7) == Options(keep_ties=True, seed=7)


def test_what_is_not_said(tmp_path):
    """A key without a value is as good as absent."""
    recipe = recipe_of(tmp_path, "sources: {a: {input: x.jsonl, num_pairs: }}\nseed:\nheld_out_share:\n")
    ingredient = Ingredient("a", None, ["x.jsonl"], None, None, {})
    assert recipe == Recipe([ingredient], 0, 0.0, None, None, None, [], MIN_OVERLAP)


def test_inputs_given_on_the_command_line_replace_those_of_the_recipe(tmp_path):
    """A file that stands in for a hub data set has no splits or folders; the other options stay."""
    content = {
        "decontaminate": [{"input": "owner/bench", "split": "test", "column": "question"}],
        "sources": {
            "a": {
                "source": "hh_rlhf",
                "input": "o/a",
                "split": "train",
                "data_dir": "d",
                "revision": "r",
                "min_gap": 2,
            },
            "b": {"source": "hh_rlhf"},
        },
    }
    recipe = recipe_of(tmp_path, content, {"a": "a.jsonl", "b": "b.jsonl", "owner/bench": "bench.jsonl"})
    assert [(each.input, each.conversion) for each in recipe.ingredients] == [
        (["a.jsonl"], {"min_gap": 2.0}),
        (["b.jsonl"], {}),
    ]
    assert recipe.evaluation_sets == [EvaluationSet("bench.jsonl", "question", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # the file as a whole
        ("", "must be a mapping of keys to values, not NoneType"),
        ("# nothing but a comment", "must be a mapping"),
        ("[]", "must be a mapping of keys to values, not list"),
        ("hh", "must be a mapping of keys to values, not str"),
        ("sources: [", "not valid YAML"),
        ("sources: {a: {input: x}}\n\tseed: 1", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("seed: 2024-13-45", "not valid YAML (month must be in 1..12)"),
        ("? [a]\n: b", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        # a key that stands twice: YAML would silently take the last
        ("sources: {hh: {input: x}, hh: {input: y}}", "'hh' stands twice"),
        ("sources: {1: {input: x}, '1': {input: y}}", "'1' stands twice"),
        ("seed: 1\nsources: {a: {input: x}}\nseed: 2", "'seed' stands twice"),
        # keys at the top
        ({}, "`sources` must name at least one source"),
        ({"sources": {}}, "`sources` must name at least one source"),
        ({"sources": ["a"]}, "sources must be dict, not ['a']"),
        (of_source() | {"sed": 1}, "unknown key 'sed'; known are sources, decontaminate, seed, held_out_share"),
        (of_source() | {"seed": "0"}, "seed must be int, not '0'"),
        (of_source() | {"seed": True}, "seed must be int, not True"),
        (of_source() | {"seed": 1.0}, "seed must be int, not 1.0"),
        (of_source() | {"held_out_share": 1}, "held_out_share must be from 0 up to, not including, 1, not 1"),
        (of_source() | {"held_out_share": -0.1}, "held_out_share must be from 0 up to, not including, 1, not -0.1"),
        (of_source() | {"held_out_share": False}, "held_out_share must be int or float, not False"),
        (of_source() | {"held_out_share": float("nan")}, "held_out_share must be from 0"),
        (of_source() | {"max_pairs_per_prompt": 0}, "max_pairs_per_prompt must be at least 1, not 0"),
        (of_source() | {"max_pairs_per_prompt": 1.5}, "max_pairs_per_prompt must be int, not 1.5"),
        (of_source() | {"near_duplicate_threshold": 0.4}, "near_duplicate_threshold must be from 0.5 to 1, not 0.4"),
        (of_source() | {"near_duplicate_threshold": 80}, "near_duplicate_threshold must be from 0.5 to 1, not 80"),
        (of_source() | {"min_overlap": 0}, "min_overlap must be above 0 and at most 1, not 0"),
        (of_source() | {"total_pairs": -1}, "total_pairs must be at least 1, not -1"),
        (of_source() | {"total_pairs": 3}, "total_pairs is shared out by weights, but no source has a weight"),
        (of_source() | {"decontaminate": "x"}, "decontaminate must be list, not 'x'"),
        (of_source() | {"decontaminate": [3]}, "an entry of `decontaminate` is a name"),
        (of_source() | {"decontaminate": [""]}, "an entry of `decontaminate` is a name"),
        (of_source() | {"decontaminate": [{"file": "x"}]}, "found {'file': 'x'}"),
        (of_source() | {"decontaminate": [{"input": "x", "colunm": "y"}]}, "an entry of `decontaminate`"),
        (of_source() | {"decontaminate": [{"input": "x", "column": 3}]}, "an entry of `decontaminate`"),
        # names of sources, which become folders
        ({"sources": {"a/b": {"input": "x"}}}, "sources: 'a/b' is no name"),
        ({"sources": {"..": {"input": "x"}}}, "sources: '..' is no name"),
        ({"sources": {"": {"input": "x"}}}, "sources: '' is no name"),
        ({"sources": {"a\tb": {"input": "x"}}}, "is no name"),
        ({"sources": {"a=b": {"input": "x"}}}, "is no name"),
        # keys of a source
        ({"sources": {"a": None}}, "sources.a: must be a mapping"),
        ({"sources": {"a": "x"}}, "sources.a: must be a mapping of keys to values, not str"),
        ({"sources": {"a": {}}}, "sources.a: `input` must name a file"),
        (of_source(input=""), "sources.a: `input` must name a file"),
        (of_source(input=[]), "sources.a: `input` must name a file"),
        (of_source(input=["x", ""]), "sources.a: `input` must name a file"),
        (of_source(input=["x", 3]), "sources.a: `input` must name a file"),
        (of_source(input=3), "sources.a: input must be str or list, not 3"),
        (of_source(splt="y"), "sources.a: unknown key 'splt'; known are source, input, weight, num_pairs, split"),
        (of_source(source="hh"), "sources.a: source: there is no 'hh'; convert_dataset.py --list"),
        (of_source(source="prm800k"), "sources.a: source: prm800k gives steps, not pairs"),
        (of_source(source=1), "sources.a: source must be str, not 1"),
        (of_source(num_pairs=0), "sources.a: num_pairs must be at least 1, not 0"),
        (of_source(num_pairs=True), "sources.a: num_pairs must be int, not True"),
        (of_source(num_pairs=1e3), "sources.a: num_pairs must be int, not 1000.0"),
        (of_source(weight=0), "sources.a: weight must be above 0, not 0"),
        (of_source(weight=-1), "sources.a: weight must be above 0, not -1"),
        (of_source(weight=float("inf")), "sources.a: weight must be above 0, not inf"),
        (of_source(weight=True), "sources.a: weight must be int or float, not True"),
        (of_source(weight="half"), "sources.a: weight must be int or float, not 'half'"),
        (of_source(num_pairs=1, weight=1), "sources.a: give num_pairs or weight, not both"),
        ({"sources": {"a": {"input": "x", "weight": 1}, "b": {"input": "x"}}}, "a has a weight and b has none"),
        # options of the conversion
        (of_source(min_gap=1), "sources.a: min_gap needs a `source` that converts"),
        (of_source(split="train"), "sources.a: split needs a `source` that converts"),
        (of_raw(min_gap=-1), "sources.a: min_gap must be a number of at least 0, not -1"),
        (of_raw(min_gap="2"), "sources.a: min_gap must be int or float, not '2'"),
        (of_raw(keep_ties=1), "sources.a: keep_ties must be bool, not 1"),
        (of_raw(keep_ties="yes"), "sources.a: keep_ties must be bool, not 'yes'"),
        (of_raw(max_pairs_per_prompt=0), "sources.a: max_pairs_per_prompt must be at least 1, not 0"),
        (of_raw(split=3), "sources.a: split must be str, not 3"),
        (of_raw("nectar", pairing="best"), "sources.a: pairing must be all or best_random, not 'best'"),
        (of_raw(pairing="best_random"), "sources.a: pairing belongs to sources with several scored answers"),
        (of_raw(columns={"chosen": "x"}), "sources.a: columns belongs to `source: columns`"),
        (of_raw("columns", columns={"chosn": "x"}), "sources.a: columns must name the columns of prompt, chosen"),
        (of_raw("columns", columns={"chosen": 3}), "sources.a: columns must name the columns of prompt, chosen"),
        (of_raw("columns", columns="x"), "sources.a: columns must be dict, not 'x'"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        recipe_of(tmp_path, content)
    text = str(error.value)
    assert message in text and text.startswith(str(tmp_path / "recipe.yaml")) and "\n" not in text


@pytest.mark.parametrize("inputs", [{"b": "x.jsonl"}, {"owner/other": "x.jsonl"}])
def test_an_input_for_a_source_that_is_not_there(tmp_path, inputs):
    content = of_source() | {"decontaminate": ["owner/bench"]}
    with pytest.raises(UserError, match=f"^--input {next(iter(inputs))}: .* it has a, owner/bench$"):
        recipe_of(tmp_path, content, inputs)


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_a_recipe_that_is_no_text_file(tmp_path, kind):
    path = tmp_path / "recipe.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"sources: \xff")
    with pytest.raises(UserError, match="recipe.yaml: (cannot be read|not valid YAML)"):
        read_recipe(path, {}, [])


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["", "x", "hh_rlhf", "columns"]),
        lambda values: (
            st.lists(values, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "sources",
                        "a",
                        "input",
                        "source",
                        "seed",
                        "decontaminate",
                        "weight",
                        "columns",
                        "min_gap",
                        "split",
                    ]
                ),
                values,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_any_content_gives_a_recipe_or_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for whole in (content, {"sources": content}, {"sources": {"a": content}}, of_source() | {"decontaminate": content}):
        try:
            recipe = recipe_of(folder, whole)
            assert isinstance(recipe, Recipe) and recipe.ingredients
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("path", sorted(MIXTURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_this_repository_can_be_read(path):
    recipe = read_recipe(path, {}, [])
    assert recipe.near_duplicate_threshold and recipe.evaluation_sets and recipe.held_out_share


# --- what the numbers of a recipe mean ---


def wanted(available, weights=None, num_pairs=None, total=None):
    entries = zip(weights or [None] * len(available), num_pairs or [None] * len(available), strict=True)
    ingredients = [Ingredient(f"s{i}", None, ["x"], number, weight, {}) for i, (weight, number) in enumerate(entries)]
    return numbers_wanted(Recipe(ingredients, 0, 0.0, None, total, None, [], 0.5), np.array(available))


@pytest.mark.parametrize(
    ("weights", "available", "total", "expected"),
    [
        ([2, 1], [100, 30], None, [60, 30]),  # the second is the scarcest: 30 is one third of 90
        ([1, 1], [7, 9], None, [7, 7]),
        ([0.1, 0.3], [10, 30], None, [10, 30]),  # in floating point the total would come out as 39
        ([1, 2], [30, 60], None, [30, 60]),
        ([5], [12], None, [12]),
        ([3, 1], [100, 100], 40, [30, 10]),
        ([1, 1, 1], [100, 100, 100], 100, [34, 33, 33]),  # the odd one to the first of equals
        ([1, 2, 4], [100, 100, 100], 10, [1, 3, 6]),  # 1.43, 2.86, 5.71: the two left over to the largest fractions
        ([1, 1], [100, 3], 50, [25, 25]),  # the second gives the three that it has
    ],
)
def test_shares_by_hand(weights, available, total, expected):
    assert wanted(available, weights, total=total) == expected


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 10_000)), min_size=1, max_size=6),
    st.none() | st.integers(1, 10_000),
)
def test_shares_are_exact_but_for_rounding(sources, total):
    weights, available = ([each[place] for each in sources] for place in (0, 1))
    numbers = wanted(available, weights, total=total)
    exact = [Fraction(weight, sum(weights)) for weight in weights]
    assert all(abs(number - sum(numbers) * share) < 1 for number, share in zip(numbers, exact, strict=True))
    if total:
        assert sum(numbers) == total
    else:  # nobody falls short, and one pair more would be too much for somebody
        assert all(number <= there for number, there in zip(numbers, available, strict=True))
        assert any((sum(numbers) + 1) * share > there for share, there in zip(exact, available, strict=True))


def test_without_weights_every_source_gives_what_is_asked_for():
    assert wanted([5, 6, 7], num_pairs=[3, None, 100]) == [3, None, 100]


def test_a_weight_of_a_source_of_which_nothing_is_left():
    with pytest.raises(UserError, match="s1 has a weight but no pair is left of it"):
        wanted([5, 0], weights=[1, 1])
