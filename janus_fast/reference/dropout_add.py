"""Dropout from a counter-based generator, and the residual, by definition."""

import torch
from torch import Tensor

GROUP, WORDS = 64, 4  # elements whose bits come from 16 blocks of the generator, of four words each
ROUNDS = 7  # the fewest with which Philox4x32 passes BigCrush
MULTIPLIERS, KEY_STEPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF


def dropout_add(x: Tensor, residual: Tensor | None, p: float, seed: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Returns residual + dropout(x) in the dtype of the residual; without one dropout(x), in ``dtype`` or x's."""
    accumulate = torch.promote_types(x.dtype, torch.float32)
    kept = random_bits(x.numel(), seed).view(x.shape) >= int(p * 2**32)
    output = torch.where(kept, x.to(accumulate) * (1 / (1 - p)), 0.0)
    if residual is not None:
        return (output + residual.to(accumulate)).to(residual.dtype)
    return output.to(dtype or x.dtype)


def random_bits(count: int, seed: Tensor) -> Tensor:
    """32 random bits for each element, as int64 [count]: Philox4x32 (Salmon et al. 2011) with the key ``seed``.

    Block b of a group of 64 elements, b = 0 .. 15, has the bits of its elements b, 16 + b, 32 + b and 48 + b.
    """
    blocks = torch.arange(-(-count // GROUP) * GROUP // WORDS, device=seed.device)
    zero = torch.zeros_like(blocks)
    counter, key = [blocks & LOW, blocks >> 32, zero, zero], [seed & LOW, (seed >> 32) & LOW]
    for _ in range(ROUNDS):
        products = counter[0] * MULTIPLIERS[0], counter[2] * MULTIPLIERS[1]  # modulo 2^64: their bits are right
        (high0, low0), (high1, low1) = (((n >> 32) & LOW, n & LOW) for n in products)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(k + step) & LOW for k, step in zip(key, KEY_STEPS, strict=True)]
    words = torch.stack(counter).view(WORDS, -1, GROUP // WORDS)  # [word, group, block of the group]
    return words.transpose(0, 1).flatten()[:count]
