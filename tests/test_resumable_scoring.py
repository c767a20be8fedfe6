"""Interrupted scoring: every group is computed once in all, and nothing of another model or another text is taken."""

import json
from array import array
from pathlib import Path

import pytest
import torch

from useful_code.render import read_template
from useful_code.resumable_scoring import remove_chunks, remove_parts, score_in_chunks, score_resumably
from useful_code.reward_model import load_reward_model
from useful_code.scoring import Numbers, Scorer
from useful_code.tiny import byte_tokenizer, save_tiny_model
from useful_code.user_errors import UserError

TOLERANCE = 1e-5  # float32, rewards of size 1


def read_lines(path: Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


GROUPS = [[array("i", [1, 2, 3 + i]), array("i", [1, 2, 30, 4 + i])] for i in range(8)]


class Counting(torch.nn.Module):
    """The model, counting its batches; it dies before batch `dies_at`."""

    def __init__(self, model, dies_at: int | None = None):
        super().__init__()
        self.model, self.dies_at, self.num_batches = model, dies_at, 0
        self.shares_prefix = model.shares_prefix

    def forward(self, **inputs):
        if self.num_batches == self.dies_at:
            raise KeyboardInterrupt
        self.num_batches += 1
        return self.model(**inputs)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return load_reward_model(str(folder)).eval()


def score_all(model, parts: Path, fingerprint: str = "model", groups=GROUPS) -> list[Numbers]:
    template = read_template(byte_tokenizer())
    scorer = Scorer(model, template, 0, fingerprint, max_tokens_per_batch=5)  # a batch per group
    return score_resumably(scorer, groups, parts)


@pytest.mark.parametrize("name", ["scores.jsonl", "sco[re]s*.jsonl"])  # a name is no glob pattern
def test_an_interrupted_run_goes_on_where_it_stopped(model, tmp_path, capsys, name):
    """Killed twice, in the middle of a line the second time; each group is computed once in all."""
    parts = tmp_path / name
    expected = score_all(model, tmp_path / "undisturbed.jsonl")
    with pytest.raises(KeyboardInterrupt):
        score_all(Counting(model, dies_at=3), parts)
    with pytest.raises(KeyboardInterrupt):
        score_all(Counting(model, dies_at=2), parts)
    files = [path for path in tmp_path.iterdir() if path.name.startswith(f"{name}.part-")]
    assert len(files) == 2
    with files[0].open("ab") as file:
        file.write(b'["5ec0')
    capsys.readouterr()
    last = Counting(model)
    assert score_all(last, parts) == expected
    assert last.num_batches == len(GROUPS) - 5
    assert "5 of 8 rows are scored already" in capsys.readouterr().out
    remove_parts(parts)
    assert {path.name.split(".part-")[0] for path in tmp_path.iterdir()} == {"undisturbed.jsonl"}


def test_finished_batches_are_on_the_disk_before_the_next_begins(model, tmp_path):
    """A `kill -9` closes no file."""
    parts, lines = tmp_path / "scores.jsonl", []

    class Watching(Counting):
        def forward(self, **inputs):
            lines.append(len(read_lines(tmp_path / "scores.jsonl.part-0-0.jsonl")))
            return super().forward(**inputs)

    score_all(Watching(model), parts)
    assert lines == list(range(len(GROUPS)))


def test_damaged_parts_cost_time_and_nothing_else(model, tmp_path):
    parts = tmp_path / "scores.jsonl"
    expected = score_all(model, parts)
    (tmp_path / "scores.jsonl.part-0-0.jsonl").write_bytes(
        b'\xff\xfe\x00\n[1, 2, 3]\n7\nnull\n"ab"\n{"a": 1, "b": 2}\n'
    )
    assert score_all(model, parts) == expected


def test_parts_of_another_model_or_other_texts_are_not_used(model, tmp_path):
    parts = tmp_path / "scores.jsonl"
    score_all(model, parts)
    other_model = Counting(model)
    score_all(other_model, parts, fingerprint="other model")
    assert other_model.num_batches == len(GROUPS)
    changed = [[ids[::-1] for ids in group] for group in GROUPS]
    other_texts = Counting(model)
    score_all(other_texts, parts, groups=changed)
    assert other_texts.num_batches == 2 * len(GROUPS)  # they share no prefix: 7 tokens take two passes of 5


def test_the_order_of_responses_belongs_to_the_key(model, tmp_path):
    parts = tmp_path / "scores.jsonl"
    expected = score_all(model, parts)
    swapped = score_all(model, parts, groups=[group[::-1] for group in GROUPS])
    for numbers, turned in zip(expected, swapped, strict=True):
        (first,), (second,) = numbers
        assert [number for (number,) in turned] == pytest.approx([second, first], abs=TOLERANCE)
    assert expected[0][0][0] != pytest.approx(expected[0][1][0], abs=1e-3)


def test_a_score_that_is_not_finite_is_an_error_and_is_not_kept(model, tmp_path):
    """It would be no JSON, and a later run would take it for done."""

    class Broken(Counting):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            if self.num_batches == 3:
                output.logits[1] = torch.nan
            return output

    parts = tmp_path / "scores.jsonl"
    with pytest.raises(UserError, match=r"gets the scores .* not all finite"):
        score_all(Broken(model), parts)
    again = Counting(model)
    score_all(again, parts)
    assert again.num_batches == len(GROUPS) - 2


def test_chunks_interrupted_and_resumed_compute_every_group_once(model, tmp_path):
    """Killed in the second of three chunks: the first and what was done of the second are not computed again."""
    rows = [(f"row {i}", group) for i, group in enumerate(GROUPS)]

    def run(counted) -> list:
        scorer = Scorer(counted, None, 0, "model", max_tokens_per_batch=5)
        chunks = score_in_chunks(scorer, rows, tmp_path / "out.jsonl", rows_per_chunk=3)
        return [pair for names, numbers in chunks for pair in zip(names, numbers, strict=True)]

    with pytest.raises(KeyboardInterrupt):
        run(Counting(model, dies_at=5))
    last = Counting(model)
    found = run(last)
    assert last.num_batches == len(GROUPS) - 5
    assert [name for name, _ in found] == [name for name, _ in rows]
    assert [numbers for _, numbers in found] == score_all(model, tmp_path / "at once")
    remove_chunks(tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out.jsonl*"))
