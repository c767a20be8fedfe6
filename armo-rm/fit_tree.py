r"""A decision tree over differences of ratings: which answer is better, by rules that a person can read.

    python armo-rm/fit_tree.py --objectives runs/armo/objectives --embeddings embeddings/pairs --output runs/armo/tree

Beside the gate, or in its place (METHODS: RLHFlow's decision-tree reward model, January 2025): the ratings of both
answers, and at most --max_depth questions about their differences (preference_tree.py). Prints the rules and how often
they are right on held-out prompts.

Output: tree.json (the rules, names and scales of the ratings, held-out accuracy), run.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from option_checks import check_options
from pairs_rated import add_split_arguments, held_out_mask, load_rated_pairs, outcomes_of
from preference_tree import fit_tree, preference, rules_text
from rating_scales import width_of
from small_samples import few_prompts_warnings

from useful_code import metrics
from useful_code.atomic_write import write_atomically
from useful_code.run_info import write_run_info
from useful_code.user_errors import exit_cleanly


def main() -> None:
    started_at = time.time()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--objectives", required=True, help="Folder that fit_objectives.py wrote.")
    add("--embeddings", nargs="+", required=True, help="Folders of pairs (extract_embeddings.py), of the same decoder.")
    add("--output", required=True, help="Folder to write.")
    add("--max_depth", type=int, default=3, help="Questions at most.")
    add("--min_rows", type=int, default=50, help="Pairs of a leaf at least, both orders counted.")
    add_split_arguments(parser)
    arguments = parser.parse_args()
    check_options(arguments)
    record, _, rows, _, rewards = load_rated_pairs(arguments.objectives, arguments.embeddings)
    differences = (rewards[:, 0] - rewards[:, 1]).double().numpy()  # (N, K)
    label = np.array([row.get("label", 1.0) for row in rows])
    held_out = held_out_mask(rows, record, arguments.held_out_share, arguments.split_seed).numpy()

    tree = fit_tree(differences[~held_out], label[~held_out], arguments.max_depth, arguments.min_rows)
    outcomes = outcomes_of(preference(tree, differences[held_out]) - 0.5, label[held_out], tie_credit=0.5)
    prompts = [row["prompt"] for row, out in zip(rows, held_out, strict=True) if out]
    low, high = metrics.bootstrap_interval(outcomes, groups=prompts)
    objectives = record["objectives"]
    widths = [width_of(one["scale"], record["scaling"]) for one in objectives]
    description = {
        "ratings": [{key: one[key] for key in ("name", "scale")} for one in objectives],
        "scaling": record["scaling"],
        "rule": "P(first better) = (leaf(d) + 1 - leaf(-d)) / 2, d = ratings in [0, 1] of the first less the second",
        "tree": tree,
        "held_out": {"pairs": len(outcomes), "accuracy": float(outcomes.mean()), "interval": [low, high]},
    }
    output = Path(arguments.output)
    write_atomically(output / "tree.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    write_run_info(output, vars(arguments), started_at, held_out=description["held_out"])
    print(rules_text(tree, [one["name"] for one in objectives], widths))
    print(
        f"\n{len(outcomes):,} held-out pairs: right on {outcomes.mean():.3f} ({low:.3f}-{high:.3f}), a draw counts half"
    )
    print("".join(f"{line}\n" for line in few_prompts_warnings("accuracy", prompts)), end="")
    print(f"rules: {output / 'tree.json'}")


if __name__ == "__main__":
    exit_cleanly(main)
