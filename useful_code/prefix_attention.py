"""Attention for rows that share a prefix (`shared_prefix.py`), behind Transformers' attention interface.

Two kernels compute the same: one sdpa call per segment, anywhere; one FlashAttention call for all, in half precision on
a GPU. (FlexAttention was tried on an H200: it compiles for 15 to 50 s, and rows of other lengths made Inductor fail.)

Shapes: T tokens in the row, S sequences, L padded length, D hidden size, H heads, C channels of a head.
"""

import logging
from functools import lru_cache
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from useful_code.shared_prefix import Layout

logger = logging.getLogger(__name__)

ATTENTION_NAME = "shared_prefix"
# Keyword arguments of the attention call that change the maths and that no kernel below implements.
_UNSUPPORTED_ARGUMENTS = ("softcap", "s_aux", "position_bias")
# Fewer heads of keys than of queries: torch 2.12 wants to be told, 2.11 has no such argument.
_GROUPED_HEADS = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


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


def last_hidden_states(
    base_model: torch.nn.Module,
    input_ids: torch.Tensor,  # (1, T) packed, (S, L) padded
    attention_mask: torch.Tensor | None = None,  # (S, L) padded
    position_ids: torch.Tensor | None = None,
    layout: Layout | None = None,
    **kwargs,
) -> torch.Tensor:
    """Last hidden states (1, T, D) or (S, L, D) of a batch that `pack` or `pad` made.

    In a padded batch the mask says which tokens count, and positions are the same on whichever side padding stands.
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None}  # PEFT passes every default
    kwargs.pop("return_dict", None)
    if layout is not None:
        kwargs = kwargs | packed_kwargs(layout, input_ids.device)
        return base_model(input_ids, position_ids=position_ids, **kwargs).last_hidden_state
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if position_ids is None:
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    kwargs["use_cache"] = False
    return base_model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs).last_hidden_state


def hidden_at_ends(
    base_model: torch.nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    layout: Layout | None = None,
    **kwargs,
) -> torch.Tensor:
    """Last hidden states (S, D) at the last token of every sequence of a batch, see `last_hidden_states`."""
    hidden = last_hidden_states(base_model, input_ids, attention_mask, position_ids, layout, **kwargs)
    if layout is not None:
        return hidden[0, torch.tensor(layout.end_indices(), device=hidden.device)]
    columns = torch.arange(input_ids.shape[1], device=hidden.device)
    ends = (attention_mask * columns).argmax(-1) if attention_mask is not None else columns[-1:].expand(len(hidden))
    return hidden[torch.arange(len(ends), device=ends.device), ends]


def hidden_at_places(
    base_model: torch.nn.Module, input_ids: torch.Tensor, places: torch.Tensor, **kwargs
) -> torch.Tensor:
    """Last hidden states (M, D) at the places of `flat_places` that are not -1, row by row; see `last_hidden_states`.

    `places` (S, K) are indices into all tokens of the batch, one row of tokens after the other.
    """
    hidden = last_hidden_states(base_model, input_ids, **kwargs)  # (1, T, D) or (S, L, D)
    return hidden.flatten(0, 1)[places[places >= 0]]


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
    if layout.kernel == "varlen" and _varlen_computes(query, value, dropout):
        output = _varlen(layout, query, key, value, scaling, sliding_window)
    else:
        groups = getattr(module, "num_key_value_groups", 1)
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        output = _segments(layout, query, key, value, dropout, scaling, sliding_window)
    return output.transpose(1, 2).contiguous(), None


def _varlen_computes(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """FlashAttention takes half precision alone (under autocast the value is cast already), and no dropout here."""
    return (
        value.is_cuda
        and value.dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(value.device) >= (8, 0)
        and dropout == 0
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
    )


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
@torch.inference_mode(False)
def _causal_mask(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """True where the last `num_queries` of `num_keys` tokens may look: (num_queries, num_keys)."""
    queries = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)[None, :]
    mask = keys <= queries
    return mask & (queries - keys < window) if window else mask


def _varlen(layout, query, key, value, scaling, window) -> torch.Tensor:
    """One call of FlashAttention: every sequence is a query of its own tokens and meets its whole text.

    The prefix is computed with the first response; its keys and values are copied for every other response.
    """
    rows, query_starts, key_starts, longest_query, longest_text = _texts(layout, query.device)
    grouped: dict = {} if query.shape[1] == key.shape[1] else _GROUPED_HEADS
    output: Any = varlen_attn(
        query[0].transpose(0, 1).to(value.dtype),  # (T, H, C); rotary positions left it in float32 under autocast
        key[0].transpose(0, 1).to(value.dtype).index_select(0, rows),  # (T + copies, H_kv, C)
        value[0].transpose(0, 1).index_select(0, rows),
        query_starts,
        key_starts,
        longest_query,
        longest_text,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),  # (left, right) of the query's own place in its text
        **grouped,
    )
    return output.transpose(0, 1)[None]


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept from scoring, they may serve in training, where such tensors are saved
def _texts(layout: Layout, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Where the sequences of a row stand: of their texts (prefix and response) the tokens' places in the row, and for
    both the queries and the texts the cumulative starts (S + 1,) and the greatest length. Kept for all layers.

    >>> from useful_code.shared_prefix import Group
    >>> rows, query_starts, key_starts, *longest = _texts(Layout((Group(2, (1, 3)),)), torch.device("cpu"))
    >>> rows.tolist(), query_starts.tolist(), key_starts.tolist(), longest
    ([0, 1, 2, 0, 1, 3, 4, 5], [0, 3, 6], [0, 3, 8], [3, 5])
    """
    rows: list[int] = []
    num_queries, num_keys = [], []
    start = 0
    for group in layout.groups:
        prefix = range(start, start + group.prefix)
        start += group.prefix
        for k, length in enumerate(group.suffixes):
            rows.extend(prefix)
            rows.extend(range(start, start + length))
            num_queries.append(length if k else group.prefix + length)
            num_keys.append(group.prefix + length)
            start += length

    def starts(lengths: list[int]) -> torch.Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

    return torch.tensor(rows, device=device), starts(num_queries), starts(num_keys), max(num_queries), max(num_keys)
