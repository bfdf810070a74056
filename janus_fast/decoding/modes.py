"""The modes of decoding: what the rest of the package knows of one is its record here."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..inputs import OptionError, among, choice, meant
from .options import (
    AutoOptions,
    AutoregressiveOptions,
    NonAutoregressiveOptions,
    SemiAutoregressiveOptions,
    SpeculativeOptions,
)


@dataclass(frozen=True)
class Mode:
    """A way to decode.

    Attributes:
        title: what it is called in a sentence.
        options: the class of what it can be told. Its ``algorithm`` names what runs: a method of the engine's
            ``Decoder`` and of that of ``janus_fast.decoding.decoder``; ``on`` says which backends have it.
        prefixes: whether it takes a ``target_prefix``.
        drafts: whether it takes a ``draft``.
        trained: the mode that a model must have been trained for, unless it was for this one.
        shown: what the demo shows of it, options by label; :meth:`shown_of` a model.
        validated: options of the translations that a training run is judged by; None where another mode's say it. They
            are beside those that the objective trains its models for, so none of them may contradict those.
        permuted: what stands in the place of ``shown`` for a model of ``permuted`` prediction; None where nothing does.
    """

    title: str
    options: type
    prefixes: bool
    drafts: bool
    trained: str
    shown: Mapping[str, dict]
    validated: Mapping[str, object] | None
    permuted: Mapping[str, dict] | None = None

    @property
    def fields(self) -> dict[str, dataclasses.Field]:
        """The declarations of its options, by name."""
        return {field.name: field for field in dataclasses.fields(self.options)}

    def shown_of(self, config) -> Mapping[str, dict]:
        """What the demo shows of it with a model of this ``config``; nothing where that has no such mode."""
        if self.options.fills_masks and not config.two_stream:
            return {}
        return self.permuted if config.permuted and self.permuted is not None else self.shown


MODES = {
    "ar": Mode(
        "left to right", AutoregressiveOptions, prefixes=True, drafts=False, trained="ar",
        shown={"beam 5": {"beam_size": 5}, "greedy": {"beam_size": 1}}, validated={"beam_size": 1},
    ),
    "nar": Mode(
        "in parallel", NonAutoregressiveOptions, prefixes=False, drafts=False, trained="nar",
        shown={"4 passes": {"iterations": 4}, "10 passes": {"iterations": 10}},
        validated={"rerank": False},  # of NAR alone
        permuted={
            "surest word first": {"order": "easy_first"}, "first word first": {"order": "left_to_right"},
            "last word first": {"order": "right_to_left"},
        },
    ),
    "semi_nar": Mode(
        "left to right in blocks", SemiAutoregressiveOptions, prefixes=True, drafts=False, trained="speculative",
        shown={}, validated=None,
    ),
    "speculative": Mode(
        "left to right by drafts", SpeculativeOptions, prefixes=True, drafts=True, trained="ar",
        shown={"greedy": {}}, validated=None,
    ),
    "auto": Mode(
        "greedy, in the fastest way known", AutoOptions, prefixes=True, drafts=True, trained="ar", shown={},
        validated=None,
    ),
}  # fmt: skip


def is_trained(mode: str, config) -> bool:
    """Whether a model of this ``config`` was trained for ``mode``, or does not know what for. Mode "speculative" trains
    another one by its masks, which a model of ``streams_ahead`` has not."""
    if config.trained_modes is None or mode in config.trained_modes:
        return True
    other = MODES[mode].trained
    return other in config.trained_modes and not (other == "speculative" and config.streams_ahead)


def validated(mode: str, trained: Mapping) -> dict | None:
    """The options of ``mode`` by which a training run is judged, of a model that is ``trained`` for those, by mode;
    None where another mode says it."""
    own = MODES[mode].validated
    return None if own is None else {**own, **trained.get(mode, {})}


def options_of(mode: str, given: Mapping, config, arguments: Iterable[str] = ()):
    """The options of ``mode`` with those that are ``given``, for a model; a ValueError names what it does not have, and
    says what is meant: an option, or one of the ``arguments`` of who was called. One names what changes nothing, unless
    it is the default, as where a program gives all options."""
    known = [*MODES[choice("mode", mode, MODES)].fields]
    for name in given:
        if name not in known:
            hint = meant(name, [*known, *arguments])
            if others := [repr(other) for other in MODES if name in MODES[other].fields]:
                hint = f", which is one of mode {' and '.join(others)}"
            rule, got = among(name, known, rule="be among", hint=hint)
            raise ValueError(f"options of mode {mode!r} must {rule}, got {got}")
    options = MODES[mode].options(**given)
    fields = MODES[mode].fields
    refuse_idle(options, {name: given[name] for name in given if getattr(options, name) != fields[name].default})
    return options.resolved(config)


def refuse_idle(options, named: Mapping) -> None:
    """Raises OptionError where one of ``options`` that is ``named`` changes nothing beside the others."""
    for name, why in options.without_effect().items():
        if name in named:
            raise OptionError(name, f"be left out with {why}", repr(named[name]))
