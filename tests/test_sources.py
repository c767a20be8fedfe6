"""All converters together: thousands of damaged rows give refused rows with reasons or rows that keep the schema."""

import copy
import json
import math
import random

import pytest
import raw_rows_hub
import raw_rows_judged
import raw_rows_rated_steps

from useful_code.converting.batches import Converter
from useful_code.converting.checked import CHECKS, Options, checked_rows, convert_group
from useful_code.reasons import REASONS
from useful_code.row_readers import ReadRow
from useful_code.sources.table import GROUPS, SOURCES

NUM_DAMAGED = 2000  # per source
TRANSCRIPT = "\n\nHuman: What is {}?\n\nAssistant: It is {}."
HH = {"hh_rlhf": [{"chosen": TRANSCRIPT.format("pi", "3.14"), "rejected": TRANSCRIPT.format("pi", "4")}]}
EXAMPLES = HH | raw_rows_hub.EXAMPLES | raw_rows_judged.EXAMPLES | raw_rows_rated_steps.EXAMPLES
BAD_VALUES = (
    *(None, True, False, 0, -1, 3, 10**400, 1.5, math.nan, math.inf, -math.inf),
    *(
        "",
        " ",
        "\n",
        "\ud800",
        "a\udfffb",
        "\0",
        "N/A",
        "1_000",
        "\n\nHuman:",
        "\n\nAssistant: x",
        "x" * 200_000,
        "9" * 5000,
    ),
    *(
        [],
        [[]],
        [None],
        ["x"],
        [1, 2],
        [{}],
        {},
        {"role": "user", "content": "x"},
        {"x": {"y": ["z"]}},
        "[]",
        '["a", null]',
    ),
)
KINDS = ("replace", "remove", "swap", "insert", "append", "rename", "deepen")


def places_in(value, place=()):
    """All places in nested dicts and lists, as tuples of keys."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place] * bool(place) + [below for key, child in children for below in places_in(child, (*place, key))]


def damage(rows, rng):
    """Change one to three places of a group of raw rows, in place."""
    for _ in range(rng.randint(1, 3)):
        places = places_in(rows)
        *path, last = rng.choice(places) if places else (0,)
        parent = rows
        for key in path:
            parent = parent[key]
        kind = rng.choice(KINDS) if path else "replace-row"
        if kind == "remove":
            del parent[last]
        elif kind == "swap":  # roles, sides, or whatever stands side by side
            other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[last], parent[other] = parent[other], parent[last]
        elif kind == "insert" and isinstance(parent[last], str):
            at = rng.randint(0, len(parent[last]))
            parent[last] = parent[last][:at] + str(rng.choice(BAD_VALUES)) + parent[last][at:]
        elif kind == "append" and isinstance(parent[last], list):
            parent[last].append(copy.deepcopy(rng.choice([*BAD_VALUES, *parent[last]])))
        elif kind == "rename" and isinstance(parent, dict):
            parent[f"{last} "] = parent.pop(last)
        elif kind == "deepen":
            parent[last] = [parent[last]] if rng.random() < 0.5 else {"value": parent[last]}
        elif kind != "replace-row":
            parent[last] = copy.deepcopy(rng.choice(BAD_VALUES))
        else:
            rows[last] = {} if rng.random() < 0.1 else rows[last]


def groups_of(source, rows):
    """Rows as the pipeline hands them on: together if they have one key, each by itself otherwise."""
    if source.group_key is None:
        return [[row] for row in rows]
    groups, refused = {}, []
    for row in rows:
        try:
            groups.setdefault(source.group_key(row), []).append(row)
        except Exception as error:
            assert type(error).__name__ == "RowRefused" and error.reason in REASONS, row
            refused.append(row)
    return list(groups.values())


def test_every_source_has_an_example_and_a_complete_entry():
    assert EXAMPLES.keys() == SOURCES.keys()
    assert len(SOURCES) == sum(len(group.SOURCES) for group in GROUPS), "a name stands in two groups"
    for name, source in SOURCES.items():
        assert source.kind in CHECKS and source.origin and source.licence and source.fields and source.rule, name
        assert (source.scales is not None) == (source.kind == "ratings"), name


@pytest.mark.parametrize("name", SOURCES)
def test_the_example_of_every_source_converts(name):
    source = SOURCES[name]
    kept = [row for group in groups_of(source, EXAMPLES[name]) for row in checked_rows(source, group)[0]]
    assert kept


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_rows_are_refused_with_reasons_or_keep_the_schema(name):
    source, rng = SOURCES[name], random.Random(name)
    kept_rows = refused_rows = 0
    for _ in range(NUM_DAMAGED):
        rows = copy.deepcopy(EXAMPLES[name])
        damage(rows, rng)
        for group in groups_of(source, rows):
            before = repr(group)
            made, losses = convert_group(source, group, Options(keep_ties=rng.random() < 0.5))
            kept = [each.row for each in made]
            assert repr(group) == before, "the raw row was changed"
            told = {place for each in (*made, *losses) for place in each.places}
            assert told == set(range(len(group))), "a row was lost without a word"
            for loss in losses:
                assert loss.refused.reason in REASONS and isinstance(loss.refused.detail, str)
            for row in kept:
                assert CHECKS[source.kind](row) == row
                json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
            kept_rows += len(kept)
            refused_rows += len(losses)
    assert kept_rows > 20 and refused_rows > 20, "the damage is neither fatal nor harmless each time"


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_rows_pass_through_the_batches_with_every_row_accounted_for(name):
    """Digests, Arrow columns and the lines of refused_rows.jsonl can be made of whatever comes out."""
    source, rng = SOURCES[name], random.Random(name)
    convert = Converter(name, source, Options())
    groups = []
    for number in range(100):
        rows = copy.deepcopy(EXAMPLES[name])
        damage(rows, rng)
        for group in groups_of(source, rows):
            groups.append([ReadRow("raw.jsonl", number, row, None) for row in group])
    batch = convert(groups)
    assert batch.groups == len(groups) and batch.read == sum(map(len, groups))
    assert batch.rows.num_rows == len(batch.arrays["digests"])
    assert batch.used <= batch.read and batch.reasons.total() == len(batch.refused)
    assert batch.used + len(batch.refused) >= batch.read or source.group_key
    for line in batch.refused:
        assert json.loads(line)["reason"] in REASONS
    for row in batch.rows.to_pylist():
        assert row["source"] == name and row["source_id"]
