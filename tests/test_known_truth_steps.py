"""Step labels are right by doing the sums again, from the texts alone."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.known_truth.steps import finish_solution, label_steps, last_number, make_candidates, make_steps
from useful_code.known_truth.text import LARGEST_NUMBER, split_words, vocabulary
from useful_code.known_truth.world import World, part_of
from useful_code.step_rows import check_steps
from useful_code.user_errors import UserError

SEED = 100
LONG = World(num_steps=(2, 4))


def recompute(prompt: str, steps: list[str]) -> tuple[list[bool], list[bool], bool]:
    """labels, on_path and correct from the prompt's words and the steps' words, written apart from the generator."""
    moves = [int(n) if word == "gets" else -int(n) for word, n in re.findall(r"(gets|loses) (\d+)", prompt)]
    true = stated = int(re.search(r"has (\d+)", prompt)[1])
    labels, on_path, fine = [], [], True
    for move, step in zip(moves, steps[:-1], strict=True):
        before, sign, number, after = re.fullmatch(r"(\d+) (plus|minus) (\d+) is (\d+)\.", step).groups()
        used = int(number) if sign == "plus" else -int(number)
        fine = fine and int(before) == stated and used == move and stated + used == int(after)
        assert int(before) == stated, "a mistake is carried on"
        true, stated = true + move, int(after)
        labels.append(fine)
        on_path.append(stated == true)
    final = int(re.search(r"has (\d+)", steps[-1])[1])
    return [*labels, fine and final == stated], [*on_path, final == true], final == true


def test_labels_are_right_by_doing_the_sums_again():
    rows = make_steps(LONG, 1500, SEED)
    for row in rows:
        labels, on_path, correct = recompute(row["prompt"], row["completions"])
        truth = row["truth"]
        assert (row["labels"], truth["on_path"], truth["correct"]) == (labels, on_path, correct)
        assert truth["first_wrong_step"] == (labels.index(False) if False in labels else None)
        assert truth["answer"] == last_number(row["completions"][-1])
        assert 0 <= min(map(last_number, row["completions"])) <= max(map(last_number, row["completions"]))
        assert max(map(last_number, row["completions"])) <= LARGEST_NUMBER
    kinds = Counter((row["truth"]["correct"], all(row["labels"])) for row in rows)
    assert kinds[True, True] > 300 and kinds[False, False] > 300
    assert kinds[True, False] > 5, "two mistakes that cancel: a right answer by wrong steps"
    assert kinds[False, True] == 0


def test_steps_stay_in_the_vocabulary_and_in_their_part():
    words = set(vocabulary())
    for part in ("train", "held_out"):
        for row in make_steps(World(num_steps=(1, 8), context_sentences=1), 300, SEED, part):
            assert part_of(row["truth"]["question"]) == part
            assert row["prompt"].endswith(row["truth"]["question"])
            assert set(split_words(" ".join([row["prompt"], *row["completions"]]))) <= words


def test_first_mistakes_come_at_the_stated_rate():
    """Without a trap each sum goes wrong with 0.25: all of 3 sums are right in 0.75**3 = 0.42 of the solutions."""
    rows = make_steps(World(num_steps=(3, 3)), 2000, SEED)
    share = np.mean([all(row["labels"]) for row in rows])
    assert abs(share - 0.75**3) < 4 * np.sqrt(0.42 * 0.58 / 2000)


def test_candidates_share_a_problem_and_traps_win_the_majority():
    """A trap is taken with 0.7 by those who are right up to it, else all is right: 0.3 of the answers."""
    rows = make_candidates(LONG, 200, 16, SEED, error_rate=0.0, trap_share=0.5)
    assert make_candidates(LONG, 200, 16, SEED, error_rate=0.0, trap_share=0.5) == rows
    shares = {trap: [] for trap in (True, False)}
    for row in rows:
        assert len(row["candidates"]) == 16
        for candidate in row["candidates"]:
            labels, on_path, correct = recompute(row["prompt"], candidate["steps"])
            assert (candidate["labels"], candidate["on_path"], candidate["correct"]) == (labels, on_path, correct)
        shares[row["truth"]["has_trap"]].append(np.mean([c["correct"] for c in row["candidates"]]))
    assert min(shares[False]) == 1.0
    assert abs(np.mean(shares[True]) - 0.3) < 4 * np.sqrt(0.21 / (16 * len(shares[True])))
    wrong = [Counter(c["answer"] for c in row["candidates"]) for row in rows if row["truth"]["has_trap"]]
    assert all(len(counts) <= 2 for counts in wrong), "everybody who falls in makes the same mistake"


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_a_faultless_completion_is_right_exactly_from_a_prefix_on_the_path(seed):
    """The definition of a Monte-Carlo step label (METHODS 7.2), for every prefix of a solution."""
    row = make_steps(LONG, 1, seed, error_rate=0.4)[0]
    assert check_steps(row)["labels"] == [float(label) for label in row["labels"]]
    problem, rng = row["truth"]["problem"], np.random.default_rng(seed)
    for length, on_path in enumerate(row["truth"]["on_path"], start=1):
        finished = finish_solution(rng, problem, row["completions"][:length], error_rate=0.0)
        assert finished[:length] == row["completions"][:length]
        assert label_steps(problem, finished)["correct"] == on_path


def test_what_is_no_step_or_no_rate_is_refused():
    with pytest.raises(UserError, match="no step"):
        last_number("tom is happy.")
    with pytest.raises(UserError, match="error_rate"):
        make_candidates(World(), 1, 1, 0, error_rate=2.0)
