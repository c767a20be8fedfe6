"""Why an answer scores as it does: what every rating counts for this prompt, and which ratings decided.

    python armo-rm/explain.py --reward_name_or_path runs/armo/model --input rows.jsonl --output runs/armo/why

Input: rows with a prompt and its responses, or pairs (useful_code/score.py). A score is a sum over the ratings:

    score = sum_k c_k r_k,   c = gating_output T^T          so that between two answers   sum_k c_k (r_k - r'_k) decides

Printed: the two best answers of every row, and the ratings that put one above the other. Written: explained.jsonl with
everything, and report.html with a picture for each of the first --pictures rows.

Shapes: S answers of a prompt, K objectives.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from explain_picture import decision_picture
from option_checks import check_options
from rating_scales import to_rating
from tqdm import tqdm

from useful_code.armorm import closing_places, is_armorm
from useful_code.atomic_write import write_atomically
from useful_code.processes import start_processes
from useful_code.read_rows import load_checked, report_counts
from useful_code.render import render_within
from useful_code.report import Picture, Table, table_text, write_report
from useful_code.response_rows import check_responses
from useful_code.scoring import Scorer, add_length_argument, add_model_arguments, load_reward_scorer, model_inputs
from useful_code.user_errors import UserError, exit_cleanly


def explain(scorer: Scorer, group: list) -> dict[str, Any]:
    """Of the answers of one prompt, token ids with the prompt: `scores` (S,), `coefficients` (K,), `rewards` (S, K)."""
    found: dict[tuple, tuple[float, np.ndarray]] = {}
    gate = np.zeros(0)
    with torch.inference_mode():
        for batch, members in model_inputs(scorer.model, scorer.pad_token_id, [group], scorer.max_tokens_per_batch):
            output = scorer.model(**batch)
            gate = output.gating_output[0].double().cpu().numpy()
            rewards = output.rewards.double().cpu().numpy()
            sequences = [sequence for _, sequences in members for sequence in sequences]
            found.update(zip(sequences, zip(output.score.tolist(), rewards, strict=True), strict=True))
    transform = scorer.model.reward_transform_matrix.detach().double().cpu().numpy()
    answers = [found[tuple(ids)] for ids in group]
    return {
        "scores": [score for score, _ in answers],
        "coefficients": transform @ gate,
        "rewards": np.stack([rewards for _, rewards in answers]),
    }


def decision_table(names: list[str], found: dict[str, Any], config: Any, num_rows: int) -> tuple[Table, str]:
    """The ratings that decide between the two best answers, the weightiest first, and the same in words."""
    best, second = np.argsort(-np.asarray(found["scores"]), kind="stable")[:2]
    shares = found["coefficients"] * (found["rewards"][best] - found["rewards"][second])  # (K,)
    order = np.argsort(-np.abs(shares), kind="stable")[:num_rows]
    difference = float(shares.sum())

    def in_words(k: int, answer: int) -> str:
        scales = getattr(config, "objective_scales", None)
        value = found["rewards"][answer][k]
        return f"{to_rating(value, tuple(scales[k]), config.objective_scaling) if scales else value:.2f}"

    table = Table(
        f"answer {best + 1} over answer {second + 1} by {difference:.3g}",
        ["rating", "counts", f"answer {best + 1}", f"answer {second + 1}", "adds"],
        [
            [
                names[k],
                f"{found['coefficients'][k]:+.3g}",
                in_words(k, best),
                in_words(k, second),
                f"{shares[k]:+.3g}",
            ]
            for k in order
        ],
    )
    gap = found["rewards"][best] - found["rewards"][second]
    speaking = [(f"{'higher' if gap[k] > 0 else 'lower'} {names[k]}", shares[k]) for k in order if shares[k]]
    for_it, against = ([name for name, share in speaking if (share > 0) == wanted][:3] for wanted in (True, False))
    words = f"Answer {best + 1} is above answer {second + 1} for its {', '.join(for_it) or 'nothing'}"
    words += f", in spite of its {', '.join(against)}." if against else "."
    return table, words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_length_argument(parser)
    parser.add_argument("--input", required=True, help="Rows to read: file, folder or hub data set.")
    parser.add_argument("--split", default=None, help="Split of a hub data set.")
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument("--num_ratings", type=int, default=8, help="Ratings shown of a row, the weightiest first.")
    parser.add_argument("--pictures", type=int, default=5, help="Rows that get a picture, from the first on.")
    arguments = parser.parse_args()
    check_options(arguments)
    state = start_processes()
    if state.num_processes > 1:
        raise UserError("explain.py runs in one process; start it with python")
    scorer, output = load_reward_scorer(arguments, state), Path(arguments.output)
    if not is_armorm(scorer.model.config):
        raise UserError(f"{arguments.reward_name_or_path} has one reward and no ratings: nothing to explain it with")
    config = scorer.model.config
    names = list(getattr(config, "objectives", None) or (f"rating {k}" for k in range(config.num_objectives)))

    def check(row: Any) -> dict[str, Any]:
        prompt, responses = check_responses(row, num_least=2)
        chats = [[*prompt, {"role": "assistant", "content": text}] for text in responses]
        ids = [render_within(scorer.template, chat, arguments.max_length) for chat in chats]
        closing_places(scorer.template, scorer.model.gating_tokens, chats, ids)  # refuses what would move the gate
        return {"row": row, "ids": ids}

    rows, counts = load_checked(arguments.input, check, output / "refused_rows.jsonl", arguments.split)
    lines, pictures = [], []
    for number, row in enumerate(tqdm(rows, desc="explaining", unit="row"), start=1):
        found = explain(scorer, row["ids"])
        table, words = decision_table(names, found, config, arguments.num_ratings)
        tqdm.write(f"\nrow {number}: {words}\n{table_text(table)}")
        if number <= arguments.pictures:
            figure = decision_picture(names, found, arguments.num_ratings)
            pictures.append(Picture(f"row-{number}", figure, f"Row {number}: {words}"))
        numbers = {name: np.asarray(value).tolist() for name, value in found.items()}
        lines.append(json.dumps({**row["row"], "objectives": names, **numbers, "why": words}, default=str))
    write_atomically(output / "explained.jsonl", "".join(line + "\n" for line in lines))
    lead = f"{arguments.reward_name_or_path} on {arguments.input}, the first {len(pictures)} of {len(lines):,} rows."
    write_report(output, title="Which ratings decided", lead=lead, figures=pictures, notes=[report_counts(counts)])
    print(f"\n{report_counts(counts)}\n{len(lines):,} rows explained: {output}/explained.jsonl, {output}/report.html")


if __name__ == "__main__":
    exit_cleanly(main)
