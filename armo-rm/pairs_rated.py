"""Pairs of answers with the ratings that the objectives give them, from folders of embeddings.

Shapes: N pairs, D hidden size, K objectives.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from embedding_files import read_parts
from safetensors.torch import load_file

from useful_code.user_errors import UserError, first_line


def load_objectives(directory: str) -> tuple[dict[str, Any], torch.Tensor]:
    """The record of fit_objectives.py and its weights (K, D). Raises UserError where there are none."""
    try:
        record = json.loads((Path(directory) / "objectives.json").read_text(encoding="utf-8"))
        return record, load_file(Path(directory) / "objectives.safetensors")["regression_layer.weight"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory} holds no objectives ({first_line(error)}); run armo-rm/fit_objectives.py"
        ) from error


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


def check_same_decoder(record: dict[str, Any], cards: Sequence[dict[str, Any]]) -> None:
    """Raise UserError where the objectives were fitted on another decoder than that of the cards."""
    for card in cards:
        if card["model"]["fingerprint"] != record["model"]["fingerprint"]:
            raise UserError(
                f"the objectives were fitted on embeddings of {record['model']['path']}, and those of {card['source']} "
                f"were made with {card['model']['path']}, or with other settings: both need one decoder"
            )
