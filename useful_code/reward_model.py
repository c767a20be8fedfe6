"""Load a scalar reward model and call it on packed or padded batches; the head always computes in float32.

The model stays a plain Transformers sequence classifier (`num_labels=1`): what is saved needs no code of ours to load.

Shapes: S sequences (2 per pair), T tokens of a packed row, L padded length, D hidden size.
"""

import logging
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import ModelConfig, get_peft_config, get_quantization_config

from useful_code.prefix_attention import packed_kwargs, reason_not_shareable, share_prefix
from useful_code.render import Template, ensure_pad_token, read_template
from useful_code.shared_prefix import Layout
from useful_code.user_errors import UserError

logger = logging.getLogger(__name__)


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever autocast or the type of its weights says."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(hidden.float(), self.weight.float(), bias)


def load_tokenizer(path: str, chat_template_path: str | None = None, trust_remote_code: bool = False, **kwargs):
    """Load a tokenizer, with the chat template of a Jinja file if one is given. Raises UserError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **kwargs)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer can be loaded from {path!r}: {_reason(path, error)}") from error
    if chat_template_path:
        try:
            tokenizer.chat_template = Path(chat_template_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--chat_template_path {chat_template_path}: {_first_line(error)}") from error
    return tokenizer


def load_template(
    model_arguments: ModelConfig, chat_template_path: str | None = None, trust_remote_code: bool = False
) -> tuple[Template, int]:
    """The chat template of the model that TRL's `ModelConfig` names, and the id to pad with (see `render.py`)."""
    path, revision = model_path(model_arguments), model_arguments.model_revision
    template = read_template(load_tokenizer(path, chat_template_path, trust_remote_code, revision=revision))
    return template, ensure_pad_token(template)


def load_reward_model(path: str, trust_remote_code: bool = False, seed: int = 0, **kwargs):
    """Load a one-label sequence classifier and make it ready for packed batches (see `prepare_reward_model`).

    A path of a causal language model gives a new head, drawn from `seed`, and `model.missing_head` is True. `kwargs`
    go to `from_pretrained` (`dtype`, `revision`, `quantization_config`, ...). Raises UserError when nothing can be
    loaded, or when the checkpoint has a head with several labels (a classifier, not a scalar reward model). With an
    `attn_implementation` of your own the model runs padded batches, for prompts are shared by an attention of ours.
    """
    settings = {"dtype": torch.float32, "num_labels": 1} | kwargs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below in one line
                **settings,
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise UserError(f"no reward model can be loaded from {path!r}: {_reason(path, error)}") from error
    for name, *shapes in loading["mismatched_keys"]:
        found, expected = (tuple(shape) for shape in shapes)
        raise UserError(
            f"{path!r} is no scalar reward model: its {name} has the shape {found} instead of {expected} (a classifier "
            "with several labels?)"
        )
    body = f"{model.base_model_prefix}."
    model.missing_head = any(not name.startswith(body) for name in loading["missing_keys"])
    prepare_reward_model(model, may_share_prefix=not kwargs.get("attn_implementation"))
    return model


def load_trainable(
    model_arguments: ModelConfig, seed: int, train_last_layers: int | None = None, trust_remote_code=False
):
    """The model that TRL's `ModelConfig` describes, ready to train: float32 weights, LoRA or QLoRA if asked for.

    `train_last_layers` leaves gradients to the last so many decoder layers, the final norm and the head. Raises
    UserError for what cannot be loaded and for settings that exclude each other.
    """
    if train_last_layers is not None and model_arguments.use_peft:
        raise UserError("--train_last_layers and --use_peft exclude each other: LoRA freezes the whole base")
    try:
        quantization = get_quantization_config(model_arguments)
    except ImportError as error:
        raise UserError(
            f"--load_in_4bit and --load_in_8bit: {_first_line(error)} (pip install bitsandbytes)"
        ) from error
    if quantization and not model_arguments.use_peft:
        raise UserError("--load_in_4bit and --load_in_8bit need --use_peft true: quantized weights cannot be trained")
    name = model_arguments.dtype or "float32"
    dtype = name if name == "auto" else getattr(torch, name)
    model = load_reward_model(
        model_path(model_arguments),
        trust_remote_code,
        seed,
        revision=model_arguments.model_revision,
        dtype=dtype,
        attn_implementation=model_arguments.attn_implementation,
        **({"quantization_config": quantization} if quantization else {}),
    )
    if train_last_layers is not None:
        layers = getattr(model.base_model, "layers", None)
        if layers is None:
            raise UserError(f"--train_last_layers: {type(model).__name__} has no list of decoder layers; leave it out")
        if not 0 <= train_last_layers <= len(layers):
            raise UserError(f"--train_last_layers is {train_last_layers}; the model has {len(layers)} layers")
        model.requires_grad_(False)
        for module in (*layers[len(layers) - train_last_layers :], model.base_model.norm, model.score):
            module.requires_grad_(True)
    if model_arguments.use_peft:
        model_arguments.lora_task_type = "SEQ_CLS"  # trains and saves the head beside the adapter
        if quantization:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the Trainer's choice
        settings: Any = get_peft_config(model_arguments)
        if isinstance(settings.target_modules, str) and settings.target_modules != "all-linear":
            settings.target_modules = {settings.target_modules}  # TRL makes a single name a pattern, which fits nothing
        try:
            model = get_peft_model(model, settings)
        except ValueError as error:
            raise UserError(f"--lora_target_modules: {_first_line(error)}") from error
    return model


def model_path(model_arguments: ModelConfig) -> str:
    """The directory or hub name to start from. Raises UserError when none was given."""
    if not model_arguments.model_name_or_path:
        raise UserError("give the model to start from with --model_name_or_path or in the --config file")
    return model_arguments.model_name_or_path


def prepare_reward_model(model: Any, may_share_prefix: bool = True) -> None:
    """Give `model` a float32 head and a forward that takes packed batches, in place.

    After that, `model(**pack(...))` and `model(**pad(...))` return an output whose `logits` (S, 1) are the rewards in
    float32. Where the architecture cannot share a prefix, or may not, `model.shares_prefix` is False, the reason is
    logged and only padded batches are accepted.
    """
    has_plain_head = isinstance(model, GenericForSequenceClassification) and isinstance(model.score, nn.Linear)
    if not has_plain_head:
        model.shares_prefix = False
        logger.warning("%s is called as it is, with padded batches: its head is its own", type(model).__name__)
        return
    model.autocast_off = False
    model.score.__class__ = Float32Linear  # the same parameter under the same name: saving is unchanged
    model.forward = types.MethodType(_reward_forward, model)
    reason = reason_not_shareable(model) if may_share_prefix else "an attn_implementation was asked for"
    model.shares_prefix = reason is None
    if reason is None:
        share_prefix(model)
    else:
        logger.warning("%s: prompts are not shared, because %s", type(model).__name__, reason)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Inside, a prepared `model` computes without autocast, whatever wraps it: rewards that can be compared exactly."""
    prepared = [module for module in model.modules() if hasattr(module, "autocast_off")]
    for module in prepared:
        module.autocast_off = True
    try:
        yield
    finally:
        for module in prepared:
            module.autocast_off = False


def _reward_forward(self, input_ids: torch.Tensor, **kwargs) -> SequenceClassifierOutput:
    """`_rewards`, with autocast as the trainer set it or, under `in_float32`, without."""
    with torch.autocast(input_ids.device.type, enabled=False) if self.autocast_off else nullcontext():
        return _rewards(self, input_ids, **kwargs)


def _rewards(
    self,
    input_ids: torch.Tensor,  # (1, T) packed, (S, L) padded
    attention_mask: torch.Tensor | None = None,  # (S, L) padded
    position_ids: torch.Tensor | None = None,
    layout: Layout | None = None,
    **kwargs,
) -> SequenceClassifierOutput:
    """Rewards of all sequences of a batch, read at the last token of each (from the mask, not the pad id)."""
    base_model = getattr(self, self.base_model_prefix)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}  # PEFT passes every default
    kwargs.pop("return_dict", None)
    if layout is not None:
        kwargs = kwargs | packed_kwargs(layout, input_ids.device)
        hidden = base_model(input_ids, position_ids=position_ids, **kwargs).last_hidden_state[0]  # (T, D)
        ends = torch.tensor(layout.end_indices(), device=hidden.device)  # (S,)
        return SequenceClassifierOutput(logits=self.score(hidden[ends]))  # (S, 1)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if position_ids is None:  # the same positions whether padding stands left or right
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    kwargs["use_cache"] = False
    hidden = base_model(
        input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
    ).last_hidden_state  # (S, L, D)
    columns = torch.arange(input_ids.shape[1], device=hidden.device)
    ends = (attention_mask * columns).argmax(-1)  # (S,)
    return SequenceClassifierOutput(logits=self.score(hidden[torch.arange(len(ends), device=ends.device), ends]))


def best_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _reason(path: str, error: BaseException) -> str:
    """Why nothing could be loaded; a path that is not there gives an error about hub names, which would mislead."""
    if Path(path).exists():
        return _first_line(error)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        return "no such directory"
    return f"no such directory; taken as a hub name: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
