"""Options of the commands of this folder: in which range a number means anything. NaN is in none."""

import argparse
from math import inf
from pathlib import Path

from useful_code.user_errors import UserError

COUNTS = "batch_size gating_hidden_dim max_length max_steps max_tokens_per_batch min_rows num_ratings rows_per_part"
RANGES = {  # option: whether a value is in its range, and the range in words
    **dict.fromkeys(COUNTS.split(), (lambda value: value >= 1, "be at least 1")),
    **dict.fromkeys(("gating_n_hidden", "max_depth", "pictures"), (lambda value: value >= 0, "not be negative")),
    **dict.fromkeys(("alphas", "learning_rate"), (lambda value: 0 < value < inf, "be positive and finite")),
    "dropout": (lambda value: 0 <= value < 1, "be at least 0 and less than 1"),
    "held_out_share": (lambda value: 0 < value < 1, "lie between 0 and 1"),
    "threshold": (lambda value: -1 <= value <= 1, "be a correlation, from -1 to 1"),
}


def check_options(arguments: argparse.Namespace) -> None:
    """Raise UserError for a number that is out of its range, and for an --output that is a file."""
    for name, (is_inside, words) in RANGES.items():
        asked = getattr(arguments, name, None)
        for value in asked if isinstance(asked, list) else [asked]:
            if value is not None and not is_inside(value):
                raise UserError(f"--{name} is {value}; it must {words}")
    output = Path(arguments.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; give a folder")
