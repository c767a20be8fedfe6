"""Converting: METHODS 11.4 (2, 6), interruption and the same bytes, what the card says, and the command itself."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from useful_code import convert_dataset
from useful_code.chat_pairs import check_pair, prompt_key, prompt_of
from useful_code.converting import convert as converting
from useful_code.converting import parts, shards
from useful_code.converting.checked import Options
from useful_code.converting.choice import DIGEST, REASON_CODES, decide, digest_row
from useful_code.converting.convert import convert
from useful_code.read_rows import load_checked
from useful_code.reasons import RowRefused
from useful_code.sources.transcripts import hh_rlhf
from useful_code.user_errors import UserError

COMMAND = [sys.executable, convert_dataset.__file__]


def transcript(*turns):
    """Human and Assistant by turns, as Anthropic writes them."""
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {text}" for i, text in enumerate(turns))


def hh_row(prompt="Q", chosen="good", rejected="bad"):
    return {"chosen": transcript(prompt, chosen), "rejected": transcript(prompt, rejected)}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refused_in(folder):
    return [json.loads(line) for line in (folder / "refused_rows.jsonl").read_text(encoding="utf-8").splitlines()]


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_hh_rlhf_row_by_hand():
    row = {"chosen": transcript("Q", "A", "Q2", "good\n\nand more"), "rejected": transcript("Q", "A", "Q2", " bad ")}
    (pair,) = hh_rlhf(row)
    assert [message["content"] for message in check_pair(pair)["chosen"]] == ["Q", "A", "Q2", "good\n\nand more"]
    assert pair["rejected"][-1] == {"role": "assistant", "content": "bad"}


def test_hh_marker_inside_a_message_is_text_and_only_after_a_blank_line_a_turn():
    """METHODS 11.4, check 2."""
    text = "Human: one\nHuman: two\nAssistant: three. Human: four\n\n Human: five\n\nhuman: six"
    (pair,) = hh_rlhf(hh_row(prompt=text))
    assert [message["content"] for message in pair["chosen"]] == [text, "good"]


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (transcript("Q", "A", "Q2"), "odd_length"),  # ends with a Human turn
        ("\n\nHuman: Q\n\nAssistant: A\n\nAssistant: A2", "role_order"),
        (transcript("Q", " "), "empty_content"),
        ("Human: Q", "no_turn_marker"),
        ("Preface" + transcript("Q", "A"), "text_before_first_turn"),
        (transcript("other", "A"), "history_differs"),
        (transcript("Q", "A", "Q2", "A2"), "unequal_length"),
        (transcript("Q", "bad "), "equal_responses"),
        (None, "missing_key"),
        (["Q", "A"], "wrong_type"),
        (transcript("Q", "\ud800"), "invalid_unicode"),
    ],
)
def test_hh_transcripts_that_are_refused(chosen, reason):
    with pytest.raises(RowRefused) as refused:
        for pair in hh_rlhf({**hh_row(), "chosen": chosen}):
            check_pair(pair)
    assert refused.value.reason == reason


def pair_of(prompt, chosen, rejected, **columns):
    question = {"role": "user", "content": prompt}
    sides = [[question, {"role": "assistant", "content": text}] for text in (chosen, rejected)]
    return {"chosen": sides[0], "rejected": sides[1], **columns}


def digests_of(rows, seed=0):
    return np.array([digest_row("pairs", row, seed) for row in rows], DIGEST)


def test_of_duplicates_the_first_stays_and_of_contradictions_none():
    pairs = [("Q", "a", "b"), ("Q", "a", "c"), ("Q", "a", "b"), ("Q", "c", "a"), ("q?", "a", "b"), ("Q", "c", "a")]
    reasons = [REASON_CODES[code] for code in decide(digests_of([pair_of(*pair) for pair in pairs]))]
    contradictory = "contradictory_duplicate"
    assert reasons == [None, contradictory, "exact_duplicate", contradictory, None, contradictory]


def test_a_tie_is_equal_only_to_a_tie_and_has_no_order():
    rows = [pair_of("Q", "a", "b", tie=True), pair_of("Q", "b", "a", tie=True), pair_of("Q", "b", "a")]
    assert [REASON_CODES[code] for code in decide(digests_of(rows))] == [None, "exact_duplicate", None]


def test_limit_per_prompt_counts_prompts_by_their_key_and_does_not_depend_on_order():
    pairs = [pair_of(prompt, "a", str(i)) for i in range(20) for prompt in ("Q", "q?", "other")]

    def kept(order, seed):
        reasons = decide(digests_of([pairs[i] for i in order], seed), 3)
        return {i for i, reason in zip(order, reasons, strict=True) if reason == 0}

    in_order = kept(range(60), seed=0)
    assert sorted(Counter(prompt_key(prompt_of(pairs[i])) for i in in_order).values()) == [3, 3]
    shuffled = list(range(60))
    random.Random(1).shuffle(shuffled)
    assert kept(shuffled, seed=0) == in_order != kept(range(60), seed=1)


def test_card_counts_everything_and_refused_rows_say_where(tmp_path):
    rows = [
        hh_row("Q1", "longer", "bad"),
        hh_row("Q1", "longer", "bad"),
        hh_row("Q1", "a", "bb"),
        hh_row("Q2", "a", "b"),
        hh_row("Q2", "b", "a"),
        {"chosen": transcript("Q", "A")},
        hh_row("Q3", "a", "b"),
    ]
    card = convert("hh_rlhf", [write_lines(tmp_path / "raw.jsonl", rows)], tmp_path / "hh")
    assert card == json.loads((tmp_path / "hh" / "card.json").read_text())
    assert (card["rows_read"], card["rows_used"], card["rows_kept"], card["prompts"]) == (7, 6, 3, 2)
    assert card["refused"] == {"missing_key": 1}
    assert card["dropped"] == {"exact_duplicate": 1, "contradictory_duplicate": 2}
    assert card["prompts_by_number_of_rows"] == {"1": 1, "2": 1}
    assert card["statistics"]["chosen_longer_share"] == card["statistics"]["equally_long_share"] == round(1 / 3, 4)
    assert card["statistics"]["characters"]["chosen"] == {"mean": 2.7, "p5": 1, "median": 1, "p95": 6, "max": 6}
    assert card["inputs"][0]["file"] == "raw.jsonl" and len(card["inputs"][0]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(card)
    page = (tmp_path / "hh" / "DATA_CARD.md").read_text()
    assert "| **rows kept** | 3 |" in page and "| contradictory_duplicate | 2 |" in page
    assert [(row["line"], row["reason"]) for row in refused_in(tmp_path / "hh")] == [
        (6, "missing_key"),
        (2, "exact_duplicate"),
        (4, "contradictory_duplicate"),
        (5, "contradictory_duplicate"),
    ]
    written, counts = load_checked(tmp_path / "hh")
    assert [(row["source"], row["source_id"]) for row in written] == [
        ("hh_rlhf", "raw.jsonl:1"),
        ("hh_rlhf", "raw.jsonl:3"),
        ("hh_rlhf", "raw.jsonl:7"),
    ]
    assert counts.read == 3 and {path.name for path in (tmp_path / "hh").iterdir()} == {
        "train-00000-of-00001.parquet",
        "refused_rows.jsonl",
        "card.json",
        "DATA_CARD.md",
        "README.md",
    }


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_the_same_bytes_anywhere_for_any_number_of_processes(tmp_path, monkeypatch, file_format):
    rows = [hh_row(f"Q{i % 4}", "good", f"bad {i}") for i in range(40)] + [{"chosen": 1}]
    monkeypatch.setattr(parts, "PART_GROUPS", 10)
    made = []
    for folder, num_proc in ((tmp_path / "here", 1), (tmp_path / "over" / "there", 2)):
        (folder / "raw" / "deep").mkdir(parents=True)
        write_lines(folder / "raw" / "a.jsonl", rows[:20])
        write_lines(folder / "raw" / "deep" / "a.jsonl", rows[20:])
        raw = [str(folder / "raw")]
        convert("hh_rlhf", raw, folder / "out", max_pairs_per_prompt=3, file_format=file_format, num_proc=num_proc)
        made.append(files_of(folder / "out"))
    assert made[0] == made[1] and len(made[0]) > 4
    assert len(load_checked(tmp_path / "here" / "out")[0]) == 12


def test_datasets_loads_the_folder(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    raw = write_lines(tmp_path / "raw.jsonl", [hh_row(f"Q{i}") for i in range(5)] + [{}])
    for file_format in ("parquet", "jsonl"):
        convert("hh_rlhf", [raw], tmp_path / file_format, file_format=file_format)
        loaded = datasets.load_dataset(str(tmp_path / file_format), cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == ["train"] and len(loaded["train"]) == 5
        assert loaded["train"][4]["chosen"][0] == {"role": "user", "content": "Q4"}


def interrupted_after(number, function):
    """A function that raises KeyboardInterrupt at its call of that number."""
    calls = []

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) > number:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [(parts, "_write_part", 2), (shards, "_write_shard", 2), (converting, "write_refused_rows", 0)],
)
def test_an_interrupted_conversion_keeps_the_old_output_and_goes_on(tmp_path, monkeypatch, module, name, number):
    """It begins at the first unfinished part and ends in the bytes of a run that nobody interrupted."""
    monkeypatch.setattr(parts, "PART_GROUPS", 5)
    raw = write_lines(tmp_path / "raw.jsonl", [hh_row("old")])
    convert("hh_rlhf", [raw], tmp_path / "hh")
    old = files_of(tmp_path / "hh")
    write_lines(tmp_path / "raw.jsonl", [hh_row(f"Q{i}") for i in range(22)] + [{}])
    with monkeypatch.context() as patched:
        patched.setattr(module, name, interrupted_after(number, getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            convert("hh_rlhf", [raw], tmp_path / "hh")
    now = files_of(tmp_path / "hh")
    assert {path: now[path] for path in old} == old, "the old output is untouched"
    finished = sorted(path.name for path in (tmp_path / "hh" / ".unfinished").glob("part-*.json"))
    assert len(finished) == (2 if name == "_write_part" else 5)
    written = []
    write_part = parts._write_part
    monkeypatch.setattr(parts, "_write_part", lambda stem, *rest: written.append(stem.name) or write_part(stem, *rest))
    convert("hh_rlhf", [raw], tmp_path / "hh")
    assert len(written) == 5 - len(finished), "finished parts are not made again"
    convert("hh_rlhf", [raw], tmp_path / "fresh")
    assert files_of(tmp_path / "hh") == files_of(tmp_path / "fresh")


def test_other_options_or_another_input_do_not_use_old_parts(tmp_path, monkeypatch):
    raw = write_lines(tmp_path / "raw.jsonl", [hh_row(f"Q{i}") for i in range(6)])
    with monkeypatch.context() as patched:
        patched.setattr(converting, "write_refused_rows", interrupted_after(0, None))
        with pytest.raises(KeyboardInterrupt):
            convert("hh_rlhf", [raw], tmp_path / "hh")
    write_lines(tmp_path / "raw.jsonl", [hh_row("new")])
    assert convert("hh_rlhf", [raw], tmp_path / "hh")["rows_kept"] == 1


def test_a_finished_output_is_not_made_again_unless_it_was_damaged(tmp_path, capsys):
    raw = write_lines(tmp_path / "raw.jsonl", [hh_row()])
    card = convert("hh_rlhf", [raw], tmp_path / "hh")
    assert convert("hh_rlhf", [raw], tmp_path / "hh") == card
    assert "already made" in capsys.readouterr().err
    (shard,) = (tmp_path / "hh").glob("train-*")
    good = shard.read_bytes()
    shard.write_bytes(b"damaged")
    convert("hh_rlhf", [raw], tmp_path / "hh")
    assert shard.read_bytes() == good


def test_rows_of_one_prompt_come_together_though_far_apart(tmp_path):
    rows = [
        {"prompt": f"Q{i % 30}", "response": f"answer {i}", "is_safe": i < 30} for i in range(60)
    ]  # safe answers first, then the unsafe ones
    card = convert(
        "beavertails", [write_lines(tmp_path / "raw.jsonl", [*rows, {"response": "no prompt"}])], tmp_path / "b"
    )
    assert (card["rows_read"], card["rows_used"], card["rows_kept"], card["prompts"]) == (61, 60, 30, 30)
    assert card["refused"] == {"missing_key": 1} and refused_in(tmp_path / "b")[0]["line"] == 61


def test_ties_and_gaps(tmp_path):
    completions = [
        {"response": text, "fine-grained_score": score} for text, score in zip("abcd", (5, 4, 4, 1), strict=True)
    ]
    raw = write_lines(tmp_path / "raw.jsonl", [{"instruction": "Q", "completions": completions}])
    plain = convert("ultrafeedback", [raw], tmp_path / "plain")
    assert plain["rows_kept"] == 5 and plain["refused"] == {"tie": 1}  # METHODS 11.4, check 4
    ties = convert("ultrafeedback", [raw], tmp_path / "ties", options=Options(keep_ties=True))
    assert ties["rows_kept"] == 6 and ties["statistics"]["ties"] == 1
    gaps = convert("ultrafeedback", [raw], tmp_path / "gaps", options=Options(min_gap=3))
    assert gaps["rows_kept"] == 3 and gaps["refused"] == {"tie": 1, "below_min_gap": 2}
    best = convert("ultrafeedback", [raw], tmp_path / "best", options=Options(pairing="best_random"))
    assert best["rows_kept"] == 1 and load_checked(tmp_path / "best")[0][0]["chosen"][-1]["content"] == "a"


def test_no_row_left_is_an_error_that_names_the_reasons_and_keeps_the_refused_rows(tmp_path):
    raw = write_lines(tmp_path / "raw.jsonl", [hh_row("Q", "a", "b"), hh_row("Q", "b", "a"), {}])
    with pytest.raises(UserError, match=r"none of 3 rows can be used \(2 contradictory_duplicate, 1 missing_key\)"):
        convert("hh_rlhf", [raw], tmp_path / "hh")
    assert [file.name for file in (tmp_path / "hh").iterdir()] == ["failed_refused_rows.jsonl"]
    assert len((tmp_path / "hh" / "failed_refused_rows.jsonl").read_text().splitlines()) == 3


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_a_table_of_ones_own_works_with_one_command(tmp_path):
    (tmp_path / "mine.csv").write_text('question,good,bad\n"2 + 2,\nplease?",4,5\n', encoding="utf-8")
    flags = ("--prompt_column", "question", "--chosen_column", "good", "--rejected_column", "bad")
    done = run("--source", "columns", "--input", tmp_path / "mine.csv", *flags, "--output", tmp_path / "mine")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = load_checked(tmp_path / "mine")[0]
    assert [message["content"] for message in row["chosen"]] == ["2 + 2,\nplease?", "4"]


def test_a_wrong_column_name_gets_the_list_of_columns(tmp_path):
    (tmp_path / "mine.csv").write_text("question,good,bad\nQ,4,5\n", encoding="utf-8")
    done = run("--source", "columns", "--input", tmp_path / "mine.csv", "--output", tmp_path / "mine")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no column 'prompt' (--prompt_column); the columns are 'question', 'good', 'bad'" in done.stderr


def test_the_command_lists_every_source_with_its_raw_fields():
    done = run("--list")
    assert done.returncode == 0
    for name, source in convert_dataset.SOURCES.items():
        assert name in done.stdout and source.fields in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("missing.jsonl", None, [], "no such file"),
        ("empty.jsonl", "", [], "empty"),
        ("rows.txt", "a,b", [], "unknown suffix"),
        ("rows.jsonl", "{}", ["--source", "hh"], "unknown source 'hh'; known are hh_rlhf"),
        ("rows.jsonl", "{}", ["--output", "hh.parquet"], "the output is a folder"),
        ("rows.jsonl", "{}", ["--output", "."], "lies in the output folder"),
        ("rows.jsonl", "{}", [], "none of 1 rows can be used (1 missing_key)"),
        ("rows.jsonl", "{}", ["--max_pairs_per_prompt", "0"], "it must be at least 1"),
        ("rows.jsonl", "{}", ["--num_proc", "0"], "it must be at least 1"),
        ("rows.jsonl", "{}", ["--pairing", "best_random"], "several scored answers"),
        ("rows.jsonl", "{}", ["--chosen_column", "x"], "belongs to --source columns"),
    ],
)
def test_user_errors_are_one_line_and_exit_status_2(tmp_path, monkeypatch, name, content, flags, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    done = run("--source", "hh_rlhf", "--input", name, "--output", "out", *flags)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.skipif("RM_DATA_DIR" not in os.environ, reason="RM_DATA_DIR does not name the folder with the sample data")
@pytest.mark.parametrize(
    ("source", "file", "read", "kept", "prompts", "lost", "longer"),
    [
        # 7 transcripts with two Assistant turns in a row; 4 whose last answer is empty.
        (
            *("hh_rlhf", "hh_rlhf_harmless/harmless_base_test.jsonl.gz", 1716, 1705, 1704),
            *({"empty_content": 4, "role_order": 7}, 0.4452),
        ),
        # 11 equal answers and 3 that differ only in white space at the ends; 2 answers of white space alone.
        (
            *("rmb", "rmb/pairwise.jsonl.gz", 9127, 9084, 1751),
            *({"empty_content": 2, "equal_responses": 14, "exact_duplicate": 27}, 0.6111),
        ),
    ],
)
def test_real_files_convert_with_the_documented_counts(tmp_path, source, file, read, kept, prompts, lost, longer):
    card = convert(source, [str(Path(os.environ["RM_DATA_DIR"]) / file)], tmp_path / "pairs")
    assert (card["rows_read"], card["rows_kept"], card["prompts"]) == (read, kept, prompts)
    assert card["refused"] | card["dropped"] == lost and card["statistics"]["chosen_longer_share"] == longer
