"""A process or outcome reward model as a reward function of TRL's trainers (GRPO, RLOO).

    from math_reward import make_reward_function             # with this folder on the path, or a copy of it beside
    trainer = GRPOTrainer(model=..., reward_funcs=make_reward_function("runs/prm", aggregation="min"), ...)

A completion is cut into steps as `split_steps` does, all its steps are scored in one forward pass, and completions of
one prompt share it. The reward lies between 0 and 1. A completion without text, or one that is too long to be read
(for the model, or for `max_length_tokens`), gets 0, the worst.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from aggregation import aggregate
from transformers.integrations import is_deepspeed_zero3_enabled

from useful_code.reasons import RowRefused
from useful_code.split_steps import split_steps
from useful_code.step_scoring import StepScorer, load_solution_scorer, score_now
from useful_code.user_errors import UserError

Messages = Sequence[dict[str, str]]


def make_reward_function(
    reward_name_or_path: str,
    aggregation: str = "min",
    max_length_tokens: int | None = None,
    max_tokens_per_batch: int = 8192,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    reward_of: str | None = None,
    step_separator: str | None = None,
    chat_template_path: str | None = None,
    name: str | None = None,
) -> Callable[..., list[float]]:
    """A function of TRL's signature, (prompts, completions, **columns) -> rewards; both are texts or chats.

    `aggregation`: min, product, mean or last of the step scores (METHODS 7.6). `reward_of` ("steps" or "outcome"),
    `step_separator` and `chat_template_path` for a model whose config does not tell (`step_scoring.py`). `name`: under
    which TRL logs the rewards, so of several functions each needs its own; by default that of the directory and the
    aggregation, as prm_min.

    Raises UserError where the model cannot be loaded, and under ZeRO-3, which would cut its weights into pieces: make
    the function before the `GRPOConfig`, or serve the model in a process of its own.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError("ZeRO-3 is on: make the reward function before the trainer's config, which switches it on")
    scorer = load_solution_scorer(
        argparse.Namespace(
            reward_name_or_path=reward_name_or_path,
            dtype=dtype,
            max_tokens_per_batch=max_tokens_per_batch,
            chat_template_path=chat_template_path,
            trust_remote_code=trust_remote_code,
            reward_of=reward_of,
            step_separator=step_separator,
        ),
        PartialState(),
    )
    aggregate([0.5], aggregation)  # an unknown one is refused now, not after the first generation

    def solution_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        places_of: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            places_of.setdefault(text_of(prompt), []).append(place)
        rewards = [0.0] * len(completions)
        for prompt, places in places_of.items():
            found = rewards_of_prompt(
                scorer, prompt, [text_of(completions[place]) for place in places], aggregation, max_length_tokens
            )
            for place, reward in zip(places, found, strict=True):
                rewards[place] = reward
            scorer.places_of.clear()  # what a run of many days would pile up
        return rewards

    solution_reward.__name__ = name or f"{Path(os.path.abspath(reward_name_or_path)).name}_{aggregation}"
    return solution_reward


def rewards_of_prompt(
    scorer: StepScorer, prompt: str, texts: Sequence[str], aggregation: str, max_length_tokens: int | None
) -> list[float]:
    """The rewards of several completions of one prompt."""
    solutions, places = [], []
    for place, text in enumerate(texts):
        try:
            steps = split_steps(text)
            if steps:
                solutions.append(scorer.read(prompt, steps, max_length_tokens))
                places.append(place)
        except RowRefused:
            continue  # no reward for what cannot be read
    rewards = [0.0] * len(texts)
    for place, scores in zip(places, score_now(scorer, solutions), strict=True):
        rewards[place] = aggregate(scores, aggregation)
    return rewards


def text_of(prompt_or_completion: str | Messages) -> str:
    """The text itself, or of a chat the last message: the problem of a prompt, the solution of a completion."""
    if isinstance(prompt_or_completion, str):
        return prompt_or_completion
    return prompt_or_completion[-1]["content"] or ""
