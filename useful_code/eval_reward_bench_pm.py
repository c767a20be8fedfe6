"""RewardBench score of a pairwise preference model.

    CUDA_VISIBLE_DEVICES=1 python ./useful_code/eval_reward_bench_pm.py --reward_name_or_path ./models/x \\
        --record_dir ./bench_mark_eval.txt
    accelerate launch --num_processes 8 useful_code/eval_reward_bench_pm.py ...      # shared among eight GPUs

Each pair is judged in both orders, their context computed once; it counts when P(chosen better) is over one half, and
one half where it is exactly that. `--record_dir` is a text file, one block appended per run; `<stem>.json` and
`<stem>_outputs.jsonl` stand beside it. An interrupted run goes on where it stopped.
"""

import argparse

from useful_code.pair_prompt import pair_text
from useful_code.pair_scoring import compared, comparison_group
from useful_code.processes import leave_together, start_processes
from useful_code.reasons import RowRefused
from useful_code.resumable_scoring import remove_parts, score_resumably
from useful_code.rewardbench import score_table
from useful_code.rewardbench_files import append_record, format_table, record_paths, write_outputs, write_results
from useful_code.rewardbench_rows import add_data_arguments, load_rows
from useful_code.run_info import git_commit
from useful_code.scoring import Scorer, add_model_arguments, add_tie_argument, load_pair_scorer
from useful_code.user_errors import UserError, exit_cleanly

TIE_CREDIT = 0.5  # of a pair whose two orders cancel out: the rule of the original script


def render_row(scorer: Scorer, row: dict, number: int) -> list:
    """Token ids of both orders, chosen first and rejected first. Raises UserError: no row may be left out."""
    question = [{"role": "user", "content": row["prompt"]}]
    try:
        return comparison_group(scorer, question, row["chosen"], row["rejected"])
    except RowRefused as refused:
        raise UserError(f"row {number} (id {row['id']}, {row['subset']}) cannot be judged: {refused}") from refused


def texts_of(row: dict) -> list[str]:
    """The message of the user in both orders, chosen first and rejected first, for the record."""
    question = [{"role": "user", "content": row["prompt"]}]
    answers = [row["chosen"], row["rejected"]]
    return [pair_text(question, *order) for order in (answers, answers[::-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_tie_argument(parser)
    add_data_arguments(parser)
    arguments = parser.parse_args()
    paths = record_paths(arguments.record_dir)
    state = start_processes()
    rows = load_rows(arguments.data_set_name, arguments.split)
    scorer = load_pair_scorer(arguments, state)
    groups = [render_row(scorer, row, number) for number, row in enumerate(rows, start=1)]
    numbers = score_resumably(scorer, groups, paths.outputs)
    if state.is_main_process:
        both = compared(scorer, numbers)
        chosen, order = both.probability, both.summary()  # (N,)
        subsets = [row["subset"] for row in rows]
        table = score_table(subsets, chosen, 1 - chosen, tie_credit=TIE_CREDIT) | {"order": order}
        texts = [texts_of(row) for row in rows]
        name, commit = arguments.reward_name_or_path, git_commit()
        write_outputs(
            paths.outputs,
            rows,
            chosen,
            1 - chosen,
            text_chosen=[first for first, _ in texts],
            text_rejected=[second for _, second in texts],
            tie_credit=TIE_CREDIT,
        )
        write_results(
            paths.results,
            table,
            model=name,
            model_type="Pairwise preference model",
            chat_template=arguments.chat_template_path or "tokenizer",
            commit=commit,
        )
        append_record(paths.text, table, model=name, commit=commit)
        remove_parts(paths.outputs)
        print(format_table(table))
        print(f"Position bias {order['position_bias']:.3f}; the order decides {order['flip_rate']:.1%} of the pairs")
        print(f"\nwritten to {paths.text}, {paths.results} and {paths.outputs}")
    leave_together()


if __name__ == "__main__":
    exit_cleanly(main)
