"""Saves a ``janus_fast.JanusModel`` in a model directory, and makes one of such a directory."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from . import parameters, weights
from .config import JanusConfig
from .directory import CONFIG, OF_VOCABULARIES, WEIGHTS, read_config, read_vocabularies, write_vocabularies
from .inputs import check_output_folder, check_part, choice, list_of
from .model import JanusModel, Positions
from .reading import naming
from .replacing import replacing
from .text import Vocabulary


def write_tensors(tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """``tensors`` as a safetensors file; a tensor that shares another's memory must be left out by the caller.

    Raises:
        OSError: the file cannot be written, for instance to a full disk; what ``path`` held before is still there.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(Path(path).parent) as temporary:
        try:
            file = temporary / Path(path).name
            file.touch()
            mode = file.stat().st_mode  # save_file makes a file that its owner alone can read
            save_file(contiguous, file, metadata={"format": "pt"})
            file.chmod(mode)
        except (SafetensorError, OSError) as error:
            raise OSError(f"checkpoint: {path} must be on a disk that takes it, got {error}") from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """What a safetensors file holds, as it is."""
    return dict(each_tensor(path))


def each_tensor(path: str | Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every name and tensor of a safetensors file, for a reader that does not keep them all."""
    check_part("checkpoint", path)
    with naming(path), open(path, "rb"):  # as in weights.py
        pass
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"checkpoint: {path} must be a whole safetensors file, got {error}") from None


def read_state(path: str | Path, config: JanusConfig) -> dict[str, torch.Tensor]:
    """The parameters of a model of ``config`` in float32, however the file stores them."""
    arrays = weights.float32(weights.read(Path(path), config))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def unique_state(model: JanusModel) -> dict[str, torch.Tensor]:
    """Every parameter by name, a shared one once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def check_state(config: JanusConfig, state: dict[str, torch.Tensor], origin) -> None:
    """Raises ValueError unless ``state``, read from ``origin``, is one that a model of ``config`` can have."""
    weights.check_shapes(config, {name: tuple(tensor.shape) for name, tensor in state.items()}, origin)
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise ValueError(f"checkpoint: {origin}: {name} must hold floating-point numbers, got {tensor.dtype}")
    weights.check_finite({name: tensor.detach().float().numpy() for name, tensor in state.items()}, origin)


def load_unique_state(model: JanusModel, state: dict[str, torch.Tensor], origin) -> None:
    """Copies ``state``, read from ``origin``, into ``model``."""
    check_state(model.config, state, origin)
    for name, parameter in unique_state(model).items():
        parameter.copy_(state[name])


def model_of(config: JanusConfig, state: dict[str, torch.Tensor], origin) -> JanusModel:
    """The model with these parameters, which are its own from now on; none is drawn at random."""
    try:
        with torch.device("meta"):
            model = JanusModel(config)
        if config.positions == "sinusoidal":  # tables that no file holds
            for stack in (model.encoder, model.decoder):
                stack.embed_positions = Positions(config, stack.embed_positions.size)
    except (RuntimeError, OverflowError, TypeError) as error:  # more numbers than memory or an int64 can count
        raise ValueError(f"checkpoint: {origin} must be of a size that a model can have, got {error}") from None
    loaded = {parameter: nn.Parameter(state[name]) for name, parameter in model.named_parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, loaded[parameter])
    return model


def quantized(state: dict[str, torch.Tensor], quantization: str | None) -> dict[str, torch.Tensor]:
    """The tensors to store: ``state`` in float32 or bfloat16, or with its matrices as int8, a scale for each row."""
    if quantization is None:
        return state
    if quantization != "int8":
        return {name: tensor.to(getattr(torch, quantization)) for name, tensor in state.items()}
    stored = {}
    for name, tensor in state.items():
        stored[name] = tensor = tensor.float()
        if parameters.is_matrix(name):
            scale = tensor.abs().amax(1) / 127
            stored[name] = (tensor / scale.clamp_min(torch.finfo(tensor.dtype).tiny)[:, None]).round().to(torch.int8)
            stored[name + weights.SCALE] = scale
    return stored


def save(model: JanusModel, directory: str | Path, vocabularies=None, *, quantization: str | None = None) -> None:
    """Writes a model and its ``(source, target)`` vocabularies over whatever model ``directory`` holds.

    A failure before everything is on disk, such as a full disk, leaves the old model as it was. If the machine stops
    during the renames that follow, ``directory`` has no weights, which ``load`` reports: two models never mix.

    Args:
        model: the ``janus_fast.JanusModel``.
        directory: made where it does not exist.
        vocabularies: (source, target), each a ``janus_fast.Vocabulary``; None leaves those that are there, and the
            ``vmap.txt`` that belongs to them.
        quantization: converts the weights on disk: "float32"; "bfloat16", half the size; or "int8", a quarter: the
            matrices of linear layers and the token embeddings as int8, each row with a scale. The file itself says
            which. None stores the model's own type.
    Raises:
        OSError: something cannot be written.
        TypeError: ``model``, ``directory`` or ``vocabularies`` is something else.
        ValueError: ``directory`` is a file or write-protected, other than two vocabularies, an unknown quantization, or
            weights that are not finite.
    """
    if not isinstance(model, JanusModel):
        raise TypeError(f"save: model must be a janus_fast.JanusModel, got {type(model).__name__}")
    check_output_folder("save: directory", directory)
    if vocabularies is not None:
        vocabularies = list_of("save: vocabularies", vocabularies, "vocabularies", "a Vocabulary", Vocabulary)
        if len(vocabularies) != 2:
            raise ValueError(f"save: vocabularies must be that of sources and that of targets, got {len(vocabularies)}")
    if quantization is not None:
        choice("save: quantization", quantization, weights.QUANTIZATIONS)
    removed = [WEIGHTS] if vocabularies is None else [WEIGHTS, *OF_VOCABULARIES]
    with replacing(directory, removed, last=WEIGHTS) as temporary:
        if vocabularies is not None:
            write_vocabularies(temporary, *vocabularies)
        (temporary / CONFIG).write_text(model.config.to_json(), encoding="utf-8")
        write_tensors(quantized(unique_state(model), quantization), temporary / WEIGHTS)


def load(directory: str | Path) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary] | None]:
    """Reads what ``save`` wrote: the model in float32 evaluation mode, and its vocabularies (None without)."""
    directory = Path(directory)
    config = read_config(directory)
    model = model_of(config, read_state(directory / WEIGHTS, config), directory / WEIGHTS)
    return model.eval(), read_vocabularies(directory)
