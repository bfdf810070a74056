"""Makes two tiny Marian models and records what Hugging Face's transformers computes with them.

    python record.py        in an environment with torch, sentencepiece and transformers 5.23

``shared/`` has one vocabulary and one table of embeddings for both sides, ``separate/`` two. They are trained for a
moment to put one syllable in place of another, on random text. ``expected.json`` holds texts, their ids, and the best
outputs of several searches, ``eos`` included; ``logits.safetensors`` the logits behind the decoder's start and each
token of the first of these outputs.
"""

import json
import random
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

HERE = Path(__file__).parent
SYLLABLES = {"source": "ba ke li mo nu ta".split(), "target": "der zam vo kip shu fle".split()}
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
LANGUAGE, STEPS = ">>deu<<", 700
SEARCHES = [{"beam_size": b, "length_penalty": p} for b, p in ((1, 1.0), (2, 1.0), (4, 0.6), (7, 1.0))]
KINDS = (torch.float64, torch.float32)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Random text, and the same with the other side's syllables."""
    draw, result = random.Random(seed), []
    for _ in range(count):
        words = [draw.choices(range(6), k=draw.randint(1, 3)) for _ in range(draw.randint(1, 4))]
        sides = (" ".join("".join(SYLLABLES[side][i] for i in word) for word in words) for side in SYLLABLES)
        result.append(tuple(sides))
    return result


def vocabularies(directory: Path, shared: bool) -> list[int]:
    """Writes sentencepiece models and the numbers of their pieces; returns the sizes."""
    sides = []
    for side, text in zip(SYLLABLES, zip(*pairs(300), strict=True), strict=True):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_prefix=str(directory / side), vocab_size=28,
            normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        (directory / f"{side}.vocab").unlink()
        model = (directory / f"{side}.model").rename(directory / f"{side}.spm")
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        sides.append([processor.id_to_piece(i) for i in range(3, processor.get_piece_size())])
    if shared:
        sides = [sorted({*sides[0], *sides[1], LANGUAGE})]
    names = ["vocab.json", "target_vocab.json"]
    for name, pieces in zip(names, sides, strict=False):
        tokens = ["</s>", "<unk>", *pieces, "<pad>"]
        numbers = {token: number for number, token in enumerate(tokens)}
        (directory / name).write_text(json.dumps(numbers, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    return [len(side) + 3 for side in sides]


def tokenizer_of(directory: Path, shared: bool) -> MarianTokenizer:
    return MarianTokenizer(
        str(directory / "source.spm"), str(directory / "target.spm"), str(directory / "vocab.json"),
        target_vocab_file=str(directory / "target_vocab.json"), separate_vocabs=not shared,
    )  # fmt: skip


def make(directory: Path, shared: bool) -> MarianMTModel:
    sizes = vocabularies(directory, shared)
    pad = sizes[-1] - 1
    torch.manual_seed(0)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=sizes[0], decoder_vocab_size=sizes[-1], max_position_embeddings=40, **SIZES, **HEADS,
            activation_function="swish", scale_embedding=True, share_encoder_decoder_embeddings=shared,
            pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=None, dropout=0.0,
            init_std=0.2,
        )
    )  # fmt: skip
    model.final_logits_bias.normal_()
    tokenizer = tokenizer_of(directory, shared)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(STEPS):
        source, target = zip(*pairs(32, seed=step), strict=True)
        batch = tokenizer(list(source), text_target=list(target), padding=True, return_tensors="pt")
        batch["labels"][batch["labels"] == tokenizer.pad_token_id] = -100
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.get_decoder().embed_tokens.weight[pad] = 0  # as in the models of OPUS-MT
    print(f"{directory.name}: loss {loss.item():.3f}")
    return model.eval()


def decode(model: MarianMTModel, source: list[int], beam_size: int, length_penalty: float) -> dict:
    """The best output of a search that ends when ``beam_size`` hypotheses have ended, and what it was ranked by.

    Without ``renormalize_logits``, which the models of OPUS-MT set, a beam's scores would count the probability of pad.
    """
    options = {"early_stopping": True, "length_penalty": length_penalty} if beam_size > 1 else {}
    found = model.generate(
        torch.tensor([source]), num_beams=beam_size, do_sample=False, max_new_tokens=36, **options,
        bad_words_ids=[[model.config.pad_token_id]], renormalize_logits=True, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    output = found.sequences[0, 1:].tolist()
    assert output.index(0) == len(output) - 1, "an output must end by itself"
    score = found.sequences_scores.item() if beam_size > 1 else None
    return {"beam_size": beam_size, "length_penalty": length_penalty, "output": output, "score": score}


@torch.no_grad()
def record(directory: Path, model: MarianMTModel, shared: bool) -> None:
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    tokenizer = tokenizer_of(directory, shared)
    texts = [source for source, _ in pairs(12, seed=-1)] + ["bake xyz"] + ([f"{LANGUAGE} ta libake"] if shared else [])
    pad, cases, logits = model.config.pad_token_id, [], {}
    for number, text in enumerate(texts):
        ids = tokenizer(text).input_ids
        exact, single = ([decode(model.to(kind), ids, **options) for options in SEARCHES] for kind in KINDS)
        assert all(a["output"] == b["output"] for a, b in zip(exact, single, strict=True)), "rounding must not decide"
        target = torch.tensor([[pad, *single[0]["output"][:-1]]])
        logits[str(number)] = model(torch.tensor([ids]), decoder_input_ids=target).logits[0]
        best = tokenizer.decode(single[0]["output"], skip_special_tokens=True, use_source_tokenizer=False)
        cases.append({"text": text, "ids": ids, "translation": best, "searches": single})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (directory / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    save_file(logits, directory / "logits.safetensors")


if __name__ == "__main__":
    for name in ("shared", "separate"):
        directory = HERE / name
        directory.mkdir(exist_ok=True)
        record(directory, make(directory, name == "shared"), name == "shared")
