"""Marian's own files: each parameter goes where CTranslate2's converter puts it, too, and the rest is Marian's.

What Marian computes is taken from its sources (marian-dev, 2025): positions, the epsilon of norms, activations, and
what a student with SSRU does, ``logits_of``. No model of Mozilla's and no Marian is run here.
"""

import json
import random
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from test_decoding import translator_of

from janus_fast import Translator, cli
from janus_fast.compat import ctranslate2 as compat
from janus_fast.convert import ctranslate2, marian_native

SPM = Path(__file__).parent / "data" / "marian" / "shared" / "source.spm"
WIDTH, INNER = 16, 24
WORDS = ["</s>", "<unk>", *(f"▁w{i}" for i in range(17)), "a:b", 'say "hi"', "it's", "\\", "é", "-", "12", "~"]
SIZE = len(WORDS)


def quoted(token: str) -> str:
    """As Marian writes tokens: some bare, most in quotes."""
    return token if token.startswith("▁w") else json.dumps(token, ensure_ascii=False)


def make(
    directory: Path, *, before=False, tied=True, separate=False, ssru=False, layers=1, size=SIZE, **settings
) -> dict[str, np.ndarray]:
    draw, arrays = np.random.default_rng(1), {}
    directory.mkdir()

    def numbers(name: str, *shape: int, scale: float = 0.1) -> None:
        arrays[name] = (draw.standard_normal(shape) * scale).astype(np.float32)

    def linear(name: str, suffix: str, inputs: int, outputs: int) -> None:
        numbers(f"{name}_W{suffix}", inputs, outputs, scale=1.3 / inputs**0.5)
        numbers(f"{name}_b{suffix}", 1, outputs)

    def norm(name: str, where: str) -> None:
        arrays[f"{name}_ln_scale{where}"] = (1 + 0.2 * draw.standard_normal((1, WIDTH))).astype(np.float32)
        numbers(f"{name}_ln_bias{where}", 1, WIDTH)

    where, sizes = "_pre" if before else "", (size, size - 4 * separate)
    for name, size in [("encoder_Wemb", sizes[0]), ("decoder_Wemb", sizes[1])] if separate else [("Wemb", sizes[0])]:
        numbers(name, size, WIDTH, scale=0.3)
    for side, depth in (("encoder", 2), ("decoder", layers)):
        for number in range(1, depth + 1):
            if ssru and side == "decoder":
                linear(f"decoder_l{number}_rnn", "f", WIDTH, WIDTH)
                numbers(f"decoder_l{number}_rnn_W", WIDTH, WIDTH, scale=1.3 / WIDTH**0.5)
                norm(f"decoder_l{number}_rnn" if before else f"decoder_l{number}_rnn_ffn", where)
            for block in (["self"] if side == "encoder" or not ssru else []) + ["context"] * (side == "decoder"):
                for letter in "qkvo":
                    linear(f"{side}_l{number}_{block}", letter, WIDTH, WIDTH)
                norm(f"{side}_l{number}_{block}_Wo", where)
            linear(f"{side}_l{number}_ffn", "1", WIDTH, INNER)
            linear(f"{side}_l{number}_ffn", "2", INNER, WIDTH)
            norm(f"{side}_l{number}_ffn_ffn", where)
        if before:
            norm(f"{side}_top", "")
    if not tied:
        numbers("decoder_ff_logit_out_Wt", sizes[1], WIDTH, scale=0.3)
    numbers("decoder_ff_logit_out_b", 1, sizes[1], scale=0.3)
    if separate:
        arrays["decoder_ff_logit_out_Wt" if not tied else "decoder_Wemb"] = arrays["decoder_Wemb"]
    held = {
        "type": "transformer", "transformer-heads": 2, "enc-depth": 2, "dec-depth": layers,
        "transformer-ffn-activation": "swish", "transformer-preprocess": "n" if before else '""',
        "transformer-postprocess": "da" if before else "dan", "transformer-postprocess-top": "n" if before else '""',
        "transformer-postprocess-emb": "d", "transformer-decoder-autoreg": "rnn" if ssru else "self-attention",
        "transformer-no-projection": "false", "transformer-guided-alignment-layer": "last", **settings,
    }  # fmt: skip
    text = "".join(f"{name}: {value}\n" for name, value in held.items()) + "transformer-tied-layers:\n  []\n"
    text += "dim-vocabs:\n  - 27\n  - 27\n"
    stored = np.frombuffer(text.encode() + b"\0", np.int8)
    np.savez(directory / "model.npz", **arrays, **{marian_native.SETTINGS: stored})
    for name, size in zip(("vocab.src.yml", "vocab.trg.yml"), sizes, strict=True):
        text = "".join(f"{quoted(token)}: {number}\n" for number, token in enumerate(WORDS[:size]))
        (directory / name).write_text(text, encoding="utf-8")
    names = ("vocab.src.yml", "vocab.trg.yml" if separate else "vocab.src.yml")
    (directory / "decoder.yml").write_text(
        "relative-paths: true\nmodels:\n  - model.npz\nvocabs:\n"
        + "".join(f"  - {name}\n" for name in names)
        + "beam-size: 6\n"
    )
    return arrays


KINDS = {
    "post-norm": {}, "pre-norm": {"before": True}, "separate": {"separate": True},
    "gelu, untied": {"tied": False, "transformer-ffn-activation": "gelu"},
    "ssru": {"ssru": True, "dec-cell": "ssru"}, "ssru, pre-norm": {"ssru": True, "before": True, "layers": 2},
}  # fmt: skip


@pytest.mark.parametrize("backend", ["engine", "torch"])
@pytest.mark.parametrize("name", KINDS)
def test_each_parameter_has_its_place(tmp_path, name, backend):
    arrays = make(tmp_path / "m", **KINDS[name])
    model, (source, target) = marian_native.load(tmp_path / "m")
    state, config = model.state_dict(), model.config
    for theirs, ours in (
        ("encoder_l2_self_Wk", "encoder.layers.1.self_attn.k_proj.weight"),
        ("decoder_l1_context_Wo", "decoder.layers.0.encoder_attn.out_proj.weight"),
        ("decoder_l1_ffn_W2", "decoder.layers.0.fc2.weight"),
    ):
        np.testing.assert_array_equal(state[ours], arrays[theirs].T)
    assert source.tokens[: len(WORDS)] == WORDS and target.tokens[-1] == "<pad>"
    assert (config.layer_norm_eps, config.positions, config.position_offset) == (1e-6, "sinusoidal", 0)
    assert config.source_ids([5]) == [5, 0] and config.decoder_start_token_id == len(target) - 1
    assert not state["decoder.embed_tokens.weight"][-1].any() and config.normalize_before == ("pre" in name)
    table = model.encoder.embed_positions.weight
    angle = torch.tensor(3 * 10000.0 ** (-2 / 7))  # the third of eight frequencies
    assert table[3, 2].item() == pytest.approx(angle.sin().item(), abs=1e-6)
    assert table[3, 10].item() == pytest.approx(angle.cos().item(), abs=1e-6)
    translator = translator_of(model, backend, vocabularies=(source, target))
    result = translator.translate_batch([["▁w1", "▁w2"]], beam_size=2, max_decoding_length=6)[0]
    assert "<pad>" not in result.hypotheses[0]


def write_binary(file: Path, arrays: dict[str, np.ndarray], kind: int) -> dict[str, np.ndarray]:
    """Writes Marian's binary file, by its layout: matrices as float32 (0x404), float16 (0x402), intgemm8 (0x4101) or
    intgemm16 (0x4102). Returns what then stands there."""
    items, held = [], {}
    for name, array in arrays.items():
        own, matrix = 0x404, re.search("_W.?$|Wemb", name)
        held[name] = array
        if name.startswith("special:"):
            own, data = 0x101, array.tobytes()
        elif matrix and kind > 0x4000:
            own, stored = kind, np.int8 if kind == 0x4101 else np.int16
            factor = np.float32(127 / np.abs(array).max() if kind == 0x4101 else 1024)
            integers = np.rint(array * factor).astype(stored)
            held[name] = integers.astype(np.float32) / factor
            data = np.ascontiguousarray(integers if "Wemb" in name else integers.T).tobytes() + factor.tobytes()
        else:
            own = 0x402 if kind == 0x402 else own
            held[name] = array.astype(np.float16 if own == 0x402 else np.float32)
            data = held[name].tobytes()
        items.append((name, own, array.shape, data + bytes(-len(data) % 256)))
    items.append(("encoder_l1_self_Wq_QuantMultA", 0x404, (1, 1), np.float32(3).tobytes()))
    head = struct.pack("<QQ", 1, len(items))
    head += b"".join(
        struct.pack("<QQQQ", len(name) + 1, own, len(shape), len(data)) for name, own, shape, data in items
    )
    head += b"".join(name.encode() + b"\0" for name, *_ in items)
    head += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in items)
    gap = -(len(head) + 8) % 256
    file.write_bytes(head + struct.pack("<Q", gap) + bytes(gap) + b"".join(data for *_, data in items))
    return held


@pytest.mark.parametrize("kind", [0x404, 0x402, 0x4101, 0x4102])
def test_binary_files(tmp_path, kind):
    directory = tmp_path / "m"
    make(directory, tied=False)
    (directory / "decoder.yml").unlink()
    (directory / "vocab.trg.yml").unlink()
    shutil.copy(SPM, directory / "source.spm")
    with np.load(directory / "model.npz") as stored:
        held = write_binary(directory / "model.intgemm.bin", {name: stored[name] for name in stored.files}, kind)
    (directory / "model.npz").unlink()
    (directory / "lex.s2t.bin").write_bytes(b"\xf5\x17\x34\x01\xd5\x48\x1a\xf1" * 4)  # a shortlist
    state = marian_native.load(directory)[0].state_dict()
    np.savez(directory / "model.npz", **held)
    expected = marian_native.load(directory / "model.npz")[0].state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)
    (directory / "model.npz").unlink()
    with pytest.raises(FileNotFoundError, match="it is a model of Marian: janus-fast convert"):
        Translator(directory)
    assert cli.main(["convert", str(directory / "model.intgemm.bin"), "--out", str(tmp_path / "out")]) == 0


def test_binary_files_that_are_refused(tmp_path):
    make(tmp_path / "m")
    file = tmp_path / "m" / "model.bin"
    with np.load(tmp_path / "m" / "model.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    write_binary(file, arrays, 0x404)
    whole = file.read_bytes()
    for content, message in (
        (whole[:-9], "model.bin must be a whole .bin of Marian, got"),
        (whole[:40], "model.bin must be a whole .bin of Marian, got 40 bytes"),
        (whole.replace(struct.pack("<Q", 0x404), struct.pack("<Q", 0x1801), 1), "got type 0x1801, of one processor"),
        (whole.replace(struct.pack("<ii", 27, 16), struct.pack("<ii", 2**20, 16), 1), "must have 16,777,216 numbers"),
        (
            whole.replace(struct.pack("<ii", 27, 16), struct.pack("<ii", -27, -16), 1),
            r"must have sizes of at least 0, got the shape \(-27, -16\)",
        ),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            marian_native.load(file)


# What Marian writes of a student of Mozilla's that is "tiny" (mozilla/translations, pipeline/train/configs/model), but
# for sizes.
STUDENT = {
    "dec-cell": "ssru", "dec-cell-base-depth": 2, "dec-cell-high-depth": 1, "dim-emb": WIDTH, "dim-rnn": 1024,
    "enc-cell": "gru", "enc-cell-depth": 1, "enc-type": "bidirectional", "layer-normalization": "false",
    "lemma-dim-emb": 0, "output-omit-bias": "false", "right-left": "false", "skip": "false",
    "tied-embeddings": "false", "tied-embeddings-all": "true", "tied-embeddings-src": "false",
    "transformer-aan-activation": "swish", "transformer-aan-depth": 2, "transformer-aan-nogate": "false",
    "transformer-dim-aan": 2048, "transformer-dim-ffn": INNER, "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": 2, "transformer-pool": "false", "transformer-train-position-embeddings": "false",
    "ulr": "false", "ulr-dim-emb": 0, "ulr-trainable-transformation": "false", "bert-train-type-embeddings": "true",
    "bert-type-vocab-size": 2, "input-types": "\n  []", "special-vocab": "\n  []", "version": "v1.9.56; 2022-01-01",
}  # fmt: skip


def logits_of(arrays: dict, source: list[int], target: list[int], positions: np.ndarray, before: bool) -> np.ndarray:
    """Of what follows each word of a target, by a student's own arrays: NumPy, float64, one row after another.

    By the formulas of marian-dev (2781d735, browsermt, 2024): ``src/models/transformer.h``, class ``SSRU`` of
    ``src/rnn/cells.h`` and ``layerNorm`` of ``src/layers/generic.h``.
    """
    held = {name: array.astype(np.float64) for name, array in arrays.items() if not name.startswith("special:")}
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731

    def affine(x, name, suffix):
        return x @ held[f"{name}_W{suffix}"] + held[f"{name}_b{suffix}"]

    def norm(x, name, where=""):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + 1e-6)
        return scaled * held[f"{name}_ln_scale{where}"] + held[f"{name}_ln_bias{where}"]

    def block(x, first, second, what):
        return x + what(norm(x, first, "_pre")) if before else norm(x + what(x), second)

    def attend(x, memory, name):
        query, key, value = (affine(rows, name, letter) for rows, letter in ((x, "q"), (memory, "k"), (memory, "v")))
        heads = []
        for part in (slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)):
            weights = np.exp(query[:, part] @ key[:, part].T / (WIDTH / 2) ** 0.5)
            heads.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
        return affine(np.concatenate(heads, 1), name, "o")

    def recur(x, name):
        state, outputs = np.zeros(WIDTH), []
        for row in x:
            forget = sigmoid(row @ held[f"{name}_Wf"] + held[f"{name}_bf"][0])
            state = forget * state + (1 - forget) * (row @ held[f"{name}_W"])
            outputs.append(np.maximum(state, 0))
        return np.stack(outputs)

    def feed_forward(x, name):
        return block(x, f"{name}_ffn", f"{name}_ffn", lambda y: affine(np.maximum(affine(y, name, "1"), 0), name, "2"))

    words = held["Wemb"] * WIDTH**0.5
    x = words[source] + positions[: len(source)]
    for number in (1, 2):
        name = f"encoder_l{number}_self"
        x = block(x, f"{name}_Wo", f"{name}_Wo", lambda y, n=name: attend(y, y, n))
        x = feed_forward(x, f"encoder_l{number}_ffn")
    memory = norm(x, "encoder_top") if before else x
    x = np.concatenate([np.zeros((1, WIDTH)), words[target]]) + positions[: len(target) + 1]
    for number in range(1, 1 + sum(name.endswith("rnn_Wf") for name in held)):
        name, context = f"decoder_l{number}_rnn", f"decoder_l{number}_context"
        x = block(x, name, f"{name}_ffn", lambda y, n=name: recur(y, n))
        x = block(x, f"{context}_Wo", f"{context}_Wo", lambda y, n=context: attend(y, memory, n))
        x = feed_forward(x, f"decoder_l{number}_ffn")
    x = norm(x, "decoder_top") if before else x
    return x @ held["Wemb"].T + held["decoder_ff_logit_out_b"]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("kind", [None, 0x404, 0x4101])
def test_students_with_ssru_compute_what_marian_does(tmp_path, kind, before):
    directory = tmp_path / "m"
    make(directory, ssru=True, layers=2, before=before, **STUDENT)
    (directory / "decoder.yml").write_text("beam-size: 1\nmini-batch: 32\nskip-cost: True\n")  # which names no file
    (directory / "vocab.trg.yml").unlink()
    with np.load(directory / "model.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    if kind is None:
        np.savez(directory / "model.npz", **arrays, Wemb_QuantMultA=np.float32([[3]]))
    else:
        arrays = write_binary(directory / "model.enet.intgemm.alphas.bin", arrays, kind)
        (directory / "model.npz").unlink()
    model, vocabularies = marian_native.load(directory)
    assert model.config.recurrent and model.config.share_all_embeddings and model.config.decoder_layers == 2
    positions = model.encoder.embed_positions.weight.double().numpy()
    assert cli.main(["convert", str(directory), "--out", str(tmp_path / "out")]) == 0
    exact = translator_of(model, "torch", compute_type="float64", vocabularies=vocabularies)
    translators = [translator_of(tmp_path / "out", backend) for backend in ("torch", "engine")]
    draw, errors, roundings = random.Random(3), [], []
    for length in (1, 4, 9):
        source = [*draw.choices(range(2, len(WORDS)), k=length), 0]
        output, scores = [], []
        while len(output) < 12:  # greedy; the token that was added is not Marian's
            logits = logits_of(arrays, source, output, positions, before)[-1]
            log_probs = logits - np.log(np.exp(logits).sum())
            log_probs[0] = -np.inf if not output else log_probs[0]  # at least one word
            output, scores = [*output, int(log_probs.argmax())], [*scores, log_probs.max()]
            if output[-1] == 0:
                break
        words = [[WORDS[token] for token in ids if token] for ids in (source, output)]
        (given,) = exact.score_batch([words[0]], [words[1]])
        count = len(words[1])
        assert given.log_probs[:count] == pytest.approx(scores[:count], abs=1e-6)  # handed out in float32
        (rounded,) = translators[0].score_batch([words[0]], [words[1]])
        roundings.append(np.abs(np.subtract(rounded.log_probs[:count], scores[:count])).max())
        for translator in translators:
            for options in ({"beam_size": 1}, {"mode": "speculative"}):
                (result,) = translator.translate_batch([words[0]], max_decoding_length=12, **options)
                assert result.hypotheses[0] == words[1]
                errors.append(np.abs(np.subtract(result.token_scores[0][: len(scores)], scores)).max())
    assert max(errors) <= 4 * max(roundings) + 2e-6  # steps may err as full forwards of float32 do, as elsewhere
    assert len(vocabularies[0]) == len(WORDS) + 1


def test_a_student_of_a_folder_of_firefox_takes_text(tmp_path):
    """One sentencepiece model, by which </s> is 0 and <unk> 1, beside a .bin and a shortlist, and no decoder.yml."""
    from sentencepiece import SentencePieceTrainer

    draw, folder = random.Random(1), tmp_path / "m"
    lines = iter([" ".join(draw.choices(["the", "cell", "is", "empty", "a", "house"], k=5)) for _ in range(200)])
    pieces = 20
    make(folder, ssru=True, layers=2, size=pieces, **STUDENT)
    for file in folder.glob("*.yml"):
        file.unlink()
    with open(folder / "vocab.enet.spm", "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=file, vocab_size=pieces, eos_id=0, unk_id=1, bos_id=-1, pad_id=-1,
            minloglevel=2,
        )  # fmt: skip
    with np.load(folder / "model.npz") as stored:
        write_binary(folder / "model.enet.intgemm.alphas.bin", {name: stored[name] for name in stored.files}, 0x4101)
    (folder / "model.npz").unlink()
    (folder / "lex.50.50.enet.s2t.bin").write_bytes(b"\xf5\x17\x34\x01\xd5\x48\x1a\xf1" * 4)
    for stored in ("float32", "int8"):
        out = str(tmp_path / stored)
        assert cli.main(["convert", str(folder), "--quantization", stored, "--out", out]) == 0
        translator = Translator(out)
        assert translator.config.recurrent and translator.target_vocabulary.tokens[:2] == ["</s>", "<unk>"]
        results = translator.translate(["the cell is empty"] * 2, max_decoding_length=9)
        assert results[0] == results[1] and results[0].hypotheses[0]
        other = compat.Translator(out, compute_type=stored)
        given = {"beam_size": 3, "num_hypotheses": 3, "max_decoding_length": 9}
        tokens, prefix = [translator.source_vocabulary.encode("the cell is empty")], [["e", "t"]]
        rules = {"renormalize_logits": True, "forced_eos": False, "early_stopping": "first", "prefix_alone": "last"}
        (mine,) = translator.translate_batch(tokens, prefix, **rules, **given)
        (theirs,) = other.translate_batch(tokens, prefix, return_attention=True, **given)
        assert theirs.hypotheses == mine.hypotheses and len(mine.hypotheses) == 3
        assert [*map(len, theirs.attention)] == [*map(len, theirs.hypotheses)]
        (ways,) = other.translate_batch(tokens, beam_size=1, num_hypotheses=2, return_alternatives=True)
        assert len({hypothesis[0] for hypothesis in ways.hypotheses}) == 2


@pytest.mark.peers
@pytest.mark.parametrize("name", [name for name in KINDS if "ssru" not in name])  # CTranslate2 4.8.5 has none
def test_ctranslate2_reads_the_same(tmp_path, name):
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed here: make test-peers")
    pytest.importorskip("yaml", reason="yaml is not installed here: make test-peers")
    from ctranslate2.converters import OpusMTConverter

    make(tmp_path / "m", **KINDS[name])
    OpusMTConverter(str(tmp_path / "m")).convert(str(tmp_path / "ct2"))
    (ours, words), (theirs, others) = marian_native.load(tmp_path / "m"), ctranslate2.load(tmp_path / "ct2")
    assert [v.tokens for v in words] == [v.tokens for v in others]
    expected = theirs.state_dict()
    for key, tensor in ours.state_dict().items():
        if "embed_positions" not in key:  # CTranslate2 4.8.5 has other frequencies than Marian
            torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0, msg=key)
    assert ours.config.activation == theirs.config.activation and ours.config.source_ids(
        [3]
    ) == theirs.config.source_ids([3])


def test_the_command(tmp_path, capsys):
    make(tmp_path / "m")
    (tmp_path / "m" / "decoder.yml").unlink()
    (tmp_path / "m" / "vocab.trg.yml").unlink()
    assert cli.main(["convert", str(tmp_path / "m"), "--out", str(tmp_path / "a")]) == 0
    assert "no sentencepiece model lies there" in capsys.readouterr().out
    shutil.copy(SPM, tmp_path / "m" / "source.spm")
    shutil.copy(SPM, tmp_path / "m" / "target.spm")
    assert cli.main(["convert", str(tmp_path / "m" / "model.npz"), "--out", str(tmp_path / "b")]) == 0
    texts = [" ".join(random.Random(0).choices(["ba", "keli"], k=3))]
    translator = Translator(tmp_path / "b")
    assert isinstance(translator.translate(texts, max_decoding_length=4)[0].hypotheses[0], str)
    with pytest.raises(FileNotFoundError, match="it is a model of Marian: janus-fast convert"):
        Translator(tmp_path / "m")


@pytest.mark.parametrize(("settings", "message"), [
    ({"transformer-decoder-autoreg": "average-attention"},
     "decoder-autoreg must be 'self-attention' or 'rnn' .JanusModel has no other., got 'average-attention'"),
    ({"transformer-decoder-autoreg": "rnn", "dec-cell": "gru"}, "dec-cell must be 'ssru' .*, got 'gru'"),
    ({"transformer-decoder-autoreg": "rnn"}, "must hold every parameter of the model, got no 'decoder_l1_rnn_W'"),
    ({"ssru": True, "transformer-decoder-autoreg": "self-attention"}, "got no 'decoder_l1_self_Wq'"),
    ({"ssru": True, "layer-normalization": "true"}, "layer-normalization must be False .*, got True"),
    ({"ssru": True, "transformer-rnn-projection": "true"}, "transformer-rnn-projection must be False .*, got True"),
    ({"right-left": "true"}, "right-left must be False .*, got True"),
    ({"type": "s2s"}, "type must be 'transformer' .JanusModel has no other., got 's2s'"),
    ({"transformer-ffn-activation": "tanh"}, "transformer-ffn-activation must be one of"),
    ({"transformer-postprocess": "dr"}, "norms must stand behind blocks"),
    ({"transformer-ffn-depth": 3}, "transformer-ffn-depth must be 2"),
    ({"transformer-train-positions": "true"}, "transformer-train-positions must be False"),
])  # fmt: skip
def test_settings_that_are_refused(tmp_path, settings, message):
    make(tmp_path / "m", **settings)
    with pytest.raises(ValueError, match=message):
        marian_native.load(tmp_path / "m")


def test_files_that_are_refused(tmp_path):
    make(tmp_path / "m")
    directory, vocabulary = tmp_path / "m", tmp_path / "m" / "vocab.src.yml"
    text = vocabulary.read_text(encoding="utf-8")
    for changed, message in (
        (text + "x: y\n", "must hold lines 'token: number', got 'x: y'"),
        (text + "x: 99\n", "must number its tokens from 0 on"),
        (text.replace("</s>", "<s>"), "both vocabularies must hold </s>, with one number, and <unk>"),
        ("".join(text.splitlines(True)[:-1]), "vocabulary must hold the model's 27 tokens, got 26"),
    ):
        vocabulary.write_text(changed, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            marian_native.load(directory)
    vocabulary.write_text(text, encoding="utf-8")
    with np.load(directory / "model.npz") as held:
        arrays = {name: held[name] for name in held.files}
    for changes, message in (
        ({"encoder_l1_self_Wv": None}, "got no 'encoder_l1_self_Wv'"),
        ({"encoder_extra": np.zeros(2)}, "must hold the parameters of the model alone, got 'encoder_extra'"),
        ({marian_native.SETTINGS: None}, "must hold its settings, special:model.yml, got none"),
        ({"Wemb": np.array([{}])}, "must be a whole .npz of Marian, got Object arrays cannot be loaded"),
    ):
        np.savez(directory / "model.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
        with pytest.raises(ValueError, match=message):
            marian_native.load(directory)
    (directory / "model.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="must be a whole .npz of Marian, got"):
        marian_native.load(directory)
    np.savez(directory / "model.npz", **arrays)
    whole = (directory / "model.npz").read_bytes()
    first = whole.index(b"PK\x01\x02")  # what the list of the files says of the first
    for place, value, message in (
        (10, 1, "That compression method is not supported"),
        (10, 8, ""),
        (10, 12, "Invalid data stream"),
        (10, 14, ""),
        (8, 1, "File .* is encrypted, password required for extraction"),
    ):
        damaged = bytearray(whole)
        damaged[first + place] = value
        (directory / "model.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^convert: .*npz must be a whole .npz of Marian, got {message}"):
            marian_native.load(directory)
    (directory / "model.npz").unlink()
    with pytest.raises(FileNotFoundError, match="model.npz must be a file that exists"):
        marian_native.load(directory)
