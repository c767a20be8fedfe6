"""The filter of METHODS 4.4 and 4.9: probabilities of plain Transformers, what is kept, and interrupted runs."""

import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import filter_pairs
import judge_rows
import numpy as np
import pytest
import torch
from augment_pairs import Options, augment
from filter_pairs import is_kept, main
from fourteen_comparisons import COMPARISONS, TYPES
from hypothesis import given
from hypothesis import strategies as st
from judge_rows import gap_of
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from useful_code import scoring
from useful_code.chat_pairs import prompt_of
from useful_code.converting import parts
from useful_code.pair_prompt import pair_text
from useful_code.read_rows import load_checked
from useful_code.tiny import save_tiny_judge, save_tiny_model
from useful_code.user_errors import exit_cleanly

SCRIPT = Path(filter_pairs.__file__)
NUMBERS = {name: number for number, name in enumerate(TYPES)}


def pair(number, **columns):
    ask = {"role": "user", "content": f"Question {number}?"}
    texts = (f"w{number} " + "!" * (number % 4 + 1), f"l{number} é [RESPONSE B]" + "." * (number % 5))
    sides = zip(("chosen", "rejected"), texts, strict=True)
    return {side: [ask, {"role": "assistant", "content": text}] for side, text in sides} | columns


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Ten examples, one of them a tie with columns, and all their 126 comparisons; two models that hold opinions."""
    folder = tmp_path_factory.mktemp("filter")
    save_tiny_judge(folder / "judge", initializer_range=0.5)
    save_tiny_model(folder / "scalar", initializer_range=0.5)
    rows = [pair(number) for number in range(9)] + [pair(9, label=0.5, tie=True, source="s", source_id="9")]
    augment(str(write(folder / "rows.jsonl", rows)), str(folder / "rrm"), Options(augmented_share=1))
    return folder


def run_here(world, output, *flags):
    """The rows that the command wrote, and its card; `flags` come last and win."""
    given = {"--reward_name_or_path": world / "judge", "--dataset": world / "rrm", "--output": output}
    command = [str(part) for option in given.items() for part in option]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["filter_pairs.py", *command, *map(str, flags)])
        exit_cleanly(main)
    return load_checked(output)[0], json.loads((output / "card.json").read_text(encoding="utf-8"))


def without_new(row):
    return {key: value for key, value in row.items() if value is not None and key != "rrm_probability"}


def visible(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


# --- the rule (METHODS 4.9, check 6) ---

numbers_and_probabilities = st.lists(st.tuples(st.integers(1, 14), st.floats(0, 1)), min_size=1, max_size=20)


@given(numbers_and_probabilities, st.floats(0, 1), st.floats(0, 1))
def test_check_6_the_filter_is_monotone_and_zero_keeps_all(rows, one, other):
    numbers = np.array([number for number, _ in rows])
    gaps = np.array([gap_of(*row) for row in rows])
    low, high = sorted((one, other))
    assert not (is_kept(numbers, gaps, high) & ~is_kept(numbers, gaps, low)).any()
    assert is_kept(numbers, gaps, 0).all()


@given(st.floats(1e-6, 1))
def test_check_6_a_model_that_is_right_leaves_only_originals(least_gap):
    """P* is 1 for comparisons 1-8, 1/2 for 9-14; an original has no gap."""
    gaps = np.array([np.nan] + [gap_of(number, 1.0 if number < 9 else 0.5) for number in range(1, 15)])
    assert is_kept(np.arange(15), gaps, least_gap).tolist() == [True] + [False] * 14


def test_gaps_by_hand_and_a_gap_of_the_limit_is_kept_on_both_sides():
    """In floating point 0.5 - 0.3 is 0.2, but 0.7 - 0.5 and 1 - 0.8 are a little less."""
    gaps = np.array([gap_of(*row) for row in ((1, 0.8), (8, 0.801), (9, 0.7), (14, 0.3), (14, 0.699), (1, 0.0))])
    assert gaps.tolist() == [0.2, 0.199, 0.2, 0.2, 0.199, 1.0]
    assert is_kept(np.array([1, 8, 9, 14, 14, 1]), gaps, 0.2).tolist() == [True, False, True, True, False, True]


# --- probabilities of plain Transformers ---


@cache
def plain_model(directory):
    kind = AutoModelForSequenceClassification if directory.name == "scalar" else AutoModelForCausalLM
    settings = {"num_labels": 1} if directory.name == "scalar" else {}
    return kind.from_pretrained(directory, **settings).eval(), AutoTokenizer.from_pretrained(directory)


def plain_probability(directory, row, tie_label=None):
    """P(left better): the mean of both orders of a pairwise model (METHODS 2.6), or the sigmoid of two rewards."""
    model, tokenizer = plain_model(directory)

    def last_logits(messages, **options):
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True, **options).input_ids
        return model(input_ids=ids).logits[0]

    if directory.name == "scalar":
        chosen, rejected = (last_logits(row[side])[0] for side in ("chosen", "rejected"))
        return torch.sigmoid(chosen - rejected).item()
    left, right = (row[side][-1]["content"] for side in ("chosen", "rejected"))
    labels = [tokenizer(label).input_ids[0] for label in ("A", "B", *([tie_label] if tie_label else []))]
    found = []
    for first, second in ((left, right), (right, left)):
        message = {"role": "user", "content": pair_text(prompt_of(row), first, second)}
        shares = last_logits([message], add_generation_prompt=True)[-1, labels].softmax(-1)
        found.append((shares[0] + (shares[2] / 2 if tie_label else 0)).item())
    return (found[0] + 1 - found[1]) / 2


@pytest.mark.parametrize(("model", "tie_label"), [("judge", None), ("judge", "Same"), ("scalar", None)])
@torch.inference_mode()
def test_the_command_keeps_what_plain_transformers_would_keep(world, tmp_path, capsys, model, tie_label):
    flags = [
        "--reward_name_or_path",
        world / model,
        "--least_gap",
        0.3,
        *(["--tie_label", "Same"] if tie_label else []),
    ]
    made, card = run_here(world, tmp_path / "out", *flags)
    given_rows = load_checked(world / "rrm")[0]
    kept = {row["rrm_id"]: row for row in made}
    assert len(kept) == len(made) and list(kept) == [row["rrm_id"] for row in given_rows if row["rrm_id"] in kept]
    counted = Counter()
    for row in given_rows:
        number, found = NUMBERS[row["rrm_type"]], kept.get(row["rrm_id"])
        assert found is None or without_new(found) == without_new(row)
        if number == 0:
            assert found is not None and found["rrm_probability"] is None
            continue
        counted[number, found is not None] += 1
        if number % 3 == 1:  # a third of them, for time
            expected = plain_probability(world / model, row, tie_label)
            gap = abs(expected - (0.5 if COMPARISONS[number - 1].tie else 1.0))
            assert abs(gap - 0.3) < 1e-4 or (gap > 0.3) == (found is not None)
            if found is not None:
                assert found["rrm_probability"] == pytest.approx(expected, abs=1e-4)
    of_kept, of_dropped = card["counts"].values()
    for number in range(1, 15):
        name = f"{number} {TYPES[number]}"
        assert (of_kept[name], of_dropped[name]) == (counted[number, True], counted[number, False])
    assert of_kept["0 original"] == 10 and sum(of_dropped.values()) + card["rows_kept"] == card["rows_read"] == 136
    assert 0 < sum(of_dropped.values()) < 126, "the test says nothing where all or none are kept"
    assert card["options"]["reward_name_or_path"] == str(world / model) and card["options"]["model_fingerprint"]
    page = (tmp_path / "out" / "DATA_CARD.md").read_text(encoding="utf-8")
    assert card["options"]["model_fingerprint"] in page and "## Kept, by rrm_type" in page
    assert "136 rows read, 136 kept, 0 refused\nkept: 10 originals," in capsys.readouterr().out


def test_check_6_by_the_command_and_originals_come_out_unchanged(world, tmp_path):
    kept = [
        {row["rrm_id"]: row for row in run_here(world, tmp_path / "out", "--least_gap", least_gap)[0]}
        for least_gap in (0, 0.2, 0.4, 1)
    ]
    assert len(kept[0]) == 136 and 10 < len(kept[2]) < len(kept[1]) < 136
    for more, fewer in zip(kept, kept[1:], strict=False):
        assert all(more[name] == row for name, row in fewer.items())
    assert {name for name, row in kept[3].items() if row["rrm_type"] == "original"} == {f"{n}/0" for n in range(10)}
    assert {key: kept[3]["9/0"][key] for key in ("label", "tie", "source", "source_id")} == {
        "label": 0.5,
        "tie": True,
        "source": "s",
        "source_id": "9",
    }


def test_a_row_over_the_length_is_refused_and_counted_and_originals_are_not_measured(world, tmp_path):
    """Byte tokens: the longest comparison is refused, an original that is longer is not."""
    rows = load_checked(world / "rrm")[0]
    rows = [without_new(row) for row in rows]
    rows[0] = pair(0, rrm_type="original", rrm_id="0/0")
    rows[0]["chosen"][-1]["content"] += "!" * 400
    rows[1]["chosen"][-1]["content"] += "!" * 400
    path = write(tmp_path / "rows.jsonl", rows)
    made, card = run_here(world, tmp_path / "out", "--dataset", path, "--max_length", 300, "--least_gap", 0)
    assert card["refused"] == {"over_max_length": 1} and len(made) == card["rows_kept"] == 135
    assert without_new(made[0]) == rows[0] and rows[1]["rrm_id"] not in {row["rrm_id"] for row in made}
    (refused,) = map(json.loads, (tmp_path / "out" / "refused_rows.jsonl").read_text(encoding="utf-8").splitlines())
    assert refused["reason"] == "over_max_length" and refused["line"] == 2


def test_rows_that_no_augmentation_made_are_refused_or_originals(world, tmp_path):
    rows = [
        pair(0, rrm_type="chosen_i_beats_chosen_j"),
        pair(1, rrm_type="other"),
        pair(2, rrm_type="chosen_j_ties_rejected_j"),
        pair(3, rrm_type="chosen_i_beats_chosen_j", tie=True),
        pair(4, note="lost"),
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    made, card = run_here(world, tmp_path / "out", "--dataset", path, "--least_gap", 0, "--format", "jsonl")
    assert [row["rrm_type"] for row in made] == ["chosen_i_beats_chosen_j", "original"]
    assert card["refused"] == {"bad_tie": 2, "wrong_type": 1} and card["raw_fields"].endswith("without note")


# --- interruptions, chunks, processes ---


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 30 rows, parts of 60; every batch is one comparison. Returns the sizes of what is scored at once."""
    sizes, real = [], judge_rows.score_resumably
    monkeypatch.setattr(filter_pairs, "CHUNK_ROWS", 30)
    monkeypatch.setattr(parts, "PART_GROUPS", 60)
    monkeypatch.setattr(judge_rows, "score_resumably", lambda *rest: sizes.append(len(rest[1])) or real(*rest))
    return sizes


@pytest.mark.slow  # a minute of starting commands; tests/test_resumable_scoring.py has the parts
def test_an_interrupted_run_goes_on_and_scores_nothing_twice(world, tmp_path, monkeypatch, capsys, small_chunks):
    """Stopped in the first and in the fourth chunk, it goes on with another --least_gap."""
    one_by_one = ("--max_tokens_per_batch", 1)
    run_here(world, tmp_path / "whole", *one_by_one, "--least_gap", 0.1)
    assert sum(small_chunks) == 126 and max(small_chunks) <= 30 and len(small_chunks) == 5
    run_here(world, tmp_path / "out", "--least_gap", 0.5)
    old, calls, real = visible(tmp_path / "out"), [], scoring.score_batch

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) in (10, 100):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(scoring, "score_batch", interrupted)
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            run_here(world, tmp_path / "out", *one_by_one)
        assert stopped.value.code == 130 and visible(tmp_path / "out") == old
        assert "the same command goes on where this one stopped\ninterrupted\n" in capsys.readouterr().err
    run_here(world, tmp_path / "out", *one_by_one, "--least_gap", 0.1)
    assert "going on after 1 finished part" in capsys.readouterr().err
    assert len(calls) == 126 + 2
    new, whole = visible(tmp_path / "out"), visible(tmp_path / "whole")
    assert new.keys() == whole.keys() and not (tmp_path / "out" / ".unfinished").exists()
    assert all(new[name] == whole[name] for name in new if name.startswith("train-"))
    run_here(world, tmp_path / "out", *one_by_one, "--least_gap", 0.1)
    assert "already made from these inputs with this model" in capsys.readouterr().out and len(calls) == 128


def test_a_changed_model_is_asked_anew(world, tmp_path, capsys):
    before, _ = run_here(world, tmp_path / "out", "--least_gap", 0)
    save_tiny_judge(tmp_path / "other", seed=1, initializer_range=0.5)
    after, _ = run_here(world, tmp_path / "out", "--least_gap", 0, "--reward_name_or_path", tmp_path / "other")
    assert "already made" not in capsys.readouterr().out
    changed = [one["rrm_probability"] != other["rrm_probability"] for one, other in zip(before, after, strict=True)]
    assert sum(changed) > 100


def test_a_number_that_is_not_finite_names_the_place(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scoring, "score_batch", lambda scorer, groups: [[[float("nan")] * 2] * 2] * len(groups))
    with pytest.raises(SystemExit) as stopped:
        run_here(world, tmp_path / "out")
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and re.match(r"error: train-\S+, from row 1 on: .* not all finite", last_line)


@pytest.mark.slow  # the sharing itself is tested in tests/test_score.py
def test_two_processes_write_what_one_writes(world, tmp_path):
    """The real command through the launcher: the first process reads and writes, both score."""
    run_here(world, tmp_path / "one")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    flags = ["--mixed_precision", "no", "--dynamo_backend", "no", str(SCRIPT), "--reward_name_or_path"]
    command = [*launch, *flags, str(world / "judge"), "--dataset", str(world / "rrm"), "--output", "two"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("kept: 10 originals") == 1
    one, two = visible(tmp_path / "one"), visible(tmp_path / "two")
    assert one.keys() == two.keys() and all(one[name] == two[name] for name in one if name.startswith("train-"))


# --- bad input ---


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (None, [], "rows.jsonl: no such file"),
        ([{"x": 1}], [], "none of 1 rows can be used (1 missing_key). They are in"),
        ([pair(0), pair(1)], [], "no row has an rrm_type, so there is nothing to filter; run augment_pairs.py"),
        ([pair(0, rrm_type=TYPES[1])], ["--least_gap", "1"], "no gap is 1.0 or more, and there are no originals"),
        ([pair(0)], ["--least_gap", "1.5"], "--least_gap is 1.5"),
        ([pair(0)], ["--least_gap", "nan"], "--least_gap is nan"),
        ([pair(0)], ["--reward_name_or_path", "nowhere"], "no model can be loaded from 'nowhere'"),
        ([pair(0)], ["--output", "rows.jsonl"], "the output is a folder"),
        ([pair(0)], ["--output", "."], "the input lies in the output folder"),
        ([pair(0)], ["--tie_label", "A"], "different labels"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, tmp_path, monkeypatch, capsys, rows, flags, message):
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(SystemExit) as stopped:
        run_here(world, tmp_path / "out", "--dataset", "rows.jsonl", *flags)
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and last_line.startswith("error: ") and message in last_line
    assert not (tmp_path / "out" / "card.json").exists()
