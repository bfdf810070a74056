"""How ``tl.dot`` multiplies float32 numbers without rounding them to TF32."""

import torch


def input_precision(dtype: torch.dtype, channels: int) -> str:
    """Three TF32 products for one of float32, where there are such; else, and for other types, their own arithmetic.

    What three products leave out is about what float32 sums of 16 terms round away; shorter sums err less.
    """
    return "tf32x3" if dtype == torch.float32 and channels >= 16 and not torch.version.hip else "ieee"
