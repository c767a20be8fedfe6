"""Which files of a model directory count: all that Transformers wrote and reads, none that a run leaves beside them."""

import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from useful_code.model_files import model_files, model_fingerprint
from useful_code.reward_model import load_reward_model
from useful_code.tiny import save_tiny_judge, save_tiny_model

RECORDS = (
    "run.json",
    "report.html",
    "README.md",
    "refused_rows.jsonl",
    "refused_eval_rows.jsonl",
    "plan.json",
    "results.json",
    "all_results.json",
    "trainer_state.json",
    "training_args.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "rng_state.pth",
    "record.txt",
    "record_outputs.jsonl",
    "cache.sqlite",
    ".gitattributes",
)
OTHER_MODELS = (  # of other tokenizers, of weights in parts, of adapters and of code that comes with a model
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "tokenizer.model",
    "spiece.model",
    "qwen.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "modeling_mine.py",
)


@pytest.mark.parametrize("save", [save_tiny_model, save_tiny_judge])
def test_every_file_that_transformers_writes_counts_and_no_record_does(tmp_path, save):
    save(tmp_path)
    written = sorted(path for path in tmp_path.iterdir())
    assert len(written) >= 4 and model_files(tmp_path) == written
    for name in RECORDS:
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "folder.safetensors").mkdir()
    assert model_files(tmp_path) == written == model_files(str(tmp_path))


def test_what_counts_is_enough_to_load_the_model(tmp_path):
    save_tiny_judge(tmp_path / "whole")
    (tmp_path / "counted").mkdir()
    for file in model_files(tmp_path / "whole"):
        shutil.copy(file, tmp_path / "counted")
    assert AutoTokenizer.from_pretrained(tmp_path / "counted").chat_template
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "counted").config.num_hidden_layers == 2


def test_files_of_other_models_count(tmp_path):
    for name in (*OTHER_MODELS, *RECORDS):
        (tmp_path / name).touch()
    assert [file.name for file in model_files(tmp_path)] == sorted(OTHER_MODELS)


def test_the_fingerprint_follows_the_weights_the_type_and_what_else_is_named(tmp_path):
    names = [str(tmp_path / "first"), str(tmp_path / "second")]
    for seed, name in enumerate(names):
        save_tiny_model(name, seed=seed)
    models = [load_reward_model(name) for name in names]
    prints = [model_fingerprint(name, model) for name, model in zip(names, models, strict=True)]
    prints.append(model_fingerprint(names[0], models[0], "a template"))
    prints.append(model_fingerprint(names[0], models[0].bfloat16()))
    assert len(set(prints)) == 4
    assert model_fingerprint(names[1], models[1]) == prints[1]
    save_tiny_model(names[1], seed=2)  # files of the same sizes
    assert model_fingerprint(names[1], models[1]) != prints[1]
