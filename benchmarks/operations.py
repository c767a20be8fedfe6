"""What counting promises: the tokens, and the multiply-adds, that each side of a benchmark computes.

Tokens alone leave attention out, which grows with the square of the length. A padded batch gets a dense mask, so that
every token meets every other, padding included; a causal call without a mask skips the half that lies in the future.
"""

from collections.abc import Sequence

import torch

from useful_code.shared_prefix import common_prefix_length, num_packed_tokens

Work = tuple[int, int]  # tokens, pairs of a query and a key that attention multiplies


def packed_work(groups: Sequence[Sequence[Sequence[int]]]) -> Work:
    """Of shared-prefix batches: the prefix with its first response causally, every other response with its prefix.

    >>> packed_work([[[1, 2, 3], [1, 2, 4, 5]]])  # 3 tokens causally, then 2 that see the prefix and themselves
    (5, 14)
    """
    tokens = pairs = 0
    for sequences in groups:
        prefix = common_prefix_length(sequences)
        tokens += num_packed_tokens(sequences)
        pairs += causal_pairs(len(sequences[0]))
        pairs += sum((len(sequence) - prefix) * len(sequence) for sequence in sequences[1:])
    return tokens, pairs


def padded_work(batches: Sequence[Sequence[int]]) -> Work:
    """Of padded batches, given the lengths of their sequences.

    >>> padded_work([[2, 3], [4, 4]])  # the second needs no mask: causal
    (14, 38)
    """
    tokens = pairs = 0
    for lengths in batches:
        longest = max(lengths)
        tokens += len(lengths) * longest
        is_padded = min(lengths) < longest
        pairs += len(lengths) * (longest**2 if is_padded else causal_pairs(longest))
    return tokens, pairs


def causal_pairs(length: int) -> int:
    """Pairs of a query and a key that is not behind it."""
    return length * (length + 1) // 2


def num_operations(model: torch.nn.Module, work: Work) -> int:
    """Floating-point operations of a forward pass; training takes three times as many. Linear layers and attention."""
    tokens, pairs = work
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    return 2 * num_matmul_parameters(model) * tokens + 4 * config.num_hidden_layers * width * pairs


def num_matmul_parameters(model: torch.nn.Module) -> int:
    """Parameters that every token meets: all but the embedding. Forward 2, forward and backward 6 operations each."""
    return sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
