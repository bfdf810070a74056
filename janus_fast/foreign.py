"""What a directory, a file or a name of another system is, and the command that makes a model directory of it."""

import json
import re
from pathlib import Path

from .inputs import listed

HUGGING_FACE = {
    "bart": "BART", "fsmt": "FSMT", "m2m_100": "M2M100 (NLLB)", "marian": "Marian", "mbart": "mBART",
    "pegasus": "Pegasus",
}  # fmt: skip
CONFIG, CTRANSLATE2 = "config.json", "model.bin"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def described(path: str | Path) -> str | None:
    """The end of a sentence about ``path``, which is no model directory; None where nothing is known about it."""
    path = Path(path)
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        return _file(path)
    if HUB_NAME.fullmatch(str(path)):
        return (
            f"; for a model of that name on the Hugging Face hub: hf download {path} --local-dir DIR, then "
            "janus-fast convert DIR --out NEW"
        )
    return None


def _converted(what: str, path: Path, options: str = "") -> str:
    return f"; it is {what}: janus-fast convert {path}{options} --out NEW makes a model directory of it"


def _directory(path: Path) -> str | None:
    if kind := family(path):
        if kind in HUGGING_FACE:
            return _converted(f"a {HUGGING_FACE[kind]} model in Hugging Face's format", path)
        return (
            f"; it is a model in Hugging Face's format of the family {kind!r}, which nothing here converts; "
            f"families that are converted: {listed(HUGGING_FACE)}"
        )
    for folder in (path, path / "model"):  # an Argos package has one
        if (file := folder / CTRANSLATE2).is_file():
            return _converted("a model of CTranslate2", folder)
        if file.is_dir():
            return f"; for a model of CTranslate2 {file} must be a file, and is a folder"
    if (path / "decoder.yml").is_file() or _files(path, "*.npz"):
        return _converted("a model of Marian", path)
    if _files(path, "*.spm") and _files(path, "*.bin"):
        return _converted("a model of Marian", path)
    if checkpoints := _files(path, "*.pt"):
        return _checkpoint(next((file for file in checkpoints if "best" in file.name), checkpoints[0]))
    return None


def _files(path: Path, pattern: str) -> list[Path]:
    return sorted(file for file in path.glob(pattern) if file.is_file())


def _file(path: Path) -> str | None:
    if path.suffix == ".pt":
        return _checkpoint(path)
    if path.suffix == ".npz":
        return _converted("a model of Marian", path)
    if path.suffix in (".argosmodel", ".zip"):
        return "; it is an archive, such as Argos' packages: unpack it, and convert the folder in it that has model.bin"
    if path.name in (CTRANSLATE2, CONFIG) or path.suffix in (".safetensors", ".bin"):
        return f"; it is a part of a model, whose directory is {path.parent}"
    return None


def _checkpoint(path: Path) -> str:
    return _converted("a checkpoint of fairseq (with --source-dict FILE --target-dict FILE) or OpenNMT-py", path)


def family(directory: str | Path) -> str | None:
    """The ``model_type`` of the model of Hugging Face in ``directory``; None where there is no such thing."""
    try:
        kind = json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):  # no such file, no JSON, no JSON object
        return None
    return kind if isinstance(kind, str) and not kind.startswith("janus") else None
