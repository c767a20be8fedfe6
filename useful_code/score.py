"""Score conversations with a reward model: prompts computed once, batches filled by tokens, longest first.

    python useful_code/score.py --reward_name_or_path models/my-rm --input rows.jsonl --output scores.jsonl
    accelerate launch --num_processes 8 useful_code/score.py ...      # the same on eight GPUs

Input rows: `{"prompt": text or messages, "responses": [text, ...]}`, or `{"chosen": messages, "rejected": messages}`.
Output: the same rows in the same order with `scores`, one number per response (a pair: chosen, rejected). Scores are
raw logits: only differences for one prompt mean anything. An interrupted run goes on where it stopped.
"""

import argparse
from array import array
from typing import Any

from useful_code.processes import leave_together, start_processes
from useful_code.read_rows import load_checked, report_counts
from useful_code.render import Template, render_within
from useful_code.response_rows import add_row_arguments, check_output, check_responses, write_rows
from useful_code.resumable_scoring import remove_parts, score_resumably
from useful_code.scoring import add_length_argument, add_model_arguments, load_reward_scorer
from useful_code.user_errors import exit_cleanly


def render_row(row: Any, template: Template, max_length: int | None) -> list[array]:
    """Token ids of each response with its prompt. Raises RowRefused for what cannot be scored."""
    prompt, responses = check_responses(row)
    conversations = [[*prompt, {"role": "assistant", "content": text}] for text in responses]
    return [render_within(template, conversation, max_length) for conversation in conversations]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_row_arguments(parser)
    add_length_argument(parser)
    arguments = parser.parse_args()
    state = start_processes()
    output, refused_path = check_output(arguments.output, arguments.input)
    scorer = load_reward_scorer(arguments, state)
    groups: list[list[array]] = []

    def check(row: Any) -> dict[str, Any]:
        groups.append(render_row(row, scorer.template, arguments.max_length))
        return row

    rows, counts = load_checked(
        arguments.input, check, refused_path if state.is_main_process else None, arguments.split
    )
    numbers = score_resumably(scorer, groups, output)  # one number per response
    if state.is_main_process:
        write_rows(output, rows, [{"scores": [score for (score,) in rewards]} for rewards in numbers])
        remove_parts(output)
        print(report_counts(counts))
        print(f"{len(rows):,} rows scored; written to {output}")
    leave_together()


if __name__ == "__main__":
    exit_cleanly(main)
