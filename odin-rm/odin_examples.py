"""Rows and heads for the tests of this folder."""

import json
from pathlib import Path

import torch
from normalised_heads import NormalisedHeads
from torch import nn
from train_odin import Arguments, load_pairs

from useful_code.render import read_template
from useful_code.tiny import byte_tokenizer


def chat(*contents: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(folder: Path, rows: list[dict], style: str = "chatml", **method) -> list[dict]:
    path = write(folder / "rows.jsonl", rows)
    pairs, _ = load_pairs(str(path), None, read_template(byte_tokenizer(style)), Arguments(dataset="-", **method), None)
    return pairs


def heads(*rows: list[float]) -> NormalisedHeads:
    """Heads with these rows, quality first."""
    rows = torch.tensor(rows)
    module = nn.Linear(rows.shape[1], 1, bias=False)
    module.__class__ = NormalisedHeads
    module.weight = nn.Parameter(rows[:1].clone())
    module.nuisance_weight = nn.Parameter(rows[1:].clone())
    return module
