"""The ways of decoding that transformers does not have, for ``generate(..., custom_generate=...)``."""

import inspect
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.generation import (
    EosTokenCriteria,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerateEncoderDecoderOutput,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from ..decoding.modes import MODES
from ..translator import Translator

# What a GenerationConfig may ask for beside numbers: rules that decoding here has, too.
RULES = (
    EosTokenCriteria, ForcedBOSTokenLogitsProcessor, ForcedEOSTokenLogitsProcessor, MaxLengthCriteria,
    MinLengthLogitsProcessor, NoRepeatNGramLogitsProcessor, SuppressTokensLogitsProcessor,
)  # fmt: skip
_translators: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # of a model: its parameters' state, a Translator


def _decoder(mode: str, document: str) -> Callable:
    """A function for ``custom_generate``, whose signature names the options of ``mode``, as only those come through."""

    def decode(
        model, input_ids: Tensor, logits_processor, stopping_criteria, generation_config, inputs_tensor=None, **options
    ):
        mask = options.get("attention_mask")  # not in the signature, or the encoder would miss it
        own = {name: value for name, value in options.items() if name in fields}
        for rule in (*logits_processor, *stopping_criteria):
            if not isinstance(rule, RULES):
                known = ", ".join(one.__name__ for one in RULES)
                raise ValueError(f"generate: mode {mode!r} must go with {known} alone, got {type(rule).__name__}")
        return _generate(model, input_ids, generation_config, inputs_tensor, mask, {"mode": mode, **own})

    fields = MODES[mode].fields
    *named, rest = inspect.signature(decode).parameters.values()
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=fields[name].default) for name in fields
            if name not in _said_by_config(mode)]  # fmt: skip
    decode.__signature__ = inspect.Signature([*named, *more, rest])
    decode.__name__ = decode.__qualname__ = "mask_predict" if mode == "nar" else mode
    decode.__doc__ = document
    return decode


def _said_by_config(mode: str) -> dict[str, Callable]:
    """Options that a GenerationConfig has under names of its own."""
    said = {
        "num_hypotheses": lambda config: config.num_return_sequences,
        "length_penalty": lambda config: config.length_penalty,
        "max_decoding_length": lambda config: config.max_length - 2,  # but for the start and eos
        "min_decoding_length": lambda config: max(0, (config.min_length or 0) - 1),
        "no_repeat_ngram_size": lambda config: config.no_repeat_ngram_size or 0,
    }
    return {name: value for name, value in said.items() if name in MODES[mode].fields}


def _generate(model, decoder_ids: Tensor, config, source: Tensor, mask: Tensor | None, options: dict):
    mode, wanted = options["mode"], config.num_return_sequences or 1
    for name, value in _said_by_config(mode).items():
        if (given := value(config)) is not None:
            options[name] = given
    if wanted > 1 and "num_hypotheses" not in options:
        raise ValueError(f"generate: num_return_sequences must be 1 in mode {mode!r}, got {wanted}")
    expanded = len(decoder_ids) // len(source)  # by generate, for beams and returned sequences
    there = torch.ones_like(source) if mask is None else mask[::expanded]
    sources = [row[own].tolist() for row, own in zip(source, there.bool(), strict=True)]
    if decoder_ids.shape[1] > 1:
        options["target_prefix"] = decoder_ids[::expanded, 1:].tolist()
    elif config.forced_bos_token_id is not None and MODES[mode].prefixes:
        options["target_prefix"] = [[config.forced_bos_token_id]] * len(sources)
    results = _translator(model).generate(sources, **options)
    start, eos, pad = model.config.decoder_start_token_id, model.config.eos_token_id, model.config.pad_token_id
    outputs = [[start, *ids, eos] for result in results for ids in (result.hypotheses * wanted)[:wanted]]
    sequences = torch.full((len(outputs), max(map(len, outputs))), pad, device=decoder_ids.device)
    for row, ids in zip(sequences, outputs, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return GenerateEncoderDecoderOutput(sequences=sequences) if config.return_dict_in_generate else sequences


def _translator(model) -> Translator:
    """One for these parameters, made anew when they have changed."""
    own = [parameter.detach() for parameter in model.parameters()]
    sums = torch.stack([tensor.sum(dtype=torch.float32) for tensor in own]).tolist()  # writes to .data have no version
    state = [(tensor.data_ptr(), tensor._version, total) for tensor, total in zip(own, sums, strict=True)]
    if model not in _translators or _translators[model][0] != state:
        compute_type = "bfloat16" if model.dtype == torch.bfloat16 and model.device.type != "cpu" else "default"
        _translators[model] = state, Translator(model.native(), str(model.device), compute_type)
    return _translators[model][1]


mask_predict = _decoder(
    "nar",
    """Decodes in parallel: ``model.generate(**inputs, custom_generate=mask_predict, iterations=4)``.

    Takes the options of ``janus_fast.decoding.NonAutoregressiveOptions``; ``num_return_sequences`` is
    ``num_hypotheses``, and where there are fewer candidates the best ones come again.
    """,
)
speculative = _decoder(
    "speculative",
    """Greedy search, several words a pass: ``model.generate(**inputs, custom_generate=speculative)``.

    Takes the options of ``janus_fast.decoding.SpeculativeOptions``; lengths, the length penalty and n-grams are those
    of the ``GenerationConfig``.
    """,
)
