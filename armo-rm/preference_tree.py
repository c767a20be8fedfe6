"""A few thresholds on differences of ratings that say which answer is better, as rules in JSON. RLHFlow, January 2025.

    P(first better) = 1/2 [leaf(d) + 1 - leaf(-d)],   d = ratings of the first answer less those of the second

which makes it antisymmetric: P(a, b) + P(b, a) = 1, and 1/2 where the ratings are equal. A node is

    {"rating": 3, "threshold": 0.12, "below": node, "above": node}     below: d <= threshold
    {"probability": 0.81, "rows": 120}                                a leaf

No pickle, and no scikit-learn to read it.

Shapes: N pairs, K ratings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.tree import DecisionTreeClassifier

Node = Mapping[str, Any]


def fit_tree(
    differences: np.ndarray,  # (N, K) first less second
    label: np.ndarray,  # (N,) probability that the first is better
    max_depth: int = 3,
    min_rows: float = 50,  # of a leaf; a pair counts 1 in either order, whatever its label
) -> Node:
    """Greedy splits by log-loss (entropy), on every pair in both orders."""
    # Thresholds of a float32 comparison in scikit-learn shall be those of the rules.
    both = np.concatenate((differences, -differences)).astype(np.float32)
    chances = np.concatenate((label, 1 - label))
    rows, outcomes = np.concatenate((both, both)), np.repeat((1, 0), len(both))
    weights = np.concatenate((chances, 1 - chances))
    used = weights > 0
    share = min_rows / weights.sum()  # a soft label is two rows of less weight
    if share > 0.5:
        return {"probability": 0.5, "rows": round(float(weights.sum()))}
    tree = DecisionTreeClassifier(
        criterion="log_loss", max_depth=max_depth, min_weight_fraction_leaf=share, random_state=0
    )
    tree.fit(rows[used], outcomes[used], sample_weight=weights[used])
    return _as_rules(tree, 0)


def leaf_probabilities(tree: Node, differences: np.ndarray) -> np.ndarray:
    """What the leaves say (N,), before it is made antisymmetric."""
    if "probability" in tree:
        return np.full(len(differences), tree["probability"])
    below = differences[:, tree["rating"]].astype(np.float32).astype(np.float64) <= tree["threshold"]
    return np.where(
        below, leaf_probabilities(tree["below"], differences), leaf_probabilities(tree["above"], differences)
    )


def preference(tree: Node, differences: np.ndarray) -> np.ndarray:
    """P(first better) (N,) of ratings of the first less those of the second (N, K)."""
    return (leaf_probabilities(tree, differences) + 1 - leaf_probabilities(tree, -differences)) / 2


def rules_text(tree: Node, names: Sequence[str], widths: Sequence[float], indent: str = "") -> str:
    """The rules for a person, thresholds in the units of the ratings.

    Args:
        names: (K,) of the ratings.
        widths: (K,) units of a rating's own scale in 1.

    >>> leaf = {"probability": 0.2, "rows": 10}
    >>> tree = {"rating": 0, "threshold": 0.1, "below": leaf, "above": leaf | {"probability": 0.9}}
    >>> print(rules_text(tree, ["correctness"], [5.0]))
    if correctness is higher by more than 0.5:
        better with 0.90  (10 rows)
    else:
        better with 0.20  (10 rows)
    """
    if "probability" in tree:
        return f"{indent}better with {tree['probability']:.2f}  ({tree['rows']:,} rows)"
    name, threshold = names[tree["rating"]], tree["threshold"] * widths[tree["rating"]]
    if threshold >= 0:
        condition = f"{name} is higher by more than {threshold:.2g}"
    else:
        condition = f"{name} is not lower by {-threshold:.2g} or more"
    return "\n".join(
        [
            f"{indent}if {condition}:",
            rules_text(tree["above"], names, widths, indent + "    "),
            f"{indent}else:",
            rules_text(tree["below"], names, widths, indent + "    "),
        ]
    )


def _as_rules(fitted: DecisionTreeClassifier, node: int) -> Node:
    tree = fitted.tree_
    if tree.children_left[node] == -1:
        shares = tree.value[node][0]
        return {
            "probability": float(shares[list(fitted.classes_).index(1)] / shares.sum()),
            "rows": round(float(tree.weighted_n_node_samples[node])),
        }
    return {
        "rating": int(tree.feature[node]),
        "threshold": float(tree.threshold[node]),
        "below": _as_rules(fitted, tree.children_left[node]),
        "above": _as_rules(fitted, tree.children_right[node]),
    }
