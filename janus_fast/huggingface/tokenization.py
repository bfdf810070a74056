"""The vocabularies of a model directory as transformers has tokenizers."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizer

from ..directory import CONFIG, VOCABULARIES, read_vocabularies, write_vocabularies


class JanusFastTokenizer(PreTrainedTokenizer):
    """Text to ids and back, as ``janus_fast.Vocabulary`` does it: ``bos`` (where the model reads it) and ``eos`` stand
    around sources, and ``eos`` behind targets, which ``text_target=`` makes. What looks like a special token in a text
    is text.

    It reads the vocabularies of a model directory, and what ``save_pretrained`` wrote.
    """

    vocab_files_names = {"config_file": CONFIG, **{name.replace(".", "_"): name for name in VOCABULARIES}}
    padding_side = "right"
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, config_file=None, source_bos: bool | None = None, **options):
        files = [options.pop(name, None) for name in self.vocab_files_names]
        there = [Path(file).parent for file in files if file]
        both = read_vocabularies(there[0]) if there else None
        if both is None:
            raise ValueError(
                f"JanusFastTokenizer: there must be a vocabulary, one of {', '.join(VOCABULARIES)}, got none"
            )
        self.vocabularies = both
        self._switch_to_input_mode()
        self._read_by = both[1]
        if source_bos is None:
            values = json.loads(Path(config_file).read_text(encoding="utf-8"))
            source_bos = values.get("source_bos", True)
            for place, name in enumerate(("bos", "pad", "eos", "unk", "mask")):
                options.setdefault(f"{name}_token", both[0].tokens[values.get(f"{name}_token_id", place)])
            options.setdefault("model_max_length", values["max_source_positions"])
        self.source_bos = source_bos
        options.setdefault("split_special_tokens", True)
        super().__init__(source_bos=source_bos, **options)

    @property
    def vocab_size(self) -> int:
        return len(self._current)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._current.index)

    def _switch_to_input_mode(self) -> None:
        self._current, self._prefix = self.vocabularies[0], True

    def _switch_to_target_mode(self) -> None:
        self._current, self._prefix = self.vocabularies[1], False

    def _tokenize(self, text: str, **_) -> list[str]:
        return self._current.encode(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._current.ids([token])[0]

    def _convert_id_to_token(self, index: int) -> str:
        return self._read_by.tokens_of([index])[0]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        special, parts, words = set(self.all_special_tokens) - {self.unk_token}, [], []
        for token in [*tokens, None]:
            if token is not None and token not in special:
                words.append(token)
                continue
            parts += [self._read_by.decode(words)] if words else []
            parts += [token] if token else []
            words = []
        return " ".join(parts)

    def _decode(self, token_ids, *arguments, use_source_tokenizer: bool = False, **options) -> str:
        self._read_by = self.vocabularies[0 if use_source_tokenizer else 1]
        try:
            return super()._decode(token_ids, *arguments, **options)
        finally:
            self._read_by = self.vocabularies[1]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        begin = [self.bos_token_id] if self.source_bos and self._prefix else []
        return [*begin, *token_ids_0, *(token_ids_1 or []), self.eos_token_id]

    def get_special_tokens_mask(self, token_ids_0, token_ids_1=None, already_has_special_tokens=False) -> list[int]:
        if not already_has_special_tokens:
            token_ids_0 = self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        special = set(self.all_special_ids) - {self.unk_token_id}
        return [int(token in special) for token in token_ids_0]

    def create_token_type_ids_from_sequences(self, token_ids_0, token_ids_1=None) -> list[int]:
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes the files of the vocabularies over those that are there, under the names that directories use."""
        if filename_prefix:
            raise ValueError(f"save_vocabulary: filename_prefix must be None, got {filename_prefix!r}")
        files = [Path(save_directory) / name for name in VOCABULARIES]
        for file in files:
            file.unlink(missing_ok=True)
        write_vocabularies(Path(save_directory), *self.vocabularies)
        return tuple(str(file) for file in files if file.is_file())
