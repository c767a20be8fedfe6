"""ODIN: its quality head does not follow length, where a plain model of the same pairs does, and knows as much.

The world labels half of the pairs by length: the longer answer wins, whatever the truth. In the others, and in the
held-out pairs, length says next to nothing. Both models start from the same weights and see the same pairs equally
often. Held-out pairs are judged by the true utility: "balanced" are as many whose better answer is the longer as whose
better answer is the shorter one, "reversed" the latter.
"""

import numpy as np
from claim import Claim, Numbers
from tiny_training import pair_rewards, train_tiny_odin, train_tiny_reward_model

from useful_code import metrics
from useful_code.known_truth.world import World, make_pairs, true_margin

FAMILIES = ("facts", "format", "safety")
WORLD = World(families=FAMILIES, length_bias=0.5)
UNBIASED = World(families=FAMILIES)
NUM_TRAIN, NUM_HELD_OUT = 48_000, 3_000
# Of three tried on seeds 100-104. With 24,000 pairs, 32 a step and three epochs the quality head did not always take
# off (right on 0.56 of the balanced pairs of seed 2); with 48,000 it did; 16 a step and two epochs were the steadiest.
TRAINING = {"per_device_train_batch_size": 16, "num_train_epochs": 2}
CLAIMS = [
    Claim("quality head: size of Pearson's correlation with length", "odin_pearson_size", "<=", 0.1),
    Claim("plain model: Pearson's correlation with length", "plain_pearson", ">=", 0.4),
    Claim("accuracy on length-balanced pairs: ODIN less plain", "lead_balanced", ">=", -0.01),
    Claim("accuracy where the better answer is shorter: ODIN less plain", "lead_reversed", ">=", 0.0),
]


def measure(seed: int) -> Numbers:
    train = make_pairs(WORLD, NUM_TRAIN, seed=seed, part="train")
    held_out = [row for row in make_pairs(UNBIASED, NUM_HELD_OUT, seed=seed, part="held_out") if true_margin(row)]
    lengths = np.array([words(row) for row in held_out])  # (N, 2) words, which are the tokens of these models
    turned = np.sign([true_margin(row) for row in held_out])  # -1 where the label is against the truth
    longer = turned * (lengths[:, 0] - lengths[:, 1])  # of the better answer
    right_is_longer, right_is_shorter = np.flatnonzero(longer > 0), np.flatnonzero(longer < 0)
    num_each = min(len(right_is_longer), len(right_is_shorter))
    balanced = np.concatenate((right_is_longer[:num_each], right_is_shorter[:num_each]))
    found: Numbers = {
        "longer_wins_in_training": float(np.mean([np.subtract(*words(row)) > 0 for row in train])),
        "pairs_balanced": float(len(balanced)),
    }
    for name, train_model in (("plain", train_tiny_reward_model), ("odin", train_tiny_odin)):
        rewards = pair_rewards(train_model(train, seed, TRAINING), held_out)  # (N, 2)
        margins = turned * (rewards[:, 0] - rewards[:, 1])
        found |= {
            f"{name}_pearson": metrics.pearson_correlation(rewards.flatten(), lengths.flatten()),
            f"{name}_balanced": metrics.pair_accuracy(margins[balanced]),
            f"{name}_reversed": metrics.pair_accuracy(margins[right_is_shorter]),
        }
    return found | {
        "odin_pearson_size": abs(found["odin_pearson"]),
        "lead_balanced": found["odin_balanced"] - found["plain_balanced"],
        "lead_reversed": found["odin_reversed"] - found["plain_reversed"],
    }


def words(row: dict) -> tuple[int, int]:
    """Of chosen and rejected."""
    return row["truth"]["chosen_attributes"]["num_words"], row["truth"]["rejected_attributes"]["num_words"]
