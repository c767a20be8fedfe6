"""Loading a reward model, its float32 head, the token it is read at, and guards of runs with several processes."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Trainer
from trl import ModelConfig

from useful_code.processes import check_world_size
from useful_code.reward_model import in_float32, load_reward_model, load_tokenizer, prepare_reward_model
from useful_code.shared_prefix import pack, pad
from useful_code.tiny import byte_tokenizer, save_tiny_model, tiny_config, tiny_reward_model
from useful_code.training.parallelism import check_parallelism
from useful_code.training.recipe_trainer import RecipeTrainer
from useful_code.training.trainable import load_trainable_reward_model
from useful_code.user_errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAD = 3  # an id that stands inside the texts too
MODEL = tiny_reward_model("llama", 40).eval()
prepare_reward_model(MODEL)
sequence = st.lists(st.integers(0, 8), min_size=1, max_size=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward_model")
    save_tiny_model(folder / "model")
    AutoModelForCausalLM.from_config(tiny_config("llama", 259)).save_pretrained(folder / "causal")
    byte_tokenizer().save_pretrained(folder / "causal")
    return folder


# --- where the reward is read ---


@settings(max_examples=40, deadline=None)
@given(st.lists(sequence, min_size=1, max_size=4), st.integers(0, 5), st.sampled_from(["left", "right"]))
def test_padding_side_amount_and_neighbours_change_nothing(sequences, extra, side):
    """METHODS 1.9.6. The pad id also ends some texts: the end comes from the mask, never from the id."""
    with torch.inference_mode():
        alone = [MODEL(input_ids=torch.tensor([ids])).logits.item() for ids in sequences]
        longest = [1] * (max(map(len, sequences)) + extra)  # a neighbour that forces padding
        batch = pad([sequences, [longest]], PAD, side)
        assert MODEL(**batch).logits[:-1, 0].tolist() == pytest.approx(alone, abs=1e-5)
        assert MODEL(**pack([sequences])).logits[:, 0].tolist() == pytest.approx(alone, abs=1e-5)


def test_right_padding_is_read_at_the_sum_of_the_mask():
    """Reward of a padded text == reward of the text cut where the mask ends, and of nothing else."""
    ids, mask = torch.tensor([[5, 6, PAD, 7, 8]]), torch.tensor([[1, 1, 1, 0, 0]])
    with torch.inference_mode():
        padded = MODEL(input_ids=ids, attention_mask=mask).logits.item()
        by_length = [MODEL(input_ids=ids[:, :n]).logits.item() for n in range(1, 6)]
    assert padded == pytest.approx(by_length[int(mask.sum()) - 1], abs=1e-6)
    assert len({round(reward, 5) for reward in by_length}) == 5


def test_our_forward_equals_that_of_plain_transformers(folder):
    ours = load_reward_model(str(folder / "model")).eval()
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    ids = torch.tensor([[9, 8, 7, 200, 100]])
    with torch.inference_mode():
        assert ours(input_ids=ids).logits.item() == pytest.approx(plain(input_ids=ids).logits.item(), abs=1e-6)


def test_the_head_computes_in_float32_under_autocast_and_with_bfloat16_weights():
    """8 bits of mantissa would make ties (METHODS 0.5)."""
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = hidden.float() @ MODEL.score.weight.T
    with torch.autocast("cpu", torch.bfloat16):
        rewards = MODEL.score(hidden)
    assert rewards.dtype == torch.float32 and torch.equal(rewards, expected)
    model = tiny_reward_model("llama", 40).bfloat16().eval()
    prepare_reward_model(model)
    assert model(**pack([[[1, 2], [1, 3]]])).logits.dtype == torch.float32


# --- loading ---


def test_autocast_can_be_left_from_within(folder):
    """Rewards inside `in_float32` are those without autocast, although autocast stays around the call."""
    model = load_reward_model(str(folder / "model")).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(input_ids=ids).logits
            with in_float32(model):
                assert torch.equal(model(input_ids=ids).logits, expected)
            assert torch.equal(model(input_ids=ids).logits, rounded) and not torch.equal(rounded, expected)


def test_an_attention_of_the_users_own_means_padded_batches(folder):
    model = load_reward_model(str(folder / "model"), attn_implementation="eager")
    assert not model.shares_prefix and model.config._attn_implementation == "eager"


def test_a_new_head_is_drawn_from_the_seed_and_says_so(folder):
    heads = [load_reward_model(str(folder / "causal"), seed=seed) for seed in (1, 1, 2)]
    assert all(model.missing_head for model in heads)
    first, twin, other = (model.score.weight for model in heads)
    assert torch.equal(first, twin) and not torch.equal(first, other)
    assert not load_reward_model(str(folder / "model")).missing_head


def test_loading_leaves_the_random_state_alone(folder):
    before = torch.get_rng_state()
    load_reward_model(str(folder / "causal"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["cut weights", "no weights", "broken config", "nothing there"])
def test_what_cannot_be_loaded_is_one_line(tmp_path, damage):
    directory = tmp_path / "model"
    save_tiny_model(directory)
    if damage == "cut weights":
        os.truncate(directory / "model.safetensors", 1000)
    elif damage == "no weights":
        (directory / "model.safetensors").unlink()
    elif damage == "broken config":
        (directory / "config.json").write_text("{")
    else:
        directory = tmp_path / "elsewhere"
    with pytest.raises(UserError, match="no reward model can be loaded from") as caught:
        load_reward_model(str(directory))
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_chat_template_of_a_file_replaces_that_of_the_model(folder, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ 'größer' }}", encoding="utf-8")
    assert load_tokenizer(str(folder / "model"), str(path)).chat_template == "{{ 'größer' }}"
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="mine.jinja"):
        load_tokenizer(str(folder / "model"), str(path))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_only_the_last_layers_the_norm_and_the_head_are_trained(folder, layers):
    model = load_trainable_reward_model(
        ModelConfig(model_name_or_path=str(folder / "model")), 0, train_last_layers=layers
    )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = ("score.", "model.norm.", *(f"model.layers.{i}." for i in range(2 - layers, 2)))
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(wanted)}


@pytest.mark.parametrize("layers", [-1, 3])
def test_more_layers_than_there_are_is_an_error(folder, layers):
    with pytest.raises(UserError, match="the model has 2 layers"):
        load_trainable_reward_model(ModelConfig(model_name_or_path=str(folder / "model")), 0, train_last_layers=layers)


def test_weights_to_train_are_float32_and_a_model_must_be_named(folder):
    model = load_trainable_reward_model(ModelConfig(model_name_or_path=str(folder / "model")), 0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with pytest.raises(UserError, match="--model_name_or_path"):
        load_trainable_reward_model(ModelConfig(), 0)


def test_weights_of_four_bits_have_the_same_gradients_after_an_evaluation(tmp_path):
    """On some CPUs bitsandbytes packs them when they are evaluated, and no gradient passes them from then on."""
    save_tiny_model(tmp_path, "llama", hidden_size=128, intermediate_size=128)  # blocks are of 64
    settings = ModelConfig(
        model_name_or_path=str(tmp_path), use_peft=True, load_in_4bit=True, lora_target_modules=["q_proj"]
    )
    model = load_trainable_reward_model(settings, 0)
    batch = pad([[[1, 2, 4, 5], [6, 7, 8]]], PAD)

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        torch.manual_seed(0)  # of LoRA's dropout
        model(**batch).logits.square().sum().backward()
        return [weight.grad for name, weight in model.named_parameters() if "lora_B" in name]

    before = [gradient.clone() for gradient in gradients()]
    with torch.no_grad():
        model.eval()(**batch)
    torch.testing.assert_close(gradients(), before)
    assert all(gradient.abs().max() > 0 for gradient in before)


# --- processes ---


def trainer_with(kind: DistributedType, num_processes: int = 1, **state) -> SimpleNamespace:
    accelerator = SimpleNamespace(num_processes=num_processes, distributed_type=kind, state=SimpleNamespace(**state))
    return SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(n_gpu=1), add_callback=lambda callback: None)


def test_processes_that_would_work_apart_are_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_world_size(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_world_size(2)
    with pytest.raises(UserError, match="2 processes were started but 1 work together"):
        check_world_size(1)
    with pytest.raises(UserError, match="2 processes were started"):
        check_parallelism(trainer_with(DistributedType.NO))


@pytest.mark.parametrize(
    ("world_size", "trainer", "expected"),
    [
        (1, trainer_with(DistributedType.NO), "single process"),
        (2, trainer_with(DistributedType.MULTI_CPU, 2), "DDP"),
        (2, trainer_with(DistributedType.DEEPSPEED, 2, deepspeed_plugin=SimpleNamespace(zero_stage=3)), "ZeRO-3"),
        (
            2,
            trainer_with(
                DistributedType.FSDP, 2, fsdp_plugin=SimpleNamespace(fsdp_version=2, mixed_precision_policy=None)
            ),
            "FSDP2",
        ),
    ],
)
def test_the_kind_of_parallelism_is_named(monkeypatch, world_size, trainer, expected):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert check_parallelism(trainer) == expected


def test_fsdp2_leaves_the_outputs_of_a_model_in_their_type(monkeypatch):
    """accelerate's policy for bfloat16 casts rewards too: those between 16 and 32 would be multiples of 0.125."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, output_dtype=torch.bfloat16)
    plugin = SimpleNamespace(fsdp_version=2, mixed_precision_policy=policy)
    check_parallelism(trainer_with(DistributedType.FSDP, 1, fsdp_plugin=plugin))
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16)


def test_one_process_with_several_gpus_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    trainer = trainer_with(DistributedType.NO)
    trainer.args.n_gpu = 8
    with pytest.raises(UserError, match="one process sees 8 GPUs; choose one"):
        check_parallelism(trainer)


RECIPES = [path for path in sorted(ROOT.glob("*/train_*.py")) if "Trainer):" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_labels_and_lengths_stay_exact_under_deepspeed(recipe):
    """Transformers casts floating-point inputs to the type of DeepSpeed's weights: 257 tokens would be 256."""
    (bases,) = re.findall(r"^class \w+\((.*Trainer)\):", recipe.read_text(encoding="utf-8"), re.MULTILINE)
    assert bases == "RecipeTrainer"


def test_float_inputs_are_not_cast():
    class Prepares(RecipeTrainer):
        def __init__(self):
            self.args = SimpleNamespace(device=torch.device("cpu"))
            self.is_deepspeed_enabled = True
            config = SimpleNamespace(dtype=lambda: torch.bfloat16)
            plugin = SimpleNamespace(hf_ds_config=config)
            self.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))

    inputs = {"labels": torch.tensor([0.501]), "more": [torch.tensor([257.0]), {"ids": torch.tensor([3])}], "n": 2}
    assert Prepares()._prepare_input(inputs) == inputs
    assert Trainer._prepare_input(Prepares(), torch.tensor([257.0])).item() == 256


def test_fsdp_that_would_silently_be_ddp_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP was asked for"):
        check_parallelism(trainer_with(DistributedType.MULTI_CPU, 2))
