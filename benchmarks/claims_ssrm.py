"""SSRM: pairs that the model labels itself are worth much of what their true labels are worth.

Three models see the same pairs of the world: one a tenth of the labels, one all of them, and one the tenth and, round
by round, its own labels of the others (`ssrm/pseudo_label.py`'s rule). The labels that it does not get are turned into
an audit file before anything is trained.
"""

from claim import Claim, Numbers
from load_recipe import load_recipe
from tiny_training import judge, judge_pairs, train_tiny_reward_model

from useful_code import metrics
from useful_code.known_truth.world import World, hide_labels, make_pairs, oracle_accuracy

WORLD = World(families=("facts", "format", "safety"), label_noise=0.05)
NUM_LABELLED, NUM_UNLABELLED, NUM_HELD_OUT = 1_200, 10_800, 4_000
ROUNDS, THRESHOLD = 3, 0.95
# Pairs shown in a training: fewer are seen more often, but over ten times harms (seed 100).
PRESENTATIONS, MAX_EPOCHS = 24_000, 10
CLAIMS = [
    Claim("gap between a tenth and all of the labels, in accuracy", "gap", ">=", 0.05),
    Claim("share of that gap that self-training closes", "share_of_gap_closed", ">=", 0.5),
]


def measure(seed: int) -> Numbers:
    pseudo_label = load_recipe("ssrm/pseudo_label.py")
    pairs = make_pairs(WORLD, NUM_LABELLED + NUM_UNLABELLED, seed=seed, part="train")
    held_out = make_pairs(WORLD, NUM_HELD_OUT, seed=seed, part="held_out")
    labelled, others = pairs[:NUM_LABELLED], pairs[NUM_LABELLED:]
    unlabelled, audit = hide_labels(others, seed)
    comparisons = [(row["prompt"], *row["responses"]) for row in unlabelled]

    def trained(rows: list[dict]):
        return train_tiny_reward_model(rows, seed, {"num_train_epochs": min(MAX_EPOCHS, PRESENTATIONS / len(rows))})

    def accuracy(scorer) -> float:
        return metrics.pair_accuracy(judge_pairs(scorer, held_out).probability - 0.5)

    model = trained(labelled)
    numbers = {"tenth": accuracy(model), "all": accuracy(trained(pairs)), "oracle": oracle_accuracy(held_out)}
    for number in range(1, ROUNDS + 1):
        probabilities = judge(model, comparisons).probability
        choices = [pseudo_label.choose(float(p), THRESHOLD) for p in probabilities]
        kept = [i for i, choice in enumerate(choices) if choice.kept]
        right = [choices[i].winner == audit[i]["winner"] for i in kept]
        pseudo = [pseudo_label.pseudo_labelled(unlabelled[i], choices[i], soft=False) for i in kept]
        model = trained([*labelled, *pseudo])
        numbers |= {
            f"kept_share_{number}": len(kept) / len(choices),
            f"kept_labels_right_{number}": sum(right) / max(1, len(right)),
            f"round_{number}": accuracy(model),
        }
    gap = numbers["all"] - numbers["tenth"]
    closed = (numbers[f"round_{ROUNDS}"] - numbers["tenth"]) / gap if gap else 0.0
    return numbers | {"gap": gap, "share_of_gap_closed": closed}
