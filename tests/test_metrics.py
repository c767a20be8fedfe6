"""Metrics against values worked by hand, against SciPy and scikit-learn, and by what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code import metrics

reward = st.floats(-50, 50).map(lambda value: round(value, 3))
margin_lists = st.lists(reward, min_size=1, max_size=60)


# ---- intervals ----


def test_wilson_interval_by_hand():
    """8 of 10, z = 1.96: centre (0.8 + 3.8416/20) / 1.38416 = 0.71674, half width
    1.96 sqrt(0.016 + 3.8416/400) / 1.38416 = 0.22656: (0.4902, 0.9433)."""
    assert metrics.wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (3, 7), (7, 7), (500, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval_equals_scipy(successes, trials, confidence):
    binomtest = pytest.importorskip("scipy.stats").binomtest
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert metrics.wilson_interval(successes, trials, confidence) == pytest.approx((expected.low, expected.high))


def test_wilson_interval_of_nothing_is_everything_and_impossible_counts_are_refused():
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4 trials"):
        metrics.wilson_interval(5, 4)


def test_bootstrap_interval_of_a_mean_has_the_width_of_theory():
    """Standard error 1 / sqrt(400) = 0.05, so the interval is about mean +- 0.098."""
    values = np.random.default_rng(0).normal(size=400)
    values = (values - values.mean()) / values.std() + 3
    assert metrics.bootstrap_interval(values) == pytest.approx((3 - 0.098, 3 + 0.098), abs=0.012)
    assert metrics.bootstrap_interval(values, confidence=0.68) == pytest.approx((2.95, 3.05), abs=0.01)


def test_bootstrap_of_any_statistic_and_of_the_mean_agree():
    values = np.random.default_rng(1).exponential(size=150)
    groups = np.random.default_rng(2).integers(0, 30, size=150)  # unequal sizes: a large prompt weighs more
    for grouping in (None, groups):
        fast = metrics.bootstrap_interval(values, groups=grouping, seed=3, num_resamples=300)
        general = metrics.bootstrap_interval(values, np.mean, groups=grouping, seed=3, num_resamples=300)
        assert general == pytest.approx(fast)
    low, high = metrics.bootstrap_interval(values, np.median, num_resamples=300)
    assert low < np.median(values) < high


def test_pairs_of_one_prompt_count_once_not_many_times():
    """Each of 50 prompts has 8 identical pairs: the clustered interval must be that of 50 values, not of 400."""
    per_prompt = np.random.default_rng(2).normal(size=50)
    values = np.repeat(per_prompt, 8)
    prompts = [f"prompt {i}" for i in range(50) for _ in range(8)]
    low, high = metrics.bootstrap_interval(values, groups=prompts)
    naive_low, naive_high = metrics.bootstrap_interval(values)
    alone_low, alone_high = metrics.bootstrap_interval(per_prompt)
    assert high - low == pytest.approx(alone_high - alone_low, rel=0.1)
    assert high - low > 2 * (naive_high - naive_low)  # sqrt(8) in theory


def test_bootstrap_edge_cases():
    assert np.isnan(metrics.bootstrap_interval([])).all()
    assert metrics.bootstrap_interval([2.0]) == (2.0, 2.0)
    assert metrics.bootstrap_interval([1.0, 3.0], groups=["a", "a"]) == (2.0, 2.0)  # one prompt: no spread seen
    with pytest.raises(ValueError, match="2 values but 1 group labels"):
        metrics.bootstrap_interval([1.0, 2.0], groups=["a"])
    with pytest.raises(ValueError, match="shape"):
        metrics.bootstrap_interval([[1.0, 2.0]])


def test_bootstrap_rows_of_two_columns():
    columns = np.random.default_rng(4).normal(size=(200, 2)) + [0, 1]
    low, high = metrics.bootstrap_interval(columns, lambda rows: float((rows[:, 1] - rows[:, 0]).mean()))
    assert low < 1.15 and high > 0.85 and 0.3 < high - low < 0.5  # 2 * 1.96 * sqrt(2 / 200) = 0.39


def test_paired_difference_sees_what_separate_intervals_hide():
    difficulty = np.random.default_rng(5).normal(scale=10, size=200)
    difference, low, high = metrics.paired_difference_interval(difficulty + 0.5, difficulty)
    assert (difference, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(metrics.paired_difference_interval([], [])).all()
    with pytest.raises(ValueError, match="paired values"):
        metrics.paired_difference_interval([1.0], [1.0, 2.0])


@settings(max_examples=25, deadline=None)
@given(margin_lists, st.integers(0, 3))
def test_swapping_a_and_b_negates_the_difference(a, seed):
    b = np.random.default_rng(seed).normal(size=len(a))
    difference, low, high = metrics.paired_difference_interval(a, b, num_resamples=50)
    other, other_low, other_high = metrics.paired_difference_interval(b, a, num_resamples=50)
    assert (other, other_low, other_high) == pytest.approx((-difference, -high, -low))
    assert low - 1e-9 <= high


# ---- accuracy ----


def test_pair_accuracy_and_ties_by_hand():
    """Margins 2, -1, 0, 0.5: two right, one tie, of four."""
    margins = [2.0, -1.0, 0.0, 0.5]
    assert metrics.pair_accuracy(margins) == 0.5
    assert metrics.pair_accuracy(margins, tie_credit=0.5) == 0.625
    assert np.isnan(metrics.pair_accuracy([]))
    with pytest.raises(ValueError, match="not finite"):
        metrics.pair_accuracy([1.0, float("nan")])


@given(margin_lists)
def test_accuracy_of_swapped_pairs_is_the_complement_when_ties_count_half(margins):
    total = metrics.pair_accuracy(margins, 0.5) + metrics.pair_accuracy(-np.array(margins), 0.5)
    assert total == pytest.approx(1)


# ---- calibration ----


def test_reliability_bins_by_hand():
    """Bins of width 0.5: 0.1, 0.3 (outcomes 0, 1) and 0.5, 1.0 (outcomes 1, 1). ECE (2 * 0.3 + 2 * 0.25) / 4."""
    bins = metrics.reliability_bins([0.1, 0.3, 0.5, 1.0], [0, 1, 1, 1], num_bins=2)
    assert bins["edges"].tolist() == [0, 0.5, 1] and bins["counts"].tolist() == [2, 2]
    assert bins["mean_probability"].tolist() == [0.2, 0.75] and bins["mean_outcome"].tolist() == [0.5, 1]
    ece = metrics.expected_calibration_error([0.1, 0.3, 0.5, 1.0], [0, 1, 1, 1], num_bins=2)
    assert ece == pytest.approx(0.275)


def test_reliability_bins_equal_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(0)
    probabilities = rng.beta(2, 1, size=500)
    outcomes = (rng.random(500) < probabilities).astype(int)
    observed, predicted = calibration.calibration_curve(outcomes, probabilities, n_bins=7)
    bins = metrics.reliability_bins(probabilities, outcomes, num_bins=7)
    used = bins["counts"] > 0
    assert bins["mean_outcome"][used] == pytest.approx(observed)
    assert bins["mean_probability"][used] == pytest.approx(predicted)
    assert metrics.brier_score(probabilities, outcomes) == pytest.approx(
        pytest.importorskip("sklearn.metrics").brier_score_loss(outcomes, probabilities)
    )


def test_calibration_edge_cases():
    empty = metrics.reliability_bins([], [], num_bins=3)
    assert empty["counts"].tolist() == [0, 0, 0] and np.isnan(empty["mean_outcome"]).all()
    assert np.isnan(metrics.expected_calibration_error([], [])) and np.isnan(metrics.brier_score([], []))
    with pytest.raises(ValueError, match="lie in 0.5..1"):
        metrics.reliability_bins([0.4], [1], lowest=0.5)
    with pytest.raises(ValueError, match="outcomes"):
        metrics.brier_score([0.4], [1, 0])


def test_brier_score_by_hand():
    """((0.8 - 1)^2 + (0.4 - 0)^2) / 2 = (0.04 + 0.16) / 2."""
    assert metrics.brier_score([0.8, 0.4], [1, 0]) == pytest.approx(0.1)


def test_confidence_is_on_the_side_that_the_model_prefers():
    """sigmoid(1) = 0.73105858 whichever side; right, wrong, tie."""
    confidence, correct = metrics.preference_confidence([1.0, -1.0, 0.0])
    assert confidence == pytest.approx([0.73105858, 0.73105858, 0.5]) and correct.tolist() == [1, 0, 0.5]


def calibrated_pairs(num_pairs, seed, true_scale=1.0):
    """Margins whose chosen side really wins with probability sigmoid(true_scale * margin)."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(scale=2, size=num_pairs)
    wins = rng.random(num_pairs) < metrics.sigmoid(true_scale * differences)
    return np.where(wins, differences, -differences)


def test_calibrated_pairs_have_a_small_error_and_overconfident_ones_a_large_one():
    margins = calibrated_pairs(20_000, seed=0)
    honest = metrics.expected_calibration_error(*metrics.preference_confidence(margins), lowest=0.5)
    too_sure = metrics.expected_calibration_error(*metrics.preference_confidence(3 * margins), lowest=0.5)
    assert honest < 0.015 and too_sure > 0.08


@pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
def test_temperature_of_scaled_margins_is_found(temperature):
    margins = temperature * calibrated_pairs(20_000, seed=1)
    assert metrics.fit_temperature(margins) == pytest.approx(temperature, rel=0.05)


def test_temperature_by_hand():
    """Margin +-2 with 3 of 4 right: sigmoid(2 / T) = 3/4, so T = 2 / ln 3; as soft labels the same."""
    assert metrics.fit_temperature([2.0, 2.0, 2.0, -2.0]) == pytest.approx(2 / np.log(3))
    assert metrics.fit_temperature([2.0], [0.75]) == pytest.approx(2 / np.log(3))
    outlier = [1e5, 2.0, 2.0, 2.0, -2.0]  # one huge, right margin must not push the answer out of reach
    assert metrics.fit_temperature(outlier) == pytest.approx(2 / np.log(3))


def test_temperature_is_the_minimum_that_scipy_finds():
    optimize = pytest.importorskip("scipy.optimize")
    margins = 7 * calibrated_pairs(300, seed=2)
    found = optimize.minimize_scalar(
        lambda log_t: np.logaddexp(0, -margins / np.exp(log_t)).mean(), bounds=(-3, 5), method="bounded"
    )
    assert metrics.fit_temperature(margins) == pytest.approx(np.exp(found.x), rel=1e-3)


def test_temperature_without_an_answer_is_an_end_of_the_range():
    assert metrics.fit_temperature([]) == 1 and metrics.fit_temperature([0.0, 0.0]) == 1
    assert metrics.fit_temperature([1.0, 3.0]) == pytest.approx(2e-6)  # all right: T towards 0
    assert metrics.fit_temperature([-1.0, 1.0]) == pytest.approx(1e6)  # says nothing: T towards infinity


@settings(max_examples=50, deadline=None)
@given(margin_lists, st.floats(0.1, 10))
def test_temperature_scales_with_the_margins(margins, factor):
    first, second = metrics.fit_temperature(margins), metrics.fit_temperature(factor * np.array(margins))
    assert first > 0 and np.isfinite(first)
    if any(margins):
        assert second == pytest.approx(factor * first, rel=1e-6)


def test_sigmoid_is_finite_and_exact_in_the_tails():
    values = metrics.sigmoid([-1e4, -40, 0, 40, 1e4])
    assert values[0] == 0 and values[2] == 0.5 and values[4] == 1
    assert values[1] == pytest.approx(np.exp(-40), rel=1e-12)


# ---- length ----


def test_correlations_by_hand():
    """ODIN vector of METHODS A.7: lengths (3, 5, 8, 12), rewards (.1, .4, .2, .3) give Pearson .32969024.
    Ranks (1, 2, 3, 4) and (1, 4, 2, 3): Spearman 1 - 6 (0 + 4 + 1 + 1) / 60 = 0.4."""
    lengths, rewards = [3, 5, 8, 12], [0.1, 0.4, 0.2, 0.3]
    assert metrics.pearson_correlation(rewards, lengths) == pytest.approx(0.32969024, abs=1e-7)
    assert metrics.spearman_correlation(rewards, lengths) == pytest.approx(0.4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
def test_correlations_equal_scipy_with_ties(points):
    stats = pytest.importorskip("scipy.stats")
    x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(metrics.pearson_correlation(x, y)) and np.isnan(metrics.spearman_correlation(x, y))
        return
    assert metrics.pearson_correlation(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-9)
    assert metrics.spearman_correlation(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-9)
    assert metrics.pearson_correlation(1e200 * x, y) == pytest.approx(metrics.pearson_correlation(x, y))


def test_length_report_by_hand():
    """Five pairs: chosen longer 3 times (right, right, wrong), shorter once (tie), equal once (right)."""
    report = metrics.length_report(
        rewards=[1, 2, 3],
        lengths=[10, 20, 30],
        margins=[1.0, 2.0, -1.0, 0.0, 1.0],
        length_differences=[5, 1, 2, -4, 0],
        tie_credit=0.5,
    )
    assert report["pearson"] == pytest.approx(1) and report["spearman"] == pytest.approx(1)
    assert report["chosen_longer"]["pairs"] == 3
    assert report["chosen_longer"]["accuracy"] == pytest.approx(2 / 3)
    assert report["chosen_shorter"] == {
        "pairs": 1,
        "accuracy": 0.5,
        "interval": list(metrics.wilson_interval(0.5, 1)),
    }
    assert report["equal_length"]["accuracy"] == 1
    assert report["longer_wins_accuracy"] == pytest.approx(3.5 / 5)


def test_length_report_of_nothing_and_of_one_pair():
    empty = metrics.length_report([], [], [], [])
    assert empty["pearson"] is None and empty["longer_wins_accuracy"] is None
    assert empty["equal_length"] == {"pairs": 0, "accuracy": None, "interval": [0.0, 1.0]}
    one = metrics.length_report([1.0, 1.0], [3, 4], [0.5], [1])
    assert one["spearman"] is None and one["chosen_longer"]["accuracy"] == 1
    with pytest.raises(ValueError, match="length differences"):
        metrics.length_report([1.0], [3], [0.5], [1, 2])


def test_resamples_without_a_value_do_not_cost_the_interval():
    """Two of ten values are 1: some resamples have none, and there the statistic is not defined."""
    values = np.array([1.0] * 2 + [0.0] * 8)

    def spread(rows: np.ndarray) -> float:
        return float(rows.std()) if rows.any() else float("nan")

    low, high = metrics.bootstrap_interval(values, spread)
    assert 0 < low < spread(values) < high
    assert all(np.isnan(metrics.bootstrap_interval(np.zeros(5), spread)))
