"""What is decoded: models of random weights, sources of 20 to 30 tokens, outputs of exactly 25."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

OUTPUT = 25  # tokens, without `bos` and `eos`
SOURCE = (20, 30)  # tokens, with them
SPECIALS = 5  # `bos`, `pad`, `eos`, `unk` and the mask have the first ids


@dataclass(frozen=True)
class Sizes:
    """A post-norm Transformer with one table of embeddings for everything; with as many layers on both sides unless
    ``decoder_layers`` says otherwise. With ``candidates`` there is a map, of so many words that each may become.
    With ``ssru`` it is a student of Marian's, as slimt decodes them: from text, and of sources of ``OUTPUT`` tokens
    with ``eos``, for slimt stops after as many as the source has.
    """

    channels: int
    hidden: int
    heads: int
    layers: int
    vocabulary: int
    decoder_layers: int = 0
    candidates: int = 0
    ssru: bool = False

    def __post_init__(self):
        object.__setattr__(self, "decoder_layers", self.decoder_layers or self.layers)


CONFIGURATIONS = {
    "iwslt": Sizes(512, 1024, 4, 6, 10_000),
    "base": Sizes(512, 2048, 8, 6, 32_000),
    "tiny11": Sizes(256, 1536, 8, 6, 32_000, decoder_layers=2, candidates=100),  # as Marian's and Bergamot's students
    "tiny11-ssru": Sizes(256, 1536, 8, 6, 32_000, decoder_layers=2, candidates=100, ssru=True),
    "tiny": Sizes(32, 64, 2, 2, 300, candidates=5),  # for tests
    "tiny-ssru": Sizes(64, 128, 2, 2, 304, candidates=5, ssru=True),
}


@dataclass(frozen=True)
class Row:
    """One measurement. ``streams``: 1 is an ordinary decoder from left to right, 2 that of JANUS."""

    config: str
    mode: str
    batch: int
    compute_type: str
    streams: int = 2
    beam_size: int = 1
    iterations: int = 4
    length_beam: int = 1
    shortlist: bool = False

    @property
    def sizes(self) -> Sizes:
        return CONFIGURATIONS[self.config]

    @property
    def decoding(self) -> str:
        if self.mode == "nar":
            lengths = f", {self.length_beam} lengths" if self.length_beam > 1 else ""
            return f"{self.iterations} passes{lengths}{', shortlist' * self.shortlist}"
        search = f"beam {self.beam_size}" if self.beam_size > 1 else "greedy"
        return f"{search}, {'one stream' if self.streams == 1 else 'two streams'}{', shortlist' * self.shortlist}"

    @property
    def options(self) -> dict:
        """As ``Translator.generate`` takes them; the random models never agree with themselves too early."""
        words = {"use_vmap": True} if self.shortlist else {}
        if self.mode == "nar":
            lengths = {"length_beam": self.length_beam, "rerank": False}  # as the peers compare them
            return {"iterations": self.iterations, "adaptive": False, **lengths, **words}
        return {"beam_size": self.beam_size, "min_decoding_length": OUTPUT, "max_decoding_length": OUTPUT, **words}

    @property
    def calls(self) -> list[list[list[int]]]:
        """The sources of each call of a decoder. Single sentences come one by one; larger batches two at a time, so
        that two workers of one thread and one of two threads have the same to do."""
        if self.batch == 1:
            return [[source] for source in sources(self.sizes)[::16]]
        return [sources(self.sizes, 2 * self.batch)]

    @property
    def texts(self) -> list[list[str]] | None:
        """The sources as text, where decoders are given that: a word is its id."""
        if not self.sizes.ssru:
            return None
        return [[" ".join(map(str, source[:-1])) for source in call] for call in self.calls]


def sources(sizes: Sizes, count: int = 64) -> list[list[int]]:
    """Random ids between ``bos`` and ``eos``; the longest first, as batches are cut. Students have no ``bos``."""
    random, vocabulary = Random(0), sizes.vocabulary
    if sizes.ssru:
        return [[*(random.randrange(SPECIALS, vocabulary) for _ in range(OUTPUT - 1)), 2] for _ in range(count)]
    lengths = sorted((random.randint(*SOURCE) for _ in range(count)), reverse=True)
    return [[0, *(random.randrange(SPECIALS, vocabulary) for _ in range(length - 2)), 2] for length in lengths]


def save_model(sizes: Sizes, streams: int, directory: Path, quantization: str | None = None) -> None:
    """Writes a model whose outputs are varied, never special tokens, and of the wanted length."""
    import torch

    from janus_fast import JanusConfig, JanusModel, Vocabulary, save
    from janus_fast import directory as files
    from janus_fast.model import Positions

    student = {"decoder_autoreg": "ssru", "output_bias": True, "source_bos": False} if sizes.ssru else {}
    config = JanusConfig(
        sizes.vocabulary, sizes.vocabulary, d_model=sizes.channels, attention_heads=sizes.heads,
        encoder_layers=sizes.layers, decoder_layers=sizes.decoder_layers,
        encoder_ffn_dim=sizes.hidden, decoder_ffn_dim=sizes.hidden, two_stream=streams == 2,
        **student,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = JanusModel(config)
        # Embeddings of zero have logits of zero, far below the best of all others.
        model.encoder.embed_tokens.weight[:SPECIALS] = 0
        # Random layers make all rows alike, and outputs repeat one word, unless they add half as much to their rows and
        # positions are as large as words.
        for name, weight in model.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                weight.mul_(0.5)
        if sizes.ssru:  # Marian's on the one side; on the other that of the first, as slimt gives it to all words
            table = Positions(dataclasses.replace(config, positions="sinusoidal"), config.max_source_positions).weight
            model.encoder.embed_positions.weight.copy_(table)
            model.decoder.embed_positions.weight.copy_(table[:1])
        else:
            for stack in (model.encoder, model.decoder):
                stack.embed_positions.weight.mul_(sizes.channels**0.5)
        # With one table for input and output, a random model predicts its input, unless signs are drawn here; and
        # logits are spread as those of trained models, or hypotheses would differ by less than rounding.
        signs = 2 * torch.randint(2, (sizes.channels,)) - 1
        model.decoder.layers[-1].final_layer_norm.weight.copy_(8 * signs)
        # A channel of the encoder that is always 1, and a length predictor that reads it alone.
        last, channel = model.encoder.layers[-1].final_layer_norm, 0
        last.weight[channel], last.bias[channel] = 0, 1
        if config.two_stream:
            model.decoder.embed_length.weight.zero_()[OUTPUT + 2, channel] = 100
    if sizes.ssru:
        vocabulary = numbered_words(sizes)
    else:
        tokens = [str(number) for number in range(sizes.vocabulary)]
        tokens[config.unk_token_id] = "<unk>"
        vocabulary = Vocabulary(tokens)
    save(model, directory, (vocabulary, vocabulary), quantization=quantization)
    if sizes.candidates:
        vocabulary_map(sizes).write(directory / files.MAP, vocabulary, vocabulary)


def numbered_words(sizes: Sizes):
    """A sentencepiece model of whole words, in which a word is its id: frequent words have low ones."""
    from sentencepiece import SentencePieceTrainer

    from janus_fast import Vocabulary

    words = range(SPECIALS, sizes.vocabulary)
    with tempfile.NamedTemporaryFile() as file:
        SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{sizes.vocabulary - word}" for word in words), input_format="tsv",
            model_writer=file, model_type="word", vocab_size=sizes.vocabulary, bos_id=0, pad_id=1, eos_id=2, unk_id=3,
            control_symbols=["<mask>"], minloglevel=2,
        )  # fmt: skip
        file.flush()
        return Vocabulary.from_sentencepiece(file.name)


def vocabulary_map(sizes: Sizes):
    """A map of random words, more of the frequent ones: by it a sentence of 25 tokens of ``tiny11`` may become some 480
    words, and 32 of them some 5,200. (``en-de-small``, which has 6,000 words: 500 and 2,600.)"""
    from janus_fast.text import VocabularyMap

    random, words = np.random.default_rng(0), np.arange(SPECIALS, sizes.vocabulary)
    likely = 1 / (1 + np.arange(len(words))) ** 1.3
    draws = random.choice(words, (len(words), sizes.candidates), p=likely / likely.sum())
    rules = {(word,): np.unique(own) for word, own in zip(words.tolist(), draws, strict=True)}
    return VocabularyMap({(): words[:100], **rules}, sizes.vocabulary)
