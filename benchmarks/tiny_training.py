"""Tiny models trained from scratch on the known-truth world, by the recipes' own trainers, losses and collators.

For the claims: a model of two layers that reads whole words and learns in minutes on one thread.

Shapes: N pairs, K labels.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load_recipe import load_recipe
from transformers import AutoModelForCausalLM

from useful_code.chat_pairs import prompt_of
from useful_code.known_truth.text import vocabulary
from useful_code.pair_probability import BothOrders
from useful_code.pair_prompt import LABELS, read_verdicts
from useful_code.pair_scoring import compared, comparison_group
from useful_code.read_rows import RowCounts
from useful_code.render import Template, read_template, render
from useful_code.reward_model import prepare_reward_model
from useful_code.scoring import Scorer, score_groups
from useful_code.tiny import tiny_config, tiny_reward_model, word_tokenizer
from useful_code.verdict_model import prepare_verdict_model

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "initializer_range": 0.1,  # with the usual 0.02 a model this small did not start to learn within minutes (seed 100)
}
TRAINING = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "warmup_steps": 0.02,
    "weight_decay": 0.01,
}
MAX_TOKENS_PER_BATCH = 4096
PAIR_WORDS = ["CONTEXT", "RESPONSE", "A", "B", "Same", "turn", "[", "]", "<", ">"]  # of the pairwise prompt


def tiny_template() -> Template:
    """Whole words of the world and of the pairwise prompt."""
    return read_template(word_tokenizer([*vocabulary(), *PAIR_WORDS]))


def train_tiny_reward_model(train: Sequence[dict], seed: int, training: dict | None = None, **method: Any) -> Scorer:
    """A Bradley-Terry model of pairs of the world, ready to score. `training` changes `TRAINING`."""
    recipe = load_recipe("bradley-terry-rm/train_bradley_terry.py")
    template = tiny_template()
    arguments = recipe.Arguments(dataset="-", **method)
    rows = loaded(train, lambda path: recipe.load_pairs(path, None, template, arguments, None))
    model = tiny_reward_model("llama", len(template.tokenizer), seed, **TINY)
    prepare_reward_model(model)
    train_model(recipe, recipe.BradleyTerryTrainer, model, rows, arguments, seed, training)
    return Scorer(model.eval(), template, 0, "", MAX_TOKENS_PER_BATCH)


def train_tiny_odin(train: Sequence[dict], seed: int, training: dict | None = None, **method: Any) -> Scorer:
    """The quality head of an ODIN model of pairs of the world, from the weights that Bradley-Terry starts with."""
    recipe = load_recipe("odin-rm/train_odin.py")
    heads, correlations, nuisances = (
        load_recipe(f"odin-rm/{name}.py") for name in ("normalised_heads", "batch_correlations", "nuisances")
    )
    template = tiny_template()
    arguments = recipe.Arguments(dataset="-", **method)
    rows = loaded(train, lambda path: recipe.load_pairs(path, None, template, arguments, None))
    model = tiny_reward_model("llama", len(template.tokenizer), seed, **TINY)
    prepare_reward_model(model)
    names = nuisances.head_names(arguments.further_heads)
    heads.add_nuisance_heads(model, len(names) - 1, seed)
    trainer_class = partial(recipe.OdinTrainer, moments=correlations.MomentsInCheckpoints(names))
    train_model(recipe, trainer_class, model, rows, arguments, seed, training)
    heads.keep_quality_head(model)
    return Scorer(model, template, 0, "", MAX_TOKENS_PER_BATCH)


def new_tiny_judge(seed: int, labels: Sequence[str] = LABELS) -> Scorer:
    """A pairwise model that has learnt nothing yet."""
    template = tiny_template()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config("llama", len(template.tokenizer), **TINY)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    prepare_verdict_model(model)
    return Scorer(model.eval(), template, 0, "", MAX_TOKENS_PER_BATCH, read_verdicts(template, labels))


def train_tiny_judge(scorer: Scorer, train: Sequence[dict], seed: int, training: dict | None = None) -> None:
    """Train a pairwise model on both orders of every pair, in place, by the recipe of pair-pm."""
    recipe = load_recipe("pair-pm/train_pair_pm.py")
    arguments = recipe.Arguments(dataset="-", orders="both", softmax_over="labels")
    rows = loaded(train, lambda path: recipe.load_pairs(path, None, scorer.template, scorer.verdicts, arguments, None))
    trainer_class = partial(recipe.PairTrainer, verdicts=scorer.verdicts)
    train_model(recipe, trainer_class, scorer.model, rows, arguments, seed, training)


def pair_rewards(scorer: Scorer, pairs: Sequence[dict]) -> np.ndarray:
    """Rewards of a scalar model (N, 2): chosen, rejected."""
    groups = [[render(scorer.template, pair[side]) for side in ("chosen", "rejected")] for pair in pairs]
    rewards = np.empty((len(pairs), 2))
    for indices, found in score_groups(scorer, groups):
        rewards[indices] = np.array(found)[..., 0]
    return rewards


def judge(scorer: Scorer, comparisons: Sequence[tuple[list, str, str]]) -> BothOrders:
    """P(first better) of (prompt, first, second), N of them, by either kind of model."""
    groups = [comparison_group(scorer, *comparison) for comparison in comparisons]
    numbers: list = [None] * len(groups)
    for indices, found in score_groups(scorer, groups):
        for index, row in zip(indices, found, strict=True):
            numbers[index] = row
    return compared(scorer, numbers)


def judge_pairs(scorer: Scorer, pairs: Sequence[dict]) -> BothOrders:
    """The same of chosen/rejected pairs: P(chosen better)."""
    return judge(
        scorer,
        [(prompt_of(pair), *(pair[side][-1]["content"] for side in ("chosen", "rejected"))) for pair in pairs],
    )


def loaded(rows: Sequence[dict], load: Callable[[str], tuple[list[dict], RowCounts]]) -> list[dict]:
    """The rows as the recipe itself reads them from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load(str(path))[0]


def train_model(
    recipe, trainer_class, model, rows: list[dict], arguments, seed: int, training: dict | None, collate=None
) -> None:
    """Train `model` in place by the recipe's own trainer; `collate` where its collator is not `collate_pairs`."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(
            method=arguments,
            model=model,
            args=recipe.TrainArguments(
                output_dir=folder,
                seed=seed,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **(TRAINING | (training or {})),
            ),
            train_dataset=rows,
            data_collator=partial(collate or recipe.collate_pairs, pad_token_id=None),
        )
        trainer.train()
        model.eval()
