"""CTranslate2's ``Translator`` over our own."""

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from ... import inputs, translator
from ...files import started
from ...reading import naming
from ...results import without_unknowns
from ...text.lines import decoded
from .options import NAMES, OF_FILES, OF_TOKENS, TranslationOptions, taking
from .results import (
    AsyncScoringResult,
    AsyncTranslationResult,
    ExecutionStats,
    GenerationStepResult,
    ScoringResult,
    TranslationResult,
)

COMPUTE_TYPES = {  # theirs: ours
    "default": "default", "auto": "auto", "int8": "int8", "int8_float32": "int8", "int8_bfloat16": "int8_bfloat16",
    "bfloat16": "bfloat16", "float32": "float32", "int16": "float32",
}  # fmt: skip
NOT_COMPUTED = ("int8_float16", "float16")  # theirs alone; what it does not have on a processor, it refuses
READ_AHEAD = 16  # batches
LOG = logging.getLogger("janus_fast")


def get_cuda_device_count() -> int:
    """The number of GPUs that torch can use; 0 without torch."""
    if not find_spec("torch"):
        return 0
    import torch

    return torch.cuda.device_count()


def get_supported_compute_types(device: str, device_index: int = 0) -> set[str]:
    """What ``compute_type`` may name on a device, "cpu" or "cuda"."""
    inputs.choice("device", device, ("cpu", "cuda"))
    if device == "cpu":
        return set(COMPUTE_TYPES) - {"default", "auto", "int16"}  # the last is taken, but nothing computes in it
    inputs.integer("device_index", device_index, 0, get_cuda_device_count() - 1)
    return {"float32", "bfloat16"}


class Translator:
    """CTranslate2's ``Translator`` for a model of ours.

    Args:
        model_path: a model directory, or the name of a shipped model.
        device: "cpu", "cuda" or "auto".
        device_index: the number of a GPU; of several none can be made use of.
        compute_type: a type by CTranslate2's names, or one for each device.
        inter_threads: batches translated at once.
        intra_threads: threads of one batch, 0: a default.
        max_queued_batches: batches that wait while others are translated; a further asynchronous call waits for room. 0
            is four for each that is translated at once, -1 as many as come.
        flash_attention: False alone.
        tensor_parallel: False alone.
        files: the model's files by their names, as bytes or as open files, instead of a directory; ``model_path`` is
            then a name alone.
    """

    @inputs.hinting
    def __init__(
        self, model_path: str, device: str = "cpu", *, device_index: int | list[int] = 0,
        compute_type: str | dict[str, str] = "default", inter_threads: int = 1, intra_threads: int = 0,
        max_queued_batches: int = 0, flash_attention: bool = False, tensor_parallel: bool = False,
        files: dict[str, bytes | IO[bytes]] | None = None,
    ):  # fmt: skip
        inputs.choice("Translator: device", device, ("cpu", "cuda", "auto"))
        inter_threads = inputs.integer("Translator: inter_threads", inter_threads, 1)  # "auto" is not CTranslate2's
        max_queued_batches = inputs.integer("Translator: max_queued_batches", max_queued_batches, -1)
        inputs.choice("Translator: flash_attention", flash_attention, (False,))
        inputs.choice("Translator: tensor_parallel", tensor_parallel, (False,))
        if device == "auto":
            device = "cuda" if get_cuda_device_count() else "cpu"
        self.device, self.device_index = device, [device_index] if isinstance(device_index, int) else [*device_index]
        if len(self.device_index) != 1 or (device == "cpu" and self.device_index != [0]):
            rule = "be 0 on the CPU" if device == "cpu" else "be one number"
            raise ValueError(f"Translator: device_index must {rule}, got {device_index!r}")
        if isinstance(compute_type, dict):
            compute_type = compute_type.get(device, "default")
        inputs.choice("Translator: compute_type", compute_type, (*COMPUTE_TYPES, *NOT_COMPUTED))
        if compute_type in NOT_COMPUTED:
            supported = inputs.listed(sorted(get_supported_compute_types("cpu")))
            raise ValueError(f"Translator: compute_type must be one of {supported} here, got {compute_type!r}")
        if compute_type == "int16":
            LOG.warning("Translator: int16 is computed in float32, which is more exact")
        self._files = None if files is None else _written(files)
        folder = self._files.name if self._files else os.fspath(model_path)
        self._made_by = {
            "model": folder, "device": device if device == "cpu" else f"cuda:{self.device_index[0]}",
            "compute_type": COMPUTE_TYPES[compute_type], "inter_threads": inter_threads, "intra_threads": intra_threads,
        }  # fmt: skip
        self._lock, self._jobs, self._pool = threading.Lock(), 0, None
        self._own: translator.Translator | None = None
        self.load_model()
        computed = self._ready().compute_type
        self.compute_type = "int8_float32" if computed == "int8" else computed
        self.num_translators, self.tensor_parallel = self._ready().inter_threads, False
        waiting = max_queued_batches or 4 * self.num_translators
        self._room = None if waiting < 0 else threading.Semaphore(self.num_translators + waiting)

    @property
    def model_is_loaded(self) -> bool:
        """Whether the model is there."""
        return self._own is not None

    @property
    def num_active_batches(self) -> int:
        """Calls that wait or are being answered."""
        return self._jobs

    @property
    def num_queued_batches(self) -> int:
        """Calls that wait for others."""
        return max(0, self._jobs - self.num_translators)

    def load_model(self, keep_cache: bool = False) -> None:
        """Loads the model again. There is no cache to be kept."""
        if self._own is None:
            self._own = translator.Translator(**self._made_by)

    def unload_model(self, to_cpu: bool = False) -> None:
        """Frees the model, unless a call is under way. On the CPU ``to_cpu`` leaves it where it is."""
        if not (to_cpu and self.device == "cpu") and self._jobs == 0:
            self._own = None

    @taking(NAMES)
    def translate_batch(
        self, source: list[list[str]], target_prefix: list[list[str] | None] | None = None, *, max_batch_size: int = 0,
        batch_type: str = "examples", asynchronous: bool = False, **options,
    ) -> list[TranslationResult] | list[AsyncTranslationResult]:  # fmt: skip
        """Translates tokens.

        Args:
            source: tokens of each source, with ``</s>`` where a model was converted from Hugging Face's Marian.
            target_prefix: tokens that each translation begins with.
            max_batch_size: sources at once, 0: a number of our choice.
            batch_type: whether these are "examples" or "tokens".
            asynchronous: return at once, results that may not be there yet.
            options: as in our own ``AutoregressiveOptions``, by CTranslate2's names and defaults.
        """
        options = TranslationOptions(**options)
        source = inputs.token_lists("source", source)
        if target_prefix is not None:
            target_prefix = inputs.token_lists("target_prefix", target_prefix, gaps=True)
            if target_prefix and len(target_prefix) != len(source):
                raise ValueError(
                    f"target_prefix must have one entry a source = {len(source)}, got {len(target_prefix)}"
                )
        limits = {"max_batch_size": max_batch_size}
        if max_batch_size:
            limits["batch_type"] = batch_type
        inputs.choice("batch_type", batch_type, inputs.BATCH_TYPES)
        arguments = source, target_prefix or [[]] * len(source), limits, options
        return self._run(asynchronous, AsyncTranslationResult, self._translated, *arguments)

    def _translated(
        self, source: list[list[str]], prefixes: list[list[str]], limits: dict, options: TranslationOptions
    ) -> list[TranslationResult]:
        own = self._ready()
        vocabulary = own.target_vocabulary
        ids = [self._source_ids(tokens, options.max_input_length) for tokens in source]
        prefixes = self._behind_start("target_prefix", prefixes)
        prefixes = [vocabulary.ids(prefix)[: options.max_decoding_length] for prefix in prefixes]
        full = [n for n, tokens in enumerate(source) if self._has_content(tokens)]
        given = [prefixes[n] for n in full]
        search = options.search(own.config, vocabulary, any(given))
        search["use_vmap"] = (
            options.use_vmap and own.has_vocabulary_map
        )  # as there, where a model without one says all words
        if options.callback:
            search["callback"] = self._told(full, options)
        found = own.generate([ids[n] for n in full], given if any(given) else None, **limits, **search)
        count = options.num_hypotheses
        results = []
        for tokens, prefix in zip(source, prefixes, strict=True):  # of a source without words
            hypotheses = [vocabulary.tokens_of(prefix) for _ in range(count)]
            attention = [[[0.0] * len(tokens) for _ in prefix] for _ in range(count)]
            attention = attention if options.return_attention else []
            results.append(TranslationResult(hypotheses, [0.0] * count if options.return_scores else [], attention))
        unknown = vocabulary.tokens[vocabulary.unknown]
        for number, result in zip(full, found, strict=True):
            if len(prefixes[number]) == options.max_decoding_length:
                options.repeat(result)
            tokens, hypotheses = source[number], [vocabulary.tokens_of(one) for one in result.hypotheses]
            begin, end = int(own.config.source_bos), len(ids[number]) - own.config.add_source_eos
            attention = [[_seen(row[begin:end], len(tokens)) for row in rows] for rows in result.attention]
            if options.replace_unknowns:
                pairs = zip(hypotheses, attention, strict=True)
                hypotheses = [without_unknowns(*pair, tokens, unknown) for pair in pairs]
            scores = result.scores if options.return_scores else []
            results[number] = TranslationResult(
                hypotheses, scores, attention if options.return_attention else [], result.logits
            )
        return results

    def _told(self, numbers: list[int], options: TranslationOptions) -> Callable:
        """Our callback that tells theirs of every step."""
        tokens = self._ready().target_vocabulary.tokens

        def callback(source: int, sample: int, step: int, token: int, log_prob: float, last: bool) -> bool:
            shown = log_prob if options.return_scores else None
            result = GenerationStepResult(step, numbers[source], token, sample, tokens[token], shown, None, last)
            return options.callback(result)

        return callback

    @inputs.hinting
    def translate_iterable(
        self, source: Iterable[list[str]], target_prefix: Iterable[list[str]] | None = None, max_batch_size: int = 32,
        batch_type: str = "examples", **options,
    ) -> Iterator[TranslationResult]:  # fmt: skip
        """``translate_batch`` of a stream, lazily and in order; ``options`` are its."""
        streams = [source] if target_prefix is None else [source, target_prefix]
        options.pop("asynchronous", None)  # what comes here are results
        return self._streamed(self.translate_batch, streams, max_batch_size, batch_type, options)

    @taking(OF_FILES)
    def translate_file(
        self, source_path: str, output_path: str, target_path: str | None = None, *, max_batch_size: int = 32,
        read_batch_size: int = 0, batch_type: str = "examples", with_scores: bool = False,
        source_tokenize_fn: Callable[[str], list[str]] | None = None,
        target_tokenize_fn: Callable[[str], list[str]] | None = None,
        target_detokenize_fn: Callable[[list[str]], str] | None = None, **options,
    ) -> ExecutionStats:  # fmt: skip
        """Translates a file of tokens, which are divided by spaces, or of text with functions that make tokens of it.

        Each hypothesis is a line; with ``with_scores`` it is "score ||| tokens".
        """
        if (source_tokenize_fn is None) != (target_detokenize_fn is None):
            raise ValueError("source_tokenize_fn must be given together with target_detokenize_fn, got one of them")
        if target_path and source_tokenize_fn and not target_tokenize_fn:
            raise ValueError("target_tokenize_fn must be given with target_path and source_tokenize_fn, got None")
        files = {"source_path": (source_path, source_tokenize_fn)}
        if target_path:
            files["target_path"] = target_path, target_tokenize_fn
        join = target_detokenize_fn or " ".join

        def lines(result: TranslationResult) -> list[str]:
            scores = [f"{score:g} ||| " for score in result.scores] if with_scores else [""] * len(result)
            return [score + join(tokens) for score, tokens in zip(scores, result.hypotheses, strict=True)]

        options |= {"return_scores": with_scores}
        limits = max_batch_size, batch_type, options, read_batch_size
        count = lambda result: len(result.hypotheses[0])  # noqa: E731
        return self._file(self.translate_batch, files, output_path, limits, lines, count)

    @taking(OF_TOKENS)
    def generate_tokens(
        self, source: list[str], target_prefix: list[str] | None = None, *, return_log_prob: bool = False, **options
    ) -> Iterator[GenerationStepResult]:
        """Yields the tokens of a greedy translation, or of one that is sampled, as they are generated."""
        steps, closed = queue.SimpleQueue(), threading.Event()

        def callback(step: GenerationStepResult) -> bool:
            steps.put(step)
            return closed.is_set()

        def work() -> None:
            try:
                prefix = None if target_prefix is None else [target_prefix]
                options.update(beam_size=1, return_scores=return_log_prob, callback=callback)
                self.translate_batch([source], prefix, **options)
                steps.put(None)
            except Exception as error:
                steps.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (step := steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            closed.set()
            thread.join()

    @inputs.hinting
    def score_batch(
        self, source: list[list[str]], target: list[list[str]], *, max_batch_size: int = 0,
        batch_type: str = "examples", max_input_length: int = 1024, offset: int = 0, asynchronous: bool = False,
    ) -> list[ScoringResult] | list[AsyncScoringResult]:  # fmt: skip
        """The log-probability of every token of given translations and of their end, without the first ``offset``."""
        source, target = inputs.token_lists("source", source), inputs.token_lists("target", target)
        if len(source) != len(target):
            raise ValueError(f"target must have one entry a source = {len(source)}, got {len(target)}")
        offset = inputs.integer("offset", offset, 0)
        limits = inputs.batch_limit(max_batch_size, batch_type if max_batch_size else "examples", 64), batch_type
        arguments = source, target, limits, max_input_length, offset
        return self._run(asynchronous, AsyncScoringResult, self._scored, *arguments)

    def _scored(
        self, source: list[list[str]], target: list[list[str]], limits: tuple, most: int, offset: int
    ) -> list[ScoringResult]:
        own = self._ready()
        config, vocabulary = own.config, own.target_vocabulary
        sides = [self._source_ids(tokens, most) for tokens in source], []
        for tokens in self._behind_start("target", target):
            ids = config.target_ids(vocabulary.ids(tokens))
            sides[1].append(_cut(ids, most + 1 if most else 0, config.eos_token_id))
        targets = [vocabulary.tokens_of(ids[1:]) for ids in sides[1]]
        results = [ScoringResult(tokens, [0.0] * len(tokens)) for tokens in targets]  # of no source, whole
        full = [n for n, ids in enumerate(sides[0]) if ids]
        scores = own.score_ids(*([side[n] for n in full] for side in sides), *limits)
        for number, log_probs in zip(full, scores, strict=True):
            results[number] = ScoringResult(targets[number][offset:], log_probs[offset:])
        return results

    @inputs.hinting
    def score_iterable(
        self, source: Iterable[list[str]], target: Iterable[list[str]], max_batch_size: int = 64,
        batch_type: str = "examples", **options,
    ) -> Iterator[ScoringResult]:  # fmt: skip
        """``score_batch`` of streams, lazily and in order; ``options`` are its."""
        return self._streamed(self.score_batch, [source, target], max_batch_size, batch_type, options)

    @inputs.hinting
    def score_file(
        self, source_path: str, target_path: str, output_path: str, *, max_batch_size: int = 32,
        read_batch_size: int = 0, batch_type: str = "examples", max_input_length: int = 1024, offset: int = 0,
        with_tokens_score: bool = False, source_tokenize_fn: Callable[[str], list[str]] | None = None,
        target_tokenize_fn: Callable[[str], list[str]] | None = None,
        target_detokenize_fn: Callable[[list[str]], str] | None = None,
    ) -> ExecutionStats:  # fmt: skip
        """Scores a file of tokens beside another: each line is "mean ||| tokens", then " ||| scores" on request."""
        functions = source_tokenize_fn, target_tokenize_fn, target_detokenize_fn
        if len({function is None for function in functions}) > 1:
            raise ValueError(
                "source_tokenize_fn must be given with target_tokenize_fn and target_detokenize_fn, got some of them"
            )
        join = target_detokenize_fn or " ".join

        def lines(result: ScoringResult) -> list[str]:
            mean = sum(result.log_probs) / len(result.log_probs) if result.log_probs else 0.0
            scores = [" ||| " + " ".join(f"{score:g}" for score in result.log_probs)] if with_tokens_score else []
            return ["".join([f"{mean:g} ||| {join(result.tokens)}", *scores])]

        options = {"max_input_length": max_input_length, "offset": offset}
        limits = max_batch_size, batch_type, options, read_batch_size
        files = {"source_path": (source_path, source_tokenize_fn), "target_path": (target_path, target_tokenize_fn)}
        return self._file(self.score_batch, files, output_path, limits, lines, lambda r: len(r.log_probs))

    def _ready(self) -> translator.Translator:
        own = self._own
        if own is None:
            raise RuntimeError(
                "Translator: model must be loaded, got one after unload_model; load_model loads it again"
            )
        return own

    def _run(self, asynchronous: bool, wrapper: type, work: Callable, source: list, *arguments) -> list:
        """What ``work`` makes of the sources, or promises of it."""
        self._ready()
        if not source:
            return []

        def counted():
            try:
                return work(source, *arguments)
            finally:
                with self._lock:
                    self._jobs -= 1

        with self._lock:
            self._jobs += 1
            if asynchronous and self._pool is None:
                self._pool = ThreadPoolExecutor(self.num_translators, "ctranslate2")
        if not asynchronous:
            return counted()
        if self._room is not None:
            self._room.acquire()
        results = self._pool.submit(counted)
        if self._room is not None:
            results.add_done_callback(lambda _: self._room.release())
        return [wrapper(results, number) for number in range(len(source))]

    def _behind_start(self, name: str, targets: list[list[str]]) -> list[list[str]]:
        """Targets without the token of a language that the model's decoder starts with, where callers bring it, as
        CTranslate2 asks of such models."""
        config, tokens = self._ready().config, self._ready().target_vocabulary.tokens
        start = config.decoder_start_token_id
        if start in (config.bos_token_id, config.pad_token_id, config.eos_token_id, config.unk_token_id):
            return targets
        for number, target in enumerate(targets):
            if target and target[0] != tokens[start]:
                raise ValueError(f"{name} {number} must begin with {tokens[start]!r}, or be empty, got {target[0]!r}")
        return [target[1:] for target in targets]

    def _source_ids(self, tokens: list[str], most: int) -> list[int]:
        config = self._ready().config
        ids = config.with_ends(self._ready().source_vocabulary.ids(tokens))
        return _cut(ids, inputs.integer("max_input_length", most, 0), config.eos_token_id)

    def _has_content(self, tokens: list[str]) -> bool:
        """Whether anything but a beginning, an end and other tokens that are no words is there."""
        own = self._ready()
        config, ids = own.config, own.source_vocabulary.ids(tokens)
        if ids and ids[0] == config.bos_token_id:
            ids = ids[1:]
        if config.eos_token_id in ids[-2:]:  # behind it may stand the code of a language
            ids = ids[: max(n for n in range(len(ids)) if ids[n] == config.eos_token_id)]
        return config.has_words(ids)

    def _streamed(
        self, work: Callable, streams: list[Iterable], max_batch_size: int, batch_type: str, options: dict,
        read_batch_size: int = 0,
    ) -> Iterator:  # fmt: skip
        size = inputs.integer("max_batch_size", max_batch_size, 1)
        ahead = read_batch_size or (READ_AHEAD * size if size > 1 else 1)
        ended = object()
        rows = itertools.zip_longest(*streams, fillvalue=ended)
        while True:
            chunk, held = [], 0
            for row in rows:
                if any(item is ended for item in row):
                    raise ValueError("streams must be of the same length, got one that ends before the other")
                chunk.append(row)
                held += len(row[0] or ()) if batch_type == "tokens" else 1
                if held >= ahead:
                    break
            if not chunk:
                return
            yield from work(*map(list, zip(*chunk, strict=True)), max_batch_size=size, batch_type=batch_type, **options)

    def _file(
        self, work: Callable, files: dict, output_path: str, limits: tuple, lines: Callable, count: Callable
    ) -> ExecutionStats:
        """Writes the ``lines`` of every result of the tokens of ``files``: of each argument a path, and the function
        that it is read by, if it has one."""
        begin, stats = time.perf_counter(), ExecutionStats()
        for name, (path, _) in files.items():
            inputs.check_input(name, path)
        inputs.check_output("output_path", output_path, **{name: path for name, (path, _) in files.items()})
        with ExitStack() as opened:
            streams = [
                map(split or _tokens, decoded(opened.enter_context(open(path, "rb")), path))
                for path, split in files.values()
            ]
            results = self._streamed(work, streams, *limits)
            results = started(results)  # a mistake in the options must not empty an output
            opened.enter_context(naming(output_path))
            output = opened.enter_context(open(output_path, "w", encoding="utf-8", newline="\n"))
            for result in results:
                output.writelines(line + "\n" for line in lines(result))
                stats.num_examples += 1
                stats.num_tokens += count(result)
        stats.total_time_in_ms = 1000 * (time.perf_counter() - begin)
        return stats


def _written(files: dict[str, bytes | IO[bytes]]) -> TemporaryDirectory:
    """A folder with these files, which goes with its last user."""
    if not isinstance(files, dict):
        raise TypeError(f"Translator: files must be a dictionary of names and contents, got {type(files).__name__}")
    folder = TemporaryDirectory(prefix="janus_fast-")
    for name, content in files.items():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
            raise ValueError(f"Translator: files must have names without folders, got {name!r}")
        content = content.read() if hasattr(content, "read") else content
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise TypeError(f"Translator: files must hold bytes or open files, got {type(content).__name__} for {name}")
        Path(folder.name, name).write_bytes(content)
    return folder


def _cut(ids: list[int], most: int, eos: int) -> list[int]:
    """The first ``most`` ids, 0: all; an end, and one token behind it, stays."""
    if not most or len(ids) <= most:
        return ids
    end = ids[-1:] if ids[-1] == eos else ids[-2:] if ids[-2] == eos and most >= 2 else []
    return ids[: most - len(end)] + end


def _seen(row: list[float], count: int) -> list[float]:
    """Attention to the tokens of a source, of which the last may have been cut."""
    return row[:count] + [0.0] * (count - len(row))


def _tokens(line: str) -> list[str]:
    return [token for token in line.split(" ") if token]
