"""All rows of one key brought together: which lists come, in which order, and that no row is changed on the way."""

import datetime
import json
import random
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from useful_code.converting import grouping, parts
from useful_code.converting.convert import convert
from useful_code.converting.grouping import group_rows
from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow, UnparsedLine, parsed
from useful_code.sources.table import SOURCES
from useful_code.user_errors import UserError


def key_of(row):
    if not isinstance(row.get("key"), str):
        raise RowRefused("missing_key", "no key")
    return row["key"]


def lines_of(rows, file="raw.jsonl"):
    """Rows as lines of a file; bytes and text are lines already."""
    texts = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return [UnparsedLine(file, number, text) for number, text in enumerate(texts, start=1)]


def keyed(keys):
    return lines_of({"key": key, "number": number} for number, key in enumerate(keys))


def keys_of(groups):
    return [parsed(group[0]).row["key"] for group in groups]


@pytest.fixture
def grouped(tmp_path):
    """A function that groups rows in a folder of its own."""

    def group(rows, key=key_of):
        return list(group_rows(rows, key, Path(tempfile.mkdtemp(dir=tmp_path))))

    return group


def test_rows_of_one_key_come_together_though_far_apart_and_keep_their_order(grouped):
    keys = [f"k{number % 37}" for number in range(1000)]
    groups = grouped(keyed(keys))
    assert len(groups) == 37
    for group in groups:
        numbers = [line.number for line in group]
        assert numbers == [place for place in range(1, 1001) if keys[place - 1] == keys[numbers[0] - 1]]


@settings(max_examples=100)
@given(st.lists(st.one_of(st.text(max_size=3), st.sampled_from(["a", "A", "a ", "1", "é", "e\u0301", "\ud800"]))))
@example(["a", "A", "a", "a "])
@example(["\ud83d", "\ude00", "\U0001f600"])
def test_every_row_is_in_exactly_one_list_and_keys_are_compared_exactly(keys):
    """All in one file, so that only the keys keep them apart."""
    rows = keyed(keys)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(grouping, "NUM_BUCKETS", 1)
        groups = list(group_rows(iter(rows), key_of, Path(folder)))
    assert sorted((line for group in groups for line in group), key=lambda line: line.number) == rows
    assert [len({parsed(line).row["key"] for line in group}) for group in groups] == [1] * len(set(keys))


def test_the_order_of_lists_is_a_function_of_the_keys(grouped):
    """Pinned: a new version, another Python or another machine must not write other bytes."""
    expected = ["two", "six", "one", "five", "seven", "zero", "three", "four"]
    for keys in (expected, expected[::-1], [*sorted(expected), *expected]):
        assert keys_of(grouped(keyed(keys))) == expected


def test_within_a_file_lists_come_in_the_order_of_their_first_rows(tmp_path):
    """And the files come one after the other, whatever the order of rows."""
    keys = [f"k{number}" for number in range(300)]
    random.Random(0).shuffle(keys)
    again = keys[::-1]  # every key twice: the second time in another order
    came = keys_of(group_rows(keyed(keys + again), key_of, tmp_path))
    files = [
        list(dict.fromkeys(json.loads(line.split(b"\t")[0])[0] for line in path.read_bytes().splitlines()))
        for path in sorted(tmp_path.glob("group-*"))
    ]
    assert len(files) == grouping.NUM_BUCKETS and max(map(len, files)) > 1
    assert came == [key for file in files for key in file]
    assert all(file == sorted(file, key=keys.index) for file in files)


def test_the_same_order_whether_rows_come_as_lines_or_parsed_at_once_or_one_by_one(grouped):
    lines = keyed([f"k{number % 50}" for number in range(200)])
    first = grouped(lines)
    for rows in (iter(lines), map(parsed, lines), [row._replace(raw=None) for row in map(parsed, lines)]):
        again = grouped(rows)
        assert [[line[:2] for line in group] for group in again] == [[line[:2] for line in group] for group in first]


def test_the_rows_of_a_conversion_do_not_depend_on_how_groups_are_cut_into_parts(tmp_path, monkeypatch):
    rows = [{"prompt": f"Q{i % 30}", "response": f"answer {i}", "is_safe": i % 7 < 3} for i in range(120)]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"response": "no prompt"}]), encoding="utf-8")
    made = []
    for groups_per_part in (1000, 7):
        monkeypatch.setattr(parts, "PART_GROUPS", groups_per_part)
        folder = tmp_path / f"parts of {groups_per_part}"
        card = convert("beavertails", [str(raw)], folder, file_format="jsonl")
        shards = sorted(folder.glob("train-*"))
        made.append((b"".join(shard.read_bytes() for shard in shards), card["rows_used"], card["statistics"]))
        assert len(shards) == (1 if groups_per_part == 1000 else 5) and card["refused"]["missing_key"] == 1
    assert made[0] == made[1]


@pytest.mark.parametrize("num_files", [1, 64])
def test_a_row_without_a_usable_key_is_a_list_of_its_own_refused(grouped, monkeypatch, num_files):
    monkeypatch.setattr(grouping, "NUM_BUCKETS", num_files)
    lines = [b'{"key": null, "a": 1}', b'{"key": 1}', b"{}", b"{}", b"[1]", b"not JSON", b'"\xff"', b'{"key": "good"}']
    groups = {group[0].number: group for group in grouped(lines_of(lines))}
    assert sorted(groups) == list(range(1, 9)) and all(len(group) == 1 for group in groups.values())
    refused = [groups[number][0] for number in range(1, 8)]
    reasons = [*["missing_key"] * 4, "not_an_object", "malformed_json", "broken_utf8"]
    assert [row.row.reason for row in refused] == reasons and refused[0].row.detail == "no key"
    assert [row.raw for row in refused] == [*(line.decode() for line in lines[:6]), '"\\xff"']
    assert groups[8] == [UnparsedLine("raw.jsonl", 8, b'{"key": "good"}')]


def test_a_parsed_row_without_a_usable_key_is_refused_with_its_values(grouped):
    row = {"a": "\ud800", "when": datetime.date(2024, 1, 2)}
    ((refused,),) = grouped([ReadRow("raw.parquet", 7, row, None)])
    assert refused[:2] == ("raw.parquet", 7) and refused.row.reason == "missing_key"
    assert json.loads(refused.raw) == {"a": "\ud800", "when": "2024-01-02"}


def test_keys_that_are_lone_surrogates_meet_their_equals(grouped):
    lines = [rb'{"key": "\ud800"}', rb'{"key": "\ud801"}', rb'{"key":"\uD800", "a": 1}', rb'{"key": "\\ud800"}']
    groups = {group[0].number: [line.line for line in group] for group in grouped(lines_of(lines))}
    assert groups == {1: [lines[0], lines[2]], 2: [lines[1]], 4: [lines[3]]}


@pytest.mark.parametrize(
    ("source", "rows", "expected"),
    [  # an identifier may be a number or text ...
        ("alpaca_eval", [{"id": 1}, {"id": "1"}, {"id": "01"}, {"id": 10**30}], [[1, 2], [3], [4, "missing_key"]]),
        ("alpaca_eval", [{"id": None}, {}, {"id": True}, {"id": 1.0}], [[n, "missing_key"] for n in (1, 2, 3, 4)]),
        # ... but a prompt is text, without white space at its ends
        ("beavertails", [{"prompt": 1}, {"prompt": "1"}, {"prompt": " 1\n"}], [[1, "wrong_type"], [2, 3]]),
        ("beavertails", [{"prompt": None}, {}, {}], [[n, "missing_key"] for n in (1, 2, 3)]),
        (
            "xstest",
            [{"type": "a", "prompt": "b"}, {"type": "a, b", "prompt": ""}, {"type": "a"}],
            [[1], [2], [3, None]],
        ),
    ],
)
def test_numbers_text_and_nothing_as_keys_of_the_sources(grouped, source, rows, expected):
    groups = grouped(lines_of(rows), SOURCES[source].group_key)
    found = []
    for group in groups:
        reasons = [row.row.reason for row in group if isinstance(row, ReadRow)]
        found.append([row.number for row in group] + reasons)
    expected = [[entry or "missing_key" for entry in group] for group in expected]
    assert sorted(found, key=lambda group: group[0]) == expected


LINES = [
    b'{"key":\t"a\\tb",\r "x": NaN}',  # white space of every kind, and what pandas writes
    b'{"key": "a\\tb", "key": "a\\tb"}',
    b'{"x": 1e400, "y": -0, "key": "a\\u0009b", "z": 100000000000000000000000000}',
    '{"key": "a\\tb", "text": "é東\u2028\x85"}'.encode(),
]


def test_lines_come_back_byte_for_byte(grouped):
    assert [[line.line for line in group] for group in grouped(lines_of(LINES))] == [LINES]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@settings(max_examples=25)
@given(st.lists(st.fixed_dictionaries({"key": st.text(max_size=2)}, optional={"value": json_values}), max_size=6))
def test_parsed_rows_come_back_with_equal_values(rows):
    read = [ReadRow("raw.parquet", number, row, None) for number, row in enumerate(rows, start=1)]
    with tempfile.TemporaryDirectory() as folder:
        groups = list(group_rows(read, key_of, Path(folder)))
    back = sorted((parsed(row, allow_nan=True) for group in groups for row in group), key=lambda row: row.number)
    assert [row.row for row in back] == rows


def test_a_value_that_json_does_not_know_is_not_taken_for_text(grouped):
    values = [b"bytes", Decimal("1.50"), datetime.datetime(2024, 1, 2)]
    groups = grouped([ReadRow("a", number, {"key": "k", "value": value}, None) for number, value in enumerate(values)])
    back = [parsed(row).row["value"] for row in groups[0]]
    assert back == [{"bytes": "b'bytes'"}, {"Decimal": "1.50"}, {"datetime": "2024-01-02 00:00:00"}]


def broken_after(rows, number):
    yield from rows[:number]
    raise RuntimeError("stopped")


def test_a_dealing_that_was_interrupted_begins_anew_and_a_finished_one_is_used_again(tmp_path):
    rows = keyed([f"k{number % 9}" for number in range(500)])
    with pytest.raises(RuntimeError, match="stopped"):
        list(group_rows(broken_after(rows, 400), key_of, tmp_path))
    groups = list(group_rows(rows, key_of, tmp_path))
    assert sorted(line.number for group in groups for line in group) == list(range(1, 501))
    assert list(group_rows(broken_after(rows, 0), key_of, tmp_path)) == groups


@pytest.mark.parametrize("usable", [True, False])
def test_nothing_of_the_grouping_is_left_behind(tmp_path, usable):
    row = {"prompt": "Q", "response": "A", "is_safe": True}
    rows = [row, row | {"response": "B", "is_safe": not usable}]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    if usable:
        convert("beavertails", [str(tmp_path / "raw.jsonl")], tmp_path / "out")
    else:
        with pytest.raises(UserError, match="none of 2 rows can be used"):
            convert("beavertails", [str(tmp_path / "raw.jsonl")], tmp_path / "out")
    left = {path.name for path in (tmp_path / "out").rglob("*")}
    whole = {"train-00000-of-00001.parquet", "card.json", "DATA_CARD.md", "README.md", "refused_rows.jsonl"}
    assert left == (whole if usable else {"failed_refused_rows.jsonl"})
