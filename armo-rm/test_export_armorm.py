"""From rows to one directory and why it scores as it does: the README's commands on a tiny decoder (METHODS 5.9)."""

import argparse
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from armo_commands import finished, run_script
from debias import penalties
from embedding_files import read_card, read_parts
from pairs_rated import held_out_mask, load_pairs
from safetensors.torch import load_file
from train_gating import gated_scores, new_gate, train_gate
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from useful_code.armorm import load_armorm
from useful_code.chat_pairs import is_held_out
from useful_code.render import read_template, render
from useful_code.reward_model import load_tokenizer

ALONE = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
assert "useful_code" not in sys.modules
directory, side = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(directory)
tokenizer.padding_side = side
chats = json.load(sys.stdin)
inputs = tokenizer.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
with torch.no_grad():
    output = model(**inputs)
assert torch.equal(output.score, output.logits)
assert type(model).config_class is type(model.config)  # Transformers 4 asks for it
print(json.dumps({name: output[name].tolist() for name in ("score", "rewards", "gating_output")}))
"""


@pytest.fixture(scope="module")
def chats(chain):
    pairs = [json.loads(line) for line in chain.pairs.read_text(encoding="utf-8").splitlines()[:4]]
    return [pair[side] for pair in pairs for side in ("chosen", "rejected")]


@pytest.fixture(scope="module")
def ours(chain, chats):
    model = load_armorm(str(chain.model)).eval()
    template = read_template(load_tokenizer(str(chain.model)))
    with torch.inference_mode():
        return [model(torch.tensor([render(template, chat)])) for chat in chats]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_directory_works_in_a_process_without_this_repository(chain, chats, ours, side, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(chain.model), side],
        input=json.dumps(chats), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["score"] == pytest.approx([output.score.item() for output in ours], abs=1e-5)
    for name in ("rewards", "gating_output"):
        assert np.array(found[name]) == pytest.approx(np.concatenate([output[name] for output in ours]), abs=1e-5)


OLDER = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    print(json.dumps([model(torch.tensor([ids])).score.item() for ids in json.load(sys.stdin)]))
"""


@pytest.mark.slow  # fetches packages
@pytest.mark.parametrize("version", ["4.46.3", "4.57.6", "5.0.0"])
def test_older_transformers_load_the_directory_too(chain, chats, ours, tmp_path, version):
    """The model; of tokenizers, those of 4 do not know the class that 5 saves."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path), f"transformers=={version}"]
    assert subprocess.run(install).returncode == 0
    template = read_template(load_tokenizer(str(chain.model)))
    done = subprocess.run(
        [sys.executable, "-c", OLDER, str(chain.model)], input=json.dumps([render(template, chat) for chat in chats]),
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == pytest.approx([output.score.item() for output in ours], abs=1e-5)


def test_every_step_left_what_the_next_and_a_person_need(chain):
    for folder, names in (
        (chain.objectives, ("objectives.safetensors", "objectives.json", "report.html", "run.json")),
        (chain.gate, ("armorm.safetensors", "armorm.json", "report.html", "coefficients.png", "run.json")),
        (chain.model, ("model.safetensors", "config.json", "modeling_armorm.py", "README.md", "chat_template.jinja")),
    ):
        assert {name for name in names if not (folder / name).is_file()} == set()
    assert not [path for path in chain.folder.rglob("*") if path.suffix in (".bin", ".pkl", ".pt", ".pth")]
    assert "correctness" in chain.said["objectives"] and "penalty" in chain.said["gate"]
    assert "scores differ by" in chain.said["model"]


def test_the_saved_numbers_are_those_of_the_stages(chain):
    """The file has W, T, the gate; the config names and scales: nothing of it has to be found again."""
    model, gate = load_file(chain.model / "model.safetensors"), load_file(chain.gate / "armorm.safetensors")
    assert set(gate) < set(model)
    assert all(torch.equal(model[name], tensor) for name, tensor in gate.items())
    weights = load_file(chain.objectives / "objectives.safetensors")["regression_layer.weight"]
    assert torch.equal(gate["regression_layer.weight"], weights)
    config, record = (
        json.loads(path.read_text()) for path in (chain.model / "config.json", chain.gate / "armorm.json")
    )
    assert config["objectives"] == [one["name"] for one in record["objectives"]]
    assert config["objective_scales"] == [one["scale"] for one in record["objectives"]]
    verbosity = config["objectives"].index("verbosity")
    transform = gate["reward_transform_matrix"]
    sizes = torch.tensor([penalty["size"] for penalty in record["penalties"]])
    expected = torch.eye(len(sizes))
    expected[verbosity] -= sizes
    assert torch.equal(transform, expected)


def test_the_exported_rewards_are_those_that_stage_1_predicted(chain, ours):
    part = next(iter(read_parts(chain.of_pairs)))
    weights = load_file(chain.gate / "armorm.safetensors")["regression_layer.weight"]
    rewards = (part.tensors["response"] @ weights.T)[:4].flatten(0, 1)
    assert torch.cat([output.rewards for output in ours]) == pytest.approx(rewards, abs=1e-5)


def test_the_exported_scores_follow_from_the_embeddings_that_the_gate_was_trained_on(chain, ours):
    part = next(iter(read_parts(chain.of_pairs)))
    tensors, record = load_file(chain.gate / "armorm.safetensors"), json.loads((chain.gate / "armorm.json").read_text())
    gate = new_gate("prompt", 32, len(record["objectives"]), 16, 3, seed=0)
    gate.load_state_dict({k.removeprefix("gating."): v for k, v in tensors.items() if k.startswith("gating.")})
    rewards = part.tensors["response"] @ tensors["regression_layer.weight"].T  # (N, 2, K)
    scores = gated_scores(gate(part.tensors["prompt"]), rewards, tensors["reward_transform_matrix"])
    assert record["scale"] == pytest.approx(tensors["gating.logit_scale"].item())
    assert [output.score.item() for output in ours] == pytest.approx(scores[:4].flatten().tolist(), abs=1e-5)


def test_the_command_trains_the_gate_on_debiased_ratings(chain):
    """The original computes them and trains on the others. The same training on either: which one gave this gate?"""
    tensors, run = load_file(chain.gate / "armorm.safetensors"), json.loads((chain.gate / "run.json").read_text())
    record = json.loads((chain.objectives / "objectives.json").read_text())
    rows, prompts, rewards = load_pairs([str(chain.of_pairs)], tensors["regression_layer.weight"])
    train = ~held_out_mask(rows, record, None, None)
    assert run["num_train"] == train.sum() and not any(
        is_held_out(row["prompt"], 0.2, 42) for row, used in zip(rows, train, strict=True) if used
    ), "what the objectives held out is held out here"
    options = argparse.Namespace(**run["arguments"])
    found = []
    for transform in (tensors["reward_transform_matrix"], torch.eye(rewards.shape[-1])):
        gate = new_gate("prompt", prompts.shape[1], rewards.shape[-1], 16, 3, options.seed)
        train_gate(gate, prompts[train], rewards[train], torch.ones(int(train.sum())), transform, options, False)
        found.append(gate.layers[-1].weight.detach())
    assert torch.allclose(found[0], tensors["gating.layers.3.weight"], atol=1e-5)
    assert not torch.allclose(found[1], tensors["gating.layers.3.weight"], atol=1e-3)


def test_scoring_commands_take_the_directory_without_its_code(chain, ours, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(chain.model, model)
    (model / "modeling_armorm.py").write_text("raise RuntimeError('code of the model ran')\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(chain.pairs.read_text().splitlines(keepends=True)[:4]))
    flags = ("--reward_name_or_path", model, "--input", rows, "--output", tmp_path / "scores.jsonl")
    finished("../useful_code/score.py", *flags)
    scores = [json.loads(line)["scores"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert np.array(scores).flatten() == pytest.approx([output.score.item() for output in ours], abs=1e-5)


def test_a_decision_is_explained_by_numbers_that_add_up(chain, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(chain.pairs.read_text().splitlines(keepends=True)[:2]))
    flags = ("--reward_name_or_path", chain.model, "--input", rows, "--output", tmp_path / "why", "--pictures", 1)
    said = finished("explain.py", *flags)
    assert "row 1: Answer" in said and (tmp_path / "why" / "row-1.png").is_file()
    assert not (tmp_path / "why" / "row-2.png").exists()
    for line in (tmp_path / "why" / "explained.jsonl").read_text().splitlines():
        found = json.loads(line)
        assert np.array(found["rewards"]) @ found["coefficients"] == pytest.approx(found["scores"], abs=1e-5)
        best = int(np.argmax(found["scores"]))
        assert found["why"].startswith(f"Answer {best + 1} is above answer {2 - best} for its ")
    plain = run_script("explain.py", *flags[:1], chain.decoder, *flags[2:])
    assert plain.returncode == 2


def test_the_tree_is_printed_and_saved_as_rules(chain):
    description = json.loads((chain.tree / "tree.json").read_text())
    assert "if " in chain.said["tree"] and "better with" in chain.said["tree"]
    assert description["held_out"]["pairs"] > 0 and "rating" in description["tree"]


def test_what_does_not_fit_is_refused_in_one_line(chain, tmp_path):
    taken = run_script("export_armorm.py", "--gate", chain.gate, "--output", chain.model)
    assert taken.returncode == 2 and "is not empty" in taken.stderr
    nothing = run_script("export_armorm.py", "--gate", tmp_path, "--output", tmp_path / "model")
    assert nothing.returncode == 2 and "holds no gate" in nothing.stderr


def test_a_decoder_that_pads_with_the_end_of_a_turn_is_exported(chain, ours, tmp_path):
    """As SmolLM2 does: the text is read by plain Transformers, which gets no mask."""
    shutil.copytree(chain.decoder, tmp_path / "decoder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(tmp_path / "decoder")
    flags = ("--gate", chain.gate, "--output", tmp_path / "model", "--model_name_or_path", tmp_path / "decoder")
    finished("export_armorm.py", *flags)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>") == config["gating_tokens"][0]
    assert AutoConfig.from_pretrained(tmp_path / "model").num_labels == 1


def test_a_decoder_that_was_trained_on_is_not_exported(chain, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(chain.decoder)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "decoder")
    AutoTokenizer.from_pretrained(chain.decoder).save_pretrained(tmp_path / "decoder")
    flags = ("--gate", chain.gate, "--output", tmp_path / "model", "--model_name_or_path", tmp_path / "decoder")
    done = run_script("export_armorm.py", *flags)
    assert done.returncode == 2 and "is not the decoder of the embeddings" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("folders", ["--embeddings", "--reference"])
@pytest.mark.parametrize("differs", ["fingerprint", "chat_template", "gating_tokens"])
def test_what_was_made_with_another_decoder_or_template_does_not_go_together(chain, tmp_path, folders, differs):
    other = tmp_path / "other"
    shutil.copytree(chain.of_pairs, other)
    card = read_card(other)
    (card if differs == "gating_tokens" else card["model"])[differs] = "another"
    (other / "embeddings.json").write_text(json.dumps(card))
    flags = ["--objectives", chain.objectives, "--embeddings", chain.of_pairs, "--output", tmp_path / "gate"]
    done = run_script("train_gating.py", *flags, folders, other)
    assert done.returncode == 2 and "both need one decoder" in done.stderr.splitlines()[-1]


def test_penalties_can_be_chosen_on_other_answers(chain, tmp_path):
    flags = ("--objectives", chain.objectives, "--embeddings", chain.of_pairs, "--output", tmp_path / "gate")
    finished("train_gating.py", *flags, "--max_steps", 5, "--reference", chain.of_rated, chain.of_pairs)
    record = json.loads((tmp_path / "gate" / "armorm.json").read_text())
    weights = load_file(chain.objectives / "objectives.safetensors")["regression_layer.weight"]
    answers = [
        (part.tensors["response"] @ weights.T).reshape(-1, len(weights))
        for folder in (chain.of_rated, chain.of_pairs)
        for part in read_parts(folder)
    ]
    verbosity = [one["name"] for one in record["objectives"]].index("verbosity")
    expected = penalties(torch.cat(answers).numpy(), verbosity)
    assert [one["size"] for one in record["penalties"]] == [penalty.size for penalty in expected]


def test_verbosity_alone_leaves_nothing_to_weigh(chain, tmp_path):
    names = [one["name"] for one in json.loads((chain.objectives / "objectives.json").read_text())["objectives"]]
    others = [name for name in names if name != "verbosity"]
    objectives, gate = tmp_path / "objectives", tmp_path / "gate"
    finished("fit_objectives.py", "--embeddings", chain.of_rated, "--output", objectives, "--leave_out", *others)
    flags = ("--objectives", objectives, "--embeddings", chain.of_pairs, "--output", gate, "--max_steps", 2)
    done = run_script("train_gating.py", *flags)
    assert done.returncode == 2 and "fit more objectives, or say --no_debias" in done.stderr.splitlines()[-1]
    assert not gate.exists()
    finished("train_gating.py", *flags, "--no_debias")
