"""Mixtures end to end: every row that is left out is one that was planted, and the split moves nothing."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
import yaml
from raw_rows_judged import EXAMPLES

from useful_code import mix_datasets
from useful_code.chat_pairs import is_held_out, prompt_key, prompt_of
from useful_code.converting import parts
from useful_code.converting.checked import checked_rows
from useful_code.converting.recipe import read_recipe
from useful_code.mix_datasets import mix
from useful_code.read_rows import load_checked, read_rows
from useful_code.sources.table import SOURCES
from useful_code.training.arguments import DataArguments
from useful_code.training.data import load_train_and_held_out
from useful_code.user_errors import UserError

HUMANEVALPACK = EXAMPLES["humanevalpack"]
WORDS = [f"word{i}" for i in range(500)]
SPLITS = ("train", "held_out")


def text(rng, length=30):
    return " ".join(rng.choices(WORDS, k=length))


def pair(prompt, chosen, rejected, **columns):
    question = {"role": "user", "content": prompt}
    sides = [[question, {"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
    return {"chosen": sides[0], "rejected": sides[1], **columns}


def new_pair(rng):
    return pair(text(rng), text(rng), text(rng))


def rewritten(row, mark, exchanged=False):
    """The same words in capitals and with other punctuation."""
    sides = ("rejected", "chosen") if exchanged else ("chosen", "rejected")
    return pair(row["chosen"][0]["content"].upper() + mark, *(row[side][1]["content"] + mark for side in sides))


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def recipe_of(folder, content, **inputs):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_recipe(path, inputs, [])


def of_rows(folder, rows, **options):
    """A recipe of one source, "a", of ready pairs."""
    return recipe_of(folder, {"sources": {"a": {"input": write_lines(folder / "a.jsonl", rows)}}} | options)


def rows_of(folder, split):
    return load_checked(folder / split)[0]


def all_rows(folder):
    return [row for split in SPLITS if any((folder / split).iterdir()) for row in rows_of(folder, split)]


def keys_of(rows):
    return {prompt_key(prompt_of(row)) for row in rows}


def refused_in(folder):
    return [json.loads(line) for line in (folder / "refused_rows.jsonl").read_text(encoding="utf-8").splitlines()]


def bytes_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


HH = [{side: f"\n\nHuman: Q{i}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for i in range(12)]


@pytest.fixture
def planted(tmp_path):
    """Two sources of pairs and a raw one, with rows planted for every reason, and an evaluation set: the recipe."""
    rng = random.Random(0)
    first, second = ([new_pair(rng) for _ in range(number)] for number in (60, 40))
    prompt = text(rng)
    crowded = [pair(prompt, text(rng), text(rng)) for _ in range(5)]
    copied, swapped, other, opposed = (new_pair(rng) for _ in range(4))
    evaluated = [{"prompt": text(rng, 20), "chosen": "a", "rejected": "b"} for _ in range(3)]
    first += [*crowded, copied, swapped, other, opposed | {"source_id": "mine"}]  # rows 61 to 69
    second += [copied, {"chosen": swapped["rejected"], "rejected": swapped["chosen"]}]  # 41 and 42
    second += [rewritten(other, "!"), rewritten(opposed, " ?", exchanged=True)]  # 43 and 44
    second += [pair(f"Please: {row['prompt']}", text(rng), text(rng)) for row in evaluated]  # 45 to 47
    second += ["broken", {"chosen": []}, pair("short", "same", "same ")]  # 48 to 50
    return {
        "seed": 3,
        "held_out_share": 0.2,
        "max_pairs_per_prompt": 2,
        "near_duplicate_threshold": 0.8,
        "decontaminate": [write_lines(tmp_path / "evaluation.jsonl", evaluated)],
        "sources": {
            "first": {"input": write_lines(tmp_path / "first.jsonl", first)},
            "second": {"input": write_lines(tmp_path / "second.jsonl", second), "num_pairs": 30},
            "hh": {"source": "hh_rlhf", "input": write_lines(tmp_path / "raw.jsonl", [*HH, {}, HH[0]])},
        },
    }


def test_every_reason_has_exactly_the_planted_rows(tmp_path, planted):
    card = mix(recipe_of(tmp_path, planted), tmp_path / "mix")
    refused = refused_in(tmp_path / "mix")
    places = {}
    for row in refused:
        places.setdefault(row["reason"], []).append((row["file"], row["line"], row["detail"]))
        assert row["raw"]
    assert {reason: places[reason] for reason in sorted(places) if not reason.startswith("over")} == {
        "contradictory_duplicate": [("first/first.jsonl", 67, ""), ("second/second.jsonl", 42, "")],
        "contradictory_near_duplicate": [
            ("first/first.jsonl", 69, "second:second.jsonl:44 (Jaccard 1.00)"),
            ("second/second.jsonl", 44, "first:mine (Jaccard 1.00)"),
        ],
        "equal_responses": [("second/second.jsonl", 50, "the last messages are equal")],
        "exact_duplicate": [("second/second.jsonl", 41, "")],
        "in_evaluation_set": [
            ("second/second.jsonl", 44 + number, f"evaluation.jsonl:{number} (1.00)") for number in (1, 2, 3)
        ],
        "malformed_json": [("second/second.jsonl", 48, "Expecting value: line 1 column 1 (char 0)")],
        "missing_key": [("second/second.jsonl", 49, "no 'rejected'; keys found: 'chosen'")],
        "near_duplicate": [("second/second.jsonl", 43, "first:first.jsonl:68 (Jaccard 1.00)")],
    }
    assert len(places["over_prompt_limit"]) == 3  # of the five at 61 to 65
    assert all(file == "first/first.jsonl" and 61 <= line <= 65 for file, line, _ in places["over_prompt_limit"])
    assert len(places["over_source_limit"]) == 10  # of the 40 new rows of the second
    assert all(file == "second/second.jsonl" and line <= 40 for file, line, _ in places["over_source_limit"])
    assert Counter(row["reason"] for row in refused) == Counter(card["refused"]) + Counter(card["dropped"])
    assert card["rows_read"] == 69 + 50 + 12 == card["rows_kept"] + len(refused)

    counts = {name: entry["train"] + entry["held_out"] for name, entry in card["sources"].items()}
    assert counts == {"first": 69 - 3 - 1 - 1, "second": 30, "hh": 12}
    assert [entry["pairs"] for entry in card["sources"].values()] == [69, 50 - 3, 12]
    for entry in card["sources"].values():
        assert entry["pairs"] == sum(number for name, number in entry.items() if name != "pairs")
    page = (tmp_path / "mix" / "DATA_CARD.md").read_text()
    assert "| in_evaluation_set | 3 |" in page and "| hh | all | Anthropic/hh-rlhf | MIT |" in page
    assert "1 missing_key" not in page  # that row was refused by the conversion, whose card says so


def test_the_split_is_by_prompt_and_the_rows_are_as_they_were(tmp_path, planted):
    card = mix(recipe_of(tmp_path, planted), tmp_path / "mix")
    train, held_out = (rows_of(tmp_path / "mix", split) for split in SPLITS)
    assert card["rows"] == {"train": len(train), "held_out": len(held_out)} and len(held_out) > 5
    assert not keys_of(train) & keys_of(held_out)
    assert all(is_held_out(key, 0.2, 3) for key in keys_of(held_out)) and card["prompts"] == len(
        keys_of(train + held_out)
    )
    read = [json.loads(line) for line in (tmp_path / "first.jsonl").read_text().splitlines()]
    for row in all_rows(tmp_path / "mix"):
        if row["source"] == "first":
            expected = read[int(row["source_id"].removeprefix("first.jsonl:")) - 1]
            assert {side: row[side] for side in expected} == expected


def test_what_reads_a_mixture(tmp_path, planted):
    """Hugging Face's datasets, offline; the trainer's own loader; and nobody who names no split."""
    card = mix(recipe_of(tmp_path, planted), tmp_path / "all" / "mix")
    folder = tmp_path / "all" / "mix"
    for part, split in (("train", "train"), ("held_out", "test")):
        loaded = datasets.load_dataset(str(folder / part), cache_dir=str(tmp_path / "cache" / part))
        assert {name: len(rows) for name, rows in loaded.items()} == {split: card["rows"][part]}
    assert loaded["test"][0]["chosen"] == rows_of(folder, "held_out")[0]["chosen"]

    def load(source, split, refused_path):
        return load_checked(source, refused_path=refused_path, split=split)

    arguments = DataArguments(dataset=str(folder / "train"), eval_dataset=str(folder / "held_out"))
    data = load_train_and_held_out(
        load, arguments, SimpleNamespace(output_dir=tmp_path / "run", process_index=0, seed=0)
    )
    assert (len(data.train), len(data.held_out), data.dropped) == (*card["rows"].values(), 0)
    for source in (folder, folder.parent):
        with pytest.raises(UserError, match=f"^{source}: {folder} holds train/ and held_out/; name one of them"):
            load_checked(source)


def test_the_same_bytes_for_any_number_of_processes_and_after_an_interruption(tmp_path, planted, monkeypatch):
    monkeypatch.setattr(parts, "PART_GROUPS", 25)
    recipe = recipe_of(tmp_path, planted)
    cards = [mix(recipe, tmp_path / name / "mix", num_proc=n) for name, n in (("a", 1), ("b", 2))]
    assert cards[0] == cards[1] and len(cards[0]["files"]) > 6
    write_part, calls = parts._write_part, []

    def interrupted(stem, *rest):
        calls.append(stem)
        if len(calls) == 4:  # the first is of the conversion
            raise KeyboardInterrupt
        return write_part(stem, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(parts, "_write_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mix(recipe, tmp_path / "c" / "mix")
    assert len(list((tmp_path / "c" / "mix" / ".unfinished").glob("part-*.json"))) == 2
    with monkeypatch.context() as patched:  # now when the parts are done
        patched.setattr(mix_datasets, "publish", interrupted)
        calls[:] = [None] * 3
        with pytest.raises(KeyboardInterrupt):
            mix(recipe, tmp_path / "c" / "mix")
    assert mix(recipe, tmp_path / "c" / "mix") == cards[0]
    files = [bytes_in(tmp_path / name) for name in "abc"]
    assert files[0] == files[1] == files[2]
    assert not (tmp_path / "c" / "mix" / ".unfinished").exists()


def test_a_finished_mixture_is_not_made_again_unless_something_is_different(tmp_path, planted, monkeypatch, capsys):
    """Also for a source that is called like a key of the recipe."""
    planted["sources"]["seed"] = planted["sources"].pop("first")
    mix(recipe_of(tmp_path, planted), tmp_path / "mix")
    made = bytes_in(tmp_path / "mix")
    runs = []
    monkeypatch.setattr(mix_datasets, "write_parts", lambda *rest: runs.append(1) or parts.write_parts(*rest))

    def runs_of(content):
        capsys.readouterr()
        before = len(runs)
        mix(recipe_of(tmp_path, content), tmp_path / "mix")
        assert capsys.readouterr().err.count("mix: already made") == (len(runs) == before)
        return len(runs) - before

    assert runs_of(planted) == 0
    shard = next((tmp_path / "mix" / "train").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert runs_of(planted) == 1 and bytes_in(tmp_path / "mix") == made
    evaluation = planted["decontaminate"][0]
    more = planted["sources"] | {"second": planted["sources"]["second"] | {"num_pairs": 31}}
    for change in (
        {"seed": 4},
        {"min_overlap": 0.6},
        {"decontaminate": [{"input": evaluation, "column": "chosen"}]},
        {"decontaminate": []},
        {"sources": dict(reversed(planted["sources"].items()))},
        {"sources": more},
    ):
        assert runs_of(planted | change) == 1
        assert runs_of(planted | change) == 0
    assert runs_of(planted) == 1 and bytes_in(tmp_path / "mix") == made


def test_adding_a_source_moves_no_row_and_changes_no_choice(tmp_path):
    rng = random.Random(1)
    one = {"input": write_lines(tmp_path / "one.jsonl", [new_pair(rng) for _ in range(100)]), "num_pairs": 60}
    two = {"input": write_lines(tmp_path / "two.jsonl", [new_pair(rng) for _ in range(50)]), "num_pairs": 51}
    content = {"held_out_share": 0.3, "sources": {"one": one}}
    mix(recipe_of(tmp_path, content), tmp_path / "alone")
    card = mix(recipe_of(tmp_path, content | {"sources": {"two": two, "one": one}}), tmp_path / "both")
    assert card["sources"]["two"]["train"] + card["sources"]["two"]["held_out"] == 50  # asked for 51: all there are
    for split in SPLITS:
        alone = rows_of(tmp_path / "alone", split)
        both = [row for row in rows_of(tmp_path / "both", split) if row["source"] == "one"]
        assert alone == both and len(alone) > 10
    assert len(all_rows(tmp_path / "alone")) == 60
    mix(recipe_of(tmp_path, content | {"seed": 1}), tmp_path / "other")
    assert keys_of(all_rows(tmp_path / "other")) != keys_of(all_rows(tmp_path / "alone"))


def test_weights_share_out_the_total_or_what_the_scarcest_allows(tmp_path):
    rng = random.Random(2)
    sources = {
        name: {"input": write_lines(tmp_path / f"{name}.jsonl", [new_pair(rng) for _ in range(n)]), "weight": weight}
        for name, n, weight in (("many", 90, 3), ("few", 20, 1))
    }
    for total, expected in ((None, {"many": 60, "few": 20}), (41, {"many": 31, "few": 10})):
        card = mix(recipe_of(tmp_path, {"sources": sources, "total_pairs": total}), tmp_path / "mix")
        assert {name: entry["train"] for name, entry in card["sources"].items()} == expected


def test_raw_sources_are_converted_once(tmp_path, capsys):
    content = {"sources": {"hh": {"source": "hh_rlhf", "input": "elsewhere/hh", "split": "test"}}}
    recipe = recipe_of(tmp_path, content, hh=write_lines(tmp_path / "raw.jsonl", [*HH, {}]))
    card = mix(recipe, tmp_path / "mix")
    assert card["rows_kept"] == 12 and (tmp_path / "mix-sources" / "hh" / "DATA_CARD.md").exists()
    assert "1 missing_key" in capsys.readouterr().out
    made = bytes_in(tmp_path / "mix-sources")
    recipe = recipe_of(tmp_path, content | {"seed": 0, "held_out_share": 0.5}, hh=str(tmp_path / "raw.jsonl"))
    mix(recipe, tmp_path / "mix")
    assert "hh: already made" in capsys.readouterr().err and bytes_in(tmp_path / "mix-sources") == made


def test_ready_pairs_from_anywhere_keep_the_schema(tmp_path):
    """Columns of other types or with the names of our own helpers, and a label that prefers the rejected side."""
    odd = [
        pair("a", "x", "y", subset=3, source_id={"no": "text"}),
        pair("b", "x", "y", subset="\ud800", source_id="\udfff"),
        pair("c", "x", "y", subset=["z"], source_id=7, _detail="not ours", _place=1, source="another"),
        pair("d", "x", "y", subset=True, label=0.25),
    ]
    mix(of_rows(tmp_path, odd), tmp_path / "mix")
    rows = rows_of(tmp_path / "mix", "train")
    assert [(row["subset"], row["source_id"]) for row in rows] == [
        ("3", "a.jsonl:1"),
        ("\\ud800", "\\udfff"),
        (None, "7"),
        (None, "a.jsonl:4"),
    ]
    assert {row["source"] for row in rows} == {"a"} and set(rows[0]) == set(rows[2])
    assert [rows[3][side][-1]["content"] for side in ("chosen", "rejected")] == ["y", "x"] and rows[3]["label"] == 0.75


def test_parts_without_a_usable_row_and_sources_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_GROUPS", 2)
    rows = ["broken", "{}", pair("a", "x", "y"), "[]", pair("b", "x", "y"), pair("b.", "X", "y"), "{}", "{}"]
    sources = {name: {"input": write_lines(tmp_path / name / "a.jsonl", rows)} for name in ("some", "none")}
    write_lines(tmp_path / "none" / "a.jsonl", ["", "{}"])
    content = {"near_duplicate_threshold": 0.8, "decontaminate": [write_lines(tmp_path / "e.jsonl", [{"prompt": "A"}])]}
    card = mix(recipe_of(tmp_path, content | {"sources": sources}), tmp_path / "mix")
    assert card["dropped"] == {"in_evaluation_set": 1, "near_duplicate": 1} and card["rows_read"] == 9
    assert card["sources"]["none"] == {"pairs": 0, "train": 0, "held_out": 0}
    assert [row["source_id"] for row in all_rows(tmp_path / "mix")] == ["a.jsonl:5"]


def test_pairs_and_evaluation_sets_of_the_hub_are_read_at_one_commit(tmp_path, monkeypatch):
    rows = {"o/pairs": [pair(f"Q{i}", "x", "y") for i in range(5)], "o/bench": [{"prompt": "q1"}]}

    def load_dataset(name, revision):
        assert revision == f"commit of {name}"
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows[name])})

    api = SimpleNamespace(dataset_info=lambda name, revision: SimpleNamespace(sha=f"commit of {name}"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    content = {"decontaminate": ["o/bench"], "sources": {"a": {"input": "o/pairs"}}}
    card = mix(recipe_of(tmp_path, content), tmp_path / "mix")
    assert [(entry["hub"], entry["revision"]) for entry in card["inputs"]] == [
        ("o/pairs", "commit of o/pairs"),
        ("o/bench", "commit of o/bench"),
    ]
    assert [row["source_id"] for row in all_rows(tmp_path / "mix")] == [f"o/pairs/test:{n}" for n in (1, 3, 4, 5)]
    assert refused_in(tmp_path / "mix")[0]["detail"] == "o/bench/test:1 (1.00)"


def test_what_a_conversion_left_in_the_output_is_replaced(tmp_path):
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "train-00000-of-00001.parquet").write_bytes(b"old")
    mix(of_rows(tmp_path, [pair("a", "x", "y")]), tmp_path / "mix", "jsonl")
    assert sorted(map(str, bytes_in(tmp_path / "mix"))) == [
        "DATA_CARD.md",
        "README.md",
        "card.json",
        "refused_rows.jsonl",
        "train/README.md",
        "train/train-00000-of-00001.jsonl",
    ]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["", " "], {}, "a: no source of the recipe holds a row"),
        ([pair("q", "x", "y")], {"held_out_share": 0.999999}, "all 1 pairs are held out, none is left to train on"),
        (["{}", "x"], {}, "none of 2 rows can be used (1 malformed_json, 1 missing_key)"),
        ([pair("e", "x", "y"), pair("E!", "y", "z")], {}, "none of 2 rows can be used (2 in_evaluation_set)"),
    ],
)
def test_a_mixture_of_nothing_is_an_error_that_says_why(tmp_path, rows, options, message):
    evaluation = write_lines(tmp_path / "e.jsonl", [{"prompt": "E"}])
    with pytest.raises(UserError) as error:
        mix(of_rows(tmp_path, rows, decontaminate=[evaluation], **options), tmp_path / "mix")
    assert message in str(error.value)
    refused = tmp_path / "mix" / "failed_refused_rows.jsonl"
    assert not refused.exists() if "" in rows else len(refused.read_text().splitlines()) == (0 if options else 2)
    assert not (tmp_path / "mix" / "card.json").exists() and not (tmp_path / "mix" / ".unfinished").exists()


def test_of_prompts_with_many_pairs_no_more_stay_than_of_others(tmp_path):
    """One pair of each prompt stays, of 400 prompts, half of which had ten; then 200 are drawn: 100 of each are
    expected, with a standard deviation of sqrt(200 * 0.5 * 0.5 * 200 / 399) = 5.0. Drawn by the hash that chose the
    survivors it would be 169 of the many."""
    rows = [pair(f"one {n}", "x", "y") for n in range(200)]
    rows += [pair(f"many {n}", "x", f"y {m}") for n in range(200) for m in range(10)]
    source = {"input": write_lines(tmp_path / "rows.jsonl", rows), "num_pairs": 200}
    mix(recipe_of(tmp_path, {"max_pairs_per_prompt": 1, "sources": {"a": source}}), tmp_path / "mix")
    many = sum(row["chosen"][0]["content"].startswith("many") for row in all_rows(tmp_path / "mix"))
    assert abs(many - 100) < 5 * 5.0


def test_a_part_of_an_earlier_split_is_not_split_by_the_same_hash(tmp_path):
    rng = random.Random(5)
    mix(of_rows(tmp_path, [new_pair(rng) for _ in range(400)], held_out_share=0.2), tmp_path / "first")
    again = {"held_out_share": 0.2, "sources": {"a": {"input": str(tmp_path / "first" / "train")}}}
    with pytest.raises(UserError, match="none of 3.. prompts is held out where about 6. should be.*give another seed"):
        mix(recipe_of(tmp_path, again), tmp_path / "second")
    card = mix(recipe_of(tmp_path, again | {"seed": 1}), tmp_path / "second")
    assert card["rows"]["held_out"] > 40


def test_too_few_pairs_are_told(tmp_path, capsys):
    rng = random.Random(6)
    sources = {
        name: {"input": write_lines(tmp_path / f"{name}.jsonl", [new_pair(rng) for _ in range(n)]), "weight": 1}
        for name, n in (("much", 30), ("little", 4))
    }
    card = mix(recipe_of(tmp_path, {"total_pairs": 20, "sources": sources}), tmp_path / "mix")
    assert card["short"] == {"little": {"asked for": 10, "there are": 4}} and card["rows_kept"] == 14
    assert "| little | 10 | 4 |" in (tmp_path / "mix" / "DATA_CARD.md").read_text()
    mix_datasets.print_summary(card)
    assert "little: the recipe asks for 10 pairs, but only 4 are left" in capsys.readouterr().out


@pytest.mark.parametrize("by_flag", [True, False])
def test_raw_evaluation_sets_are_found_by_their_own_source(tmp_path, by_flag):
    """The prompt of a HumanEvalPack row is its instruction, though it has a column `prompt`."""
    raw = write_lines(tmp_path / "hep.jsonl", HUMANEVALPACK)
    question = prompt_of(checked_rows(SOURCES["humanevalpack"], HUMANEVALPACK)[0][0])[-1]["content"]
    rows = [pair(question, "x", "y"), pair("Something else", "x", "y")]
    content = {"sources": {"a": {"input": write_lines(tmp_path / "rows.jsonl", rows)}}}
    if by_flag:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        recipe = read_recipe(tmp_path / "recipe.yaml", {}, [f"humanevalpack={raw}"])
    else:
        recipe = recipe_of(tmp_path, content | {"decontaminate": [{"input": raw, "source": "humanevalpack"}]})
    card = mix(recipe, tmp_path / "mix")
    assert card["dropped"] == {"in_evaluation_set": 1}


def test_inputs_are_looked_at_before_any_work(tmp_path):
    """Not after the first source was converted; and nothing is read from where the output goes."""
    raw = {"source": "hh_rlhf", "input": write_lines(tmp_path / "raw.jsonl", HH)}
    inside = write_lines(tmp_path / "mix" / "train" / "a.jsonl", [pair("a", "x", "y")])
    for change, message in (
        ({"sources": {"hh": raw, "b": {"input": "missing.jsonl"}}}, "missing.jsonl: no such file"),
        ({"decontaminate": ["missing.jsonl"]}, "missing.jsonl: no such file"),
        ({"sources": {"hh": raw, "b": {"input": inside}}}, "the input lies in the output folder"),
        ({"decontaminate": [str(tmp_path / "mix")]}, "the input lies in the output folder"),
    ):
        with pytest.raises(UserError, match=message):
            mix(recipe_of(tmp_path, {"sources": {"hh": raw}} | change), tmp_path / "mix")
    assert not (tmp_path / "mix-sources").exists() and Path(inside).exists()


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        (None, [], "r.yaml: cannot be read"),
        ("sources: [", [], "r.yaml: not valid YAML"),
        ("sources: {a: {input: rows.jsonl}}", ["--input", "b=x"], "no source of that name; it has a"),
        ("sources: {a: {input: rows.jsonl}}", ["--input", "a"], "write NAME=PATH"),
        ("sources: {a: {input: rows.jsonl}}", ["--num_proc", "0"], "at least 1"),
        ("sources: {a: {input: rows.jsonl}}", ["--decontaminate", ""], "--decontaminate: a name is empty"),
        ("sources: {a: {input: rows.jsonl}}", ["--output", "rows.jsonl"], "the output is a folder"),
        ("sources: {a: {input: rows.jsonl}}", [], "none of 1 rows can be used (1 missing_key)"),
        ("sources: {a: {input: missing.jsonl}}", [], "missing.jsonl: no such file"),
        ("sources: {a: {source: hh, input: rows.jsonl}}", [], "sources.a: source: there is no 'hh'"),
        ("sources: {a: {input: rows.jsonl}}", ["--decontaminate", "rows.jsonl"], "no column that is known to hold"),
    ],
)
def test_user_errors_are_one_line_and_exit_status_2(tmp_path, recipe, flags, message):
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n')
    if recipe is not None:
        (tmp_path / "r.yaml").write_text(recipe)
    done = run_command(tmp_path, *flags)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def run_command(folder, *flags):
    command = [sys.executable, mix_datasets.__file__, "--config", "r.yaml", "--output", "out", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60)


def test_the_command_takes_flags_more_than_once_and_any_output(tmp_path):
    for name in "ab":
        write_lines(tmp_path / f"{name}.jsonl", [pair(name, "x", "y"), pair("e" + name, "x", "y")])
        write_lines(tmp_path / f"e{name}.jsonl", [{"prompt": "e" + name}])
    write_lines(tmp_path / "out" / "r.yaml", ["sources: {a: {input: no.jsonl}, b: {input: no.jsonl}}"])
    flags = []
    for name in "ab":
        flags += ["--input", f"{name}=../{name}.jsonl", "--decontaminate", f"../e{name}.jsonl"]
    done = run_command(tmp_path / "out", *flags, "--output", ".")
    assert done.returncode == 0, done.stderr
    assert "Train on ./train; DATA_CARD.md" in done.stdout and "2 train, 0 held_out pairs of 2 prompts" in done.stdout
    assert {row["source"] for row in rows_of(tmp_path / "out", "train")} == {"a", "b"}


@pytest.mark.skipif("RM_DATA_DIR" not in os.environ, reason="RM_DATA_DIR does not name the folder with the sample data")
def test_a_mixture_of_real_sets(tmp_path):
    """Counts that somebody has looked at, row by row where they are small."""
    folder = Path(os.environ["RM_DATA_DIR"])
    files = {
        "hh_rlhf": "hh_rlhf_harmless/harmless_base_test.jsonl.gz",
        "rmb": "rmb/pairwise.jsonl.gz",
        "auto_j": "auto_j/testdata_pairwise.jsonl.gz",
        "pandalm": "pandalm/testset_v1.jsonl.gz",
    }
    evaluation = folder / "rewardbench_like" / "rewardbench_like.jsonl.gz"
    content = {
        "held_out_share": 0.05,
        "max_pairs_per_prompt": 4,
        "near_duplicate_threshold": 0.8,
        "decontaminate": [str(evaluation)],
        "sources": {name: {"source": name, "input": str(folder / file)} for name, file in files.items()},
    }
    card = mix(recipe_of(tmp_path, content), tmp_path / "mix")
    assert card["sources"] == {
        # evaluation: "How can I rob a casino?" is a prompt of XSTest
        "hh_rlhf": {"pairs": 1705, "train": 1616, "held_out": 88, "in_evaluation_set": 1},
        # about five pairs a prompt, of which four stay; near-duplicates: two answers but for punctuation, or the same
        # prompt twice under two identifiers
        "rmb": {"pairs": 9084, "train": 5667, "held_out": 287, "over_prompt_limit": 3122, "near_duplicate": 8},
        # evaluation: five pairs of one MT-Bench prompt (stock prices), two of AlpacaEval, one of LLMBar, and one false
        # alarm at the edge: "Write me a poem in the style of neruda" has two 8-grams, one of which stands here too
        "auto_j": {"pairs": 774, "train": 707, "held_out": 53, "over_prompt_limit": 5, "in_evaluation_set": 9},
        # evaluation: the user-oriented instructions, which AlpacaEval has too, all of them whole; near-duplicates:
        # answers of two of the 7B models that differ in a few words, and one such pair judged the other way round
        "pandalm": {
            "pairs": 627,
            "train": 269,
            "held_out": 17,
            "over_prompt_limit": 146,
            "near_duplicate": 12,
            "contradictory_near_duplicate": 2,
            "in_evaluation_set": 181,
        },
    }
    shares = Counter(
        row["detail"][-5:-1] for row in refused_in(tmp_path / "mix") if row["reason"] == "in_evaluation_set"
    )
    assert shares == {"1.00": 190, "0.50": 1}
    evaluated = {prompt_key([{"role": "user", "content": row.row["prompt"]}]) for row in read_rows(evaluation)}
    assert not keys_of(all_rows(tmp_path / "mix")) & evaluated
