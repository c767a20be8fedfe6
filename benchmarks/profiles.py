"""The rows of the speed benchmarks: lognormal lengths around the means of a profile, or neighbours from a file."""

import argparse
import math
import random
from pathlib import Path

from useful_code.known_truth.text import CONTEXT
from useful_code.rewardbench_rows import load_rows
from useful_code.user_errors import UserError

PROFILES = {"200+100": (200, 100), "400+50": (400, 50)}
SEED = 0
SIGMA = 0.35  # of the logarithm of a length


def draw_length(rng: random.Random, mean: int) -> int:
    """A lognormal length in tokens with the given mean, at least 1."""
    return max(1, round(rng.lognormvariate(0, SIGMA) * mean / math.exp(SIGMA**2 / 2)))


def synthetic_rows(prompt_mean: int, response_mean: int, num_pairs: int, pairs_per_prompt: int = 1) -> list[dict]:
    """Pairs of plain English words, about one token each; lengths are lognormal with the given means."""
    rng = random.Random(SEED)
    words = sorted({word for sentence in CONTEXT for word in sentence.split()})

    def text(mean: int) -> str:
        return " ".join(rng.choice(words) for _ in range(draw_length(rng, mean)))

    rows: list[dict] = []
    for number in range(num_pairs):
        prompt = rows[-1]["prompt"] if number % pairs_per_prompt else text(prompt_mean)
        rows.append({"prompt": prompt, "chosen": text(response_mean), "rejected": text(response_mean)})
    return rows


def neighbouring_rows(rows: list[dict], num_pairs: int, pairs_per_batch: int) -> list[dict]:
    """Batches of neighbouring rows from random places, in the order of the file."""
    starts = range(0, len(rows) - pairs_per_batch + 1, pairs_per_batch)
    if num_pairs > len(starts) * pairs_per_batch:
        raise UserError(f"--num_pairs is {num_pairs}; the data set has {len(rows)} rows")
    chosen = sorted(random.Random(SEED).sample(starts, num_pairs // pairs_per_batch))
    return [row for start in chosen for row in rows[start : start + pairs_per_batch]]


def rows_asked_for(arguments: argparse.Namespace, pairs_per_prompt: int = 1) -> tuple[str, list[dict]]:
    """Name and rows of --data_set_name, else of --profile, enough for batches of --batch_size. Raises UserError."""
    if arguments.turns < 3:
        raise UserError("--turns must be at least 3: a median of fewer says little")
    if arguments.batch_size < 2 or arguments.batch_size % 2:
        raise UserError("--batch_size must be even: a batch holds both answers of each pair")
    if arguments.num_pairs < arguments.batch_size // 2:
        raise UserError("--num_pairs must fill at least one batch")
    if arguments.data_set_name:
        file, batch = arguments.data_set_name, arguments.batch_size // 2
        return Path(file).name, neighbouring_rows(load_rows(file), arguments.num_pairs, batch)
    rows = synthetic_rows(*PROFILES[arguments.profile], arguments.num_pairs, pairs_per_prompt)
    return arguments.profile, rows
