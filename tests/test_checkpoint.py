"""Models on disk: what comes back is what was saved, and a failure leaves what was there."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_fast import Translator, checkpoint, load, parameters
from janus_fast.config import JanusConfig
from janus_fast.model import JanusModel
from janus_fast.text import Vocabulary

SIZES = {
    "source_vocab_size": 11, "target_vocab_size": 11, "d_model": 8, "encoder_layers": 1, "decoder_layers": 2,
    "attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 16, "max_source_positions": 9,
    "max_target_positions": 10, "length_classes": 10,
}  # fmt: skip


def make(seed=0, **changes) -> JanusModel:
    torch.manual_seed(seed)
    return JanusModel(JanusConfig(**{**SIZES, **changes}))


def vocabulary(*words) -> Vocabulary:
    return Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *words])


def assert_same(first: JanusModel, second: JanusModel):
    assert first.config == second.config
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), name


def files(directory) -> set[str]:
    return set(os.listdir(directory))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_all_embeddings": False, "target_vocab_size": 13},
        {"share_all_embeddings": False, "share_decoder_embeddings": False},
        {"normalize_before": True, "positions": "sinusoidal", "activation": "gelu", "position_offset": 2},
    ],
    ids=["shared", "shared_output", "separate", "prenorm"],
)
def test_round_trip(tmp_path, changes):
    model = make(**changes)
    checkpoint.save(model, tmp_path / "new" / "model")
    again, vocabularies = checkpoint.load(tmp_path / "new" / "model")
    assert_same(model, again)
    assert vocabularies is None and not again.training
    assert files(tmp_path / "new" / "model") == {"config.json", "model.safetensors"}


def test_shared_tensors_are_stored_once(tmp_path):
    model = make()
    checkpoint.save(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == dict(model.named_parameters()).keys()
    again, _ = checkpoint.load(tmp_path)
    assert again.decoder.embed_tokens.weight is again.encoder.embed_tokens.weight
    assert again.decoder.output_projection.weight is again.encoder.embed_tokens.weight


def test_bfloat16_on_disk(tmp_path):
    model = make()
    checkpoint.save(model, tmp_path, quantization="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    again, _ = checkpoint.load(tmp_path)
    assert_same(model.bfloat16().float(), again)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_all_embeddings": False, "target_vocab_size": 13},
        {"share_all_embeddings": False, "share_decoder_embeddings": False},
        {"normalize_before": True, "positions": "sinusoidal"},
        {"two_stream": False, "output_bias": True},
        {"share_all_embeddings": False, "share_decoder_embeddings": False, "output_bias": True},
    ],
)
def test_parameters_are_the_models(changes):
    model = make(**changes)
    own = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert parameters.shapes(model.config) == own
    assert parameters.count(model.config) == sum(p.numel() for p in model.parameters())
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} | {
        f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")
    }
    assert {name for name in own if parameters.is_matrix(name)} == linear & own.keys()


def test_int8_on_disk(tmp_path):
    model = make()
    with torch.no_grad():
        model.encoder.embed_tokens.weight[3] = 0  # a row without a largest number
    checkpoint.save(model, tmp_path, quantization="int8")
    stored, own = load_file(tmp_path / "model.safetensors"), dict(model.named_parameters())
    matrices = {name for name in own if parameters.is_matrix(name)}
    assert stored.keys() == own.keys() | {f"{name}_scale" for name in matrices}
    again = dict(checkpoint.load(tmp_path)[0].named_parameters())
    for name, parameter in own.items():
        if name not in matrices:
            assert torch.equal(stored[name], parameter) and torch.equal(again[name], parameter)
            continue
        scale = stored[f"{name}_scale"]
        assert stored[name].dtype == torch.int8 and stored[name].shape == parameter.shape
        assert torch.equal(stored[name].abs().amax(1), 127 * (parameter.abs().amax(1) > 0))
        # the nearest of the 255 numbers: half a step away at most, and the rounding of a product
        assert ((again[name] - parameter).abs() <= scale[:, None] * 0.50001).all()
    assert not again["encoder.embed_tokens.weight"][3].any()
    # what is stored as int8 is so once more, to the bit
    checkpoint.save(checkpoint.load(tmp_path)[0], tmp_path / "again", quantization="int8")
    twice = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(twice[name], tensor) for name, tensor in stored.items() if tensor.dtype == torch.int8)


def test_a_quantization_that_does_not_exist(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"save: quantization must be one of 'float32', 'bfloat16', 'int8', got 'int4'; did you mean 'int8'",
    ):
        checkpoint.save(make(), tmp_path, quantization="int4")
    assert not files(tmp_path)


def test_vocabularies(tmp_path):
    shared = vocabulary("a", "b")
    checkpoint.save(make(), tmp_path / "shared", (shared, shared))
    source, target = checkpoint.load(tmp_path / "shared")[1]
    assert source is target and source.tokens == shared.tokens
    checkpoint.save(make(), tmp_path / "two", (shared, vocabulary("ä", "b c")))
    source, target = checkpoint.load(tmp_path / "two")[1]
    assert source.tokens[5:] == ["a", "b"] and target.tokens[5:] == ["ä", "b c"]


def test_saving_over_a_model_of_another_size(tmp_path):
    checkpoint.save(make(), tmp_path)
    larger = make(decoder_layers=3)
    checkpoint.save(larger, tmp_path)
    assert_same(larger, checkpoint.load(tmp_path)[0])


# What cannot be read


@pytest.fixture
def saved(tmp_path) -> Path:
    checkpoint.save(make(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_loading_draws_nothing_and_gives_what_building_gives(tmp_path, positions):
    model = make(positions=positions, position_offset=2).eval()
    checkpoint.save(model, tmp_path)
    state = torch.get_rng_state()
    again, _ = checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.device.type == "cpu" for tensor in (*again.parameters(), *again.buffers()))
    for (name, ours), (_, theirs) in zip(model.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    tokens, offsets = torch.tensor([0, 5, 7, 2, 0, 6, 2]), torch.tensor([0, 4, 7], dtype=torch.int32)
    assert torch.equal(model.encode(tokens, offsets), again.encode(tokens, offsets))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_what_is_no_model_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match="^save: model must be a janus_fast.JanusModel, got NoneType$"):
        checkpoint.save(None, tmp_path / "new")
    with pytest.raises(TypeError, match="^save: vocabularies 0 must be a Vocabulary, got str$"):
        checkpoint.save(make(), tmp_path / "new", ["a", "b"])
    with pytest.raises(ValueError, match="^save: vocabularies must be that of sources and that of targets, got 1$"):
        checkpoint.save(make(), tmp_path / "new", [vocabulary("a")])
    assert not (tmp_path / "new").exists()


def test_what_is_no_directory_is_not_saved_to(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    for given in (file, file / "model"):
        with pytest.raises(ValueError, match=f"^save: directory must be a directory, got {given}: {file} is a file$"):
            checkpoint.save(make(), given)
    assert file.read_text() == "text"
    for given, kind in ((None, "NoneType"), (3, "int")):
        with pytest.raises(TypeError, match=f"^save: directory must be a path, got {kind}$"):
            checkpoint.save(make(), given)
        with pytest.raises(TypeError, match=f"^model must be a path, got {kind}$"):
            load(given)


def test_missing_files(saved):
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a model directory with config\.json, which is not"):
        checkpoint.load(saved / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors must be a file that exists"):
        checkpoint.load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must be a model directory with config\.json, which is not there"):
        checkpoint.load(saved)


@pytest.mark.parametrize("keep", [0, 7, 100, 2000, -1])
def test_truncated_weights(saved, keep):
    data = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors must be a whole safetensors file, got"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json must hold a JSON object"),
        ("[]", r'must hold "model_type": "janus"'),
        ('{"model_type": "bert", "hidden_size": 8}', r'config\.json must hold "model_type": "janus", got .bert.; '),
        ('{"model_type": "janus", "width": 8}', r"config\.json must hold known keys only, got \['width'\]"),
        ('{"model_type": "janus", "source_vocab_size": 8}', r"config\.json: .*target_vocab_size"),
    ],
)
def test_foreign_configurations(saved, text, message):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_eps": "x"}, "layer_norm_eps must be a positive, finite number, got 'x'"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a positive, finite number, got inf"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must be a positive, finite number, got 0"),
        ({"dropout": "x"}, r"dropout must be in \[0, 1\), got 'x'"),
        ({"bos_token_id": 1.5}, r"bos_token_id must be an integer in \[0, target_vocab_size = 11\), got 1\.5"),
        ({"mask_token_id": 0}, r"must be distinct, save mask and unk, got \[0, 1, 2, 3, 0\]"),
        ({"unk_token_id": 2}, r"must be distinct, save mask and unk, got \[0, 1, 2, 2, 4\]"),
        ({"unk_token_id": 2, "mask_token_id": 2}, r"must be distinct, save mask and unk, got \[0, 1, 2, 2, 2\]"),
        ({"bos_token_id": 1}, r"must be distinct, save mask and unk, got \[1, 1, 2, 3, 4\]"),
        ({"two_stream": False, "bos_token_id": 2}, r"must be distinct, save mask and unk, got \[2, 1, 2, 3, 4\]"),
        ({"two_stream": "no"}, "two_stream must be true or false, got 'no'"),
        ({"decoder_start_token_id": 11}, r"decoder_start_token_id must be an integer in \[0, target_vocab_size = 11"),
        (
            {"decoder_start_token_id": 2},
            "decoder_start_token_id must be bos_token_id = 0 when two_stream is set, got 2",
        ),
        ({"output_bias": True}, r"every parameter of the model, got no 'decoder\.output_projection\.bias'"),
        ({"two_stream": False}, r"parameters of the model alone, got 'decoder\.embed_length\.weight'"),
        ({"position_offset": "x"}, "position_offset must be a non-negative integer, got 'x'"),
        ({"position_offset": -1}, "position_offset must be a non-negative integer, got -1"),
        ({"position_offset": 10**30}, f"position_offset must be at most 131072, got {10**30}"),
        ({"max_source_positions": 10**9}, "max_source_positions must be at most 131072, got 1000000000"),
        ({"normalize_before": "no"}, "normalize_before must be true or false, got 'no'"),
        ({"scale_embedding": 1}, "scale_embedding must be true or false, got 1"),
        ({"encoder_ffn_dim": 10**19}, r"fc1\.weight must have shape \[10000000000000000000, 8\], got \[12, 8\]"),
        ({"encoder_layers": 10**9}, r"got no 'encoder\.layers\.999999999\.fc1\.weight'"),
        ({"positions": "sinusoidal"}, r"parameters of the model alone, got 'decoder\.embed_positions\.weight'"),
    ],
)
def test_configurations_that_are_refused(saved, changes, message):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(ValueError, match=message):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streams_ahead": 8}, "streams_ahead must be at most 7, got 8"),
        (
            {"activation": "rely"},
            "activation must be one of 'relu', 'gelu', 'silu', 'gelu_new', 'quick_gelu', got 'rely'; did you",
        ),
        ({"attention_heads": 3}, "d_model must be a multiple of attention_heads = 3, got 8"),
        ({"pad_token_id": 99}, "pad_token_id must be an integer in [0, target_vocab_size = 11), got 99"),
    ],
)
def test_a_value_of_a_configuration_comes_with_its_file(saved, changes, message):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, **changes}))
    for read in (checkpoint.load, Translator):
        with pytest.raises(ValueError) as error:
            read(saved)
        assert str(error.value).startswith(f"JanusConfig: {saved}/config.json: {message}")


def test_a_table_that_no_memory_holds(tmp_path):
    checkpoint.save(make(positions="sinusoidal"), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "max_source_positions": 10**15}))
    with pytest.raises(ValueError, match=f"max_source_positions must be at most 131072, got {10**15}"):
        checkpoint.load(tmp_path)


def test_mask_may_be_the_unknown_word(saved):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, "mask_token_id": values["unk_token_id"]}))
    assert checkpoint.load(saved)[0].config.predictable_mask


def test_configurations_from_before_one_stream_models(saved):
    values = json.loads((saved / "config.json").read_text())
    for name in ("two_stream", "output_bias", "source_bos", "decoder_start_token_id"):
        del values[name]
    (saved / "config.json").write_text(json.dumps(values))
    config = checkpoint.load(saved)[0].config
    assert config.two_stream and config.source_bos and not config.output_bias
    assert config.decoder_start_token_id == config.bos_token_id == 0


@pytest.mark.parametrize("content", [b'["<s>", "<pa', b'["\xff"]'], ids=["truncated", "latin"])
def test_damaged_text_names_its_file(saved, content):
    (saved / "vocabulary.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocabulary\.json must (hold a JSON list of tokens|be UTF-8 text), got "):
        checkpoint.load(saved)
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json must (hold a JSON object|be UTF-8 text), got "):
        checkpoint.load(saved)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_vocabulary_of_one_side_alone_is_refused(saved, side):
    vocabulary("a").save(saved, side)
    with pytest.raises(ValueError, match=f"must hold a source and a target vocabulary, got {side}'s alone"):
        checkpoint.load(saved)


def rewrite(path: Path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


NAME = "decoder.layers.1.fc1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), f"must hold every parameter of the model, got no '{NAME}'"),
        (lambda t: t.update(extra=t[NAME] + 0), "must hold the parameters of the model alone, got 'extra'"),
        (lambda t: t.update({NAME: t[NAME][1:]}), rf"{NAME} must have shape \[16, 8\], got \[15, 8\]"),
        (lambda t: t.update({NAME: t[NAME].long()}), rf"{NAME} must hold floating-point numbers, got I64"),
        (lambda t: t[NAME].view(-1)[5:6].fill_(float("nan")), f"{NAME} must hold finite numbers alone, got NaN or inf"),
        (
            lambda t: t.update({NAME: torch.full((16, 8), 1e300, dtype=torch.float64)}),
            f"{NAME} must hold finite numbers alone, got",
        ),
        (lambda t: t[NAME].view(-1)[5:6].fill_(float("inf")), f"{NAME} must hold finite numbers alone, got NaN or inf"),
    ],
    ids=["missing", "unknown", "shape", "dtype", "nan", "overflow", "infinity"],
)
def test_weights_that_are_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{NAME}_scale"), f"must hold every parameter of the model, got no '{NAME}_scale'"),
        (lambda t: t.update({NAME: t[NAME].float()}), f"parameters of the model alone, got '{NAME}_scale'"),
        (lambda t: t.update({f"{NAME}_scale": torch.ones(8)}), rf"{NAME}_scale must have shape \[16\], got \[8\]"),
        (lambda t: t[f"{NAME}_scale"][5:6].fill_(float("nan")), f"{NAME}_scale must hold finite numbers alone, got"),
        (
            lambda t: t.update({f"{NAME}_scale": torch.ones(16, dtype=torch.int8)}),
            f"{NAME}_scale must hold floating-point numbers, got I8",
        ),
        (
            lambda t: t.update({"decoder.layers.1.fc1.bias": torch.ones(16, dtype=torch.int8)}),
            r"fc1\.bias must hold floating-point numbers, got I8",
        ),
    ],
    ids=["no scale", "scale alone", "shape", "nan", "int8 scale", "int8 bias"],
)
def test_int8_weights_that_are_refused(tmp_path, change, message):
    checkpoint.save(make(), tmp_path, quantization="int8")
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
        checkpoint.load(tmp_path)


def test_safetensors_of_another_system(saved):
    save_file({"bert.embeddings.weight": torch.ones(3, 4)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors must hold every parameter of the model, got no"):
        checkpoint.load(saved)


# A disk that fills while saving


def assert_untouched(directory: Path, model: JanusModel, tokens: list[str]):
    again, (source, target) = checkpoint.load(directory)
    assert_same(model, again)
    assert source is target and source.tokens == tokens
    assert files(directory) == {"config.json", "model.safetensors", "vocabulary.json"}


@pytest.mark.parametrize("fails", ["vocabulary", "config", "weights", "sync"])
def test_full_disk_leaves_the_old_model(tmp_path, monkeypatch, fails):
    old, words = make(0), vocabulary("a", "b")
    checkpoint.save(old, tmp_path, (words, words))

    def full(*args, **kwargs):
        if fails == "weights":  # after a part of the file
            Path(args[1]).write_bytes(b"part of a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails == "sync":
        monkeypatch.setattr(os, "fsync", full)
    elif fails == "weights":
        monkeypatch.setattr(checkpoint, "save_file", full)
    else:
        monkeypatch.setattr(*{"vocabulary": (Vocabulary, "save"), "config": (JanusConfig, "to_json")}[fails], full)
    other = vocabulary("c", "d")
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(make(1, decoder_layers=3), tmp_path, (other, other))
    monkeypatch.undo()
    assert_untouched(tmp_path, old, words.tokens)


def test_file_size_limit_leaves_the_old_model(tmp_path):
    """A real failure of the operating system: no file may grow beyond 20 kB, the weights of the new model would."""
    pytest.importorskip("resource")
    old, words = make(0), vocabulary("a", "b")
    checkpoint.save(old, tmp_path, (words, words))
    sizes = {**SIZES, "d_model": 64}
    program = f"""
import resource
from janus_fast import checkpoint
from janus_fast.config import JanusConfig
from janus_fast.model import JanusModel
model = JanusModel(JanusConfig(**{json.dumps(sizes)}))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(model, {str(tmp_path)!r})
except OSError as error:
    print("refused:", error)
"""
    root = Path(checkpoint.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "refused: checkpoint: " in run.stdout and "model.safetensors must be on a disk that takes it" in run.stdout
    assert_untouched(tmp_path, old, words.tokens)


def test_interruption_leaves_the_old_model(tmp_path, monkeypatch):
    old, words = make(0), vocabulary("a", "b")
    checkpoint.save(old, tmp_path, (words, words))
    monkeypatch.setattr(checkpoint, "save_file", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(make(1), tmp_path)
    assert_untouched(tmp_path, old, words.tokens)


@pytest.fixture
def interruptible():
    """A test run in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_waits_for_the_renames(tmp_path, monkeypatch):
    words, other, new = vocabulary("a", "b"), vocabulary("c", "d"), make(1)
    checkpoint.save(make(0), tmp_path, (words, words))
    replace = os.replace

    def interrupted(source, target):
        if Path(target).parent == tmp_path:
            signal.raise_signal(signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(new, tmp_path, (other, other))
    assert_untouched(tmp_path, new, other.tokens)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_crash_during_the_renames_is_noticed(tmp_path, monkeypatch, after):
    """Whatever a file system did before the machine stopped: no mixture of two models can be loaded."""
    words, other, replace = vocabulary("a", "b"), vocabulary("c", "d"), os.replace
    checkpoint.save(make(0), tmp_path, (words, words))
    done = []

    def crashing(source, target):
        if Path(target).parent == tmp_path:
            if len(done) == after:
                raise OSError(errno.EIO, "Input/output error")
            done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", crashing)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.save(make(1), tmp_path, (other, other))
    with pytest.raises(FileNotFoundError, match="must be a model directory|must be a file that exists"):
        checkpoint.load(tmp_path)


def test_weights_can_be_read_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "other").touch()
    checkpoint.write_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_vocabularies_of_an_older_model_do_not_linger(tmp_path):
    model = make(source_vocab_size=7, target_vocab_size=7)
    one = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b"])
    other = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "c", "d"])
    checkpoint.save(model, tmp_path, (one, one))
    checkpoint.save(model, tmp_path, (one, other))
    assert [v.tokens[-1] for v in checkpoint.load(tmp_path)[1]] == ["b", "d"]
    checkpoint.save(model, tmp_path, (other, other))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "vocabulary.json"]
