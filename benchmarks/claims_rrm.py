"""RRM: a model of augmented pairs keeps its accuracy where a planted artefact is flipped; a plain one follows it.

The world plants a marker word: one in ten chosen answers holds it in training and no rejected one. It says nothing
about quality. Both models see the same originals, equally often; one also sees the fourteen comparisons with answers to
other prompts (`rrm/`), half of them, and of these what the plain model does not already get right (METHODS 4.4). They
are judged on held-out pairs with the marker as in training, and on the same pairs with it on every rejected answer.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from claim import Claim, Numbers
from load_recipe import load_recipe
from tiny_training import judge_pairs, train_tiny_reward_model

from useful_code import metrics
from useful_code.known_truth.world import World, make_pairs, oracle_accuracy
from useful_code.read_rows import load_checked

FAMILIES = ("facts", "format", "safety")
WORLD = World(families=FAMILIES, marker_on_chosen=0.1)
FLIPPED = World(families=FAMILIES, marker_on_rejected=1.0)
NUM_TRAIN, NUM_HELD_OUT = 16_000, 3_000
AUGMENTED_SHARE, LEAST_GAP = 0.5, 0.2  # of the paper
EPOCHS, ORIGINALS_PER_STEP = 1.5, 8  # half the pairs, seen twice as often, learn the marker more than the rest
CLAIMS = [
    Claim("plain model, marker flipped: accuracy below chance", "plain_flipped", "<=", 0.5),
    Claim("RRM, marker flipped: share kept of its accuracy with the marker as trained", "rrm_kept", ">=", 0.9),
]


def measure(seed: int) -> Numbers:
    train = make_pairs(WORLD, NUM_TRAIN, seed=seed, part="train")
    held_out = {
        name: make_pairs(world, NUM_HELD_OUT, seed=seed, part="held_out")
        for name, world in (("as_trained", WORLD), ("flipped", FLIPPED))
    }
    plain = trained(train, seed)
    rows = augmented(train, seed)
    numbers = np.array([int(row["rrm_id"].split("/")[1]) for row in rows])
    new = np.flatnonzero(numbers > 0)
    gaps = np.full(len(rows), np.inf)
    truth = np.where(numbers[new] <= 8, 1.0, 0.5)
    gaps[new] = np.abs(judge_pairs(plain, [rows[i] for i in new]).probability - truth)
    kept = load_recipe("rrm/filter_pairs.py").is_kept(numbers, gaps, LEAST_GAP)
    robust = trained([row for row, keep in zip(rows, kept, strict=True) if keep], seed)
    found: Numbers = {
        "rows_augmented": float(len(new)),
        "rows_kept": float(kept.sum() - NUM_TRAIN),
        "oracle": oracle_accuracy(held_out["flipped"]),
    }
    for model, scorer in (("plain", plain), ("rrm", robust)):
        for name, pairs in held_out.items():
            found[f"{model}_{name}"] = metrics.pair_accuracy(judge_pairs(scorer, pairs).probability - 0.5)
        found[f"{model}_kept"] = found[f"{model}_flipped"] / found[f"{model}_as_trained"]
    return found


def trained(rows: list[dict], seed: int):
    """The scalar variant (METHODS 4.3): comparisons with a winner as they are, ties with a label of one half.

    Either model makes the same number of steps, and meets about `ORIGINALS_PER_STEP` originals in each.
    """
    batch_size = round(ORIGINALS_PER_STEP * len(rows) / NUM_TRAIN)
    training = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": batch_size}
    return train_tiny_reward_model(rows, seed, training, ties="soft")


def augmented(pairs: list[dict], seed: int) -> list[dict]:
    """Originals and comparisons, by the command's own function."""
    augment_pairs = load_recipe("rrm/augment_pairs.py")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "pairs.jsonl", Path(folder) / "augmented"
        lines = [json.dumps({side: row[side] for side in ("chosen", "rejected")}) + "\n" for row in pairs]
        source.write_text("".join(lines), encoding="utf-8")
        augment_pairs.augment(str(source), str(output), augment_pairs.Options(seed, AUGMENTED_SHARE))
        return load_checked(str(output))[0]
