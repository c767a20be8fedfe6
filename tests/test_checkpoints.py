"""Checkpoints cut off by a kill are passed over, and the one to go on with is the newest whole one or the named one."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from useful_code.training import same_run
from useful_code.training.checkpoints import MANIFEST, choose_checkpoint, is_whole, list_checkpoints, write_manifest
from useful_code.training.save_load import WholeCheckpoints
from useful_code.user_errors import UserError


def checkpoint(output_dir: Path, step: int, manifest: bool = True) -> Path:
    directory = output_dir / f"checkpoint-{step}"
    (directory / "global_step").mkdir(parents=True)  # DeepSpeed writes a folder in the folder
    (directory / "model.safetensors").write_bytes(b"weights" * 10)
    (directory / "global_step" / "optimizer.pt").write_bytes(b"state" * 10)
    (directory / "empty").touch()
    if manifest:
        write_manifest(directory)
    return directory


# --- which checkpoint is whole ---


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


DAMAGES = {
    "a file is cut off": lambda d: cut(d / "model.safetensors"),
    "a file of an inner folder is cut off": lambda d: cut(d / "global_step" / "optimizer.pt"),
    "a file grew": lambda d: (d / "model.safetensors").write_bytes(b"weights" * 11),
    "a file is gone": lambda d: (d / "model.safetensors").unlink(),
    "an empty file is gone": lambda d: (d / "empty").unlink(),
    "an inner folder is gone": lambda d: shutil.rmtree(d / "global_step"),
    "killed before the manifest": lambda d: (d / MANIFEST).unlink(),
    "the manifest is cut off": lambda d: cut(d / MANIFEST),
    "the manifest is empty": lambda d: (d / MANIFEST).write_text(""),
    "the manifest is something else": lambda d: (d / MANIFEST).write_text("[]"),
    "the manifest is no text": lambda d: (d / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "everything is gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    old, new = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert is_whole(new) and choose_checkpoint("true", str(tmp_path)) == str(new)
    assert choose_checkpoint(True, str(tmp_path)) == str(new), "a YAML file says true, not the text"
    DAMAGES[damage](new)
    assert not is_whole(new)
    assert choose_checkpoint("true", str(tmp_path)) == str(old)
    with pytest.raises(UserError, match="not a whole checkpoint"):
        choose_checkpoint(str(new), str(tmp_path))


def test_another_file_beside_the_listed_ones_does_no_harm(tmp_path):
    directory = checkpoint(tmp_path, 1)
    (directory / "notes.txt").write_text("mine")
    assert is_whole(directory)


def test_a_checkpoint_may_be_moved(tmp_path):
    moved = shutil.move(checkpoint(tmp_path, 1), tmp_path / "elsewhere")
    assert choose_checkpoint(str(moved), str(tmp_path)) == str(moved)


def test_a_manifest_written_anew_replaces_the_old_one(tmp_path):
    directory = checkpoint(tmp_path, 1)
    (directory / "model.safetensors").write_bytes(b"longer weights" * 10)
    assert not is_whole(directory)
    write_manifest(directory)
    assert is_whole(directory)
    assert set(json.loads((directory / MANIFEST).read_text())) == {
        "model.safetensors",
        "empty",
        os.path.join("global_step", "optimizer.pt"),
    }


def test_only_the_main_process_writes_the_manifest_after_all_have_written(tmp_path):
    """The others' files must be there before their sizes are taken."""
    directory = checkpoint(tmp_path, 7, manifest=False)
    events = []
    arguments = SimpleNamespace(
        output_dir=str(tmp_path),
        distributed_state=SimpleNamespace(
            wait_for_everyone=lambda: events.append(f"wait, manifest {(directory / MANIFEST).exists()}")
        ),
    )
    for is_main in (False, True):
        state = SimpleNamespace(global_step=7, is_world_process_zero=is_main)
        WholeCheckpoints({"train": "abc"}, None).on_save(arguments, state, control=None)
        assert is_whole(directory) == is_main
    assert events == ["wait, manifest False"] * 3 + ["wait, manifest True"]
    assert json.loads((directory / same_run.FILE).read_text()) == {"train": "abc"}


# --- which checkpoint is chosen ---


def test_checkpoints_after_the_resumed_step_are_not_chosen_until_written_anew(tmp_path):
    """Resumed from step 5: the lists of 5 and before stay, that of 10 goes until 10 is written again."""
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_text("w")
        write_manifest(tmp_path / f"checkpoint-{step}")
    state = SimpleNamespace(is_world_process_zero=True, global_step=5)
    WholeCheckpoints({}, None).on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert is_whole(tmp_path / "checkpoint-5") and not is_whole(tmp_path / "checkpoint-10")
    assert choose_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-5")


def test_newest_is_by_number_not_by_name_or_date(tmp_path):
    steps = [9, 100, 20]
    for step in steps:
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-300").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (100, 20, 9)]
    assert choose_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("word", ["true", "True", "auto", "latest"])
def test_every_word_for_the_newest_is_understood(tmp_path, word):
    newest = checkpoint(tmp_path, 3)
    assert choose_checkpoint(word, str(tmp_path)) == str(newest)


def test_a_given_checkpoint_is_taken_even_if_it_is_not_the_newest(tmp_path):
    first, _ = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    assert choose_checkpoint(str(first), str(tmp_path)) == str(first)


@pytest.mark.parametrize("asked", [None, "false", "False"])
def test_a_new_run_does_not_write_among_old_checkpoints(tmp_path, asked):
    assert choose_checkpoint(asked, str(tmp_path)) is None
    assert choose_checkpoint(asked, str(tmp_path / "not there")) is None
    checkpoint(tmp_path, 1, manifest=False)
    with pytest.raises(UserError, match="--resume_from_checkpoint true"):
        choose_checkpoint(asked, str(tmp_path))


@pytest.mark.parametrize("manifest", [None, False])
def test_nothing_to_resume_from_is_an_error(tmp_path, manifest):
    """Starting from scratch without a word would throw away what the user believes to continue."""
    if manifest is False:
        checkpoint(tmp_path, 1, manifest=False)
    with pytest.raises(UserError, match="no whole checkpoint"):
        choose_checkpoint("true", str(tmp_path))
    with pytest.raises(UserError, match="not a whole checkpoint"):
        choose_checkpoint(str(tmp_path / "nowhere"), str(tmp_path))
