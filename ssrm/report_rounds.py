"""Command: what the rounds of `self_train.py` did, as a table, report.html and rounds.json.

    python ssrm/report_rounds.py --output_dir runs/ssrm
    python ssrm/report_rounds.py --output_dir runs/ssrm --audit pairs/hh-ssrm-audit.jsonl

Per round: rows trained on, share of the unlabelled rows that was kept, their confidence, how often the order of the
answers decided, held-out accuracy. With an audit file (`{"id", "winner"}`, from hide_labels.py) also how often the
pseudo-labels are right, by bin of confidence. Only this command reads it; nothing is trained after it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from useful_code.atomic_write import write_atomically
from useful_code.metrics import wilson_interval
from useful_code.report import Picture, Table, table_text, write_report
from useful_code.report_figures import BLUE, GREY, VERMILION, finish, new_figure
from useful_code.training.record import with_interval
from useful_code.user_errors import UserError, exit_cleanly


def read_audit(path: str) -> dict[Any, int]:
    """id -> 0 or 1, the place of the better response; ties are left out."""
    winners = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["winner"] is not None:
                winners[row["id"]] = int(row["winner"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is no {{id, winner}}: {type(error).__name__} {error}") from error
    return winners


def audited(predictions: list[dict[str, Any]], winners: dict[Any, int], bins: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of the kept pseudo-labels, of all, and by bin of confidence, each with its 95 % Wilson interval."""
    known = [row for row in predictions if row["id"] in winners]

    def accuracy(rows: list[dict[str, Any]]) -> dict[str, Any]:
        right = sum(row["winner"] == winners[row["id"]] for row in rows)
        interval = list(wilson_interval(right, len(rows))) if rows else None
        return {"rows": len(rows), "accuracy": right / len(rows) if rows else None, "interval": interval}

    def in_bin(row: dict[str, Any], one: dict[str, Any]) -> bool:
        confidence = max(row["p"], 1 - row["p"])
        return one["over"] < confidence <= one["up_to"] or (confidence == one["over"] == 0.5)

    return {
        "kept": accuracy([row for row in known if row["kept"]]),
        "all": accuracy(known),
        "bins": [accuracy([row for row in known if in_bin(row, one)]) for one in bins],
    }


def read_rounds(output: Path, winners: dict[Any, int] | None) -> list[dict[str, Any]]:
    """What every finished round left behind. Raises UserError where there is none."""
    rounds = []
    for number in range(10_000):
        folder = output / f"round-{number}"
        if not (folder / "trained").exists():
            break
        training = json.loads((folder / "model" / "run.json").read_text(encoding="utf-8"))
        one: dict[str, Any] = {"round": number, "held_out": training["held_out"], "minutes": training["minutes"]}
        one["train_rows"] = training["num_train"]  # without what the recipe refused
        if number:
            one["pseudo"] = json.loads((folder / "pseudo" / "card.json").read_text(encoding="utf-8"))
            if winners is not None:
                lines = (folder / "pseudo" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
                one["audit"] = audited([json.loads(line) for line in lines], winners, one["pseudo"]["bins"])
        rounds.append(one)
    if not rounds:
        raise UserError(f"{output} holds no finished round; run ssrm/self_train.py first")
    return rounds


def round_table(rounds: list[dict[str, Any]]) -> Table:
    def cells(one: dict[str, Any]) -> list[str]:
        row = [str(one["round"]), f"{one['train_rows']:,}", with_interval(one["held_out"])]
        if not (pseudo := one.get("pseudo")):
            return [*row, *["-"] * 5]
        audit = one.get("audit", {}).get("kept", {}).get("accuracy")
        return [
            *row,
            f"{pseudo['kept']:,} of {pseudo['rows']:,}",
            f"{pseudo['kept_share']:.1%}",
            f"{pseudo['mean_confidence']:.3f}",
            f"{pseudo['flip_rate']:.1%}",
            "-" if audit is None else f"{audit:.3f}",
        ]

    header = ["round", "rows trained on", "held-out accuracy", "kept", "share", "mean confidence", "order decides"]
    caption = (
        "Rounds. Intervals: 95 %, prompts resampled. Pseudo-labels of a round are those of the last round's model."
    )
    return Table(caption, [*header, "kept labels right"], [cells(one) for one in rounds])


def bin_table(one: dict[str, Any]) -> Table:
    """Confidence bins of one round, with the accuracy of each where an audit is known."""
    audits = one.get("audit", {}).get("bins") or [None] * len(one["pseudo"]["bins"])
    rows = []
    for entry, audit in zip(one["pseudo"]["bins"], audits, strict=True):
        right = "-"
        if audit and audit["accuracy"] is not None:
            right = "{:.3f} ({:.3f}-{:.3f})".format(audit["accuracy"], *audit["interval"])
        rows.append([f"{entry['over']:.1f} to {entry['up_to']:.1f}", f"{entry['rows']:,}", f"{entry['kept']:,}", right])
    return Table(f"Pseudo-labels of round {one['round']} by confidence", ["confidence", "rows", "kept", "right"], rows)


def picture(rounds: list[dict[str, Any]]) -> Picture:
    """Held-out accuracy and, in other colours, share kept and accuracy of the kept labels, round by round."""
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    numbers = [one["round"] for one in rounds]
    accuracy = np.array([one["held_out"]["accuracy"] for one in rounds])
    ends = np.array([one["held_out"]["accuracy_interval"] for one in rounds])
    error = np.maximum(0, np.abs(ends - accuracy[:, None])).T
    axes.errorbar(numbers, accuracy, yerr=error, fmt="o-", color=BLUE, capsize=4, label="held-out accuracy")
    later = [one for one in rounds if "pseudo" in one]
    x = [one["round"] for one in later]
    axes.plot(x, [one["pseudo"]["kept_share"] for one in later], "s--", color=GREY, label="share of unlabelled kept")
    if any("audit" in one for one in later):
        right = [one["audit"]["kept"]["accuracy"] or np.nan for one in later]
        axes.plot(x, right, "^-", color=VERMILION, label="kept labels right (audit)")
    axes.set_xticks(numbers)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=9)
    finish(axes, "Self-training", "round", "share")
    return Picture("rounds", figure, "Blue should rise from round to round; where it falls, stop before.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="Folder of a self_train.py run.")
    parser.add_argument("--audit", default=None, help="JSON lines {id, winner} of the unlabelled rows.")
    arguments = parser.parse_args()
    output = Path(arguments.output_dir)
    rounds = read_rounds(output, read_audit(arguments.audit) if arguments.audit else None)
    write_atomically(output / "rounds.json", json.dumps(rounds, indent=1) + "\n")
    table, first, last = round_table(rounds), rounds[0], rounds[-1]
    write_report(
        str(output),
        title="Semi-supervised reward modelling",
        lead=f"{len(rounds) - 1} rounds of self-training in {output}.",
        headline={
            "held-out accuracy, labelled rows alone": with_interval(first["held_out"]),
            f"after round {last['round']}": with_interval(last["held_out"]),
        },
        figures=[picture(rounds)],
        tables=[table, *(bin_table(one) for one in rounds if "pseudo" in one)],
        notes=["The held-out pairs are labelled pairs; no round trained on a prompt of theirs."],
        commands=f"python ssrm/report_rounds.py --output_dir {output} --audit <file of id and winner>",
    )
    print(f"\n{table_text(table)}\n\nreport: {output / 'report.html'}")


if __name__ == "__main__":
    exit_cleanly(main)
