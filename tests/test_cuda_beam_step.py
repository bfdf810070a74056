"""The beam step on the device, in the emulator, against ``janus_fast.decoding.ar.beam_search``: the same outputs, the
same scores and ties over whole searches, and a table that leads each hypothesis to its own past.
"""

from types import SimpleNamespace

import emulated
import numpy as np
import pytest
import torch

from janus_fast.decoding import ar
from janus_fast.decoding.options import AutoregressiveOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one"),
]

EOS = 2


class Language:
    """Which tokens may follow a past, and how likely, drawn from the past alone: coarse, so that many are equal."""

    def __init__(self, vocabulary: int, choices: int, ending: float, forbidden: float = 0.1):
        self.vocabulary, self.choices, self.ending, self.forbidden = vocabulary, choices, ending, forbidden

    def follow(self, sentence: int, past: list[int]) -> tuple[list[int], list[float]]:
        draw = np.random.default_rng([sentence, len(past), *past])
        ids = 3 + draw.permutation(self.vocabulary - 3)[: self.choices]
        if draw.random() < self.ending:
            ids[draw.integers(self.choices)] = EOS
        log_probs = -draw.integers(0, 9, self.choices) / 4.0
        log_probs[draw.random(self.choices) < self.forbidden] = -np.inf
        return ids.tolist(), sorted(log_probs.tolist(), reverse=True)


def by_definition(language: Language, sentences: int, options: AutoregressiveOptions, monkeypatch) -> list:
    """The hypotheses of ``beam_search`` in this language."""

    class Decoder:
        def __init__(self, model, encoded, offsets):
            pass

        def step(self, tokens, owners):
            return owners[:, None]

        def reorder(self, rows):
            pass

    def continuations(model, hidden, tokens, step, longest, options):
        follow = [language.follow(int(s), row[1:]) for s, row in zip(hidden[:, 0], tokens.tolist(), strict=True)]
        if step >= longest:
            return torch.full((len(follow), 1), EOS), torch.tensor([[end_score(*f)] for f in follow])
        return torch.tensor([f[0] for f in follow]), torch.tensor([f[1] for f in follow])

    config = SimpleNamespace(decoder_start_token_id=0, eos_token_id=EOS, max_target_positions=1000)
    model = SimpleNamespace(config=config, output_weight=torch.zeros(1), encode=lambda source, offsets: None)
    monkeypatch.setattr(ar, "StepDecoder", Decoder)
    monkeypatch.setattr(ar, "_continuations", continuations)
    groups = ar.beam_search(model, [[1]] * sentences, options)
    return [[(h.ids, h.score, h.token_scores) for h in group] for group in groups]


def end_score(ids: list[int], log_probs: list[float]) -> float:
    return log_probs[0] - 0.5


def on_device(run, language: Language, sentences: int, options: AutoregressiveOptions) -> emulated.BeamSearch:
    beams, longest, choices = options.beam_size, options.max_decoding_length, language.choices
    search = emulated.BeamSearch(run, sentences, beams, choices, longest, options.length_penalty, EOS)
    width = 1
    for step in range(longest + 1):
        if search.remaining.item() == 0:
            break
        # rows that are no hypotheses, and sentences that are done, hold what must not be read
        ids = torch.full((sentences, beams, choices), EOS)
        log_probs = torch.full((sentences, beams, choices), 100.0)
        for s in (search.steps == step).nonzero().flatten().tolist():
            for b in range(width):
                assert search.seen(s, b) == [[row] for row in search.ancestors(s, b)]
                follow = language.follow(s, search.history(s, b))
                ids[s, b], log_probs[s, b] = (torch.tensor(values) for values in follow)
                if step == longest:
                    ids[s, b], log_probs[s, b] = EOS, -torch.inf
                    log_probs[s, b, 0] = end_score(*follow)
        search.step(ids.flatten(0, 1), log_probs.flatten(0, 1))
        width = min(beams, width * choices)
    return search


def options(beam: int, longest: int, penalty: float = 1.0) -> AutoregressiveOptions:
    return AutoregressiveOptions(
        beam_size=beam, num_hypotheses=beam, max_decoding_length=longest, length_penalty=penalty
    )


SEARCHES = {
    "five_beams": (Language(40, 10, ending=0.5), 6, options(5, 14)),
    "greedy": (Language(30, 2, ending=0.2, forbidden=0.0), 4, options(1, 9)),
    "ends_early": (Language(20, 8, ending=1.0), 5, options(4, 30, penalty=0.6)),
    "never_ends": (Language(20, 6, ending=0.0, forbidden=0.0), 2, options(3, 7, penalty=1.5)),
    "few_choices": (Language(9, 2, ending=0.6, forbidden=0.0), 4, options(8, 8, penalty=0.0)),
    "many_beams": (Language(80, 64, ending=0.4), 1, options(32, 4)),
    "seven_beams": (Language(60, 20, ending=0.3), 3, options(7, 40)),
}


@pytest.mark.parametrize("seed", [0, 1, 2], ids=lambda seed: f"seed{seed}")
@pytest.mark.parametrize("label", SEARCHES)
def test_searches_are_those_of_the_definition(label, seed, monkeypatch):
    language, sentences, chosen = SEARCHES[label]
    expected = by_definition(language, sentences, chosen, monkeypatch)
    search = on_device(emulated.Emulator(seed), language, sentences, chosen)
    assert search.remaining.item() == 0
    assert [search.finished(s) for s in range(sentences)] == expected


def test_candidates_that_are_not_numbers_come_first_as_in_torch():
    search = emulated.BeamSearch(emulated.Emulator(), 1, 2, 4, 5, 1.0, EOS)
    nan, inf = float("nan"), float("inf")
    log_probs = torch.tensor([[-1.0, nan, 0.0, -0.0], [nan] * 4])
    search.step(torch.tensor([[5, 6, 7, 8], [9, 9, 9, 9]]), log_probs)
    assert search.tokens.tolist() == [[6, 7]] and search.totals[0, 0].isnan()
    search.step(
        torch.tensor([[5, EOS, 7, 8], [9, EOS, 9, 9]]), torch.tensor([[-inf, 0.0, -1.0, -2.0], [inf, 0.0, -1.0, nan]])
    )
    assert search.finished_count.tolist() == [0], "an end without a finite score is none"
    # every candidate of the first hypothesis is NaN, so they lead in their order; ends do not go on
    assert search.tokens.tolist() == [[5, 7]] and search.ancestors(0, 0) == [0, 0, 0]
