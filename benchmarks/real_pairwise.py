"""The pairwise model beside Bradley-Terry on real preferences, on a CPU: SmolLM2-135M, RMB and AlpacaEval.

    RM_DATA_DIR=<folder with rmb/ alpaca_eval/ auto_j/ pandalm/ rewardbench_like/> python benchmarks/real_pairwise.py

Converts both sets, drops every prompt that also occurs in an evaluation set, samples by prompt up to the token budget,
holds prompts out, and trains both models with the recipes' own commands on the same rows. Both then judge the same
rows, by the commands that users know: the held-out pairs, Auto-J and PandaLM (people's judgements, with ties) and a
sample of the RewardBench-shaped table. Learning rate and layers are chosen with `--tune`, which holds out a part of
the training prompts and leaves everything that is reported alone. Nothing of the data leaves `runs/` and `pairs/`.
"""

import argparse
import json
import random
import time
from pathlib import Path

from load_recipe import ROOT
from machine import write_record
from real_judged import longer_wins, numbers_of, print_table, probabilities
from real_rows import (
    REWARDBENCH_LIKE,
    convert,
    data_dir_of,
    run,
    sample_sources,
    sampling_parser,
    write_lines,
    write_sets,
)

from useful_code.chat_pairs import check_pair, preferred_first, split_by_prompt
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.read_rows import load_checked
from useful_code.rewardbench_rows import load_rows
from useful_code.run_info import git_commit
from useful_code.user_errors import exit_cleanly

INPUTS = {
    "rmb": ["rmb/pairwise.jsonl.gz"],
    "alpaca_eval": ["alpaca_eval/outputs.jsonl.gz", "alpaca_eval/preferences.jsonl.gz"],
}
JUDGED = {"auto_j": ["auto_j/testdata_pairwise.jsonl.gz"], "pandalm": ["pandalm/testset_v1.jsonl.gz"]}
RECIPES = {
    "pairwise": ("pair-pm/train_pair_pm.py", "pair-pm/smollm2-135m.yaml"),
    "Bradley-Terry": ("bradley-terry-rm/train_bradley_terry.py", "bradley-terry-rm/smollm2-135m.yaml"),
}


def prepare(arguments: argparse.Namespace, data_dir: Path) -> tuple[list[dict], dict[str, list[dict]]]:
    """Rows to train on, and the rows to be judged by name, of which no prompt is trained on."""
    folders = {
        name: convert(name, [data_dir / file for file in files], "--keep_ties") for name, files in JUDGED.items()
    }
    prompts = read_evaluation_prompts(str(data_dir / REWARDBENCH_LIKE))
    prompts += [prompt for folder in folders.values() for prompt in read_evaluation_prompts(str(ROOT / folder))]
    evaluation = EvaluationPrompts(prompts)
    rng = random.Random(arguments.seed)
    sampled = sample_sources(INPUTS, data_dir, evaluation, arguments, rng)
    train, held_out = split_by_prompt(sampled, arguments.held_out_share, arguments.seed)
    if arguments.tune:
        train, held_out = split_by_prompt(train, arguments.held_out_share, arguments.seed + 1)
        return train, {"held out": held_out}
    judged = {"held out": held_out}
    for name, folder in folders.items():
        rows = [preferred_first(row) for row in load_checked(ROOT / folder, check_pair)[0]]
        judged[name] = rng.sample(rows, min(arguments.eval_rows, len(rows)))
    return train, judged


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=600_000, max_length=768)
    parser.add_argument("--eval_rows", type=int, default=400, help="Of each evaluation set, drawn by the seed.")
    parser.add_argument("--tune", action="store_true", help="Hold out training prompts in place of what is reported.")
    parser.add_argument("--only", choices=RECIPES, default=None, help="Train one of the two.")
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("rmb", "alpaca_eval", "auto_j", "pandalm", "rewardbench_like")
    started_at, commit = time.time(), git_commit()
    train, judged = prepare(arguments, data_dir)
    folder = f"runs/real-pairwise-{'tune' if arguments.tune else arguments.seed}"
    files = write_sets(folder, {"train": train, **judged})
    bench = f"{folder}/bench.jsonl"
    bench_rows = load_rows(str(data_dir / REWARDBENCH_LIKE))
    bench_rows = random.Random(arguments.seed).sample(bench_rows, min(arguments.eval_rows, len(bench_rows)))
    write_lines(ROOT / bench, bench_rows)

    table: dict[str, dict[str, dict]] = {name: {} for name in judged}
    scores, minutes = {}, {}
    for kind, (script, config) in RECIPES.items():
        if arguments.only not in (None, kind):
            continue
        model = f"{folder}/{kind}"
        run(
            *(script, "--config", config, "--model_name_or_path", arguments.model),
            *("--max_length", str(2 * arguments.max_length)),  # no pair that one of the two takes is lost to the other
            *("--dataset", files["train"], "--eval_dataset", files["held out"]),
            *("--output_dir", model, "--seed", str(arguments.seed), *recipe_flags),
        )
        minutes[kind] = json.loads((ROOT / model / "run.json").read_text(encoding="utf-8"))["minutes"]
        for name, rows in judged.items():
            scores_file = f"{model}/{name}.scores.jsonl"
            table[name][kind] = numbers_of(probabilities(kind, model, files[name], scores_file), rows)
        if not arguments.tune:
            script = f"useful_code/eval_reward_bench_{'pm' if kind == 'pairwise' else 'bt'}.py"
            run(script, "--reward_name_or_path", model, "--record_dir", f"{model}/bench.txt", "--data_set_name", bench)
            record = json.loads((ROOT / model / "bench.json").read_text(encoding="utf-8"))
            scores[kind] = {key: record[key] for key in ("score", "sections", "prior", "scoring_version", "rows")}
    for name, rows in judged.items():
        table[name]["longer answer wins"] = numbers_of(longer_wins(rows), rows)
    print_table(table)
    results = {
        "seed": arguments.seed,
        "recipe_flags": recipe_flags,
        "training_pairs": len(train),
        "judged": table,
        "rewardbench_like_sample": scores,
        "minutes": {"training": minutes, "all": (time.time() - started_at) / 60},
    }
    write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
