"""RRM on real preferences, on a CPU: AlpacaEval, whose judge likes length, against sets that punish looks.

    RM_DATA_DIR=<folder with alpaca_eval/ llmbar/ rm_bench/ rewardbench_like/> python benchmarks/real_rrm.py

Converts AlpacaEval's judgements, drops every prompt that also occurs in an evaluation set, samples by prompt up to the
token budget and holds prompts out. A plain pairwise model is trained on the pairs; they are augmented with answers to
other prompts, filtered by the plain model, and the robust model is trained on what stays: each step the command that
users know. Both judge the held-out pairs, LLMBar's four adversarial subsets (the better answer often looks worse) and
the hard comparisons of RM-Bench (a right answer in a plainer style than the wrong one's). SmolLM2-135M; both models
get the same number of optimizer steps. Nothing of the data leaves `runs/` and `pairs/`.
"""

import json
import random
import time

from load_recipe import ROOT
from machine import write_record
from real_judged import longer_wins, numbers_of, paired_lead, print_leads, print_table, probabilities
from real_looks import prompts_of, sets_that_punish_looks
from real_rows import data_dir_of, run, sample_sources, sampling_parser, write_sets

from useful_code import metrics
from useful_code.chat_pairs import split_by_prompt
from useful_code.run_info import git_commit
from useful_code.user_errors import exit_cleanly

INPUTS = {"alpaca_eval": ["alpaca_eval/outputs.jsonl.gz", "alpaca_eval/preferences.jsonl.gz"]}


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=200_000, max_length=512)
    parser.add_argument("--max_steps", type=int, default=100, help="Optimizer steps of either training, 8 pairs each.")
    parser.add_argument("--augmented_share", type=float, default=0.1, help="Of the comparisons with other prompts.")
    parser.add_argument("--rm_bench_rows", type=int, default=60, help="Rows of RM-Bench, drawn by the seed.")
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("alpaca_eval", "llmbar", "rm_bench", "rewardbench_like")
    started_at, commit = time.time(), git_commit()
    rng = random.Random(arguments.seed)

    judged = sets_that_punish_looks(data_dir, arguments.rm_bench_rows, rng)
    sample = sample_sources(INPUTS, data_dir, prompts_of(judged, data_dir), arguments, rng)
    train, judged["held out"] = split_by_prompt(sample, arguments.held_out_share, arguments.seed)
    folder = f"runs/real-rrm-{arguments.seed}"
    files = write_sets(folder, {"train": train, **judged})

    seed = ("--seed", str(arguments.seed))
    training = (
        *("--model_name_or_path", arguments.model, "--eval_dataset", files["held out"]),
        # No pair that one of the two takes is lost to the other: off topic, the two longest may meet.
        *("--max_length", str(3 * arguments.max_length), "--max_steps", str(arguments.max_steps), *seed, *recipe_flags),
    )
    plain, augmented, kept, robust = (f"{folder}/{name}" for name in ("plain", "augmented", "kept", "robust"))
    run(
        *("pair-pm/train_pair_pm.py", "--config", "pair-pm/smollm2-135m.yaml", "--orders", "drawn"),
        *("--dataset", files["train"], "--output_dir", plain, *training),
    )
    # A tenth of the comparisons: as many rows as the steps can read, and an hour less of scoring.
    drawn = ("--augmented_share", str(arguments.augmented_share), *seed)
    run("rrm/augment_pairs.py", "--dataset", files["train"], "--output", augmented, *drawn)
    run("rrm/filter_pairs.py", "--reward_name_or_path", plain, "--dataset", augmented, "--output", kept)
    run("rrm/train_rrm.py", "--config", "rrm/smollm2-135m.yaml", "--dataset", kept, "--output_dir", robust, *training)

    table, leads = {}, {}
    for name, rows in judged.items():
        sides = {
            kind: probabilities("pairwise", model, files[name], f"{folder}/scores.jsonl")
            for kind, model in (("plain", plain), ("RRM", robust))
        }
        sides["longer answer wins"] = longer_wins(rows)
        table[name] = {side: numbers_of(probability, rows) for side, probability in sides.items()}
        robust_right, plain_right = (
            metrics.pair_outcomes(sides[side] - 0.5, tie_credit=0.5) for side in ("RRM", "plain")
        )
        leads[f"{name}: RRM less plain"] = paired_lead(robust_right, plain_right, rows)
    print_table(table)
    print_leads(leads)
    card = json.loads((ROOT / kept / "card.json").read_text(encoding="utf-8"))
    results = {
        "seed": arguments.seed,
        "max_steps": arguments.max_steps,
        "augmented_share": arguments.augmented_share,
        "recipe_flags": recipe_flags,
        "training_pairs": len(train),
        "rows_of_rrm": card["counts"],
        "judged": table,
        "leads": leads,
        "minutes": (time.time() - started_at) / 60,
    }
    write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
