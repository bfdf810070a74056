"""The vocabularies of a model directory as transformers has tokenizers."""

from pathlib import Path

from transformers import PreTrainedTokenizer

from ..config import JanusConfig
from ..directory import CONFIG, VOCABULARIES, read_vocabularies, write_vocabularies
from ..reading import read_text

UNKNOWN = -1  # stands for a source's words


class JanusFastTokenizer(PreTrainedTokenizer):
    """Text to ids and back, as ``janus_fast.Vocabulary`` does it, with what the model reads around sources, such as
    ``bos`` and ``eos``, and ``eos`` behind targets, which ``text_target=`` makes. What looks like a special token in a
    text is text.

    It reads the vocabularies of a model directory, and what ``save_pretrained`` wrote.
    """

    vocab_files_names = {"config_file": CONFIG, **{name.replace(".", "_"): name for name in VOCABULARIES}}
    padding_side = "right"
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self, config_file=None, source_begin: list[int] | None = None, source_end: list[int] | None = None, **options
    ):
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
        if source_begin is None:
            config = JanusConfig.from_json(read_text("JanusFastTokenizer", config_file), config_file)
            around = config.source_ids([UNKNOWN])
            place = around.index(UNKNOWN)
            source_begin, source_end = around[:place], around[place + 1 :]
            for name in ("bos", "pad", "eos", "unk", "mask"):
                options.setdefault(f"{name}_token", both[0].tokens[getattr(config, f"{name}_token_id")])
            options.setdefault("model_max_length", config.max_source_positions)
        self.source_begin, self.source_end = source_begin, source_end
        options.setdefault("split_special_tokens", True)
        super().__init__(source_begin=source_begin, source_end=source_end, **options)

    @property
    def vocab_size(self) -> int:
        return len(self._current)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._current.index)

    def _switch_to_input_mode(self) -> None:
        self._current, self._of_source = self.vocabularies[0], True

    def _switch_to_target_mode(self) -> None:
        self._current, self._of_source = self.vocabularies[1], False

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
        begin, end = (self.source_begin, self.source_end) if self._of_source else ([], [self.eos_token_id])
        return [*begin, *token_ids_0, *(token_ids_1 or []), *end]

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
