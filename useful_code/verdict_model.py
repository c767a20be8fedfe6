"""Load a causal language model that gives verdicts: logits at the places of the verdicts, computed in float32.

A judge of pairs has one verdict, behind the last token; a judge of steps has one behind every step (`step_prompt.py`).

The model stays a plain Transformers causal language model: what is saved needs no code of ours to load. Its config
remembers the labels under `pair_labels`; without it they are A and B, as in the public pair-preference models.

Shapes: S sequences, K labels, M verdicts (S, or all steps of the batch), V vocabulary, D hidden size.
"""

import types
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from useful_code.pair_prompt import LABELS
from useful_code.prefix_attention import hidden_at_ends, hidden_at_places, share_prefix_where_possible
from useful_code.reward_model import why_not_loaded
from useful_code.user_errors import UserError

# Attributes with which some architectures change their logits in a way that `_verdict_logits` does not.
_SCALED_LOGITS = ("logit_scale", "logits_scaling")


def load_verdict_model(path: str, trust_remote_code: bool = False, **kwargs):
    """Load a causal language model and make it ready for packed batches (see `prepare_verdict_model`).

    `kwargs` and errors as in `load_causal_model`.
    """
    model = load_causal_model(path, trust_remote_code, **kwargs)
    prepare_verdict_model(model, may_share_prefix=not kwargs.get("attn_implementation"))
    return model


def load_causal_model(path: str, trust_remote_code: bool = False, **kwargs):
    """Load a causal language model as Transformers has it; `kwargs` go to `from_pretrained`.

    Raises `UserError` when nothing can be loaded, or when the directory holds a scalar reward model, whose
    language-model head would be drawn at random.
    """
    settings = {"dtype": torch.float32} | kwargs
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=trust_remote_code, output_loading_info=True, **settings
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = why_not_loaded(path, error)
        raise UserError(f"no causal language model can be loaded from {path!r}: {reason}") from error
    model, loading = loaded
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(f"{path!r} is no causal language model: it has no {missing} (a scalar reward model?)")
    return model


def labels_of(model: Any) -> tuple[str, ...]:
    """The labels that the model's config names, else A and B."""
    return tuple(getattr(model.config, "pair_labels", None) or LABELS)


def prepare_verdict_model(model: Any, may_share_prefix: bool = True) -> None:
    """Give `model` a forward that returns logits at the end of every sequence only, in place.

    After that `model(**pack(...), token_ids=ids)`, or with `pad`, returns an output whose `logits` are (S, K), in
    float32; without `token_ids` they are (S, V). With `places` of `flat_places` they are (M, K) or (M, V) at these
    places, row by row. Raises `UserError` for a model whose logits are scaled
    in a way of its own. Where the architecture cannot share a prefix, `model.shares_prefix` is False.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    scaled = [name for name in _SCALED_LOGITS if getattr(config, name, None) not in (None, 1, 1.0)]
    if scaled or not isinstance(head, torch.nn.Linear):
        what = f"its logits are changed by {scaled[0]}" if scaled else "its head is no linear layer"
        raise UserError(f"{type(model).__name__} cannot give verdicts: {what}")
    model.autocast_off = False
    model.forward = types.MethodType(_forward, model)
    share_prefix_where_possible(model, may_share_prefix)


def _forward(
    self,
    input_ids: torch.Tensor,
    token_ids: Sequence[int] | None = None,
    places: torch.Tensor | None = None,
    **kwargs,
) -> CausalLMOutput:
    base_model = getattr(self, self.base_model_prefix)
    with torch.autocast(input_ids.device.type, enabled=False) if self.autocast_off else nullcontext():
        if places is None:
            hidden = hidden_at_ends(base_model, input_ids, **kwargs)  # (S, D)
        else:
            hidden = hidden_at_places(base_model, input_ids, places, **kwargs)  # (M, D)
    return CausalLMOutput(logits=_verdict_logits(self, hidden, token_ids))


def _verdict_logits(model: Any, hidden: torch.Tensor, token_ids: Sequence[int] | None) -> torch.Tensor:
    """Logits of the next token, of the whole vocabulary (M, V) or of some tokens (M, K), in float32."""
    head = model.get_output_embeddings()
    weight, bias = head.weight, head.bias
    if token_ids is not None:
        rows = torch.tensor(list(token_ids), device=weight.device)
        weight, bias = weight[rows], None if bias is None else bias[rows]
    with torch.autocast(hidden.device.type, enabled=False):
        logits = F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
        return torch.tanh(logits / cap) * cap if cap else logits
