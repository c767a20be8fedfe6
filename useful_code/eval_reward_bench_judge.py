"""RewardBench score of an instruction model as judge, without training: pairs in both orders, or ratings.

    python useful_code/eval_reward_bench_judge.py --judge ./models/x --record_dir ./bench_mark_eval.txt
    python useful_code/eval_reward_bench_judge.py --endpoint http://localhost:8000/v1 --model x ...

`--record_dir` is a text file, one block appended per run; `<stem>.json` and `<stem>_outputs.jsonl` stand beside it, as
for a reward model. A tie and an invalid verdict count 0.5. Every reply is kept in `--cache`: an interrupted run goes on
where it stopped.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from useful_code.judging.items import Item
from useful_code.judging.judge_items import Settings, judge_items
from useful_code.judging.options import (
    add_judge_arguments,
    check_chats,
    description,
    load_judge,
    open_asker,
    settings_of,
)
from useful_code.judging.prompts import PROMPT_VERSION
from useful_code.judging.summary import format_summary, summarize
from useful_code.reasons import RowRefused
from useful_code.rewardbench import score_table
from useful_code.rewardbench_files import append_record, format_table, record_paths, write_outputs, write_results
from useful_code.rewardbench_rows import add_data_arguments, load_rows
from useful_code.run_info import git_commit
from useful_code.user_errors import UserError, exit_cleanly

TIE_CREDIT = 0.5  # the rule for judges; a reward model's tie counts 0


def item_of(row: dict) -> Item:
    """The chosen and the rejected answer of a row; an empty answer is judged like any other.

    >>> item_of({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}).responses
    ['4', '5']
    """
    return Item([{"role": "user", "content": row["prompt"]}], [row["chosen"], row["rejected"]], best=0)


def pair_scores(judged: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """A score of the chosen and of the rejected answer per row; equal where the verdict is a tie or invalid.

    >>> pair_scores([{"winners": [1], "scores": [3.0, 7.0]}, {"winners": [0, 1], "scores": [6.95, 7.0]}])
    ([3.0, 0.5], [7.0, 0.5])
    """
    pairs = [verdict["scores"] if len(verdict["winners"]) == 1 else (0.5, 0.5) for verdict in judged]
    return [chosen for chosen, _ in pairs], [rejected for _, rejected in pairs]


def notes_of(settings: Settings, summary: dict[str, Any]) -> list[str]:
    """What stands beside the score: how it was judged, and how far order and invalid verdicts had a part in it."""
    how = f"{settings.task}, {settings.verdict}"
    how += f", rule {settings.rule}" if settings.task == "pairwise" else ""
    notes = [f"judge: {how}; prompt version {PROMPT_VERSION}"]
    shares = [
        f"{text} {100 * summary[name]:.2f} %"
        for name, text in (
            ("consistency", "consistency"),
            ("first_position_share", "first-position share"),
            ("invalid_share", "invalid"),
            ("longer_wins_share", "longer answer wins"),
        )
        if summary[name] is not None
    ]
    return [*notes, ", ".join(shares)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    add_judge_arguments(parser, ("pairwise", "rating"))
    arguments = parser.parse_args()
    settings = settings_of(arguments)
    paths = record_paths(arguments.record_dir)
    rows = load_rows(arguments.data_set_name, arguments.split)
    judge = load_judge(arguments)
    items = [item_of(row) for row in rows]
    for number, (row, item) in enumerate(zip(rows, items, strict=True), start=1):
        try:
            check_chats(judge, item, settings)
        except RowRefused as refused:  # no row may be left out
            raise UserError(f"row {number} (id {row['id']}, {row['subset']}) cannot be judged: {refused}") from refused
    asker = open_asker(arguments, judge)
    try:
        judged = judge_items(asker, items, settings)
    finally:
        print(asker.cost.text())
    chosen_scores, rejected_scores = pair_scores(judged)
    table = score_table([row["subset"] for row in rows], chosen_scores, rejected_scores, tie_credit=TIE_CREDIT)
    summary = summarize(items, judged)
    table["notes"] += notes_of(settings, summary)
    table["judging"] = description(judge, settings) | summary
    commit = git_commit()
    write_outputs(paths.outputs, rows, chosen_scores, rejected_scores, tie_credit=TIE_CREDIT)
    write_results(
        paths.results,
        table,
        model=judge.name,
        model_type="Judge",
        chat_template=arguments.chat_template_path or ("endpoint" if arguments.endpoint else "tokenizer"),
        commit=commit,
    )
    append_record(paths.text, table, model=judge.name, commit=commit)
    print(format_table(table))
    print(format_summary(summary))
    print(f"\nwritten to {paths.text}, {paths.results} and {paths.outputs}")


if __name__ == "__main__":
    exit_cleanly(main)
