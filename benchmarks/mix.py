"""Minutes and memory of a large mixture, with near-duplicates and evaluation prompts planted in known numbers.

    python benchmarks/mix.py                        # 1,000,000 generated rows in the shape of HH-RLHF
    python benchmarks/mix.py --rows 20000           # a quick look

The raw rows are converted and mixed by the user's own command; then its card is compared with what was planted.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from generated_rows import Planted, evaluation_prompts, hh_rows
from load_recipe import ROOT
from machine import peak_of_command, write_record

from useful_code.run_info import git_commit
from useful_code.user_errors import UserError, exit_cleanly

PER_1000 = Planted(exact=10, near=20, contaminated=2)
NUM_EVALUATION_PROMPTS = 2000
RECIPE = """
held_out_share: 0.01
max_pairs_per_prompt: 6
near_duplicate_threshold: 0.8
decontaminate: [{folder}/evaluation.jsonl]
sources:
  generated:
    source: hh_rlhf
    input: {folder}/raw.jsonl
"""


def measure(num_rows: int, num_proc: int, folder: Path) -> dict:
    planted: Counter[str] = Counter()
    with open(folder / "raw.jsonl", "w", encoding="utf-8") as file:
        for row, kind in hh_rows(num_rows, seed=2, shares=PER_1000):
            planted[kind] += 1
            file.write(json.dumps(row) + "\n")
    with open(folder / "evaluation.jsonl", "w", encoding="utf-8") as file:
        for prompt in evaluation_prompts(NUM_EVALUATION_PROMPTS):
            file.write(json.dumps({"prompt": prompt}) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    command = [sys.executable, str(ROOT / "useful_code" / "mix_datasets.py"), "--config", str(folder / "recipe.yaml")]
    seconds, peak = peak_of_command([*command, "--output", str(folder / "mix"), "--num_proc", str(num_proc)])
    card = json.loads((folder / "mix" / "card.json").read_text(encoding="utf-8"))
    converted = json.loads((folder / "mix-sources" / "generated" / "card.json").read_text(encoding="utf-8"))
    return {
        "rows": num_rows,
        "num_proc": num_proc,
        "input_gib": (folder / "raw.jsonl").stat().st_size / 2**30,
        "minutes": seconds / 60,
        "peak_mib": peak,
        "planted": dict(planted),
        "dropped": card["dropped"] | converted["dropped"],
        "rows_kept": card["rows_kept"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--output", help="Write the result to this JSON file too.")
    arguments = parser.parse_args()
    commit = git_commit()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.rows, arguments.num_proc, Path(folder))
    print(json.dumps(result, indent=1))
    print(
        f"{result['rows']:,} rows ({result['input_gib']:.2f} GiB): {result['minutes']:.1f} minutes, "
        f"peak {result['peak_mib']:.0f} MiB, {result['rows_kept']:,} pairs kept"
    )
    missed = result["planted"].get("contaminated", 0) - result["dropped"].get("in_evaluation_set", 0)
    if missed > 0:
        raise UserError(f"{missed} planted evaluation prompts were not found")
    if arguments.output:
        write_record(arguments.output, commit, [result])


if __name__ == "__main__":
    exit_cleanly(main)
