"""The cards that kernels are compiled for, as their maker describes them."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Of a multiprocessor: registers, bytes of shared memory, warps and blocks; every block takes ``reserved`` bytes of
    shared memory besides its own. Of the card: bytes a second of its memory, and dense bfloat16 operations a second of
    its tensor cores, from its data sheet."""

    name: str
    registers: int
    shared: int
    warps: int
    blocks: int
    reserved: int
    bandwidth: float
    flops: float

    def occupancy(self, registers: int, shared: int, warps: int) -> tuple[float, str]:
        """The share of a multiprocessor's warps that blocks of so many warps let it hold, and what sets it."""
        registers_of_warp = -(-registers * 32 // 256) * 256
        fits = {
            "registers": self.registers // (registers_of_warp * warps),
            "shared memory": self.shared // (-(-shared // 128) * 128 + self.reserved),
            "warps": self.warps // warps,
            "blocks": self.blocks,
        }
        limit = min(fits, key=fits.get)
        return fits[limit] * warps / self.warps, limit

    def bound(self, moved: float, flops: float) -> tuple[float, str]:
        """Seconds that no kernel which moves so many bytes and computes so much can go below, and what sets them."""
        times = {"memory": moved / self.bandwidth, "compute": flops / self.flops}
        limit = max(times, key=times.get)
        return times[limit], limit


CARDS = {
    "sm_80": Card("A100 SXM 80 GB", 65536, 164 << 10, 64, 32, 1024, 2.039e12, 312e12),
    "sm_90": Card("H100 SXM", 65536, 228 << 10, 64, 32, 1024, 3.35e12, 989e12),
    "sm_100": Card("B200", 65536, 228 << 10, 64, 32, 1024, 8e12, 2250e12),
}


def slug(name: str) -> str:
    """NVIDIA H100 80GB HBM3 -> nvidia-h100-80gb-hbm3"""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
