"""Real pairs for a benchmark: converted, without the prompts of the evaluation sets, sampled by prompt.

Nothing that is made from them is committed beyond scores.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from load_recipe import ROOT

from useful_code.chat_pairs import check_pair, prompt_key, prompt_of
from useful_code.converting.contamination import EvaluationPrompts
from useful_code.read_rows import load_checked
from useful_code.render import Template, read_template, render
from useful_code.reward_model import load_tokenizer
from useful_code.user_errors import UserError

REWARDBENCH_LIKE = "rewardbench_like/rewardbench_like.jsonl.gz"


def sampling_parser(
    description: str | None, max_tokens: int, max_length: int, held_out_share: float = 0.2
) -> argparse.ArgumentParser:
    """The options of every benchmark of real pairs, with its own defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="models/smollm2-135m", help="Directory of the model to start from.")
    add("--max_tokens", type=int, default=max_tokens, help="Tokens of all pairs, both sides in full.")
    add("--max_length", type=int, default=max_length, help="Tokens of a side; longer pairs are left out.")
    add("--held_out_share", type=float, default=held_out_share, help="Share of the prompts that are held out.")
    add("--seed", type=int, default=0, help="Of everything that is drawn: sample, splits, training.")
    add("--output", default=new_record(), help="JSON file to write: scores only, nothing of the data.")
    return parser


def new_record() -> str:
    """A JSON file below `runs/` named by script and time: hours of work are not lost to a forgotten --output."""
    return str(ROOT / "runs" / f"{Path(sys.argv[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}.json")


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


def sample_sources(
    inputs: dict[str, list[str]],
    data_dir: Path,
    evaluation: EvaluationPrompts,
    arguments: argparse.Namespace,
    rng: random.Random,
) -> list[dict]:
    """Pairs of every source (its files below `data_dir`), each with an equal part of `arguments.max_tokens`."""
    template = read_template(load_tokenizer(str(ROOT / arguments.model)))
    sampled = []
    for source, names in inputs.items():
        files = [data_dir / name for name in names]
        rows = load_pairs(source, files, template, evaluation, arguments.max_length)
        part = sample_by_prompt(rows, arguments.max_tokens // len(inputs), rng)
        print(f"  {len(part):,} sampled, {sum(row['tokens'] for row in part):,} tokens")
        sampled += part
    return sampled


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


def write_sets(folder: str, sets: dict[str, list[dict]]) -> dict[str, str]:
    """Write every set of pairs to a file of its name in `folder`, below the root; the names of the files."""
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    files = {name: f"{folder}/{name.replace(' ', '_')}.jsonl" for name in sets}
    for name, rows in sets.items():
        write_pairs(ROOT / files[name], rows)
    print(f"\n{', '.join(f'{len(rows):,} pairs {name}' for name, rows in sets.items())}")
    return files


def write_pairs(path: Path, rows: list[dict]) -> None:
    columns = ("chosen", "rejected", "source", "label", "tie")
    write_lines(path, [{key: row[key] for key in columns if key in row} for row in rows])


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
