"""RewardBench score of a scalar reward model (Bradley-Terry, or any one-label sequence classifier).

    CUDA_VISIBLE_DEVICES=1 python ./useful_code/eval_reward_bench_bt.py --reward_name_or_path ./models/x \\
        --record_dir ./bench_mark_eval.txt
    accelerate launch --num_processes 8 useful_code/eval_reward_bench_bt.py ...      # shared among eight GPUs

`--record_dir` is a text file, one block appended per run; `<stem>.json` and `<stem>_outputs.jsonl` stand beside it. A
pair counts only when chosen > rejected. Each prompt is computed once for both answers; an interrupted run goes on where
it stopped.
"""

import argparse

from useful_code.processes import leave_together, start_processes
from useful_code.reasons import RowRefused
from useful_code.render import Template, render
from useful_code.resumable_scoring import remove_parts, score_resumably
from useful_code.rewardbench import score_table
from useful_code.rewardbench_files import append_record, format_table, record_paths, write_outputs, write_results
from useful_code.rewardbench_rows import add_data_arguments, load_rows
from useful_code.run_info import git_commit
from useful_code.scoring import add_model_arguments, load_reward_scorer
from useful_code.user_errors import UserError, exit_cleanly


def conversations(row: dict) -> list[list[dict]]:
    """The chosen and the rejected conversation of a row. An empty answer is scored like any other."""
    question = {"role": "user", "content": row["prompt"]}
    return [[question, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")]


def render_row(template: Template, row: dict, number: int) -> list[list[int]]:
    """Token ids of the chosen and the rejected conversation. Raises UserError: no row may be left out."""
    try:
        return [render(template, conversation) for conversation in conversations(row)]
    except RowRefused as refused:
        raise UserError(f"row {number} (id {row['id']}, {row['subset']}) cannot be scored: {refused}") from refused


def text_of(template: Template, conversation: list[dict]) -> str:
    """The conversation as the model reads it, for the record."""
    return template.tokenizer.apply_chat_template(conversation, tokenize=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_data_arguments(parser)
    arguments = parser.parse_args()
    paths = record_paths(arguments.record_dir)
    state = start_processes()
    rows = load_rows(arguments.data_set_name, arguments.split)
    scorer = load_reward_scorer(arguments, state)
    groups = [render_row(scorer.template, row, number) for number, row in enumerate(rows, start=1)]
    numbers = score_resumably(scorer, groups, paths.outputs)
    if state.is_main_process:
        chosen_scores, rejected_scores = zip(*([score for (score,) in pair] for pair in numbers), strict=True)
        table = score_table([row["subset"] for row in rows], chosen_scores, rejected_scores)
        texts = [[text_of(scorer.template, conversation) for conversation in conversations(row)] for row in rows]
        name, commit = arguments.reward_name_or_path, git_commit()
        write_outputs(
            paths.outputs,
            rows,
            chosen_scores,
            rejected_scores,
            text_chosen=[chosen for chosen, _ in texts],
            text_rejected=[rejected for _, rejected in texts],
        )
        write_results(
            paths.results,
            table,
            model=name,
            model_type="Seq. Classifier",
            chat_template=arguments.chat_template_path or "tokenizer",
            commit=commit,
        )
        append_record(paths.text, table, model=name, commit=commit)
        remove_parts(paths.outputs)
        print(format_table(table))
        print(f"\nwritten to {paths.text}, {paths.results} and {paths.outputs}")
    leave_together()


if __name__ == "__main__":
    exit_cleanly(main)
