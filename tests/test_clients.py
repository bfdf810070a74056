"""Programs that were written for CTranslate2 say the same with our interface in its place.

Their own code runs, from the package index, unchanged but for the module behind the name ``ctranslate2`` and for
sentence splitters that download models. What they import and do not use here need not be installed.
"""

import importlib.util
import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from janus_fast import save
from janus_fast.compat import ctranslate2 as ours
from janus_fast.convert import marian

pytestmark = pytest.mark.clients
MARIAN = Path(__file__).parent / "data" / "marian" / "shared"
TEXTS = ["bake limo", "", "nuta ba", "ke ke li", "monu"]
UNUSED = ("ahocorasick", "fasttext", "flask", "minisbd", "spacy", "stanza", "tensorboard", "waitress")


def client(name: str):
    pytest.importorskip("ctranslate2", reason="make test-clients installs it")
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip("make test-clients installs it")
    missing = [module for module in UNUSED if importlib.util.find_spec(module) is None]
    with mock.patch.dict(sys.modules, {module: mock.MagicMock() for module in missing}):
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Directories of one model, for either module."""
    theirs = pytest.importorskip("ctranslate2", reason="make test-clients installs it")
    pytest.importorskip("transformers", reason="make test-clients installs it")
    own, other = (tmp_path_factory.mktemp("clients") / name for name in ("own", "other"))
    model, vocabularies = marian.load(MARIAN)
    save(model, own, vocabularies)
    theirs.converters.TransformersConverter(str(MARIAN)).convert(str(other))
    for folder in (own, other):
        for name in ("source.spm", "target.spm"):
            (folder / name).write_bytes((MARIAN / name).read_bytes())
    (own / "model.bin").touch()  # which they look for
    return {ours: own, theirs: other}


def test_firefox_translations(folders, monkeypatch):
    module, said = client("firefox_translations.translator"), []
    for library, folder in folders.items():
        monkeypatch.setattr(module, "ctranslate2", library)
        names = [n for n, p in vars(module).items() if isinstance(p, type) and hasattr(p, "_resolve_device")]
        translator = getattr(module, names[0])("en", "de", model_dir=folder, intra_threads=1)
        said.append(translator.translate_batch(TEXTS) + translator.translate_batch(TEXTS, beam_size=1))
    assert said[0] == said[1] and any(said[0])


def test_hf_hub_ctranslate2(folders, monkeypatch):
    from transformers import MarianTokenizer

    module, said = client("hf_hub_ctranslate2.translate"), []
    for library, folder in folders.items():
        monkeypatch.setattr(module, "ctranslate2", library)
        translator = module.TranslatorCT2fromHfHub(
            str(folder), "cpu", compute_type="float32", tokenizer=MarianTokenizer.from_pretrained(MARIAN)
        )
        said.append(
            [
                translator.generate(TEXTS, max_decoding_length=12),
                translator.generate(TEXTS[0], beam_size=4, target_prefix=[["▁der"]], repetition_penalty=1.2),
            ]
        )
    assert said[0] == said[1] and any(said[0])


def test_opennmt_py_s_server(folders, monkeypatch):
    module, said = client("onmt.translate.translation_server"), []
    examples = [{"src": {"src": text}} for text in ("▁ba ke </s>", "▁li m o </s>", "▁nu </s>")]
    for library, folder in folders.items():
        monkeypatch.setitem(sys.modules, "ctranslate2", library)
        options = {"beam_size": 3, "num_hypotheses": 2, "max_batch_size": 1, "max_decoding_length": 9}
        made_by = {"device": "cpu", "device_index": 0, "inter_threads": 1, "intra_threads": 1}
        translator = module.CTranslate2Translator(str(folder), made_by, options, preload=False, report_align=True)
        translator.to_cpu()
        translator.to_gpu()
        scores, predictions = translator.translate(examples)
        said.append([text.split("￨￨￨")[0] for group in predictions for text in group])
        said.append([score for group in scores for score in group])
    assert said[0] == said[2] and any(said[0])
    assert said[1] == pytest.approx(said[3], abs=1e-4)


class Splitter:
    def __init__(self, *arguments):
        pass

    def split_sentences(self, text: str) -> list[str]:
        return [sentence.strip() for sentence in text.split(".") if sentence.strip()]


@pytest.mark.parametrize("prefix", ["", "▁der"])
def test_argostranslate(folders, prefix, tmp_path, monkeypatch):
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "packages"))
    monkeypatch.setenv("ARGOS_COMPUTE_TYPE", "float32")
    module, said = client("argostranslate.translate"), []
    package = client("argostranslate.package")
    for number, (library, folder) in enumerate(folders.items()):
        monkeypatch.setattr(module, "ctranslate2", library)
        for name in [name for name in vars(module) if name.endswith("Sentencizer")]:
            monkeypatch.setattr(module, name, Splitter)
        path = tmp_path / f"package{number}"
        path.mkdir()
        (path / "model").symlink_to(folder)
        (path / "sentencepiece.model").write_bytes((MARIAN / "source.spm").read_bytes())
        about = {"from_code": "en", "from_name": "English", "to_code": "de", "to_name": "German"}
        about |= {"package_version": "1.0", "argos_version": "1.11", "target_prefix": prefix}
        (path / "metadata.json").write_text(json.dumps(about))
        languages = module.Language("en", "English"), module.Language("de", "German")
        translation = module.PackageTranslation(*languages, package.Package(path))
        found = [
            translation.hypotheses(text, count) for text in ("bake limo. nuta ba.", "", "ke 9") for count in (1, 4)
        ]
        said.append([(h.value, round(h.score, 3)) for group in found for h in group])
    assert said[0] == said[1] and any(value for value, _ in said[0])
