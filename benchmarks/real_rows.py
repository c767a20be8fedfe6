"""Real pairs for a benchmark: converted, without the prompts of the evaluation sets, sampled by prompt.

Nothing that is made from them is committed beyond scores.
"""

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from load_recipe import ROOT

from useful_code.chat_pairs import check_pair, prompt_key, prompt_of
from useful_code.converting.contamination import EvaluationPrompts
from useful_code.read_rows import load_checked
from useful_code.render import Template, render
from useful_code.user_errors import UserError


def data_dir_of(*sets: str) -> Path:
    """The folder of real data that the environment names; it holds `sets`. Raises UserError."""
    folder = Path(os.environ.get("RM_DATA_DIR", ""))
    missing = [name for name in sets if not (folder / name).is_dir()]
    if "RM_DATA_DIR" not in os.environ or missing:
        raise UserError(f"set RM_DATA_DIR to a folder that holds {', '.join(missing or sets)}")
    return folder


def run(*command: str) -> None:
    print(f"\n$ python {' '.join(command)}", flush=True)
    if subprocess.run([sys.executable, *command], cwd=ROOT).returncode != 0:
        raise UserError("the command above failed")


def sample_by_prompt(rows: list[dict], budget: int, rng: random.Random) -> list[dict]:
    """Whole prompts in random order until the next would pass `budget` tokens (both sides counted in full)."""
    by_prompt = defaultdict(list)
    for row in rows:
        by_prompt[prompt_key(prompt_of(row))].append(row)
    keys = sorted(by_prompt)
    rng.shuffle(keys)
    chosen, spent = [], 0
    for key in keys:
        cost = sum(row["tokens"] for row in by_prompt[key])
        if spent + cost <= budget:
            spent += cost
            chosen += by_prompt[key]
    return chosen


def convert(source: str, files: Sequence[Path], *flags: str) -> str:
    """The folder of the converted pairs, below the root."""
    pairs = f"pairs/real/{source}"
    inputs = [str(file) for file in files]
    run("useful_code/convert_dataset.py", "--source", source, "--input", *inputs, "--output", pairs, *flags)
    return pairs


def load_pairs(
    source: str, files: Sequence[Path], template: Template, evaluation: EvaluationPrompts, max_length: int
) -> list[dict]:
    """Converted pairs with their number of `tokens`, less those of the evaluation table and those over the limit."""
    pairs = convert(source, files)
    rows, _ = load_checked(ROOT / pairs, check_pair)
    found = evaluation.contaminating([prompt_of(row) for row in rows])
    fresh = [row for row, where in zip(rows, found, strict=True) if where is None]
    fitting = []
    for row in fresh:
        lengths = [len(render(template, row[side])) for side in ("chosen", "rejected")]
        row["tokens"] = sum(lengths)
        if max(lengths) <= max_length:
            fitting.append(row)
    print(f"{source}: {len(rows):,} pairs, {len(rows) - len(fresh):,} dropped (prompt in the evaluation table),")
    print(f"  {len(fresh) - len(fitting):,} over {max_length} tokens")
    return fitting


def write_pairs(path: Path, rows: list[dict]) -> None:
    columns = ("chosen", "rejected", "source", "label", "tie")
    lines = [json.dumps({key: row[key] for key in columns if key in row}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
