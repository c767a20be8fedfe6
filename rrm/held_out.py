"""What augmented rows do to held-out rows: no answer may be met in training, and off-topic wins are counted.

An off-topic answer belongs to another example. If that example is held out, its answers would be trained on under
another prompt, all of them as losers or ties, and the held-out accuracy would be of texts that the model has met.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from useful_code.chat_pairs import Message, is_held_out, prompt_key
from useful_code.metrics import bootstrap_interval, pair_outcomes
from useful_code.pair_probability import judge_both_orders
from useful_code.report import Table
from useful_code.training.arguments import DataArguments
from useful_code.training.data import TrainingData
from useful_code.user_errors import UserError

ORIGINAL, OFF_TOPIC, TIE = range(3)
KINDS = ("original", "off_topic", "tie")
CURVES = {  # as in useful_code/training/pair_record.py: title, unit, value of a model that guesses one of three labels
    "loss": ("Loss", "nats per verdict", np.log(3)),
    "original_accuracy": ("Originals", "share of verdicts right", 1 / 3),
    "off_topic_accuracy": ("Off-topic comparisons", "share of verdicts right", 1 / 3),
    "tie_accuracy": ("Off-topic ties", "share of verdicts right", 1 / 3),
    "accuracy": ("All rows; held out: originals", "share right", None),
    "position_bias": ("Position bias", "mean change of P with the order", None),
}


def kind_of(number: int) -> int:
    """Of a comparison by its number.

    >>> [KINDS[kind_of(number)] for number in (0, 1, 8, 9, 14)]
    ['original', 'off_topic', 'off_topic', 'tie', 'tie']
    """
    return ORIGINAL if number == 0 else OFF_TOPIC if number <= 8 else TIE


def is_trained_on(
    prompt: Sequence[Message], source: str, split: str | None, arguments: DataArguments, seed: int
) -> bool:
    """Whether a row that is read from `source` will be trained on, or dropped: `load_train_and_held_out` decides so
    later. Known before its tokens are made, because a split by prompt looks at nothing but the prompt.
    """
    if arguments.eval_dataset:
        return (source, split) != (arguments.eval_dataset, arguments.eval_dataset_split)
    return not is_held_out(prompt_key(prompt), arguments.held_out_share, seed)


def off_topic_answers(pair: dict[str, Any]) -> set[str]:
    """The answers of a pair (with `number`) that were given to another prompt, without white space at their ends."""
    sides = {ORIGINAL: (), OFF_TOPIC: ("rejected",), TIE: ("chosen", "rejected")}[kind_of(pair["number"])]
    return {pair[side][-1]["content"].strip() for side in sides}


def answers_of(pairs: Iterable[dict[str, Any]]) -> set[str]:
    return {pair[side][-1]["content"].strip() for pair in pairs for side in ("chosen", "rejected")}


def keep_answers_apart(data: TrainingData) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Reduce `data`, in place, to training rows without an answer of a held-out original, and to held-out originals.

    Returns the held-out augmented rows without an off-topic answer that is trained on, and for run.json how many rows
    there are of each kind. Raises UserError when no original with a winner is held out.
    """
    originals = [pair for pair in data.held_out if kind_of(pair["number"]) == ORIGINAL]
    augmented = [pair for pair in data.held_out if kind_of(pair["number"]) != ORIGINAL]
    if not any(pair["label"] > 0.5 for pair in originals):
        raise UserError("no original pair with a winner is held out: accuracy is measured on those, give some")
    held_out_answers = answers_of(originals)
    train = [pair for pair in data.train if not off_topic_answers(pair) & held_out_answers]
    trained_answers = answers_of(train)
    unseen = [pair for pair in augmented if not off_topic_answers(pair) & trained_answers]
    counts = {f"num_train_{kind}": 0 for kind in KINDS}
    for pair in train:
        counts[f"num_train_{KINDS[kind_of(pair['number'])]}"] += 1
    counts["num_dropped_for_held_out_answers"] = len(data.train) - len(train)
    counts["num_held_out_augmented"] = len(unseen)
    counts["num_held_out_dropped_for_trained_answers"] = len(augmented) - len(unseen)
    data.train, data.held_out = train, originals
    return unseen, counts


def report_kinds(counts: dict[str, int]) -> str:
    """For a person, what `keep_answers_apart` did."""
    original, off_topic, ties = (counts[f"num_train_{kind}"] for kind in KINDS)
    text = f"to train on: {original:,} originals, {off_topic:,} off-topic comparisons, {ties:,} off-topic ties"
    if not off_topic + ties:
        text += " (no row has an rrm_type; augment_pairs.py makes them)"
    if dropped := counts["num_dropped_for_held_out_answers"]:
        text += f"; {dropped:,} dropped because a held-out example has their off-topic answer"
    held_out, seen = counts["num_held_out_augmented"], counts["num_held_out_dropped_for_trained_answers"]
    if held_out + seen:
        text += f". Held out: {held_out:,} augmented rows"
    if seen:
        text += f"; {seen:,} more have an off-topic answer that is trained on and are left out"
    return text


def off_topic_numbers(pairs: Sequence[dict[str, Any]], logits: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of augmented pairs and their logits (N, 2, 3), how often an off-topic answer wins, both orders together.

    Beside the preferred answer to the prompt (comparisons 1-4), beside the rejected one (5-8), a draw counting one
    half; and how often the third verdict is found for two off-topic answers (9-14), each order by itself. Groups
    without pairs are left out. Intervals: 95 %, examples resampled.
    """
    numbers = np.array([pair["number"] for pair in pairs], dtype=int)
    examples = np.array([str(pair.get("rrm_id")).split("/")[0] for pair in pairs])
    both = judge_both_orders(logits[:, 0], logits[:, 1])
    wins = 1 - pair_outcomes(both.probability - 0.5, tie_credit=0.5)  # (N,)
    called_equal = (logits.argmax(-1) == 2).mean(-1)  # (N,)
    groups = (
        ("off_topic_beats_preferred", (numbers >= 1) & (numbers <= 4), wins),
        ("off_topic_beats_rejected", (numbers >= 5) & (numbers <= 8), wins),
        ("ties_called_equal", numbers >= 9, called_equal),
    )
    return {
        name: {
            "share": float(values[chosen].mean()),
            "interval": list(bootstrap_interval(values[chosen], groups=examples[chosen])),
            "pairs": int(chosen.sum()),
        }
        for name, chosen, values in groups
        if chosen.any()
    }


def off_topic_record(
    augmented: Sequence[dict[str, Any]], logits_before: np.ndarray | None, logits_after: np.ndarray
) -> dict[str, Any]:
    """For `write_pair_record`; the augmented rows are the last ones of the logits."""
    if not augmented:
        return {"off_topic": None, "off_topic_before": None}
    before, after = (
        None if logits is None else off_topic_numbers(augmented, logits[-len(augmented) :])
        for logits in (logits_before, logits_after)
    )
    return {"off_topic": after, "off_topic_before": before, "more_tables": [off_topic_table(before, after)]}


def off_topic_table(before: dict[str, dict[str, Any]] | None, after: dict[str, dict[str, Any]]) -> Table:
    def cell(numbers: dict[str, Any]) -> str:
        low, high = numbers["interval"]
        return f"{numbers['share']:.3f} ({low:.3f}-{high:.3f})"

    names = {
        "off_topic_beats_preferred": "an off-topic answer beats the preferred one",
        "off_topic_beats_rejected": "an off-topic answer beats the rejected one",
        "ties_called_equal": "two off-topic answers are called equal",
    }
    columns = [*([before] if before is not None else []), after]
    return Table(
        "Held-out augmented rows, whose answers are not trained on. Intervals: 95 %, examples resampled.",
        ["", *(["before"] if before is not None else []), "after", "pairs"],
        [[names[name], *(cell(each[name]) for each in columns), f"{after[name]['pairs']:,}"] for name in after],
    )
