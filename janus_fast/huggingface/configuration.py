"""``janus_fast.JanusConfig`` as transformers has configurations."""

import dataclasses

import transformers
from transformers import GenerationConfig, PreTrainedConfig

from ..config import JanusConfig, written
from ..decoding.modes import MODES

NAMES = tuple(field.name for field in dataclasses.fields(JanusConfig))
KEPT = ("model_type", "architectures", "auto_map", "dtype", "transformers_version")  # of transformers' own


class JanusFastConfig(PreTrainedConfig):
    """The fields of ``janus_fast.JanusConfig``, which it also checks; what is written is read by both libraries."""

    model_type = "janus_fast"
    attribute_map = {
        "vocab_size": "target_vocab_size", "hidden_size": "d_model", "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "attention_heads",
    }  # fmt: skip
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    has_no_defaults_at_init = True

    def __init__(self, **values):
        own = {name: values.pop(name) for name in NAMES if name in values}
        for name, value in dataclasses.asdict(JanusConfig(**own)).items() if own else ():
            setattr(self, name, value)
        values |= {"is_encoder_decoder": True, "tie_word_embeddings": bool(own) and self.share_decoder_embeddings}
        super().__init__(**values)

    @property
    def native(self) -> JanusConfig:
        """The same as a ``janus_fast.JanusConfig``."""
        return JanusConfig(**{name: getattr(self, name) for name in NAMES})

    def to_diff_dict(self) -> dict:
        """What ``config.json`` holds."""
        values = written(super().to_diff_dict())
        return {name: value for name, value in values.items() if name in KEPT or (name in NAMES and value is not None)}

    def _get_generation_parameters(self) -> dict:
        """None that must move elsewhere: what a model forces and forbids is its own, and in ``generation_config``."""
        return {}

    def generation_config(self) -> GenerationConfig:
        """The translations of ``janus_fast.Translator`` with its own defaults, as options of ``generate``."""
        native = self.native
        options = MODES["ar"].options()
        return GenerationConfig(
            bos_token_id=native.bos_token_id, pad_token_id=native.pad_token_id, eos_token_id=native.eos_token_id,
            decoder_start_token_id=native.decoder_start_token_id, forced_eos_token_id=native.eos_token_id,
            forced_bos_token_id=native.forced_bos_token_id,
            suppress_tokens=native.suppressed or None, num_beams=options.beam_size, early_stopping=True,
            length_penalty=options.length_penalty,
            max_length=options.longest(native) + 2,  # what the decoder starts with, and eos, count here
            min_length=options.min_decoding_length + 1,
        )  # fmt: skip


class NativeConfig(JanusFastConfig):
    """What stands in a directory of this package; transformers knows another family by the same name."""

    model_type = "janus"

    @classmethod
    def from_dict(cls, values: dict, **options):
        theirs = "vision_config" in values or "text_config" in values
        return (transformers.JanusConfig if theirs else JanusFastConfig).from_dict(values, **options)
