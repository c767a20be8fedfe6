"""What a run says about its held-out pairs: the numbers by hand, and the page and card that carry them."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from useful_code import report_figures
from useful_code.read_rows import RowCounts
from useful_code.report import Table
from useful_code.training.data import TrainingData
from useful_code.training.record import held_out_numbers, write_training_record


def pair(prompt: str, chosen: str, rejected: str, label: float = 1.0) -> dict:
    def chat(answer: str) -> list[dict]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    return {"chosen": chat(chosen), "rejected": chat(rejected), "label": label}


def test_accuracy_margin_and_loss_by_hand():
    """Margins 1, -1, 0: one of three right (a tie in rewards is wrong), mean 0, loss (0.3133 + 1.3133 + 0.6931) / 3."""
    rows = [pair("a", "yes", "no"), pair("b", "yes", "no"), pair("c", "yes", "no")]
    numbers = held_out_numbers(rows, np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]))
    assert numbers["accuracy"] == pytest.approx(1 / 3)
    assert numbers["mean_margin"] == 0 and numbers["equal_rewards"] == pytest.approx(1 / 3)
    assert numbers["loss"] == pytest.approx((0.31326169 + 1.31326169 + 0.69314718) / 3)


def test_length_is_that_of_the_response_not_of_the_prompt():
    """Rewards rise with the prompt and not with the answer: no preference for length."""
    rows = [pair("p" * 10, "ab", "abcd"), pair("p" * 500, "ab", "abcd")]
    numbers = held_out_numbers(rows, np.array([[1.0, 1.0], [9.0, 9.0]]))
    assert numbers["length"]["pearson"] == pytest.approx(0)
    assert numbers["length"]["longer_wins_accuracy"] == 0


def write_record(folder, rows, **more) -> None:
    """The record of a run whose model prefers `chosen` of all rows but the last."""
    refused = Counter(tie=2, empty_content=1)
    counts = [RowCounts("rows.jsonl", read=len(rows) + 3, kept=len(rows), refused=refused)]
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(folder)),
        state=SimpleNamespace(log_history=[{"loss": 0.7, "step": 1}, {"loss": 0.6, "step": 2}]),
        is_world_process_zero=lambda: True,
    )
    write_training_record(
        trainer,
        method="Test",
        arguments={"model_name_or_path": "tiny", "dataset": "rows.jsonl", "seed": 7, "output_dir": str(folder)},
        data=TrainingData(rows, rows, counts, 0),
        rewards_before=None,
        rewards_after=np.array([[1.0, 0.0]] * (len(rows) - 1) + [[0.0, 1.0]]),
        started_at=0.0,
        **more,
    )


def test_pairs_without_a_winner_are_left_out_of_every_number(tmp_path, capsys):
    rows = [pair("a", "yes", "no"), pair("b", "yes", "no"), pair("c", "yes", "no", label=0.5)]
    write_record(tmp_path, rows)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["held_out"]["pairs"] == 2 and record["held_out"]["accuracy"] == 1
    assert record["held_out_before"] is None and record["num_held_out"] == 3
    assert record["rows"][0]["refused"] == {"tie": 2, "empty_content": 1}
    assert "2 pairs" in (tmp_path / "README.md").read_text() and "seed 7" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "report.html").exists() and "accuracy" in capsys.readouterr().out


def test_what_a_recipe_adds_stands_on_the_page_and_in_the_terminal(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        report_figures,
        "training_curves",
        lambda history, curves: drawn.append(curves) or report_figures.new_figure(1, 1),
    )
    table = Table("By head", ["head", "Pearson"], [["quality", "0.01"]])
    curves = {"accuracy": ("Accuracy", "share", 0.5)}
    write_record(tmp_path, [pair("a", "yes", "no"), pair("b", "yes", "no")], more_tables=[table], curves=curves)
    assert "By head" in (tmp_path / "report.html").read_text() and drawn == [curves]
    assert "quality     0.01" in capsys.readouterr().out
