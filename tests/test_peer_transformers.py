"""Models that transformers saves give what its ``generate`` gives: ids are equal, scores within 1e-5, in float32."""

import random

import pytest

from janus_fast import Translator, cli
from janus_fast.convert import huggingface
from janus_fast.convert.generation import read_generation

pytestmark = pytest.mark.peers
transformers = pytest.importorskip("transformers", reason="transformers is not installed here: make test-peers")
torch = pytest.importorskip("torch")
transformers.utils.logging.set_verbosity_error()

SIZES = {
    "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 40,
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "decoder_layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
}  # fmt: skip
FSMT = {"langs": ["en", "de"], "src_vocab_size": 60, "tgt_vocab_size": 50}
# Places are counted without pad in M2M100 and FSMT: transformers has other ones behind a pad that is predicted.
NO_PAD = {"bad_words_ids": [[1]]}
# the family, its settings, and those of generate
MODELS = {
    "bart": ("Bart", {}, {}),
    "bart, as of summaries": ("Bart", {"activation_function": "gelu_new", "scale_embedding": True},
                              {"forced_bos_token_id": 0, "bad_words_ids": [[7], [9]], "suppress_tokens": [11]}),
    "bart, swish, untied": ("Bart", {"activation_function": "swish", "tie_word_embeddings": False}, {}),
    "mbart": ("MBart", {"decoder_start_token_id": 57}, {}),
    "mbart, scaled": ("MBart", {"decoder_start_token_id": 2, "scale_embedding": True}, {"forced_bos_token_id": 58}),
    "m2m_100": ("M2M100", {}, {"forced_bos_token_id": 55, **NO_PAD}),
    "m2m_100, gelu": ("M2M100", {"activation_function": "quick_gelu", "scale_embedding": False}, NO_PAD),
    "pegasus": ("Pegasus", {}, {}),
    "pegasus, scaled": ("Pegasus", {"scale_embedding": True, "activation_function": "relu"}, {}),
    "fsmt": ("FSMT", FSMT, NO_PAD),
    "fsmt, unscaled": ("FSMT", {**FSMT, "scale_embedding": False, "activation_function": "gelu"}, NO_PAD),
}  # fmt: skip
LONGEST = 24


def make(directory, name: str, seed: int):
    family, settings, generation = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    eos = config.eos_token_id
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed_positions" not in key:
                spread = 0.25 if "shared" in key or "embed" in key or "lm_head" in key or "output" in key else 0.27
                parameter.normal_(0, spread)
            elif "norm" in key and key.endswith("weight"):
                parameter.uniform_(0.7, 1.3).mul_(torch.where(torch.rand_like(parameter) < 0.5, -1.0, 1.0))
            elif parameter.dim() == 1:
                parameter.normal_(0, 0.1)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.normal_(0, 0.3)
            model.final_logits_bias[0, eos] += 0.5 * seed + 1
        else:
            output = getattr(model.model.decoder, "output_projection", None) or model.get_output_embeddings()
            output.weight[eos] *= 2 + 0.3 * seed
    kept = model.generation_config.to_dict() | generation
    model.generation_config = transformers.GenerationConfig(**{k: v for k, v in kept.items() if v is not None})
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_same_outputs_and_scores(tmp_path, name):
    draw, ended, outputs = random.Random(0), 0, set()
    for seed in range(8):
        theirs = make(tmp_path / f"hf-{seed}", name, seed)
        config = theirs.config
        assert cli.main(["convert", str(tmp_path / f"hf-{seed}"), "--out", str(tmp_path / f"{seed}")]) == 0
        ours = Translator(tmp_path / f"{seed}", compute_type="float32")
        forced = MODELS[name][2].get("forced_bos_token_id")
        sources = [
            [*(draw.randrange(5, 55) for _ in range(draw.randint(1, 12))), config.eos_token_id] for _ in range(12)
        ]
        for beam in (1, 4):
            prefixes = None if forced is None else [[forced]] * len(sources)
            results = ours.generate(
                sources, prefixes, beam_size=beam, min_decoding_length=0, max_decoding_length=LONGEST
            )
            for source, result in zip(sources, results, strict=True):
                found = theirs.generate(
                    torch.tensor([source]), num_beams=beam, max_length=LONGEST + 2, do_sample=False,
                    early_stopping=True, length_penalty=1.0, return_dict_in_generate=True, output_scores=True,
                )  # fmt: skip
                ids = found.sequences[0, 1:].tolist()
                ends = len(ids) <= LONGEST and ids[-1] == config.eos_token_id
                words = ids[:-1] if ends else ids[:LONGEST]
                if beam == 1 or ends and forced is None:
                    assert result.hypotheses[0] == words
                    outputs.add(tuple(words))
                if ends and forced is None:
                    ended += 1
                    score = found.sequences_scores[0].item() if beam > 1 else _mean(theirs, source, ids)
                    assert result.scores[0] == pytest.approx(score, abs=1e-5)
        if len(outputs) > 24 and (ended > 5 or forced is not None):
            return
    raise AssertionError(f"{len(outputs)} outputs of which {ended} end")


# What generate is told, beside the usual; what it does then by itself is what the converter says of it.
SEARCHES = {
    "nothing": {}, "a beam": {"num_beams": 4, "length_penalty": 2.0},
    "of summaries": {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2, "min_length": 6},
    "the longest end": {"num_beams": 3, "forced_eos_token_id": 2, "min_new_tokens": 3},
    "several": {"num_beams": 4, "num_return_sequences": 3, "early_stopping": "never"},
    "words": {"bad_words_ids": [[7], [9, 11]]}, "words, with a beam": {"num_beams": 3, "bad_words_ids": [[7, 8]]},
    # the decoder's start counts as said there
    "repetition": {"repetition_penalty": 1.3, "decoder_start_token_id": 0, "suppress_tokens": [0]},
    "repetition, with a beam": {
        "repetition_penalty": 1.3, "decoder_start_token_id": 0, "suppress_tokens": [0], "num_beams": 3
    },
    "renormalized": {"num_beams": 3, "renormalize_logits": True, "no_repeat_ngram_size": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_generate_without_arguments(tmp_path, name):
    draw, told, same, count, outputs = random.Random(0), SEARCHES[name], 0, 0, set()
    for seed in range(2, 9):
        theirs = make(tmp_path / f"hf-{seed}", "bart", seed)
        theirs.generation_config.update(max_length=LONGEST, **told)
        theirs.save_pretrained(tmp_path / f"hf-{seed}")
        model, _ = huggingface.load(tmp_path / f"hf-{seed}")
        options = {"min_decoding_length": 0, **read_generation(tmp_path / f"hf-{seed}").search}
        ours = Translator(model)
        sources = [[*(draw.randrange(5, 55) for _ in range(draw.randint(1, 12))), 2] for _ in range(8)]
        for source, result in zip(sources, ours.generate(sources, **options), strict=True):
            found = [row[1:] for row in theirs.generate(torch.tensor([source])).tolist()]
            found = [ids[: ids.index(2)] if 2 in ids else ids for ids in found]
            # to an end that is forced transformers gives a probability of 1, in a beam
            if "num_beams" not in told or all(len(ids) < LONGEST - 3 for ids in found):
                same, count = same + (found == result.hypotheses), count + 1
                outputs.update(map(tuple, found))
    assert same == count >= 8 and len(outputs) >= 4, f"{same} of {count}, {len(outputs)} outputs"


def _mean(model, source: list[int], ids: list[int]) -> float:
    """The mean log-probability of an output. With a cache FSMT lets every token see those behind it."""
    inputs = {"input_ids": torch.tensor([source]), "use_cache": False}
    inputs["decoder_input_ids"] = torch.tensor([[model.generation_config.decoder_start_token_id, *ids[:-1]]])
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).mean().item()
