"""A model shared out among processes (FSDP2): each holds its rows of parameters, gradients and Adam's moments.

What trains in one piece needs nothing of it, and torch's modules for it, which take half a second, are imported late.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def share_out(loss: torch.nn.Module, device: str, count: int) -> None:
    """Leaves each of ``count`` processes its rows of the parameters of ``loss``, which are the first process's.

    A layer's parameters are whole while it computes, and those of no layer as long as the loss and its gradients take.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in loss.parameters():
        dist.broadcast(parameter.detach(), src=0)
    mesh, (encoder, decoder) = init_device_mesh(device, (count,)), (loss.model.encoder, loss.model.decoder)
    # The keys and values of the source are computed outside of the layers that use them, and before all of these.
    outside = [getattr(layer.encoder_attn, name) for layer in decoder.layers for name in ("k_proj", "v_proj")]
    for module in (*outside, *encoder.layers, *decoder.layers, loss):
        fully_shard(module, mesh=mesh)
        module.set_force_sum_reduction_for_comms(True)  # gloo takes no mean; the sum is divided here


def is_shared(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # as DTensors have


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` put together from the rows that the processes hold, all of which must ask for it."""
    return tensor.full_tensor() if is_shared(tensor) else tensor


def shared_like(values: Tensor, tensor: Tensor) -> Tensor:
    """``values``, which are whole, or those rows of them that this process holds of ``tensor``; one number is whole."""
    values = values.to(tensor.device)
    if not is_shared(tensor) or not values.ndim:
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None)


def gathered(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The tensors, whole, in the first process's memory, and none in that of others; all must ask for them."""
    result = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor)
        if rank == 0:
            result[name] = tensor.cpu()
    return result
