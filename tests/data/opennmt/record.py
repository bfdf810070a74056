"""Makes tiny random models by OpenNMT-py 3.5.1 and records what its modules compute with them.

    python record.py        in an environment with torch and OpenNMT-py 3.5.1

``plain.pt`` is as OpenNMT-py makes models by default; ``biased.pt`` has biases everywhere, gelu and one vocabulary for
both sides, and an output matrix of its own. ``expected.json`` holds sources, the best output of greedy search, and its
mean log-probability.
"""

import json
import random
import sys
import types
from pathlib import Path

for name in ("spacy", "fasttext"):  # which it imports, and does not need here
    sys.modules.setdefault(name, types.ModuleType(name))
import torch  # noqa: E402
from onmt import opts  # noqa: E402
from onmt.inputters.inputter import dict_to_vocabs  # noqa: E402
from onmt.model_builder import build_base_model  # noqa: E402
from onmt.models.model_saver import ModelSaver  # noqa: E402
from onmt.utils.parse import ArgumentParser  # noqa: E402

HERE = Path(__file__).parent
SPECIALS = ["<unk>", "<blank>", "<s>", "</s>"]
SHAPE = "-encoder_type transformer -decoder_type transformer -enc_layers 1 -dec_layers 2 -heads 2 -hidden_size 16 "
SHAPE += "-word_vec_size 16 -transformer_ff 24 -position_encoding -dropout 0 -attention_dropout 0"
MODELS = {
    "plain": ("", 22, 18),
    "biased": ("-add_qkvbias -add_ffnbias -pos_ffn_activation_fn gelu -share_vocab -share_embeddings", 20, 20),
}
LONGEST = 20


def make(name: str, seed: int):
    more, *sizes = MODELS[name]
    parser = ArgumentParser()
    opts.train_opts(parser)
    options, _ = parser.parse_known_args(["-src_vocab", "x", "-data", "{}", *SHAPE.split(), *more.split()])
    ArgumentParser.update_model_opts(options)
    options.model_task = "seq2seq"
    letters = "ww" if "share_vocab" in more else "wv"
    vocabulary = {
        side: SPECIALS + [f"{letter}{i}" for i in range(size)]
        for side, letter, size in zip(("src", "tgt"), letters, sizes, strict=True)
    }
    vocabs = dict_to_vocabs({**vocabulary, "data_task": "seq2seq", "decoder_start_token": "<s>"})
    torch.manual_seed(seed)
    model = build_base_model(options, vocabs).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key and key.endswith("weight"):
                parameter.uniform_(0.7, 1.3).mul_(torch.where(torch.rand_like(parameter) < 0.5, -1.0, 1.0))
            else:
                parameter.normal_(0, 0.3 if parameter.dim() > 1 else 0.1)
        model.generator.bias[3] += 2.0
    for module in model.modules():  # the usual table has 5,000 rows
        if hasattr(module, "pe") and isinstance(module.pe, torch.Tensor):
            module.pe = module.pe[: LONGEST + 4].clone()
    saver = ModelSaver(
        str(HERE / name), model, options, vocabs, types.SimpleNamespace(state_dict=dict), 1, "pytorch", 0
    )
    saver._save(0, model)
    (HERE / f"{name}_step_0.pt").rename(HERE / f"{name}.pt")
    return model, vocabulary


@torch.no_grad()
def greedy(model, source: list[int]) -> tuple[list[int], float]:
    src, length = torch.tensor(source)[None, :, None], torch.tensor([len(source)])
    encoded, _, length = model.encoder(src, length)
    words, scores = [2], []
    while words[-1] != 3 and len(words) <= LONGEST:
        model.decoder.init_state(src, encoded, None)
        hidden, _ = model.decoder(torch.tensor(words)[None, :, None], encoded, src_len=length, with_align=False)
        best = model.generator(hidden[:, -1]).log_softmax(-1).max(-1)
        words.append(best.indices.item())
        scores.append(best.values.item())
    return words[1:], sum(scores) / len(scores)


if __name__ == "__main__":
    expected = {}
    for name in MODELS:
        for seed in range(500):
            model, vocabulary = make(name, seed)
            draw, cases = random.Random(0), []
            for _ in range(10):
                source = draw.choices(vocabulary["src"][4:], k=draw.randint(1, 8))
                output, score = greedy(model, [vocabulary["src"].index(token) for token in source])
                if output[-1] == 3:
                    cases.append([source, [vocabulary["tgt"][number] for number in output[:-1]], score])
            if len({str(output) for _, output, _ in cases}) > 5:
                break
        print(name, seed, len(cases))
        expected[name] = cases
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n", encoding="utf-8")
