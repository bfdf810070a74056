"""The step between two passes of a refinement: write the predictions, mask the least certain tokens again."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation
from janus_fast.packing import offsets_of


def update_mask(
    tokens: Tensor, scores: Tensor, rows: Tensor, predicted_tokens: Tensor, predicted_scores: Tensor, offsets: Tensor,
    *, ratio: float, mask_token: int, backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Writes predictions into the masked rows of packed canvases and picks the rows to mask next.

    Computes

        new_tokens, new_scores = tokens.index_put(rows, predicted_tokens), scores.index_put(rows, predicted_scores)
        for each canvas of L rows:
            changed = (new_tokens != tokens).any()
            k = trunc((L - 2) * ratio)               # in float32
            next_rows = the k rows of lowest new_score but for the first and the last (among equals the earlier)
        next_rows |= new_tokens == mask_token        # a predicted mask stays masked

    Nothing is written in place; the caller puts ``mask_token`` into the input of the next pass at ``next_rows``.

    Args:
        tokens: [N] int64, packed canvases, each with ``bos`` first and ``eos`` last.
        scores: [N] float32, log-probabilities; NaN counts as the lowest.
        rows: [M] int64, ascending: the rows that were masked.
        predicted_tokens: [M] int64, what is written into these rows.
        predicted_scores: [M] float32, its log-probabilities.
        offsets: [S + 1] int32, where each canvas begins.
        ratio: share of the tokens to mask again, in [0, 1].
        mask_token: the mask token's id.
        backend: "auto" or one of ``janus_fast.backends("update_mask", device)``.
    Returns:
        tokens [N] int64, scores [N] float32, next rows [M2] int64 ascending, changed [S] bool.
    Raises:
        ValueError: shapes or devices differ, or ratio is out of range.
        TypeError: wrong dtype.
        NotImplementedError: the named backend cannot run this call.
        RuntimeError (native): rows or offsets out of order or out of range.
    Source: Mask-Predict (EMNLP 2019).
    """
    op, n = "update_mask", tokens.shape[0] if tokens.ndim == 1 else None
    _check.vector(op, "tokens", tokens, None, torch.int64)
    _check.vector(op, "scores", scores, n, torch.float32)
    _check.vector(op, "rows", rows, None, torch.int64)
    _check.vector(op, "predicted_tokens", predicted_tokens, rows.shape[0], torch.int64)
    _check.vector(op, "predicted_scores", predicted_scores, rows.shape[0], torch.float32)
    _check.offsets(op, "offsets", offsets)
    _check.same(
        op, ("tokens", tokens), ("scores", scores), ("rows", rows), ("predicted_tokens", predicted_tokens),
        ("predicted_scores", predicted_scores), ("offsets", offsets), dtype=False,
    )  # fmt: skip
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{op}: ratio must be in [0, 1], got {ratio}")
    arguments = (tokens, scores, rows, predicted_tokens, predicted_scores, offsets)
    return operation.run(operation.choose(backend, scores, predicted_scores), *arguments, ratio, mask_token)


def _backward(ctx, gradient, rows):
    return None, gradient.index_fill(0, rows, 0.0), None, None, gradient[rows], *[None] * 3


def _fake(tokens, scores, rows, predicted_tokens, predicted_scores, offsets, ratio, mask_token):
    next_rows = rows.new_empty(torch.library.get_ctx().new_dynamic_size())
    changed = tokens.new_empty(offsets.shape[0] - 1, dtype=torch.bool)
    return tokens.new_empty(tokens.shape), scores.new_empty(scores.shape), next_rows, changed


def _samples():
    make = torch.Generator().manual_seed(4)

    def case(lengths, ratio, vocabulary=9, share=0.6):
        n = sum(lengths)
        rows = torch.nonzero(torch.rand(n, generator=make) < share).flatten()
        draw = lambda count: torch.randint(3, vocabulary, (count,), generator=make)  # noqa: E731
        score = lambda count: -torch.randint(0, 6, (count,), generator=make) / 4.0  # noqa: E731
        m = rows.numel()
        offsets = offsets_of(torch.tensor(lengths, dtype=torch.int64))
        return draw(n), score(n), rows, draw(m), score(m), offsets, ratio, 3

    yield "half", case([7, 2, 31, 3, 12], 0.5)
    yield "all", case([7, 2, 31, 3, 12], 1.0)
    yield "none", case([7, 20, 4], 0.0)
    yield "float32_count", case([3 + n for n in range(40)], 0.7)
    yield "never_the_mask_token", case([11, 5, 26], 0.3, vocabulary=2000)
    yield "nothing_masked", case([6, 9], 0.4, share=0.0)
    yield "everything_masked", case([6, 9], 0.4, share=1.0)
    yield "short_canvases", case([0, 1, 2, 3, 0], 0.9)
    yield "no_canvases", case([], 0.5)
    tokens, scores, rows, *rest = case([8, 17], 0.5)
    yield "not_a_number", (tokens, scores.masked_fill(tokens == 4, float("nan")), rows, *rest)
    yield "strided", (torch.stack([tokens, tokens], 1)[:, 0], torch.stack([scores, scores], 1)[:, 1], rows, *rest)


def _work(tokens, scores, rows, *rest):
    return 24 * tokens.numel() + 20 * rows.numel(), 0


operation = Operation(
    "update_mask",
    schema="(Tensor tokens, Tensor scores, Tensor rows, Tensor predicted_tokens, Tensor predicted_scores,"
    " Tensor offsets, float ratio, int mask_token) -> (Tensor tokens, Tensor scores, Tensor rows, Tensor changed)",
    reference=reference.update_mask,
    fake=_fake,
    samples=_samples,
    work=_work,
    keep=lambda ctx, results, tokens, scores, rows, *rest: (rows,),
    backward=_backward,
    cpp_dtypes=(torch.float32,),
    cuda_dtypes=(torch.float32,),
)
