"""Self-training: labels come from the model alone, every round from the last one's, and every stage goes on.

Travels with the folder when it is copied.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pseudo_label
import pytest
import report_rounds
import self_train
import torch
from hide_labels import hidden
from hypothesis import given
from hypothesis import strategies as st
from pseudo_label import Choice, card_of, choose, pseudo_labelled
from report_rounds import audited
from train_ssrm import Arguments, collate_pairs, load_pairs, targets_of, verdict_loss
from transformers import AutoModelForCausalLM

from useful_code.pair_prompt import LABELS, read_verdicts
from useful_code.read_rows import RowCounts
from useful_code.render import read_template
from useful_code.scoring import Scorer
from useful_code.tiny import byte_tokenizer, save_tiny_judge, save_tiny_model
from useful_code.user_errors import exit_cleanly

HERE = Path(__file__).parent


def row(number: int, better: str = "!!!", worse: str = "...", **columns) -> dict:
    question = {"role": "user", "content": f"Say {number}"}
    sides = {"chosen": better, "rejected": worse}
    return {
        side: [question, {"role": "assistant", "content": f"{number}{mark}"}] for side, mark in sides.items()
    } | columns


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_here(module, *flags) -> None:
    """A command of this folder inside this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__file__, *map(str, flags)])
        exit_cleanly(module.main)


def refused(capsys, module, *flags) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_here(module, *flags)
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ")
    return last_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny judges of different opinions, a scalar model, and rows without labels with their audit."""
    folder = tmp_path_factory.mktemp("ssrm")
    save_tiny_judge(folder / "judge", initializer_range=0.5)
    save_tiny_judge(folder / "other", seed=1, initializer_range=0.5)
    save_tiny_model(folder / "scalar", initializer_range=0.5)
    pairs = [hidden(row(number), number, seed=0) for number in range(24)]
    write(folder / "unlabelled.jsonl", [unlabelled for unlabelled, _ in pairs])
    write(folder / "audit.jsonl", [audit for _, audit in pairs])
    write(folder / "labelled.jsonl", [row(number) for number in range(100, 120)])
    return folder


def label(folder: Path, output: Path, *flags) -> tuple[list[dict], list[dict]]:
    """Kept pairs and predictions of the command on the folder's rows. `flags` come last and win."""
    given_flags = ("--reward_name_or_path", folder / "judge", "--unlabelled", folder / "unlabelled.jsonl")
    run_here(pseudo_label, *given_flags, "--output", output, "--threshold", "0.6", *flags)
    return read(output / "pairs.jsonl"), read(output / "predictions.jsonl")


def winners_and_losers(pairs: list[dict]) -> set[tuple[str, str, str]]:
    return {tuple(each[side][-1]["content"] for side in ("chosen", "rejected")) for each in pairs}


# --- the choice (METHODS 3.9) ---


def test_the_label_is_what_the_model_says():
    """Check 1: p(a1) = 0.1 gives a2 with confidence 0.9, whatever the truth is."""
    choice = choose(0.1, 0.8)
    assert choice == Choice(winner=1, confidence=0.9, kept=True)
    unlabelled = {"id": 7, "prompt": [{"role": "user", "content": "Q"}], "responses": ["a1", "a2"]}
    pair = pseudo_labelled(unlabelled, choice, soft=False)
    assert [pair[side][-1]["content"] for side in ("chosen", "rejected")] == ["a2", "a1"]
    assert (pair["id"], pair["pseudo_label"], pair["confidence"]) == (7, True, 0.9) and "label" not in pair
    assert pseudo_labelled(unlabelled, choice, soft=True)["label"] == 0.9


@given(st.floats(0, 1), st.lists(st.floats(0.5, 1.5), min_size=2, max_size=2))
def test_confidence_and_thresholds(probability, thresholds):
    """Check 4: confidence lies in [0.5, 1]; a higher threshold keeps no more; 1 and over keep none; equality is out."""
    low, high = (choose(probability, threshold) for threshold in sorted(thresholds))
    assert 0.5 <= low.confidence <= 1 and low[:2] == high[:2] and low.kept >= high.kept
    assert not choose(probability, 1.0).kept and not choose(probability, low.confidence).kept
    mirrored = choose(1 - probability, 0.75)
    assert mirrored.winner != low.winner or abs(probability - 0.5) < 1e-9


# --- the command ---


def test_shuffled_responses_give_the_same_winners_and_losers(folder, tmp_path):
    """Check 2, and what is kept is what is over the threshold."""
    pairs, predictions = label(folder, tmp_path / "straight")
    assert 0 < len(pairs) < len(predictions) == 24
    turned = [each | {"responses": each["responses"][::-1]} for each in read(folder / "unlabelled.jsonl")]
    again, mirrored = label(folder, tmp_path / "turned", "--unlabelled", write(tmp_path / "turned.jsonl", turned))
    assert winners_and_losers(again) == winners_and_losers(pairs)
    for one, other in zip(predictions, mirrored, strict=True):
        assert one["p"] == pytest.approx(1 - other["p"], abs=1e-5) and one["kept"] == other["kept"]
        assert one["kept"] == (max(one["p"], 1 - one["p"]) > 0.6)
    kept = {each["id"] for each in pairs}
    assert kept == {each["id"] for each in predictions if each["kept"]}


def test_audit_labels_cannot_reach_the_output(folder, tmp_path, capsys):
    """Check 3: with the true labels turned round, the file without labels is the same, byte for byte; and so is what
    comes of it. A file with labels is not read."""
    straight = [hidden(row(number), number, seed=3) for number in range(40)]
    turned = [hidden(row(number, "...", "!!!"), number, seed=3) for number in range(40)]
    assert [one for one, _ in straight] == [one for one, _ in turned]
    assert [one["winner"] for _, one in straight] == [1 - one["winner"] for _, one in turned]
    split_vote = hidden(row(1, label=0.5, tie=False), 1, seed=3)[1]
    assert split_vote["winner"] is None
    firsts = np.mean([one["winner"] for _, one in straight])
    assert 0.2 < firsts < 0.8  # neither place is the better one
    labelled = write(tmp_path / "rows.jsonl", [row(1)])
    message = refused(capsys, pseudo_label, "--reward_name_or_path", folder / "judge", "--unlabelled", labelled,
                      "--output", tmp_path / "out")  # fmt: skip
    assert "row 1 has the column 'chosen'" in message and "hide_labels.py" in message
    for module in (pseudo_label, self_train):
        assert "audit" not in Path(module.__file__).read_text(encoding="utf-8").split('"""')[2]  # no such flag


def test_a_scalar_model_labels_by_the_difference_of_its_rewards(folder, tmp_path):
    pairs, predictions = label(folder, tmp_path / "out", "--reward_name_or_path", folder / "scalar")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["kind"] == "scalar" and card["position_bias"] == 0 and len(predictions) == 24
    assert {round(each["p"], 3) for each in predictions} != {0.5} and card["kept"] == len(pairs)


def test_rows_that_cannot_be_used_are_counted_and_written(folder, tmp_path):
    rows = read(folder / "unlabelled.jsonl")[:3]
    bad = [
        rows[0] | {"id": rows[1]["id"]},
        rows[0] | {"id": "x", "responses": ["one"]},
        rows[0] | {"id": "y", "responses": ["same", " same"]},
        rows[0] | {"id": ["z"]},
        rows[0] | {"id": "long", "responses": ["a" * 500, "b"]},
    ]
    unlabelled = write(tmp_path / "rows.jsonl", [*rows, *bad])
    _, predictions = label(folder, tmp_path / "out", "--unlabelled", unlabelled, "--max_length", "300")
    assert [each["id"] for each in predictions] == [each["id"] for each in rows]
    reasons = [each["reason"] for each in read(tmp_path / "out" / "refused_rows.jsonl")]
    assert reasons == ["duplicate_id", "wrong_type", "equal_responses", "wrong_type", "over_max_length"]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["rows_read"] == 8 and sum(card["refused"].values()) == 5 and card["rows"] == 3


def test_chunks_change_nothing(folder, tmp_path):
    _, whole = label(folder, tmp_path / "whole")
    _, chunked = label(folder, tmp_path / "chunked", "--rows_per_chunk", "5")
    assert [each["id"] for each in chunked] == [each["id"] for each in whole]
    assert [each["p"] for each in chunked] == pytest.approx([each["p"] for each in whole], abs=1e-5)
    assert not list((tmp_path / "chunked").glob("*.part-*"))


def test_the_card_by_hand():
    """p = 0.95, 0.30, 0.55, 0.50 with biases 0, 0.6, 0.3, 0: confidences 0.95, 0.7, 0.55, 0.5."""

    class Given:
        reward_name_or_path, unlabelled, threshold, temperature = "m", "u", 0.65, 1.0
        orders_must_agree = soft_labels = False

    rows = np.array([[0.95, 0, 1, 1], [0.30, 0.6, 1, 0], [0.55, 0.3, 0, 0], [0.5, 0, 0, 1]])
    scorer = Scorer(None, None, 0, "print", 1, None)
    card = card_of(rows, Given, scorer, RowCounts("u", 4, 4))
    assert card["kept"] == 2 and card["kept_share"] == 0.5 and card["flip_rate"] == 0.5
    assert card["mean_confidence"] == pytest.approx(0.675) and card["position_bias"] == pytest.approx(0.225)
    assert [(one["rows"], one["kept"]) for one in card["bins"]] == [(2, 0), (1, 1), (0, 0), (0, 0), (1, 1)]
    predictions = [
        {"id": i, "p": p, "winner": int(p <= 0.5), "kept": bool(kept)} for i, (p, _, kept, _) in enumerate(rows)
    ]
    found = audited(predictions, {0: 0, 1: 0, 2: 0}, card["bins"])
    assert found["kept"]["accuracy"] == 0.5 and found["all"]["rows"] == 3
    assert [one["accuracy"] for one in found["bins"]] == [1.0, 0.0, None, None, 1.0]


# --- the recipe ---


def test_the_loss_weighs_pseudo_labels(tmp_path):
    """softplus(-1.5) = 0.20141328 where A is right (METHODS 2.4); a soft label 0.8 gives 0.8 and 0.2 of both."""
    logits = torch.tensor([[2.0, 0.5]])
    assert verdict_loss(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.20141328)
    rows = [row(1), row(2, pseudo_label=True, label=0.8), row(3, tie=True)]
    template = read_template(byte_tokenizer())
    arguments = Arguments(dataset="-")
    pairs, counts = load_pairs(
        str(write(tmp_path / "rows.jsonl", rows)), None, template, read_verdicts(template, LABELS), arguments, None
    )
    assert [pair["pseudo"] for pair in pairs] == [False, True] and counts.refused == {"tie": 1}
    assert targets_of(pairs[1], arguments) == pytest.approx([0.8, 0.2])
    batch = collate_pairs(pairs, None)
    assert batch["pseudo"].tolist() == [False, True]
    assert batch["targets"].tolist() == [pytest.approx(t) for t in ([1, 0], [0, 1], [0.8, 0.2], [0.2, 0.8])]


TRAINING = ["--learning_rate", "3e-3", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]


@pytest.mark.slow  # six commands one after the other
def test_two_rounds_of_the_real_commands(folder, tmp_path):
    """Round 1 trains on the labelled rows, each once, and on what the model of round 0 was sure of; it moves."""
    command = [sys.executable, HERE / "self_train.py", "--labelled", folder / "labelled.jsonl", "--unlabelled"]
    command += [folder / "unlabelled.jsonl", "--output_dir", tmp_path / "run", "--threshold", "0.5", "--rounds", "1"]
    command += ["--held_out_share", "0.3", "--model_name_or_path", folder / "judge", *TRAINING]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    train_rows, held_out = read(tmp_path / "run/round-1/train.jsonl"), read(tmp_path / "run/held_out.jsonl")
    labelled = [each for each in train_rows if not each.get("pseudo_label")]
    assert winners_and_losers(labelled + held_out) == winners_and_losers(read(folder / "labelled.jsonl"))
    assert len(labelled) + len(held_out) == 20  # METHODS 3.9, check 5
    assert train_rows[len(labelled) :] == read(tmp_path / "run/round-1/pseudo/pairs.jsonl")
    card = json.loads((tmp_path / "run/round-1/pseudo/card.json").read_text())
    assert card["model"] == str(tmp_path / "run/round-0/model")  # check 7
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / f"run/round-{t}/model") for t in (0, 1))
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)
    record = json.loads((tmp_path / "run/round-1/model/run.json").read_text())
    assert record["held_out"]["pairs"] == len(held_out)
    run_here(report_rounds, "--output_dir", tmp_path / "run", "--audit", folder / "audit.jsonl")
    rounds = json.loads((tmp_path / "run/rounds.json").read_text())
    assert rounds[1]["audit"]["all"]["rows"] == 24 and 0 <= rounds[1]["audit"]["kept"]["accuracy"] <= 1
    page = (tmp_path / "run/report.html").read_text()
    assert "kept labels right" in page and "rounds" in page


STUB = """
import json, os, shutil, sys, time
from pathlib import Path
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(flags["--output_dir"])
log = Path(flags["--log"])
log.open("a").write(json.dumps(flags) + "\\n")
if log.with_name("sleep").exists():
    log.with_name("pid").write_text(str(os.getpid()))
    time.sleep(120)
if log.with_name("die").exists():
    sys.exit(1)
shutil.copytree(flags["--model_name_or_path"], folder, dirs_exist_ok=True)
held_out = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}
(folder / "run.json").write_text(json.dumps({"held_out": held_out, "minutes": 0.1, "num_train": 9}))
"""


@pytest.fixture
def stub(folder, tmp_path, monkeypatch):
    """Flags of a run whose recipe only copies the model; its calls are in `log`. The other stages are run inside this
    process, which saves their start-up."""
    real = self_train.run_stage

    def run_stage(name, command):
        _, script, *flags = command
        here = {module.__file__: module for module in (pseudo_label, report_rounds)}
        if script in here:
            run_here(here[script], *flags)
        else:
            real(name, command)

    monkeypatch.setattr(self_train, "run_stage", run_stage)
    recipe = tmp_path / "train_stub.py"
    recipe.write_text(STUB)
    labelled, unlabelled = (
        write(tmp_path / name, read(folder / name)) for name in ("labelled.jsonl", "unlabelled.jsonl")
    )
    flags = ["--labelled", labelled, "--unlabelled", unlabelled, "--threshold", "0.6", "--output_dir", tmp_path / "run"]
    flags += ["--recipe", recipe, "--model_name_or_path", folder / "judge", "--log", tmp_path / "log"]
    return list(map(str, flags))


def test_a_stopped_run_goes_on_with_the_stage_that_failed(folder, stub, tmp_path, capsys):
    """What was done is not done again; every round starts from the model before it."""
    flags = [*stub, "--start_from", "previous"]
    run_here(self_train, *flags)
    assert len(read(tmp_path / "log")) == 2
    (tmp_path / "die").touch()
    assert "round 2: training failed" in refused(capsys, self_train, *flags, "--rounds", "2")
    (tmp_path / "die").unlink()
    before = (tmp_path / "run/round-2/pseudo/card.json").stat().st_mtime_ns
    run_here(self_train, *flags, "--rounds", "2")
    calls = read(tmp_path / "log")
    assert len(calls) == 4 and (tmp_path / "run/round-2/pseudo/card.json").stat().st_mtime_ns == before
    started_from = [call["--model_name_or_path"] for call in calls]
    assert started_from == [str(folder / "judge"), *(str(tmp_path / f"run/round-{t}/model") for t in (0, 1, 1))]
    card = json.loads((tmp_path / "run/round-2/pseudo/card.json").read_text())
    assert card["model"] == str(tmp_path / "run/round-1/model")


def test_a_round_that_is_done_anew_undoes_those_after_it(stub, tmp_path):
    run_here(self_train, *stub)
    card = tmp_path / "run/round-1/pseudo/card.json"
    before = card.stat().st_mtime_ns
    (tmp_path / "run/round-0/trained").unlink()
    run_here(self_train, *stub)
    assert len(read(tmp_path / "log")) == 4 and card.stat().st_mtime_ns > before


def test_other_data_or_options_are_never_mixed_in(stub, tmp_path, capsys):
    """The files may have the same names; but a typo in the first start, or a smaller batch after it failed, may be
    mended."""
    missing = [*stub, "--labelled", str(tmp_path / "missing.jsonl")]
    assert "no such file" in refused(capsys, self_train, *missing)
    (tmp_path / "die").touch()
    assert "training failed" in refused(capsys, self_train, *stub, "--batch", "8")
    (tmp_path / "die").unlink()
    run_here(self_train, *stub, "--batch", "4", "--score_tokens_per_batch", "500")
    assert "another recipe_flags" in refused(capsys, self_train, *stub, "--batch", "2")
    assert "another threshold" in refused(capsys, self_train, *stub, "--batch", "4", "--threshold", "0.7")
    write(tmp_path / "labelled.jsonl", [row(number) for number in range(300, 320)])
    held_out = (tmp_path / "run/held_out.jsonl").read_bytes()
    assert "another labelled" in refused(capsys, self_train, *stub, "--batch", "4", "--rounds", "2")
    assert (tmp_path / "run/held_out.jsonl").read_bytes() == held_out


def test_a_checkpoint_that_was_cut_off_is_no_obstacle(stub, tmp_path):
    (tmp_path / "run/round-0/model/checkpoint-1").mkdir(parents=True)
    run_here(self_train, *stub)
    assert "--resume_from_checkpoint" not in read(tmp_path / "log")[0]


def test_labelling_takes_over_what_training_was_told(stub, tmp_path, monkeypatch):
    """Its length limit and its template, from the command line or from the --config; nothing that it was not told."""
    config = tmp_path / "config.yaml"
    config.write_text("max_length: 1500\ntrust_remote_code: true\n")
    assert self_train.flag_of("max_length", ["--config", str(config)]) == 1500
    assert self_train.flag_of("max_length", ["--config", str(config), "--max_length", "900"]) == "900"
    assert self_train.flag_of("trust_remote_code", ["--trust_remote_code", "--seed", "1"]) == "true"
    assert self_train.flag_of("chat_template_path", ["--seed=1"]) is None
    commands, real = [], self_train.run_stage

    def watched(name, command):
        commands.append(command)
        real(name, command)

    monkeypatch.setattr(self_train, "run_stage", watched)
    run_here(self_train, *stub, "--config", config)
    (labelling,) = (command for command in commands if "pseudo_label.py" in " ".join(command))
    assert labelling[labelling.index("--max_length") + 1] == "1500" and "--trust_remote_code" in labelling


def test_what_ends_the_loop_ends_its_stage(stub, tmp_path):
    """SIGTERM, as a scheduler sends it. Two starts at once are refused."""
    (tmp_path / "sleep").touch()
    command = [sys.executable, str(HERE / "self_train.py"), *stub]
    loop = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists():
        assert loop.poll() is None
        time.sleep(0.1)
    time.sleep(0.2)
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2 and "another run is writing here" in second.stderr
    loop.terminate()
    assert loop.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (self_train, ["--rounds", "0"], "--rounds must be at least 1"),
        (self_train, ["--dataset", "x.jsonl"], "--dataset is set by every round"),
        (self_train, ["--labelled", "{tmp}/missing.jsonl"], "no such file"),
        (pseudo_label, ["--threshold", "0.4"], "--threshold must be at least 0.5"),
        (pseudo_label, ["--reward_name_or_path", "{tmp}/missing"], "no such directory"),
        (report_rounds, [], "holds no finished round"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, tmp_path, capsys, module, flags, message):
    needed = {
        self_train: [
            "--labelled",
            folder / "labelled.jsonl",
            "--unlabelled",
            "u.jsonl",
            "--output_dir",
            tmp_path / "run",
        ],
        pseudo_label: ["--reward_name_or_path", folder / "judge", "--unlabelled", folder / "unlabelled.jsonl"]
        + ["--output", tmp_path / "out"],
        report_rounds: ["--output_dir", tmp_path],
    }
    given_flags = [flag.format(tmp=tmp_path) for flag in flags]
    assert message in refused(capsys, module, *needed[module], *given_flags)
