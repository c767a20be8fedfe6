"""The rows of `rrm` in another recipe: the scalar variant is Bradley-Terry with soft ties."""

import json
import sys

import pytest
from readmes import ROOT

from useful_code.render import read_template
from useful_code.tiny import byte_tokenizer


@pytest.fixture
def recipes(monkeypatch):
    """Names of both folders, which never import each other."""
    for name in ("rrm", "bradley-terry-rm"):
        monkeypatch.setattr(sys, "path", [str(ROOT / name), *sys.path])
    return __import__("augment_pairs"), __import__("train_bradley_terry")


def test_bradley_terry_takes_all_fifteen_kinds_of_rows_with_soft_ties(recipes, tmp_path):
    """Nine rows of an example with a winner, label 1, and six ties, label one half: in `--ties drop` nine are left."""
    augment_pairs, bradley_terry = recipes
    rows = []
    for number in range(5):
        ask = {"role": "user", "content": f"question {number}"}
        sides = {"chosen": f"good {number}", "rejected": f"bad {number}"}
        rows.append({side: [ask, {"role": "assistant", "content": text}] for side, text in sides.items()})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = augment_pairs.Options(augmented_share=1)
    augment_pairs.augment(str(tmp_path / "rows.jsonl"), str(tmp_path / "rrm"), options)
    template = read_template(byte_tokenizer())
    for ties, labels in (("soft", [1.0] * 9 + [0.5] * 6), ("drop", [1.0] * 9)):
        arguments = bradley_terry.Arguments(dataset="-", ties=ties)
        pairs, counts = bradley_terry.load_pairs(str(tmp_path / "rrm"), None, template, arguments, None)
        assert [pair["label"] for pair in pairs] == labels * 5
        assert counts.refused == ({} if ties == "soft" else {"tie": 30})
