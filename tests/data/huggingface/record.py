"""Makes tiny random models of several families and records what Hugging Face's transformers computes with them.

    python record.py        in an environment with torch, tokenizers and transformers 5.23

``bart/`` forces a first token and forbids two; ``nllb/`` is M2M100 with NLLB's tokenizer; all but ``fsmt/`` have a
``tokenizer.json``. Weights are in float16. ``expected.json`` holds sources as ids, and for greedy search and a beam of
4 the best output and its score, of those that end by themselves; a score goes without the first token where it is
forced. Texts have the ids that the tokenizer gives them.
"""

import json
import random
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import BartTokenizer, GenerationConfig, MBartTokenizer, NllbTokenizer, PegasusTokenizer

HERE = Path(__file__).parent
SIZES = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "max_position_embeddings": 28, "dropout": 0.0,
    "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip
PIECES = "▁ba ▁ke ▁li mo nu ta ▁ b a k e l i m o n u t".split()
SCORED = [(piece, -1.0 - i / 9) for i, piece in enumerate(PIECES)]
UNIGRAM = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *SCORED]
TEXTS = ["ba ke", "lita monu ba", "takemo", "li", "banuta kemoli", "x ba"]
NEVER = {"bad_words_ids": [[1]]}
MODELS = {
    "bart": ("Bart", {"activation_function": "gelu"}, {"forced_bos_token_id": 0, "bad_words_ids": [[7]],
                                                       "suppress_tokens": [9]}),
    "mbart": ("MBart", {"decoder_start_token_id": 2, "scale_embedding": True}, {}),
    "nllb": ("M2M100", {}, NEVER),
    "pegasus": ("Pegasus", {"activation_function": "relu"}, {}),
    "fsmt": ("FSMT", {"langs": ["en", "de"], "src_vocab_size": 30, "tgt_vocab_size": 26}, NEVER),
}  # fmt: skip
LONGEST = 20


def tokenizer_of(name: str):
    if name == "bart":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:26] + list("abeiklmnotu") + ["Ġ"]
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(letters), "<mask>"]
        return BartTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    if name == "pegasus":
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<mask_1>", 0.0), ("<mask_2>", 0.0), ("<unk>", 0.0)]
        return PegasusTokenizer(vocab=[*special, *SCORED], offset=0, additional_special_tokens=[])
    if name == "mbart":
        return MBartTokenizer(vocab=UNIGRAM, src_lang="en_XX", tgt_lang="ro_RO")
    if name == "nllb":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abeiklmnotu", "ba", "ke"]
        vocab = {token: i for i, token in enumerate(tokens)}
        return NllbTokenizer(
            vocab=vocab, merges=[("b", "a"), ("k", "e")], src_lang="eng_Latn", tgt_lang="deu_Latn",
            extra_special_tokens=["eng_Latn", "deu_Latn"],
        )  # fmt: skip
    return None


def make(name: str, seed: int):
    family, settings, generation = MODELS[name]
    tokenizer = tokenizer_of(name)
    if tokenizer is not None:
        settings = {**settings, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
                    "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
        tokenizer.save_pretrained(HERE / name)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key and key.endswith("weight"):
                parameter.uniform_(0.7, 1.3).mul_(torch.where(torch.rand_like(parameter) < 0.5, -1.0, 1.0))
            elif parameter.dim() == 1:
                parameter.normal_(0, 0.1)
            elif "embed_positions" not in key:
                parameter.normal_(0, 0.3)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.normal_(0, 0.3)
            model.final_logits_bias[0, config.eos_token_id] += 2
        else:
            output = getattr(model.model.decoder, "output_projection", None) or model.get_output_embeddings()
            output.weight[config.eos_token_id] *= 2.5
    kept = model.generation_config.to_dict() | generation
    model.generation_config = GenerationConfig(**{k: v for k, v in kept.items() if v is not None})
    model.half().save_pretrained(HERE / name)
    return type(model).from_pretrained(HERE / name, dtype=torch.float32).eval(), tokenizer


def record(name: str, model, tokenizer) -> bool:
    """Whether there is enough to see in what it says."""
    draw, config, generation = random.Random(0), model.config, model.generation_config
    size = getattr(config, "src_vocab_size", None) or config.vocab_size
    words = [[draw.randrange(5, size - 2) for _ in range(draw.randint(1, 8))] for _ in range(12)]
    sources = [[*source, config.eos_token_id] for source in words]
    expected = {"sources": sources, "greedy": [], "beam": []}
    for search, beam in (("greedy", 1), ("beam", 4)):
        for number, source in enumerate(sources):
            found = model.generate(
                torch.tensor([source]), num_beams=beam, max_length=LONGEST + 2, do_sample=False, early_stopping=True,
                length_penalty=1.0,
            )[0, 1:].tolist()  # fmt: skip
            if len(found) <= LONGEST and found[-1] == config.eos_token_id:
                start = torch.tensor([[generation.decoder_start_token_id, *found[:-1]]])
                with torch.no_grad():
                    logits = model(torch.tensor([source]), decoder_input_ids=start, use_cache=False).logits[0]
                scores = logits.log_softmax(-1).gather(1, torch.tensor(found)[:, None])[:, 0].tolist()
                if generation.forced_bos_token_id is not None:
                    scores[0] = 0.0
                expected[search].append([number, found[:-1], sum(scores) / len(scores)])
    if tokenizer is not None:
        expected["texts"] = [[text, tokenizer(text).input_ids] for text in TEXTS]
    text = json.dumps(expected, ensure_ascii=False)
    (HERE / name / "expected.json").write_text(text + "\n", encoding="utf-8")
    return all(len({str(output) for _, output, _ in expected[search]}) > 5 for search in ("greedy", "beam"))


if __name__ == "__main__":
    for name in MODELS:
        seed = 0
        while not record(name, *make(name, seed)):
            seed += 1
        print(name, seed)
