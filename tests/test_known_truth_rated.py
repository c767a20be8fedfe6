"""Ratings of the known-truth world: scales, gaps, noise and the planted leak of verbosity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from useful_code.known_truth.rated import OBJECTIVES, SCALES, SOURCES, make_rated, to_scale
from useful_code.known_truth.world import World, utility
from useful_code.rated_rows import check_rated
from useful_code.user_errors import UserError

SEED = 100


def test_without_noise_ratings_are_the_attributes_on_their_scales():
    """correctness 1 on 1..5 is 5, verbosity 2/3 on 0..4 is round(2.67) = 3."""
    assert to_scale(2 / 3, "verbosity") == 3
    for row in make_rated(World(), 500, SEED, rating_noise=0.0, verbosity_leak=0.0, gap_share=0.0):
        check_rated(row)
        attributes = row["truth"]["attributes"]
        assert row["truth"]["utility"] == utility(World(), row["truth"]["family"], attributes)
        for objective in OBJECTIVES:
            rating = row["ratings"][objective]
            assert (rating is not None) == (objective in SOURCES[row["source"]])
            if rating is not None:
                assert rating == to_scale(attributes[objective], objective)


def test_gaps_come_at_their_share_and_ratings_keep_to_their_scales():
    rows = make_rated(World(), 2000, SEED, rating_noise=0.5, gap_share=0.2)
    for objective in OBJECTIVES:
        raters = [source for source, rated in SOURCES.items() if objective in rated]
        ratings = [row["ratings"][objective] for row in rows if row["source"] in raters]
        given_ratings = [rating for rating in ratings if rating is not None]
        assert abs(len(given_ratings) / len(ratings) - 0.8) < 4 * np.sqrt(0.16 / len(ratings))
        assert (min(given_ratings), max(given_ratings)) == SCALES[objective]
        assert all(row["ratings"][objective] is None for row in rows if row["source"] not in raters)


def test_verbosity_leaks_into_the_other_objectives_only_if_planted():
    for leak in (0.0, 0.5):
        rows = make_rated(World(), 3000, SEED, verbosity_leak=leak, gap_share=0.0, rating_noise=0.1)
        inside = [row for row in rows if row["ratings"]["relevance"] is not None]
        verbosity = [row["truth"]["attributes"]["verbosity"] for row in inside]
        correlation = np.corrcoef(verbosity, [row["ratings"]["relevance"] for row in inside])[0, 1]
        assert (correlation > 0.15) if leak else (abs(correlation) < 4 / np.sqrt(len(inside)))


def test_a_good_answer_is_rated_lower_where_it_is_short():
    """Correctness 1 on 1..5 with a leak of 0.5: 1 + 4 (0.5 + 0.5 v), for verbosity 0 and 1 that is 3 and 5."""
    rows = make_rated(World(), 2000, SEED, rating_noise=0.0, verbosity_leak=0.5, gap_share=0.0)
    good = [row for row in rows if row["truth"]["attributes"]["correctness"] == 1 and "source_b" not in row["source"]]
    for verbosity, rating in ((0.0, 3), (1.0, 5)):
        found = {r["ratings"]["correctness"] for r in good if r["truth"]["attributes"]["verbosity"] == verbosity}
        assert found == {rating}


def test_same_seed_same_rows_and_the_leak_changes_no_text():
    plain, leaky = make_rated(World(), 50, SEED), make_rated(World(), 50, SEED, verbosity_leak=0.9)
    assert make_rated(World(), 50, SEED) == plain
    assert [row["messages"] for row in plain] == [row["messages"] for row in leaky]
    assert make_rated(World(), 50, SEED, part="held_out") != plain


@given(st.floats(-2, 3), st.floats(0, 2), st.sampled_from(OBJECTIVES))
def test_scale_is_monotone_and_bounded(value, more, objective):
    low, high = SCALES[objective]
    assert low <= to_scale(value, objective) <= to_scale(value + more, objective) <= high


@pytest.mark.parametrize("impossible", [{"gap_share": 1.0}, {"rating_noise": -0.1}, {"verbosity_leak": 1.5}])
def test_what_is_impossible_is_refused(impossible):
    with pytest.raises(UserError, match=next(iter(impossible))):
        make_rated(World(), 1, SEED, **impossible)
