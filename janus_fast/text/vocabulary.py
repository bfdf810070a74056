"""Text to tokens to ids and back."""

import io
import json
import re
from pathlib import Path

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
DEFAULT_SIZE = 8000


class Vocabulary:
    """The tokens of one language side, and the way from raw text to them.

    Either a sentencepiece model, or a plain list of tokens (text is then split at spaces, as fairseq's dictionaries
    expect). ``encode`` and ``decode`` go between text and tokens, ``ids`` and ``tokens_of`` between tokens and ids;
    none of them adds or keeps ``bos`` or ``eos``.
    """

    def __init__(self, tokens: list[str], processor=None, unknown: str = "<unk>"):
        self.tokens = tokens
        self.processor = processor
        self.index = {token: i for i, token in enumerate(tokens)}
        if len(self.index) != len(tokens):
            repeated = next(token for i, token in enumerate(tokens) if self.index[token] != i)
            raise ValueError(f"Vocabulary: tokens must be distinct, got {repeated!r} twice")
        if unknown not in self.index:
            raise ValueError(f"Vocabulary: tokens must hold the unknown token {unknown!r}")
        self.unknown = self.index[unknown]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_sentencepiece(cls, path: str | Path) -> "Vocabulary":
        import sentencepiece

        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=Path(path).read_bytes())
        except RuntimeError as error:
            raise ValueError(f"Vocabulary: {path} must be a sentencepiece model, got {error}") from None
        return cls([processor.id_to_piece(i) for i in range(processor.get_piece_size())], processor)

    @classmethod
    def train(cls, files: list[str | Path], vocabulary_size: int | None = None, *, seed: int = 1) -> "Vocabulary":
        """Trains a unigram sentencepiece model on text files.

        It has ``vocabulary_size`` tokens; without, ``DEFAULT_SIZE`` or as many as the text has pieces for.

        Raises:
            ValueError: the text has fewer pieces than ``vocabulary_size``, or more characters, or is empty.
        """
        import sentencepiece

        size, model = DEFAULT_SIZE if vocabulary_size is None else vocabulary_size, io.BytesIO()
        sentencepiece.set_random_generator_seed(seed)
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=[str(file) for file in files], model_writer=model, vocab_size=size,
                hard_vocab_limit=vocabulary_size is not None,
                character_coverage=1.0,  # 0.9995 loses capital umlauts
                bos_id=0, pad_id=1, eos_id=2, unk_id=3, control_symbols=[SPECIAL_TOKENS[4]], minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(f"Vocabulary: {_reason(str(error), size)}") from None
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        return cls([processor.id_to_piece(i) for i in range(processor.get_piece_size())], processor)

    @classmethod
    def from_json(cls, path: str | Path) -> "Vocabulary":
        try:
            tokens = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Vocabulary: {path} must hold a JSON list of tokens, got {error}") from None
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError(f"Vocabulary: {path} must hold a JSON list of tokens")
        return cls(tokens)

    def save(self, directory: str | Path, name: str) -> str:
        """Writes the vocabulary into ``directory``; returns the file's name."""
        if self.processor is not None:
            file = f"{name}.model"
            (Path(directory) / file).write_bytes(self.processor.serialized_model_proto())
        else:
            file = f"{name}.json"
            text = json.dumps(self.tokens, ensure_ascii=False, indent=0)
            (Path(directory) / file).write_text(text + "\n", encoding="utf-8")
        return file

    def encode(self, text: str) -> list[str]:
        return self.processor.encode(text, out_type=str) if self.processor is not None else text.split()

    def decode(self, tokens: list[str]) -> str:
        return self.processor.decode(tokens) if self.processor is not None else " ".join(tokens)

    def ids(self, tokens: list[str]) -> list[int]:
        """Ids of tokens; a token outside the vocabulary becomes the unknown token."""
        return [self.index.get(token, self.unknown) for token in tokens]

    def tokens_of(self, ids: list[int]) -> list[str]:
        return [self.tokens[i] for i in ids]


def _reason(message: str, size: int) -> str:
    """What sentencepiece says of a text that it cannot train on, in the terms of :meth:`Vocabulary.train`."""
    if largest := re.search(r"size too high .* <= (\d+)", message):
        return f"vocabulary_size must be at most {largest[1]} for this text, got {size}"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"vocabulary_size must be at least {least[1]} for the characters of this text, got {size}"
    if "sentences_.empty()" in message:
        return "files must hold text, got none"
    return f"vocabulary_size must suit the text, got {size}: {message}"
