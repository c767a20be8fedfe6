"""Pairwise model: it learns a preference that runs in a circle, as no score can, and loses its position bias.

The world plants a cyclic taste: of answers that are equally good, kindly is preferred to boldly, boldly to calmly, and
calmly to kindly. A score can order the three styles in one line only, so it is wrong about one of the three pairings:
of these pairs a scalar model gets (1 + oracle) / 3 at most, where the oracle knows the taste and not the coin.
"""

import numpy as np
from claim import Claim, Numbers
from tiny_training import judge_pairs, train_tiny_judge, train_tiny_reward_model

from useful_code import metrics
from useful_code.known_truth.world import World, make_pairs, true_margin

WORLD = World(families=("format", "safety"), cycle_strength=2.0, equal_share=0.3)
NUM_TRAIN, NUM_HELD_OUT = 24_000, 3_000
CLAIMS = [
    Claim("pairs that the cyclic taste decides: pairwise less scalar accuracy", "cyclic_lead", ">=", 0.15),
    Claim("the same, as a share of what the taste itself reaches", "cyclic_share_of_oracle", ">=", 0.95),
    Claim("position bias before averaging", "position_bias", "<=", 0.05),
]


def measure(seed: int) -> Numbers:
    """Both models see the same pairs; compared where only the taste decides, and where only the utility does."""
    train = make_pairs(WORLD, NUM_TRAIN, seed=seed, part="train")
    held_out = make_pairs(WORLD, NUM_HELD_OUT, seed=seed, part="held_out")
    styles = np.array(
        [[row["truth"][f"{side}_attributes"]["style"] for side in ("chosen", "rejected")] for row in held_out]
    )
    same_utility = np.array([true_margin(row) == 0 for row in held_out])
    same_style = styles[:, 0] == styles[:, 1]
    lawful = np.array([row["truth"]["true_probability"] > 0.5 for row in held_out])
    cyclic, by_utility = same_utility & ~same_style, same_style & ~same_utility
    pairwise = judge_pairs(train_tiny_judge(train, seed), held_out)
    scalar = judge_pairs(train_tiny_reward_model(train, seed), held_out)
    right = {
        "pairwise": metrics.pair_outcomes(pairwise.probability - 0.5),
        "scalar": metrics.pair_outcomes(scalar.probability - 0.5),
    }
    oracle = float(lawful[cyclic].mean())
    return {
        "cyclic_pairwise": float(right["pairwise"][cyclic].mean()),
        "cyclic_scalar": float(right["scalar"][cyclic].mean()),
        "cyclic_oracle": oracle,
        "cyclic_ceiling_of_scalars": (1 + oracle) / 3,
        "cyclic_lead": float(right["pairwise"][cyclic].mean() - right["scalar"][cyclic].mean()),
        "cyclic_share_of_oracle": float(right["pairwise"][cyclic].mean()) / oracle,
        "utility_pairwise": float(right["pairwise"][by_utility].mean()),
        "utility_scalar": float(right["scalar"][by_utility].mean()),
        "utility_oracle": float(lawful[by_utility].mean()),
        **pairwise.summary(),
    }
