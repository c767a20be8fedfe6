"""CSV and TSV: a broken record costs one row, and the head line must name the columns."""

import gzip

import pytest

from useful_code.read_rows import read_rows
from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError

BAD = "malformed_table"


def read(tmp_path, content, name="a.csv"):
    (tmp_path / name).write_bytes(content)
    return [row.row.reason if isinstance(row.row, RowRefused) else row.row for row in read_rows(tmp_path / name)]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,2\n", [{"a": "1", "b": "2"}]),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        (b'a,b\n"x\ny, ""z""",2\n', [{"a": 'x\ny, "z"', "b": "2"}]),
        (b"a,b\n1\n1,2,3\n4,5\n", ["wrong_number_of_fields", "wrong_number_of_fields", {"a": "4", "b": "5"}]),
        (b"a,b\n\xe9,2\n3,4\n", ["broken_utf8", {"a": "3", "b": "4"}]),
        (b'a,b\n1,2\n3,"4\n5,6\n', [{"a": "1", "b": "2"}, BAD]),
        (b'a,b\n"he "said",1\n3,4\n', [BAD, {"a": "3", "b": "4"}]),
        (b'a,b\n"he "said", ok\nleft,never\nend",2\n3,4\n', [BAD, {"a": "3", "b": "4"}]),
        (b'a,b\n"he "said",1\n' + b"3,4\n" * 101 + b'"5 "6\n', [BAD, *[{"a": "3", "b": "4"}] * 101, BAD]),
        (b"a,b\n" + b"x" * 300_000 + b",\n", [{"a": "x" * 300_000, "b": ""}]),
    ],
)
def test_records(tmp_path, content, rows):
    assert read(tmp_path, content) == rows
    assert read(tmp_path, gzip.compress(content), "b.csv.gz") == rows


def test_tabs_and_a_compressed_file_that_is_cut_off(tmp_path):
    assert read(tmp_path, b"a\tb\n1,5\t2\n", "a.tsv") == [{"a": "1,5", "b": "2"}]
    whole = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(20_000)))
    rows = read(tmp_path, whole[: len(whole) // 2], "c.csv.gz")
    assert rows[-1] == "broken_gzip" and len(rows) > 1000 and rows[0] == {"a": "0", "b": "0"}


def test_a_compressed_file_that_is_cut_off_below_a_malformed_record(tmp_path):
    """Reading ahead for the closing quote meets the break: the rows before it stay, and the break is told."""
    lines = b"".join(b"%d,%d\n" % (i, i * i) for i in range(20_000))
    whole = gzip.compress(b'a,b\n"he "said",1\n' + lines)
    for share in (0.002, 0.5):
        rows = read(tmp_path, whole[: int(share * len(whole))], f"{share}.csv.gz")
        assert rows[-1] == "broken_gzip" and (share < 0.01 or rows[:2] == [BAD, {"a": "0", "b": "0"}])


@pytest.mark.parametrize(
    ("content", "message"), [(b",\n1,2\n", "is empty"), (b"a,b,a\n1,2,3\n", "'a' stands there twice")]
)
def test_the_head_line_must_name_the_columns(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)
