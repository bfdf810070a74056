"""``janus-fast convert``: a model of another system or of ours becomes ours, CTranslate2's or Hugging Face's."""

import argparse
import shutil
from pathlib import Path

from ..directory import FILES, MAP
from ..inputs import check_output_folder, check_part, flag
from ..replacing import replacing
from ..weights import QUANTIZATIONS

FORMATS = ("janus_fast", "huggingface", "ctranslate2")
LANGUAGES, DICTIONARIES = ("source_language", "target_language"), ("source_dict", "target_dict", "bpe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT",
        help="a checkpoint of fairseq or OpenNMT-py, *.pt; or a directory: of CTranslate2, Marian, Hugging Face (BART, "
        "FSMT, M2M100, Marian, mBART, NLLB, Pegasus), or our own, to store it anew; or the name of a shipped model",
    )  # fmt: skip
    parser.add_argument("--source-dict", metavar="FILE", help="fairseq's dict.SOURCE.txt; without, ids alone go in")
    parser.add_argument("--target-dict", metavar="FILE", help="fairseq's dict.TARGET.txt")
    parser.add_argument(
        "--bpe", metavar="FILE", help="with dictionaries: subword-nmt's codes, so that text need not be BPE-encoded"
    )
    for name in LANGUAGES:
        parser.add_argument(
            flag(name), metavar="TOKEN",
            help=f"of a multilingual model of Hugging Face, or CTranslate2's mBART-25: the token of its "
            f"{name.partition('_')[0]}s' language, such as eng_Latn",
        )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="the directory to write, which holds no model yet")
    parser.add_argument(
        "--to", choices=FORMATS, default=FORMATS[0],
        help="whose format to write (default: janus_fast): with huggingface the directory is one of transformers, too; "
        "ctranslate2 takes ordinary Transformers alone",
    )  # fmt: skip
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS,
        help="of weights on disk (default: float32; int8 for a model that CTranslate2 stored so)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from .. import checkpoint
    from ..convert import to_ctranslate2

    check_output_folder("--out", arguments.out)
    if held := [name for name in (*FILES, to_ctranslate2.WEIGHTS) if (Path(arguments.out) / name).exists()]:
        raise ValueError(f"--out must be a directory without a model, got {arguments.out}, which holds {held[0]}")
    vmap = _map_of(arguments.checkpoint)
    model, vocabularies, stored, said = _read(arguments)
    quantization = arguments.quantization or stored
    if arguments.to == "ctranslate2":
        said = to_ctranslate2.save(model, arguments.out, vocabularies, quantization=quantization)
    else:
        save = checkpoint.save
        if arguments.to == "huggingface":
            from ..huggingface import save_pretrained as save
        save(model, arguments.out, vocabularies, quantization=quantization)
    if vmap is not None:  # tokens keep their names
        with replacing(arguments.out) as temporary:
            shutil.copyfile(vmap, temporary / MAP)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.out}: {parameters:,} parameters, {model.config.target_vocab_size:,} target tokens")
    for line in said:
        print(f"{arguments.out}: {line}")
    return 0


def _map_of(checkpoint: str) -> Path | None:
    from .. import models

    path = (models.locate(checkpoint) if models.is_shipped(checkpoint) else Path(checkpoint)) / MAP
    if not path.exists():
        return None
    check_part("convert", path)
    return path


def _read(arguments: argparse.Namespace) -> tuple:
    """The model, its vocabularies, how its weights were stored, and what its users should know, a line each."""
    from .. import checkpoint, models
    from ..convert import ctranslate2, fairseq, generation, hub, huggingface, marian, marian_native, opennmt

    def refuse(names: tuple[str, ...], what: str) -> None:
        for name in names:
            if given := getattr(arguments, name):
                raise ValueError(f"{flag(name)} must be left out with {what}, got {given}")

    path = Path(arguments.checkpoint)
    if marian_native.recognises(path):
        refuse((*LANGUAGES, *DICTIONARIES), "a model of Marian")
        model, vocabularies = marian_native.load(path)
        spaces = "text must be tokens already, with spaces between them: no sentencepiece model lies there"
        return model, vocabularies, "float32", [] if vocabularies[0].processor else [spaces]
    if path.is_file() or path.suffix == ".pt":
        if path.name in (checkpoint.CONFIG, ctranslate2.WEIGHTS, *hub.WEIGHTS) or path.suffix == ".safetensors":
            raise ValueError(
                f"CHECKPOINT must be a model's directory, {path.parent}, rather than a part of it, got {path}"
            )
        refuse(LANGUAGES, "a checkpoint")
        if opennmt.recognises(path):
            refuse(DICTIONARIES, "a checkpoint of OpenNMT-py, which holds its vocabularies")
            said = "text must be tokens already, with spaces between them: there is no tokenizer in the file"
            return *opennmt.load(path), "float32", [said]
        model, vocabularies = fairseq.load(path, arguments.source_dict, arguments.target_dict, arguments.bpe)
        if vocabularies is None:
            return model, vocabularies, "float32", ["without dictionaries it takes ids alone"]
        encoded = "" if arguments.bpe else " and BPE-encoded (--bpe does that)"
        said = f"text must be tokenised{encoded} as for its training, which is not done here"
        return model, vocabularies, "float32", [said]
    path, stored, said = models.locate(path), "float32", []
    refuse(DICTIONARIES, "a model directory")
    readers = (ctranslate2, huggingface, marian)
    reader = next((family for family in readers if family.recognises(path)), checkpoint)
    if reader is huggingface:
        model, vocabularies = reader.load(path, arguments.source_language, arguments.target_language)
        around = {*model.config.source_prefix_ids, *model.config.source_suffix_ids}
        reads_language = around - {model.config.bos_token_id, model.config.eos_token_id}
        if reads_language and model.config.forced_bos_token_id is None:
            said.append("which language it writes, each target prefix must say: its first token; or --target-language")
    elif reader is ctranslate2:
        model, vocabularies = reader.load(path, arguments.source_language, arguments.target_language)
        if arguments.target_language and not arguments.source_language:
            said.append(
                "the end of a source and the token of its language are its callers' to bring; or --source-language"
            )
    else:
        refuse(LANGUAGES, "a model that is neither of Hugging Face nor of CTranslate2, or is Marian's")
        model, vocabularies = reader.load(path)
    if reader in (huggingface, marian):
        said += generation.read_generation(path).said()
    if reader is ctranslate2:
        stored = ctranslate2.stored_as(path)
    if vocabularies is None:
        said.append("without a vocabulary it takes ids alone")
    elif reader in readers and vocabularies[0].processor is None and vocabularies[0].tokenizer is None:
        said.append("text must be tokens already, with spaces between them: there is no tokenizer of its own")
    return model, vocabularies, stored, said
