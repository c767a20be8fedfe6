"""Pairwise model: it learns a preference that runs in a circle, as no score can, and loses its position bias.

The two answers of a pair are equally good but for a taste: kindly is preferred to boldly, boldly to calmly, and calmly
to kindly. A score can order the three styles in one line only, so it is wrong about one of the three pairings: of these
pairs a scalar model gets (1 + oracle) / 3 at most, where the oracle knows the taste and not the coin. Tried and left
(seed 100): where half of the pairs are decided by their quality, a model this small learns that first and of the taste
nothing within 24,000 pairs.
"""

import numpy as np
from claim import Claim, Numbers
from tiny_training import judge_pairs, new_tiny_judge, train_tiny_judge, train_tiny_reward_model

from useful_code import metrics
from useful_code.known_truth.world import World, make_pairs

WORLD = World(cycle_strength=3.0, equal_share=1.0)
NUM_TRAIN, NUM_HELD_OUT = 32_000, 3_000
CLAIMS = [
    Claim("accuracy where a cyclic taste decides: pairwise less scalar", "lead", ">=", 0.2),
    Claim("the same, as a share of what the taste itself reaches", "share_of_oracle", ">=", 0.95),
    Claim("position bias before averaging", "position_bias", "<=", 0.05),
]


def measure(seed: int) -> Numbers:
    """Both models see the same pairs, and are compared where the two styles differ."""
    train = make_pairs(WORLD, NUM_TRAIN, seed=seed, part="train")
    held_out = [
        row for row in make_pairs(WORLD, NUM_HELD_OUT, seed=seed, part="held_out") if styles(row)[0] != styles(row)[1]
    ]
    judge = new_tiny_judge(seed)
    before = judge_pairs(judge, held_out).summary()
    train_tiny_judge(judge, train, seed)
    pairwise, scalar = judge_pairs(judge, held_out), judge_pairs(train_tiny_reward_model(train, seed), held_out)
    accuracy = {
        "pairwise": metrics.pair_accuracy(pairwise.probability - 0.5),
        "scalar": metrics.pair_accuracy(scalar.probability - 0.5),
    }
    oracle = float(np.mean([row["truth"]["true_probability"] > 0.5 for row in held_out]))
    return {
        **accuracy,
        "oracle": oracle,
        "ceiling_of_scalars": (1 + oracle) / 3,
        "lead": accuracy["pairwise"] - accuracy["scalar"],
        "share_of_oracle": accuracy["pairwise"] / oracle,
        "position_bias_before": before["position_bias"],
        **pairwise.summary(),
    }


def styles(row: dict) -> tuple[int, int]:
    """Of chosen and rejected."""
    return row["truth"]["chosen_attributes"]["style"], row["truth"]["rejected_attributes"]["style"]
