"""A resumed run has the data and the options of its checkpoint, or is refused with the name of what differs."""

import json

import pytest

from useful_code.training.arguments import DataArguments
from useful_code.training.same_run import FILE, check_same_run, describe_run
from useful_code.user_errors import UserError


def rows(*prompts: str) -> list[dict]:
    return [{"prompt": prompt} for prompt in prompts]


def described(train=("a", "b"), held_out=("c",), seed=1, **options) -> dict:
    return describe_run(rows(*train), rows(*held_out), DataArguments("here.jsonl", **options), seed)


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(described()))
    return str(tmp_path)


def test_the_same_rows_from_another_place_are_the_same_run(checkpoint):
    check_same_run(checkpoint, describe_run(rows("a", "b"), rows("c"), DataArguments("there.parquet"), 1))


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"seed": 2, "train": ("a", "c"), "held_out": ("b",)}, r"--seed 1 \(now 2\): go on"),
        ({"held_out_share": 0.5, "held_out": ("b", "c")}, r"--held_out_share 0.05 \(now 0.5\)"),
        ({"train": ("a", "b", "d")}, "other rows"),
        ({"train": ("b", "a")}, "other rows"),  # a resumed run skips as many as were read
        ({"held_out": ("d",)}, "other rows"),
    ],
)
def test_what_differs_is_named(checkpoint, now, named):
    with pytest.raises(UserError, match=named):
        check_same_run(checkpoint, described(**now))


def test_a_share_means_nothing_beside_held_out_rows_of_their_own(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(described(eval_dataset="e.jsonl", held_out_share=0.1)))
    check_same_run(str(tmp_path), described(eval_dataset="f.jsonl", held_out_share=0.2))


def test_a_checkpoint_of_before_descriptions_is_taken(tmp_path):
    check_same_run(str(tmp_path), described())
