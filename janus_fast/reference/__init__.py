"""What each operation computes: plain PyTorch, any float dtype; the ``reference`` backend of ``janus_fast.ops``."""

from janus_fast.reference.add_layer_norm import add_layer_norm
from janus_fast.reference.attention import attention
from janus_fast.reference.beam_step import BeamState, beam_step
from janus_fast.reference.dropout_add import dropout_add
from janus_fast.reference.joint_loss import joint_loss
from janus_fast.reference.linear_argmax import linear_argmax
from janus_fast.reference.linear_topk import linear_topk
from janus_fast.reference.predict_lengths import predict_lengths
from janus_fast.reference.update_mask import update_mask

__all__ = [
    "BeamState", "add_layer_norm", "attention", "beam_step", "dropout_add", "joint_loss", "linear_argmax",
    "linear_topk", "predict_lengths", "update_mask",
]  # fmt: skip
