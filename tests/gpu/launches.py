"""What a GPU is asked to launch while it decodes, without a GPU: the operators of a pass or step, on fake tensors.

``python -m benchmarks launches`` prints them. An operator is one launch, or a few where it works in stages.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from janus_fast import JanusConfig, JanusModel
from janus_fast.decoding import AutoregressiveOptions, NonAutoregressiveOptions
from janus_fast.decoding.decoder import Decoder
from janus_fast.decoding.fused import FusedModel
from janus_fast.decoding.runtime import Eager

SIX_LAYERS = {"source_vocab_size": 10000, "target_vocab_size": 10000}


class Recorded(Eager):
    """Programs as for graphs, whose records are themselves."""

    recorded = True


class Launches(TorchDispatchMode):
    """Counts operators that compute; views and fresh memory are not launched."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        name = operator.name().split("::")[1].split(".")[0]
        if operator.namespace != "prim" and "empty" not in name and not is_view(operator):
            self.counts[name] += 1
        return operator(*arguments, **(options or {}))


def is_view(operator) -> bool:
    """Whether what it returns is memory that it was given and does not write."""
    returned = [result.alias_info for result in operator._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def launches_of(function: Callable, *arguments) -> Counter:
    with Launches() as launches:
        function(*arguments)
    return launches.counts


def refinement(adaptive: bool = True, **config) -> tuple[Counter, Counter]:
    """The operators before the first pass of a refinement, and those of a pass that another one follows."""
    with FakeTensorMode(), torch.no_grad():  # in inference mode it would show operators that are made of others
        options = NonAutoregressiveOptions(4, 3, adaptive=adaptive)
        refinement, _ = _decoder(config).refinement((32, 640), 2560, options)
        before = launches_of(refinement.begin)
        return before, launches_of(refinement.refine, refinement.begin().canvases, 0)


def search(beams: int = 5, sentences: int = 32, whole_steps: bool = False, **config) -> tuple[Counter, Counter]:
    """The operators before the first step of a beam search, and those of a step."""
    with FakeTensorMode(), torch.no_grad():
        options = AutoregressiveOptions(beam_size=beams, max_decoding_length=100)
        _, begin, step, _ = _decoder(config, whole_steps).search((sentences, 20 * sentences), options)
        return launches_of(begin), launches_of(step)


def _decoder(config: dict, whole_steps: bool = False) -> Decoder:
    model = JanusModel(JanusConfig(**{**SIX_LAYERS, **config})).eval().requires_grad_(False)
    return Decoder(FusedModel(model, whole_steps), Recorded())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks launches", description=__doc__)
    parser.add_argument("--decoder-layers", type=int, default=6)
    layers = parser.parse_args(argv).decoder_layers
    traced = {"a pass of a refinement": refinement(decoder_layers=layers)[1],
              "a step of beam search": search(decoder_layers=layers)[1]}  # fmt: skip
    for what, counts in traced.items():
        print(f"{what}, {layers} decoder layers: {counts.total()} operators")
        for name, count in counts.most_common():
            print(f"  {name:<24}{count:>4}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(None))
