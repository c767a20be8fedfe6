"""Where a row came from, and what became of every raw row, also where one row of ours is made of several."""

import itertools
import json
from decimal import Decimal

import pytest
from raw_rows_judged import EXAMPLES

from useful_code.chat_pairs import prompt_of
from useful_code.converting.checked import Options, checked_rows
from useful_code.converting.convert import convert
from useful_code.read_rows import load_checked
from useful_code.sources.fields import Answer
from useful_code.sources.pairing import pair_of, paired
from useful_code.sources.table import SOURCES


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refused_in(folder):
    lines = (folder / "refused_rows.jsonl").read_text().splitlines()
    return [(row["line"], row["reason"], row["detail"]) for row in map(json.loads, lines)]


def test_pairs_and_ties_of_several_rows_name_them_all(tmp_path):
    """BeaverTails rows (safe, unsafe, unsafe): 1 against 2 and 1 against 3 are pairs, 2 and 3 are a tie."""
    rows = [{"prompt": "Q", "response": f"answer {n}", "is_safe": n == 1, "category": {}} for n in (1, 2, 3)]
    card = convert("beavertails", [write_lines(tmp_path / "bt.jsonl", rows)], tmp_path / "out")
    kept = load_checked(tmp_path / "out")[0]
    assert [row["source_id"] for row in kept] == ["bt.jsonl:1/bt.jsonl:2", "bt.jsonl:1/bt.jsonl:3"]
    assert refused_in(tmp_path / "out") == [(2, "tie", "kept with --keep_ties; with bt.jsonl:3")]
    assert (card["rows_read"], card["rows_used"], card["rows_kept"]) == (3, 3, 2)


def test_rows_that_were_not_drawn_are_told(tmp_path):
    """--pairing best_random takes two of four rows; the other two are refused rows of their own."""
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [{"prompt": "Q", "response": f"answer {n}"} | dict.fromkeys(names, n) for n in range(4)]
    raw = write_lines(tmp_path / "hs.jsonl", rows)
    card = convert("helpsteer", [raw], tmp_path / "out", options=Options(pairing="best_random"))
    (kept,) = load_checked(tmp_path / "out")[0]
    used = {int(place.split(":")[1]) for place in kept["source_id"].split("/")}
    refused = refused_in(tmp_path / "out")
    assert 4 in used and len(used) == 2 and card["rows_used"] == 2
    assert [reason for _, reason, _ in refused] == ["not_drawn"] * 2
    assert used | {line for line, _, _ in refused} == {1, 2, 3, 4}


def test_a_refused_judgement_is_named_not_the_row_it_is_joined_with(tmp_path):
    outputs, hard, *_ = EXAMPLES["alpaca_eval"]
    (tmp_path / "raw").mkdir()
    write_lines(tmp_path / "raw" / "outputs.jsonl", [outputs])
    write_lines(tmp_path / "raw" / "preferences.jsonl", [hard, hard | {"preference": 0}])
    card = convert("alpaca_eval", [str(tmp_path / "raw")], tmp_path / "out")
    ((line, reason, detail),) = refused_in(tmp_path / "out")
    assert (line, reason) == (2, "tie") and detail.endswith("with outputs.jsonl:1")
    (record,) = map(json.loads, (tmp_path / "out" / "refused_rows.jsonl").read_text().splitlines())
    assert record["file"] == "preferences.jsonl" and '"preference": 0' in record["raw"]
    assert (card["rows_read"], card["rows_used"]) == (3, 2)


@pytest.mark.parametrize("pairing", ["all", "best_random"])
def test_the_pairs_do_not_depend_on_the_order_of_the_answers(pairing):
    prompt = [{"role": "user", "content": "Q"}]
    answers = [Answer(prompt, text, score) for text, score in (("a", 1), ("b", 2), ("c", 2), ("d", 0))]

    def made(answers):
        pairs = [pair_of(answers[first], answers[second]) for first, second in paired(answers, pairing)]
        return sorted(sorted(row[side][-1]["content"] for side in ("chosen", "rejected")) for row in pairs)

    assert len({str(made(order)) for order in itertools.permutations(answers)}) == 1


def test_rows_of_our_own_format_keep_their_labels_ties_and_margins():
    """Read by trl_preference as the mixing command and the recipes read them."""
    question = {"role": "user", "content": "Q"}
    pair = {side: [question, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows = [pair | {"tie": True}, pair | {"label": 0.1}, pair | {"margin": 2}]
    rows += [pair | {"label": 0.7, "chosen_score": 1, "rejected_score": 1}, pair | {"label": None, "tie": None}]
    kept = [checked_rows(SOURCES["trl_preference"], [row], Options(keep_ties=True))[0][0] for row in rows]
    columns = [{key: value for key, value in row.items() if key not in pair} for row in kept]
    assert columns[:3] == [{"tie": True, "label": 0.5}, {"label": 0.1}, {"margin": 2.0}]
    assert columns[3] == {"label": 0.7, "chosen_score": 1.0, "rejected_score": 1.0} and columns[4] == {}
    assert prompt_of(kept[0]) == [question]
    assert checked_rows(SOURCES["trl_preference"], [rows[0]])[1][0].refused.reason == "tie"
    assert checked_rows(SOURCES["trl_preference"], [pair | {"label": 7}])[1][0].refused.reason == "bad_label"


def test_decimals_are_numbers():
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "chosen_score": Decimal("4.5"), "rejected_score": Decimal(1)}
    assert checked_rows(SOURCES["trl_preference"], [row])[0][0]["chosen_score"] == 4.5


def test_the_longest_text_is_told_as_long_as_it_is(tmp_path):
    raw = write_lines(tmp_path / "raw.jsonl", [{"prompt": "Q", "chosen": "x" * 500_000, "rejected": "b"}])
    card = convert("columns", [raw], tmp_path / "out")
    assert card["statistics"]["characters"]["chosen"]["max"] == 500_000
