"""Objectives, batches and the training loop: what is packed, that it learns, that a resumed run is the same run."""

import ctypes
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_fast import JanusConfig, JanusModel
from janus_fast.checkpoint import WEIGHTS, read_tensors
from janus_fast.objectives import OBJECTIVES
from janus_fast.text.batching import batches_by_tokens
from janus_fast.training.checkpoints import average, checkpoints, latest_checkpoint, read_state
from janus_fast.training.corruption import Corruption
from janus_fast.training.data import BatchStream, ParallelData
from janus_fast.training.metrics import Window
from janus_fast.training.options import TrainingOptions
from janus_fast.training.plot import plot_losses, read_curves
from janus_fast.training.trainer import Trainer, objective_of

SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}


def make_config(**options):
    return JanusConfig(30, 30, **{**SIZES, "max_source_positions": 24, "max_target_positions": 24, **options})


def make_model(seed=3, **options):
    torch.manual_seed(seed)
    return JanusModel(make_config(**options))


def make_data(count=40, seed=0):
    """A toy language: the target is the source in reverse, shifted by one."""
    generator = np.random.default_rng(seed)
    sources = [np.array([0, *generator.integers(5, 29, generator.integers(1, 9)), 2]) for _ in range(count)]
    targets = [np.array([0, *(s[1:-1][::-1] + 1), 2]) for s in sources]
    return ParallelData(sources, targets, list(range(count)))


def make_monolingual(count=40, seed=0, **options):
    """The toy language's targets, each of which is to be restored."""
    data, config = make_data(count, seed), make_config()
    options = TrainingOptions(**options)
    data.sources = data.targets
    data.corruption = Corruption(options, config, [f"t{i}" for i in range(config.target_vocab_size)])
    return data


def data_for(objective):
    return make_monolingual() if OBJECTIVES[objective].restores else make_data()


def options_of(**options):
    return TrainingOptions(
        **{"max_tokens": 60, "learning_rate": 3e-3, "warmup_updates": 10, "log_interval": 5, **options}
    )


def test_the_picture_has_a_curve_for_each_loss(tmp_path):
    def line(update, kind, **figures):
        return json.dumps({"update": update, "kind": kind, "tokens": 7, **figures}) + "\n"

    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        line(5, "train", lr=1e-3, loss=9.0, ar_nll=4.0)
        + line(10, "train", lr=1e-3, loss=8.0, ar_nll=3.0)
        + line(10, "valid", loss=8.5, ar_nll=3.5, bleu_ar=12.0)
        + line(10, "train", lr=1e-3, loss=7.0, ar_nll=2.0)  # resumed from update 5
    )
    assert read_curves(metrics) == {
        ("train", "loss"): [(5, 9.0), (10, 7.0)], ("train", "ar_nll"): [(5, 4.0), (10, 2.0)],
        ("valid", "loss"): [(10, 8.5)], ("valid", "ar_nll"): [(10, 3.5)], ("valid", "bleu_ar"): [(10, 12.0)],
    }  # fmt: skip
    pytest.importorskip("matplotlib")
    figure = plot_losses(metrics, tmp_path / "loss.png")
    losses, quality = figure.axes
    assert [line.get_linestyle() for line in losses.lines] == ["-", "--", "-", "--"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["loss", "ar_nll", "bleu_ar"]
    assert quality.lines[0].get_ydata().tolist() == [12.0]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("line", ['{"kind": "train", "upd', "5", '{"kind": "train", "loss": 3}'])
def test_a_picture_of_something_else_is_refused(tmp_path, line):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"kind": "train", "update": 5, "loss": 3}\n' + line)
    with pytest.raises(ValueError) as error:
        read_curves(metrics)
    rule = f"{metrics} must hold a JSON object with kind and update a line"
    assert str(error.value) == f"plot_losses: {rule}, got {line!r} in line 2"


def test_a_checkpoint_whose_state_is_a_folder_is_told(tmp_path):
    for name in ("1", "2"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    state = tmp_path / "checkpoints" / "2" / "state.json"
    state.mkdir()
    assert latest_checkpoint(tmp_path) == state.parent
    with pytest.raises(IsADirectoryError, match=f"^train: state.json must be a file, got the folder {state}$"):
        read_state(latest_checkpoint(tmp_path))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_learns_and_writes_what_it_did(tmp_path, objective):
    updates = {"cemat": 100}.get(
        objective, 60
    )  # nothing tells its encoder more of these words than how frequent they are
    options = options_of(objective=objective, max_updates=updates, save_interval=20, keep=2)
    trainer = Trainer(make_model(dropout=0.0), data_for(objective), tmp_path, options)
    trainer.train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["update"] == updates and records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert [path.name for path in checkpoints(tmp_path)] == [f"{updates - 20:08}", f"{updates:08}"]
    mean = average(checkpoints(tmp_path))
    both = [read_tensors(path / WEIGHTS) for path in checkpoints(tmp_path)]
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (both[0][name] + both[1][name]) / 2)


@pytest.mark.parametrize("objective, options", [
    ("janus", {}), ("autoregressive", {}), ("cmlm", {}),
    ("janus", {"without_auxiliary": True, "divergence_weight": 0.0, "autoregressive_every": 2}),
    ("janus", {"suffix_share": 0.5, "tail_decay": 2.0, "draft_weight": 0.5, "draft_length": 3}),
    ("xlnet", {}), ("mpnet", {}), ("cemat", {"source_mask_ratio": (0.4, 0.6)}),
])  # fmt: skip
def test_an_update_over_several_batches_is_that_over_their_union(tmp_path, objective, options):
    """Whatever rows each batch has: a short pair in one, long ones in the others."""
    data, groups = make_data(8, seed=2), ([0], [1, 2, 3, 4], [5, 6, 7])
    if "autoregressive_every" in options:  # those of the union are then those of the batches
        groups = ([0, 1], [2, 3, 4, 5], [6, 7])
    data.targets[0] = np.array([0, 5, 2])

    def update(groups, masks={}):  # noqa: B006
        settings = {"objective": objective, "precision": "float32", "clip_norm": math.inf, **options}
        trainer = Trainer(
            make_model(dropout=0.0).double(), data, tmp_path, options_of(accumulate=len(groups), **settings)
        )
        drawn = {"draw": [], "draw_source": []}

        def keeping(name, draw):
            def call(*sides):
                drawn[name].append(masks[name] if name in masks else draw(*sides))
                return drawn[name][-1]

            return call

        for name in drawn:
            setattr(trainer.objective, name, keeping(name, getattr(trainer.objective, name)))
        batches, generator = [], torch.Generator().manual_seed(1)
        for number, group in enumerate(groups):
            sides = ([side[i] for i in group] for side in (data.sources, data.targets))
            batches.append((number, 0, trainer.objective.pack(*sides, generator)))
        trainer.step(iter(batches), window := Window())
        means = window.means(trainer.processes)
        gradient = torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None])
        drawn = {name: torch.cat(each) for name, each in drawn.items() if each[0] is not None}
        return gradient, {name: means[name] for name in means if "second" not in name}, trainer.tokens_seen, drawn

    *several, drawn = update(groups)
    *whole, _ = update([range(8)], drawn)
    torch.testing.assert_close(several[0], whole[0], atol=1e-7, rtol=1e-6)  # the lengths' loss is in float32
    assert several[1] == pytest.approx(whole[1], abs=2e-5) and several[2] == whole[2]


def test_the_stream_starts_anywhere_and_covers_every_pair():
    data, objective = make_data(), OBJECTIVES["janus"](make_config())
    stream = BatchStream(data, objective, 60, seed=5)
    first = [item for item, _ in zip(iter(stream), range(20), strict=False)]
    stream.close()
    later = BatchStream(data, objective, 60, seed=5, start=12)
    number, epoch, batch = next(iter(later))
    later.close()
    assert not stream.thread.is_alive() and not later.thread.is_alive()
    assert (number, epoch) == first[12][:2]
    assert torch.equal(batch.tokens, first[12][2].tokens) and torch.equal(batch.rows, first[12][2].rows)
    epochs = [sum(b.source_offsets.numel() - 1 for _, e, b in first if e == epoch) for epoch in (0, 1)]
    assert epochs[0] == len(data)
    order = [[b.tokens.tolist() for _, e, b in first if e == epoch] for epoch in (0, 1)]
    assert order[0] != order[1]


def test_an_error_while_packing_reaches_the_training_loop():
    data = make_data(4)
    data.targets[2] = "no ids"
    stream = BatchStream(data, OBJECTIVES["janus"](make_config()), 10_000, seed=1)
    with pytest.raises((TypeError, ValueError)):
        next(iter(stream))


def test_batches_keep_to_the_token_count():
    lengths = np.random.default_rng(1).integers(1, 50, 300)
    for generator in (None, np.random.default_rng(2)):
        batches = batches_by_tokens(lengths, 120, generator)
        assert sorted(i for batch in batches for i in batch) == list(range(300))
        assert all(lengths[batch].sum() <= 120 for batch in batches)
    assert [len(batch) for batch in batches_by_tokens(np.array([200, 3]), 100)] == [1, 1]


def test_the_rate_warms_up_and_decays():
    options = TrainingOptions(learning_rate=1.0, warmup_updates=100, max_updates=1000, decay_updates=200)
    assert options.rate(1) == 0.01 and options.rate(100) == 1.0 and options.rate(400) == 0.5
    assert options.rate(800) == math.sqrt(100 / 800)
    assert options.rate(900) == pytest.approx(math.sqrt(100 / 900) * 101 / 200) and options.rate(1000) < 0.002


def test_text_is_read_and_pairs_that_do_not_fit_are_left_out(tmp_path):
    from janus_fast import Vocabulary

    vocabulary = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b"])
    (tmp_path / "s").write_text("\ufeffa b\r\n\na\nb\n", encoding="utf-8")  # with a byte-order mark
    (tmp_path / "t").write_text("b a\na\n" + "a " * 40 + "\nb\n")
    data = ParallelData.read(tmp_path / "s", tmp_path / "t", (vocabulary, vocabulary), make_config())
    assert data.kept == [0, 3] and data.sources[0].tolist() == [0, 5, 6, 2] and data.targets[0].tolist() == [0, 6, 5, 2]
    (tmp_path / "t").write_text("b a\n")
    with pytest.raises(ValueError, match="must have the same number of lines, got 4 and 1"):
        ParallelData.read(tmp_path / "s", tmp_path / "t", (vocabulary, vocabulary), make_config())
    (tmp_path / "t").write_text("\n\n\n\n")
    with pytest.raises(ValueError, match="must hold at least one pair of sentences, got none$"):
        ParallelData.read(tmp_path / "s", tmp_path / "t", (vocabulary, vocabulary), make_config())
    (tmp_path / "t").write_text("a " * 40 + "\n\n\n\n")
    with pytest.raises(ValueError, match="usable pair, got none: 3 are empty and 1 longer than 24 or 24 tokens$"):
        ParallelData.read(tmp_path / "s", tmp_path / "t", (vocabulary, vocabulary), make_config())


def test_a_batch_that_holds_no_pair_is_refused(tmp_path):
    data = make_data()
    least = min(max(len(s), len(t)) for s, t in zip(data.sources, data.targets, strict=True))
    Trainer(make_model(), data, tmp_path, options_of(max_tokens=least))
    message = f"train: max_tokens must be at least {least}, as many as the shortest pair has, got {least - 1}"
    with pytest.raises(ValueError, match=message):
        Trainer(make_model(), data, tmp_path, options_of(max_tokens=least - 1))


def test_sentences_do_not_see_each_other():
    """The hidden rows of a sentence are the same alone and in a batch, for every stream."""
    model = make_model().double().eval()
    data, objective = make_data(5), OBJECTIVES["janus"](make_config())
    masks = [
        objective.draw(torch.tensor(t), [len(t)], torch.Generator().manual_seed(i)) for i, t in enumerate(data.targets)
    ]

    def hidden(numbers):
        objective.draw = lambda *_: torch.cat([masks[n] for n in numbers])
        batch = objective.pack([data.sources[n] for n in numbers], [data.targets[n] for n in numbers], None)
        encoded = model.encode(batch.source, batch.source_offsets)
        rows = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross, batch.rows)
        return {name: rows[part] for name, part in batch.parts.items()}

    together = hidden(range(5))
    alone = [hidden([n]) for n in range(5)]
    for name, rows in together.items():
        torch.testing.assert_close(rows, torch.cat([one[name] for one in alone]), atol=1e-12, rtol=1e-12)


def test_the_auxiliary_stream_and_the_divergences_can_be_left_out(tmp_path):
    data, model = make_data(6), make_model(dropout=0.0)

    def terms(scale=1.0, **options):
        objective = OBJECTIVES["janus"](model.config, **options)
        batch = objective.pack(data.sources, data.targets, torch.Generator().manual_seed(1))
        return objective.loss(model, batch, scale)

    full, whole = terms()
    half, _ = terms(0.5)
    none, plain = terms(0.0)
    torch.testing.assert_close(half, (full + none) / 2)
    assert [name for name in whole if name.startswith("kl")] == ["kl_ar_nar", "kl_ar_aux", "kl_nar_aux"]
    assert not any(name.startswith("kl") for name in plain)
    torch.testing.assert_close(none, plain["ar_ce"] + 0.5 * (plain["nar_ce"] + plain["aux_ce"]) + 0.1 * plain["length"])
    total, without = terms(auxiliary=False)
    torch.testing.assert_close(
        total, without["ar_ce"] + without["nar_ce"] + without["kl_ar_nar"] + 0.1 * without["length"]
    )
    for name in ("ar_ce", "nar_ce", "kl_ar_nar"):  # another order of the rows, the same distributions
        torch.testing.assert_close(without[name], whole[name])
    options = TrainingOptions(divergence_weight=0.5, divergence_warmup_updates=10)
    options = objective_of(options, model.config)
    assert [options.divergence_scale(n) for n in (1, 10, 99)] == [0.05, 0.5, 0.5]


def test_some_sentences_alone_can_have_autoregressive_streams():
    data, model = make_data(7), make_model(dropout=0.0)
    settings = {"auxiliary": False, "divergence": {}}

    def terms(sources, targets, objective="janus", **options):
        objective = OBJECTIVES[objective](model.config, **options)
        batch = objective.pack(sources, targets, torch.Generator().manual_seed(1))
        return objective.loss(model, batch)[1]

    some = terms(data.sources, data.targets, **settings, autoregressive_every=3)
    every = terms(data.sources, data.targets, **settings)
    chosen = terms(data.sources[::3], data.targets[::3], "autoregressive")
    torch.testing.assert_close(some["nar_ce"], every["nar_ce"])
    torch.testing.assert_close(some["ar_ce"], chosen["ar_ce"])
    assert abs(some["ar_ce"] - every["ar_ce"]) > 1e-3
    for options in ({"divergence": {("ar", "nar"): 1.0}}, {"autoregressive_every": 0}):
        with pytest.raises(ValueError, match="objective: autoregressive_every must be 1, or more beside"):
            OBJECTIVES["janus"](model.config, **{"autoregressive_every": 2, **settings, **options})
    for options in ({"cross_entropy": {"aux": 1.0}}, {"divergence": {("ar", "aux"): 1.0}}):
        with pytest.raises(ValueError, match="objective: loss terms must be of the streams .* got one of 'aux'"):
            OBJECTIVES["janus"](model.config, auxiliary=False, **options)


def test_two_encoder_passes_differ_by_dropout_alone():
    data = make_data(6)

    def terms(passes, dropout, objective="janus"):
        model = make_model(dropout=dropout)
        objective = OBJECTIVES[objective](model.config, encoder_passes=passes)
        batch = objective.pack(data.sources, data.targets, torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        return objective.loss(model, batch)[1]

    for objective in OBJECTIVES:
        one, two = (terms(passes, 0.0, objective) for passes in (1, 2))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name])
    assert terms(1, 0.3)["kl_ar_nar"] != terms(2, 0.3)["kl_ar_nar"]
    with pytest.raises(ValueError, match="objective: encoder_passes must be 1 or 2, got 3"):
        OBJECTIVES["janus"](make_config(), encoder_passes=3)


def test_options_are_checked():
    for options, message in [
        (
            {"objective": "cmlm", "without_auxiliary": True},
            "without_auxiliary must be left out with objective 'cmlm', got",
        ),
        ({"objective": "cmlm", "divergence_weight": 3.0}, "divergence_weight must be left out .* 'cmlm', got 3.0"),
        ({"objective": "cmlm", "autoregressive_every": 2}, "autoregressive_every must be left out .* 'cmlm', got 2"),
        ({"objective": "autoregressive", "masking": "span"}, "masking must be left out .* 'autoregressive', got span"),
        ({"objective": "autoregressive", "encoder_passes": 2}, "encoder_passes must be left out .* got 2"),
        (
            {"divergence_weight": 0.0, "divergence_warmup_updates": 9},
            "must be left out with divergence_weight 0, got 9",
        ),
        ({"objective": "gan"}, "train: objective must be one of"),
        ({"precision": "int8"}, "train: precision must be one of 'auto', 'float32', 'bfloat16', 'float16', got 'int8'"),
        ({"precision": "float16"}, "train: precision must be auto, float32 or bfloat16 on the CPU, got 'float16'"),
        ({"device": "tpu"}, "train: device must be one of 'cpu', 'cuda', got 'tpu'"),
        ({"max_tokens": 0}, "train: max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": "9"}, "train: max_tokens must be an integer of at least 1, got '9'"),
        ({"adam_betas": 0.9}, r"train: adam_betas must be two numbers in \[0, 1\), got 0.9"),
        ({"accumulate": 1.5}, "train: accumulate must be an integer of at least 1, got 1.5"),
        ({"seed": 1.5}, r"train: seed must be an integer in \[0, 2 \*\* 32\), got 1.5"),
        ({"keep": True}, "train: keep must be an integer of at least 1, got True"),
        ({"fsdp": "no"}, "train: fsdp must be true or false, got 'no'"),
        ({"without_auxiliary": "no"}, "train: without_auxiliary must be true or false, got 'no'"),
        ({"encoder_passes": "2"}, "train: encoder_passes must be 1 or 2, got '2'"),
        ({"autoregressive_every": "x"}, "train: autoregressive_every must be an integer of at least 1, got 'x'"),
        ({"masking": "x"}, r"train: masking must be one of 'span', 'uniform', got 'x'"),
        ({"detach": True}, "train: detach must be none, ar or a number of nats from 0, got True"),
        ({"log_interval": 0}, "train: log_interval must be an integer of at least 1, got 0"),
        ({"validate_interval": 0}, "train: validate_interval must be an integer of at least 1, got 0"),
        ({"decay_updates": -1}, "train: decay_updates must be an integer of at least 0, got -1"),
        (
            {"divergence_warmup_updates": -1},
            "train: divergence_warmup_updates must be an integer of at least 0, got -1",
        ),
        ({"learning_rate": math.inf}, "train: learning_rate must be positive and finite, got inf"),
        ({"learning_rate": math.nan}, "train: learning_rate must be positive and finite, got nan"),
        ({"clip_norm": 0.0}, "train: clip_norm must be positive, got 0.0"),
        ({"max_minutes": 0}, "train: max_minutes must be positive, got 0"),
        ({"save_minutes": math.nan}, "train: save_minutes must be positive, got nan"),
        ({"weight_decay": -1.0}, "train: weight_decay must be at least 0 and finite, got -1.0"),
        ({"divergence_weight": math.inf}, "train: divergence_weight must be at least 0 and finite, got inf"),
        ({"label_smoothing": 5.0}, r"train: label_smoothing must be in \[0, 1\), got 5.0"),
        ({"adam_betas": (0.9, 1.0)}, r"train: adam_betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"seed": -1}, r"train: seed must be an integer in \[0, 2 \*\* 32\), got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            TrainingOptions(**options)
    TrainingOptions(clip_norm=math.inf, label_smoothing=0.0, weight_decay=0.0, seed=0)
    numpy_s = TrainingOptions(seed=np.int64(3), learning_rate=np.float32(0.5), fsdp=np.bool_(False))
    assert json.dumps(vars(numpy_s)) == json.dumps(vars(TrainingOptions(seed=3, learning_rate=0.5)))
    with pytest.raises(ValueError, match="objective: masking must be one of"):
        OBJECTIVES["janus"](make_config(), masking="all")


def test_bfloat16_autocast_trains_like_float32(tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        options = options_of(max_updates=40, precision=precision)
        Trainer(make_model(dropout=0.0), make_data(), tmp_path / precision, options).train()
        lines = (tmp_path / precision / "metrics.jsonl").read_text().splitlines()
        losses[precision] = [json.loads(line)["loss"] for line in lines]
    # bfloat16 keeps 8 bits: losses agree to a percent, and are not the same numbers
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)
    assert losses["bfloat16"] != losses["float32"]


FAULTS = """
import ctypes, os, resource
from janus_fast.training.memory import freed_memory

libc, size = ctypes.CDLL(None), 2**26
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    "Of writing a block once more that was written and freed before."
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for kept in (False, True):
    with freed_memory(kept=kept) as settled:
        print(settled, faults())
for name, value in ("MALLOC_ARENA_MAX", "1"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1"):
    os.environ[name] = value  # its user has settled it
    with freed_memory(kept=True) as settled:
        print(settled)
    del os.environ[name]
"""


def test_freed_memory_is_kept_or_returned():
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("needs glibc, whose malloc alone is told what becomes of freed memory")
    # in a process of its own, whose heap no other test has cut to pieces
    own = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=own, capture_output=True, text=True, check=True)
    (settled, returned), (settled_again, kept), *told = (line.split() for line in done.stdout.splitlines())
    assert settled == settled_again == "True" and int(kept) < int(returned) / 4
    assert told == [["False"], ["False"]]


FLAGS = """
from pathlib import Path
from janus_fast.training.memory import AHEAD, freed_memory

with freed_memory(kept=True) as settled:
    heap, flags = 0, set()
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith("[heap]")
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            heap += inside * (end - begin)
        elif inside and line.startswith("VmFlags:"):
            flags.add("hg" in line.split())
    print(settled, heap > AHEAD, flags)
"""


def test_memory_that_is_kept_lies_in_huge_pages():
    if (
        not hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
        or not Path("/sys/kernel/mm/transparent_hugepage").exists()
    ):
        pytest.skip("needs glibc, and a Linux with transparent huge pages")
    own = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", FLAGS], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "{True}"]


def test_the_trainer_settles_what_becomes_of_freed_memory(tmp_path, monkeypatch):
    asked = []

    @contextmanager
    def freed_memory(*, kept):
        asked.append(kept)
        yield
        asked.append("done")

    monkeypatch.setattr("janus_fast.training.trainer.freed_memory", freed_memory)
    for again in (False, True):
        options = options_of(max_updates=1, checkpoint_activations=again)
        Trainer(make_model(), make_data(), tmp_path / str(again), options).train()
    assert asked == [True, "done", False, "done"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_computed_again_give_the_same_gradients_to_the_bit(precision):
    results, kept = [], []
    for again in (False, True):
        options = options_of(precision=precision, checkpoint_activations=again)
        trainer = Trainer(make_model(dropout=0.3), make_data(), "unused", options)
        batch = trainer.objective.pack(trainer.data.sources, trainer.data.targets, torch.Generator().manual_seed(1))
        torch.manual_seed(4)
        elements = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, e=elements: e.append(t.numel()) or t, lambda t: t):
            trainer.backward(batch)
        kept.append(sum(elements))
        results.append([p.grad for p in trainer.model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert kept[1] < kept[0] / 2


def test_float16_scales_its_loss_and_leaves_updates_out_that_overflow(tmp_path):
    """On the CPU, where options refuse it: float16 is for GPUs, its bookkeeping is the same."""

    def trainer(max_updates):
        options = options_of(max_updates=max_updates, save_interval=1)
        options.precision = "float16"
        return Trainer(make_model(dropout=0.0), make_data(), tmp_path, options)

    first = trainer(1)
    first.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)  # overflows
    before = [p.detach().clone() for p in first.parameters]
    first.train()
    assert all(torch.equal(a, b) for a, b in zip(before, first.parameters, strict=True))
    assert first.scaler.get_scale() == 2.0**59
    later = trainer(2)
    later.load(latest_checkpoint(tmp_path))
    assert later.scaler.get_scale() == 2.0**59
    later.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    batch = later.objective.pack(later.data.sources, later.data.targets, torch.Generator().manual_seed(1))
    later.step(iter([(1, 0, batch)]), Window())
    assert not any(torch.equal(a, b) for a, b in zip(before, later.parameters, strict=True) if b.grad is not None)
    # What halving does not mend stops the run, as in any other precision.
    with torch.no_grad():
        later.parameters[0].fill_(math.nan)
    with pytest.raises(FloatingPointError, match="train: the gradient must be finite, got norm nan"):
        for _ in range(12):
            later.step(iter([(1, 0, batch)]), Window())
    assert later.update == 12 and later.scaler.get_scale() == 1.0
