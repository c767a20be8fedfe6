"""ODIN on real preferences, on a CPU: AlpacaEval, whose judge likes length, against sets that punish it.

    RM_DATA_DIR=<folder with alpaca_eval/ llmbar/ rm_bench/ rewardbench_like/> python benchmarks/real_odin.py

Converts AlpacaEval's judgements, drops every prompt that also occurs in an evaluation set, samples by prompt up to the
token budget and holds prompts out. A plain Bradley-Terry model and ODIN's quality head are trained on the same rows,
with the same steps and learning rate, each by the command that users know. Both judge the held-out pairs, LLMBar's four
adversarial subsets and the hard comparisons of RM-Bench, and their scores are correlated with the length of the answer.
SmolLM2-135M. Further flags go to both recipes. Nothing of the data leaves `runs/` and `pairs/`.
"""

import json
import random
import time

import numpy as np
from load_recipe import ROOT
from machine import write_record
from real_judged import longer_wins, numbers_of, paired_lead, print_leads, print_table
from real_looks import prompts_of, sets_that_punish_looks
from real_rows import data_dir_of, run, sample_sources, sampling_parser, write_sets

from useful_code import metrics
from useful_code.chat_pairs import split_by_prompt
from useful_code.run_info import git_commit
from useful_code.training.record import response_lengths
from useful_code.user_errors import exit_cleanly

INPUTS = {"alpaca_eval": ["alpaca_eval/outputs.jsonl.gz", "alpaca_eval/preferences.jsonl.gz"]}
RECIPES = {
    "Bradley-Terry": ("bradley-terry-rm/train_bradley_terry.py", "bradley-terry-rm/smollm2-135m.yaml"),
    "ODIN": ("odin-rm/train_odin.py", "odin-rm/smollm2-135m.yaml"),
}
PAIRS_PER_PASS, PASSES_PER_STEP = 8, 4


def scores_of(model: str, rows_file: str, output: str) -> np.ndarray:
    """Rewards (N, 2) of chosen and rejected, by the command that users know."""
    run("useful_code/score.py", "--reward_name_or_path", model, "--input", rows_file, "--output", output)
    lines = [json.loads(line) for line in (ROOT / output).read_text(encoding="utf-8").splitlines()]
    return np.array([line["scores"] for line in lines])


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=200_000, max_length=512)
    parser.add_argument("--epochs", type=int, default=3, help="Of either training; the paper has three.")
    parser.add_argument("--rm_bench_rows", type=int, default=60, help="Rows of RM-Bench, drawn by the seed.")
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("alpaca_eval", "llmbar", "rm_bench", "rewardbench_like")
    started_at, commit = time.time(), git_commit()
    rng = random.Random(arguments.seed)
    judged = sets_that_punish_looks(data_dir, arguments.rm_bench_rows, rng)
    sample = sample_sources(INPUTS, data_dir, prompts_of(judged, data_dir), arguments, rng)
    train, judged["held out"] = split_by_prompt(sample, arguments.held_out_share, arguments.seed)
    folder = f"runs/real-odin-{arguments.seed}"
    files = write_sets(folder, {"train": train, **judged})

    training = (
        *("--model_name_or_path", arguments.model, "--dataset", files["train"], "--eval_dataset", files["held out"]),
        *("--per_device_train_batch_size", str(PAIRS_PER_PASS), "--gradient_accumulation_steps", str(PASSES_PER_STEP)),
        *("--num_train_epochs", str(arguments.epochs), "--seed", str(arguments.seed), "--save_strategy", "no"),
        *recipe_flags,
    )
    table: dict[str, dict] = {name: {} for name in judged}
    correlations: dict[str, dict] = {name: {} for name in judged}
    right: dict[str, dict] = {name: {} for name in judged}
    for kind, (script, config) in RECIPES.items():
        model = f"{folder}/{kind}"
        run(script, "--config", config, "--output_dir", model, *training)
        for name, rows in judged.items():
            scores = scores_of(model, files[name], f"{folder}/scores.jsonl")  # (N, 2)
            margins = scores[:, 0] - scores[:, 1]
            table[name][kind] = numbers_of(metrics.sigmoid(margins), rows)
            right[name][kind] = metrics.pair_outcomes(margins, tie_credit=0.5)
            lengths = response_lengths(rows)
            correlations[name][kind] = metrics.pearson_correlation(scores.flatten(), lengths.flatten())
    for name, rows in judged.items():
        table[name]["longer answer wins"] = numbers_of(longer_wins(rows), rows)
    leads = {
        f"{name}: ODIN less Bradley-Terry": paired_lead(right[name]["ODIN"], right[name]["Bradley-Terry"], rows)
        for name, rows in judged.items()
    }
    print_table(table)
    print_leads(leads)
    for name, of_kind in correlations.items():
        print(f"{name}: Pearson with characters", ", ".join(f"{kind} {value:.3f}" for kind, value in of_kind.items()))
    heads = json.loads((ROOT / folder / "ODIN" / "run.json").read_text(encoding="utf-8"))["heads"]
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "recipe_flags": recipe_flags,
        "training_pairs": len(train),
        "judged": table,
        "leads": leads,
        "pearson_with_characters": correlations,
        "heads_held_out": heads,
        "minutes": (time.time() - started_at) / 60,
    }
    write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
