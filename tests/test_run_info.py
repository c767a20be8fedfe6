"""run.json: complete, valid JSON, no secret in it, and the right commit."""

import json
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from useful_code import run_info


class Strategy(Enum):
    STEPS = "steps"


def git(folder, *arguments):
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True)


def written(tmp_path, arguments, **extra):
    path = run_info.write_run_info(tmp_path / "run", arguments, time.time() - 90, **extra)
    assert path == tmp_path / "run" / "run.json" and [entry.name for entry in path.parent.iterdir()] == ["run.json"]
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_record_has_what_a_reported_number_needs(tmp_path):
    record = written(tmp_path, {"seed": 7, "learning_rate": 1e-5}, accuracy=0.5)
    assert record["seed"] == 7 and record["arguments"] == {"seed": 7, "learning_rate": 1e-5}
    assert record["accuracy"] == 0.5
    assert 1.5 <= record["minutes"] < 3
    assert record["hardware"]["cpu"] and record["hardware"]["cores"] >= 1 and record["hardware"]["memory_gib"] > 0.1
    assert record["packages"]["numpy"] == np.__version__ and "deepspeed-not-there" not in record["packages"]
    assert record["peak_memory_gib"] > 0.01 and record["num_processes"] == 1
    assert record["python"].startswith(f"3.{sys.version_info.minor}.")
    assert record["started"] < record["finished"]


def test_values_that_json_cannot_hold_become_plain(tmp_path):
    arguments = {
        "path": Path("a/b"),
        "strategy": Strategy.STEPS,
        "nothing": None,
        "loss": float("nan"),
        "limits": (1, float("inf")),
        "names": {"b", "a"},
        "rate": np.float32(0.5),
        "matrix": np.eye(2),
        "nested": {3: object},
        "dtype": np.float32,
        "flag": True,
        "text": "é",
    }
    plain = written(tmp_path, arguments)["arguments"]
    assert plain == {
        "path": "a/b",
        "strategy": "steps",
        "nothing": None,
        "loss": "nan",
        "limits": [1, "inf"],
        "names": ["a", "b"],
        "rate": 0.5,
        "matrix": [[1, 0], [0, 1]],
        "nested": {"3": "<class 'object'>"},
        "dtype": "<class 'numpy.float32'>",
        "flag": True,
        "text": "é",
    }


def test_no_secret_and_no_environment_variable_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "environment-content")
    token = "hf_" + "A1b2" * 8
    monkeypatch.setattr(
        sys,
        "argv",
        ["train.py", "--hub_token", "first-secret", "--hub-token=second-secret", "--api_key", "third-secret"]
        + ["--note", f"x {token}", "--pad_token", "<pad>", "--url", "https://me:fourth-secret@host/x"],
    )
    arguments = {
        "hub_token": "first-secret",
        "nested": {"wandb_api_key": "third-secret", "PASSWORD": "fourth-secret"},
        "note": [token],
        "pad_token": "<pad>",
        "max_length_tokens": 512,
        "empty_token": None,
    }
    record = written(tmp_path, arguments)
    text = json.dumps(record)
    assert "secret" not in text and token not in text and "environment-content" not in text
    assert record["arguments"]["pad_token"] == "<pad>" and record["arguments"]["max_length_tokens"] == 512
    assert record["arguments"]["empty_token"] is None and record["arguments"]["hub_token"] == "<redacted>"
    assert "--pad_token '<pad>'" in record["command"] and "https://<redacted>@host/x" in record["command"]


def test_flag_after_a_secret_without_value_is_kept():
    assert run_info.redacted_command(["t.py", "--token", "--seed", "1"]) == "t.py --token --seed 1"
    assert run_info.redacted_command(["t.py", "a b"]) == "t.py 'a b'"


def test_commit_of_the_repository_that_holds_the_script(tmp_path):
    script = tmp_path / "repository" / "folder" / "train.py"
    script.parent.mkdir(parents=True)
    script.write_text("print()\n")
    assert run_info.git_commit(script) == "unknown"
    git(script.parents[1], "init", "-q")
    assert run_info.git_commit(script) == "unknown"  # no commit yet
    git(script.parents[1], "add", ".")
    git(script.parents[1], "commit", "-qm", "first")
    commit = run_info.git_commit(script)
    assert len(commit) == 40 and run_info.git_commit(script.parent) == commit
    (script.parent / "notes.txt").write_text("an untracked file changes nothing")
    assert run_info.git_commit(script) == commit
    assert run_info.git_commit(script.parent / "notes.txt") == f"{commit}+dirty"  # the script itself is untracked
    script.write_text("print(1)\n")
    assert run_info.git_commit(script) == f"{commit}+dirty"


def test_git_variables_of_a_hook_do_not_mislead(tmp_path, monkeypatch):
    repository = tmp_path / "other"
    repository.mkdir()
    git(repository, "init", "-q")
    git(repository, "commit", "-qm", "x", "--allow-empty")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert run_info.git_commit(tmp_path) == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_info.git_commit() == "unknown"


def test_extra_cannot_replace_a_field(tmp_path):
    with pytest.raises(ValueError, match="already has its own commit, seed"):
        run_info.write_run_info(tmp_path, {}, time.time(), seed=1, commit="mine")
    assert not (tmp_path / "run.json").exists()


def test_failed_write_leaves_the_old_record(tmp_path, monkeypatch):
    run_info.write_run_info(tmp_path, {"seed": 1}, time.time())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        run_info.write_run_info(tmp_path, {"seed": 2}, time.time())
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(("announced", "expected"), [(None, 1), ("2", 2), ("", 1)])
def test_number_of_processes_as_the_launcher_announced(monkeypatch, announced, expected):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if announced is not None:
        monkeypatch.setenv("WORLD_SIZE", announced)
    assert run_info.num_processes() == expected


def test_peak_memory_is_that_of_the_process_not_of_its_parent():
    """A small child of a parent that held 300 MiB more says what the child held."""
    child = "from useful_code.run_info import peak_memory_gib; print(peak_memory_gib())"
    parent = (
        "import subprocess, sys; held = bytearray(b'x') * (300 * 2**20);"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    printed = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    assert 0 < float(printed) < 0.25
