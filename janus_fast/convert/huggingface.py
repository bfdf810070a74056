"""BART, mBART, M2M100 (NLLB), Pegasus and FSMT in Hugging Face's format, read without transformers."""

from pathlib import Path

from torch import Tensor

from .. import foreign
from ..inputs import OptionError
from ..model import JanusModel
from ..reading import read_text
from ..text import Vocabulary
from .assemble import EMBEDDINGS, POSITIONS, assemble
from .generation import read_generation
from .hub import ACTIVATIONS, CONFIG, check_language, numbered, read_object, read_settings, read_state, sizes_told
from .marian import position_table

FAMILIES = tuple(name for name in foreign.HUGGING_FACE if name != "marian")
REQUIRED = (
    "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
    "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings", "activation_function", "scale_embedding",
    "pad_token_id", "eos_token_id",
)  # fmt: skip
# Tables of fairseq's begin with rows that no token has: two where they are learned, and one behind pad for sines.
LEARNED_OFFSET = 2
IGNORED = ("encoder.version", "decoder.version", "encoder.embed_positions.weights", "decoder.embed_positions.weights")
UNKNOWN = "<unk>"
TOKENIZER, TOKENIZER_CONFIG, SPECIALS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"


def recognises(directory: str | Path) -> bool:
    """Whether ``directory`` holds a model of one of these families."""
    return foreign.family(directory) in FAMILIES


def load(
    directory: str | Path, source_language: str | None = None, target_language: str | None = None
) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary] | None]:
    """Converts a model of one of these families: a one-stream model, in float32 and evaluation mode, and its
    vocabularies.

    Its ``generation_config.json`` says which tokens are never predicted (``bad_words_ids``, ``suppress_tokens``) and
    which comes first (``forced_bos_token_id``); no others are forbidden, as ``generate`` forbids none.

    Args:
        directory: holds ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, or either in several files and
            an index, ``generation_config.json`` where there is one; and of the tokenizer ``tokenizer.json`` (which
            ``save_pretrained`` writes, and the package tokenizers applies to text), or M2M100's ``vocab.json`` and
            ``sentencepiece.bpe.model``, or FSMT's dictionaries, for tokens alone.
        source_language: the token of a source's language, such as "eng_Latn" or "en_XX", in place of the one that the
            tokenizer was saved with.
        target_language: the token that every output begins with.
    Returns:
        The model, and ``(source, target)`` vocabularies, None without a tokenizer.
    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, another family, a setting that ``janus_fast.JanusModel`` does not have, weights
            that are not finite, a vocabulary of another size, an unknown language.
    """
    directory = Path(directory)
    settings = read_settings(directory / CONFIG, FAMILIES, REQUIRED)
    generation = read_generation(directory, settings)
    if generation.start is None:
        raise ValueError(
            f"convert: {directory}: decoder_start_token_id must be in {CONFIG} or generation_config.json, got neither"
        )
    path, state = read_state(directory)
    pad, eos = settings["pad_token_id"], settings["eos_token_id"]
    bos = settings.get("bos_token_id", pad)
    bos = pad if bos is None else bos
    state = _with_positions({k: v for k, v in state.items() if k not in IGNORED}, settings)
    sizes = [settings.get(f"{side}_vocab_size", settings.get("vocab_size")) for side in ("src", "tgt")]
    held = [len(state[name]) for name in EMBEDDINGS[:2]]  # what the settings say must be it
    vocabularies, before, behind = _tokens(directory, settings["model_type"], held, bos, eos)
    unknown = vocabularies[1].unknown if vocabularies else _free(3, {bos, pad, eos})
    forced = generation.forced_bos
    ends = [token for token in before + behind if token not in (bos, eos)]
    if source_language is not None and vocabularies and len(ends) != 1:
        raise OptionError("convert: source_language", "be left out with a model that reads none", source_language)
    own = [vocabulary.tokens for vocabulary in vocabularies or ()] or [(), ()]
    check_language("source_language", source_language, own[0])
    check_language("target_language", target_language, own[1])
    if source_language is not None:
        number = vocabularies[0].index[source_language]
        before, behind = ([number if token == ends[0] else token for token in end] for end in (before, behind))
    if target_language is not None:
        forced = vocabularies[1].index[target_language]
    model = assemble(
        state, path, sizes_told(settings, *sizes), attention_heads=settings["encoder_attention_heads"],
        alignment_heads=1,  # as CTranslate2 converts these
        activation=ACTIVATIONS.get(settings["activation_function"], settings["activation_function"]),
        scale_embedding=settings["scale_embedding"], dropout=settings.get("dropout", 0.1),
        max_positions=settings["max_position_embeddings"], position_offset=pad + 1, source_bos=False,
        add_source_eos=False, source_prefix_ids=before, source_suffix_ids=behind, bos_token_id=bos, pad_token_id=pad,
        eos_token_id=eos, unk_token_id=unknown, mask_token_id=unknown, decoder_start_token_id=generation.start,
        forced_bos_token_id=forced, suppress_tokens=generation.never,
    )  # fmt: skip
    return model, vocabularies


def _free(wanted: int, taken: set[int]) -> int:
    return wanted if wanted not in taken else next(number for number in range(9) if number not in taken)


def _with_positions(state: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    """``state`` with tables that begin with the first token's row; without, where they are fairseq's sines."""
    kind = settings["model_type"]
    skipped = {"bart": LEARNED_OFFSET, "mbart": LEARNED_OFFSET, "fsmt": settings["pad_token_id"] + 1}.get(kind, 0)
    for name in POSITIONS:
        if name in state:
            state[name] = state[name][skipped:]
        elif kind == "pegasus":
            state[name] = position_table(settings["max_position_embeddings"], state[EMBEDDINGS[0]].shape[1])
    return state


def _tokens(directory: Path, kind: str, sizes: list[int], bos: int, eos: int):
    """The vocabularies, None without; and the ids that the tokenizer has before and behind a source."""
    ends = ([bos] if kind == "bart" else [], [eos])
    if (file := directory / TOKENIZER).exists():
        text = read_text("convert", file)
        described = read_object(file)
        tokens, ends = _of_tokenizer(file, described, sizes[0]), _ends(described, *ends)
        vocabulary = Vocabulary(tokens, tokenizer=text)
        return (vocabulary, vocabulary), *map(tuple, ends)
    if kind == "m2m_100" and (directory / "vocab.json").exists():
        file = directory / "vocab.json"
        tokens = [*numbered(file, read_object(file)), *_languages(directory)]
        vocabulary = Vocabulary.from_sentencepiece(
            directory / "sentencepiece.bpe.model", _filled(file, tokens, sizes[0])
        )
        language = str(read_object(directory / TOKENIZER_CONFIG).get("src_lang") or "en")
        before = [vocabulary.index[name] for name in (language, f"__{language}__") if name in vocabulary.index][-1:]
        return (vocabulary, vocabulary), tuple(before), (eos,)
    if kind == "fsmt" and (directory / "vocab-src.json").exists():
        sides = []
        for side, size in zip(("src", "tgt"), sizes, strict=True):
            file = directory / f"vocab-{side}.json"
            sides.append(Vocabulary(_filled(file, numbered(file, read_object(file)), size)))
        return tuple(sides), (), (eos,)
    return None, *map(tuple, ends)


def _languages(directory: Path) -> list[str]:
    """M2M100's tokens of languages, behind those of its vocabulary."""
    for name in (SPECIALS, TOKENIZER_CONFIG):
        if (directory / name).exists():
            held = read_object(directory / name)
            for key in ("additional_special_tokens", "extra_special_tokens"):
                if isinstance(held.get(key), list):
                    return [token for token in held[key] if isinstance(token, str)]
    return []


def _of_tokenizer(file: Path, described: dict, size: int) -> list[str]:
    """The tokens of a ``tokenizer.json``, by their numbers."""
    try:
        held = described["model"]["vocab"]
        pairs = held.items() if isinstance(held, dict) else [(piece, number) for number, (piece, _) in enumerate(held)]
        numbers = dict(pairs)
        numbers |= {token["content"]: token["id"] for token in described.get("added_tokens") or []}
        tokens = sorted(numbers, key=numbers.__getitem__)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"convert: {file} must describe a tokenizer, got {error!r}") from None
    return _filled(file, tokens, size)


def _filled(file: Path, tokens: list[str], size: int) -> list[str]:
    """As many tokens as the model has: some models have a few more numbers, which nothing stands for."""
    if UNKNOWN not in tokens[:size]:
        raise ValueError(f"convert: {file} must hold {UNKNOWN!r} among the model's {size} tokens, got none")
    return [*tokens[:size], *(f"madeupword{number}" for number in range(size - len(tokens)))]


def _ends(described: dict, before: list[int], behind: list[int]) -> tuple[list[int], list[int]]:
    """The ids that a ``tokenizer.json`` puts around one text."""
    processor = described.get("post_processor")
    try:
        for step in processor.get("processors", [processor]) if processor else []:
            if step["type"] in ("RobertaProcessing", "BertProcessing"):
                return [step["cls"][1]], [step["sep"][1]]
            if step["type"] == "TemplateProcessing":
                numbers = {name: special["ids"] for name, special in step["special_tokens"].items()}
                ends, side = ([], []), 0
                for piece in step["single"]:
                    if "Sequence" in piece:
                        side = 1
                    else:
                        ends[side].extend(numbers[piece["SpecialToken"]["id"]])
                return ends
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"convert: tokenizer.json must say what it adds to a text, got {error!r}") from None
    return before, behind
