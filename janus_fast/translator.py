"""A trained model made ready to decode."""

import dataclasses
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from . import backend as backends
from . import inputs, models
from .batching import batches, translated
from .decoding import Hypothesis
from .decoding.alternatives import alternatives
from .decoding.declared import FEWEST_ROWS, MOST_ROWS
from .decoding.modes import MODES, is_trained, options_of
from .decoding.options import untaken
from .engine import MOST_THREADS, check_inter_threads
from .results import ScoringResult, TranslationResult, without_unknowns
from .text import Vocabulary, VocabularyMap
from .vocabularies import Vocabularies

OUTPUTS = ("target_prefix", "draft")  # what calls may give of outputs
HISTORIES = ("history", "predictions", "prediction_scores")
COMPUTE_TYPES = tuple(dict.fromkeys(name for types in backends.COMPUTE_TYPES.values() for name in types))


class Translator:
    """Translates with one model: left to right (``mode="ar"``; ``mode="speculative"`` in fewer passes; ``mode="auto"``
    greedily, as fast as it goes), in parallel (``mode="nar"``), or between both, in blocks (``mode="semi_nar"``).

    Args:
        model: the name of a shipped model, a model directory, or a ``janus_fast.JanusModel``.
        device: "cpu", or a torch device that the model's operations run on.
        compute_type: "float32", "bfloat16", "int8", "int8_bfloat16" (the vocabulary in bfloat16) or "float64".
            "default" is float32, or int8 for a model that is stored so; "auto" is int8 where the processor multiplies
            int8 numbers (VNNI), bfloat16 on an NVIDIA GPU, else float32.
        intra_threads: threads of one batch; 0: OMP_NUM_THREADS, or as many as there are cores, 4 at most.
        inter_threads: batches decoded at once, each by ``intra_threads`` threads. With "auto"
            ``intra_threads`` batches of a call are decoded at once, by one thread each, while there are so many, and
            what is left over one at a time, by all threads. Results are the same. Calls of few batches from several
            threads wait for each other, as the team is one, and a call of few beside one of many makes it twice
            ``intra_threads`` threads. (Backends "cuda" and "torch" decode one at a time.)
        backend: "engine", the native one, on the CPU, without torch; "cuda", recorded graphs on NVIDIA GPUs; "torch",
            the definition, on every device; or "auto", the first of them that can decode this model in this type here,
            as torch alone has float64; calls that "cuda" then cannot record are torch's, too. ``explain`` says which
            decodes a call.
        vocabularies: (source, target) for a model given as an object; needed for tokens and text, not for ids.

    Raises:
        FileNotFoundError: no such model, or a file of it is missing.
        ValueError: a damaged file, or an argument out of range.
        NotImplementedError: the named backend cannot decode this model, in this type, here.
        TypeError: ``model`` is something else.

    The attributes ``backend`` and ``compute_type`` say what "auto" and "default" became. The methods take the options
    of ``janus_fast.decoding.AutoregressiveOptions``, ``janus_fast.decoding.NonAutoregressiveOptions``,
    ``janus_fast.decoding.SemiAutoregressiveOptions``, ``janus_fast.decoding.SpeculativeOptions`` or
    ``janus_fast.decoding.AutoOptions`` by name, according to ``mode``, and may be called from several threads at once.
    One made from a name or a directory can be pickled; a child of ``os.fork`` may go on with its parent's, on the CPU
    (backend "torch" has one thread there).
    """

    @inputs.hinting
    def __init__(
        self, model, device: str = "cpu", compute_type: str = "default", intra_threads: int = 0,
        inter_threads: int | str = 1, *, backend: str = "auto",
        vocabularies: tuple[Vocabulary, Vocabulary] | None = None,
    ):  # fmt: skip
        inputs.choice("Translator: compute_type", compute_type, COMPUTE_TYPES)
        inputs.choice("Translator: backend", backend, ("auto", *backends.BACKENDS))
        intra_threads = inputs.integer("Translator: intra_threads", intra_threads, 0, MOST_THREADS)
        inter_threads = check_inter_threads("Translator: inter_threads", inter_threads)
        self.device, self.inter_threads = str(device), inter_threads
        self._warned: set[str] = set()
        self._name = None  # of a model that another process can load, too
        if isinstance(model, (str, os.PathLike)):
            self._name = str(model) if models.is_shipped(model) else os.path.abspath(model)
            self._made_by = {
                "model": self._name, "device": self.device, "compute_type": compute_type, "backend": backend,
                "intra_threads": intra_threads, "inter_threads": inter_threads, "vocabularies": vocabularies,
            }  # fmt: skip
        self.config, arrays, own = models.read(model)
        self._wanted = (self.device, compute_type, inter_threads, self.config)
        self.backend = backends.choose(backend, *self._wanted)
        self._vocabularies = Vocabularies(vocabularies or own, self.config, self._name)
        self._backend = backends.load(
            self.backend, self.config, arrays, self.device, compute_type, intra_threads, inter_threads,
            insists=backend != "auto",
        )  # fmt: skip
        self.compute_type = self._backend.compute_type

    def __repr__(self) -> str:
        model = "a JanusModel" if self._name is None else repr(self._name)
        names = "backend", "device", "compute_type", "intra_threads", "inter_threads"
        return f"Translator({model}, {', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def __reduce__(self):
        """Another process loads the model again."""
        if self._name is None:
            raise TypeError(
                "Translator: model must be a name or a directory for a Translator to be pickled, got a "
                "JanusModel; janus_fast.save writes one"
            )
        return partial(Translator, **self._made_by), ()

    def __copy__(self) -> "Translator":
        """Itself: nothing of a Translator changes."""
        return self

    def __deepcopy__(self, memo: dict) -> "Translator":
        return self

    @property
    def intra_threads(self) -> int:
        """Threads of one batch."""
        return self._backend.intra_threads

    @property
    def isa(self) -> str | None:
        """The instruction set of the kernels; None where torch runs without the native ones."""
        return self._backend.isa

    @property
    def model(self):
        """The ``janus_fast.JanusModel`` of backends "torch" and "cuda"; the engine has none."""
        if self.backend == "engine":
            raise AttributeError("Translator: backend must be 'torch' or 'cuda' for a model to be there, got 'engine'")
        return self._backend.model

    def explain(
        self, *, mode: str = "ar", target_prefix: list | None = None, draft: list | None = None, **options
    ) -> str:
        """Which backend decodes a call of ``generate`` with these options, and why the others do not."""
        options = options_of(mode, options, self.config)
        names, takers = backends.BACKENDS, [self.backend]
        reasons = {name: backends.refusal(name, *self._wanted) or untaken(name, options, self.config) for name in names}
        reasons[self.backend] = self._backend.refusal(options, target_prefix, draft)
        if self.backend == "cuda" and not self._backend.insists:
            takers.append("torch")
        chosen = next((name for name in takers if reasons[name] is None), None)
        drafter = f", drafts by {options.drafts_by(self.config)}" if MODES[mode].drafts else ""
        lines = [f"{mode} on {self.device}, {self.compute_type}{drafter}:"]
        for name, reason in reasons.items():
            lines.append(f"  {name}: {f'no: {reason}' if reason else 'chosen' if name == chosen else 'can run'}")
        if self.inter_threads == "auto" and chosen == "engine" and self.intra_threads > 1:
            threads = self.intra_threads
            lines.append(
                f"  of {threads} batches: one by each thread; what is left over: one at a time by {threads} threads"
            )
        return "\n".join(lines)

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The vocabulary of sources; a ValueError where the model has none."""
        return self._vocabularies.source

    @property
    def target_vocabulary(self) -> Vocabulary:
        """The vocabulary of targets; a ValueError where the model has none."""
        return self._vocabularies.target

    @property
    def vocabulary_map(self) -> VocabularyMap:
        """What sources can become, by ``vmap.txt`` of the model's directory; a FileNotFoundError without it."""
        return self._vocabularies.map

    @property
    def has_vocabulary_map(self) -> bool:
        """Whether the model's directory has ``vmap.txt``."""
        return self._vocabularies.has_map

    @inputs.hinting
    def translate(self, texts: list[str], *, mode: str = "ar", **options) -> list[TranslationResult]:
        """Raw sentences in, hypotheses as text out.

        Args:
            texts: the sentences.
            mode: "ar", "nar", "semi_nar", "speculative" or "auto".
            options: those of ``translate_batch``, with ``target_prefix`` and ``draft`` as text.
        """
        texts = inputs.texts("texts", texts)
        for name in OUTPUTS:
            if (given := options.get(name)) is not None:
                given = inputs.texts(name, given, gaps=True)
                options[name] = [self.target_vocabulary.encode(text) for text in given]
        return self._translate([self.source_vocabulary.encode(text) for text in texts], mode=mode, **options)

    def _translate(self, source: list[list[str]], **options) -> list[TranslationResult]:
        """Tokens in, text out."""
        text = self._vocabularies.text
        return [
            dataclasses.replace(r, hypotheses=[text(tokens) for tokens in r.hypotheses], tokens=r.hypotheses)
            for r in self.translate_batch(source, **options)
        ]

    @inputs.hinting
    def translate_batch(
        self,
        source: list[list[str]],
        target_prefix: list[list[str]] | None = None,
        *,
        draft: list[list[str]] | None = None,
        mode: str = "ar",
        max_input_length: int = 0,
        replace_unknowns: bool = False,
        **options,
    ) -> list[TranslationResult]:
        """Tokens in, hypotheses as tokens out; unknown tokens become ``unk``.

        Args:
            source: tokens of each source, as ``Vocabulary.encode`` makes them of text.
            target_prefix: for each source the tokens that its outputs must begin with, or go on with behind that of
                ``forced_bos_token_id`` (all modes but "nar").
            draft: for each source what its output may be, such as the translation before the source was edited; it
                changes how fast the output is there, not what it is (modes "speculative" and "auto").
            mode: "ar", "nar", "semi_nar", "speculative" or "auto".
            max_input_length: sources are cut behind this many tokens, ``bos`` and ``eos`` not counted. 0 cuts none, and
                one that is too long for the model is an error.
            replace_unknowns: unknown tokens of outputs become the token of the source that they looked at most (mode
                "ar", as ``return_attention``).
            options: those of ``generate``.
        """
        if inputs.choice("replace_unknowns", replace_unknowns, (True, False)):
            asked = options.pop("return_attention", False)
            results = self.translate_batch(
                source, target_prefix, draft=draft, mode=mode, max_input_length=max_input_length, return_attention=True,
                **options,
            )  # fmt: skip
            source = self._cut(inputs.token_lists("source", source), max_input_length)
            unknown = self.target_vocabulary.tokens[self.target_vocabulary.unknown]
            for tokens, r in zip(source, results, strict=True):
                pairs = zip(r.hypotheses, r.attention, strict=True)
                r.hypotheses = [without_unknowns(*pair, tokens, unknown) if tokens else pair[0] for pair in pairs]
                r.attention = r.attention if asked else []
            return results
        source = self._cut(inputs.token_lists("source", source), max_input_length)
        ids = [self.config.source_ids(self.source_vocabulary.ids(tokens)) for tokens in source]
        forces = self.config.forced_bos_token_id is not None and MODES[inputs.choice("mode", mode, MODES)].prefixes
        given = {
            "target_prefix": [[]] * len(ids) if forces and target_prefix is None else target_prefix,
            "draft": draft,
        }
        for name, value in given.items():
            if value is not None:
                given[name] = [*map(self.target_vocabulary.ids, inputs.token_lists(name, value, gaps=True))]
                if forces and len(given[name]) == len(ids):  # others are refused below
                    given[name] = [self.config.begun(*pair) for pair in zip(ids, given[name], strict=True)]
        results = self.generate(ids, **given, mode=mode, **options)
        tokens_of = self.target_vocabulary.tokens_of
        begin = self.config.source_bos + len(self.config.source_prefix_ids)
        return [
            dataclasses.replace(
                r,
                hypotheses=[tokens_of(ids) for ids in r.hypotheses],
                history=[list(map(tokens_of, canvases)) for canvases in r.history],
                predictions=[list(map(tokens_of, canvases)) for canvases in r.predictions],
                attention=[[row[begin : begin + len(tokens)] for row in rows] for rows in r.attention],
            )
            for tokens, r in zip(source, results, strict=True)
        ]

    def _cut(self, source: list, max_input_length: int) -> list:
        most = inputs.integer("max_input_length", max_input_length, 0)
        return [tokens[:most] for tokens in source] if most else source

    @inputs.hinting
    def generate(
        self,
        source: list[list[int]],
        target_prefix: list[list[int]] | None = None,
        *,
        draft: list[list[int]] | None = None,
        mode: str = "ar",
        max_batch_size: int = 0,
        batch_type: str = "examples",
        return_scores: bool = True,
        first_number: int = 0,
        on_batch: Callable[[int], object] | None = None,
        return_alternatives: bool = False,
        min_alternative_expansion_prob: float = 0.0,
        **options,
    ) -> list[TranslationResult]:
        """Ids in (as ``config.source_ids`` makes them of words), hypotheses of ids out.

        Args:
            source: any number of sources; results come in their order and do not depend on each other.
            target_prefix: for each source the ids, and no others, that outputs must begin with (all modes but "nar").
            draft: for each source ids that its output may be (modes "speculative" and "auto").
            mode: "ar", "nar", "semi_nar", "speculative" or "auto".
            max_batch_size, batch_type: sources decoded at once, counted in "examples" (0: 64 of them) or "tokens";
                fewer where that would take much memory, as of 4,096 hypotheses or 131,072 tokens.
            return_scores: whether results have ``scores``.
            first_number: the number of the first source, in error messages and for the random numbers of sampling;
                what somebody passes who cuts a stream into several calls.
            on_batch: called after each batch with the number of sources in it, to show progress.
            return_alternatives: hypotheses are the best outputs that go on by each of the ``num_hypotheses`` likeliest
                tokens behind the prefix, in the order of these (mode "ar").
            min_alternative_expansion_prob: without the tokens less likely than this, but for the likeliest one.
            options: fields of ``janus_fast.decoding.AutoregressiveOptions``,
                ``janus_fast.decoding.NonAutoregressiveOptions``, ``janus_fast.decoding.SemiAutoregressiveOptions``,
                ``janus_fast.decoding.SpeculativeOptions`` or ``janus_fast.decoding.AutoOptions``.
        Raises:
            ValueError: an option out of range or of the other mode, a source longer than the position table, an id
                outside the vocabulary.
        """
        if inputs.choice("return_alternatives", return_alternatives, (True, False)):
            least = inputs.number("min_alternative_expansion_prob", min_alternative_expansion_prob, least=0, most=1)
            options |= {
                "mode": mode, "draft": draft, "on_batch": on_batch, "return_scores": return_scores,
                "max_batch_size": max_batch_size, "batch_type": batch_type, "first_number": first_number,
            }  # fmt: skip
            return alternatives(self, source, target_prefix, least, options)
        if min_alternative_expansion_prob:
            words = "be left out without return_alternatives"
            raise inputs.OptionError("min_alternative_expansion_prob", words, min_alternative_expansion_prob)
        options = options_of(mode, options, self.config, _BESIDE_OPTIONS)
        longest = options.longest(self.config)  # refuses what does not suit this model
        max_batch_size = inputs.batch_limit(max_batch_size, batch_type, 64)
        return_scores = inputs.choice("return_scores", return_scores, (True, False))
        first_number = inputs.integer("first_number", first_number, 0)
        inputs.function_or_none("on_batch", on_batch)
        source = inputs.list_of("source", source, "id lists", "a list of ids")
        for number, ids in enumerate(source, first_number):
            inputs.ids("source", number, ids, self.config.source_vocab_size, self.config.max_source_positions)
        for name, value, taken in (
            ("target_prefix", target_prefix, MODES[mode].prefixes), ("draft", draft, MODES[mode].drafts),
        ):  # fmt: skip
            if value is not None and not taken:
                raise ValueError(f"{name} must be None in mode {mode!r}, got {type(value).__name__}")
        count, ends = len(source), options.ends(self.config)
        prefixes = inputs.outputs("target_prefix", target_prefix, count, longest, self.config, ends)
        drafts = inputs.outputs("draft", draft, count, self.config.max_target_positions - 1, self.config, ends)
        self._warn_unless_trained(mode)
        if getattr(options, "rerank", False):
            self._warn_unless_trained("ar")

        def result(group: list[Hypothesis]) -> TranslationResult:
            scores = [h.score for h in group] if return_scores else []
            lists = [h.ids for h in group], scores, [h.token_scores for h in group], [h.iterations for h in group]
            more = {}
            if getattr(options, "return_history", False):
                more = {name: [getattr(h, name) for h in group] for name in HISTORIES}
            for name, asked in (("attention", "return_attention"), ("logits", "return_logits_vocab")):
                if getattr(options, asked, False):
                    more[name] = [getattr(h, name) for h in group]
            return TranslationResult(*lists, **more)

        results: list[TranslationResult | None] = [None] * len(source)
        words = [n for n, ids in enumerate(source) if self.config.has_words(ids) or (prefixes and prefixes[n])]
        for number in set(range(len(source))) - set(words):  # nothing to translate
            results[number] = result([Hypothesis([], 0.0, [], 0)])

        candidates = self._vocabularies.candidates(source, prefixes, ends) if options.use_vmap else None

        def decode(batch: list[int]):
            own = [given and [given[n] for n in batch] for given in (prefixes, drafts, candidates)]
            numbers, told = [first_number + n for n in batch], options
            if callback := getattr(options, "callback", None):
                told = dataclasses.replace(options, callback=lambda n, *step: callback(numbers[n], *step))
            return self._backend.decode([source[n] for n in batch], told, numbers, *own)

        limits = [len(ids) for ids in source], max_batch_size, batch_type, options.kept
        for batch, groups in self._in_batches(decode, words, *limits):
            for number, group in zip(batch, groups, strict=True):
                results[number] = result(group)
            if on_batch:
                on_batch(len(batch))
        return results

    @inputs.hinting
    def translate_iterable(
        self, texts: Iterable[str], *, max_batch_size: int = 32, batch_type: str = "examples",
        read_batch_size: int = 0, max_input_length: int = 0, first_number: int = 0, **options,
    ) -> Iterator[TranslationResult]:  # fmt: skip
        """Translates a stream of sentences lazily, in order.

        Of a stream that breaks off with an error, or holds a sentence that is too long, what comes before is
        translated; then the error is raised. Wrong options are refused at once.

        Args:
            texts: the sentences.
            max_batch_size, batch_type, first_number: as in ``generate``, but ``max_batch_size`` of 0 means 32.
            read_batch_size: sentences read ahead at most, and sorted into batches of similar lengths; 0: 16 batches a
                worker.
            max_input_length: as in ``translate_batch``.
            options: those of ``translate_batch``, but ``target_prefix`` and ``draft``.
        """
        for name in OUTPUTS:
            if name in options:
                raise ValueError(f"translate_iterable: {name} must be left out, which goes with lists alone")
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            raise TypeError(f"texts must be an iterable of sentences, got {type(texts).__name__}")
        max_batch_size = inputs.batch_limit(max_batch_size, batch_type, 32)
        read_batch_size = inputs.integer("read_batch_size", read_batch_size, 0)
        options = {"max_batch_size": max_batch_size, "batch_type": batch_type, **options}
        self.translate_batch([], max_input_length=max_input_length, first_number=first_number, **options)
        ahead = read_batch_size or 16 * self._backend.most_at_once * min(max_batch_size, MOST_ROWS // FEWEST_ROWS)
        return translated(self, iter(texts), first_number, ahead, max_input_length, options)

    @inputs.hinting
    def translate_file(
        self, source_path: str | Path, output_path: str | Path, *, max_batch_size: int = 32, read_batch_size: int = 0,
        resume: bool = False, skip_errors: bool = False, **options,
    ) -> int:  # fmt: skip
        """Translates a text file line by line; returns the number of lines.

        What is written when the run is interrupted stays. A translation is one line: what ends a line to some reader
        (``str.splitlines``) becomes a space. ``janus_fast.translate_files`` is for many files and several processes.

        Args:
            source_path: UTF-8 text, one sentence a line.
            output_path: where the translations go, one a line.
            max_batch_size: as in ``generate``, but 0 means 32.
            read_batch_size: lines read at once, which are written when all of them are finished; 0: 4 batches a worker.
            resume: goes on behind the whole lines that the output holds.
            skip_errors: a line that is too long, is no UTF-8 or fails becomes an empty one, with a warning; without, it
                ends the call.
            options: those of ``translate_iterable``, but ``first_number``.
        """
        from . import files

        inputs.check_input("translate_file: source_path", source_path)
        inputs.check_output("translate_file: output_path", output_path, source_path=source_path)
        for name, value in (("resume", resume), ("skip_errors", skip_errors)):
            inputs.choice(f"translate_file: {name}", value, (True, False))
        max_batch_size = inputs.batch_limit(max_batch_size, options.get("batch_type", "examples"), 32)
        ahead = read_batch_size or 4 * self._backend.most_at_once * min(max_batch_size, MOST_ROWS // FEWEST_ROWS)
        options |= {"max_batch_size": max_batch_size, "read_batch_size": ahead}
        with files.translating({}, options, skip_errors=skip_errors, translator=self) as translate:
            report = files.write(translate, [(source_path, output_path)], ahead, resume, skip_errors)
        for _, line, why in report.skipped:
            warnings.warn(f"translate_file: line {line:,} of {source_path} is passed over: {why}", stacklevel=3)
        return report.lines

    @inputs.hinting
    def score(
        self, texts: list[str], targets: list[str], *, max_batch_size: int = 0, batch_type: str = "examples"
    ) -> list[ScoringResult]:
        """``score_batch`` of text: how likely each translation is.

        Args:
            texts: the sentences.
            targets: the translation of each.
            max_batch_size, batch_type: as in ``score_batch``.
        """
        texts, targets = inputs.texts("texts", texts), inputs.texts("targets", targets)
        if len(texts) != len(targets):
            raise ValueError(f"targets must have one entry a text = {len(texts)}, got {len(targets)}")
        source = [self.source_vocabulary.encode(text) for text in texts]
        forced = self.config.forced_bos_token_id
        begin = [] if forced is None else self.target_vocabulary.tokens_of([forced])
        target = [begin + self.target_vocabulary.encode(text) for text in targets]
        return self.score_batch(source, target, max_batch_size=max_batch_size, batch_type=batch_type)

    @inputs.hinting
    def score_batch(
        self, source: list[list[str]], target: list[list[str]], *, max_batch_size: int = 0, batch_type: str = "examples"
    ) -> list[ScoringResult]:
        """The autoregressive log-probabilities of given translations, each with its end.

        Args:
            source: tokens of each source.
            target: tokens of the translation of each.
            max_batch_size, batch_type: pairs scored at once, counted in "examples" (0: 64 of them) or "tokens".
        Raises:
            ValueError: not as many targets as sources, or one that is too long for the model.
        """
        max_batch_size = inputs.batch_limit(max_batch_size, batch_type, 64)
        source, target = inputs.token_lists("source", source), inputs.token_lists("target", target)
        sides = (
            [self.config.source_ids(self.source_vocabulary.ids(tokens)) for tokens in source],
            [self.config.target_ids(self.target_vocabulary.ids(tokens)) for tokens in target],
        )
        scores = self.score_ids(*sides, max_batch_size, batch_type)
        tokens_of = self.target_vocabulary.tokens_of
        return [ScoringResult(tokens_of(ids[1:]), own) for ids, own in zip(sides[1], scores, strict=True)]

    def score_ids(
        self, source: list[list[int]], target: list[list[int]], max_batch_size: int = 64, batch_type: str = "examples"
    ) -> list[list[float]]:
        """``score_batch`` of ids, as ``config.source_ids`` and ``config.target_ids`` make them of words: the
        log-probabilities of every target's ids but its first."""
        source, target = (
            inputs.list_of(name, side, "id lists", "a list of ids")
            for name, side in (("source", source), ("target", target))
        )
        limits = (source, "source", self.config.source_vocab_size, self.config.max_source_positions), (
            target, "target", self.config.target_vocab_size, self.config.max_target_positions,
        )  # fmt: skip
        for side, name, size, limit in limits:
            for number, ids in enumerate(side):
                inputs.ids(name, number, ids, size, limit)
        if len(source) != len(target):
            raise ValueError(f"target must have one entry a source = {len(source)}, got {len(target)}")
        self._warn_unless_trained("ar")
        results: list[list[float] | None] = [None] * len(source)
        lengths = [max(map(len, pair)) for pair in zip(source, target, strict=True)]

        def score(batch: list[int]):
            return self._backend.score(*([side[n] for n in batch] for side in (source, target)))

        for batch, scores in self._in_batches(score, range(len(source)), lengths, max_batch_size, batch_type):
            for number, log_probs in zip(batch, scores, strict=True):
                results[number] = log_probs
        return results

    def _in_batches(self, work: Callable, numbers: Iterable[int], lengths: list[int], *limits) -> Iterator[tuple]:
        """Batches of ``numbers``, and what ``work`` makes of each, as many at once as the backend decodes."""
        every = list(batches(numbers, lengths, *limits))
        return zip(every, self._backend.map(work, every), strict=True)

    def _warn_unless_trained(self, mode: str) -> None:
        """Once for each mode; of a model that does not know what it was trained for, nothing is said."""
        if not is_trained(mode, self.config) and mode not in self._warned:
            self._warned.add(mode)
            warnings.warn(
                f"Translator: mode {mode!r} is not what this model was trained for, which is "
                f"{' and '.join(self.config.trained_modes) or 'none'}; expect bad output",
                stacklevel=_callers_level(),
            )


_BESIDE_OPTIONS = [  # of the mode: what else a call of translate may name
    name
    for method in (Translator.translate_batch, Translator.generate)
    for name, parameter in inspect.signature(method).parameters.items()
    if parameter.default is not parameter.empty
]


def _callers_level() -> int:
    """The ``stacklevel`` at which a warning of who calls this points at the first line outside of this package."""
    level, frame = 0, sys._getframe(0)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    return level
