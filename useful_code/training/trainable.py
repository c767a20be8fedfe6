"""The model that TRL's `ModelConfig` describes, ready to train: quantized, with LoRA, or only its last layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from trl import ModelConfig, get_peft_config, get_quantization_config

from useful_code.render import Template, ensure_pad_token, read_template
from useful_code.reward_model import load_reward_model, load_tokenizer
from useful_code.user_errors import UserError, first_line
from useful_code.verdict_model import load_verdict_model


def load_template(
    model_arguments: ModelConfig,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
    may_open_turn: bool = False,
) -> tuple[Template, int]:
    """The chat template of the model that TRL's `ModelConfig` names, and the id to pad with (see `render.py`)."""
    path, revision = model_path(model_arguments), model_arguments.model_revision
    tokenizer = load_tokenizer(path, chat_template_path, trust_remote_code, revision=revision)
    template = read_template(tokenizer, may_open_turn)
    return template, ensure_pad_token(template)


def load_trainable_reward_model(
    model_arguments: ModelConfig, seed: int, train_last_layers: int | None = None, trust_remote_code=False
):
    """The scalar reward model that TRL's `ModelConfig` describes, ready to train."""
    load = partial(load_reward_model, trust_remote_code=trust_remote_code, seed=seed)
    # PEFT trains and saves the head of a SEQ_CLS model beside the adapter.
    return load_to_train(model_arguments, load, lambda model: model.score, "SEQ_CLS", train_last_layers)


def load_trainable_judge(
    model_arguments: ModelConfig, train_last_layers: int | None = None, trust_remote_code: bool = False
):
    """The pairwise model that TRL's `ModelConfig` describes, ready to train.

    A head that is also the embedding of the words (tied weights) stays frozen under `train_last_layers`.
    """
    load = partial(load_verdict_model, trust_remote_code=trust_remote_code)
    return load_to_train(model_arguments, load, _untied_head, "CAUSAL_LM", train_last_layers)


def _untied_head(model: Any) -> torch.nn.Module | None:
    head = model.get_output_embeddings()
    return None if head.weight is model.get_input_embeddings().weight else head


def load_to_train(
    model_arguments: ModelConfig,
    load: Callable[..., Any],
    head_of: Callable[[Any], torch.nn.Module | None],
    task_type: str,
    train_last_layers: int | None = None,
):
    """`load(path, **settings)` with float32 weights unless told otherwise, then what `model_arguments` ask for.

    `train_last_layers` leaves gradients to the last so many decoder layers, the final norm and `head_of(model)`.
    `task_type` is PEFT's: it decides what is saved beside the adapter. Raises `UserError` for what cannot be loaded and
    for settings that exclude each other.
    """
    if train_last_layers is not None and model_arguments.use_peft:
        raise UserError("--train_last_layers and --use_peft exclude each other: LoRA freezes the whole base")
    try:
        quantization = get_quantization_config(model_arguments)
    except ImportError as error:
        raise UserError(f"--load_in_4bit and --load_in_8bit: {first_line(error)} (pip install bitsandbytes)") from error
    if quantization and not model_arguments.use_peft:
        raise UserError("--load_in_4bit and --load_in_8bit need --use_peft true: quantized weights cannot be trained")
    name = model_arguments.dtype or "float32"
    model = load(
        model_path(model_arguments),
        revision=model_arguments.model_revision,
        dtype=name if name == "auto" else getattr(torch, name),
        attn_implementation=model_arguments.attn_implementation,
        **({"quantization_config": quantization} if quantization else {}),
    )
    if train_last_layers is not None:
        _freeze_all_but(model, train_last_layers, head_of(model))
    if model_arguments.use_peft:
        model_arguments.lora_task_type = task_type
        if quantization:
            _keep_gradients(model)
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the Trainer's choice
        settings: Any = get_peft_config(model_arguments)
        if isinstance(settings.target_modules, str) and settings.target_modules != "all-linear":
            settings.target_modules = {settings.target_modules}  # TRL makes a single name a pattern, which fits nothing
        if task_type == "TOKEN_CLS":  # of this head "all-linear" would make an adapter, beside PEFT's copy of it
            settings.exclude_modules = ["score"]
        try:
            model = get_peft_model(model, settings)
        except ValueError as error:
            raise UserError(f"--lora_target_modules: {first_line(error)}") from error
    return model


def model_path(model_arguments: ModelConfig) -> str:
    """The directory or hub name to start from. Raises UserError when none was given."""
    if not model_arguments.model_name_or_path:
        raise UserError("give the model to start from with --model_name_or_path or in the --config file")
    return model_arguments.model_name_or_path


def _keep_gradients(model: Any) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes 0.50 packs 4-bit weights when they are first evaluated, and no gradient
    passes them from then on: a training that was evaluated goes on with gradients of 0. Here nothing is packed."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _freeze_all_but(model: Any, num_layers: int, head: torch.nn.Module | None) -> None:
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise UserError(f"--train_last_layers: {type(model).__name__} has no list of decoder layers; leave it out")
    if not 0 <= num_layers <= len(layers):
        raise UserError(f"--train_last_layers is {num_layers}; the model has {len(layers)} layers")
    model.requires_grad_(False)
    for module in (*layers[len(layers) - num_layers :], model.base_model.norm, *([head] if head else [])):
        module.requires_grad_(True)
