"""What lies in an output folder: only what the last finished run made, and `datasets` reads all of it."""

import json
import os
import subprocess
import sys

import pytest

from useful_code import mix_datasets
from useful_code.converting import inputs, publishing, work
from useful_code.converting.convert import convert
from useful_code.converting.recipe import read_recipe
from useful_code.converting.work import only_run
from useful_code.read_rows import load_checked
from useful_code.user_errors import UserError


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def columns(folder, name, rows):
    return write_lines(folder / name, [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows])


def recipe_of(folder, pairs, **options):
    lines = "".join(f"{key}: {value}\n" for key, value in options.items())
    (folder / "recipe.yaml").write_text(f"{lines}sources: {{a: {{input: {pairs}}}}}\n", encoding="utf-8")
    return read_recipe(folder / "recipe.yaml", {}, [])


def names_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`datasets.load_dataset` of a folder, with a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda folder: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def test_a_conversion_replaces_a_mixture_and_a_mixture_a_conversion(tmp_path, load):
    many = columns(tmp_path, "many.jsonl", [(f"Q{n}", "good", "bad") for n in range(300)])
    one = columns(tmp_path, "one.jsonl", [("only", "good", "bad")])
    convert("columns", [many], tmp_path / "many")
    for file_format in ("parquet", "jsonl"):
        mix_datasets.mix(recipe_of(tmp_path, tmp_path / "many", held_out_share=0.3), tmp_path / "out", file_format)
        assert len(load_checked(tmp_path / "out" / "held_out")[0]) > 50
        convert("columns", [one], tmp_path / "out", file_format=file_format)
        assert names_in(tmp_path / "out") == [
            "DATA_CARD.md",
            "README.md",
            "card.json",
            "refused_rows.jsonl",
            f"train-00000-of-00001.{file_format}",
        ]
        assert len(load_checked(tmp_path / "out")[0]) == 1 and load(tmp_path / "out").num_rows == {"train": 1}


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_datasets_reads_both_parts_of_a_mixture_and_columns_that_come_late(tmp_path, load, file_format):
    """30,000 rows of some 600 bytes, scores only in the last: `datasets` looks at 10 MB at a time."""
    rows = [{"prompt": f"Q{n}", "chosen": "good " * 100, "rejected": "bad"} for n in range(30_000)]
    rows[-1] |= {"chosen_score": 2, "rejected_score": 1, "margin": 1, "label": 0.75}
    convert("trl_preference", [write_lines(tmp_path / "raw.jsonl", rows)], tmp_path / "all", file_format=file_format)
    whole = load(tmp_path / "all")["train"]
    scored = [row for row in whole if row["chosen_score"] is not None]
    assert len(whole) == 30_000 and len(scored) == 1 and scored[0]["label"] == 0.75
    card = mix_datasets.mix(recipe_of(tmp_path, tmp_path / "all", held_out_share=0.1), tmp_path / "mix", file_format)
    loaded = load(tmp_path / "mix")
    assert loaded.num_rows == {"train": card["rows"]["train"], "test": card["rows"]["held_out"]}
    assert loaded["train"].features == loaded["test"].features == whole.features
    for part, split in (("train", "train"), ("held_out", "test")):
        assert load(tmp_path / "mix" / part).num_rows == {split: card["rows"][part]}


@pytest.mark.parametrize("source", ["helpsteer_ratings", "math_shepherd_trl"])
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_datasets_reads_ratings_and_steps(tmp_path, load, source, file_format):
    rated = {"prompt": "Q", "response": "A", "helpfulness": 3, "correctness": 3, "coherence": 4, "complexity": 1}
    steps = {"prompt": "1 + 1?", "completions": ["It is 2."], "labels": [True]}
    row = steps if source == "math_shepherd_trl" else rated | {"verbosity": 2}
    convert(source, [write_lines(tmp_path / "raw.jsonl", [row])], tmp_path / "out", file_format=file_format)
    (loaded,) = load(tmp_path / "out")["train"]
    checked = load_checked(tmp_path / "out", check=lambda row: row)[0][0]
    assert {key: value for key, value in loaded.items() if value is not None} == {
        key: value for key, value in checked.items() if value is not None
    }


def test_a_failed_run_leaves_the_older_output_whole(tmp_path):
    good = columns(tmp_path, "good.jsonl", [("Q", "good", "bad"), ("R", "same", "same")])
    bad = columns(tmp_path, "bad.jsonl", [("Q", "same", "same")])
    convert("columns", [good], tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names_in(tmp_path / "out")}
    with pytest.raises(UserError, match="failed_refused_rows"):
        convert("columns", [bad], tmp_path / "out")
    assert set(names_in(tmp_path / "out")) == {*before, "failed_refused_rows.jsonl"}
    for name, content in before.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    assert len(load_checked(tmp_path / "out")[0]) == 1
    columns(tmp_path, "good.jsonl", [("other", "good", "bad")])
    convert("columns", [good], tmp_path / "out")
    assert "failed_refused_rows.jsonl" not in names_in(tmp_path / "out")


@pytest.mark.parametrize("name", ["refused_rows.jsonl", "DATA_CARD.md", "train-00000-of-00001.parquet"])
def test_an_output_that_lost_a_file_is_made_again(tmp_path, name, capsys):
    raw = columns(tmp_path, "raw.jsonl", [("Q", "good", "bad"), ("R", "same", "same")])
    convert("columns", [raw], tmp_path / "out")
    before = {file: (tmp_path / "out" / file).read_bytes() for file in names_in(tmp_path / "out")}
    convert("columns", [raw], tmp_path / "out")
    assert "already made" in capsys.readouterr().err
    (tmp_path / "out" / name).unlink()
    convert("columns", [raw], tmp_path / "out")
    assert "already made" not in capsys.readouterr().err
    assert before == {file: (tmp_path / "out" / file).read_bytes() for file in names_in(tmp_path / "out")}


@pytest.mark.parametrize("kept", range(6))
def test_a_kill_while_the_work_folder_is_removed_leaves_nothing_to_be_trusted(tmp_path, monkeypatch, kept):
    """Whatever the kill leaves of it, the next run, with another format, makes its own."""
    raw = columns(tmp_path, "raw.jsonl", [(f"Q{n}", "good", "bad") for n in range(5)])

    def killed(folder):
        for file in sorted(file for file in folder.rglob("*") if file.is_file())[kept:]:
            file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(work.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            convert("columns", [raw], tmp_path / "out")
    assert (tmp_path / "out" / ".unfinished").exists()
    convert("columns", [raw], tmp_path / "out", file_format="jsonl")
    assert len(load_checked(tmp_path / "out")[0]) == 5 and not (tmp_path / "out" / ".unfinished").exists()


def test_a_kill_before_the_work_folder_is_gone_is_mended_by_the_same_command(tmp_path, monkeypatch):
    raw = columns(tmp_path, "raw.jsonl", [("Q", "good", "bad")])
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "discard_work", lambda work: None)
        convert("columns", [raw], tmp_path / "out")
    assert (tmp_path / "out" / ".unfinished").exists()
    convert("columns", [raw], tmp_path / "out")
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_two_runs_on_one_output(tmp_path):
    raw = columns(tmp_path, "raw.jsonl", [("Q", "good", "bad")])
    (tmp_path / "out").mkdir()
    with only_run(tmp_path / "out"), pytest.raises(UserError, match="out: another run is writing here"):
        convert("columns", [raw], tmp_path / "out")
    convert("columns", [raw], tmp_path / "out")  # the lock went with its holder


def test_input_and_output_lie_apart(tmp_path):
    raw = tmp_path / "data" / "raw.jsonl"
    raw.parent.mkdir()
    columns(raw.parent, raw.name, [("Q", "good", "bad")])
    with pytest.raises(UserError, match="the output lies in the input folder"):
        convert("columns", [str(raw.parent)], raw.parent / "out")
    with pytest.raises(UserError, match="the input lies in the output folder"):
        convert("columns", [str(raw)], raw.parent)
    convert("columns", [str(raw)], raw.parent / "out")  # a file beside it is no folder that would be read again


def test_an_input_that_cannot_be_read_is_named_not_the_output(tmp_path, monkeypatch):
    """Also if the permission is missing where the file is only hashed; the tests may run as root, who reads all."""
    raw = columns(tmp_path, "raw.jsonl", [("Q", "good", "bad")])

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(inputs, "sha256_of", denied)
    with pytest.raises(UserError, match=r"raw.jsonl: cannot be read \(Permission denied\)"):
        convert("columns", [raw], tmp_path / "out")


def run(folder, *words):
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)


def test_a_hub_name_without_a_hub_is_one_line(tmp_path):
    """In a process of its own: what another test has imported must not help."""
    script = os.path.join(os.path.dirname(mix_datasets.__file__), "convert_dataset.py")
    finished = run(tmp_path, script, "--source", "hh_rlhf", "--input", "nobody/nothing", "--output", "out")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("error: nobody/nothing: no such file or folder")


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jsonl")
    columns(tmp_path, name, [("Q", "good", "bad"), ("R", "same", "same")])
    card = convert("columns", [str(tmp_path / name)], tmp_path / "out")
    assert card["inputs"][0]["file"] == "caf\\udce9.jsonl"
    refused = json.loads((tmp_path / "out" / "refused_rows.jsonl").read_text())
    assert refused["file"] == "caf\\udce9.jsonl" and load_checked(tmp_path / "out")[0][0]["source_id"].startswith("caf")


@pytest.mark.parametrize("gap", [-1, float("nan"), float("inf")])
def test_a_gap_must_be_a_number(tmp_path, gap):
    from useful_code.converting.checked import Options

    raw = columns(tmp_path, "raw.jsonl", [("Q", "good", "bad")])
    with pytest.raises(UserError, match="--min_gap is"):
        convert("columns", [raw], tmp_path / "out", options=Options(min_gap=gap))


def test_hub_options_without_a_hub_data_set(tmp_path):
    raw = columns(tmp_path, "raw.jsonl", [("Q", "good", "bad")])
    with pytest.raises(UserError, match="--config_name belongs to data sets of the hub"):
        convert("columns", [raw], tmp_path / "out", name="main")
