"""How fast raw rows become checked pairs, then a page about them, and the memory that takes, on generated text in the
shape of HH-RLHF.

    python benchmarks/convert.py                            # pairs per second of one core; memory at 1e5 and 1e6 rows
    python benchmarks/convert.py --rows 20000               # a quick look

Rate: parsed rows in, checked pairs out, nothing written, one process, median of `--repeats`. Memory: the peak of the
command and its processes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from generated_rows import Planted, hh_rows
from load_recipe import ROOT
from machine import peak_of_command, write_record

from useful_code.converting.checked import checked_rows
from useful_code.run_info import git_commit
from useful_code.sources.table import SOURCES
from useful_code.user_errors import UserError, exit_cleanly

EXACT_PER_1000 = 10  # rows that are written twice


def rate(num_rows: int, repeats: int) -> dict:
    rows = [row for row, _ in hh_rows(num_rows, seed=0)]
    source, seconds = SOURCES["hh_rlhf"], []
    for _ in range(repeats):
        started = time.perf_counter()
        kept = sum(len(checked_rows(source, [row])[0]) for row in rows)
        seconds.append(time.perf_counter() - started)
        if kept != num_rows:
            raise UserError(f"{kept} of {num_rows} generated rows were kept; the generator is broken")
    per_second = [num_rows / each for each in seconds]
    return {"rows": num_rows, "pairs_per_second": statistics.median(per_second), "all": per_second}


def whole_command(num_rows: int, num_proc: int, folder: Path) -> dict:
    """Write the input, convert it with the user's command, return minutes and the peak memory."""
    raw = folder / f"{num_rows}.jsonl"
    with open(raw, "w", encoding="utf-8") as file:
        for row, _ in hh_rows(num_rows, seed=1, shares=Planted(exact=EXACT_PER_1000)):
            file.write(json.dumps(row) + "\n")
    command = [sys.executable, str(ROOT / "useful_code" / "convert_dataset.py"), "--source", "hh_rlhf"]
    pairs = folder / f"pairs-{num_rows}-{num_proc}"
    seconds, peak = peak_of_command(
        [*command, "--input", str(raw), "--output", str(pairs), "--num_proc", str(num_proc)]
    )
    inspect = [sys.executable, str(ROOT / "useful_code" / "inspect_dataset.py"), "--dataset", str(pairs)]
    inspect_seconds, inspect_peak = peak_of_command([*inspect, "--output", str(folder / "look")])
    card = json.loads((pairs / "card.json").read_text(encoding="utf-8"))
    return {
        "rows": num_rows,
        "num_proc": num_proc,
        "input_gib": raw.stat().st_size / 2**30,
        "seconds": seconds,
        "rows_per_second": num_rows / seconds,
        "peak_mib": peak,
        "rows_kept": card["rows_kept"],
        "inspect_seconds": inspect_seconds,
        "inspect_peak_mib": inspect_peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="Rows of the whole command.")
    parser.add_argument("--rate_rows", type=int, default=20_000, help="Parsed rows of which the rate is taken.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_proc", type=int, nargs="+", default=[1])
    parser.add_argument("--output", help="Write the results to this JSON file too.")
    arguments = parser.parse_args()
    commit = git_commit()
    results = [rate(arguments.rate_rows, arguments.repeats)]
    print(f"{results[0]['pairs_per_second']:,.0f} pairs a second, one core, nothing written")
    with tempfile.TemporaryDirectory() as folder:
        for num_rows in arguments.rows:
            for num_proc in arguments.num_proc:
                line = whole_command(num_rows, num_proc, Path(folder))
                results.append(line)
                print(
                    f"{num_rows:,} rows ({line['input_gib']:.2f} GiB), --num_proc {num_proc}: {line['seconds']:.0f} s, "
                    f"{line['rows_per_second']:,.0f} rows a second, peak {line['peak_mib']:.0f} MiB; "
                    f"inspected in {line['inspect_seconds']:.0f} s, peak {line['inspect_peak_mib']:.0f} MiB",
                    flush=True,
                )
    if arguments.output:
        write_record(arguments.output, commit, results)


if __name__ == "__main__":
    exit_cleanly(main)
