"""Does each method do what its paper claims? Measured on the world with known truth, in minutes on two CPU cores.

    python benchmarks/claims.py bradley-terry                          # seeds 0-4: the numbers that are reported
    python benchmarks/claims.py bradley-terry --seeds 100 101 102      # seeds 100-104 are for tuning, never reported

Every seed draws its own data and its own tiny model and runs in a process of its own, one thread each (a tiny model
does not use two). Baseline and method see the same pairs. An interval is the 95 % t interval over the seeds; a claim
holds when its whole interval lies on the right side of the bound. Bounds and settings were committed before the
reported run.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import claims_armo
import claims_bradley_terry
import claims_math
import claims_odin
import claims_pair_pm
import claims_rrm
import claims_ssrm
import numpy as np
import torch
from claim import Claim, Numbers
from load_recipe import ROOT
from scipy.stats import t as student_t

from useful_code.run_info import git_commit, hardware
from useful_code.user_errors import UserError, exit_cleanly

REPORTED_SEEDS = [0, 1, 2, 3, 4]
METHODS: dict[str, tuple[Callable[[int], Numbers], list[Claim]]] = {
    "armo": (claims_armo.measure, claims_armo.CLAIMS),
    "bradley-terry": (claims_bradley_terry.measure, claims_bradley_terry.CLAIMS),
    "math": (claims_math.measure, claims_math.CLAIMS),
    "odin": (claims_odin.measure, claims_odin.CLAIMS),
    "pair-pm": (claims_pair_pm.measure, claims_pair_pm.CLAIMS),
    "rrm": (claims_rrm.measure, claims_rrm.CLAIMS),
    "ssrm": (claims_ssrm.measure, claims_ssrm.CLAIMS),
}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval over seeds.

    >>> tuple(round(x, 4) for x in interval([1.0, 2.0, 3.0]))
    (2.0, -0.4841, 4.4841)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, float("-inf"), float("inf")
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def verdict(claim: Claim, low: float, high: float) -> str:
    """ "holds" when the whole interval is on the right side, "fails" when all of it is on the wrong one.

    >>> verdict(Claim("", "", ">=", 0.95), 0.96, 0.98), verdict(Claim("", "", "<=", 0.05), 0.04, 0.06)
    ('holds', 'not shown')
    """
    right = low >= claim.bound if claim.side == ">=" else high <= claim.bound
    wrong = high < claim.bound if claim.side == ">=" else low > claim.bound
    return "holds" if right else "fails" if wrong else "not shown"


def measure_seeds(measure: Callable[[int], Numbers], seeds: Sequence[int], num_proc: int) -> list[Numbers]:
    """The numbers of every seed, in order; says after each how long the rest will take."""
    started_at, found = time.time(), {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        seed_of = {pool.submit(measure, seed): seed for seed in seeds}
        for done in as_completed(seed_of):
            seed, numbers = seed_of[done], done.result()
            found[seed] = numbers
            rounds = math.ceil(len(seeds) / num_proc), math.ceil(len(found) / num_proc)
            left = (time.time() - started_at) / rounds[1] * (rounds[0] - rounds[1])
            rounded = json.dumps({name: round(value, 4) for name, value in numbers.items()})
            print(f"seed {seed}: {rounded}; about {left / 60:.0f} min left", flush=True)
    return [found[seed] for seed in seeds]


def draw(path: Path, title: str, rows: dict[str, list[float]], claims: list[Claim]) -> None:
    """One panel per claim: a dot per seed, the mean with its interval, and the bound."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.1 + 1.1 * len(claims)), layout="constrained")
    for axes, claim in zip(np.atleast_1d(figure.subplots(len(claims), 1)), claims, strict=True):
        values = rows[claim.number]
        mean, low, high = interval(values)
        axes.errorbar([mean], [0], xerr=[[mean - low], [high - mean]], fmt="D", color="#0072B2", capsize=4)
        axes.plot(values, [0.25] * len(values), "o", color="#56B4E9", markersize=5)
        axes.axvline(claim.bound, color="#D55E00", linestyle="--")
        axes.text(claim.bound, 0.62, f" bound {claim.side} {claim.bound}", color="#D55E00", fontsize=8)
        axes.set(yticks=[], ylim=(-0.4, 0.9))
        axes.set_title(f"{claim.text}: {verdict(claim, low, high)}", loc="left", fontsize=10)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS, help="The method to put to the test.")
    parser.add_argument("--seeds", type=int, nargs="+", default=REPORTED_SEEDS, help="Seeds of data and model.")
    parser.add_argument("--num_proc", type=int, default=os.cpu_count(), help="Seeds to run at the same time.")
    parser.add_argument("--output_dir", default=str(ROOT / "runs" / "claims"), help="Where JSON and picture go.")
    arguments = parser.parse_args()
    if len(arguments.seeds) != len(set(arguments.seeds)):
        raise UserError("--seeds has a seed twice; an interval over copies means nothing")
    measure, claims = METHODS[arguments.method]
    started_at, commit = time.time(), git_commit()
    per_seed = measure_seeds(measure, arguments.seeds, max(1, arguments.num_proc))
    rows = {name: [numbers[name] for numbers in per_seed] for name in per_seed[0]}

    print(f"\n{arguments.method}, seeds {arguments.seeds}: mean (95 % interval)")
    for name, values in rows.items():
        print("  {:<28} {:.4f} ({:.4f}, {:.4f})".format(name, *interval(values)))
    verdicts = {}
    for claim in claims:
        verdicts[claim.text] = verdict(claim, *interval(rows[claim.number])[1:])
        print(f"  {verdicts[claim.text].upper()}: {claim.text} {claim.side} {claim.bound}")
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    record = {
        "method": arguments.method,
        "seeds": arguments.seeds,
        "numbers": rows,
        "verdicts": verdicts,
        "minutes": (time.time() - started_at) / 60,
        "commit": commit,
        "hardware": hardware(),
    }
    (output_dir / f"{arguments.method}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    title = f"{arguments.method} on the known-truth world, {len(arguments.seeds)} seeds"
    draw(output_dir / f"{arguments.method}.png", title, rows, claims)
    print(f"written to {output_dir / arguments.method}.json and .png; {record['minutes']:.1f} minutes")


if __name__ == "__main__":
    exit_cleanly(main)
