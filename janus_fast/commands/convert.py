"""``janus-fast convert``: another system's model, or a model directory, becomes a model directory."""

import argparse
from pathlib import Path

from ..directory import FILES
from ..inputs import check_output_folder
from ..weights import QUANTIZATIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT",
        help="a fairseq checkpoint, *.pt; or a directory: of CTranslate2, of Hugging Face (BART, FSMT, M2M100, Marian, "
        "mBART, NLLB, Pegasus), or one of our own, to store it anew; or the name of a shipped model",
    )  # fmt: skip
    parser.add_argument("--source-dict", metavar="FILE", help="fairseq's dict.SOURCE.txt; without, ids alone go in")
    parser.add_argument("--target-dict", metavar="FILE", help="fairseq's dict.TARGET.txt")
    parser.add_argument(
        "--bpe", metavar="FILE", help="with dictionaries: subword-nmt's codes, so that text need not be BPE-encoded"
    )
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-language", metavar="TOKEN",
            help=f"of a multilingual model of Hugging Face: the token of its {side}s' language, such as eng_Latn",
        )  # fmt: skip
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the model directory to write, which holds no model yet"
    )
    parser.add_argument(
        "--to", choices=("janus_fast", "huggingface"), default="janus_fast",
        help="with huggingface the directory is one of transformers, too (default: janus_fast)",
    )  # fmt: skip
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS,
        help="of weights on disk (default: float32; int8 for a model that CTranslate2 stored so)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from .. import checkpoint, models
    from ..convert import ctranslate2, fairseq, hub, huggingface, marian

    check_output_folder("--out", arguments.out)
    if held := [name for name in FILES if (Path(arguments.out) / name).exists()]:
        raise ValueError(f"--out must be a directory without a model, got {arguments.out}, which holds {held[0]}")
    path, needs, quantization = Path(arguments.checkpoint), None, "float32"
    if path.is_file() or path.suffix == ".pt":
        if path.name in (checkpoint.CONFIG, *hub.WEIGHTS) or path.suffix == ".safetensors":
            raise ValueError(
                f"CHECKPOINT must be a model's directory, {path.parent}, rather than a part of it, got {path}"
            )
        model, vocabularies = fairseq.load(path, arguments.source_dict, arguments.target_dict, arguments.bpe)
        if vocabularies is None:
            needs = "without dictionaries it takes ids alone"
        else:
            encoded = "" if arguments.bpe else " and BPE-encoded (--bpe does that)"
            needs = f"text must be tokenised{encoded} as for its training, which is not done here"
    else:
        path = models.locate(path)
        for name in ("source_dict", "target_dict", "bpe"):
            if file := getattr(arguments, name):
                raise ValueError(f"--{name.replace('_', '-')} must be left out with a model directory, got {file}")
        families = (ctranslate2, huggingface, marian)
        reader = next((family for family in families if family.recognises(path)), checkpoint)
        if reader is huggingface:
            model, vocabularies = reader.load(path, arguments.source_language, arguments.target_language)
        else:
            model, vocabularies = reader.load(path)
        if reader is ctranslate2:
            quantization = ctranslate2.stored_as(path)
        if vocabularies is None:
            needs = "without a vocabulary it takes ids alone"
        elif reader in families and vocabularies[0].processor is None and vocabularies[0].tokenizer is None:
            needs = "text must be tokens already, with spaces between them: there is no tokenizer of its own"
    save = checkpoint.save
    if arguments.to == "huggingface":
        from ..huggingface import save_pretrained as save
    save(model, arguments.out, vocabularies, quantization=arguments.quantization or quantization)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.out}: {parameters:,} parameters, {model.config.target_vocab_size:,} target tokens")
    if needs:
        print(f"{arguments.out}: {needs}")
    return 0
