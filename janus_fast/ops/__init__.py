"""The operations: one file each, with what it computes, what it takes, and which backends run it.

Every one is also registered as ``torch.ops.janus_fast.<name>`` for ``torch.compile`` and ``torch.export``; that is the
kernel alone, without derivatives, which are the functions'.
"""

from janus_fast.ops import on_device  # noqa: F401
from janus_fast.ops._native import isa
from janus_fast.ops._operation import OPERATIONS, backends, explain
from janus_fast.ops.add_layer_norm import add_layer_norm
from janus_fast.ops.attention import attention
from janus_fast.ops.beam_step import beam_step
from janus_fast.ops.dropout_add import dropout_add
from janus_fast.ops.joint_loss import joint_loss
from janus_fast.ops.linear_argmax import linear_argmax
from janus_fast.ops.linear_topk import linear_topk
from janus_fast.ops.predict_lengths import predict_lengths
from janus_fast.ops.update_mask import update_mask

__all__ = [
    "OPERATIONS",
    "add_layer_norm",
    "attention",
    "backends",
    "beam_step",
    "dropout_add",
    "explain",
    "isa",
    "joint_loss",
    "linear_argmax",
    "linear_topk",
    "predict_lengths",
    "update_mask",
]
