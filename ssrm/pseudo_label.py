"""Command: pairs without a label -> the answer that the model prefers, where it is sure enough to train on.

    python ssrm/pseudo_label.py --reward_name_or_path runs/ssrm/round-0/model \\
        --unlabelled pairs/hh-ssrm/unlabelled.jsonl --output runs/ssrm/round-1/pseudo --threshold 0.8
    accelerate launch --num_processes 8 ssrm/pseudo_label.py ...      # the same on eight GPUs

    p = P(a1 better than a2), the mean of both orders        label = a1 if p > 1/2, else a2
    confidence = max(p, 1 - p)                                kept where confidence > threshold      (SSRM, METHODS 3.4)

Rows are `{"id", "prompt", "responses": [a1, a2]}`; a column that would reveal the label stops the command. Works with a
pairwise model and with a scalar one (p = sigmoid(r1 - r2)). The output folder holds

    pairs.jsonl          the kept rows as chosen/rejected chats, with `id`, `pseudo_label` and `confidence`
    predictions.jsonl    id, p, position_bias, winner and kept of every usable row
    refused_rows.jsonl   rows that cannot be used, with the reason
    card.json            model, threshold, counts, kept share, confidence bins; written last

To adapt, edit first: `choose`. An interrupted run goes on where it stopped.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import check_pair
from useful_code.converting.inputs import check_apart
from useful_code.pair_probability import tempered
from useful_code.pair_scoring import compared, comparison_group
from useful_code.processes import leave_together, start_processes
from useful_code.read_rows import RowCounts, checked_rows, no_usable_row, report_counts
from useful_code.reasons import RowRefused
from useful_code.response_rows import check_responses
from useful_code.resumable_scoring import remove_chunks, score_in_chunks
from useful_code.scoring import Scorer, add_length_argument, add_model_arguments, add_tie_argument, load_scorer
from useful_code.user_errors import UserError, exit_cleanly

# Columns that tell, or may tell, which answer is the better one.
LABELS = ("chosen", "rejected", "chosen_score", "rejected_score", "scores", "margin", "label", "tie")
LABELS += ("winner", "preference", "best", "judged", "ranking", "win_matrix")
WRITTEN = ("predictions.jsonl", "pairs.jsonl")
BINS = np.linspace(0.5, 1.0, 6)  # of confidence


class Choice(NamedTuple):
    winner: int  # 0 or 1: the place of the preferred response
    confidence: float  # 0.5 to 1
    kept: bool


# --- the method ---


def choose(probability: float, threshold: float) -> Choice:
    """The pseudo-label of P(the first response is better) (METHODS 3.4): strictly over the threshold it is kept.

    >>> choose(0.1, 0.8)
    Choice(winner=1, confidence=0.9, kept=True)
    >>> choose(0.8, 0.8).kept
    False
    """
    confidence = max(probability, 1 - probability)
    return Choice(0 if probability > 0.5 else 1, confidence, confidence > threshold)


def pseudo_labelled(row: dict[str, Any], choice: Choice, soft: bool) -> dict[str, Any]:
    """The row as a pair to train on; with `soft` its `label` is the confidence, else the winner has won."""
    winner, loser = row["responses"][choice.winner], row["responses"][1 - choice.winner]
    sides = {"chosen": winner, "rejected": loser}
    pair = {side: [*row["prompt"], {"role": "assistant", "content": text}] for side, text in sides.items()}
    pair |= {"id": row["id"], "pseudo_label": True, "confidence": round(choice.confidence, 6)}
    return pair | {"label": round(choice.confidence, 6)} if soft else pair


# --- data ---


def check_unlabelled(row: Any, number: int) -> dict[str, Any]:
    """{id, prompt, responses} of a usable row and nothing else. Raises RowRefused, or UserError for a label."""
    if isinstance(row, dict) and (found := [name for name in LABELS if row.get(name) is not None]):
        raise UserError(
            f"row {number:,} has the column {found[0]!r}: an unlabelled file must not hold labels. "
            "ssrm/hide_labels.py makes one from labelled pairs"
        )
    prompt, responses = check_responses(row)
    if len(responses) != 2:
        raise RowRefused("wrong_type", f"`responses` has {len(responses)} texts, not 2")
    name = row.get("id")
    unlabelled = {"id": number - 1 if name is None else name, "prompt": prompt, "responses": responses}
    if not isinstance(unlabelled["id"], str | int):
        raise RowRefused("wrong_type", f"id is {type(unlabelled['id']).__name__}, not a text or a whole number")
    check_pair(pseudo_labelled(unlabelled, Choice(0, 1.0, True), soft=False))  # what could not be trained on
    return unlabelled


def usable_rows(
    source: str, scorer: Scorer, max_length: int | None, counts: RowCounts, refused_path: Path | None
) -> Iterator[tuple[dict[str, Any], list]]:
    """Every usable row with the token ids of its comparison."""
    ids: set[Any] = set()

    def check(row: Any) -> dict[str, Any]:
        unlabelled = check_unlabelled(row, counts.read)
        if unlabelled["id"] in ids:
            raise RowRefused("duplicate_id", f"the id {unlabelled['id']!r} stands there already")
        group = comparison_group(scorer, unlabelled["prompt"], *unlabelled["responses"], max_length)
        ids.add(unlabelled["id"])
        return {"row": unlabelled, "group": group}

    for checked in checked_rows(source, counts, check, refused_path):
        yield checked["row"], checked["group"]


# --- the run ---


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_tie_argument(parser)
    parser.add_argument("--unlabelled", required=True, help="Rows without a label: a file, a folder or a hub data set.")
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument("--threshold", type=float, default=0.8, help="Confidence that a kept row is above.")
    add_length_argument(parser)
    parser.add_argument("--temperature", type=float, default=1.0, help="Divides the log-odds before the threshold.")
    parser.add_argument("--orders_must_agree", action="store_true", help="Drop rows whose winner depends on the order.")
    parser.add_argument("--soft_labels", action="store_true", help="Train on the confidence instead of a sure winner.")
    parser.add_argument("--rows_per_chunk", type=int, default=20_000, help="Rows whose token ids are held at a time.")
    arguments = parser.parse_args()
    if not arguments.threshold >= 0.5 or not arguments.temperature > 0 or arguments.rows_per_chunk < 1:
        raise UserError("--threshold must be at least 0.5, --temperature above 0 and --rows_per_chunk at least 1")
    state = start_processes()
    output = Path(arguments.output)
    if output.is_file():
        raise UserError(f"--output {output} is a file; give a folder")
    check_apart([arguments.unlabelled], output)
    if state.is_main_process:
        (output / "card.json").unlink(missing_ok=True)  # it would tell of other files
    scorer = load_scorer(arguments, state)
    counts = RowCounts(arguments.unlabelled)
    refused_path = output / "refused_rows.jsonl" if state.is_main_process else None
    rows = usable_rows(arguments.unlabelled, scorer, arguments.max_length, counts, refused_path)
    predictions = []
    with ExitStack() as stack:
        files = None
        for chunk, numbers in score_in_chunks(scorer, rows, output / "predictions.jsonl", arguments.rows_per_chunk):
            if state.is_main_process and files is None:
                files = [stack.enter_context(open(f"{output / name}.partial", "w")) for name in WRITTEN]
            both = compared(scorer, numbers)
            probabilities = tempered(both.probability, arguments.temperature)
            found = (probabilities.tolist(), both.position_bias.tolist(), both.orders_agree.tolist())
            for row, p, bias, agree in zip(chunk, *found, strict=True):
                choice = choose(p, arguments.threshold)
                kept = choice.kept and (agree or not arguments.orders_must_agree)
                predictions.append((p, bias, kept, agree))
                if files:
                    prediction = {"id": row["id"], "p": p, "position_bias": bias, "winner": choice.winner}
                    files[0].write(json.dumps(prediction | {"kept": kept}) + "\n")
                    if kept:
                        files[1].write(json.dumps(pseudo_labelled(row, choice, arguments.soft_labels)) + "\n")
    if not predictions:
        raise UserError(no_usable_row(counts))
    if state.is_main_process:
        for name in WRITTEN:
            Path(f"{output / name}.partial").replace(output / name)
        card = card_of(np.array(predictions), arguments, scorer, counts)
        write_atomically(output / "card.json", json.dumps(card, indent=1) + "\n")
        remove_chunks(output / "predictions.jsonl")
        print(report_counts(counts))
        print(
            f"{card['kept']:,} of {card['rows']:,} rows kept ({card['kept_share']:.1%}), confidence over "
            f"{arguments.threshold}; the order decides {card['flip_rate']:.1%}; written to {output}"
        )
    leave_together()


def card_of(
    predictions: np.ndarray,  # (N, 4) p, position bias, kept, the orders agree
    arguments: argparse.Namespace,
    scorer: Scorer,
    counts: RowCounts,
) -> dict[str, Any]:
    """What is reported of a round without knowing a label (METHODS 3.9, check 6)."""
    p, bias, kept, agrees = predictions.T
    confidence = np.maximum(p, 1 - p)
    places = np.clip(np.digitize(confidence, BINS[1:-1], right=True), 0, len(BINS) - 2)
    return {
        "model": arguments.reward_name_or_path,
        "model_fingerprint": scorer.fingerprint,
        "kind": "scalar" if scorer.verdicts is None else "pairwise",
        "unlabelled": arguments.unlabelled,
        "threshold": arguments.threshold,
        "temperature": arguments.temperature,
        "orders_must_agree": arguments.orders_must_agree,
        "soft_labels": arguments.soft_labels,
        "rows_read": counts.read,
        "refused": dict(counts.refused),
        "rows": len(p),
        "kept": int(kept.sum()),
        "kept_share": float(kept.mean()),
        "mean_confidence": float(confidence.mean()),
        "position_bias": float(np.abs(bias).mean()),
        "flip_rate": float(1 - agrees.mean()),
        "bins": [
            {
                "over": round(float(BINS[b]), 3),
                "up_to": round(float(BINS[b + 1]), 3),
                "rows": int((places == b).sum()),
                "kept": int(kept[places == b].sum()),
            }
            for b in range(len(BINS) - 1)
        ],
    }


if __name__ == "__main__":
    exit_cleanly(main)
