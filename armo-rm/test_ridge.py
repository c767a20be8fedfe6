"""Ridge with missing ratings (METHODS 5.9.1, Appendix A.5), the scales, and the decision tree's rules (METHODS 9.9)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preference_tree import fit_tree, leaf_probabilities, preference, rules_text
from rating_scales import RULES, to_rating, to_unit, width_of
from ridge import GramMatrices, SquaredErrors, rated_alike, ridge_weights
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier

nan = np.nan
X = np.array([[1.0, 0], [0, 1], [1, 1], [2, 1]])
RATINGS = np.array([[1, nan], [2, 1], [nan, 0], [3, 1]])
ALPHAS = [1e-2, 1.0, 1e2]


def grams_of(parts, num_features, classes):
    grams = GramMatrices(num_features, classes)
    for embeddings, ratings in parts:
        grams.add(embeddings, ratings)
    return grams


def random_rows(seed, num_rows=200, num_features=12, num_objectives=5):
    """Embeddings, and ratings of which a different half is missing for every objective but two that go together."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((num_rows, num_features)).astype(np.float32)
    ratings = embeddings @ rng.standard_normal((num_features, num_objectives)) + rng.standard_normal((num_rows, 1))
    missing = rng.random((num_rows, num_objectives)) < 0.5
    missing[:, 1] = missing[:, 0]
    return embeddings, np.where(missing, nan, ratings)


def test_weights_of_appendix_a5():
    """X = [[1,0],[0,1],[1,1],[2,1]], labels (1, 2, missing, 3) and (missing, 1, 0, 1); alpha 0 and 1."""
    weights = grams_of([(X, RATINGS)], 2, [0, 1]).weights([0.0, 1.0])
    assert weights[0] == pytest.approx(np.array([[0.66666667, 1.83333333], [0, 0.66666667]]), abs=1e-8)
    assert weights[1] == pytest.approx(np.array([[0.78571429, 1.14285714], [0.13333333, 0.4]]), abs=1e-8)


@pytest.mark.parametrize("rows_per_part", [1, 7, 200])
def test_weights_equal_scikit_learn_whatever_the_parts(rows_per_part):
    embeddings, ratings = random_rows(seed=0)
    classes = rated_alike([column.tobytes() for column in ~np.isnan(ratings).T])
    assert classes == [0, 0, 1, 2, 3]
    starts = range(0, len(embeddings), rows_per_part)
    parts = [(embeddings[i : i + rows_per_part], ratings[i : i + rows_per_part]) for i in starts]
    grams = grams_of(parts, 12, classes)
    assert len(grams.grams) == 4  # two objectives share one matrix
    for alpha, found in zip(ALPHAS, grams.weights(ALPHAS), strict=True):
        for k in range(5):
            has = ~np.isnan(ratings[:, k])
            theirs = Ridge(alpha=alpha, fit_intercept=False).fit(embeddings[has].astype(float), ratings[has, k])
            assert found[k] == pytest.approx(theirs.coef_, abs=1e-8)


def test_more_features_than_rows_have_weights_too():
    embeddings, ratings = random_rows(seed=1, num_rows=8, num_features=20)
    ratings = np.nan_to_num(ratings)
    (found,) = grams_of([(embeddings, ratings)], 20, [0] * 5).weights([0.1])
    theirs = Ridge(alpha=0.1, fit_intercept=False).fit(embeddings.astype(float), ratings)
    assert found == pytest.approx(theirs.coef_, abs=1e-8)


def test_an_objective_without_ratings_is_an_error():
    grams = grams_of([(X, np.column_stack((RATINGS[:, 0], [nan] * 4)))], 2, [0, 1])
    with pytest.raises(ValueError, match="objective 1 has no rating"):
        grams.weights([1.0])


def test_squared_errors_are_over_the_rated_rows_alone():
    weights = grams_of([(X, RATINGS)], 2, [0, 1]).weights([0.0, 1.0])
    errors = SquaredErrors(weights)
    for i in range(4):
        errors.add(X[i : i + 1], RATINGS[i : i + 1])
    for a in range(2):
        for k in range(2):
            has = ~np.isnan(RATINGS[:, k])
            expected = np.mean((X[has] @ weights[a, k] - RATINGS[has, k]) ** 2)
            assert errors.means()[a, k] == pytest.approx(expected)


def test_one_decomposition_gives_every_alpha():
    gram, moments = X.T @ X, np.array([[1.0, 2.0]])
    together = ridge_weights(gram, moments, ALPHAS)
    for alpha, weights in zip(ALPHAS, together, strict=True):
        assert weights[0] == pytest.approx(np.linalg.solve(gram + alpha * np.eye(2), moments[0]))


@given(st.integers(-3, 10), st.integers(1, 12), st.floats(0, 1), st.sampled_from(RULES))
def test_scales_are_inverted_and_stay_in_the_unit_interval(low, width, share, rule):
    scale = (low, low + width)
    rating = low + share * width
    unit = to_unit(rating, scale, rule)
    assert 0 <= unit <= 1
    assert to_rating(unit, scale, rule) == pytest.approx(rating)
    assert (to_unit(scale[1], scale, rule) - to_unit(low, scale, rule)) * width_of(scale, rule) == pytest.approx(width)


def test_helpsteer_is_scaled_as_the_original_inverts_it():
    """METHODS 5.2: forward p = (r + 0.5) / 5, back 5 p - 0.5."""
    assert [to_unit(r, (0, 4), "bin_centre") for r in range(5)] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


# --- the tree ---


def pairs_with_rules(seed, num_pairs=600):
    rng = np.random.default_rng(seed)
    differences = rng.standard_normal((num_pairs, 3))
    chance = np.where(differences[:, 1] > 0.3, 0.9, np.where(differences[:, 0] > 0, 0.7, 0.2))
    return differences, (rng.random(num_pairs) < chance).astype(float)


def depth_of(node):
    return 0 if "probability" in node else 1 + max(depth_of(node["below"]), depth_of(node["above"]))


def leaves_of(node):
    return [node] if "probability" in node else leaves_of(node["below"]) + leaves_of(node["above"])


def test_the_rules_reproduce_scikit_learn():
    differences, label = pairs_with_rules(0)
    tree = fit_tree(differences, label, max_depth=3, min_rows=50)
    both = np.concatenate((differences, -differences)).astype(np.float32)
    theirs = DecisionTreeClassifier(criterion="log_loss", max_depth=3, min_samples_leaf=50, random_state=0)
    theirs.fit(both, np.concatenate((label, 1 - label)))
    assert leaf_probabilities(tree, both) == pytest.approx(theirs.predict_proba(both)[:, 1])
    assert 1 <= depth_of(tree) <= 3
    assert all(0 <= leaf["probability"] <= 1 for leaf in leaves_of(tree))


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_the_tree_is_antisymmetric_and_undecided_between_equals(difference):
    tree = fit_tree(*pairs_with_rules(1))
    d = np.array([difference])
    assert preference(tree, d) + preference(tree, -d) == pytest.approx(1)
    assert preference(tree, np.zeros((1, 3))) == pytest.approx(0.5)


@pytest.mark.parametrize("softened", [0.0, 0.1])
def test_a_pair_counts_the_same_whatever_its_label(softened):
    """In the size of leaves, and in what is printed: 200 pairs are 400 rows in both orders."""
    differences, label = pairs_with_rules(0, 200)
    label = np.clip(label, softened, 1 - softened)
    for max_depth in (3, 6):
        sizes = [leaf["rows"] for leaf in leaves_of(fit_tree(differences, label, max_depth, min_rows=40))]
        assert sum(sizes) == 400 and min(sizes) >= 40 and len(sizes) > 2
    assert leaves_of(fit_tree(differences, label, min_rows=201)) == [{"probability": 0.5, "rows": 400}]


def test_a_soft_label_counts_on_both_sides():
    """Every pair with 0.75: the one leaf of a tree without questions says 1/2 of both orders."""
    differences = np.array([[1.0], [1.0], [1.0], [1.0]])
    tree = fit_tree(differences, np.full(4, 0.75), min_rows=1)
    assert preference(tree, np.array([[1.0], [-1.0]])) == pytest.approx([0.75, 0.25])


def test_rules_are_read_in_the_units_of_the_rating():
    leaf = {"probability": 0.2, "rows": 10}
    tree = {"rating": 1, "threshold": -0.2, "below": leaf, "above": leaf | {"probability": 0.9}}
    assert rules_text(tree, ["a", "b"], [5, 10]).splitlines()[0] == "if b is not lower by 2 or more:"
