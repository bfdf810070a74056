"""A model directory that transformers reads, too."""

import dataclasses
from pathlib import Path

from .. import checkpoint
from ..directory import CONFIG, OF_VOCABULARIES, WEIGHTS, write_vocabularies
from ..inputs import OptionError
from ..model import JanusModel
from ..replacing import replacing
from ..text import Vocabulary
from .configuration import JanusFastConfig
from .modeling import JanusFastForConditionalGeneration
from .tokenization import JanusFastTokenizer

MODULE = "modeling_janus_fast"
CLASSES = (JanusFastConfig, JanusFastForConditionalGeneration, JanusFastTokenizer)


def save_pretrained(
    model: JanusModel, directory: str | Path, vocabularies: tuple[Vocabulary, Vocabulary], *,
    quantization: str | None = None,
) -> None:  # fmt: skip
    """``janus_fast.save``, for transformers as well as for ``janus_fast.Translator``.

    ``directory`` gets the model, ``generation_config.json`` with the defaults of ``Translator``, the tokenizer's
    settings, and a line of code that leads here, which transformers runs with ``trust_remote_code=True``; who imports
    ``janus_fast.huggingface`` needs none.
    """
    if vocabularies is None:
        raise ValueError("save_pretrained: vocabularies must be given, got None")
    if model.config.recurrent:
        words = "be 'self-attention' for transformers, whose caches hold keys and values"
        raise OptionError("save_pretrained: decoder_autoreg", words, "'ssru'")
    names = [own.__name__ for own in CLASSES]
    references = [f"{MODULE}.{name}" for name in names]
    config = JanusFastConfig(**dataclasses.asdict(model.config), architectures=[names[1]])
    config.auto_map = dict(zip(("AutoConfig", "AutoModelForSeq2SeqLM"), references, strict=False))
    with replacing(directory, [WEIGHTS, *OF_VOCABULARIES], last=WEIGHTS) as temporary:
        write_vocabularies(temporary, *vocabularies)
        config.to_json_file(temporary / CONFIG)
        config.generation_config().save_pretrained(temporary)
        tokenizer = JanusFastTokenizer.from_pretrained(temporary)
        tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": [references[2], None]}
        tokenizer.save_pretrained(temporary)
        code = f"from janus_fast.huggingface import {', '.join(names)}  # noqa: F401\n"
        (temporary / f"{MODULE}.py").write_text(code, encoding="utf-8")
        state = checkpoint.quantized(checkpoint.unique_state(model), quantization)
        checkpoint.write_tensors(state, temporary / WEIGHTS)
