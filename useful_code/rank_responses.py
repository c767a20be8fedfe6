"""Rank the responses to each prompt with a pairwise preference model: a full tournament, or a knockout for the best.

    python useful_code/rank_responses.py --reward_name_or_path models/my-pm --input rows.jsonl --output ranked.jsonl
    accelerate launch --num_processes 8 useful_code/rank_responses.py ...      # the same on eight GPUs

Input rows: `{"prompt": text or messages, "responses": [text, ...]}`, or `{"chosen": messages, "rejected": messages}`.
Every comparison is made in both orders. Output: the same rows in the same order, with

    full       win_matrix (P(row better than column), calibrated), copeland, borda, bradley_terry, ranking, best
    knockout   best, and comparisons: [champion, challenger, P(challenger better)], n - 1 of them

A full tournament makes n (n - 1) forward passes, a knockout 2 (n - 1); where preferences are cyclic, the champion of a
knockout depends on the order of the responses. An interrupted run goes on where it stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from useful_code.pair_probability import borda, bradley_terry_scores, copeland, tempered
from useful_code.pair_scoring import compared, comparison_group, full_tournament_groups, full_win_matrix
from useful_code.processes import start_processes
from useful_code.read_rows import load_checked, report_counts
from useful_code.response_rows import ResponseRow, add_row_arguments, check_output, check_responses, write_rows
from useful_code.resumable_scoring import remove_parts, score_resumably
from useful_code.scoring import Scorer, add_model_arguments, add_tie_argument, load_pair_scorer
from useful_code.user_errors import UserError, exit_cleanly


def full_tournaments(
    scorer: Scorer, rows: Sequence[ResponseRow], groups_of: Sequence[list], temperature: float, parts: Path
) -> list[dict[str, Any]]:
    """Per row: win matrix, the three scores of every response, and the ranking by expected wins (Borda).

    `groups_of` holds the `full_tournament_groups` of every row.
    """
    numbers = iter(score_resumably(scorer, [group for groups in groups_of for group in groups], parts))
    results = []
    for row, groups in zip(rows, groups_of, strict=True):
        matrix = tempered(full_win_matrix(len(row.responses), [next(numbers) for _ in groups]), temperature)
        expected_wins = borda(matrix)
        ranking = np.argsort(-expected_wins, kind="stable")
        results.append(
            {
                "win_matrix": matrix.round(6).tolist(),
                "copeland": copeland(matrix).tolist(),
                "borda": expected_wins.round(6).tolist(),
                "bradley_terry": bradley_terry_scores(matrix).round(6).tolist(),
                "ranking": ranking.tolist(),
                "best": int(ranking[0]),
            }
        )
    return results


def knockouts(scorer: Scorer, rows: Sequence[ResponseRow], temperature: float, parts: Path) -> list[dict[str, Any]]:
    """Per row: the champion and the n - 1 comparisons that made it. All prompts play their next game together."""
    results: list[dict[str, Any]] = [{"best": 0, "comparisons": []} for _ in rows]
    for challenger in range(1, max(len(row.responses) for row in rows)):
        playing = [i for i, row in enumerate(rows) if challenger < len(row.responses)]
        games = [
            (rows[i].prompt, rows[i].responses[challenger], rows[i].responses[results[i]["best"]]) for i in playing
        ]
        groups = [comparison_group(scorer, *game) for game in games]
        wins = tempered(compared(scorer, score_resumably(scorer, groups, parts)).probability, temperature)
        for i, probability in zip(playing, wins.tolist(), strict=True):
            results[i]["comparisons"].append([results[i]["best"], challenger, round(probability, 6)])
            if probability > 0.5:
                results[i]["best"] = challenger
    return results


def temperature_of(name: str) -> float:
    """What the training run of a directory of ours fitted on its held-out pairs, else 1."""
    record = Path(name) / "run.json"
    if record.is_file():
        held_out = json.loads(record.read_text(encoding="utf-8")).get("held_out") or {}
        return float(held_out.get("temperature", 1.0))
    return 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_tie_argument(parser)
    add_row_arguments(parser)
    parser.add_argument("--tournament", choices=["full", "knockout"], default="full", help="See above.")
    parser.add_argument(
        "--temperature",
        type=float,
        default=None,
        help="Divides the log-odds of every comparison. Default: what the model's own run.json says, else 1.",
    )
    arguments = parser.parse_args()
    if arguments.temperature is not None and not 0 < arguments.temperature < float("inf"):
        raise UserError(f"--temperature is {arguments.temperature}; it must be above 0")
    state = start_processes()
    output, refused_path = check_output(arguments.output, arguments.input)
    scorer = load_pair_scorer(arguments, state)
    temperature = arguments.temperature or temperature_of(arguments.reward_name_or_path)
    checked: list[ResponseRow] = []
    groups_of: list[list] = []

    def check(row: Any) -> dict[str, Any]:
        responses = check_responses(row, num_least=2)
        # For a knockout too: who meets whom is not known yet, and no comparison may fail in the middle.
        groups = full_tournament_groups(scorer, *responses, arguments.max_length)
        checked.append(responses)
        if arguments.tournament == "full":
            groups_of.append(groups)
        return row

    rows, counts = load_checked(
        arguments.input, check, refused_path if state.is_main_process else None, arguments.split
    )
    if arguments.tournament == "full":
        results = full_tournaments(scorer, checked, groups_of, temperature, output)
    else:
        results = knockouts(scorer, checked, temperature, output)
    if state.is_main_process:
        write_rows(output, rows, results)
        remove_parts(output)
        print(report_counts(counts))
        print(f"{len(rows):,} rows ranked, temperature {temperature:.3g}; written to {output}")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    exit_cleanly(main)
