"""Arguments of every recipe: safe on a CPU, and one clear line for what cannot be used, from the YAML file too."""

import sys
from dataclasses import dataclass, field

import pytest
import torch
from transformers import TrainingArguments
from trl import ModelConfig

from useful_code.training.arguments import DataArguments, RecipeArguments, choose_bf16, parse_command_line
from useful_code.user_errors import UserError


@dataclass
class Method(DataArguments):
    margin: str = field(default="none", metadata={"help": "A choice.", "choices": ["none", "scale"]})
    max_length: int = field(default=4096, metadata={"help": "Tokens."})
    smoothing: float = field(default=0.0, metadata={"help": "A share."})


@dataclass
class Training(RecipeArguments):
    output_dir: str = field(default="runs/x", metadata={"help": "Directory."})
    learning_rate: float = field(default=2e-6, metadata={"help": "Peak."})


def parse(*arguments: str) -> tuple:
    return parse_command_line((Method, Training, ModelConfig), list(arguments))


@pytest.fixture
def config(tmp_path):
    """A function that writes a YAML file and returns the flags that name it."""

    def write(content: str | bytes) -> list[str]:
        path = tmp_path / "config.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["--config", str(path)]

    return write


@pytest.fixture
def hardware(monkeypatch):
    """A function that pretends what the machine can do."""

    def pretend(cuda: bool = False, cuda_bf16: bool = False, cpu_bf16: bool = False, world_size: int = 1) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: cuda_bf16)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setenv("WORLD_SIZE", str(world_size))

    return pretend


# --- bfloat16 and the CPU ---


@pytest.mark.parametrize(
    ("asked", "fp16", "use_cpu", "native", "expected"),
    [
        (None, False, False, True, True),  # a GPU that can: on by itself
        (None, False, False, False, False),
        (None, True, False, True, False),  # fp16 was asked for
        (True, False, False, False, True),  # as asked; Transformers says what it thinks of it
        (False, False, False, True, False),
        (None, False, True, True, False),  # a CPU: never by itself
        (True, False, True, True, True),
        (True, False, True, False, False),  # 24 times slower than float32
        (False, False, True, True, False),
    ],
)
def test_bf16_is_chosen_by_what_was_asked_and_by_the_hardware(hardware, asked, fp16, use_cpu, native, expected):
    hardware(cuda=not use_cpu, cuda_bf16=native, cpu_bf16=native)
    assert choose_bf16(asked, fp16, use_cpu) is expected


def test_falling_back_to_float32_is_said(hardware, capsys):
    hardware(cpu_bf16=False)
    _, training, _ = parse("--dataset", "d", "--bf16", "true")
    assert training.bf16 is False
    assert "training in float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("world_size", "flags", "backend"),
    [(1, [], None), (2, [], "gloo"), (2, ["--ddp_backend", "mpi"], "mpi")],
)
def test_without_a_gpu_processes_talk_through_gloo(hardware, monkeypatch, world_size, flags, backend):
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)  # it would wait for the other process
    hardware(world_size=world_size)
    _, training, _ = parse("--dataset", "d", *flags)
    assert training.use_cpu and training.ddp_backend == backend


@pytest.mark.parametrize(("use_cpu", "backend"), [("true", "gloo"), ("false", None)])
def test_beside_a_gpu_only_runs_on_the_cpu_talk_through_gloo(hardware, monkeypatch, use_cpu, backend):
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    hardware(cuda=True, world_size=2)
    _, training, _ = parse("--dataset", "d", "--use_cpu", use_cpu)
    assert training.ddp_backend == backend


def test_defaults_are_safe():
    _, training, _ = parse("--dataset", "d")
    assert (
        training.report_to == [] and RecipeArguments.report_to == "none"
    )  # "all" looks the same where none is installed
    assert training.save_total_limit == 2
    assert not training.remove_unused_columns and not training.logging_nan_inf_filter


# --- the YAML file and the command line ---


def test_the_command_line_wins_over_the_file(config):
    flags = config("dataset: pairs.jsonl\nlearning_rate: 5e-6\nmargin: scale\nmax_length: 512\ndtype: bfloat16\n")
    method, training, model = parse(*flags, "--max_length", "256", "--margin", "none")
    assert (method.dataset, method.max_length, method.margin) == ("pairs.jsonl", 256, "none")
    assert training.learning_rate == 5e-6  # a text in YAML 1.1
    assert model.dtype == "bfloat16"


def test_null_switches_an_option_off(config):
    method, training, _ = parse(*config("dataset: d\nmax_length: null\nsave_total_limit: null\n"))
    assert method.max_length is None and training.save_total_limit is None


def test_whole_numbers_are_good_shares(config):
    assert parse(*config("dataset: d\nsmoothing: 0\nnum_train_epochs: 1\n"))[0].smoothing == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b", "must contain a YAML mapping"),
        ("", "must contain a YAML mapping"),
        ("a: [1", "line 1"),
        (b"\xff\xfe", "utf-8"),
        ("1: 2", "keywords must be strings"),
        ("lerning_rate: 1", "is --learning_rate meant?"),
        ("margin: bogus", "margin is 'bogus'; choose from none, scale"),
        ("margin: [scale]", "choose from none, scale"),
        ("max_length: 3.5", "max_length is 3.5; it must be of the type int"),
        ("max_length: true", "max_length is True"),
        ("smoothing: [0.1]", "smoothing"),
        ("dataset: null", "dataset is empty"),
        ("held_out_share: 1.0", "--held_out_share"),
        ("save_total_limit: 1", "--save_total_limit must be at least 2"),
        ("bf16: true\nfp16: true\nuse_cpu: false", "fp16"),
    ],
)
def test_a_bad_file_is_one_line(hardware, config, content, message):
    hardware(cpu_bf16=True)
    with pytest.raises(UserError) as caught:
        parse("--dataset", "d", *config(content)) if "dataset" not in str(content) else parse(*config(content))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config"], "--config needs the path"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--lerning_rate", "1"], "is --learning_rate meant?"),
        (["--zzzzzzzzzz"], "see --help"),
        (["--held_out_share", "0"], "--held_out_share"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps is 0"),
        (["--per_device_train_batch_size", "-1"], "--per_device_train_batch_size is -1"),
        (["--learning_rate", "nan"], "--learning_rate is nan"),
        (["--learning_rate", "-1"], "--learning_rate is -1"),
        (["--output_dir", __file__], "is a file; give a directory"),
        (["--report_to", "wnadb"], "--report_to wnadb"),
    ],
)
def test_bad_flags_are_one_line(flags, message):
    with pytest.raises(UserError) as caught:
        parse("--dataset", "d", *flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("flags", [["--max_length", "x"], ["--margin", "bogus"], []])
def test_what_argparse_refuses_is_status_2(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*flags, *(["--dataset", "d"] if flags else []))
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_arguments_default_to_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--dataset", "from the shell"])
    assert parse_command_line((Method, Training))[0].dataset == "from the shell"
