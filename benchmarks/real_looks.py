"""Real comparisons whose better answer looks worse: LLMBar's adversarial subsets, and the hard ones of RM-Bench."""

import random
from pathlib import Path

from load_recipe import ROOT
from real_rows import REWARDBENCH_LIKE, convert

from useful_code.chat_pairs import check_pair
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.read_rows import load_checked, read_rows

LLMBAR, RM_BENCH = "llmbar/llmbar.jsonl.gz", "rm_bench/rm_bench.jsonl.gz"


def sets_that_punish_looks(data_dir: Path, rm_bench_rows: int, rng: random.Random) -> dict[str, list[dict]]:
    """Pairs by the name of their set; of RM-Bench as many rows, three comparisons each."""
    llmbar = load_checked(ROOT / convert("llmbar", [data_dir / LLMBAR]), check_pair)[0]
    return {
        "LLMBar adversarial": [row for row in llmbar if "Adversarial" in row["subset"]],
        "RM-Bench hard": hard_of_rm_bench(data_dir / RM_BENCH, rm_bench_rows, rng),
    }


def prompts_of(judged: dict[str, list[dict]], data_dir: Path) -> EvaluationPrompts:
    """What no training pair may ask: the questions of these sets (one each), and of the RewardBench-shaped table."""
    prompts = read_evaluation_prompts(str(data_dir / REWARDBENCH_LIKE))
    prompts += [(name, row["chosen"][0]["content"]) for name, rows in judged.items() for row in rows]
    return EvaluationPrompts(prompts)


def hard_of_rm_bench(path: Path, num_rows: int, rng: random.Random) -> list[dict]:
    """Right answers over wrong ones in a richer style (of concise, detailed, detailed in Markdown), three a row."""
    rows = [read.row for read in read_rows(path)]
    pairs = []
    for row in rng.sample(rows, min(num_rows, len(rows))):
        question = {"role": "user", "content": row["prompt"]}
        for plain, rich in ((0, 1), (0, 2), (1, 2)):
            answers = {"chosen": row["chosen"][plain], "rejected": row["rejected"][rich]}
            pairs.append({side: [question, {"role": "assistant", "content": text}] for side, text in answers.items()})
    return pairs
