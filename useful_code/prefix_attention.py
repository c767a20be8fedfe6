"""Attention for rows that share a prefix (`shared_prefix.py`), behind Transformers' attention interface.

Two kernels compute the same: one sdpa call per segment, anywhere; FlexAttention with a block mask, on a GPU.

Shapes: T tokens in the row, S sequences, L padded length, D hidden size, H heads, C channels of a head.
"""

import logging
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from useful_code.shared_prefix import Layout

logger = logging.getLogger(__name__)

ATTENTION_NAME = "shared_prefix"
# Keyword arguments of the attention call that change the maths and that no kernel below implements.
_UNSUPPORTED_ARGUMENTS = ("softcap", "s_aux", "position_bias")


def reason_not_shareable(model) -> str | None:
    """Why this model cannot share a prefix, or None when it can.

    Sharing needs attention that is causal, goes through Transformers' attention interface and depends on positions
    only; recurrent and convolutional layers, encoders and soft-capped attention do not qualify. Sliding windows do.
    """
    config = model.config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention logits are soft-capped, which sdpa cannot compute"
    if not getattr(model, "_supports_attention_backend", False) or not getattr(model, "_supports_sdpa", False):
        return "its attention does not go through Transformers' attention interface"
    if positions_depend_on_batch(model):
        return "its rotary frequencies change with the longest text of a batch"
    if getattr(model, "_is_stateful", False):
        return "it has recurrent layers"
    unknown = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if unknown:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    causal = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    if not causal or not all(causal) or getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    return None


def positions_depend_on_batch(model) -> bool:
    """Whether a text gets other positions beside a longer one (dynamic, longrope): then it must run alone."""
    config = model.config.get_text_config()
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    of_layers = [scaling, *(value for value in scaling.values() if isinstance(value, dict))]
    return any(entry.get("rope_type", entry.get("type")) in ("dynamic", "longrope") for entry in of_layers)


def share_prefix_where_possible(model, may_share_prefix: bool = True) -> None:
    """`share_prefix`, or a log line that says why not; `model.shares_prefix` tells which."""
    reason = reason_not_shareable(model) if may_share_prefix else "an attn_implementation was asked for"
    model.shares_prefix = reason is None
    if reason is None:
        share_prefix(model)
    else:
        logger.warning("%s: prompts are not shared, because %s", type(model).__name__, reason)


def share_prefix(model) -> None:
    """Switch `model` (any Transformers decoder) to attention that understands `layout`; padded batches run as sdpa."""
    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    model.set_attn_implementation(ATTENTION_NAME)


def packed_kwargs(layout: Layout, device: torch.device) -> dict:
    """What a Transformers base model needs beside the ids and positions of a packed row.

    The 4D placeholder makes Transformers build no mask of its own (4D masks pass through unchanged).
    """
    return {"layout": layout, "attention_mask": torch.empty(1, 1, 1, 1, device=device), "use_cache": False}


def hidden_at_ends(
    base_model: torch.nn.Module,
    input_ids: torch.Tensor,  # (1, T) packed, (S, L) padded
    attention_mask: torch.Tensor | None = None,  # (S, L) padded
    position_ids: torch.Tensor | None = None,
    layout: Layout | None = None,
    **kwargs,
) -> torch.Tensor:
    """Last hidden states (S, D) at the last token of every sequence of a batch that `pack` or `pad` made.

    In a padded batch the mask says where a sequence ends, and positions are the same on whichever side padding stands.
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None}  # PEFT passes every default
    kwargs.pop("return_dict", None)
    if layout is not None:
        kwargs = kwargs | packed_kwargs(layout, input_ids.device)
        hidden = base_model(input_ids, position_ids=position_ids, **kwargs).last_hidden_state[0]  # (T, D)
        return hidden[torch.tensor(layout.end_indices(), device=hidden.device)]
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if position_ids is None:
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    kwargs["use_cache"] = False
    hidden = base_model(
        input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
    ).last_hidden_state  # (S, L, D)
    columns = torch.arange(input_ids.shape[1], device=hidden.device)
    ends = (attention_mask * columns).argmax(-1)  # (S,)
    return hidden[torch.arange(len(ends), device=ends.device), ends]


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, H, T, C)
    key: torch.Tensor,  # (1, H_kv, T, C)
    value: torch.Tensor,  # (1, H_kv, T, C)
    attention_mask: torch.Tensor | None,
    layout: Layout | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of one packed row, called by Transformers; without a layout it is plain sdpa. Returns (1, T, H, C)."""
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    for name in _UNSUPPORTED_ARGUMENTS:
        if kwargs.get(name) is not None:
            raise ValueError(f"shared-prefix attention cannot compute {name}; use padded batches for this model")
    if layout.kernel == "flex" and _flex_computes(query, dropout):
        output = _flex(layout, query, key, value, scaling, sliding_window)
    else:
        groups = getattr(module, "num_key_value_groups", 1)
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        output = _segments(layout, query, key, value, dropout, scaling, sliding_window)
    return output.transpose(1, 2).contiguous(), None


def _flex_computes(query: torch.Tensor, dropout: float) -> bool:
    """FlexAttention knows no dropout, and its kernels for GPUs need heads of 16 channels or more."""
    return dropout == 0 and (query.shape[-1] >= 16 or not query.is_cuda)


def _segments(layout, query, key, value, dropout, scaling, window) -> torch.Tensor:
    """One sdpa call per segment: (prefix + first response) causally, then every other response with its prefix.

    The row is cut by one `split` per tensor: its backward pass is one concatenation, where every slice of the whole row
    would fill and add a gradient of the row's size.
    """
    lengths = [n for group in layout.groups for n in (group.prefix + group.suffixes[0], *group.suffixes[1:])]
    pieces = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    outputs = []
    for group in layout.groups:
        first_query, first_key, first_value = next(pieces)
        first = first_query.shape[2]
        mask = _causal_mask(first, first, window, query.device) if window and window < first else None
        outputs.append(
            F.scaled_dot_product_attention(
                first_query,
                first_key,
                first_value,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
            )
        )
        prefix_key, prefix_value = first_key[:, :, : group.prefix], first_value[:, :, : group.prefix]
        for length in group.suffixes[1:]:
            next_query, next_key, next_value = next(pieces)
            outputs.append(
                F.scaled_dot_product_attention(
                    next_query,
                    torch.cat((prefix_key, next_key), dim=2),
                    torch.cat((prefix_value, next_value), dim=2),
                    attn_mask=_causal_mask(length, group.prefix + length, window, query.device),
                    dropout_p=dropout,
                    scale=scaling,
                )
            )
    return torch.cat(outputs, dim=2)


@lru_cache(maxsize=64)
def _causal_mask(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """True where the last `num_queries` of `num_keys` tokens may look: (num_queries, num_keys)."""
    queries = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)[None, :]
    mask = keys <= queries
    return mask & (queries - keys < window) if window else mask


def _flex(layout, query, key, value, scaling, window) -> torch.Tensor:
    """FlexAttention with a block mask: the fast path on a GPU (it trains there; on a CPU it only runs forward)."""
    mask = _block_mask(layout, window, query.device)
    attend = _compiled(flex_attention) if query.is_cuda else flex_attention
    enable_gqa = query.shape[1] != key.shape[1]
    return attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=enable_gqa)


@lru_cache(maxsize=2)
def _compiled(function):
    """Compiled once for rows of any length: about 10 s when a process first needs it."""
    return torch.compile(function, dynamic=True)


@lru_cache(maxsize=8)
def _block_mask(layout: Layout, window: int | None, device: torch.device):
    """The rule of `shared_prefix.py` as a FlexAttention block mask; kept for all layers of a forward pass.

    Compiled, it asks the rule block by block. Otherwise it fills tables of all tokens by all tokens: 11 GiB at 31,000
    tokens on an H200, where the compiled one takes 2 MiB and half the time.
    """
    group_ids, owners = [], []  # owner: 0 for a prefix token, k for a token of the k-th response
    for number, group in enumerate(layout.groups):
        group_ids.extend([number] * group.num_tokens)
        owners.extend([0] * group.prefix)
        for k, length in enumerate(group.suffixes, start=1):
            owners.extend([k] * length)
    group_of = torch.tensor(group_ids, device=device)
    owner_of = torch.tensor(owners, device=device)
    position_of = torch.tensor(layout.position_ids(), device=device)

    def may_look(batch, head, query, key):
        same_text = (owner_of[key] == 0) | (owner_of[key] == owner_of[query])
        distance = position_of[query] - position_of[key]
        seen = (group_of[query] == group_of[key]) & same_text & (distance >= 0)
        return seen & (distance < window) if window else seen

    create = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return create(may_look, None, None, layout.num_tokens, layout.num_tokens, device=device)
