"""Pairs of answers with the ratings that the objectives give them, from folders of embeddings.

Shapes: N pairs, D hidden size, K objectives.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from embedding_files import decoder_of, read_cards, read_parts
from stage_files import Stage, read_record, read_tensors

from useful_code import metrics
from useful_code.chat_pairs import is_held_out
from useful_code.user_errors import UserError

OBJECTIVES = Stage("objectives", "fit_objectives.py")
WEIGHTS = "regression_layer.weight"


def load_objectives(directory: str) -> tuple[dict[str, Any], torch.Tensor]:
    """The record of fit_objectives.py and its weights (K, D). Raises UserError where there are none."""
    names = ("objectives", "scaling", "model", "gating_tokens", "probe", "split")  # earlier versions wrote fewer
    record = read_record(Path(directory) / "objectives.json", names, OBJECTIVES)
    return record, read_tensors(Path(directory) / "objectives.safetensors", [WEIGHTS], OBJECTIVES)[WEIGHTS]


class RatedPairs(NamedTuple):
    record: dict[str, Any]  # of fit_objectives.py
    weights: torch.Tensor  # (K, D)
    rows: list[dict]  # N
    prompts: torch.Tensor  # (N, D)
    rewards: torch.Tensor  # (N, 2, K)


def load_rated_pairs(objectives: str, directories: list[str]) -> RatedPairs:
    """The objectives, and the pairs of the folders with what they give them. Raises UserError where the two were not
    made with one decoder."""
    record, weights = load_objectives(objectives)
    check_same_decoder(record, read_cards(directories, "pairs"))
    return RatedPairs(record, weights, *load_pairs(directories, weights))


def load_pairs(directories: list[str], weights: torch.Tensor) -> tuple[list[dict], torch.Tensor, torch.Tensor]:
    """Rows, prompt embeddings (N, D) and ratings of both answers (N, 2, K). The answers' embeddings are not kept."""
    rows, prompts, rewards = [], [], []
    for directory in directories:
        for part in read_parts(directory):
            if part.rows:
                rows += part.rows
                prompts.append(part.tensors["prompt"])
                rewards.append(part.tensors["response"] @ weights.T)
    return rows, torch.cat(prompts), torch.cat(rewards)


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--held_out_share", type=float, default=None, help="Share of the prompts to measure on. As the objectives'.")
    add("--split_seed", type=int, default=None, help="Of the split. Default: that of the objectives.")


def held_out_mask(rows: Sequence[dict], record: dict[str, Any], share: float | None, seed: int | None) -> torch.Tensor:
    """Which pairs (N,) are measured on: those whose prompts were held out when the objectives were fitted, or, by
    another share or seed, others. Raises UserError where all are, or none."""
    share = record["split"]["held_out_share"] if share is None else share
    if not 0 < share < 1:
        raise UserError(f"--held_out_share is {share}; it must lie between 0 and 1")
    seed = record["split"]["seed"] if seed is None else seed
    held_out = torch.tensor([is_held_out(row["prompt"], share, seed) for row in rows])
    if held_out.all() or not held_out.any():
        raise UserError(
            f"{len(rows):,} pairs leave no prompts to train on, or none to hold out; give more pairs, or another "
            "--split_seed where they are one part of a split by the same one"
        )
    return held_out


def outcomes_of(margins: np.ndarray, label: np.ndarray, tie_credit: float = 0.0) -> np.ndarray:
    """How far each pair (N,) is judged right: 1, 0, `tie_credit` of a draw, and 1/2 where the vote was split."""
    return np.where(label == 0.5, 0.5, metrics.pair_outcomes(margins, tie_credit=tie_credit))


def check_same_decoder(record: dict[str, Any], cards: Sequence[dict[str, Any]]) -> None:
    """Raise UserError where the objectives were fitted on another decoder than that of the cards."""
    for card in cards:
        if decoder_of(card) != decoder_of(record):
            raise UserError(
                f"the objectives were fitted on embeddings of {record['model']['path']}, and those of {card['source']} "
                f"were made with {card['model']['path']}, or with other settings: both need one decoder"
            )
