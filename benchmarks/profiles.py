"""Length profiles of the speed benchmarks: mean tokens of prompt and response, lengths lognormal around them."""

import math
import random

PROFILES = {"200+100": (200, 100), "400+50": (400, 50)}
SIGMA = 0.35  # of the logarithm of a length


def draw_length(rng: random.Random, mean: int) -> int:
    """A lognormal length in tokens with the given mean, at least 1."""
    return max(1, round(rng.lognormvariate(0, SIGMA) * mean / math.exp(SIGMA**2 / 2)))
