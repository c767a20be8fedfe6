"""What a trained model says of real pairs, by the commands that users know, and the table of it.

Shapes: N pairs.
"""

import json

import numpy as np
from load_recipe import ROOT
from real_rows import run
from sklearn.metrics import roc_auc_score

from useful_code import metrics
from useful_code.chat_pairs import is_tie, prompt_key, prompt_of
from useful_code.training.record import response_lengths


def probabilities(kind: str, model: str, rows_file: str, output: str) -> np.ndarray:
    """P(chosen better) (N,) of the pairs of a file, by the command that users know."""
    script = "useful_code/rank_responses.py" if kind == "pairwise" else "useful_code/score.py"
    flags = ("--temperature", "1") if kind == "pairwise" else ()
    run(script, "--reward_name_or_path", model, "--input", rows_file, "--output", output, *flags)
    lines = [json.loads(line) for line in (ROOT / output).read_text(encoding="utf-8").splitlines()]
    if kind == "pairwise":
        return np.array([line["win_matrix"][0][1] for line in lines])
    return metrics.sigmoid(np.array([line["scores"][0] - line["scores"][1] for line in lines]))


def numbers_of(probability: np.ndarray, rows: list[dict]) -> dict:
    """Accuracy on pairs with a winner, with its interval (prompts resampled); and whether ties look like ties: the area
    under the curve of "nearer to one half" for a tie against a pair with a winner, and one half is guessing."""
    ties = np.array([is_tie(row) for row in rows])
    outcomes = metrics.pair_outcomes(probability[~ties] - 0.5, tie_credit=0.5)
    groups = [prompt_key(prompt_of(row)) for row, tie in zip(rows, ties, strict=True) if not tie]
    closeness = -np.abs(probability - 0.5)
    return {
        "pairs": int((~ties).sum()),
        "accuracy": float(outcomes.mean()),
        "interval": list(metrics.bootstrap_interval(outcomes, groups=groups)),
        "ties": int(ties.sum()),
        "ties_told_apart": float(roc_auc_score(ties, closeness)) if 0 < ties.sum() < len(ties) else None,
    }


def longer_wins(rows: list[dict]) -> np.ndarray:
    """The floor: one for the longer answer, one half for equal lengths."""
    lengths = response_lengths(rows)
    return 0.5 + 0.5 * np.sign(lengths[:, 0] - lengths[:, 1])


def paired_lead(first: np.ndarray, second: np.ndarray, rows: list[dict]) -> tuple[float, float, float]:
    """Mean of the outcomes (N,) of one side less those of another, with its 95 % interval (prompts resampled)."""
    return metrics.paired_difference_interval(first, second, groups=[prompt_key(prompt_of(row)) for row in rows])


def print_leads(leads: dict[str, tuple[float, float, float]]) -> None:
    for name, lead in leads.items():
        print("{}: {:+.3f} ({:+.3f} to {:+.3f})".format(name, *lead))


def print_table(table: dict[str, dict[str, dict]]) -> None:
    for name, sides in table.items():
        some = next(iter(sides.values()))
        print(f"\n{name}: {some['pairs']} pairs, {some['ties']} ties")
        for side, cell in sides.items():
            ties = "" if cell["ties_told_apart"] is None else f", ties told apart {cell['ties_told_apart']:.3f}"
            print(f"  {side:<20} {cell['accuracy']:.3f} ({cell['interval'][0]:.3f}-{cell['interval'][1]:.3f}){ties}")
