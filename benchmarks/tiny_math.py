"""Tiny process and outcome models trained from scratch on the known-truth world's arithmetic, by the recipes' own
trainers, losses and collators; see tiny_training.py."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from load_recipe import load_recipe
from tiny_training import MAX_TOKENS_PER_BATCH, TINY, loaded, train_model
from transformers import AutoModelForCausalLM

from useful_code.known_truth.text import vocabulary
from useful_code.render import read_template
from useful_code.step_prompt import SIGNS, verdict_form
from useful_code.step_scoring import StepScorer, ready_scorer, score_now
from useful_code.tiny import tiny_config, word_tokenizer
from useful_code.verdict_model import prepare_verdict_model


def train_tiny_process_model(train: Sequence[dict], seed: int, training: dict | None = None, **method: Any):
    """A process model of step rows, ready to score. `training` changes `tiny_training.TRAINING`."""
    recipe = load_recipe("math-rm/train_prm.py")
    scorer = new_tiny_scorer(seed, "steps")
    arguments = recipe.Arguments(dataset="-", **method)
    rows = loaded(train, lambda path: recipe.load_solutions(path, None, scorer.form, arguments, None))
    rows = [recipe.to_train_on(row) for row in rows]
    trainer_class = partial(recipe.ProcessTrainer, form=scorer.form)
    train_model(recipe, trainer_class, scorer.model, rows, arguments, seed, training, recipe.collate_solutions)
    return scorer


def train_tiny_outcome_model(train: Sequence[dict], seed: int, training: dict | None = None, **method: Any):
    """An outcome model of the same rows, from the same weights; it reads their `outcome` alone."""
    recipe = load_recipe("math-rm/train_orm.py")
    scorer = new_tiny_scorer(seed, "outcome")
    arguments = recipe.Arguments(dataset="-", **method)
    rows = loaded(train, lambda path: recipe.load_solutions(path, None, scorer.form, arguments, None))
    trainer_class = partial(recipe.OutcomeTrainer, token_ids=scorer.form.token_ids)
    collate = partial(recipe.collate_solutions, at_places=True)
    train_model(recipe, trainer_class, scorer.model, rows, arguments, seed, training, collate)
    return scorer


def new_tiny_scorer(seed: int, reward_of: str) -> StepScorer:
    """A model with verdicts that has learnt nothing yet."""
    tokenizer = word_tokenizer([*vocabulary(), *SIGNS])
    form = verdict_form(read_template(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config("llama", len(tokenizer), **TINY), dtype=torch.float32)
    prepare_verdict_model(model)
    return ready_scorer(model, tokenizer, form, reward_of, "-", MAX_TOKENS_PER_BATCH, torch.device("cpu"))


def step_scores(scorer: StepScorer, prompt: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
    """Probabilities of every step of these solutions, or of their answers."""
    return score_now(scorer, [scorer.read(prompt, steps) for steps in solutions])
