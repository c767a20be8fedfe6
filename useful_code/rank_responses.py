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
import itertools
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from useful_code.pair_probability import Game, borda, bradley_terry_scores, champion_of, copeland, knockouts, tempered
from useful_code.pair_scoring import compared, comparison_group, full_tournament_groups, full_win_matrix
from useful_code.processes import leave_together, start_processes
from useful_code.read_rows import RowCounts, checked_rows, no_usable_row, report_counts
from useful_code.response_rows import ResponseRow, add_row_arguments, check_output, check_responses, write_rows
from useful_code.resumable_scoring import chunk_parts, remove_chunks, score_resumably
from useful_code.scoring import Scorer, add_length_argument, add_model_arguments, add_tie_argument, load_pair_scorer
from useful_code.user_errors import UserError, exit_cleanly

ROWS_PER_CHUNK = 200  # with 16 responses of 800 tokens about 300 MB of token ids


class Tournament(NamedTuple):
    """What has to be computed for one row."""

    row: ResponseRow
    groups: list[list[array]]  # the `full_tournament_groups`; none for a knockout, whose games are not known yet


def full_tournaments(
    scorer: Scorer, tournaments: Sequence[Tournament], temperature: float, parts: Path
) -> list[dict[str, Any]]:
    """Per row: win matrix, the three scores of every response, and the ranking by expected wins (Borda)."""
    numbers = iter(score_resumably(scorer, [group for each in tournaments for group in each.groups], parts))
    results = []
    for row, groups in tournaments:
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


def play_knockouts(
    scorer: Scorer, tournaments: Sequence[Tournament], temperature: float, parts: Path
) -> list[dict[str, Any]]:
    """Per row: the champion and the n - 1 comparisons that made it."""
    rows = [each.row for each in tournaments]

    def play(games: Sequence[Game]) -> Sequence[float]:
        groups = [
            comparison_group(scorer, rows[t].prompt, rows[t].responses[challenger], rows[t].responses[champion])
            for t, challenger, champion in games
        ]
        return tempered(compared(scorer, score_resumably(scorer, groups, parts)).probability, temperature).tolist()

    found = knockouts([len(row.responses) for row in rows], play)
    return [
        {"best": champion_of(games), "comparisons": [[first, second, round(p, 6)] for first, second, p in games]}
        for games in found
    ]


def check_fits_knockout(scorer: Scorer, row: ResponseRow, max_length: int | None) -> None:
    """Raise RowRefused where a response cannot be rendered, or the two longest are longer than the limit together."""
    longest = sorted(row.responses, key=len, reverse=True)
    comparison_group(scorer, row.prompt, longest[0], longest[1], max_length)
    for first, second in zip(longest[1:], longest[2:], strict=False):
        comparison_group(scorer, row.prompt, first, second)


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
    add_length_argument(parser)
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
    is_full = arguments.tournament == "full"

    def check(row: Any) -> dict[str, Any]:
        responses = check_responses(row, num_least=2)
        groups = []
        if is_full:
            groups = full_tournament_groups(scorer, *responses, arguments.max_length)
        else:
            check_fits_knockout(scorer, responses, arguments.max_length)
        return {"row": row, "tournament": Tournament(responses, groups)}

    counts = RowCounts(arguments.input)
    checked = checked_rows(
        arguments.input, counts, check, refused_path if state.is_main_process else None, arguments.split
    )
    rows, results = [], []
    for number in itertools.count():  # the token ids of one chunk are held at a time
        chunk = list(itertools.islice(checked, ROWS_PER_CHUNK))
        if not chunk:
            break
        play = full_tournaments if is_full else play_knockouts
        tournaments = [each["tournament"] for each in chunk]
        results += play(scorer, tournaments, temperature, chunk_parts(output, number))
        rows += [each["row"] for each in chunk]
    if not rows:
        raise UserError(no_usable_row(counts))
    if state.is_main_process:
        write_rows(output, rows, results)
        remove_chunks(output)
        print(report_counts(counts))
        print(f"{len(rows):,} rows ranked, temperature {temperature:.3g}; written to {output}")
    leave_together()


if __name__ == "__main__":
    exit_cleanly(main)
