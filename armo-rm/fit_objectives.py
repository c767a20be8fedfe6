r"""ArmoRM, stage 1: one ridge regression per objective, from the embeddings of rated answers.

    w_k = argmin_w  sum_{i rated} (w . h_i - p_ik)^2 + alpha_k |w|^2           arXiv 2406.12845, section 2.1

    python armo-rm/fit_objectives.py --embeddings embeddings/helpsteer2 embeddings/beavertails \
        --output runs/armo/objectives

Ratings p are brought to [0, 1] by a rule that is stored (rating_scales.py); a rating that is missing costs nothing but
itself. Prompts, not rows, are held out. alpha_k has the least squared error on the held-out rows; the weights are those
of the training rows. The rows are read part by part and never held: memory does not grow with them.

Output: objectives.safetensors (`regression_layer.weight`, (K, D) float32), objectives.json (names, scales, alphas, how
well each rating is predicted, with intervals), report.html, run.json.

Shapes: N rows of a part, D hidden size, K objectives, A alphas.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from embedding_files import read_cards, read_parts, read_rows_alone
from objectives_report import write_objectives_report
from option_checks import check_options
from rating_scales import RULES, to_unit
from ridge import GramMatrices, SquaredErrors, rated_alike
from safetensors.numpy import save
from small_samples import few_prompts_warnings
from tqdm import tqdm

from useful_code import metrics
from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import is_held_out
from useful_code.run_info import write_run_info
from useful_code.user_errors import UserError, exit_cleanly

ALPHAS = [10.0**exponent for exponent in range(-4, 5)]


@dataclass(frozen=True)
class Objectives:
    """What is rated, on which scale, and which objectives have their training ratings on the same rows."""

    names: list[str]
    scales: list[tuple[float, float]]
    classes: list[int]

    def ratings(self, rows: Sequence[dict], rule: str) -> np.ndarray:
        """(N, K) in [0, 1], nan where there is none."""
        found = np.full((len(rows), len(self.names)), np.nan)
        for i, row in enumerate(rows):
            for k, (name, scale) in enumerate(zip(self.names, self.scales, strict=True)):
                if name in row["ratings"]:
                    found[i, k] = to_unit(row["ratings"][name], scale, rule)
        return found


def survey(directories: Sequence[str], share: float, seed: int, leave_out: Sequence[str] = ()) -> Objectives:
    """Raises UserError for an objective with two scales, and for one without a rating to train on."""
    scales: dict[str, tuple[float, float]] = {}
    masks: dict[str, Any] = {}  # of the training rows with a rating
    number = 0
    for directory in directories:
        for row in read_rows_alone(directory):
            number += 1
            for name, scale in row["scales"].items():
                if scales.setdefault(name, (scale[0], scale[1])) != (scale[0], scale[1]):
                    raise UserError(f"{row['place']}: {name!r} has the scale {scale}, elsewhere {list(scales[name])}")
                if not is_held_out(row["prompt"], share, seed):
                    masks.setdefault(name, hashlib.blake2b(digest_size=16)).update(number.to_bytes(8, "big"))
    if unknown := set(leave_out) - set(scales):
        raise UserError(f"--leave_out {' '.join(sorted(unknown))}: rated are {', '.join(sorted(scales))}")
    names = sorted(set(scales) - set(leave_out))
    if not names:
        raise UserError("--leave_out leaves no objective to fit")
    if missing := [name for name in names if name not in masks]:
        raise UserError(f"{missing[0]!r} has no rating outside the held-out prompts; give more rows, or --leave_out it")
    classes = rated_alike([masks[name].digest() for name in names])
    return Objectives(names, [scales[name] for name in names], classes)


def parts_with_ratings(
    directories: Sequence[str], objectives: Objectives, rule: str, share: float, seed: int, held_out: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Embeddings (N, D), ratings (N, K) and prompts of the held-out rows, or of the others, part by part."""
    for directory in directories:
        for part in read_parts(directory, ["response"]):
            chosen = [i for i, row in enumerate(part.rows) if is_held_out(row["prompt"], share, seed) == held_out]
            if chosen:
                rows = [part.rows[i] for i in chosen]
                yield (
                    part.tensors["response"].numpy()[chosen],
                    objectives.ratings(rows, rule),
                    [row["prompt"] for row in rows],
                )


def edge_warnings(names: Sequence[str], chosen: Sequence[float], alphas: Sequence[float]) -> list[str]:
    """One line per objective whose best alpha is an end of the grid: a better one may lie beyond."""
    ends = {min(alphas): "smallest", max(alphas): "largest"}
    return [
        f"{name}: the best alpha, {alpha:g}, is the {ends[alpha]} of --alphas; a better one may lie beyond"
        for name, alpha in zip(names, chosen, strict=True)
        if len(alphas) > 1 and alpha in ends
    ]


def constant_warnings(names: Sequence[str], ratings: np.ndarray) -> list[str]:
    """One line per objective whose held-out ratings (N, K), nan where there is none, are all the same."""
    return [
        f"{name}: all held-out ratings are the same, so that nothing says whether it is predicted"
        for name, low, high in zip(names, np.nanmin(ratings, 0), np.nanmax(ratings, 0), strict=True)
        if low == high
    ]


def how_well(predictions: np.ndarray, ratings: np.ndarray, prompts: Sequence[str], seed: int) -> dict[str, Any]:
    """Of one objective on the held-out rows that have it: correlations, an interval with prompts resampled, and the
    share of the variance that is predicted. What is not defined is None."""
    pearson = metrics.pearson_correlation(predictions, ratings)
    interval = (math.nan, math.nan)
    if not math.isnan(pearson):
        interval = metrics.bootstrap_interval(
            np.stack((predictions, ratings), 1),
            lambda both: metrics.pearson_correlation(both[:, 0], both[:, 1]),
            groups=prompts,
            num_resamples=500,
            seed=seed,
        )
    variance = ratings.var() if len(ratings) else 0.0
    numbers = {
        "pearson": pearson,
        "low": interval[0],
        "high": interval[1],
        "spearman": metrics.spearman_correlation(predictions, ratings),
        "r2": 1 - float(np.mean((predictions - ratings) ** 2) / variance) if variance else math.nan,
    }
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def main() -> None:
    started_at = time.time()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--embeddings", nargs="+", required=True, help="Folders of rated rows (extract_embeddings.py).")
    add("--output", required=True, help="Folder to write.")
    add("--alphas", type=float, nargs="+", default=ALPHAS, help="Strengths to try, in squared errors.")
    add("--scaling", choices=RULES, default="bin_centre", help="How ratings become numbers in [0, 1].")
    add("--leave_out", nargs="+", default=[], help="Objectives to ignore: rated too seldom, or always the same.")
    add("--held_out_share", type=float, default=0.2, help="Share of the prompts that choose alpha.")
    add("--seed", type=int, default=42, help="Of the split.")
    arguments = parser.parse_args()
    check_options(arguments)
    alphas, split = sorted(set(arguments.alphas)), (arguments.held_out_share, arguments.seed)
    cards = read_cards(arguments.embeddings, "rated")
    num_rows = sum(card["rows"] for card in cards)
    objectives = survey(arguments.embeddings, *split, arguments.leave_out)
    num_objectives = len(objectives.names)

    def rows_of(held_out: bool, what: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        with tqdm(total=num_rows, unit="row", desc=what) as bar:
            for found in parts_with_ratings(arguments.embeddings, objectives, arguments.scaling, *split, held_out):
                yield found
                bar.update(len(found[0]))
            bar.total = bar.n
            bar.refresh()

    grams = GramMatrices(cards[0]["hidden_size"], objectives.classes)
    for embeddings, ratings, _ in rows_of(False, "training rows"):
        grams.add(embeddings, ratings)
    all_weights = grams.weights(alphas)  # (A, K, D)
    errors = SquaredErrors(all_weights)
    for embeddings, ratings, _ in rows_of(True, "held-out rows"):
        errors.add(embeddings, ratings)
    if not errors.counts.all():
        name = objectives.names[int(np.argmin(errors.counts))]
        raise UserError(f"{name!r} has no rating among the held-out prompts; give more rows, or --leave_out it")
    mean_errors = errors.means()  # (A, K)
    best = mean_errors.argmin(0)  # (K,)
    weights = all_weights[best, np.arange(num_objectives)].astype(np.float32)  # (K, D)

    held_out = [(x @ weights.T, ratings, prompts) for x, ratings, prompts in rows_of(True, "predictions")]
    predictions, all_ratings = (np.concatenate([found[i] for found in held_out]) for i in (0, 1))
    prompts = np.array([prompt for found in held_out for prompt in found[2]])
    numbers: list[dict[str, Any]] = []
    warnings: list[str] = []
    for k, name in enumerate(objectives.names):
        has = ~np.isnan(all_ratings[:, k])
        numbers.append(
            {
                "name": name,
                "scale": list(objectives.scales[k]),
                "alpha": alphas[best[k]],
                "train_rows": int(grams.counts[k]),
                "held_out_rows": int(has.sum()),
                "held_out_mse": {
                    f"{alpha:g}": float(mse) for alpha, mse in zip(alphas, errors.means()[:, k], strict=True)
                },
                **how_well(predictions[has, k].astype(float), all_ratings[has, k], prompts[has], arguments.seed),
            }
        )
        warnings += few_prompts_warnings(name, prompts[has])
    warnings += edge_warnings(objectives.names, [one["alpha"] for one in numbers], alphas)
    warnings += constant_warnings(objectives.names, all_ratings)

    output = Path(arguments.output)
    write_atomically(output / "objectives.safetensors", save({"regression_layer.weight": weights}))
    record = {"scaling": arguments.scaling, "model": cards[0]["model"], "objectives": numbers, "warnings": warnings}
    record |= {name: cards[0][name] for name in ("gating_tokens", "probe")}
    record["split"] = {"held_out_share": arguments.held_out_share, "seed": arguments.seed}
    write_atomically(output / "objectives.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_objectives_report(output, numbers, warnings, predictions, all_ratings)
    write_run_info(output, vars(arguments), started_at, rows=num_rows)


if __name__ == "__main__":
    exit_cleanly(main)
