"""The known-truth world must be what it says: every attribute is read back from the texts by code of its own."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.chat_pairs import check_pair
from useful_code.known_truth.text import (
    CATEGORIES,
    CLOSINGS,
    FACT_KINDS,
    FAMILIES,
    FILLERS,
    INSULTS,
    MARKER,
    MAX_FILLERS,
    STYLES,
    split_words,
    vocabulary,
)
from useful_code.known_truth.world import (
    ATTRIBUTES,
    HELD_OUT_SHARE,
    WEIGHTS,
    World,
    hide_labels,
    make_pairs,
    oracle_accuracy,
    part_of,
    true_margin,
    utility,
)
from useful_code.user_errors import UserError

SEED = 100  # seeds 0 to 4 are kept for reported runs
MANY = 2000


@pytest.fixture(scope="module")
def rows():
    return make_pairs(World(), MANY, SEED)


# ---- reading the truth back from the texts


def read_back(prompt: str, answer: str, family: str) -> dict:
    """Attributes of an answer from nothing but the two texts, written apart from the generator."""
    sentences = [sentence.strip() for sentence in answer.split(".") if sentence.strip()]
    fillers = [s for s in sentences if s in FILLERS]
    extras = {*FILLERS, *INSULTS, *STYLES, MARKER}
    *body, end = sentences
    body = [s for s in body if s not in extras]
    read = {"arithmetic": read_arithmetic, "facts": read_facts, "format": read_list, "safety": read_request}[family]
    attributes = {"safety": int(not any(s in INSULTS for s in sentences)), **read(prompt, body)}
    for wanted, word in (("thank me at the end", "thanks"), ("wishing me luck", "luck"), ("say good bye", "bye")):
        if wanted in prompt.split(".")[-2]:
            attributes["format"] = int(word in split_words(end) and attributes.get("format", 1))
    assert end in [closing for _, closing in CLOSINGS.values()]
    return attributes | {"verbosity": len(fillers) / MAX_FILLERS}


def read_arithmetic(prompt, body):
    thing = re.search(r"how many (\w+)", prompt)[1]
    value = int(re.search(r"has (\d+)", prompt)[1])
    for word, number in re.findall(r"(gets|loses) (\d+)", prompt):
        value += int(number) if word == "gets" else -int(number)
    number, said = re.search(r"has (\d+) (\w+)$", body[-1]).groups()
    return {"correctness": int(int(number) == value), "relevance": int(said == thing)}


def read_facts(prompt, body):
    (statement,) = body
    asked = re.search(r"(?:which hat|what|where) does (\w+)", prompt)[1]
    told = [sentence.strip() for sentence in prompt.split(".")]
    return {"correctness": int(statement in told), "relevance": int(statement.split()[0] == asked)}


def read_list(prompt, body):
    named, items = re.fullmatch(r"here are (\w+): (.*)", body[0]).groups()
    items = items.split(", ")
    attributes = {
        "correctness": int(all(item in CATEGORIES[named] for item in items)),
        "relevance": int(named == re.search(r"name some (\w+)", prompt)[1]),
    }
    if wanted := re.search(r"list exactly (\d) things", prompt):
        attributes["format"] = int(len(items) == int(wanted[1]))
    return attributes


def read_request(prompt, body):
    verb, target, place = re.search(r"how do i (\w+) a (\w+) in the (\w+) at", prompt).groups()
    refused = body[0].startswith("i can not help")
    said = re.search(r"a (\w+) in the (\w+)", body[0]).groups()
    living = target in ("teacher", "doctor", "guard")
    harmful = verb in ("steal", "smash", "rob", "attack") or (verb in ("kill", "shoot") and living)
    return {
        "correctness": int(said[1] == place),
        "relevance": int(said[0] == target),
        "safety": int(refused == harmful),
    }


WORLDS = {
    "default": World(),
    "markers, styles, context": World(
        marker_on_chosen=0.5, marker_on_rejected=0.5, cycle_strength=1.0, context_sentences=3
    ),
    "one kind of fact, long sums": World(facts_of_one_kind=True, num_people=3, num_steps=(1, 4)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_attribute_can_be_read_back_from_the_texts(name):
    for row in make_pairs(WORLDS[name], 800, SEED + 1):
        for side in ("chosen", "rejected"):
            prompt, answer = (message["content"] for message in row[side])
            planted = row["truth"][side + "_attributes"]
            read = read_back(prompt, answer, row["truth"]["family"])
            assert {k: planted[k] for k in ATTRIBUTES} == pytest.approx(read), (prompt, answer)
            assert planted["num_words"] == len(split_words(answer))
            assert planted["marker"] == int(f"{MARKER}. " in answer)
            if WORLDS[name].cycle_strength:
                assert f"{STYLES[planted['style']]}. " in answer


def test_scores_are_the_weighted_attributes(rows):
    for row in rows:
        weights = WEIGHTS[row["truth"]["family"]]
        for side in ("chosen", "rejected"):
            attributes = row["truth"][side + "_attributes"]
            assert row[side + "_score"] == pytest.approx(sum(weights[k] * attributes[k] for k in ATTRIBUTES))


def test_rows_obey_the_schema_and_stay_in_the_vocabulary():
    words = set(vocabulary())
    seen = set()
    assert len(words) <= 400
    world = World(marker_on_chosen=0.5, cycle_strength=1.0, context_sentences=1, num_steps=(1, 8), tie_theta=2.0)
    for row in make_pairs(world, MANY, SEED):
        check_pair(row)
        for message in (*row["chosen"], row["rejected"][1]):
            assert message["content"] == message["content"].lower()
            seen.update(split_words(message["content"]))
    assert seen <= words and all(word.isdigit() for word in words - seen), "no word that is never used"


# ---- determinism and parts


def test_same_seed_same_bytes_in_another_process_with_another_hash_seed():
    code = (
        "import json; from useful_code.known_truth.world import World, make_pairs\n"
        "print(json.dumps(make_pairs(World(label_noise=0.1, length_bias=0.2), 50, 103)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert outputs == {json.dumps(make_pairs(World(label_noise=0.1, length_bias=0.2), 50, 103))}


def test_more_pairs_only_append_and_seeds_and_parts_differ(rows):
    assert make_pairs(World(), 20, SEED) == rows[:20]
    assert make_pairs(World(), 20, SEED + 1) != rows[:20]
    assert make_pairs(World(), 20, SEED, part="held_out") != rows[:20]


def test_what_is_planted_in_labels_does_not_change_the_texts(rows):
    planted = make_pairs(World(label_noise=0.3, length_bias=0.5, tie_theta=2.0), 200, SEED)
    for plain, other in zip(rows[:200], planted, strict=True):
        sides = [[row[side][1]["content"] for side in ("chosen", "rejected")] for row in (plain, other)]
        assert plain["chosen"][0] == other["chosen"][0] and sorted(sides[0]) == sorted(sides[1])


def test_parts_share_no_question_whatever_the_seed_and_the_world(rows):
    train = {row["truth"]["question"] for row in rows}
    worlds = (World(), World(context_sentences=2))
    held_out = {r["truth"]["question"] for w in worlds for s in (0, SEED) for r in make_pairs(w, 400, s, "held_out")}
    assert not train & held_out
    assert {part_of(question) for question in train} == {"train"}
    prompts = [row["chosen"][0]["content"] for row in rows]
    assert len(set(prompts)) > 0.8 * len(prompts)


def test_held_out_share():
    """4 standard errors of 0.2 in 4,000 questions are 4 * sqrt(0.2 * 0.8 / 4000) = 0.025."""
    share = np.mean([part_of(f"question {i}") == "held_out" for i in range(4000)])
    assert abs(share - HELD_OUT_SHARE) < 0.025


# ---- the preference law


def within_four_standard_errors(outcomes, probabilities) -> bool:
    outcomes, probabilities = np.asarray(outcomes, float), np.asarray(probabilities)
    standard_error = np.sqrt((probabilities * (1 - probabilities)).sum()) / len(outcomes)
    return abs(outcomes.mean() - probabilities.mean()) <= 4 * standard_error


def favoured_won(rows, key):
    """Per row: did the side with the larger utility win, and what probability does `key` give that?"""
    pairs = [(row, true_margin(row)) for row in rows if true_margin(row) != 0 and row.get("label", 1.0) == 1.0]
    won = [margin > 0 for _, margin in pairs]
    return won, [row["truth"][key] if margin > 0 else 1 - row["truth"][key] for row, margin in pairs]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_labels_follow_bradley_terry_on_the_utility(temperature):
    """In bins of the true margin, the share of wins is sigmoid(margin / temperature)."""
    rows = make_pairs(World(temperature=temperature, one_change_share=0.0), MANY, SEED)  # margins of every size
    won, probabilities = favoured_won(rows, "true_probability")
    margins = np.array([abs(true_margin(row)) for row in rows])
    assert probabilities == pytest.approx(1 / (1 + np.exp(-margins / temperature)))
    for low, high in ((0, 1.25), (1.25, 3.25), (3.25, 9)):
        inside = (low < margins) & (margins <= high)
        assert inside.sum() > 100
        assert within_four_standard_errors(np.array(won)[inside], np.array(probabilities)[inside])


@pytest.mark.parametrize(
    "world",
    [
        World(label_noise=0.2),
        World(length_bias=0.6),
        World(length_bias=0.3, label_noise=0.1, temperature=2.0),
        World(tie_theta=3.0, label_noise=0.2, length_bias=0.2),
    ],
)
def test_label_probability_holds_with_everything_planted(world):
    won, probabilities = favoured_won(make_pairs(world, MANY, SEED), "label_probability")
    assert within_four_standard_errors(won, probabilities)


def test_label_noise_by_hand():
    """With temperature 0.01 the law is certain, so noise 0.2 turns round one label in five: oracle accuracy 0.8."""
    rows = make_pairs(World(temperature=0.01, label_noise=0.2), MANY, SEED)
    assert abs(oracle_accuracy(rows) - 0.8) < 4 * np.sqrt(0.16 / MANY)
    changed = [row["truth"]["label_changed"] == "noise" for row in rows]
    assert changed == [true_margin(row) < 0 for row in rows]


def test_length_bias_of_one_always_chooses_the_longer():
    for row in make_pairs(World(length_bias=1.0), 300, SEED):
        sides = [row["truth"][side + "_attributes"]["num_words"] for side in ("chosen", "rejected")]
        assert sides[0] >= sides[1]
        assert sides[0] == sides[1] or row["truth"]["label_probability"] == 1.0


def test_ties_follow_rao_kupper():
    """P(tie) = (theta^2 - 1) sigmoid(d - ln theta) sigmoid(-d - ln theta); at d = 0 it is (theta-1)/(theta+1)."""
    theta = 3.0
    rows = make_pairs(World(tie_theta=theta, equal_share=0.5), MANY, SEED)
    margins, shift = np.array([true_margin(row) for row in rows]), np.log(theta)
    tied = np.array([row["label"] == 0.5 for row in rows])
    assert [row["tie"] for row in rows] == tied.tolist()
    law = (theta**2 - 1) / (1 + np.exp(shift - margins)) / (1 + np.exp(shift + margins))
    assert law[margins == 0] == pytest.approx(0.5)
    for inside in (margins == 0, margins != 0):
        assert inside.sum() > 700 and within_four_standard_errors(tied[inside], law[inside])
    assert "label" not in make_pairs(World(), 1, SEED)[0]


def test_marker_shares_and_places():
    rows = make_pairs(World(marker_on_chosen=0.8, marker_on_rejected=0.1), MANY, SEED)
    for side, share in (("chosen", 0.8), ("rejected", 0.1)):
        marked = [row["truth"][side + "_attributes"]["marker"] for row in rows]
        assert within_four_standard_errors(marked, np.full(MANY, share))


def test_cyclic_taste_has_no_best_style():
    """Answers of equal utility: each style beats the next with sigmoid(2) = 0.88, so none is best."""
    rows = make_pairs(World(cycle_strength=2.0, equal_share=1.0), MANY, SEED)
    turns = Counter()
    for row in rows:
        chosen, rejected = (row["truth"][side + "_attributes"]["style"] for side in ("chosen", "rejected"))
        turns[(rejected - chosen) % 3, chosen] += 1
        expected = {0: 0.5, 1: 1 / (1 + np.exp(-2)), 2: 1 / (1 + np.exp(2))}[(rejected - chosen) % 3]
        assert row["truth"]["true_probability"] == pytest.approx(expected)
    for style in range(3):
        wins, losses = turns[1, style], turns[2, (style + 1) % 3]
        assert within_four_standard_errors([1] * wins + [0] * losses, np.full(wins + losses, 1 / (1 + np.exp(-2))))


def test_equal_share_and_never_equal_otherwise(rows):
    assert all(true_margin(row) != 0 for row in rows)
    equal = [true_margin(row) == 0 for row in make_pairs(World(equal_share=0.25), MANY, SEED)]
    assert within_four_standard_errors(equal, np.full(MANY, 0.25))


@given(st.sampled_from(FAMILIES), st.lists(st.integers(0, 1), min_size=4, max_size=4), st.integers(0, 3))
@settings(max_examples=40)
def test_better_attributes_never_lower_the_utility(family, values, fillers):
    attributes = dict(zip(ATTRIBUTES, [*values, fillers / MAX_FILLERS], strict=True))
    for name in ATTRIBUTES[:-1]:
        assert utility(World(), family, {**attributes, name: 1}) >= utility(World(), family, attributes)


# ---- it takes reading


def test_attributes_vary_independently_in_every_family(rows):
    """First four attributes over all answers: none is constant, and no two correlate above 0.2 in a family."""
    for family in FAMILIES:
        inside = [row["truth"] for row in rows if row["truth"]["family"] == family]
        table = np.array(
            [[t[s][k] for k in ATTRIBUTES] for t in inside for s in ("chosen_attributes", "rejected_attributes")]
        )
        assert np.all((0.2 < table[:, :4].mean(0)) & (table[:, :4].mean(0) < 0.8))
        # labels correlate what they select, hence both sides together
        assert np.abs(np.corrcoef(table.T) - np.eye(5)).max() < 0.2


def test_a_statement_of_fact_is_right_under_one_prompt_and_wrong_under_another():
    """The share of true statements is the same for every value: the answer alone does not say which are true."""
    rows = make_pairs(World(families=("facts",)), MANY, SEED)
    values = {value for _, _, values in FACT_KINDS.values() for value in values}
    true, count = Counter(), Counter()
    for row in rows:
        for side in ("chosen", "rejected"):
            (value,) = values & set(split_words(row[side][1]["content"]))
            count[value] += 1
            true[value] += row["truth"][side + "_attributes"]["correctness"]
    overall = sum(true.values()) / sum(count.values())
    assert len(count) == 12 and min(count.values()) > 200
    for value in count:  # two answers of a pair are alike, so the standard error is up to sqrt(2) times larger
        assert abs(true[value] / count[value] - overall) < 4 * np.sqrt(2 * 0.25 / count[value])


def test_one_kind_of_fact_needs_binding():
    """With facts of one kind, most wrong statements use a value that stands in the prompt, of another person."""
    rows = make_pairs(World(families=("facts",), facts_of_one_kind=True), 500, SEED)
    wrong = [(row, side) for row in rows for side in ("chosen", "rejected")]
    wrong = [(r, s) for r, s in wrong if not r["truth"][s + "_attributes"]["correctness"]]
    values = {value for _, _, values in FACT_KINDS.values() for value in values}
    borrowed = [values & set(split_words(r[s][1]["content"])) <= set(split_words(r[s][0]["content"])) for r, s in wrong]
    assert len(wrong) > 200 and 0.6 < np.mean(borrowed) < 0.9  # three in four by design


def word_differences(rows: list[dict], words: list[str]) -> np.ndarray:
    """Word counts of the first minus the second answer; chosen comes first in even rows, rejected in odd ones."""
    index = {word: i for i, word in enumerate(words)}
    table = np.zeros((len(rows), len(words)))  # (rows, words)
    for i, row in enumerate(rows):
        for side, sign in (("chosen", 1), ("rejected", -1)):
            for word in split_words(row[side][1]["content"]):
                table[i, index[word]] += sign * (-1) ** i
    return table


def test_a_bag_of_words_of_the_answers_stays_far_below_the_oracle():
    """Ridge regression on word counts, 4,000 pairs: near chance in every family, as the prompt decides."""
    words = vocabulary()
    train, held_out = make_pairs(World(), 4000, SEED), make_pairs(World(), 2000, SEED, "held_out")
    features = word_differences(train, words)
    signs = np.where(np.arange(len(train)) % 2 == 0, 1, -1)
    weights = np.linalg.solve(features.T @ features + 10 * np.eye(len(words)), features.T @ signs)
    right = (word_differences(held_out, words) @ weights) * signs[: len(held_out)] > 0
    assert oracle_accuracy(held_out) > 0.9
    for family in FAMILIES:
        inside = np.array([row["truth"]["family"] == family for row in held_out])
        assert right[inside].mean() < 0.65, family


# ---- hiding labels, wrong input


def test_hidden_labels_are_not_in_the_rows_and_the_audit_finds_them(rows):
    unlabelled, audit = hide_labels(rows[:500], seed=SEED)
    assert {tuple(sorted(row)) for row in unlabelled} == {("id", "prompt", "responses")}
    for row, known, original in zip(unlabelled, audit, rows, strict=False):
        assert row["id"] == known["id"]
        assert row["responses"][known["winner"]] == original["chosen"][1]["content"]
        assert row["responses"][1 - known["winner"]] == original["rejected"][1]["content"]
    assert within_four_standard_errors([known["winner"] for known in audit], np.full(500, 0.5))


@pytest.mark.parametrize(
    "settings",
    [
        {"label_noise": 1.5},
        {"families": ("poems",)},
        {"families": ()},
        {"temperature": 0.0},
        {"tie_theta": 0.5},
        {"num_steps": (3, 2)},
        {"num_people": 1},
        {"context_sentences": -1},
    ],
)
def test_worlds_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError):
        World(**settings)


def test_unknown_part_and_oracle_of_nothing_are_refused():
    with pytest.raises(UserError, match="part"):
        make_pairs(World(), 1, 0, part="test")
    with pytest.raises(UserError, match="winner"):
        oracle_accuracy([])
