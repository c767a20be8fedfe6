"""The data checks of METHODS 4.9 by number, the drawing of j and k, and the real command, killed too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import augment_pairs
import numpy as np
import pytest
from augment_pairs import Augmenter, Options, augment, main
from draw_others import Examples, TooAlike, _linked, _shifted, draw_others
from fourteen_comparisons import COMPARISONS, TYPES, augmented_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from read_examples import EXAMPLE, Lines, Reader, hashes_of

from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.converting import parts
from useful_code.pair_prompt import is_shown_first, pair_text
from useful_code.read_rows import load_checked
from useful_code.user_errors import UserError, exit_cleanly

SCRIPT = Path(augment_pairs.__file__)
ROOT = SCRIPT.parents[1]
ALL = Options(augmented_share=1)


def pair(number, prompt=None, **columns):
    """An example whose texts name it; lengths differ, and some texts hold marks, spaces at the ends, other scripts."""
    ask = {"role": "user", "content": prompt or f"question {number}"}
    texts = (f"w{number} " + "long " * (number % 7) + "[RESPONSE B]", f" l{number} é\n" + "x" * (number % 5))
    sides = {
        side: [ask, {"role": "assistant", "content": text}]
        for side, text in zip(("chosen", "rejected"), texts, strict=True)
    }
    return sides | columns


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def made_of(tmp_path, rows, options=ALL, name="out", **flags):
    """The rows of an output of these rows, and its card."""
    card = augment(write(tmp_path / "rows.jsonl", rows), str(tmp_path / name), options, **flags)
    return load_checked(tmp_path / name)[0], card


def number_of(row):
    return int(row["rrm_id"].split("/")[1])


def texts_of(row):
    return [row[side][-1]["content"] for side in ("chosen", "rejected")]


def visible(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def without_nulls(row):
    return {key: value for key, value in row.items() if value is not None and not key.startswith("rrm_")}


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """100 examples of 40 prompts, all comparisons."""
    return made_of(tmp_path_factory.mktemp("hundred"), [pair(n, f"question {n % 40}") for n in range(100)])


# --- the checks of METHODS 4.9 ---


def test_check_1_the_fourteen_comparisons_are_those_of_the_table():
    """METHODS 4.2, written out: wi beats wj, wk, lj, lk (1-4); so does li (5-8); six ties (9-14)."""
    rows = dict(augmented_rows(*(pair(number) for number in (1, 2, 3)), seed=0, share=1))
    found = [(*(text.split()[0] for text in texts_of(rows[number])), rows[number].get("tie", False)) for number in rows]
    won = [(own, other, False) for own in ("w1", "l1") for other in ("w2", "w3", "l2", "l3")]
    tied = [("w2", "l2"), ("w3", "l3"), ("w2", "w3"), ("w2", "l3"), ("w3", "l2"), ("l2", "l3")]
    assert list(rows) == list(range(1, 15)) and found == [*won, *((*texts, True) for texts in tied)]
    assert TYPES[3] == "chosen_i_beats_rejected_j" and TYPES[13] == "chosen_k_ties_rejected_j" and len(set(TYPES)) == 15
    assert [comparison.number for comparison in COMPARISONS] == list(range(1, 15))
    assert all(prompt_of(row) == prompt_of(pair(1)) for row in rows.values())


def test_check_1_and_a_4_100_examples_give_800_and_600_rows(hundred):
    """METHODS A.4: 1,400 augmented rows, 1,500 with the originals; the card says the same."""
    rows, card = hundred
    assert len(rows) == card["rows_kept"] == 1500
    assert Counter(row["rrm_type"] for row in rows) == dict.fromkeys(TYPES, 100)
    assert sum(row.get("tie", False) for row in rows) == 600 == card["statistics"]["ties"]
    assert len({row["rrm_id"] for row in rows}) == 1500
    assert all(row["rrm_type"] == TYPES[number_of(row)] for row in rows)
    assert list(card["counts"]["Rows by rrm_type"].values()) == [100] * 15
    assert card["prompts"] == 40 and card["prompts_by_number_of_rows"] == {"30": 20, "45": 20}


def test_check_2_no_row_compares_equal_texts_and_the_three_prompts_differ(hundred):
    rows, _ = hundred
    origin = {text.split()[0]: row["rrm_id"].split("/")[0] for row in rows[::15] for text in texts_of(row)}
    prompts = {row["rrm_id"].split("/")[0]: prompt_key(prompt_of(row)) for row in rows[::15]}
    assert len(origin) == 200 and len(set(prompts.values())) == 40
    of_example = {}
    for row in rows:
        first, second = texts_of(row)
        assert first.strip() != second.strip()
        meeting = of_example.setdefault(row["rrm_id"].split("/")[0], set())
        meeting |= {origin[text.split()[0]] for text in (first, second)}
    assert [len(meeting) for meeting in of_example.values()] == [3] * 100
    assert all(len({prompts[example] for example in meeting}) == 3 for meeting in of_example.values())


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_check_3_every_original_row_is_in_the_output_once_unchanged(tmp_path, file_format):
    rows = [pair(number) for number in range(8)]
    rows[1] |= {"chosen_score": 4.25, "rejected_score": 3.0, "margin": 0.1, "label": 0.75, "source": "a", "subset": "b"}
    rows[2] |= {"label": 0.25, "source_id": "x:7", "source": "a"}
    rows[3] |= {"tie": True, "label": 0.5}
    rows[4]["chosen"] = [{"role": "system", "content": "Be brief."}, *rows[4]["chosen"]]
    rows[4]["rejected"] = [{"role": "system", "content": "Be brief."}, *rows[4]["rejected"]]
    made, card = made_of(tmp_path, rows, file_format=file_format)
    originals = [row for row in made if row["rrm_type"] == "original"]
    assert list(map(without_nulls, originals)) == rows
    assert [row["rrm_id"] for row in originals] == [f"{number}/0" for number in range(8)]
    for row in made:  # what is not true of an augmented row is not there
        example = int(row["rrm_id"].split("/")[0])
        if number_of(row) and example in (1, 2, 4):
            kept = {"source", "subset"} & rows[example].keys()
            tie = {"tie", "label"} if row.get("tie") else set()
            assert without_nulls(row).keys() == {"chosen", "rejected"} | kept | tie
            assert all(row[name] == rows[example][name] for name in kept)
            assert prompt_of(row) == prompt_of(rows[example])
    assert card["rows_kept"] == 8 + 7 * 14


def test_check_4_every_text_is_its_source_byte_for_byte_and_fills_its_slot(hundred):
    rows, _ = hundred
    sources = {text.split()[0]: text for row in rows[::15] for text in texts_of(row)}
    mark = "\\RESPONSE B"
    for row in rows:
        first, second = texts_of(row)
        assert (first, second) == (sources[first.split()[0]], sources[second.split()[0]])
        slots = [text.replace("RESPONSE B", mark) for text in (first, second)]
        context = f"\n\n<turn> user\n {row['chosen'][0]['content']}\n"
        expected = f"[CONTEXT] {context} [RESPONSE A] {slots[0]} [RESPONSE B] {slots[1]} \n"
        assert pair_text(prompt_of(row), first, second) == expected


def test_check_5_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    rows = [pair(number) for number in range(30)]
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        made_of(tmp_path, rows, Options(seed), name)
    one, two, three = (visible(tmp_path / name) for name in ("one", "two", "three"))
    shards = {name for name in one if name.startswith("train-")}
    assert len(one) == 5 and len(shards) == 1
    assert all(one[name] == two[name] and one[name] != three[name] for name in shards)
    made_of(tmp_path, rows, Options(4), "one")
    again = visible(tmp_path / "one")
    assert again.keys() == one.keys() and all(again[name] == three[name] for name in shards)


@pytest.mark.parametrize("tie", [False, True])
def test_check_5_chosen_is_shown_first_as_often_as_not(hundred, tie):
    """Within 3 standard errors of a half, in the pairwise recipe's own drawing; of ties no matter which is `chosen`."""
    rows = [row for row in hundred[0] if number_of(row) and row.get("tie", False) == tie]
    first = [is_shown_first(prompt_of(row), *texts_of(row), seed=0) for row in rows]
    n = len(rows)
    assert n == (600 if tie else 800) and abs(sum(first) - n / 2) <= 3 * (n / 4) ** 0.5
    other_way = [is_shown_first(prompt_of(row), *texts_of(row)[::-1], seed=0) for row in rows]
    assert [not shown for shown in first] == other_way


def test_check_7_winners_and_losers_are_equally_long_in_all(hundred):
    """j and k are permutations, so over rows 1-8 each side holds every answer four times, exactly."""
    won = [texts_of(row) for row in hundred[0] if 1 <= number_of(row) <= 8]
    for texts in zip(*won, strict=True):
        assert set(Counter(texts).values()) == {4} and len(set(texts)) == 200
    assert len({sum(map(len, texts)) for texts in zip(*won, strict=True)}) == 1


# --- drawing j and k ---


def assert_rules(examples, j, k):
    """Permutations, and by sets: three prompts and six answers per example."""
    n = len(examples.prompts)
    assert sorted(j.tolist()) == sorted(k.tolist()) == list(range(n))
    for places in zip(range(n), j.tolist(), k.tolist(), strict=True):
        assert len({examples.prompts[place] for place in places}) == 3
        assert len({values[place] for place in places for values in (examples.chosen, examples.rejected)}) == 6


def examples_of(rows):
    prompts, chosen, rejected, buckets = (np.array(column, np.uint64) for column in zip(*rows, strict=True))
    return Examples(prompts, chosen, rejected + (chosen == rejected) * np.uint64(1000), buckets)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(*(st.integers(0, high) for high in (12, 30, 30, 2))), min_size=1, max_size=40), st.integers(0, 9)
)
def test_any_small_set_obeys_all_rules_or_says_why_not(rows, seed):
    examples = examples_of(rows)
    try:
        assert_rules(examples, *draw_others(examples, seed))
    except TooAlike as error:
        assert 0 <= error.example < len(rows)
        assert 3 * np.bincount(_linked(examples)).max() > len(rows)  # else it always works


def test_they_are_found_up_to_a_third_of_one_prompt_and_not_beyond():
    for n, same in ((3, 1), (9, 3), (90, 30), (600, 200)):
        ids = np.arange(n, dtype=np.uint64)
        for size, works in ((same, True), (same + 1, False)):
            examples = Examples(np.where(ids < size, 0, ids), ids, ids + 1000, 0 * ids)
            if works:
                assert_rules(examples, *draw_others(examples, seed=1))
            else:
                with pytest.raises(TooAlike, match=f"{size} of {n} examples have the same prompt"):
                    draw_others(examples, seed=1)


def test_the_seed_decides_what_is_drawn():
    ids = np.arange(50, dtype=np.uint64)
    one, two, other = (draw_others(Examples(ids, ids, ids + 1000, 0 * ids), seed) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one[0], other[0]) and not np.array_equal(one[1], other[1])


@settings(max_examples=50)
@given(st.lists(st.integers(1, 7), min_size=3, max_size=12), st.integers(0, 99))
def test_a_shift_in_the_circle_needs_no_repair(sizes, seed):
    """Where repair would not come to an end: groups of at most a third, one chained by answers."""
    sizes = [min(size, sum(sizes) // 3) for size in sizes]
    prompts = np.repeat(np.arange(len(sizes)), sizes).astype(np.uint64)
    ids = np.arange(len(prompts), dtype=np.uint64)
    examples = Examples(prompts, ids, ids + 1000, 0 * ids)
    if 3 * max(sizes) <= len(ids):
        drawn = _shifted(examples, np.random.default_rng(seed))
        assert_rules(examples, *(drawn[row][np.argsort(drawn[0])] for row in (1, 2)))


def test_rows_are_linked_through_prompts_and_answers():
    """0-1 by prompt, 1-2 as rejected and chosen, 3-4 by chosen; 5 alone."""
    examples = examples_of([(0, 1, 2, 0), (0, 3, 4, 0), (1, 4, 5, 0), (2, 6, 7, 0), (3, 6, 8, 0), (4, 9, 10, 0)])
    assert _linked(examples).tolist() == [0, 0, 0, 3, 3, 5]


def test_what_templates_trim_and_what_prompt_keys_ignore_makes_nothing_different():
    """So that no row is refused later for two answers that differ only at their ends (chat_pairs.check_pair)."""
    one, other = pair(1, "What is 2+2?"), pair(1, "what is  2+2")
    other["chosen"][-1]["content"] = "\n" + one["chosen"][-1]["content"] + " "
    assert hashes_of(one, "none") == hashes_of(other, "none") != hashes_of(pair(2, "What is 2+2?"), "none")
    assert hashes_of(one, "none")[0] == hashes_of(pair(2, "What is 2+2?"), "none")[0] != hashes_of(pair(1), "none")[0]


# --- options ---


def test_the_share_is_drawn_row_by_row_and_a_larger_one_holds_a_smaller_one():
    triples = [[pair(3 * n + m) for m in range(3)] for n in range(200)]
    kept = {share: [dict(augmented_rows(*t, seed=0, share=share)) for t in triples] for share in (0.25, 0.5, 1)}
    for share, rows in kept.items():
        n = 14 * len(triples)
        assert abs(sum(map(len, rows)) - share * n) <= 3 * (n * share * (1 - share)) ** 0.5
    for few, some, all_rows in zip(*kept.values(), strict=True):
        assert few.items() <= some.items() <= all_rows.items()
    by_number = Counter(number for rows in kept[0.5] for number in rows)
    assert all(abs(by_number[number] - 100) <= 4 * 50**0.5 for number in range(1, 15))
    assert kept[0.5] != [dict(augmented_rows(*t, seed=1, share=0.5)) for t in triples]


def test_rows_without_a_winner_are_kept_and_neither_augmented_nor_drawn(tmp_path):
    rows = [pair(number) for number in range(12)]
    rows[2] |= {"tie": True}
    rows[5] |= {"label": 0.5}
    rows[6] |= {"label": 0.5, "tie": False}
    rows[7] |= {"label": 0.1}  # its better answer is the rejected one
    made, card = made_of(tmp_path, rows)
    assert Counter(row["rrm_id"].split("/")[0] for row in made) == {
        str(n): 1 if n in (2, 5, 6) else 15 for n in range(12)
    }
    drawn = {text.split()[0] for row in made if number_of(row) for text in texts_of(row)}
    assert not drawn & {f"{side}{number}" for side in "wl" for number in (2, 5, 6)}
    (first,) = [row for row in made if row["rrm_id"] == "7/1"]
    assert texts_of(first)[0] == texts_of(rows[7])[1] and card["rows_kept"] == 12 + 9 * 14
    assert list(card["counts"]["Rows that are kept but not augmented"].values()) == [2, 1]
    assert "a tie: neither answer is the better one | 2" in (tmp_path / "out" / "DATA_CARD.md").read_text()


def test_match_draws_from_the_same_bucket_where_it_can(tmp_path):
    rows = [pair(number, source="ab"[number % 2]) for number in range(60)] + [pair(60, source="alone")]
    made, card = made_of(tmp_path, rows, ALL._replace(match="source"))
    where = {text.split()[0]: row["source"] for row in made[::15] for text in texts_of(row)}
    pairs = {
        (row["source"], where[text.split()[0]], row["rrm_id"].split("/")[0], text.split()[0][1:])
        for row in made
        if 9 <= number_of(row)
        for text in texts_of(row)
    }
    same = sum(one == other for one, other, *_ in pairs)
    assert len(pairs) == 122 and same >= 110  # j and k of 61; the one alone is drawn twice and draws twice
    assert card["counts"]["Where j and k come from"] == {
        "of its source": same,
        "elsewhere, for want of such": 122 - same,
    }
    assert {"alone"} != {other for one, other, *_ in pairs if one == "alone"}
    _, card = made_of(tmp_path, rows[:60], ALL._replace(match="length"))
    assert list(card["counts"]["Where j and k come from"].values())[0] >= 110


def test_the_card_names_columns_that_have_no_place(tmp_path):
    made, card = made_of(tmp_path, [pair(number, note=3, source_id=number) for number in range(4)])
    assert card["raw_fields"] == "those of pairs, without note" and made[0]["source_id"] == "0"


# --- memory ---


def test_texts_stay_on_the_disk_and_37_bytes_of_an_example_in_memory(tmp_path):
    """2,000 examples of 20,000 characters are read again, three at a time, in less than 1 MB of the 40."""

    class Progress:
        def update(self, rows): ...

    rows = ([parts.ReadRow("f", n, pair(n, "q" * 20_000 + str(n)), None)] for n in range(2000))
    (tmp_path / "read").mkdir()
    read = parts.write_parts(rows, Reader("none"), tmp_path / "read", 1, Progress())
    examples = [np.fromfile(part.file(".examples"), EXAMPLE) for part in read]
    assert EXAMPLE.itemsize == 37 and sum(map(len, examples)) == 2000
    others = np.stack([np.roll(np.arange(2000), -700), np.roll(np.arange(2000), -1400)], axis=1)
    with Lines(read, examples) as lines:
        tracemalloc.start()
        for number, group in enumerate(augment_pairs._groups(lines, others)):
            assert [row.number for row in group] == [number, (number + 700) % 2000, (number + 1400) % 2000]
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
        assert json.loads(lines[1234]) == pair(1234, "q" * 20_000 + "1234")


# --- interruptions ---


@pytest.mark.parametrize("die_at", [1, 3, 5])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch, capsys, die_at):
    """Parts of 20 examples, so batches of 20: the third is cut off after two finished parts."""
    monkeypatch.setattr(parts, "PART_GROUPS", 20)
    rows = [pair(number) for number in range(100)] + [{"chosen": 3}]
    made_of(tmp_path, rows, name="whole")
    made_of(tmp_path, rows[:50], name="out")
    old, calls, whole = visible(tmp_path / "out"), [], Augmenter.__call__

    def interrupted(self, groups):
        calls.append(len(groups))
        if len(calls) == die_at:
            raise KeyboardInterrupt
        return whole(self, groups)

    with monkeypatch.context() as patched:
        patched.setattr(Augmenter, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made_of(tmp_path, rows, name="out")
    assert visible(tmp_path / "out") == old
    capsys.readouterr()
    _, card = made_of(tmp_path, rows, name="out")
    assert f"going on after {die_at - 1} finished part" in capsys.readouterr().err
    new = visible(tmp_path / "out")
    card_of_whole = (tmp_path / "whole" / "card.json").read_text().replace('"whole, aug', '"out, aug')
    assert json.loads(card_of_whole) == card and not (tmp_path / "out" / ".unfinished").exists()
    names = {name for name in new if name.startswith(("train-", "refused"))}
    assert len(names) == 6 and all(new[name] == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert json.loads(new["refused_rows.jsonl"])["line"] == 101
    made_of(tmp_path, rows, name="out")
    assert "already made from these inputs" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="sends signals")
def test_the_real_command_is_killed_and_goes_on_in_the_same_bytes_for_any_num_proc(tmp_path):
    write(tmp_path / "rows.jsonl", [pair(number) for number in range(1200)])
    command = [sys.executable, SCRIPT, "--dataset", "rows.jsonl", "--seed", "5"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    undisturbed = subprocess.Popen([*command, "--output", "undisturbed/out", "--num_proc", "2"], **pipes)
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen([*command, "--output", "out"], start_new_session=True, **pipes)
        rows = tmp_path / "out" / ".unfinished" / "part-00000.arrow"
        before = rows.stat().st_mtime_ns if rows.exists() else 0
        end = time.monotonic() + 60
        while not (rows.exists() and rows.stat().st_mtime_ns > before and rows.stat().st_size > 100_000):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.002)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130), said
        assert not visible(tmp_path / "out"), "nothing that could be taken for an output"
    assert said.endswith("out: the same command goes on where this one stopped\ninterrupted\n")
    done = subprocess.run([*command, "--output", "out"], **pipes, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "rows.jsonl: 1,200 rows read, 1,200 kept, 0 refused\n1,200 originals and 8" in done.stdout
    assert undisturbed.communicate(timeout=60) and undisturbed.returncode == 0
    assert (
        visible(tmp_path / "out") == visible(tmp_path / "undisturbed" / "out") and len(visible(tmp_path / "out")) == 5
    )


# --- bad input ---


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (None, [], "rows.jsonl: no such file"),
        ([{"x": 1}], [], "rows.jsonl: none of 1 rows can be used (1 missing_key). They are in"),
        ([pair(0), pair(1)], [], "rows.jsonl: there are 2 examples with a winner; each needs two others"),
        ([pair(n, "Why?") for n in range(4)], [], "4 of 4 examples have the same prompt"),
        ([pair(n, "Why?") for n in range(4)], [], "An example: 'Why?', answered 'w0 [RESPONSE B]'"),
        ([pair(n, tie=True) for n in range(4)], [], "rows.jsonl: there are 0 examples with a winner"),
        ([pair(n) for n in range(4)], ["--augmented_share", "0"], "--augmented_share is 0.0; it must be above 0"),
        ([pair(n) for n in range(4)], ["--augmented_share", "nan"], "--augmented_share is nan"),
        ([pair(n) for n in range(4)], ["--seed", "-1"], "--seed is -1"),
        ([pair(n) for n in range(4)], ["--num_proc", "0"], "--num_proc 0"),
        ([pair(n) for n in range(4)], ["--output", "rows.jsonl"], "the output is a folder"),
        ([pair(n) for n in range(4)], ["--output", "."], "the input lies in the output folder"),
        ([pair(n) for n in range(4)], ["--dataset_split", "test"], "only hub data sets have splits"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, rows, flags, message):
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        write(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr(sys, "argv", ["augment_pairs.py", "--dataset", "rows.jsonl", "--output", "out", *flags])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said
    assert said.startswith("error: ") and said.count("\n") == 1
    left = visible(tmp_path / "out").keys() if (tmp_path / "out").exists() else set()
    assert left <= {"failed_refused_rows.jsonl"}


def test_a_copied_folder_with_useful_code_inside_works_and_says_what_is_wrong(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SCRIPT.parent, tmp_path / "mine", ignore=ignored)
    shutil.copytree(ROOT / "useful_code", tmp_path / "mine" / "useful_code", ignore=ignored)
    write(tmp_path / "rows.jsonl", [pair(number) for number in range(4)])
    command = [sys.executable, "mine/augment_pairs.py", "--output", "out", "--augmented_share", "1", "--dataset"]
    pipes = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 60}
    done = subprocess.run([*command, "rows.jsonl"], **pipes)
    assert done.returncode == 0 and done.stdout.endswith("Rows and data card are in out\n"), done.stderr
    assert "4 originals and 56 augmented rows (32 with a winner, 24 ties); 0 rows without a winner" in done.stdout
    done = subprocess.run([*command, "missing.jsonl"], **pipes)
    assert (done.returncode, done.stderr) == (2, "error: missing.jsonl: no such file or folder\n")
    assert len(load_checked(tmp_path / "out")[0]) == 60


def test_the_same_error_is_raised_to_a_caller(tmp_path):
    with pytest.raises(UserError, match="same prompt"):
        made_of(tmp_path, [pair(number, "same") for number in range(3)])
    assert not (tmp_path / "out" / ".unfinished").exists()
    made_of(tmp_path, [pair(number) for number in range(3)])
