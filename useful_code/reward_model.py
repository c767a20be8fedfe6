"""Load a scalar reward model and call it on packed or padded batches; the head always computes in float32.

The model stays a plain Transformers sequence classifier (`num_labels=1`): what is saved needs no code of ours to load.

Shapes: S sequences (2 per pair), D hidden size.
"""

import logging
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from useful_code.prefix_attention import hidden_at_ends, share_prefix_where_possible
from useful_code.user_errors import UserError, first_line

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
        raise UserError(f"no tokenizer can be loaded from {path!r}: {why_not_loaded(path, error)}") from error
    if chat_template_path:
        try:
            tokenizer.chat_template = Path(chat_template_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--chat_template_path {chat_template_path}: {first_line(error)}") from error
    return tokenizer


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
            raise UserError(f"no reward model can be loaded from {path!r}: {why_not_loaded(path, error)}") from error
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
    share_prefix_where_possible(model, may_share_prefix)


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


def _rewards(self, input_ids: torch.Tensor, **kwargs) -> SequenceClassifierOutput:
    """Rewards of all sequences of a batch, read at the last token of each (from the mask, not the pad id)."""
    hidden = hidden_at_ends(getattr(self, self.base_model_prefix), input_ids, **kwargs)  # (S, D)
    return SequenceClassifierOutput(logits=self.score(hidden))  # (S, 1)


def best_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weights_type(name: str, device: torch.device) -> torch.dtype:
    """Of the name of a type; "auto" is bfloat16 on a GPU and float32 on a CPU."""
    automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
    return automatic if name == "auto" else getattr(torch, name)


def why_not_loaded(path: str, error: BaseException) -> str:
    """Why nothing could be loaded; a path that is not there gives an error about hub names, which would mislead."""
    if Path(path).exists():
        return first_line(error)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        return "no such directory"
    return f"no such directory; taken as a hub name: {first_line(error)}"
