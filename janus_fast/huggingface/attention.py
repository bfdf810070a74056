"""``janus_fast.attention`` as an attention of transformers: masks are intervals, no matrix of them is ever made.

``visibility_mask`` reads what transformers says of a mask, a tree of functions that it composes itself, and turns it
into the times of ``janus_fast.Visibility``; what is no interval for each key is refused.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import masking_utils

from .. import ops
from ..visibility import FOREVER, Visibility

NAME = "attn_implementation 'janus_fast'"


@dataclass
class Intervals:
    """Which of ``visible_from`` to ``visible_until`` [B, S] int32 the query ``times`` [T] int32 of a batch see."""

    times: Tensor
    visible_from: Tensor
    visible_until: Tensor

    def __post_init__(self):
        self._made: dict[int, Visibility] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the matrix which is not made."""
        batch, keys = self.visible_from.shape
        return batch, 1, len(self.times), keys

    @property
    def ndim(self) -> int:
        return 4

    def contiguous(self) -> "Intervals":
        return self

    def to(self, *arguments, **options) -> "Intervals":
        device = torch.empty(0).to(*arguments, **options).device
        return Intervals(*(t.to(device) for t in (self.times, self.visible_from, self.visible_until)))

    def visibility(self, groups: int) -> Visibility:
        """With ``groups`` query sequences for each of keys."""
        if groups not in self._made:
            (batch, keys), length = self.visible_from.shape, len(self.times)
            make = {"dtype": torch.int32, "device": self.times.device}
            self._made[groups] = Visibility(
                torch.arange(batch * groups + 1, **make) * length, torch.arange(batch + 1, **make) * keys,
                torch.arange(batch, **make).repeat_interleave(groups), self.times.repeat(batch * groups),
                self.visible_from.flatten(), self.visible_until.flatten(),
            )  # fmt: skip
        return self._made[groups]


def visibility_mask(
    batch_size: int, q_length: int, kv_length: int, q_offset=0, kv_offset: int = 0,
    mask_function: Callable = masking_utils.causal_mask_function, attention_mask=None, device="cpu", **_,
) -> Intervals:  # fmt: skip
    """What ``AttentionMaskInterface`` asks for: the mask of a batch as intervals."""
    if isinstance(attention_mask, Intervals):  # made before
        return attention_mask
    places = torch.arange(kv_length, device=device) + kv_offset
    times = torch.arange(q_length, device=device) + q_offset
    first = places.new_zeros(batch_size, kv_length)
    until = first + FOREVER
    for interval in _intervals(mask_function):
        low, high = interval(places)
        first, until = torch.maximum(first, low), torch.minimum(until, high)
    if attention_mask is not None:
        there = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset)
        there = there[:, kv_offset : kv_offset + kv_length].bool()
        first, until = first.masked_fill(~there, FOREVER), until.masked_fill(~there, FOREVER)
    return Intervals(times.to(torch.int32), first.to(torch.int32), until.to(torch.int32))


def attention_forward(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Intervals | None, dropout: float = 0.0,
    scaling: float | None = None, is_causal: bool | None = None, **options,
) -> tuple[Tensor, None]:  # fmt: skip
    """What ``AttentionInterface`` asks for: query [B, H, T, D], key and value [B, G, S, D] -> [B, T, H, D]."""
    for name in ("position_bias", "softcap", "s_aux", "head_mask", "cache", "output_attentions"):
        if (given := options.get(name)) is not None and given is not False:
            raise ValueError(f"{NAME}: {name} must be None, got {type(given).__name__}; other attentions have it")
    if dropout:
        raise ValueError(
            f"{NAME}: attention dropout must be 0 in training, got {dropout}; the model's configuration says it"
        )
    (batch, heads, length, size), (_, groups, keys, _) = query.shape, key.shape
    if attention_mask is None:
        causal = length > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
        rule = masking_utils.causal_mask_function if causal else masking_utils.bidirectional_mask_function
        attention_mask = visibility_mask(batch, length, keys, mask_function=rule, device=query.device)
    if not isinstance(attention_mask, Intervals):
        what = f"{list(attention_mask.shape)}" if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(f"{NAME}: attention_mask must be 2-D, [batch, keys], which intervals can say, got {what}")
    if attention_mask.shape != (batch, 1, length, keys):
        raise ValueError(
            f"{NAME}: attention_mask must be of {batch} sequences of {length} queries and {keys} keys, got one of "
            f"{list(attention_mask.shape)}"
        )
    repeat = heads // groups  # query heads that share keys are query sequences that do
    query = query.view(batch, groups, repeat, length, size).permute(0, 2, 3, 1, 4).reshape(-1, groups, size)
    key, value = (part.transpose(1, 2).reshape(-1, groups, part.shape[-1]) for part in (key, value))
    output = ops.attention(query, key, value, attention_mask.visibility(repeat), scaling)
    return output.view(batch, repeat, length, groups, size).permute(0, 2, 3, 1, 4).reshape(
        batch, length, heads, size
    ), None


def _intervals(mask_function: Callable, remapped: bool = False) -> Iterator[Callable]:
    """For each rule that must hold, what makes of the keys' places [S] from when until when keys [S] or [B, S] are
    seen. The functions are known by where they were made, and say what they close over."""
    name = getattr(mask_function, "__qualname__", repr(mask_function)).removesuffix(".<locals>.inner_mask")
    ours = getattr(mask_function, "__module__", None) == masking_utils.__name__
    held = inspect.getclosurevars(mask_function).nonlocals if ours else {}
    if ours and name == "and_masks.<locals>.and_mask":
        for part in held["mask_functions"]:
            yield from _intervals(part, remapped)
    elif ours and name == "remap_positions_for_packed_sequence":
        yield from _intervals(held["mask_function"], remapped=True)  # of keys of the same sequence, see below
    elif ours and name in _RULES and not (remapped and name == "chunked_overlay"):
        yield lambda places: _RULES[name](places, *held.values())
    else:
        rule = f"be made of {', '.join(_RULES)} and padding, by which each key is seen in one interval"
        raise NotImplementedError(f"{NAME}: the mask must {rule}, got {name}")


def _sliding(places: Tensor, window: int):
    return torch.zeros_like(places), places + window


def _sliding_both_ways(places: Tensor, window: int):
    return (places - window).clamp(min=0), places + window + 1


def _chunked(places: Tensor, size: int, left_padding: Tensor):
    begin = (places - left_padding[:, None]).div(size, rounding_mode="floor") * size + left_padding[:, None]
    return begin.clamp(min=0), begin + size


def _packed(places: Tensor, sequences: Tensor):
    """``sequences`` [B, S] numbers those that lie one after another; places then count from the row's begin."""
    sequences = sequences.contiguous()
    return torch.searchsorted(sequences, sequences), torch.searchsorted(sequences, sequences, right=True)


_RULES: dict[str, Callable] = {
    "causal_mask_function": lambda places: (places, places.new_full((), FOREVER)),
    "bidirectional_mask_function": lambda places: (places.new_zeros(()), places.new_full((), FOREVER)),
    "sliding_window_overlay": _sliding,
    "sliding_window_bidirectional_overlay": _sliding_both_ways,
    "chunked_overlay": _chunked,
    "packed_sequence_mask_function": _packed,
}
