"""Which rows stay, over any cut into parts, against a slow program that says the same; and sums over any cut."""

import json
import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.converting import parts, statistics
from useful_code.converting.choice import (
    CONTRADICTORY,
    DIGEST,
    EXACT,
    OVER_LIMIT,
    REASON_CODES,
    choose_rows,
    digest_row,
)
from useful_code.converting.convert import convert
from useful_code.converting.schemas import part_schema
from useful_code.converting.statistics import Statistics
from useful_code.sources.fields import ask, make_pair

PROMPTS = ["Q", "q?", "other", "東京", "a", "b", "c"]  # the first two have one key


def pair_of(prompt, chosen, rejected, tie=None):
    return make_pair(ask(prompt), chosen, rejected, tie=tie)


pairs = st.tuples(
    st.sampled_from(PROMPTS), st.permutations("abcd").map(lambda answers: answers[:2]), st.sampled_from([None, True])
).map(lambda drawn: pair_of(drawn[0], *drawn[1], drawn[2]))
limits = st.sampled_from([None, 1, 2, 3])
seeds = st.integers(0, 3)


def choose(rows, cuts=(), limit=None, seed=0, left_out=None, kind="pairs"):
    """The codes of the rows, written as one part per piece between `cuts`, and the prompts by number of rows."""
    digests = np.array([digest_row(kind, row, seed) for row in rows], DIGEST)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            files.append(Path(folder) / f"part-{number:05d}.digests")
            digests[start:end].tofile(files[-1])
        codes, prompts = choose_rows(files, Path(folder), limit, left_out)
        assert [len(part) for part in codes] == [end - start for start, end in zip(edges, edges[1:], strict=False)]
        assert not list(Path(folder).glob("bucket-*")), "its work files are gone"
        return [int(code) for part in codes for code in part], prompts


def slowly(rows, limit, seed):
    """What METHODS 11.3 says, row by row."""
    orders = defaultdict(set)
    for row in rows:
        orders[same(row)].add(row["chosen"][-1]["content"])
    codes, seen = [], set()
    for row in rows:
        if len(orders[same(row)]) > 1 and not row.get("tie"):
            codes.append(CONTRADICTORY)
        else:
            codes.append(EXACT if same(row) in seen else 0)
        seen.add(same(row))
    by_prompt = defaultdict(list)
    for place, row in enumerate(rows):
        if codes[place] == 0:
            by_prompt[prompt_key(prompt_of(row))].append((digest_row("pairs", row, seed)[4], place))
    for places in by_prompt.values():
        for _, place in sorted(places)[limit or len(places) :]:
            codes[place] = OVER_LIMIT
    return codes, Counter(min(len(places), limit or len(places)) for places in by_prompt.values())


def same(row):
    """Equal for rows that say the same or the opposite."""
    answers = frozenset(row[side][-1]["content"] for side in ("chosen", "rejected"))
    return row["chosen"][0]["content"], answers, bool(row.get("tie"))


@settings(max_examples=40)
@given(st.lists(pairs, max_size=40), st.lists(st.integers(0, 40), max_size=4), limits, seeds)
@example([], [0, 0], 1, 0)
@example([pair_of("Q", "a", "b"), pair_of("Q", "b", "a")], [1], None, 0)
def test_every_row_meets_the_fate_that_the_rule_says_however_rows_are_cut_into_parts(rows, cuts, limit, seed):
    assert choose(rows, cuts, limit, seed) == slowly(rows, limit, seed)


@settings(max_examples=20)
@given(st.lists(pairs, max_size=40), st.lists(st.integers(0, 40), max_size=3), limits, seeds, st.randoms())
def test_what_stays_is_a_function_of_seed_and_content_and_not_of_the_order_of_rows(rows, cuts, limit, seed, rng):
    shuffled = rows.copy()
    rng.shuffle(shuffled)
    first, second = (
        Counter(same(row) for row, code in zip(some, choose(some, cuts, limit, seed)[0], strict=True) if code == 0)
        for some in (rows, shuffled)
    )
    assert first == second


@settings(max_examples=20)
@given(st.lists(st.tuples(pairs, st.booleans()), max_size=25), st.lists(st.integers(0, 30), max_size=3), limits)
def test_rows_that_are_left_out_change_nothing_for_the_others(drawn, cuts, limit):
    rows = [row for row, _ in drawn]
    left_out = np.array([out for _, out in drawn], bool)
    codes, prompts = choose(rows, cuts, limit, left_out=left_out)
    others = [place for place, (_, out) in enumerate(drawn) if not out]
    assert ([codes[place] for place in others], prompts) == choose([rows[place] for place in others], (), limit)
    assert not any(codes[place] for place in range(len(rows)) if left_out[place])


def test_another_seed_chooses_other_rows_of_a_crowded_prompt():
    rows = [pair_of("Q", "good", f"bad {number}") for number in range(40)]
    kept = {tuple(np.flatnonzero(np.array(choose(rows, [13, 20], 5, seed)[0]) == 0)) for seed in range(5)}
    assert len(kept) == 5 and {len(places) for places in kept} == {5}


def test_of_exact_duplicates_in_different_parts_the_first_stays_and_of_contradictions_none():
    rows = [pair_of("Q", "a", "b"), pair_of("R", "a", "b"), pair_of("Q", "a", "b"), pair_of("R", "b", "a")]
    for cuts in ([], [2], [1, 2, 3], [0, 0, 4]):
        assert choose(rows, cuts) == ([0, CONTRADICTORY, EXACT, CONTRADICTORY], Counter({1: 1}))


def rated(response, **ratings):
    return {"messages": [*ask("Q"), {"role": "assistant", "content": response}], "ratings": ratings}


def steps(completions, labels, **columns):
    return {"prompt": "Q", "completions": completions, "labels": labels, **columns}


def test_ratings_are_equal_only_with_all_their_ratings_and_nothing_contradicts():
    rows = [rated("a", x=1.0, y=2.0), rated("a", y=2.0, x=1.0), rated("a", x=1.0), rated("b", x=1.0), rated("a", x=2.0)]
    assert choose(rows, [1], kind="ratings")[0] == [0, EXACT, 0, 0, 0]


def test_steps_are_equal_only_with_their_labels_and_outcome():
    rows = [
        steps(["a", "b"], [1, 0]),
        steps(["a", "b"], [1, 0]),
        steps(["ab"], [1]),
        steps(["a", "b"], [1, None]),
        steps(["a", "b"], [1, 0], outcome=False),
        steps(["a", "b"], [1, 0], outcome=None),
    ]
    assert choose(rows, [1, 5], kind="steps")[0] == [0, EXACT, 0, 0, 0, EXACT]


@pytest.mark.parametrize("groups_per_part", [1, 7, 64])
def test_a_conversion_in_parts_of_any_size_keeps_and_drops_the_same_rows(tmp_path, monkeypatch, groups_per_part):
    rng = random.Random(0)
    rows = [pair_of(rng.choice(PROMPTS), *rng.sample("abcdefg", 2)) for _ in range(60)]
    transcripts = [
        {
            side: f"\n\nHuman: {row[side][0]['content']}\n\nAssistant: {row[side][1]['content']}"
            for side in ("chosen", "rejected")
        }
        for row in rows
    ]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in transcripts), encoding="utf-8")
    codes, prompts = slowly(rows, 4, seed=0)
    assert {0, EXACT, CONTRADICTORY, OVER_LIMIT} == set(codes)
    monkeypatch.setattr(parts, "PART_GROUPS", groups_per_part)
    card = convert("hh_rlhf", [str(raw)], tmp_path / "out", file_format="jsonl", max_pairs_per_prompt=4)
    shards = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "out").glob("train-*"))]
    kept = [json.loads(line)["source_id"] for text in shards for line in text.splitlines()]
    assert kept == [f"raw.jsonl:{place}" for place, code in enumerate(codes, start=1) if code == 0]
    dropped = [json.loads(line) for line in (tmp_path / "out" / "refused_rows.jsonl").read_text().splitlines()]
    lost = {place: REASON_CODES[code] for place, code in enumerate(codes, start=1) if code}
    assert len(dropped) == len(lost) and {row["line"]: row["reason"] for row in dropped} == lost
    assert card["dropped"] == dict(sorted(Counter(lost.values()).items()))
    assert card["prompts_by_number_of_rows"] == {str(number): prompts[number] for number in sorted(prompts)}


lengths = st.sampled_from([0, 1, 2, 300, statistics.LONGEST - 1, statistics.LONGEST, statistics.LONGEST + 5])
halves = st.none() | st.integers(0, 8).map(lambda number: number / 2)  # their sums are exact in any order
subsets = st.none() | st.sampled_from(["one", "two", "", "drei"])
summed_rows = {
    "pairs": st.fixed_dictionaries(
        {"tie": st.sampled_from([None, False, True]), "subset": subsets, "chosen_score": halves, "margin": halves}
        | {"label": halves, "_prompt": lengths, "_chosen": lengths, "_rejected": lengths}
    ),
    "ratings": st.fixed_dictionaries(
        {"ratings": st.fixed_dictionaries({"x": halves, "y": halves}), "subset": subsets}
        | {"_prompt": lengths, "_response": lengths}
    ),
    "steps": st.fixed_dictionaries(
        {"labels": st.lists(halves, max_size=3), "outcome": st.sampled_from([None, False, True]), "subset": subsets}
        | {"_prompt": lengths, "_response": lengths}
    ),
}


def summed(kind, rows):
    total = Statistics(kind)
    total.add(pyarrow.Table.from_pylist(rows, schema=part_schema(kind, ("x", "y"))))
    return total


def merged(kind, pieces):
    total = Statistics(kind)
    for piece in pieces:
        total.merge(summed(kind, piece) if piece else Statistics(kind))
    return total


def sums_of(total):
    histograms = {name: np.flatnonzero(counts).tolist() for name, counts in total.lengths.items()}
    heights = {name: counts[counts > 0].tolist() for name, counts in total.lengths.items()}
    numbers = {name: number for name, number in total.numbers.items() if number}
    totals = {name: number for name, number in total.totals.items() if number}
    return total.rows, histograms, heights, total.sums, total.longest, dict(total.subsets), numbers, totals


@pytest.mark.parametrize("kind", summed_rows)
def test_merged_statistics_of_any_split_of_the_rows_are_those_of_one_pass(kind):
    @settings(max_examples=25)
    @given(st.lists(summed_rows[kind], min_size=1, max_size=12), st.lists(st.integers(0, 12), max_size=3))
    def check(rows, cuts):
        edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
        pieces = [rows[start:end] for start, end in zip(edges, edges[1:], strict=False)]
        at_once, split = summed(kind, rows), merged(kind, pieces)
        assert sums_of(split) == sums_of(at_once) and split.summary() == at_once.summary()
        assert at_once.rows == len(rows)
        for name in at_once.sums:
            assert at_once.sums[name] == sum(row[f"_{name}"] for row in rows)

    check()


def test_the_statistics_of_pairs_by_hand():
    """Lengths 1 to 4; one tie, which has no longer side; a text above `LONGEST` is cut only in the percentiles."""
    many = statistics.LONGEST + 10
    rows = [
        {"_prompt": 1, "_chosen": 4, "_rejected": 3, "subset": "a", "margin": 0.0},
        {"_prompt": 2, "_chosen": 1, "_rejected": 1, "subset": "a", "label": 0.75},
        {"_prompt": 3, "_chosen": 5, "_rejected": 2, "tie": True, "chosen_score": 1.0},
        {"_prompt": many, "_chosen": 1, "_rejected": 2, "tie": False, "subset": "b"},
    ]
    summary = merged("pairs", [rows[:1], [], rows[1:]]).summary()
    mean = round((6 + many) / 4, 1)
    assert summary["characters"]["prompt"] == {"mean": mean, "p5": 1, "median": 2, "p95": many - 10, "max": many}
    assert (summary["ties"], summary["chosen_longer_share"], summary["equally_long_share"]) == (1, 0.3333, 0.3333)
    assert [summary[f"with_{name}"] for name in ("chosen_score", "margin", "label")] == [1, 1, 1]
    assert summary["subsets"] == {"a": 2, "b": 1}


def test_subsets_beyond_those_counted_by_name_are_counted_together(monkeypatch):
    monkeypatch.setattr(statistics, "MOST_SUBSETS", 3)
    names = ["a", "b", "a", "c", "d", "e", "b", "d", "f"]
    rows = [{"_prompt": 1, "_chosen": 1, "_rejected": 1, "subset": name} for name in names]
    for cut in range(len(rows) + 1):
        total = merged("pairs", [rows[:cut], rows[cut:]])
        assert len(total.subsets) == 4 and set(total.subsets) - {"(others)"} == {"a", "b", "c"}
        assert total.subsets.total() == len(rows)
