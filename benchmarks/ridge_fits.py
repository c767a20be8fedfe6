"""ArmoRM's ridge fits against scikit-learn's, one per objective and strength: seconds, memory, and the same weights.

    python benchmarks/ridge_fits.py                        # 100,000 x 1,024 embeddings, 19 objectives, 9 strengths

Missing ratings are those of ArmoRM's own data: six sources that rate five, five, one, one, two and five objectives, in
proportion to the sizes of the public sets, with a twentieth of the ratings missing at random in two of them. Ours sees
the rows part by part, as `fit_objectives.py` reads them. Both sides compute in float64 and take turns; scikit-learn's
loop is timed on `--their_fits` of the 171 fits, spread over the objectives, and scaled up.
"""

import argparse
import json
import statistics
import time

import numpy as np
from load_recipe import load_recipe
from machine import memory_of_fresh_process, write_record
from sklearn.linear_model import Ridge

from useful_code.run_info import git_commit, peak_memory_gib
from useful_code.user_errors import UserError, exit_cleanly

ridge = load_recipe("armo-rm/ridge.py")
ALPHAS = [10.0**exponent for exponent in range(-4, 5)]
SOURCES = {  # objectives, share of the rows
    "helpsteer": (5, 0.06),
    "ultrafeedback": (5, 0.44),
    "beavertails": (1, 0.2),
    "prometheus": (1, 0.17),
    "argilla": (2, 0.05),
    "code": (5, 0.08),
}
WITH_GAPS = ("ultrafeedback", "argilla")
GAP_SHARE = 0.05


def make_rows(num_rows: int, num_features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) float32 whose spectrum falls as that of a language model's, and ratings (N, 19)."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, num_features + 1) ** -0.5
    mixing = np.linalg.qr(rng.standard_normal((num_features, num_features)))[0] * spectrum
    embeddings = (rng.standard_normal((num_rows, num_features)) @ mixing.T).astype(np.float32)
    num_objectives = sum(count for count, _ in SOURCES.values())
    truth = rng.standard_normal((num_features, num_objectives))
    ratings = embeddings @ truth + rng.standard_normal((num_rows, num_objectives))
    source_of = rng.choice(len(SOURCES), num_rows, p=[share for _, share in SOURCES.values()])
    start = 0
    for number, (name, (count, _)) in enumerate(SOURCES.items()):
        columns = slice(start, start + count)
        ratings[source_of != number, columns] = np.nan
        if name in WITH_GAPS:
            ratings[:, columns][rng.random((num_rows, count)) < GAP_SHARE] = np.nan
        start += count
    return embeddings, ratings


def classes_of(ratings: np.ndarray) -> list[int]:
    return ridge.rated_alike([column.tobytes() for column in ~np.isnan(ratings).T])


def fit_ours(embeddings: np.ndarray, ratings: np.ndarray, rows_per_part: int) -> np.ndarray:
    """Weights (A, K, D)."""
    grams = ridge.GramMatrices(embeddings.shape[1], classes_of(ratings))
    for start in range(0, len(embeddings), rows_per_part):
        rows = slice(start, start + rows_per_part)
        grams.add(embeddings[rows], ratings[rows])
    return grams.weights(ALPHAS)


def fit_theirs(embeddings: np.ndarray, ratings: np.ndarray, fits: list[tuple[int, int]]) -> dict:
    """Weights (D,) of (place of the strength, objective)."""
    found = {}
    for a, k in fits:
        has = ~np.isnan(ratings[:, k])
        model = Ridge(alpha=ALPHAS[a], fit_intercept=False)
        found[a, k] = model.fit(embeddings[has].astype(np.float64), ratings[has, k]).coef_
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--num_rows", type=int, default=100_000, help="Rated answers.")
    add("--num_features", type=int, default=1024, help="Size of an embedding.")
    add("--rows_per_part", type=int, default=4096, help="Rows that ours sees at a time.")
    add("--their_fits", type=int, default=19, help="Fits of scikit-learn per turn, of 171.")
    add("--turns", type=int, default=3, help="Turns per side, at least 3.")
    add("--memory_of_rows", type=int, default=None, help=argparse.SUPPRESS)
    add("--output", default=None, help="JSON file to write.")
    arguments = parser.parse_args()
    if arguments.turns < 3:
        raise UserError("--turns must be at least 3: a median of fewer says little")
    if arguments.memory_of_rows:
        part = make_rows(arguments.rows_per_part, arguments.num_features)
        grams = ridge.GramMatrices(
            arguments.num_features, ridge.rated_alike([c.tobytes() for c in ~np.isnan(part[1]).T])
        )
        for _ in range(0, arguments.memory_of_rows, arguments.rows_per_part):  # what the rows are costs no memory
            grams.add(*part)
        grams.weights(ALPHAS)
        print(peak_memory_gib())
        return
    commit = git_commit()
    embeddings, ratings = make_rows(arguments.num_rows, arguments.num_features)
    num_objectives = ratings.shape[1]
    all_fits = [(a, k) for a in range(len(ALPHAS)) for k in range(num_objectives)]
    fits = all_fits[:: max(1, len(all_fits) // arguments.their_fits)][: arguments.their_fits]
    seconds: dict[str, list[float]] = {"ours": [], "scikit-learn, scaled up": []}
    difference = 0.0
    for _ in range(arguments.turns):
        start = time.perf_counter()
        weights = fit_ours(embeddings, ratings, arguments.rows_per_part)
        seconds["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs = fit_theirs(embeddings, ratings, fits)
        seconds["scikit-learn, scaled up"].append((time.perf_counter() - start) * len(all_fits) / len(fits))
        difference = max(float(np.abs(weights[a, k] - coefficients).max()) for (a, k), coefficients in theirs.items())
    if not difference <= 1e-5:
        raise UserError(f"the sides do not agree: two weights differ by {difference}")
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    sizes = (arguments.num_rows // 4, arguments.num_rows)
    flags = ("--num_features", str(arguments.num_features), "--rows_per_part", str(arguments.rows_per_part))
    result = {
        "rows": arguments.num_rows,
        "features": arguments.num_features,
        "fits": len(all_fits),
        "their_fits_timed": len(fits),
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "seconds_of_turns": seconds,
        "ratio": statistics.median(ratios),
        "largest_difference_of_a_weight": difference,
        "peak_memory_gib_by_rows": {
            rows: memory_of_fresh_process(__file__, *flags, "--memory_of_rows", str(rows)) for rows in sizes
        },
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        write_record(arguments.output, commit, [result])


if __name__ == "__main__":
    exit_cleanly(main)
