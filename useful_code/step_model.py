"""Load a token classifier as a process reward model: logits at the places of the steps, the head in float32.

The model stays a plain Transformers token classifier with the labels - (0) and + (1), as TRL's PRMTrainer made them:
what is saved needs no code of ours to load. The form with verdicts is a causal language model (`verdict_model.py`).

Shapes: M places of steps in the batch, D hidden size.
"""

import logging
import types
from contextlib import nullcontext
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForTokenClassification
from transformers.modeling_layers import GenericForTokenClassification
from transformers.modeling_outputs import TokenClassifierOutput

from useful_code.prefix_attention import hidden_at_places, share_prefix_where_possible
from useful_code.reward_model import Float32Linear, why_not_loaded
from useful_code.user_errors import UserError

logger = logging.getLogger(__name__)

LABELS = {0: "-", 1: "+"}


def load_step_tagger(path: str, trust_remote_code: bool = False, seed: int = 0, **kwargs):
    """Load a token classifier with two labels and make it ready for packed batches (see `prepare_step_tagger`).

    A path of a causal language model gives a new head, drawn from `seed`, and `model.missing_head` is True. `kwargs`
    go to `from_pretrained`. Raises UserError when nothing can be loaded, or when the head has another number of labels.
    """
    settings = {"dtype": torch.float32, "num_labels": 2} | kwargs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            loaded: Any = AutoModelForTokenClassification.from_pretrained(
                path,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below in one line
                **settings,
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise UserError(
                f"no token classifier can be loaded from {path!r}: {why_not_loaded(path, error)}"
            ) from error
    model, loading = loaded
    for name, *shapes in sorted(loading["mismatched_keys"]):
        found, expected = (tuple(shape) for shape in shapes)
        raise UserError(f"{path!r} does not tag steps as - and +: its {name} has the shape {found}, not {expected}")
    body = f"{model.base_model_prefix}."
    model.missing_head = any(not name.startswith(body) for name in loading["missing_keys"])
    model.config.id2label, model.config.label2id = dict(LABELS), {name: place for place, name in LABELS.items()}
    prepare_step_tagger(model, may_share_prefix=not kwargs.get("attn_implementation"))
    return model


def prepare_step_tagger(model: Any, may_share_prefix: bool = True) -> None:
    """Give `model` a float32 head and a forward that takes packed batches and `places`, in place.

    After that `model(**pack(...), places=flat_places(...))`, or with `pad`, returns an output whose `logits` are (M, 2)
    in float32: - and +. Dropout before the head is left out: a reward model is trained for one epoch. Raises UserError
    for a head that is no linear layer over the decoder.
    """
    has_plain_head = isinstance(model, GenericForTokenClassification) and isinstance(model.score, nn.Linear)
    if not has_plain_head:
        raise UserError(f"{type(model).__name__} has a head of its own: steps cannot be tagged with it")
    model.autocast_off = False
    model.score.__class__ = Float32Linear  # the same parameter under the same name: saving is unchanged
    model.forward = types.MethodType(_forward, model)
    share_prefix_where_possible(model, may_share_prefix)


def _forward(self, input_ids: torch.Tensor, places: torch.Tensor, token_ids=None, **kwargs) -> TokenClassifierOutput:
    """Logits (M, 2); `token_ids` is taken and not used, so that both forms are called in the same way."""
    with torch.autocast(input_ids.device.type, enabled=False) if self.autocast_off else nullcontext():
        hidden = hidden_at_places(getattr(self, self.base_model_prefix), input_ids, places, **kwargs)  # (M, D)
        return TokenClassifierOutput(logits=self.score(hidden))
