"""ArmoRM: the gate finds what matters in which kind of prompt, and the ratings do not follow verbosity.

A tiny Bradley-Terry model is trained where every attribute counts the same, verbosity too, and frozen; all else is
fitted on its embeddings. Answers are rated by three sources, each with some of five objectives on its own scale; raters
like long answers. Then come pairs in which one attribute counts four times any other, another one in every family, and
verbosity nothing; the two answers differ in several attributes, so that what counts must be known. Penalties are chosen
on rated answers of their own, as in the paper. Held-out pairs are judged by the true utility.

Raters' impressions are 0.7 of the attribute and 0.3 of the verbosity. Tried before: a sum, clipped where an answer was
good already (seed 100: debiasing gained 0.0007). And pairs of which most differ in one attribute, for a backbone that
had learnt of them: equal weights then do as well, since any weight above 0 orders such a pair (seeds 0 to 2, gate less
equal weights: -0.002, 0.006, 0.000). Seed 100 also showed that a scale of the gate that starts at 1 stays too small.

First reported run (commit 253a328): verbosity counted 0 for the backbone, and penalties were chosen on the training
pairs. The gate was right in 14 of 15 families, and one seed was over the bound of verbosity. Then, on seeds 100 to 103:
that backbone hardly knows verbosity (its rating has a Pearson correlation of 0.07 with the truth at seed 102, 0.28 at
100), so that even the largest penalty of the grid was too small at seed 102 (0.003 over the bound); the gate was wrong
in a family at seed 100. Penalties of a reference set, 40,000 rated answers: 0.003 over the bound as before. Twice the
ratings too: 0.008 below. Twice the pairs and twice the steps as well: all families right, the closest by 0.10 of the
weights. A backbone to which verbosity counts as all else (Pearson 0.65 and 0.86) needs none of that: seeds 102 and 100
are 0.026 and 0.028 below the bound, and all families are right, the closest by 0.22. It was chosen, with the reference
set. Bounds were not touched.
"""

import argparse
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from claim import Claim, Numbers
from load_recipe import load_recipe
from tiny_training import train_tiny_reward_model

from useful_code import metrics
from useful_code.armorm import gating_tokens
from useful_code.chat_pairs import is_held_out, prompt_key
from useful_code.known_truth.rated import OBJECTIVES, SCALES, make_rated
from useful_code.known_truth.world import ATTRIBUTES, WEIGHTS, World, make_pairs, true_margin
from useful_code.rated_rows import check_rated
from useful_code.render import render
from useful_code.scoring import Scorer

FAMILIES = ("facts", "format", "safety")
EQUAL = {family: dict.fromkeys(ATTRIBUTES, 4.0) for family in FAMILIES}
BACKBONE_WORLD = World(families=FAMILIES, weights=EQUAL)
WORLD = World(families=FAMILIES, one_change_share=0.0)
NUM_BACKBONE, NUM_RATED, NUM_TRAIN, NUM_REFERENCE = 60_000, 12_000, 12_000, 40_000
NUM_HELD_OUT, NUM_FRESH = 3_000, 20_000
GATE = {"learning_rate": 1e-3, "max_steps": 2000, "batch_size": 1024, "dropout": 0.2, "device": "cpu"}
HIDDEN_DIM, NUM_HIDDEN = 64, 3
VERBOSITY = OBJECTIVES.index("verbosity")
CLAIMS = [
    Claim("families in which the gate weighs the objective most that counts most", "families_right", ">=", 1.0),
    Claim("debiased ratings: largest Spearman with verbosity on fresh rows, over what is allowed", "excess", "<=", 0.0),
    Claim("accuracy: the gate less equal weights", "lead_over_uniform", ">=", 0.0),
    Claim("accuracy: the gate less the same without debiasing", "lead_over_no_debias", ">=", 0.0),
]

extract, fit, gating, ridge, debias = (
    load_recipe(f"armo-rm/{name}.py")
    for name in ("extract_embeddings", "fit_objectives", "train_gating", "ridge", "debias")
)


def measure(seed: int) -> Numbers:
    backbone = train_tiny_reward_model(make_pairs(BACKBONE_WORLD, NUM_BACKBONE, seed=seed, part="train"), seed)
    weights = fit_ratings(backbone, make_rated(WORLD, NUM_RATED, seed=seed, part="train"))  # (K, D)
    pairs = make_pairs(WORLD, NUM_TRAIN, seed=seed + 1000, part="train")
    held_out = [row for row in make_pairs(WORLD, NUM_HELD_OUT, seed=seed, part="held_out") if true_margin(row)]
    answers, prompts = embed_pairs(backbone, pairs)
    held_out_answers, held_out_prompts = embed_pairs(backbone, held_out)
    rewards, held_out_rewards = answers @ weights.T, held_out_answers @ weights.T  # (N, 2, K)

    reference = embed_rated(backbone, make_rated(WORLD, NUM_REFERENCE, seed=seed + 3000, part="train")) @ weights.T
    found = debias.penalties(reference.numpy(), VERBOSITY)  # of (N, K)
    transform = torch.from_numpy(debias.transform_matrix([penalty.size for penalty in found], VERBOSITY))
    turned = np.sign([true_margin(row) for row in held_out])  # -1 where the label is against the truth
    accuracy, outputs = {}, {}
    for name, kind, matrix in (
        ("gate", "prompt", transform),
        ("uniform", "uniform", transform),
        ("no_debias", "prompt", torch.eye(len(OBJECTIVES))),
    ):
        gate = gating.new_gate(kind, prompts.shape[1], len(OBJECTIVES), HIDDEN_DIM, NUM_HIDDEN, seed)
        options = argparse.Namespace(**GATE, seed=seed)
        gating.train_gate(gate, prompts, rewards, torch.ones(len(prompts)), matrix, options, progress=False)
        with torch.inference_mode():
            outputs[name] = gate.eval()(held_out_prompts)  # (N, K)
            scores = gating.gated_scores(outputs[name], held_out_rewards, matrix).numpy()
        accuracy[name] = metrics.pair_accuracy(turned * (scores[:, 0] - scores[:, 1]))

    fresh = embed_rated(backbone, make_rated(WORLD, NUM_FRESH, seed=seed + 2000, part="held_out")) @ weights.T  # (N, K)
    allowed = debias.THRESHOLD + 2 / NUM_FRESH**0.5  # and two standard errors
    before, after = (largest_spearman(ratings, fresh[:, VERBOSITY]) for ratings in (fresh, fresh @ transform))
    families = np.array([row["truth"]["family"] for row in held_out])
    return {
        **{f"accuracy_{name}": value for name, value in accuracy.items()},
        "lead_over_uniform": accuracy["gate"] - accuracy["uniform"],
        "lead_over_no_debias": accuracy["gate"] - accuracy["no_debias"],
        "largest_spearman_before": before,
        "largest_spearman": after,
        "excess": after - allowed,
        "families_right": float(np.mean([weighs_right(outputs["gate"][families == name], name) for name in FAMILIES])),
    }


def fit_ratings(backbone: Scorer, rated: Sequence[dict]) -> torch.Tensor:
    """Weights (K, D) of the five ratings, alpha by held-out prompts, as `fit_objectives.py` chooses it."""
    rows = [row for row in rated if any(rating is not None for rating in row["ratings"].values())]
    objectives = fit.Objectives(list(OBJECTIVES), [SCALES[name] for name in OBJECTIVES], list(range(len(OBJECTIVES))))
    ratings = objectives.ratings([check_rated(row) for row in rows], "bin_centre")  # (N, K)
    embeddings = embed_rated(backbone, rows).numpy()
    held_out = np.array([is_held_out(prompt_key(row["messages"][:-1]), 0.2, 42) for row in rows])
    grams = ridge.GramMatrices(embeddings.shape[1], objectives.classes)
    grams.add(embeddings[~held_out], ratings[~held_out])
    weights = grams.weights(fit.ALPHAS)  # (A, K, D)
    errors = ridge.SquaredErrors(weights)
    errors.add(embeddings[held_out], ratings[held_out])
    best = errors.means().argmin(0)  # (K,)
    return torch.from_numpy(weights[best, np.arange(len(OBJECTIVES))]).float()


def largest_spearman(ratings: torch.Tensor, verbosity: torch.Tensor) -> float:
    """Of the other objectives' ratings (N, K) with predicted verbosity (N,)."""
    others = [k for k in range(len(OBJECTIVES)) if k != VERBOSITY]
    return max(metrics.spearman_correlation(ratings[:, k].numpy(), verbosity.numpy()) for k in others)


def weighs_right(gating_output: torch.Tensor, family: str) -> bool:
    """Whether the largest mean weight of a family's prompts is that of the attribute that counts most in it.

    Verbosity's weight says nothing: its rating is 0 after debiasing.
    """
    mean = gating_output.mean(0)  # (K,)
    mean[VERBOSITY] = 0
    return OBJECTIVES[int(mean.argmax())] == max(WEIGHTS[family], key=WEIGHTS[family].__getitem__)


def embed_pairs(backbone: Scorer, pairs: Sequence[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, 2, D) of the answers and (N, D) of the prompts."""
    return embed(backbone, [[pair["chosen"], pair["rejected"]] for pair in pairs])


def embed_rated(backbone: Scorer, rows: Sequence[dict]) -> torch.Tensor:
    """Embeddings (N, D) of the answers."""
    return embed(backbone, [[row["messages"]] for row in rows])[0][:, 0]


def embed(backbone: Scorer, chats: Sequence[list]) -> tuple[torch.Tensor, torch.Tensor]:
    template, decoder = backbone.template, backbone.model.model
    decoder.shares_prefix = backbone.model.shares_prefix
    rows = [
        {"ids": [array("i", render(template, chat)) for chat in answers], "prompt": prompt_key(answers[0][:-1])}
        for answers in chats
    ]
    return extract.embed(decoder, gating_tokens(template), 0, rows, backbone.max_tokens_per_batch)
