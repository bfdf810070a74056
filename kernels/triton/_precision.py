"""How ``tl.dot`` multiplies float32 numbers without rounding them to TF32."""

import torch


def input_precision(dtype: torch.dtype) -> str:
    """Three TF32 products for one of float32, where there are such; else, and for other types, their own arithmetic."""
    return "tf32x3" if dtype == torch.float32 and not torch.version.hip else "ieee"
