"""Mixtures end to end: every row that is left out is one that was planted, and the split moves nothing."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from useful_code import mix_datasets
from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.converting import parts
from useful_code.converting.recipe import read_recipe
from useful_code.mix_datasets import mix
from useful_code.read_rows import load_checked
from useful_code.user_errors import UserError

WORDS = [f"word{i}" for i in range(500)]


def text(rng, length=30):
    return " ".join(rng.choices(WORDS, k=length))


def pair(prompt, chosen, rejected, **columns):
    question = {"role": "user", "content": prompt}
    sides = [[question, {"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
    return {"chosen": sides[0], "rejected": sides[1], **columns}


def new_pair(rng):
    return pair(text(rng), text(rng), text(rng))


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def recipe_of(folder, content, **inputs):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_recipe(path, inputs, [])


def rows_of(folder, split):
    return load_checked(folder / split)[0]


def refused_in(folder):
    return [json.loads(line) for line in (folder / "refused_rows.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def planted(tmp_path):
    """Two sources of pairs with one to three rows for every reason, and an evaluation set; the recipe's content."""
    rng = random.Random(0)
    first = [new_pair(rng) for _ in range(60)]
    prompt = text(rng)
    crowded = [pair(prompt, text(rng), text(rng)) for _ in range(5)]  # three too many, with a limit of 2
    copied, swapped, other = new_pair(rng), new_pair(rng), new_pair(rng)
    near = pair(
        other["chosen"][0]["content"].upper() + "!", *(other[s][1]["content"] + "." for s in ("chosen", "rejected"))
    )
    near_swapped = pair(
        first[0]["chosen"][0]["content"] + " ?", *(first[0][s][1]["content"] + "." for s in ("rejected", "chosen"))
    )
    evaluated = [{"prompt": text(rng, 20), "chosen": "a", "rejected": "b"} for _ in range(3)]
    second = [new_pair(rng) for _ in range(40)]
    second += [copied, swapped, near, near_swapped, pair("short", "same", "same")]
    second += [pair(f"Please: {row['prompt']}", text(rng), text(rng)) for row in evaluated]
    first += [*crowded, copied, {"chosen": swapped["rejected"], "rejected": swapped["chosen"]}, other]
    return {
        "seed": 3,
        "held_out_share": 0.2,
        "max_pairs_per_prompt": 2,
        "near_duplicate_threshold": 0.8,
        "decontaminate": [write_lines(tmp_path / "evaluation.jsonl", evaluated)],
        "sources": {
            "first": {"input": write_lines(tmp_path / "first.jsonl", first)},
            "second": {"input": write_lines(tmp_path / "second.jsonl", second)},
        },
    }


def test_every_reason_has_exactly_the_planted_rows(tmp_path, planted):
    card = mix(recipe_of(tmp_path, planted), tmp_path / "mix")
    assert card["refused"] == {"equal_responses": 1}
    assert card["dropped"] == {
        "contradictory_duplicate": 2,
        "contradictory_near_duplicate": 2,
        "exact_duplicate": 1,
        "in_evaluation_set": 3,
        "near_duplicate": 1,
        "over_prompt_limit": 3,
    }
    # first: 60 + 5 + 3 rows, less 3 of the crowded prompt, the swapped and the first; second: its 40 new rows
    counts = {name: entry["train"] + entry["held_out"] for name, entry in card["sources"].items()}
    assert counts == {"first": 60 + 5 + 3 - 3 - 1 - 1, "second": 40} and sum(counts.values()) == card["rows_kept"]
    for entry in card["sources"].values():
        assert entry["pairs"] == sum(number for name, number in entry.items() if name != "pairs")
    train, held_out = rows_of(tmp_path / "mix", "train"), rows_of(tmp_path / "mix", "held_out")
    assert [len(train), len(held_out)] == [card["rows"]["train"], card["rows"]["held_out"]]
    assert len(held_out) > 5 and not {prompt_key(prompt_of(r)) for r in train} & {
        prompt_key(prompt_of(r)) for r in held_out
    }
    details = {row["reason"]: row["detail"] for row in refused_in(tmp_path / "mix")}
    assert details["in_evaluation_set"].startswith("evaluation.jsonl:") and details["in_evaluation_set"].endswith(
        "(1.00)"
    )
    assert details["near_duplicate"] == "first:first.jsonl:68 (Jaccard 1.00)"
    assert len(refused_in(tmp_path / "mix")) == 1 + 12
    page = (tmp_path / "mix" / "DATA_CARD.md").read_text()
    assert "| in_evaluation_set | 3 |" in page and "| second |" in page


def test_the_same_bytes_for_any_number_of_processes_and_after_an_interruption(tmp_path, planted, monkeypatch):
    monkeypatch.setattr(parts, "PART_GROUPS", 25)
    recipe = recipe_of(tmp_path, planted)
    cards = [mix(recipe, tmp_path / name / "mix", num_proc=n) for name, n in (("a", 1), ("b", 2))]
    assert cards[0] == cards[1]
    write_part, calls = parts._write_part, []

    def interrupted(stem, *rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(stem)
        return write_part(stem, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(parts, "_write_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mix(recipe, tmp_path / "c" / "mix")
    assert len(list((tmp_path / "c" / "mix" / ".unfinished").glob("part-*.json"))) == 2
    assert mix(recipe, tmp_path / "c" / "mix") == cards[0]
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "abc"]
    assert files[0] == files[1] == files[2]


def test_adding_a_source_moves_no_row_and_changes_no_choice(tmp_path):
    rng = random.Random(1)
    one = {"input": write_lines(tmp_path / "one.jsonl", [new_pair(rng) for _ in range(100)]), "num_pairs": 60}
    two = {"input": write_lines(tmp_path / "two.jsonl", [new_pair(rng) for _ in range(50)])}
    content = {"held_out_share": 0.3, "sources": {"one": one}}
    mix(recipe_of(tmp_path, content), tmp_path / "alone")
    mix(recipe_of(tmp_path, content | {"sources": {"two": two, "one": one}}), tmp_path / "both")
    for split in ("train", "held_out"):
        alone = [row for row in rows_of(tmp_path / "alone", split)]
        both = [row for row in rows_of(tmp_path / "both", split) if row["source"] == "one"]
        assert alone == both and len(alone) > 10
    assert sum(len(rows_of(tmp_path / "alone", split)) for split in ("train", "held_out")) == 60


def test_weights_share_out_the_total_or_what_the_scarcest_allows(tmp_path):
    rng = random.Random(2)
    sources = {
        name: {"input": write_lines(tmp_path / f"{name}.jsonl", [new_pair(rng) for _ in range(n)]), "weight": weight}
        for name, n, weight in (("many", 90, 3), ("few", 20, 1))
    }
    card = mix(recipe_of(tmp_path, {"sources": sources}), tmp_path / "a")
    assert {name: entry["train"] for name, entry in card["sources"].items()} == {"many": 60, "few": 20}
    card = mix(recipe_of(tmp_path, {"sources": sources, "total_pairs": 40}), tmp_path / "b")
    assert {name: entry["train"] for name, entry in card["sources"].items()} == {"many": 30, "few": 10}


def test_raw_sources_are_converted_once(tmp_path, capsys):
    raw = [
        {"chosen": f"\n\nHuman: Q{i}\n\nAssistant: good", "rejected": f"\n\nHuman: Q{i}\n\nAssistant: bad"}
        for i in range(9)
    ]
    content = {"sources": {"hh": {"source": "hh_rlhf", "input": "elsewhere/hh", "split": "test"}}}
    recipe = recipe_of(tmp_path, content, hh=write_lines(tmp_path / "raw.jsonl", [*raw, {}]))
    card = mix(recipe, tmp_path / "mix")
    assert card["rows_kept"] == 9 and (tmp_path / "mix-sources" / "hh" / "DATA_CARD.md").exists()
    assert "1 missing_key" in capsys.readouterr().out
    assert mix(recipe, tmp_path / "mix") == card
    assert capsys.readouterr().err.count("already made") == 2


def test_reading_a_mixture_without_naming_its_split_is_refused(tmp_path, planted):
    mix(recipe_of(tmp_path, planted), tmp_path / "mix")
    with pytest.raises(UserError, match="train/ and held_out/"):
        load_checked(tmp_path / "mix")


def test_datasets_loads_both_folders(tmp_path, planted, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    card = mix(recipe_of(tmp_path, planted), tmp_path / "mix")
    for folder, split in (("train", "train"), ("held_out", "test")):
        loaded = datasets.load_dataset(str(tmp_path / "mix" / folder), cache_dir=str(tmp_path / "cache" / folder))
        assert {name: len(rows) for name, rows in loaded.items()} == {split: card["rows"][folder]}


def test_a_mixture_of_evaluation_prompts_alone_is_an_error_with_the_rows_kept(tmp_path):
    rng = random.Random(3)
    rows = [new_pair(rng) for _ in range(4)]
    evaluation = write_lines(tmp_path / "e.jsonl", [{"prompt": row["chosen"][0]["content"]} for row in rows])
    content = {"decontaminate": [evaluation], "sources": {"a": {"input": write_lines(tmp_path / "a.jsonl", rows)}}}
    with pytest.raises(UserError, match=r"none of 4 rows can be used \(4 in_evaluation_set\)"):
        mix(recipe_of(tmp_path, content), tmp_path / "mix")
    assert len(refused_in(tmp_path / "mix")) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "`sources` must name at least one source"),
        ({"sources": {"a": {"input": "x"}}, "sed": 1}, "unknown key 'sed'; known are sources"),
        ({"sources": {"a": {"input": "x", "splt": "y"}}}, "sources.a: unknown key 'splt'"),
        ({"sources": {"a": {}}}, "sources.a: `input` must name a file"),
        ({"sources": {"a": {"input": "x", "num_pairs": 0}}}, "num_pairs must be at least 1"),
        ({"sources": {"a": {"input": "x", "num_pairs": True}}}, "num_pairs must be int"),
        ({"sources": {"a": {"input": "x", "num_pairs": 1, "weight": 1}}}, "give num_pairs or weight, not both"),
        ({"sources": {"a": {"input": "x", "weight": 1}, "b": {"input": "x"}}}, "a has a weight and b has none"),
        ({"sources": {"a": {"input": "x", "min_gap": 1}}}, "min_gap needs a `source`"),
        ({"sources": {"a": {"input": "x"}}, "total_pairs": 3}, "no source has a weight"),
        ({"sources": {"a": {"input": "x"}}, "held_out_share": 1}, "held_out_share must be from 0 up to"),
        ({"sources": {"a": {"input": "x"}}, "decontaminate": [{"file": "x"}]}, "an entry of `decontaminate`"),
        ([], "must be a mapping"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        recipe_of(tmp_path, content)
    assert message in str(error.value) and "recipe.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        (None, [], "cannot be read"),
        ("sources: [", [], "not valid YAML"),
        ("sources: {a: {input: rows.jsonl}}", ["--input", "b=x"], "no source of that name; it has a"),
        ("sources: {a: {input: rows.jsonl}}", ["--input", "a"], "write NAME=PATH"),
        ("sources: {a: {input: rows.jsonl}}", ["--num_proc", "0"], "at least 1"),
        ("sources: {a: {input: missing.jsonl}}", [], "no such file"),
        ("sources: {a: {source: hh, input: rows.jsonl}}", [], "there is no 'hh'"),
        ("sources: {a: {source: math_shepherd, input: rows.jsonl}}", [], "gives steps, not pairs"),
        ("sources: {a: {input: rows.jsonl}}", ["--decontaminate", "rows.jsonl"], "no column that is known to hold"),
    ],
)
def test_user_errors_are_one_line_and_exit_status_2(tmp_path, recipe, flags, message):
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n')
    if recipe is not None:
        (tmp_path / "r.yaml").write_text(recipe)
    command = [sys.executable, mix_datasets.__file__, "--config", "r.yaml", "--output", "out", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.skipif("RM_DATA_DIR" not in os.environ, reason="RM_DATA_DIR does not name the folder with the sample data")
def test_a_mixture_of_real_sets(tmp_path):
    """PandaLM's instructions are the user-oriented ones that AlpacaEval, and so the evaluation table, has too."""
    folder = Path(os.environ["RM_DATA_DIR"])
    files = {
        "hh_rlhf": "hh_rlhf_harmless/harmless_base_test.jsonl.gz",
        "rmb": "rmb/pairwise.jsonl.gz",
        "auto_j": "auto_j/testdata_pairwise.jsonl.gz",
        "pandalm": "pandalm/testset_v1.jsonl.gz",
    }
    content = {
        "held_out_share": 0.05,
        "max_pairs_per_prompt": 4,
        "near_duplicate_threshold": 0.8,
        "decontaminate": [str(folder / "rewardbench_like" / "rewardbench_like.jsonl.gz")],
        "sources": {name: {"source": name, "input": str(folder / file)} for name, file in files.items()},
    }
    card = mix(recipe_of(tmp_path, content), tmp_path / "mix")
    contaminated = {name: entry.get("in_evaluation_set", 0) for name, entry in card["sources"].items()}
    assert contaminated == {"hh_rlhf": 1, "rmb": 0, "auto_j": 9, "pandalm": 181}
    assert {name: entry["pairs"] for name, entry in card["sources"].items()} == {
        "hh_rlhf": 1705,
        "rmb": 9084,
        "auto_j": 774,
        "pandalm": 627,
    }
    assert card["dropped"]["near_duplicate"] == 20 and card["dropped"]["contradictory_near_duplicate"] == 2
