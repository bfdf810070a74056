"""Text to tokens to ids and back."""

import io
import json
import re
from functools import cached_property
from pathlib import Path

from .. import inputs
from ..inputs import OptionError
from ..installation import need
from ..reading import read_bytes, read_text
from .lines import lines_of

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
DEFAULT_SIZE = 8000
NORMALIZATIONS = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")  # sentencepiece's names
SUFFIXES = (".model", ".json", ".codes", ".tokenizer.json")  # of the files of a vocabulary


class Vocabulary:
    """The tokens of one language side, and the way from raw text to them.

    Either a sentencepiece model, or a plain list of tokens (text is then split at spaces, as fairseq's dictionaries
    expect), or both: a list that numbers the pieces of the model anew, as Marian's vocabularies do. Beside a list may
    stand ``codes``, the text of a file of subword-nmt, which applies them to words of text; words are put together
    again where tokens end in ``@@``. Neither splits punctuation off words (tokenises). Instead of both there may be a
    ``tokenizer``, the text of a ``tokenizer.json``, which the package tokenizers applies. ``encode`` and ``decode`` go
    between text and tokens, ``ids`` and ``tokens_of`` between tokens and ids; none of them adds or keeps
    ``bos`` or ``eos``. A token that the list holds twice is read as its last id.

    Args:
        tokens: every token, in the order of the ids.
        processor: the ``sentencepiece.SentencePieceProcessor`` that cuts text into them; without, text is split at
            spaces.
        unknown: the token that stands for all others.
        codes: the text of a file of subword-nmt.
        tokenizer: the text of a ``tokenizer.json``.
    Raises:
        ValueError: the unknown token is not there.
    """

    def __init__(self, tokens: list[str], processor=None, unknown: str = "<unk>", codes: str | None = None,
        tokenizer: str | None = None,
    ):  # fmt: skip
        self.tokens = tokens
        self.processor = processor
        self.codes, self.tokenizer = codes, tokenizer
        self.renumbered = processor is not None and tokens != _pieces(processor)
        self.index = {token: i for i, token in enumerate(tokens)}
        if unknown not in self.index:
            raise ValueError(f"Vocabulary: tokens must hold the unknown token {unknown!r}")
        self.unknown = tokens.index(unknown)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_sentencepiece(cls, path: str | Path, tokens: list[str] | None = None) -> "Vocabulary":
        """A sentencepiece model, its pieces numbered by their places in ``tokens`` when that is given.

        Raises:
            ValueError: the file is no sentencepiece model.
        """
        import sentencepiece

        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=read_bytes(path))
        except RuntimeError:
            raise ValueError(f"Vocabulary: {path} must be a sentencepiece model, got another file") from None
        return cls(_pieces(processor) if tokens is None else tokens, processor)

    @classmethod
    def train(
        cls, files: list[str | Path], vocabulary_size: int | None = None, *, seed: int = 1,
        normalization: str = NORMALIZATIONS[0],
    ) -> "Vocabulary":  # fmt: skip
        """Trains a unigram sentencepiece model on the lines of text files, but for those above 65,536 bytes.

        It has ``vocabulary_size`` tokens; without, ``DEFAULT_SIZE`` or as many as the text has pieces for. Which ones
        these are, and how many there can be, depends on sentencepiece's release: 0.2.1, 0.2.2 and 0.2.3 differ. What
        ``normalization`` makes of a text is all that it can encode, and decode: with "nmt_nfkc" ``²`` becomes ``2`` for
        good, with "identity" nothing changes but runs of spaces.

        Raises:
            ValueError: the text has fewer pieces than ``vocabulary_size``, or more characters, or is empty.
        """
        import sentencepiece

        inputs.choice("Vocabulary: normalization", normalization, NORMALIZATIONS)
        size, model = DEFAULT_SIZE if vocabulary_size is None else vocabulary_size, io.BytesIO()
        inputs.integer("Vocabulary: vocabulary_size", size, len(SPECIAL_TOKENS) + 1)
        files = inputs.list_of("Vocabulary: files", files, "paths", "a path", (str, Path))
        lines = [line for file in files for line in lines_of(file)]
        sentencepiece.set_random_generator_seed(seed)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=model, vocab_size=size,
                hard_vocab_limit=vocabulary_size is not None,
                character_coverage=1.0,  # 0.9995 loses capital umlauts
                normalization_rule_name=normalization,
                max_sentence_length=2**16,  # bytes, and not 4,192; it cannot train on words that are much longer
                bos_id=0, pad_id=1, eos_id=2, unk_id=3, control_symbols=[SPECIAL_TOKENS[4]], minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            raise _reason(str(error), size) from None
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        return cls(_pieces(processor), processor)

    @classmethod
    def read(cls, directory: str | Path, name: str) -> "Vocabulary | None":
        """What ``save`` wrote; None when there is nothing of that name."""
        model, tokens, codes, tokenizer = (Path(directory) / f"{name}{suffix}" for suffix in SUFFIXES)
        if model.exists():
            return cls.from_sentencepiece(model, _read_tokens(tokens) if tokens.exists() else None)
        if not tokens.exists():
            return None
        applied = read_text("Vocabulary", tokenizer) if tokenizer.exists() else None
        return cls(_read_tokens(tokens), codes=read_codes(codes) if codes.exists() else None, tokenizer=applied)

    def save(self, directory: str | Path, name: str) -> None:
        """Writes the files ``name.*`` that ``read`` reads into ``directory``."""
        if self.processor is not None:
            (Path(directory) / f"{name}.model").write_bytes(self.processor.serialized_model_proto())
        if self.processor is None or self.renumbered:
            text = json.dumps(self.tokens, ensure_ascii=False, indent=0)
            (Path(directory) / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        if self.codes is not None:
            (Path(directory) / f"{name}.codes").write_text(self.codes, encoding="utf-8", newline="\n")
        if self.tokenizer is not None:
            (Path(directory) / f"{name}.tokenizer.json").write_text(self.tokenizer, encoding="utf-8", newline="\n")

    def same_as(self, other: "Vocabulary") -> bool:
        """Whether the other has the same tokens, and cuts text into them in the same way."""
        models = [v.processor and v.processor.serialized_model_proto() for v in (self, other)]
        same = self.codes == other.codes and self.tokenizer == other.tokenizer
        return self.tokens == other.tokens and models[0] == models[1] and same

    def encode(self, text: str) -> list[str]:
        """Text -> tokens."""
        text = inputs.text("Vocabulary: text", text)
        if self.tokenizer is not None:
            return self._tokenizer.encode(text, add_special_tokens=False).tokens
        if self.processor is None:
            return text.split() if self.codes is None else self._bpe.segment_tokens(text.split())
        language, text = self._language(text) if self.renumbered else ([], text)
        return language + self.processor.encode(text, out_type=str)

    def decode(self, tokens: list[str]) -> str:
        """Tokens -> text."""
        tokens = inputs.list_of("Vocabulary: tokens", tokens, "tokens", "a token as a string", str)
        if self.tokenizer is not None:
            return self._tokenizer.decode(self.ids(tokens))
        if self.processor is None:
            text = " ".join(tokens)
            return text if self.codes is None else f"{text} ".replace("@@ ", "").rstrip()
        text = self.processor.decode(tokens)
        return text.replace("▁", " ").strip() if self.renumbered else text  # of pieces that the model does not know

    def ids(self, tokens: list[str]) -> list[int]:
        """Ids of tokens; a token outside the vocabulary becomes the unknown token."""
        tokens = inputs.list_of("Vocabulary: tokens", tokens, "tokens", "a token as a string", str)
        return [self.index.get(token, self.unknown) for token in tokens]

    def tokens_of(self, ids: list[int]) -> list[str]:
        """Tokens of ids."""
        return [self.tokens[i] for i in ids]

    @cached_property
    def _bpe(self):
        need("subword_nmt", "Vocabulary: text of this model")
        from subword_nmt.apply_bpe import BPE

        return BPE(io.StringIO(self.codes))

    @cached_property
    def _tokenizer(self):
        need("tokenizers", "Vocabulary: text of this model")
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the package has no other type for what it cannot read
            raise ValueError(f"Vocabulary: tokenizer must be the text of a tokenizer.json, got {error}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _language(self, text: str) -> tuple[list[str], str]:
        """The token that names the target language to some Marian models, such as ``>>deu<<``, and the text behind."""
        token, end, rest = text.partition("<<")
        return ([token + end], rest) if text.startswith(">>") and token + end in self.index else ([], text)


def _pieces(processor) -> list[str]:
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def _read_tokens(path: Path) -> list[str]:
    text = read_text("Vocabulary", path)
    try:
        tokens = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Vocabulary: {path} must hold a JSON list of tokens, got {error}") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"Vocabulary: {path} must hold a JSON list of tokens")
    return tokens


def read_codes(path: str | Path) -> str:
    """The text of a file of subword-nmt: ``#version: 0.2``, then lines of two symbols that are merged.

    Version 0.1, which has no such line, merges with ``</w>`` as a symbol of its own. Codes of 0.2 that have lost the
    line would be applied without ever ending a word (subword-nmt 0.3.8 says nothing), so they are refused.
    """
    codes = read_text("Vocabulary", path)
    for number, line in enumerate(codes.rstrip("\n").split("\n"), 1):
        versions = ("#version: 0.1", "#version: 0.2")
        if len(line.strip("\r\n ").split(" ")) != 2 or (line.startswith("#version") and line.strip() not in versions):
            raise ValueError(
                f"Vocabulary: {path} must hold subword-nmt's codes, two symbols a line, got {line!r} in line {number}"
            )
    if not codes.startswith("#version") and "</w>" in codes and " </w>" not in codes:
        raise ValueError(f"Vocabulary: {path} must begin with the line '#version: 0.2', as its merges are of that kind")
    return codes


def _reason(message: str, size: int) -> ValueError:
    """What sentencepiece says of a text that it cannot train on, in the terms of ``Vocabulary.train``."""
    if largest := re.search(r"size too high .* <= (\d+)", message):
        return OptionError("Vocabulary: vocabulary_size", f"be at most {largest[1]} for this text", size)
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        words = f"be at least {least[1]} for the characters of this text"
        return OptionError("Vocabulary: vocabulary_size", words, size)
    if "sentences_.empty()" in message:
        return ValueError("Vocabulary: files must hold text, got none")
    return OptionError("Vocabulary: vocabulary_size", "suit the text", f"{size}; sentencepiece says {message!r}")
