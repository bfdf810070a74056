"""slimt with the same weights in int8: students of Marian with SSRU, greedily, from text, in one thread.

A batch is one text of as many lines, which it takes as one request: of several texts it begins with the first alone.
"""

import importlib.util
import json
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from benchmarks.process import serve

FILES = "model.bin", "vocab.spm", "lex.s2t.bin"  # as Marian's settings order them


def prepare(job: dict):
    slimt = native()
    if job["intra_threads"] * job["inter_threads"] > 1:
        raise NotImplementedError(f"threads must be 1, got {job['inter_threads']} x {job['intra_threads']}")
    if not job["texts"] or job["options"]["beam_size"] != 1 or not job["options"].get("use_vmap"):
        raise NotImplementedError("a row must be of a student with SSRU, greedy and with a shortlist; it has no others")
    directory = Path(job["model"]) / "slimt"
    if not directory.is_dir():
        convert(Path(job["model"]), job["calls"], directory)
    sizes = slimt.Config()
    config = json.loads((directory.parent / "config.json").read_text())
    for theirs, ours in (("encoder_layers",) * 2, ("decoder_layers",) * 2, ("num_heads", "attention_heads")):
        setattr(sizes, theirs, config[ours])
    model = slimt.Model(sizes, slimt.Package(*(str(directory / name) for name in FILES)))
    service = slimt.Service(workers=1, cache_size=0)
    texts = [
        "\n".join(call[first : first + job["batch"]])
        for call in job["texts"]
        for first in range(0, len(call), job["batch"])
    ]

    def decode() -> list[list[list[str]]]:
        lines = []
        for text in texts:
            (response,) = service.translate(model, [text])
            lines += response.target.text.split("\n")
        return [[line.split()] for line in lines]

    return decode, {"version": version("slimt"), "computes_in": "int8"}


def find() -> Path | None:
    """Its folder, where it is installed."""
    try:
        return Path(distribution("slimt").locate_file("slimt"))
    except PackageNotFoundError:
        return None


def native():
    """Its native module alone: the package around it asks the network for a list of models as it is imported."""
    if (folder := find()) is None:
        raise ImportError("No module named 'slimt'")
    (file,) = folder.glob("_slimt.*")
    spec = importlib.util.spec_from_file_location("_slimt", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convert(model: Path, calls: list[list[list[int]]], directory: Path) -> None:
    """Writes the student in ``model`` as Marian stores it."""
    from benchmarks import marian_files
    from janus_fast import directory as files
    from janus_fast import load
    from janus_fast.text import VocabularyMap

    loaded, (source, target) = load(model)
    with tempfile.TemporaryDirectory(dir=model) as temporary:
        written = Path(temporary) / "slimt"
        written.mkdir()
        binary, vocabulary, shortlist = (written / name for name in FILES)
        marian_files.write_model(loaded, sum(calls, []), binary)
        shutil.copyfile(model / "sentencepiece.model", vocabulary)
        words = VocabularyMap.read(model / files.MAP, source, target)
        marian_files.write_shortlist(words, len(source), shortlist)
        written.rename(directory)


if __name__ == "__main__":
    serve(prepare)
