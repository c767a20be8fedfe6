"""A small instruction model as judge on RewardBench-shaped rows, on a CPU: what a judge that cannot judge looks like.

    RM_DATA_DIR=<folder with rewardbench_like/> python benchmarks/real_judge.py

SmolLM2-135M-Instruct judges the same rows by every question and way of reading that the command for judges knows:
pairs by the probabilities of the labels, pairs and ratings by written verdicts. Written ones take most of the time, so
they see fewer rows. Rows too long for the model's context are not drawn. Nothing of the data leaves `runs/`.
"""

import argparse
import json
import random
import time

from load_recipe import ROOT
from machine import write_record
from real_rows import REWARDBENCH_LIKE, data_dir_of, new_record, run, write_lines

from useful_code.rewardbench_rows import load_rows
from useful_code.run_info import git_commit
from useful_code.user_errors import exit_cleanly

WAYS = {  # name: task, verdict
    "pairs, probabilities of the labels": ("pairwise", "logits"),
    "pairs, written verdicts": ("pairwise", "generated"),
    "ratings, written verdicts": ("rating", "generated"),
}
SHOWN = ("accuracy", "accuracy_interval", "consistency", "first_position_share", "invalid_share", "longer_wins_share")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--judge", default="models/smollm2-135m", help="Directory of an instruction model.")
    add("--num_rows", type=int, default=120, help="Rows judged by probabilities, drawn by the seed.")
    add("--num_written", type=int, default=40, help="Of these, rows judged by written verdicts.")
    add("--max_new_tokens", type=int, default=128, help="Limit of a written verdict.")
    add("--max_characters", type=int, default=6_000, help="Of a prompt and both answers; longer rows are not drawn.")
    add("--seed", type=int, default=0, help="Of the rows.")
    add("--output", default=new_record(), help="JSON file to write: scores only, nothing of the data.")
    arguments = parser.parse_args()
    path = data_dir_of("rewardbench_like") / REWARDBENCH_LIKE
    started_at, commit = time.time(), git_commit()
    rows = load_rows(str(path))
    short = [
        row
        for row in rows
        if sum(len(row[key]) for key in ("prompt", "chosen", "rejected")) <= arguments.max_characters
    ]
    print(f"{len(rows):,} rows, {len(rows) - len(short):,} of them over {arguments.max_characters:,} characters")
    drawn = random.Random(arguments.seed).sample(short, min(arguments.num_rows, len(short)))

    folder = f"runs/real-judge-{arguments.seed}"
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (way, (task, verdict)) in enumerate(WAYS.items()):
        chosen = drawn if verdict == "logits" else drawn[: arguments.num_written]
        file = f"{folder}/rows-{number}.jsonl"
        write_lines(ROOT / file, chosen)
        asked = ("--task", task, "--verdict", verdict)
        if verdict == "generated":
            asked += ("--max_new_tokens", str(arguments.max_new_tokens))
        run(
            *("useful_code/eval_reward_bench_judge.py", "--judge", arguments.judge, "--data_set_name", file, *asked),
            *("--record_dir", f"{folder}/bench-{number}.txt", "--cache", f"{folder}/cache.sqlite"),
        )
        judging = json.loads((ROOT / f"{folder}/bench-{number}.json").read_text(encoding="utf-8"))["judging"]
        found[way] = {"rows": len(chosen), **{name: judging[name] for name in SHOWN}}
    print()
    for way, numbers in found.items():
        shares = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if isinstance(value, float))
        print(f"{way} ({numbers['rows']} rows): {shares}")
    results = {
        "judge": arguments.judge,
        "seed": arguments.seed,
        "rows_too_long": len(rows) - len(short),
        "ways": found,
        "minutes": (time.time() - started_at) / 60,
    }
    write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
