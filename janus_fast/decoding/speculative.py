"""Greedy decoding by drafts that the model checks, in shapes that no data decide: recorded for a GPU, or as written.

``janus_fast.reference.speculative`` is the definition.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference.beam_search import NO_OUTPUT, forbidden
from ..reference.speculative import RECENT, follows
from ..visibility import FOREVER, Visibility
from .continuations import Continuations
from .fused import FusedModel
from .hypothesis import Hypothesis
from .options import SpeculativeOptions
from .runtime import Eager
from .shapes import Sources

CYCLES_BETWEEN_LOOKS = 2


class Speculation:
    """The sentences of a call, and the passes that extend them, for sources of which there is ``sources`` room.

    Each sentence has a place for every position in ``caches`` [layers, sentences * positions, 2, H, D], finite; what a
    pass feeds goes to the places behind its words, over those of a draft that was refused. Programs compute sentences
    that are done, and those that are missing, in vain. With fewer than ``room`` positions caches grow, which a recorded
    program cannot.
    """

    def __init__(
        self, model: FusedModel, sources: Sources, options: SpeculativeOptions, caches: Tensor,
        prefixes: list[list[int]] | None = None, drafts: list[list[int]] | None = None, allowed: Tensor | None = None,
    ):  # fmt: skip
        self.model, self.config, self.options, self.sources = model, model.config, options, sources
        self.prefixes, self.given = prefixes, drafts
        self.longest, self.streams = options.longest(model.config), options.streams(model.config)
        self.continuations = Continuations(model.model, options, prefixes, allowed)
        count, room, device = sources.room.sequences, self.room(options, model.config), caches.device
        make = {"device": device, "dtype": torch.int64}
        self.words = torch.full((count, room), self.config.decoder_start_token_id, **make)  # behind where they start
        self.scores = torch.zeros(count, room, device=device)
        self.counts, self.passes, self.left = (torch.zeros(size, **make) for size in (count, count, 1))
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)
        self.draft = torch.full((count, self.streams or options.draft_length), -1, **make)  # -1: nothing
        self.history: list[list[list[int]]] = [[] for _ in range(count)]
        self._keep_in(caches)

    @staticmethod
    def room(options: SpeculativeOptions, config) -> int:
        """Positions of a sentence, and of a draft behind its last word."""
        return options.longest(config) + options.draft_length + 3

    def _keep_in(self, caches: Tensor) -> None:
        sentences, make = len(self.counts), {"device": caches.device, "dtype": torch.int32}
        self.caches, self.positions = caches, caches.shape[1] // sentences
        self.first_key = torch.arange(sentences, **make) * self.positions
        self.from_own = torch.arange(self.positions, **make).repeat(sentences)
        self.until = torch.full_like(self.from_own, FOREVER)

    def begin(self) -> None:
        """Encodes the sources and sets the state to what it is before the first pass."""
        encoded, self.source_offsets = self.sources.encode(self.model)
        self.cross_keys = self.model.cross_keys(encoded)
        self.counts.zero_(), self.passes.zero_(), self.draft.fill_(-1)
        self.ended.copy_(self.sources.offsets.diff() == 0)
        self.left.copy_((~self.ended).sum())

    def cycle(self) -> None:
        """A draft by the model itself, and the pass that checks it, in which streams ahead make the next draft."""
        if not self.streams:
            self.fill()
        self.check(self.draft, self.streams)

    def fill(self) -> None:
        """Adds a word to every sentence, and drafts what follows: by masks, of which the first stands for that word."""
        masks = F.pad(self.draft, (0, 1)).fill_(self.config.mask_token_id)
        hidden = self.feed(masks, queries=1)
        steps = self.counts[:, None].expand(*hidden.shape[:2])
        tokens, log_probs = self.choose(hidden, steps)
        self.accept(tokens[:, :1], log_probs[:, :1], self.draft[:, :0])
        self.keep(tokens[:, 2:], log_probs[:, 2:])

    def check(self, draft: Tensor, ahead: int = 0) -> None:
        """Accepts the words of a draft [S, n] as long as they are the model's own, and adds the one it says next.

        Beside each row are those of as many streams ``ahead``, of which those of the row that adds a word say what
        comes behind it: the next draft.
        """
        tried = torch.arange(draft.shape[1] + 1, device=draft.device)
        hidden = self.feed(draft.clamp(min=0), tried.numel(), ahead).unflatten(1, (-1, 1 + ahead))
        steps = self.counts[:, None] + tried
        agreed = self.accept(*self.choose(hidden[:, :, 0], steps, draft), draft)
        if ahead:
            own = hidden[torch.arange(len(agreed), device=draft.device), agreed, 1:]
            self.keep(*self.choose(own, (self.counts[:, None] - 1).expand(-1, ahead)))

    def keep(self, tokens: Tensor, log_probs: Tensor) -> None:
        """Of what is said behind the last words, [S, n] each, what is likely enough, and has room, as the draft."""
        likely = log_probs.double().cumsum(1)
        enough = likely >= (math.log(self.options.draft_threshold) if self.options.draft_threshold else -math.inf)
        ends = tokens == self.config.eos_token_id
        behind = torch.arange(ends.shape[1], device=ends.device) >= self.longest - self.counts[:, None]
        nothing = ~enough | behind | (ends.cumsum(1) - ends.long() > 0) | self.ended[:, None]
        self.draft.copy_(tokens.masked_fill(nothing, -1))

    def feed(self, behind: Tensor, queries: int, ahead: int = 0) -> Tensor:
        """The hidden rows [S, 1 + n, C] that predict what follows each last word and each of the n tokens behind it.

        Of a two-stream model the first ``queries`` rows are those of query rows, behind each of which come those of the
        streams ``ahead`` of it, which see what it sees: with all of them [S, (1 + n) (1 + ahead), C].
        """
        count, rows = len(self.counts), 1 + behind.shape[1]
        device, model = behind.device, self.model
        place = self.counts[:, None] + torch.arange(rows, device=device)
        content = torch.cat([self.words.gather(1, self.counts[:, None]), behind], 1)
        places = (self.first_key[:, None] + place).flatten()
        asks = place[:, :queries, None].expand(-1, -1, 1 + ahead).flatten(1)
        streams, times, selected = [(content, place)], [place], None
        if self.config.two_stream:
            further = (place[:, :queries, None] + torch.arange(1 + ahead, device=device)).flatten(1)
            streams.append((torch.full_like(asks, self.config.mask_token_id), further))
            times.append(asks)
            if ahead or queries < rows:
                own = torch.arange(count * rows, device=device).view(count, rows)
                query = count * rows + torch.arange(asks.numel(), device=device).view_as(asks)
                selected = torch.cat([query, own[:, queries:]], 1).flatten()
        tokens, at = (torch.cat([part.flatten() for part in parts]) for parts in zip(*streams, strict=True))
        decoder = model.model.decoder
        x = model.embed(decoder, tokens, decoder.embed_positions(at.clamp(max=self.longest)))
        ends = self.first_key + self.counts.int() + rows
        key_offsets = F.pad(torch.stack([self.first_key, ends], 1).flatten(), (0, 1), value=self.caches.shape[1])
        leave = torch.cat([asks, place[:, queries:]], 1)
        seen = [self.visibility(t, key_offsets) for t in (times, [leave])]
        return model.step(x, seen[0], self.cross_keys, self.caches, places, seen[1], selected).view(*leave.shape, -1)

    def visibility(self, times: list[Tensor], key_offsets: Tensor) -> tuple[Visibility, Visibility]:
        """What rows of streams [S, n] see of their sentences, up to the places that are given, and of the sources."""
        device, room = key_offsets.device, self.sources.room
        sentence = torch.arange(len(self.counts), device=device, dtype=torch.int32).repeat(len(times))
        lengths = torch.cat([torch.full((len(self.counts),), part.shape[1], device=device) for part in times])
        offsets = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        times = torch.cat([part.flatten() for part in times]).int()
        own = Visibility(offsets, key_offsets, 2 * sentence, times, self.from_own, self.until)  # others are not written
        return own, Visibility(
            offsets, self.source_offsets, sentence, torch.zeros_like(times), room.never, room.forever
        )

    def choose(self, hidden: Tensor, steps: Tensor, draft: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The likeliest tokens that may follow so many words, ``steps`` [S, n], of a sentence and its draft, and their
        log-probabilities: [S, n] each."""
        shape, hidden, never = steps.shape, hidden.flatten(0, 1), None
        if self.options.no_repeat_ngram_size or self.options.use_vmap:
            never = torch.stack([self.never(n, step, draft) for n, own in enumerate(steps.tolist()) for step in own])
        owners = torch.arange(shape[0], device=steps.device).repeat_interleave(shape[1])
        chosen = self.continuations.greedy(hidden, owners, steps.flatten(), never)
        return tuple(t.view(shape) for t in chosen)

    def never(self, sentence: int, step: int, draft: Tensor | None) -> Tensor:
        """What may not follow the first ``step`` words of a sentence and its draft: bool [V]."""
        words = self.words[sentence, 1 : 1 + self.counts[sentence]].tolist()
        words = [*words, *(draft[sentence].tolist() if draft is not None else [])][: max(step, 0)]
        never = self.continuations.banned.clone()
        never[list(forbidden(self.config, words, [], -1, self.options))] = True
        return never

    def accept(self, tokens: Tensor, log_probs: Tensor, draft: Tensor) -> Tensor:
        """Of what the model says behind the last word and each of a draft, what it says behind its own words; of how
        many words of the draft [S]."""
        agreed = (tokens[:, :-1] == draft).cumprod(1).sum(1)
        behind = torch.arange(tokens.shape[1], device=tokens.device)
        ends = (tokens == self.config.eos_token_id) & (behind <= agreed[:, None])
        end = torch.where(ends, behind, tokens.shape[1]).amin(1)
        going, place = ~self.ended, self.counts[:, None] + behind
        kept = going[:, None] & (place < self.scores.shape[1] - 1)
        for state, values, at in ((self.words, tokens, place + 1), (self.scores, log_probs.float(), place)):
            at = at.clamp(max=state.shape[1] - 1)
            state.scatter_(1, at, torch.where(kept, values, state.gather(1, at)))
        self.counts += going * torch.minimum(agreed + 1, end)
        self.passes += going
        self.ended |= going & (end <= agreed)
        self.left.copy_((~self.ended).sum())
        return agreed

    def run(self, runtime: Eager, begin: Callable, cycle: Callable) -> None:
        """All passes, by ``begin`` and ``cycle`` as ``runtime`` recorded them.

        The host hears of sentences that end when it has asked for more; where nothing is recorded, it looks at every
        pass, and takes drafts from texts, too.
        """
        begin()
        if runtime.recorded:
            look = None
            for number in range(self.longest + 1):
                cycle()
                if number % CYCLES_BETWEEN_LOOKS == 0:
                    if look is not None and look()[0].item() == 0:
                        return
                    look = runtime.download(self.left)
            return
        filled, masks = False, self.options.drafter == "model" and self.options.draft_length > 0 and not self.streams
        while self.left.item():
            draft, ahead = self.draft if filled else self.copied(), 0
            if self.streams:
                draft, ahead = self.copied_or_own(draft)
            if (grown := int(self.counts.max()) + self.options.draft_length + 3) > self.positions:
                self._grow(grown)
            filled = masks and not filled and not (draft >= 0).any()
            self._remember(draft)
            if filled:
                self.fill()
            else:
                self.check(draft[:, : int((draft >= 0).sum(1).max())], ahead)

    def _remember(self, draft: Tensor) -> None:
        """What the next pass feeds, where somebody wants to know."""
        for n in (~self.ended).nonzero()[:, 0].tolist() if self.options.return_history else ():
            self.history[n].append([*self.words[n, 1 : 1 + self.counts[n]].tolist(), *draft[n][draft[n] >= 0].tolist()])

    def _grow(self, positions: int) -> None:
        more = max(positions, self.positions + self.positions // 2) - self.positions
        held = self.caches.unflatten(1, (len(self.counts), self.positions))
        self._keep_in(F.pad(held, (0,) * 7 + (more,)).flatten(1, 2))

    def copied(self) -> Tensor:
        """What may follow by the rest of a prefix, a draft that was given, or the source: [S, n], -1: nothing."""
        copies, drafts = self.options.drafter == "source", []
        sources = self.sources.tokens.split(self.sources.offsets.diff().tolist()) if copies else ()
        for n, count in enumerate(self.counts.tolist()):
            words = self.words[n, 1 : 1 + count].tolist()
            draft = self.prefixes[n][count:] if self.prefixes else []
            draft = draft or (follows(words, self.given[n], 1) if self.given else [])
            if not draft and copies:
                draft = follows(words, sources[n].tolist(), RECENT)
            most = 0 if self.ended[n] else min(self.options.draft_length, self.longest - count)
            drafts.append(torch.tensor(draft[:most], dtype=torch.int64))
        return torch.nn.utils.rnn.pad_sequence(drafts, batch_first=True, padding_value=-1).to(self.counts.device)

    def copied_or_own(self, copied: Tensor) -> tuple[Tensor, int]:
        """What the next pass checks, copied or by streams ahead of the last one, and how many streams it has itself:
        none beside a copy."""
        missing = copied.shape[1] - self.draft.shape[1]
        both = F.pad(copied, (0, max(0, -missing)), value=-1), F.pad(self.draft, (0, max(0, missing)), value=-1)
        copies = (copied >= 0).any(1, keepdim=True)
        draft = torch.where(copies, *both)
        self.draft.fill_(-1)
        return draft, 0 if copies.any() else self.streams

    def results(self, sources: int, options: SpeculativeOptions, runtime: Eager) -> list[list[Hypothesis]]:
        """The outputs of the first ``sources`` sources."""
        state = runtime.download(self.counts, self.passes, self.words, self.scores)()
        counts, passes, words, scores = (t[:sources] for t in state)
        groups = []
        for n, count in enumerate(counts.tolist()):
            own = scores[n, : count + 1]
            begun = len(self.prefixes[n]) if self.prefixes else 0  # which is free
            total = np.cumsum(own[begun:].numpy())[-1]  # in float32, one after another, as a search adds them
            if not np.isfinite(total):
                raise FloatingPointError(NO_OUTPUT)
            score = float(total) / (count + 1) ** options.length_penalty
            ids, history = words[n, 1 : count + 1].tolist(), self.history[n]
            groups.append([Hypothesis(ids, score, own.tolist(), int(passes[n]), history)])
        return groups
