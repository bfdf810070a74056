"""What a model in Hugging Face's format is told of transformers' ``generate``: what a model directory keeps of it, and
what else a call must ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..decoding import AutoregressiveOptions
from .hub import CONFIG, check_settings, read_object

GENERATION = "generation_config.json"
# Settings that would change what a model says, and that no option here stands for.
UNSUPPORTED = ("forced_decoder_ids", "begin_suppress_tokens", "sequence_bias", "force_words_ids")
# Those of a search that nothing here does, and what each is when nothing is chosen.
LACKING = {
    "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "exponential_decay_length_penalty": None,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "penalty_alpha": None, "guidance_scale": None,
}  # fmt: skip
USUAL_LENGTH = 20  # new tokens of generate (transformers 5.23) where nothing says how many
LACKING_WHEN_DRAWING = {"min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


@dataclass(frozen=True)
class Generation:
    """What a model directory keeps: its first three fields. The others are for those who call the model."""

    start: int  # stands before the first token of an output
    forced_bos: int | None  # the first token of every output
    never: tuple[int, ...]  # tokens that are never predicted
    search: dict[str, object]  # options of a call that searches as ``generate`` does
    lacking: dict[str, object]  # settings that nothing here does

    def said(self) -> list[str]:
        """What users should know, a sentence each."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.search.items())
        said = [f"transformers' generate would search with {options}: each call must, as it is not kept here"]
        if "max_decoding_length" not in self.search:
            said.append(
                f"no longest length is there: generate stops behind {USUAL_LENGTH} tokens then, calls here behind "
                f"max_decoding_length, {AutoregressiveOptions.max_decoding_length} unless it is given"
            )
        if self.lacking:
            said.append("nothing here does its " + ", ".join(f"{k} = {v}" for k, v in self.lacking.items()))
        return said


def read_generation(directory: Path, settings: Mapping | None = None) -> Generation:
    """What ``generation_config.json`` says, or the model's ``settings`` in directories without one."""
    path, settings = directory / GENERATION, settings or read_object(directory / CONFIG)
    told = read_object(path) if path.exists() else settings
    path = path if path.exists() else directory / CONFIG
    told = {name: value for name, value in told.items() if value is not None}
    for name in UNSUPPORTED:
        if told.get(name) not in (None, [], {}):
            raise ValueError(f"convert: {path}: {name} must be off (nothing here does it), got {told[name]!r}")
    pad, eos = settings["pad_token_id"], settings["eos_token_id"]
    for name, values in {
        "pad_token_id": (None, pad), "eos_token_id": (None, eos, [eos]), "forced_eos_token_id": (None, eos, [eos]),
    }.items():  # fmt: skip
        if told.get(name) not in values:
            raise ValueError(f"convert: {path}: {name} must be {values[1]} or null, got {told[name]!r}")
    check_settings(path, {name: value for name, value in told.items() if name != "eos_token_id"}, ())
    words = told.get("bad_words_ids", [])
    start = told.get("decoder_start_token_id", settings.get("decoder_start_token_id"))
    never = {*(word[0] for word in words if len(word) == 1), *told.get("suppress_tokens", [])}
    return Generation(start, told.get("forced_bos_token_id"), tuple(sorted(never)), *_search(told))


def _search(told: Mapping) -> tuple[dict[str, object], dict[str, object]]:
    """The options of a call, and what nothing here does. Lengths of ``generate`` count the decoder's start, and the
    longest one the end that is forced there."""
    beams, lacking = told.get("num_beams", 1), dict(LACKING)
    search: dict[str, object] = {"beam_size": beams}

    def take(theirs: str, ours: str, usual: object) -> None:
        if (value := told.get(theirs, usual)) != usual:
            search[ours] = value

    if beams > 1:
        take("length_penalty", "length_penalty", 1.0)
        if (stopping := told.get("early_stopping", False)) is not True:
            search["early_stopping"] = stopping
    if told.get("do_sample"):
        if beams > 1:
            lacking["do_sample"] = False
        else:
            search["sampling_topk"] = told.get("top_k", 50)
            take("top_p", "sampling_topp", 1.0)
            take("temperature", "sampling_temperature", 1.0)
        lacking |= LACKING_WHEN_DRAWING
    for name, usual in (("no_repeat_ngram_size", 0), ("repetition_penalty", 1.0), ("renormalize_logits", False)):
        take(name, name, usual)
    if "repetition_penalty" in search and beams == 1:  # of scores before the softmax there
        search["renormalize_logits"] = True
    take("num_return_sequences", "num_hypotheses", 1)
    if longest := told.get("max_new_tokens", told.get("max_length", 1) - 1):
        search["forced_eos"] = "forced_eos_token_id" in told
        search["max_decoding_length"] = longest - search["forced_eos"]
    if shortest := told.get("min_new_tokens", max(told.get("min_length", 0) - 1, 0)):
        search["min_decoding_length"] = shortest
    if words := [word for word in told.get("bad_words_ids", []) if len(word) > 1]:
        search["suppress_sequences"] = words
    return search, {name: told[name] for name, usual in lacking.items() if told.get(name, usual) != usual}
