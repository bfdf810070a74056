"""The step between two passes of mask-predict: write the predictions, mask the least certain tokens again."""

from typing import NamedTuple

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation
from janus_fast.packing import offsets_of


class Canvases(NamedTuple):
    """Packed canvases between two passes, in shapes that no data decide."""

    tokens: Tensor  # [N] int64
    scores: Tensor  # [N] float32
    rows: Tensor  # [N] int64: those that are masked, ascending, and zeros behind them
    changed: Tensor  # [S] bool
    masked_tokens: Tensor  # [N] int64: what the next pass reads, the tokens with the mask token in ``rows``
    row_offsets: Tensor  # [S + 1] int32: where in ``rows`` those of each canvas begin
    not_finite: Tensor  # [1] int32: scores of canvases that are NaN or infinite


def update_mask(
    tokens: Tensor, scores: Tensor, rows: Tensor, predicted_tokens: Tensor, predicted_scores: Tensor, offsets: Tensor,
    *, ratio: float, mask_token: int, row_offsets: Tensor | None = None, adaptive: bool = False, static: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor] | Canvases:  # fmt: skip
    """Writes predictions into the masked rows of packed canvases and picks the rows to mask next.

    Computes

        new_tokens, new_scores = tokens.index_put(rows, predicted_tokens), scores.index_put(rows, predicted_scores)
        for each canvas of L rows:
            changed = (new_tokens != tokens).any()
            k = trunc((L - 2) * ratio)               # in float32
            next_rows = the k rows of lowest new_score but for the first and the last (among equals the earlier)
            next_rows |= new_tokens == mask_token    # a predicted mask stays masked
            if adaptive and not changed and 3 * len(next_rows) <= L - 2:
                next_rows = none                     # it has settled

    Agreement before at most a third of the words is masked says little: most words were guessed beside masks.
    Nothing is written in place; the caller puts ``mask_token`` into the input of the next pass at ``next_rows``.

    Args:
        tokens: [N] int64, packed canvases, each with ``bos`` first and ``eos`` last. Rows behind the last canvas stay
            as they are.
        scores: [N] float32, log-probabilities; NaN counts as the lowest.
        rows: [M] int64, ascending: the rows that were masked.
        predicted_tokens: [M] int64, what is written into these rows.
        predicted_scores: [M] float32, its log-probabilities.
        offsets: [S + 1] int32, where each canvas begins.
        ratio: share of the tokens to mask again, in [0, 1].
        mask_token: the mask token's id, from 0 to 2 ** 31 - 1.
        row_offsets: [S + 1] int32, where in ``rows`` those of each canvas begin. What lies behind the last ones does
            not count, and a canvas without rows is done: it is masked no more. Default: all count, no canvas is done.
        adaptive: whether canvases settle.
        static: whether results are :class:`Canvases`, whose shapes no data decide, so that nothing waits for the
            device.
        backend: "auto" or one of ``janus_fast.backends("update_mask", device)``.
    Returns:
        tokens [N] int64, scores [N] float32, next rows [M2] int64 ascending, changed [S] bool; or :class:`Canvases`.
    Raises:
        ValueError: shapes or devices differ, or ratio or mask_token is out of range.
        TypeError: wrong dtype, a tensor is sparse, or an option is of another type.
        NotImplementedError: the named backend cannot run this call.
        RuntimeError (native): rows or offsets out of order or out of range.
    Source: Mask-Predict (EMNLP 2019).
    """
    op = "update_mask"
    _check.vector(op, "tokens", tokens, None, torch.int64)
    _check.vector(op, "scores", scores, tokens.shape[0], torch.float32)
    _check.vector(op, "rows", rows, None, torch.int64)
    _check.vector(op, "predicted_tokens", predicted_tokens, rows.shape[0], torch.int64)
    _check.vector(op, "predicted_scores", predicted_scores, rows.shape[0], torch.float32)
    _check.offsets(op, "offsets", offsets)
    _check.same(
        op, ("tokens", tokens), ("scores", scores), ("rows", rows), ("predicted_tokens", predicted_tokens),
        ("predicted_scores", predicted_scores), ("offsets", offsets), dtype=False,
    )  # fmt: skip
    if row_offsets is not None:
        _check.vector(op, "row_offsets", row_offsets, offsets.shape[0], torch.int32)
        _check.same(op, ("tokens", tokens), ("row_offsets", row_offsets), dtype=False)
    _check.numbers(op, ratio=ratio)
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{op}: ratio must be in [0, 1], got {ratio}")
    _check.token(op, "mask_token", mask_token)
    _check.switches(op, adaptive=adaptive, static=static)
    arguments = (tokens, scores, rows, predicted_tokens, predicted_scores, offsets)
    chosen = operation.choose(backend, scores, predicted_scores)
    results = Canvases(*operation.run(chosen, *arguments, ratio, mask_token, row_offsets, adaptive))
    if static:
        return results
    return results.tokens, results.scores, results.rows[: int(results.row_offsets[-1])], results.changed


def _backward(ctx, gradient, rows, row_offsets):
    count = rows.shape[0] if row_offsets is None else row_offsets[-1]
    written = torch.arange(rows.shape[0], device=rows.device) < count
    rows = rows.masked_fill(~written, 0)  # what lies behind may be no rows at all
    replaced = torch.zeros_like(gradient).index_add(0, rows, written.to(gradient.dtype)) > 0
    return None, gradient.masked_fill(replaced, 0.0), None, None, gradient[rows].masked_fill(~written, 0.0), *[None] * 5


def _fake(tokens, scores, rows, predicted_tokens, predicted_scores, offsets, *rest):
    new = tokens.new_empty
    changed, not_finite = new(offsets.shape[0] - 1, dtype=torch.bool), new(1, dtype=torch.int32)
    new_scores, row_offsets = scores.new_empty(scores.shape), offsets.new_empty(offsets.shape)
    return new(tokens.shape), new_scores, new(tokens.shape), changed, new(tokens.shape), row_offsets, not_finite


def _samples():
    make = torch.Generator().manual_seed(4)

    def case(lengths, ratio, vocabulary=9, share=0.6):
        n = sum(lengths)
        rows = torch.nonzero(torch.rand(n, generator=make) < share).flatten()
        draw = lambda count: torch.randint(3, vocabulary, (count,), generator=make)  # noqa: E731
        score = lambda count: -torch.randint(0, 6, (count,), generator=make) / 4.0  # noqa: E731
        m = rows.numel()
        offsets = offsets_of(torch.tensor(lengths, dtype=torch.int64))
        return draw(n), score(n), rows, draw(m), score(m), offsets, ratio, 3, None, False

    def roomy(adaptive, lengths, ratio, **options):
        """Room behind the rows, the predictions and the canvases; canvases without rows; predictions that agree."""
        tokens, scores, rows, predicted, predicted_scores, offsets, *_ = case(lengths, ratio, **options)
        canvas = torch.searchsorted(offsets.long(), rows, right=True) - 1
        predicted = torch.where(canvas % 2 == 0, tokens[rows], predicted)
        rows, predicted, predicted_scores = (t[canvas % 3 != 1] for t in (rows, predicted, predicted_scores))
        row_offsets = torch.searchsorted(rows, offsets.long()).int()
        behind = lambda tensor, filler: torch.cat([tensor, tensor.new_full((5,), filler)])  # noqa: E731
        # a mask, and a score that is not finite, that are nobody's
        tokens, scores = behind(tokens, 3), behind(scores, float("nan"))
        rows, predicted, predicted_scores = behind(rows, 10**6), behind(predicted, 7), behind(predicted_scores, 1.0)
        return tokens, scores, rows, predicted, predicted_scores, offsets, ratio, 3, row_offsets, adaptive

    yield "half", case([7, 2, 31, 3, 12], 0.5)
    yield "all", case([7, 2, 31, 3, 12], 1.0)
    yield "none", case([7, 20, 4], 0.0)
    yield "float32_count", case([3 + n for n in range(40)], 0.7)
    yield "never_the_mask_token", case([11, 5, 26], 0.3, vocabulary=2000)
    yield "nothing_masked", case([6, 9], 0.4, share=0.0)
    yield "everything_masked", case([6, 9], 0.4, share=1.0)
    yield "short_canvases", case([0, 1, 2, 3, 0], 0.9)
    yield "no_canvases", case([], 0.5)
    # more canvases than a block has warps, and than it lists in one turn
    yield "many_canvases", case([2 + 37 * n % 118 for n in range(150)], 0.8)
    yield "very_many_canvases", case([n % 4 for n in range(1100)], 0.5)
    tokens, scores, rows, *rest = case([8, 17], 0.5)
    yield "not_a_number", (tokens, scores.masked_fill(tokens == 4, float("nan")), rows, *rest)
    yield "strided", (torch.stack([tokens, tokens], 1)[:, 0], torch.stack([scores, scores], 1)[:, 1], rows, *rest)
    # canvases longer than what a lane keeps in registers, equal scores, infinities of both signs, zeros
    tokens, _, rows, predicted, _, *rest = case([300, 2, 259, 1, 700], 0.37)
    odd = torch.tensor([0.0, -0.0, -1.0, float("-inf"), float("inf"), float("nan"), -1e-40, -2.5])
    scores = odd[torch.randint(0, len(odd), tokens.shape, generator=make)]
    yield "odd_scores", (tokens, scores, rows, predicted, scores[rows].flip(0), *rest)
    lengths = [7, 12, 31, 3, 12, 0, 2, 9, 40, 5, 24, 18]
    yield "room", roomy(False, lengths, 0.5)
    yield "settling", roomy(True, lengths, 0.3, vocabulary=2000)
    yield "settling_at_last", roomy(True, [2 + n for n in range(40)], 0.34, vocabulary=2000)
    yield "settling_with_masks", roomy(True, [*lengths, 60], 0.1)
    yield "not_yet_settling", roomy(True, lengths, 0.6, vocabulary=2000)


def _work(tokens, scores, rows, *rest):
    return 40 * tokens.numel() + 20 * rows.numel(), 0


operation = Operation(
    "update_mask",
    schema="(Tensor tokens, Tensor scores, Tensor rows, Tensor predicted_tokens, Tensor predicted_scores,"
    " Tensor offsets, float ratio, int mask_token, Tensor? row_offsets=None, bool adaptive=False) -> (Tensor tokens,"
    " Tensor scores, Tensor rows, Tensor changed, Tensor masked_tokens, Tensor row_offsets, Tensor not_finite)",
    reference=reference.update_mask,
    fake=_fake,
    samples=_samples,
    work=_work,
    keep=lambda ctx, results, *arguments: (arguments[2], arguments[8]),
    backward=_backward,
    cpp_dtypes=(torch.float32,),
    cuda_dtypes=(torch.float32,),
)
