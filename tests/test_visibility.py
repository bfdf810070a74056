"""Every pattern against its system's mask, written here row by row from the paper's rule and never with intervals."""

import itertools
import random

import numpy as np
import pytest
import torch

from janus_fast.packing import offsets_of, ranges
from janus_fast.reference.attention import attention
from janus_fast.visibility import Visibility
from janus_fast.visibility_plot import COLOURS, HIDDEN
from pictures import gallery

# A rule is the truth: it takes the numbers that describe one sentence and returns its mask as two lists of rows,
# content rows and query-only rows; a row is the set of content positions it sees.


def causal_rule(length):
    return [set(range(i + 1)) for i in range(length)], []


def bidirectional_rule(length):
    return [set(range(length)) for _ in range(length)], []


def autoregressive_rule(length):
    content, _ = causal_rule(length)
    return content, content


def draft_rule(length, known, masked):
    (content, _), (_, queries) = causal_rule(length), autoregressive_rule(length)
    masks = [length + c for c in range(masked)]
    return content + [{*range(known), *masks[: c + 1]} for c in range(masked)], queries


def _permuted_rule(visible, true, mask):
    """JANUS and MPNet: which rows hold the visible tokens, the true tokens and the masks is all they differ in."""
    b = len(true)
    content = [None] * (len(visible) + 2 * b)
    for row in visible + mask:
        content[row] = set(visible) | set(mask)
    queries = []
    for r in range(b):
        content[true[r]] = set(visible) | {mask[c] for c in range(b) if c > r} | {true[c] for c in range(b) if c <= r}
        queries.append(set(visible) | {mask[c] for c in range(b) if c >= r} | {true[c] for c in range(b) if c < r})
    return content, queries


def janus_rule(visible, masked):
    first, second = list(range(visible, visible + masked)), list(range(visible + masked, visible + 2 * masked))
    return _permuted_rule(list(range(visible)), true=second, mask=first)


def mpnet_rule(visible, masked):
    first, second = list(range(visible, visible + masked)), list(range(visible + masked, visible + 2 * masked))
    return _permuted_rule(list(range(visible)), true=first, mask=second)


def xlnet_rule(length, order):
    """``order``: the positions that are predicted, first to last. The others are context."""
    context = set(range(length)) - set(order)
    content = [set(context) for _ in range(length)]
    queries = {}
    for place, position in enumerate(order):
        before = context | set(order[:place])
        queries[position] = before
        content[position] = before | {position}
    return content, [queries[position] for position in sorted(order)]


def prophetnet_rule(length, streams):
    """The n-gram bias: for token i + 1 stream s knows the main positions up to i - s; without any there is no row."""
    content, _ = causal_rule(length)
    return content, [{*range(i - s + 1)} for s in range(streams) for i in range(length) if i >= s]


def bang_rule(length, streams):
    """Row (s, p) knows real tokens up to p - s; each later token up to p is the row that knows the same real tokens."""
    (content, _), (_, queries) = causal_rule(length), autoregressive_rule(length)
    rows = [(s, p) for s in range(1, streams + 1) for p in range(length + 1) if p >= s]
    for s, p in rows:
        known = p - s
        others = {length + i for i, (other, q) in enumerate(rows) if q - other == known and q <= p}
        content.append({*range(known + 1)} | others)
    return content, queries


def assemble(sentences):
    """The dense mask of a batch in the packed layout: contents of all sentences, then queries of all sentences."""
    total = sum(len(content) for content, _ in sentences)
    content_rows, query_rows, begin = [], [], 0
    for content, queries in sentences:
        for rows, seen_by_rows in ((content_rows, content), (query_rows, queries)):
            for seen in seen_by_rows:
                rows.append([begin <= j < begin + len(content) and j - begin in seen for j in range(total)])
        begin += len(content)
    rows = content_rows + query_rows
    return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), total)


def random_order(length, rng):
    return rng.sample(range(length), rng.randint(0, length))


def ranks_of(length, order):
    return [order.index(position) if position in order else -1 for position in range(length)]


# name -> (builder over a batch of descriptions, rule of one description, descriptions worth testing one by one)
PATTERNS = {
    "causal": (lambda ds: Visibility.causal([n for (n,) in ds]), causal_rule, [(n,) for n in range(6)]),
    "bidirectional": (
        lambda ds: Visibility.bidirectional(offsets_of(torch.tensor([n for (n,) in ds]))),
        bidirectional_rule,
        [(n,) for n in range(6)],
    ),
    "autoregressive": (
        lambda ds: Visibility.autoregressive([n for (n,) in ds]),
        autoregressive_rule,
        [(n,) for n in range(6)],
    ),
    "draft": (
        lambda ds: Visibility.draft(*(list(numbers) for numbers in zip(*ds, strict=True))),
        draft_rule,
        [(n, k, m) for n in range(5) for k in range(n + 1) for m in range(4)],
    ),
    "janus": (
        lambda ds: Visibility.janus([v for v, _ in ds], [m for _, m in ds]),
        janus_rule,
        [(v, m) for v in range(5) for m in range(5)],
    ),
    "mpnet": (
        lambda ds: Visibility.mpnet([v for v, _ in ds], [m for _, m in ds]),
        mpnet_rule,
        [(v, m) for v in range(5) for m in range(5)],
    ),
    "xlnet": (
        lambda ds: Visibility.xlnet([n for n, _ in ds], [rank for n, order in ds for rank in ranks_of(n, order)]),
        xlnet_rule,
        [(n, order) for n in range(4) for size in range(n + 1) for order in itertools.permutations(range(n), size)],
    ),
    "prophetnet": (
        lambda ds: Visibility.prophetnet([n for n, _ in ds], ds[0][1]),
        prophetnet_rule,
        [(n, s) for n in range(6) for s in range(1, 5)],
    ),
    "bang": (
        lambda ds: Visibility.bang([n for n, _ in ds], ds[0][1]),
        bang_rule,
        [(n, s) for n in range(6) for s in range(1, 5)],
    ),
}


def random_batch(name, rng):
    """A few sentences of one pattern; short and empty ones often."""
    streams, batch = rng.randint(1, 3), []
    for _ in range(rng.randint(1, 5)):
        length = rng.choice([0, 1, 2, rng.randint(3, 12)])
        if name in ("janus", "mpnet"):
            masked = rng.randint(0, length)
            batch.append((length - masked, masked))
        elif name == "draft":
            batch.append((length, rng.randint(0, length), rng.randint(0, 4)))
        elif name == "xlnet":
            batch.append((length, random_order(length, rng)))
        elif name in ("prophetnet", "bang"):
            batch.append((length, streams))
        else:
            batch.append((length,))
    return batch


def built_and_true(name, batch):
    build, rule, _ = PATTERNS[name]
    return build(batch).validate(), assemble([rule(*description) for description in batch])


@pytest.mark.parametrize("name", PATTERNS)
def test_one_sentence_of_every_small_size(name):
    for description in PATTERNS[name][2]:
        visibility, truth = built_and_true(name, [description])
        assert torch.equal(visibility.dense(), truth), (name, description)


@pytest.mark.parametrize("name", PATTERNS)
def test_batches_of_ragged_sentences(name):
    rng = random.Random(name)
    for _ in range(25):
        batch = random_batch(name, rng)
        visibility, truth = built_and_true(name, batch)
        assert torch.equal(visibility.dense(), truth), (name, batch)


@pytest.mark.parametrize("name", PATTERNS)
def test_intervals_are_the_runs_of_keys_that_a_query_sees(name):
    rng = random.Random(name)
    for _ in range(10):
        visibility, truth = built_and_true(name, random_batch(name, rng))
        expected = []
        for row in truth.tolist():
            ends = [k for k in range(len(row) + 1) if (k > 0 and row[k - 1]) != (k < len(row) and row[k])]
            expected.append([*zip(ends[::2], ends[1::2], strict=True)])
        most = max([1, *map(len, expected)])
        expected = [row + [(0, 0)] * (most - len(row)) for row in expected]
        intervals = visibility.intervals()
        assert intervals.dtype == torch.int32
        assert intervals.tolist() == [[[*pair] for pair in row] for row in expected], name
        if name in ("autoregressive", "causal", "janus", "mpnet"):
            assert most <= 2


@pytest.mark.parametrize("name", PATTERNS)
def test_keys_are_the_first_rows(name):
    rng = random.Random(name)
    for _ in range(10):
        batch = random_batch(name, rng)
        visibility, _ = built_and_true(name, batch)
        k = len(batch) + 1
        assert torch.equal(visibility.query_offsets[:k], visibility.key_offsets)
        groups = visibility.key_sequences.reshape(-1, len(batch)).tolist()
        assert groups in ([[*range(len(batch))]], [[*range(len(batch))]] * 2)


def test_no_sentences_at_all():
    empty = [
        Visibility.causal([]), Visibility.autoregressive([]), Visibility.janus([], []),
        Visibility.mpnet([], []), Visibility.xlnet([], []), Visibility.prophetnet([], 2), Visibility.bang([], 2),
        Visibility.draft([], [], []),
    ]  # fmt: skip
    for visibility in empty:
        assert visibility.intervals().shape == (0, 1, 2)
        assert visibility.validate().dense().shape == (0, 0)


def test_every_janus_row_sees_as_many_keys_as_the_sentence_has_tokens():
    visible, masked = torch.tensor([5, 0, 3, 7]), torch.tensor([4, 6, 0, 1])
    visibility = Visibility.janus(visible, masked)
    seen = visibility.dense().sum(1)
    tokens = (visible + masked)[visibility.key_sequences.long()]
    assert torch.equal(seen, tokens.repeat_interleave(visibility.query_offsets.diff()))


def test_equal_ranks_of_xlnet_are_predicted_at_once():
    dense = Visibility.xlnet([4], [-1, 0, 0, 1]).dense().int().tolist()
    assert dense[:4] == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert dense[4:] == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]


def test_lengths_may_be_lists_or_tensors_of_any_integer_type():
    expected = Visibility.janus([2, 0], [1, 3]).dense()
    for dtype in (torch.int64, torch.int32, torch.uint8):
        visibility = Visibility.janus(torch.tensor([2, 0], dtype=dtype), torch.tensor([1, 3], dtype=dtype))
        assert torch.equal(visibility.dense(), expected)


def test_offsets_and_ranges():
    lengths = torch.tensor([2, 0, 3])
    assert offsets_of(lengths).tolist() == [0, 2, 2, 5] and offsets_of(lengths).dtype == torch.int32
    assert ranges(lengths).tolist() == [0, 1, 0, 1, 2]


# Selecting rows, joining patterns, moving them


@pytest.mark.parametrize("name", PATTERNS)
def test_rows_selects_rows_of_the_mask(name):
    rng = random.Random(name)
    for _ in range(10):
        visibility, truth = built_and_true(name, random_batch(name, rng))
        index = torch.tensor([i for i in range(visibility.num_queries) if rng.random() < 0.5], dtype=torch.int64)
        assert torch.equal(visibility.rows(index).validate().dense(), truth[index])


def test_concatenate_puts_contents_first_and_keeps_parts_apart():
    rng = random.Random(0)
    for _ in range(40):
        names = rng.choices(list(PATTERNS), k=rng.randint(1, 4))
        parts, sentences = [], []
        for name in names:
            batch = random_batch(name, rng)
            parts.append(built_and_true(name, batch)[0])
            sentences += [PATTERNS[name][1](*description) for description in batch]
        joint, starts = Visibility.concatenate(parts)
        joint.validate()
        assert torch.equal(joint.dense(), assemble(sentences)), names

        # A part's own mask lies where ``starts`` says, and its rows see nothing else.
        covered = torch.zeros_like(joint.dense())
        for part, (content, query) in zip(parts, starts, strict=True):
            nk, own = part.num_keys, part.dense()
            rows = [*range(content, content + nk), *range(query, query + part.num_queries - nk)]
            block = joint.dense()[rows]
            assert torch.equal(block[:, content : content + nk], own)
            assert block.sum() == own.sum()
            covered[rows] = True
        assert covered.all()


def test_concatenate_is_associative():
    a, b, c = Visibility.autoregressive([3, 1]), Visibility.janus([2, 4], [3, 0]), Visibility.causal([2])
    left = Visibility.concatenate([Visibility.concatenate([a, b])[0], c])[0]
    assert torch.equal(left.dense(), Visibility.concatenate([a, b, c])[0].dense())


def test_to_and_repr():
    visibility = Visibility.autoregressive([3, 1])
    moved = visibility.to("meta")
    assert {getattr(moved, name).device.type for name in vars(moved)} == {"meta"}
    assert torch.equal(visibility.to("cpu").dense(), visibility.dense())
    assert repr(visibility) == "Visibility(8 queries in 4 sequences, 4 keys in 2 sequences, cpu)"


# What the patterns are for


@pytest.mark.parametrize("name", PATTERNS)
def test_attention_over_intervals_is_masked_softmax(name):
    rng = random.Random(name)
    for _ in range(5):
        visibility, truth = built_and_true(name, random_batch(name, rng))
        generator = torch.Generator().manual_seed(rng.randrange(1000))
        query, key, value = (
            torch.randn(rows, 2, 4, dtype=torch.float64, generator=generator)
            for rows in (visibility.num_queries, visibility.num_keys, visibility.num_keys)
        )
        output, _ = attention(
            query, key, value, visibility.query_offsets, visibility.key_offsets, visibility.key_sequences,
            visibility.query_times, visibility.visible_from, visibility.visible_until, 0.5,
        )  # fmt: skip
        expected = torch.zeros_like(query)
        for i, seen in enumerate(truth):
            if seen.any():
                weights = torch.einsum("hd,khd->hk", query[i], key[seen]).mul(0.5).softmax(-1)
                expected[i] = torch.einsum("hk,khd->hd", weights, value[seen])
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


# Errors


def _made(**changes):
    good = Visibility.autoregressive([2, 3])
    return Visibility(**{name: changes.get(name, value) for name, value in vars(good).items()})


def _int32(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Visibility.causal([2, -1]), "Visibility.causal: lengths must be at least 0, got -1"),
        (
            lambda: Visibility.causal([2.0]),
            "Visibility.causal: lengths must be a 1-D tensor of integers, got torch.float32 [1] on cpu",
        ),
        (lambda: Visibility.causal("ab"), "Visibility.causal: lengths must be a 1-D tensor of integers, got 'ab'"),
        (
            lambda: Visibility.janus([2], [None]),
            "Visibility.janus: masked must be a 1-D tensor of integers, got [None]",
        ),
        (
            lambda: Visibility.causal([*range(1000), "a"]),
            "Visibility.causal: lengths must be a 1-D tensor of integers, got [0, 1, 2, 3, 4, 5, ...]",
        ),
        (
            lambda: Visibility.prophetnet([3], True),
            "Visibility.prophetnet: streams must be an integer of at least 1, got True",
        ),
        (
            lambda: Visibility.autoregressive(torch.tensor([[2]])),
            "Visibility.autoregressive: lengths must be a 1-D tensor of integers, got torch.int64 [1, 1] on cpu",
        ),
        (
            lambda: Visibility.draft([2, 3], [1], [1, 1]),
            "Visibility.draft: known must have one entry for each of the 2 lengths, got 1",
        ),
        (
            lambda: Visibility.draft([5, 3], [1, 4], [1, 1]),
            "Visibility.draft: known must not exceed lengths, got 4 of 3 at sequence 1",
        ),
        (
            lambda: Visibility.janus([1, 2], [1, 2, 3]),
            "Visibility.janus: masked must have one entry for each of the 2 visible, got 3",
        ),
        (lambda: Visibility.mpnet([1], [-2]), "Visibility.mpnet: masked must be at least 0, got -2"),
        (
            lambda: Visibility.xlnet([3], [0, 1]),
            "Visibility.xlnet: ranks must have one entry for each of the 3 tokens, got 2",
        ),
        (lambda: Visibility.xlnet([2], [0, -2]), "Visibility.xlnet: ranks must be at least -1, got -2"),
        (
            lambda: Visibility.prophetnet([3], 0),
            "Visibility.prophetnet: streams must be an integer of at least 1, got 0",
        ),
        (lambda: Visibility.bang([3], 1.5), "Visibility.bang: streams must be an integer of at least 1, got 1.5"),
        (
            lambda: Visibility.concatenate([]),
            "Visibility.concatenate: parts must have at least one Visibility, got none",
        ),
        (
            lambda: Visibility.concatenate(
                [Visibility.causal([2]), Visibility.bidirectional(_int32(0, 2), _int32(0, 3))]
            ),
            "Visibility.concatenate: parts must have their keys as first rows (self-attention), got part 1: "
            "Visibility(2 queries in 1 sequences, 3 keys in 1 sequences, cpu)",
        ),
        (
            lambda: Visibility.concatenate([Visibility.causal([2]), Visibility.causal([2]).to("meta")]),
            "Visibility.concatenate: parts must be on one device, got cpu and meta",
        ),
        (
            lambda: Visibility.bidirectional([0, 2]),
            "Visibility.bidirectional: query_offsets must be a 1-D int32 tensor, got list",
        ),
        (
            lambda: Visibility.causal(torch.ones(2, dtype=torch.int64).to_sparse()),
            "Visibility.causal: lengths must be a 1-D tensor of integers, "
            "got torch.sparse_coo of torch.int64 [2] on cpu",
        ),
        (
            lambda: _made(query_times=torch.zeros(10)),
            "Visibility: query_times must be a 1-D int32 tensor on cpu, got torch.float32 [10] on cpu",
        ),
        (
            lambda: _made(visible_from=_int32(*range(5)).to("meta")),
            "Visibility: visible_from must be a 1-D int32 tensor on cpu, got torch.int32 [5] on meta",
        ),
        (
            lambda: _made(key_offsets=_int32()),
            "Visibility: key_offsets must have one entry more than there are sequences, got none",
        ),
        (
            lambda: _made(key_sequences=_int32(0)),
            "Visibility: key_sequences must have one entry for each of the 4 query sequences, got 1",
        ),
        (
            lambda: _made(visible_until=_int32(1)),
            "Visibility: visible_until must have as many entries as visible_from (5), got 1",
        ),
        (
            lambda: _made(query_offsets=_int32(0, 2, 5, 7, 9)).validate(),
            "Visibility: query_offsets must begin at 0 and end at the number of rows, 10, got 0 and 9",
        ),
        (
            lambda: _made(key_offsets=_int32(1, 2, 5)).validate(),
            "Visibility: key_offsets must begin at 0 and end at the number of rows, 5, got 1 and 5",
        ),
        (
            lambda: _made(query_offsets=_int32(0, 5, 2, 7, 10)).validate(),
            "Visibility: query_offsets must not decrease, got 5 before 2 at sequence 1",
        ),
        (
            lambda: _made(key_sequences=_int32(0, 1, 0, 2)).validate(),
            "Visibility: key_sequences must name one of the 2 key sequences, got 2",
        ),
    ],
)
def test_errors_name_argument_rule_and_value(wrong, message):
    with pytest.raises(ValueError) as error:
        wrong()
    assert str(error.value) == message


# Pictures


def test_plot_colours_exactly_what_is_seen():
    pytest.importorskip("matplotlib").use("Agg")
    visibility = Visibility.janus([3], [2])
    groups = [("visible", 3), ("masks", 2), ("true", 2)]
    ax = visibility.plot(
        title="JANUS", key_groups=groups, query_groups=[*groups, ("AUX", 2)], key_labels=list("abcdefg")
    )
    cells = torch.as_tensor(ax.collections[0].get_array().reshape(9, 7))
    group_of_key = torch.tensor([1, 1, 1, 2, 2, 3, 3])
    assert torch.equal(cells, torch.where(visibility.dense(), group_of_key, 0))
    assert ax.get_title() == "JANUS"
    assert [text.get_text() for text in ax.texts] == ["visible", "masks", "true", "visible", "masks", "true", "AUX"]
    assert [label.get_text() for label in ax.get_xticklabels()] == list("abcdefg")
    with pytest.raises(ValueError, match=r"^Visibility.plot: key_groups must cover 7 rows, got 3$"):
        visibility.plot(key_groups=groups[:1])
    with pytest.raises(ValueError, match=r"^Visibility.plot: query_labels must cover 9 rows, got 1$"):
        visibility.plot(query_labels=["a"])


def test_plot_without_names_shows_the_sequences():
    pytest.importorskip("matplotlib").use("Agg")
    ax = Visibility.autoregressive([2, 3]).plot()
    names = [f"keys {k}" for k in range(2)] + [f"queries {q}" for q in range(4)]
    assert [text.get_text() for text in ax.texts] == names
    Visibility.causal([]).plot()


def test_plot_takes_colours_by_name():
    pytest.importorskip("matplotlib").use("Agg")
    ax = Visibility.causal([3]).plot(key_groups=[("a", 1), ("b", 1), ("a", 1)], colours={"b": "#123456"})
    assert [*ax.collections[0].cmap.colors] == [HIDDEN, COLOURS[0], "#123456"]


def test_gallery_draws_every_pattern(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    figure = gallery()
    figure.savefig(tmp_path / "all.png", dpi=20)
    titles = " ".join(ax.get_title() for ax in figure.axes)
    for name in ("NAR + AUX", "JANUS, AR", "causal", "drafts", "bidirectional", "XLNet", "MPNet", "ProphetNet", "BANG"):
        assert name in titles
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_plot_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(
        ImportError, match="Visibility.plot needs matplotlib, which is not installed: pip install matplotlib"
    ):
        Visibility.causal([2]).plot()


def test_numpy_s_integers_are_numbers_of_streams():
    own, python_s = Visibility.prophetnet([3, 2], np.int64(2)), Visibility.prophetnet([3, 2], 2)
    assert torch.equal(own.dense(), python_s.dense())
