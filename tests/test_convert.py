"""The fairseq converter: what it makes of a checkpoint, what it refuses, and that it runs nothing."""

import argparse
import collections
import io
import math
import os
import pickle
import zipfile

import dense
import golden
import pytest
import torch

from janus_fast import Translator, checkpoint
from janus_fast.convert import fairseq
from janus_fast.convert.torch_file import Record, Storage, StoredTensor, open_torch_file, unpickle
from janus_fast.decoding.score import score

DICTIONARIES = (golden.GOLDEN / "checkpoint" / "dict.de.txt", golden.GOLDEN / "checkpoint" / "dict.en.txt")
LEGACY = {"_use_new_zipfile_serialization": False}


def settings(**changes) -> argparse.Namespace:
    values = {
        "arch": "janus_transformer_iwslt_de_en", "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "activation_fn": "relu", "dropout": 0.3, "layernorm_embedding": False, "quant_noise_pq": 0,
    }  # fmt: skip
    return argparse.Namespace(**values | changes)


def state(**changes) -> dict[str, torch.Tensor]:
    """The golden weights; a change to None takes a tensor out."""
    return {k: v for k, v in (golden.tensors("weights") | changes).items() if v is not None}


def save(path, weights=None, args=None, **options):
    torch.save({"args": args or settings(), "model": state() if weights is None else weights}, path, **options)
    return path


# What it makes


def test_checkpoint_of_the_original():
    model, (source, target) = fairseq.load(golden.CHECKPOINT, *DICTIONARIES)
    expected = golden.group("checkpoint/expected", "weights/")
    for name, tensor in model.state_dict().items():
        offset = fairseq.POSITION_OFFSET if "embed_positions" in name else 0
        assert torch.equal(tensor, expected[name][offset:]), name
    config = model.config
    assert (config.d_model, config.encoder_ffn_dim, config.decoder_ffn_dim) == (16, 24, 24)
    assert (config.attention_heads, config.encoder_layers, config.decoder_layers) == (2, 1, 1)
    assert (config.max_source_positions, config.max_target_positions, config.length_classes) == (40, 40, 256)
    assert (config.dropout, config.activation, config.mask_token_id) == (0.3, "relu", 3)
    assert config.share_all_embeddings and not model.training and not config.normalize_before
    assert config.trained_modes == ("ar", "nar")
    assert source is target
    assert source.tokens[:6] == ["<s>", "<pad>", "</s>", "<unk>", "w000", "w001"]
    assert len(source) == 120


def test_without_dictionaries():
    model, vocabularies = fairseq.load(golden.CHECKPOINT)
    assert vocabularies is None and model.config.d_model == 16


def test_converted_model_survives_saving(tmp_path):
    model, vocabularies = fairseq.load(golden.CHECKPOINT, *DICTIONARIES)
    checkpoint.save(model, tmp_path / "model", vocabularies)
    again, (source, target) = checkpoint.load(tmp_path / "model")
    assert again.config == model.config and source.tokens == target.tokens == vocabularies[0].tokens
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_formats_and_dtypes(tmp_path, options, dtype):
    weights = {name: tensor.to(dtype) for name, tensor in state().items()}
    model, _ = fairseq.load(save(tmp_path / "model.pt", weights, **options))
    assert torch.equal(model.decoder.layers[1].fc2.weight, weights["decoder.layers.1.fc2.weight"].float())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_separate_embeddings_and_sinusoidal_positions():
    separate = fairseq.from_state_dict(
        golden.group("variants", "separate_embeddings/weights/"), attention_heads=2, activation="gelu"
    )
    names = dict(separate.named_parameters()).keys()
    assert {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight"} <= names
    sinusoidal = fairseq.from_state_dict(
        golden.group("variants", "sinusoidal/weights/"), attention_heads=2, max_target_positions=77
    )
    assert sinusoidal.config.positions == "sinusoidal" and sinusoidal.config.position_offset == 2
    assert (sinusoidal.config.max_source_positions, sinusoidal.config.max_target_positions) == (1024, 77)


def test_tied_output_alone():
    decoder = torch.randn(50, 64)
    model = fairseq.from_state_dict(
        state(**{"decoder.embed_tokens.weight": decoder, "decoder.output_projection.weight": decoder.clone()}),
        attention_heads=4,
    )
    assert not model.config.share_all_embeddings and model.config.share_decoder_embeddings
    assert (model.config.source_vocab_size, model.config.target_vocab_size) == (120, 50)
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight


def test_state_dict_is_left_alone():
    weights = state()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    fairseq.from_state_dict(weights, attention_heads=4)
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in before)


# Ordinary Transformers


def transformer(*, prenorm=False, learned=False, shared=True, norm=False, seed=0) -> dict[str, torch.Tensor]:
    """The state of a fairseq ``transformer``: width 16, two layers, 30 source and target tokens, places for 20."""
    generator, weights, width, ffn_dim = torch.Generator().manual_seed(seed), {}, 16, 24

    def draw(name, *shape):
        weights[name] = torch.randn(shape, generator=generator) * 0.4

    def pair(name, *shape):
        draw(f"{name}.weight", *shape)
        draw(f"{name}.bias", shape[0])

    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        weights[f"{side}.version"] = torch.tensor([3.0])
        draw(f"{side}.embed_tokens.weight", 30, width)
        if learned:
            draw(f"{side}.embed_positions.weight", 20 + fairseq.POSITION_OFFSET, width)
        else:
            weights[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
        for layer in (f"{side}.layers.{number}" for number in range(2)):
            for name in attentions:
                for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    pair(f"{layer}.{name}.{projection}", width, width)
                pair(f"{layer}.{name}_layer_norm", width)
            pair(f"{layer}.fc1", ffn_dim, width)
            pair(f"{layer}.fc2", width, ffn_dim)
            pair(f"{layer}.final_layer_norm", width)
        if prenorm:
            pair(f"{side}.layer_norm", width)
        if norm:
            pair(f"{side}.layernorm_embedding", width)
    draw("decoder.output_projection.weight", 30, width)
    if shared:
        names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
        weights |= dict.fromkeys(names, weights[names[0]])
    return weights


def sinusoids(width: int, count: int) -> torch.Tensor:
    """fairseq's position vectors of the tokens of a sentence, which it counts from 2 on."""
    rows = []
    for position in range(2, 2 + count):
        angles = [position * math.exp(-i * math.log(10000) / (width // 2 - 1)) for i in range(width // 2)]
        rows.append([*map(math.sin, angles), *map(math.cos, angles)])
    return torch.tensor(rows)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("learned", [True, False], ids=["learned", "sinusoidal"])
@pytest.mark.parametrize("prenorm", [True, False], ids=["pre-norm", "post-norm"])
def test_ordinary_transformers_compute_what_torchs_layers_do(tmp_path, prenorm, learned, shared):
    weights = transformer(prenorm=prenorm, learned=learned, shared=shared, norm=learned != shared)
    arguments = settings(
        arch="transformer_iwslt_de_en", encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.2,
        encoder_normalize_before=prenorm, decoder_normalize_before=prenorm, max_source_positions=20,
        max_target_positions=20, layernorm_embedding=learned != shared, activation_fn="gelu" if shared else "relu",
    )  # fmt: skip
    model, _ = fairseq.load(save(tmp_path / "model.pt", weights, arguments))
    config = model.config
    assert not config.two_stream and not config.source_bos and config.decoder_start_token_id == 2
    assert (config.share_all_embeddings, config.normalize_before) == (shared, prenorm)
    assert config.layernorm_embedding == (learned != shared)
    assert config.max_source_positions == config.max_target_positions == 20 and config.trained_modes == ("ar",)

    tables = [sinusoids(16, 20)] * 2
    if learned:
        tables = [weights[f"{side}.embed_positions.weight"][2:] for side in ("encoder", "decoder")]
    activation = torch.nn.functional.gelu if shared else torch.nn.functional.relu
    generator = torch.Generator().manual_seed(1)
    for length in (1, 4, 18):
        source = [*torch.randint(4, 30, (length,), generator=generator).tolist(), 2]
        words = torch.randint(4, 30, (length,), generator=generator).tolist()
        expected = dense.log_probs(
            weights, source, [2, *words], heads=2, activation=activation, positions=tables, prenorm=prenorm
        ).gather(1, torch.tensor([*words, 2])[:, None])
        rounding = 2 * torch.finfo().eps * float(expected.abs().max())  # of position tables and results, both float32
        scores = score(model.double(), [source], [[2, *words, 2]])[0]
        assert scores == pytest.approx(expected[:, 0].tolist(), abs=rounding)


def test_transformers_are_converted_with_their_dictionaries(tmp_path):
    arguments = settings(
        arch="transformer", encoder_attention_heads=2, decoder_attention_heads=2, activation_fn="swish"
    )
    path = save(tmp_path / "model.pt", transformer(shared=False), arguments)
    for name, letter in (("source", "s"), ("target", "t")):
        (tmp_path / name).write_text("".join(f"{letter}{number} 1\n" for number in range(26)))
    model, (source, target) = fairseq.load(path, tmp_path / "source", tmp_path / "target")
    assert model.config.activation == "silu"
    translator = Translator(model, vocabularies=(source, target))
    words = translator.translate(["s3 s1 unseen"], max_decoding_length=8)[0].hypotheses[0].split()
    assert words and set(words) <= {"<unk>", *(f"t{number}" for number in range(26))}
    assert translator.generate([[7, 5, 3, 2]], max_decoding_length=8)[0].hypotheses == [target.ids(words)]


@pytest.mark.parametrize("backend", ["torch", "engine"])
def test_pad_is_never_chosen_and_keeps_its_probability(tmp_path, backend):
    """As in fairseq, which forbids pad behind the softmax; rows such as madeupword0000 are words like any other."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in transformer(shared=False).items()}
    weights["encoder.embed_tokens.weight"] += 1  # two tables, not one
    weights["decoder.layers.1.final_layer_norm.bias"][0] = 1  # the hidden row of every step
    output = weights["decoder.output_projection.weight"][:, 0].fill_(-60)
    for token, probability in ((1, 0.4), (29, 0.35), (2, 0.2), (5, 0.05)):
        output[token] = math.log(probability)
    arguments = settings(arch="transformer", encoder_attention_heads=2, decoder_attention_heads=2)
    model, _ = fairseq.load(save(tmp_path / "model.pt", weights, arguments))
    translator = Translator(model, backend=backend)
    greedy = translator.generate([[7, 2]], beam_size=1, max_decoding_length=2)[0]
    assert greedy.hypotheses == [[29, 29]]
    assert greedy.token_scores[0] == pytest.approx([math.log(p) for p in (0.35, 0.35, 0.2)], abs=1e-5)


def test_names_from_before_version_0_10(tmp_path):
    """An output tied or apart under its old name, q, k and v in one, norms by number: the same weights."""
    shared, separate = transformer(), transformer(shared=False)
    output, old_output = "decoder.output_projection.weight", "decoder.embed_out"
    tied = {name: tensor for name, tensor in shared.items() if name != output}
    tied |= {f"{side}.embed_positions.weights": torch.zeros(1) for side in ("encoder", "decoder")}
    apart = {old_output if name == output else name: tensor for name, tensor in separate.items()}
    norms = {
        "encoder": ["self_attn_layer_norm", "final_layer_norm"],
        "decoder": ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
    }

    def merged(weights):
        weights = dict(weights)
        for stem in [name.removesuffix("q_proj.weight") for name in weights if name.endswith("q_proj.weight")]:
            for part in ("weight", "bias"):
                weights[f"{stem}in_proj_{part}"] = torch.cat([weights.pop(f"{stem}{x}_proj.{part}") for x in "qkv"])
        for name in list(weights):
            side, norm = name.partition(".")[0], name.split(".")[-2]
            if ".layers." in name and norm in norms[side]:
                numbered = name.replace(f".{norm}.", f".layer_norms.{norms[side].index(norm)}.")
                weights[numbered] = weights.pop(name)
        return weights

    both_tied = {"share_all_embeddings": True, "share_decoder_input_output_embed": True}
    for number, (today, old, tying) in enumerate(
        [
            (shared, tied, both_tied),
            (separate, apart, {}),
            (shared, merged(tied), both_tied),
            (separate, merged(apart), {}),
        ]
    ):
        arguments = settings(
            arch="transformer_wmt_en_de", encoder_attention_heads=2, decoder_attention_heads=2, **tying
        )
        expected, _ = fairseq.load(save(tmp_path / "today.pt", today, arguments))
        model, _ = fairseq.load(save(tmp_path / f"{number}.pt", old, arguments))
        assert model.config == expected.config
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
        assert torch.equal(model.output_weight, today[output])
    with pytest.raises(ValueError, match=rf"every parameter of the model, got no '{output}'"):
        fairseq.load(save(tmp_path / "untied.pt", tied, settings(arch="transformer")))


# What it reads


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_tensors_of_every_layout(tmp_path, options):
    base = torch.arange(60.0).view(3, 4, 5)
    shared = torch.arange(7)
    contents = {
        "slice": base[1:, ::2], "transposed": base.transpose(0, 2), "scalar": torch.tensor(2.5), "bool": base > 20,
        "empty": torch.empty(0, 3), "parameter": torch.nn.Parameter(base[2]), "tail": shared[4:], "whole": shared,
        "ordered": collections.OrderedDict(a=[1, (2.5, None)], b={True}), "default": collections.defaultdict(list, c=2),
        "record": argparse.Namespace(x=1),
    }  # fmt: skip
    torch.save(contents, tmp_path / "file.pt", **options)
    with open_torch_file(tmp_path / "file.pt") as read:
        for name, value in contents.items():
            if isinstance(value, torch.Tensor):
                assert isinstance(read[name], StoredTensor)
                assert torch.equal(read[name].load(), value.detach()) and read[name].load().dtype == value.dtype
        assert read["ordered"] == contents["ordered"] and read["default"] == {"c": 2}
        assert read["record"] == {"x": 1} and type(read["record"]) is not argparse.Namespace


def test_optimizer_state_is_not_read(tmp_path):
    contents = {"args": settings(), "model": state(), "last_optimizer_state": {"state": torch.full((1000,), 1.25)}}
    torch.save(contents, tmp_path / "model.pt")
    damaged = tmp_path / "damaged.pt"
    with zipfile.ZipFile(tmp_path / "model.pt") as archive, zipfile.ZipFile(damaged, "w") as copy:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        dropped = [name for name, size in sizes.items() if size == 4000]
        assert len(dropped) == 1
        for name in sizes.keys() - dropped:
            copy.writestr(name, archive.read(name))
    fairseq.load(damaged)


# What it refuses


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["model", "last_optimizer_state"])
@pytest.mark.parametrize("function", [os.system, eval, os.mkdir, getattr], ids=lambda function: function.__name__)
def test_unsafe_pickles_are_refused_and_run_nothing(tmp_path, options, place, function):
    trace = tmp_path / "trace"
    arguments = {os.system: (f"touch {trace}",), eval: (f"open({str(trace)!r}, 'w')",), os.mkdir: (str(trace),)}
    contents = {"args": settings(), "model": state(), "last_optimizer_state": {}}
    contents[place]["weight"] = Call(function, *arguments.get(function, ("text", "upper")))
    torch.save(contents, tmp_path / "evil.pt", **options)
    refusal = rf"tensors and plain values alone, got \w+\.{function.__name__} \(nothing was executed\)"
    with pytest.raises(ValueError, match=refusal):
        fairseq.load(tmp_path / "evil.pt")
    assert not trace.exists()


def test_classes_of_known_packages_are_records_and_are_not_called():
    """``argparse._sys.exit("a")``, as a pickle: a name inside a known package, which leads out of it."""
    program = b"\x80\x04\x8c\x08argparse\x8c\x09_sys.exit\x93\x8c\x01a\x85R."
    made, _ = unpickle(io.BytesIO(program))
    assert isinstance(made, Record) and made == {"args": ("a",)}


def test_counters_are_records_of_their_own_class():
    found = unpickle(io.BytesIO(pickle.dumps(collections.Counter("aab"), 2)))[0]
    assert type(found).__name__ == "Counter" and isinstance(found, Record) and type(found) is not Record


def test_compressed_archives_are_refused(tmp_path):
    stored, packed = save(tmp_path / "stored.pt"), tmp_path / "packed.pt"
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="data.pkl' compressed, as torch.save never writes it"):
        fairseq.load(packed)


def test_object_numbers_beyond_the_file():
    """Four bytes of a damaged pickle would make the unpickler ask for 32 GB."""
    with pytest.raises(ValueError, match="a pickle of 9 bytes that numbers 2147483647 objects"):
        unpickle(io.BytesIO(b"\x80\x02Nr\xff\xff\xff\x7f."))


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, options, share):
    path = save(tmp_path / "model.pt", **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model\.pt must be a whole (file written by torch\.save|checkpoint), got"):
        fairseq.load(path)


def test_damaged_numbers(tmp_path):
    path = save(tmp_path / "model.pt")
    data = bytearray(path.read_bytes())
    at = data.index(state()["encoder.layers.0.fc1.weight"].numpy().tobytes())
    data[at + 100] ^= 64
    path.write_bytes(data)
    with pytest.raises(ValueError, match="must be a whole checkpoint, got BadZipFile"):
        fairseq.load(path)


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "a file of another kind"),
        (b"text\n", "a file of another kind"),
        (b'{"d_model": 512}', "a file of another kind"),
        (b"PK\x03\x04 not a zip", "BadZipFile"),
        (pickle.dumps({"model": {}}), "ValueError"),
        (b"\x80\x02.", "UnpicklingError"),
    ],
)
def test_files_of_another_kind(tmp_path, content, found):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.pt must be a whole file written by torch\.save, got {found}"):
        fairseq.load(tmp_path / "model.pt")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"convert: .*nothing\.pt must be a file that exists"):
        fairseq.load(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError, match=r"convert: .*nothing\.txt must be a file that exists"):
        fairseq.load(golden.CHECKPOINT, tmp_path / "nothing.txt", DICTIONARIES[1])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1, 2], "must be a fairseq checkpoint, got no 'model'"),
        ({"weights": {}}, "must be a fairseq checkpoint, got no 'model'"),
        ({"model": {}}, "must hold the model's settings, got neither 'cfg' nor 'args'"),
    ],
)
def test_other_checkpoints(tmp_path, contents, message):
    torch.save(contents, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        fairseq.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "fconv"}, "must be a checkpoint of JANUS or of a transformer, got architecture 'fconv'"),
        ({"arch": "transformer"}, "parameters of the model alone, got 'decoder.embed_length.weight'"),
        ({"arch": "transformer", "quant_noise_pq": 0.1}, "must be off .it is not part of JanusModel., got 0.1"),
        ({"decoder_normalize_before": True}, "decoder_normalize_before must say whether there is a 'decoder.layer_nor"),
        ({"layernorm_embedding": True}, "layernorm_embedding must be off .*two modes see different embeddings"),
        ({"quant_noise_pq": 0.1}, "quant_noise_pq must be off .* got 0.1"),
        ({"cross_self_attention": True}, "cross_self_attention must be off"),
        ({"decoder_attention_heads": 8}, r"must have the same attention_heads, got \[4, 8\]"),
        ({"encoder_attention_heads": 7, "decoder_attention_heads": 7}, "d_model must be a multiple of attention_heads"),
        ({"activation_fn": "tanh"}, r"^JanusConfig: .*\.pt: activation must be one of .* got 'tanh'"),
        ({"activation_fn": ["relu"]}, r"activation must be one of 'relu', .*, got \['relu'\]; did you mean 'relu'"),
    ],
)
def test_settings_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        fairseq.load(save(tmp_path / "model.pt", args=settings(**changes)))


EMBEDDING = "encoder.embed_tokens.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.layers.0.fc2.bias": None}, "must hold every parameter of the model, got no 'decoder.layers.0.fc2.b"),
        ({"encoder.layers.0.fc1.weight": None}, "must hold every parameter of the model, got no 'encoder.layers.0.fc1"),
        ({EMBEDDING: None}, f"must hold every parameter of the model, got no '{EMBEDDING}'"),
        ({"decoder.embed_length.weight": None}, "must be a JANUS model, which predicts lengths"),
        ({"decoder.extra": torch.ones(1)}, "must hold the parameters of the model alone, got 'decoder.extra'"),
        ({"encoder.layernorm_embedding.weight": torch.ones(64)}, "layernorm_embedding must be absent .*two modes"),
        ({"decoder.project_in_dim.weight": torch.ones(64, 32)}, "project_in_dim must be absent .*two modes"),
        ({"decoder.layer_norm.weight": torch.ones(64)}, "must both be pre-norm or both post-norm"),
        ({"encoder.embed_positions.weight": None}, "must have the same kind of positions"),
        ({"encoder.embed_positions.weight": torch.ones(2, 64)}, "max_source_positions must be a positive integer, got"),
        ({"decoder.embed_length.weight": torch.ones(256)}, r"decoder\.embed_length\.weight must be a matrix"),
        ({"encoder.layers.1.fc1.weight": torch.ones(9, 64)}, r"must have shape \[128, 64\], got \[9, 64\]"),
        ({"decoder.layers.0.fc1.bias": torch.full((128,), float("nan"))}, r"fc1\.bias must hold finite numbers alone"),
        ({EMBEDDING: torch.full((120, 64), float("inf"))}, "must hold finite numbers alone"),
        ({"decoder.layers.0.fc1.bias": torch.ones(128, dtype=torch.int64)}, r"fc1\.bias must hold "),
        ({"decoder.layers.0.fc1.bias": [0.0]}, "fc1.bias must be a tensor, got list"),
    ],
)
def test_state_dicts_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fairseq.from_state_dict(state(**changes), attention_heads=4)


def test_prenorm_is_refused_unless_asked_for():
    weights = golden.group("variants", "prenorm/weights/")
    with pytest.raises(ValueError, match="must be post-norm, got pre-norm: .* cross-attention without its norm"):
        fairseq.from_state_dict(weights, attention_heads=2)
    assert fairseq.from_state_dict(weights, attention_heads=2, allow_prenorm=True).config.normalize_before


def test_tensors_outside_their_numbers():
    """A file that claims more than it holds: refused before any memory is asked for."""
    storage = Storage(torch.float32, 4, lambda first, count: b"\0" * count)
    for offset, size, stride in ((0, (5,), (1,)), (2, (3,), (1,)), (0, (10**9,), (0,)), (-1, (2,), (1,))):
        with pytest.raises(ValueError, match="outside its 4 numbers"):
            StoredTensor(storage, offset, size, stride).load()
