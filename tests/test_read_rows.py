"""Reading: every row is used or refused with a reason, and written down; user errors are one clear line."""

import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.read_rows import (
    RAW_CHARACTERS,
    RowCounts,
    checked_rows,
    list_files,
    load_checked,
    read_rows,
    report_counts,
)
from useful_code.reasons import REASONS, RowRefused
from useful_code.user_errors import UserError


def pair(number, answer="good"):
    question = {"role": "user", "content": f"question {number}"}
    return {
        "chosen": [question, {"role": "assistant", "content": answer}],
        "rejected": [question, {"role": "assistant", "content": "bad"}],
    }


def as_line(row):
    return json.dumps(row, ensure_ascii=False).encode("utf-8")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def numbers_of(rows):
    return [int(row["chosen"][0]["content"].split()[1]) for row in rows]


def refused_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


ROWS = [pair(number) for number in range(3)]
FORMATS = {
    "a.jsonl": b"\n".join(map(as_line, ROWS)),
    "a.jsonl.gz": gzip.compress(b"\n".join(map(as_line, ROWS))),
    "a.json": as_line(ROWS),
    "a.json.gz": gzip.compress(as_line(ROWS)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows, counts = load_checked(write(tmp_path / name, FORMATS[name]))
    assert rows == ROWS
    assert (counts.read, counts.kept, counts.refused.total(), counts.refused_path) == (3, 3, 0, None)
    assert [read.number for read in read_rows(tmp_path / name)] == [1, 2, 3]


def test_parquet_gives_the_same_rows_and_nulls_are_absent(tmp_path):
    rows = [*(pair(number) for number in range(600)), {**pair(600), "tie": True}]  # more than one batch
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in ("chosen", "rejected", "tie")})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert load_checked(tmp_path / "a.parquet")[0] == [*rows[:-1], {**rows[-1], "label": 0.5}]


def test_broken_lines_cost_one_row_each_and_are_written_with_line_reason_and_text(tmp_path):
    broken_utf8 = as_line(pair(4, answer="café")).replace("é".encode(), b"\xe9")
    lines = [
        b"\xef\xbb\xbf" + as_line(pair(0)),  # 1: a byte-order mark is no part of the row
        b"",
        b"  \t\r",
        b'{"chosen": [',  # 4
        b'["a", "list"]',  # 5
        broken_utf8,  # 6
        b'{"chosen_score": NaN}',  # 7
        b'{"a": -Infinity}',  # 8
        b"[" * 100_000,  # 9: deeper than the parser goes
        b'{"a": ' + b"7" * 5000 + b"}",  # 10: more digits than Python converts
        as_line({"chosen": []}),  # 11
        b'{"chosen": 1, ' + as_line(pair(1))[1:],  # 12: of duplicate keys the last counts
        as_line({**pair(2), "note": "x" * 5000, "margin": -1}),  # 13
        as_line(pair(3)) + b"\r",  # 14
    ]
    source = write(tmp_path / "rows.jsonl", b"\n".join(lines))
    refused_path = tmp_path / "out" / "refused_rows.jsonl"
    rows, counts = load_checked(source, refused_path=refused_path)
    assert numbers_of(rows) == [0, 1, 3]
    assert counts.read == 12 == counts.kept + counts.refused.total()
    refused = refused_in(refused_path)
    assert [(record["line"], record["reason"]) for record in refused] == [
        (4, "malformed_json"),
        (5, "not_an_object"),
        (6, "broken_utf8"),
        (7, "non_finite_number"),
        (8, "non_finite_number"),
        (9, "malformed_json"),
        (10, "malformed_json"),
        (11, "missing_key"),
        (13, "bad_margin"),
    ]
    assert all(record["file"] == str(source) and record["reason"] in REASONS for record in refused)
    assert refused[0]["raw"] == '{"chosen": ['
    assert "caf\\xe9" in refused[2]["raw"]
    assert len(refused[-1]["raw"]) == RAW_CHARACTERS
    assert refused[-1]["raw_characters"] == len(lines[12])


def test_a_lone_surrogate_is_refused_and_can_be_written(tmp_path):
    source = write(tmp_path / "a.jsonl", json.dumps(pair(0, "\ud800")).encode() + b"\n" + as_line(pair(1)))
    refused_path = tmp_path / "refused_rows.jsonl"
    assert numbers_of(load_checked(source, refused_path=refused_path)[0]) == [1]
    assert refused_in(refused_path)[0]["reason"] == "invalid_unicode"


def test_a_cut_off_gzip_keeps_the_rows_before_the_break_and_counts_the_break(tmp_path):
    numbers = random.Random(0)
    lines = [as_line({**pair(i), "noise": numbers.random()}) for i in range(2000)]
    whole = gzip.compress(b"\n".join(lines))
    rows, counts = load_checked(write(tmp_path / "a.jsonl.gz", whole[: len(whole) // 2]))
    assert numbers_of(rows) == list(range(len(rows))) and 500 < len(rows) < 1500
    assert counts.refused == {"broken_gzip": 1}
    checksum_broken = whole[:-8] + bytes(4) + whole[-4:]
    rows, counts = load_checked(write(tmp_path / "b.jsonl.gz", checksum_broken))
    assert len(rows) >= 1999 and counts.refused == {"broken_gzip": 1}


def test_broken_text_in_json_and_parquet_costs_one_row(tmp_path):
    content = as_line([pair(0), pair(1, "café"), 5, pair(2)]).replace("é".encode(), b"\xe9")
    rows, counts = load_checked(write(tmp_path / "a.json", content))
    assert numbers_of(rows) == [0, 2] and counts.refused == {"broken_utf8": 1, "not_an_object": 1}
    texts = pyarrow.array([b"a", b"\xff", b"c"], type=pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    read = [(row.number, row.row) for row in read_rows(tmp_path / "a.parquet")]
    assert read[0] == (1, {"text": "a"}) and read[2] == (3, {"text": "c"})
    assert isinstance(read[1][1], RowRefused) and read[1][1].reason == "broken_utf8"


def test_a_parquet_file_damaged_inside_is_one_refused_row(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:30] = b"\xff" * 26  # the first data page; the footer stays
    (tmp_path / "a.parquet").write_bytes(content)
    (read,) = read_rows(tmp_path / "a.parquet")
    assert isinstance(read.row, RowRefused) and read.row.reason == "broken_parquet"


def test_a_folder_is_read_in_sorted_order_without_our_own_reports(tmp_path):
    write(tmp_path / "b.jsonl", as_line(pair(2)))
    write(tmp_path / "a" / "z.jsonl", as_line(pair(1)))
    write(tmp_path / "a" / "empty.jsonl", b"")
    write(tmp_path / "a" / "README.md", b"# not data")
    for name in ("refused_rows.jsonl", "hh_refused_rows.jsonl", "hh_card.json", ".hh.jsonl.partial", ".cache/c.jsonl"):
        write(tmp_path / name, as_line(pair(9)))
    assert numbers_of(load_checked(tmp_path)[0]) == [1, 2]
    assert {read.file for read in read_rows(tmp_path)} == {str(tmp_path / "a/z.jsonl"), str(tmp_path / "b.jsonl")}


def test_what_datasets_saved_to_disk_is_read_with_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {name: datasets.Dataset.from_list(rows) for name, rows in (("train", ROWS), ("test", ROWS[:1]))}
    parts["train"].save_to_disk(tmp_path / "one")
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    assert load_checked(tmp_path / "one")[0] == ROWS
    assert load_checked(tmp_path / "two")[0] == ROWS
    assert load_checked(tmp_path / "two", split="test")[0] == ROWS[:1]
    with pytest.raises(UserError, match="no split 'dev'; it has train, test"):
        load_checked(tmp_path / "two", split="dev")
    with pytest.raises(UserError, match="leave the split out"):
        load_checked(tmp_path / "one", split="train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file or folder"),
        ("missing", None, "no such file or folder"),
        ("empty.jsonl", b"", "empty"),
        ("empty.parquet", b"", "empty"),
        ("blank.jsonl", b"\n \n", "holds no rows"),
        ("rows.txt", b"a,b\n", "unknown suffix; give a file that ends in .jsonl"),
        ("rows.pkl", b"cposix\nsystem\n", "unknown suffix"),
        ("object.json", b'{"data": []}', r"holds an object with the keys \['data'\], not a list"),
        ("lines.json", b'{"a": 1}\n{"a": 2}\n', "rename the file to .jsonl"),
        ("cut.json", b'[{"a": 1}, {"a"', "not valid JSON"),
        ("cut.json.gz", gzip.compress(b"[]", mtime=0)[:-6], "compressed file is damaged"),
        ("no.json.gz", b"[]", "compressed file is damaged"),
        ("no.parquet", b"hello", "not a readable parquet file"),
        ("no.jsonl.gz", b"hello", r"none of 1 rows can be used \(1 broken_gzip\)"),
        ("bad.jsonl", b"{}\n{}\nx\n", r"none of 3 rows can be used \(2 missing_key, 1 malformed_json\)"),
        ("folder/readme.md", b"x", "no file in this folder"),
    ],
)
def test_what_the_user_must_mend_is_one_clear_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(UserError, match=message) as error:
        load_checked(path.parent if name.startswith("folder") else path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_split_of_a_plain_file_is_refused_rather_than_ignored(tmp_path):
    with pytest.raises(UserError, match="name the file instead"):
        load_checked(write(tmp_path / "a.jsonl", as_line(pair(0))), split="test")


def test_refused_rows_never_overwrite_their_source(tmp_path):
    source = write(tmp_path / "refused_rows.jsonl", as_line(pair(0)))
    with pytest.raises(UserError, match="would overwrite"):
        load_checked(source, refused_path=tmp_path / "x" / ".." / "refused_rows.jsonl")
    assert source.read_bytes() == as_line(pair(0))


def test_an_empty_refused_file_says_that_nothing_was_refused(tmp_path):
    refused_path = write(tmp_path / "refused_rows.jsonl", b"from an earlier run")
    load_checked(write(tmp_path / "a.jsonl", as_line(pair(0))), refused_path=refused_path)
    assert refused_path.read_bytes() == b""


def test_limit_counts_usable_rows_and_reads_no_further(tmp_path):
    source = write(tmp_path / "a.jsonl", b"\n".join([as_line(pair(0)), b"{}", as_line(pair(1)), as_line(pair(2))]))
    rows, counts = load_checked(source, limit=2)
    assert numbers_of(rows) == [0, 1] and counts.read == 3
    with pytest.raises(UserError, match="at least 1"):
        load_checked(source, limit=0)


def test_own_check_decides_what_is_kept(tmp_path):
    def only_even(row):
        if row["n"] % 2:
            raise RowRefused("wrong_type", "odd")
        return {"half": row["n"] // 2}

    source = write(tmp_path / "a.jsonl", b'{"n": 4}\n{"n": 5}\n')
    rows, counts = load_checked(source, check=only_even)
    assert rows == [{"half": 2}] and counts.refused == {"wrong_type": 1}


def test_reading_lines_is_lazy(tmp_path):
    """The first row is given out before the second is parsed: counts stand at one."""
    counts = RowCounts("a")
    rows = checked_rows(write(tmp_path / "a.jsonl", as_line(pair(0)) + b"\nbroken"), counts)
    next(rows)
    assert (counts.read, counts.refused.total()) == (1, 0)
    assert list(rows) == [] and counts.refused.total() == 1


def test_the_report_names_every_reason_and_the_file(tmp_path):
    source = write(tmp_path / "a.jsonl", as_line(pair(0)) + b"\nx\ny\n{}")
    counts = load_checked(source, refused_path=tmp_path / "r.jsonl")[1]
    report = report_counts(counts)
    assert "4 rows read, 1 kept, 3 refused (2 malformed_json, 1 missing_key)" in report
    assert report.endswith(f"Refused rows are in {tmp_path / 'r.jsonl'}")


@settings(deadline=None, max_examples=50)  # no verdict by the clock
@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([as_line(pair(7)), b"", b"\xff", b"[1]"]))))
def test_any_bytes_are_read_without_exception_and_every_line_is_accounted_for(tmp_path_factory, lines):
    source = tmp_path_factory.mktemp("bytes") / "a.jsonl"
    content = b"\n".join(lines)
    source.write_bytes(content + b"\n" + as_line(pair(0)))
    rows, counts = load_checked(source)
    num_lines = sum(bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    assert counts.read == num_lines + 1 == counts.kept + counts.refused.total()
    assert len(rows) >= 1 + lines.count(as_line(pair(7)))


def test_a_name_that_is_no_path_is_asked_of_the_hub(monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    hub = {"owner/pairs": datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})}
    monkeypatch.setattr(datasets, "load_dataset", hub.__getitem__)
    assert load_checked("owner/pairs")[0] == ROWS
    assert [read.file for read in read_rows("owner/pairs", split="train")] == ["owner/pairs/train"] * 3
    assert "asking the hub" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file or folder, and not loadable from the hub .KeyError"):
        load_checked("owner/other")


@pytest.mark.network
def test_hub_name_is_loaded():
    rows = read_rows("Anthropic/hh-rlhf", split="test")
    assert set(next(rows).row) == {"chosen", "rejected"}


def test_the_memory_of_rollouts_is_no_data(tmp_path):
    for name in ("steps.jsonl", "steps.jsonl.completions.jsonl", "completions.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert [path.name for path in list_files(tmp_path)] == ["completions.jsonl", "steps.jsonl"]
