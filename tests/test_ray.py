"""A dataset of Ray on a local cluster of two actors, of which one is killed in the middle."""

import os
import signal
import time
from pathlib import Path

import pytest
from test_decoding import make_model

from janus_fast import Translator, Vocabulary, save

ray = pytest.importorskip("ray", "2.60", reason="ray 2.60 is not installed: make test-peers runs these tests")
ours = pytest.importorskip("janus_fast.ray")

pytestmark = pytest.mark.peers

VOCABULARY = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(5, 40))])
OPTIONS = {"beam_size": 1, "max_decoding_length": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("model") / "model"
    save(make_model(), directory, (VOCABULARY, VOCABULARY))
    return str(directory)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error", object_store_memory=100 * 2**20)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield
    ray.shutdown()


def sentences(count):
    return [" ".join(f"w{5 + (row * 7 + 3 * n) % 35}" for n in range(1 + row % 9)) for row in range(count)]


def actors() -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"_Actor" in (folder / "cmdline").read_bytes()[:80]:
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def test_nothing_is_lost_or_doubled_when_a_worker_is_killed(model, tmp_path):
    texts = sentences(4000)
    expected = [result.hypotheses[0] for result in Translator(model).translate(texts, **OPTIONS)]
    rows = ray.data.from_items([{"id": n, "text": text} for n, text in enumerate(texts)], override_num_blocks=40)
    translated = ours.translate(
        rows, model, workers=2, batch_size=50, max_batch_size=200, batch_type="tokens", **OPTIONS
    )
    found, killed, seen = [], None, set()
    for batch in translated.iter_batches(batch_size=50, prefetch_batches=0):
        found += zip(batch["id"].tolist(), batch["translation"].tolist(), strict=True)
        seen.update(actors())
        if killed is None and len(found) >= 200 and len(running := actors()) == 2:
            killed = running[0]
            os.kill(killed, signal.SIGKILL)
            time.sleep(0.2)
    assert killed is not None and len(seen) > 2  # another took its place
    assert found == list(enumerate(expected))


def test_parquet_is_read_and_written(model, tmp_path):
    """As docs/drop-in.md shows it; nulls stay null, and rows that cannot be translated say why."""
    texts = [*sentences(100), None, " ".join(["w7"] * 60), ""]
    ray.data.from_items([{"text": text} for text in texts]).write_parquet(str(tmp_path / "in"))
    dataset = ray.data.read_parquet(str(tmp_path / "in"))
    translated = ours.translate(dataset, model, workers=2, skip_errors=True, output_column="de", **OPTIONS)
    translated.write_parquet(str(tmp_path / "out"))
    rows = ray.data.read_parquet(str(tmp_path / "out")).take_all()
    by_text = {row["text"]: (row["de"], row["de_error"]) for row in rows}
    assert len(rows) == len(texts) and by_text[None] == (None, None) and by_text[""] == ("", None)
    assert by_text[texts[-2]][0] is None and "must have at most 32 tokens" in by_text[texts[-2]][1]
    expected = Translator(model).translate(texts[:100], **OPTIONS)
    assert [by_text[text][0] for text in texts[:100]] == [result.hypotheses[0] for result in expected]


def test_the_order_is_kept_in_the_new_dataset_alone(model):
    rows = ray.data.from_items([{"text": "w7 w8"}])
    assert rows.context.execution_options.preserve_order is False
    other = rows.map_batches(lambda batch: batch)
    translated = ours.translate(rows, model, **OPTIONS)
    assert translated.context.execution_options.preserve_order is True
    assert rows.context.execution_options.preserve_order is other.context.execution_options.preserve_order is False
    anyhow = ours.translate(rows, model, preserve_order=False, **OPTIONS)
    assert anyhow.context.execution_options.preserve_order is False
    assert translated.take_all()[0]["translation"] == Translator(model).translate(["w7 w8"], **OPTIONS)[0].hypotheses[0]


def test_mistakes_are_told(model):
    rows = ray.data.from_items([{"text": "w7 w8"}])
    with pytest.raises(ValueError, match="^translate: workers must be an integer of at least 1, got 0"):
        ours.translate(rows, model, workers=0)
    with pytest.raises(ValueError, match="^first_number must be left out, as lines are numbered here, got 3"):
        ours.translate(rows, model, first_number=3)
    with pytest.raises(ValueError, match="^translate: output_column must be another than column, got 'text'"):
        ours.translate(rows, model, output_column="text")
    with pytest.raises(Exception, match="translate: column must be a column of the dataset, got 'words'"):
        ours.translate(rows, model, column="words").take_all()
    rows = ray.data.from_items([{"text": "w7 w8", "translation_error": ""}])
    with pytest.raises(Exception, match="output_column must not be .*, got 'translation' and 'translation_error'"):
        ours.translate(rows, model, skip_errors=True, **OPTIONS).take_all()
    assert ours.translate(rows, model, **OPTIONS).take_all()[0]["translation_error"] == ""
    with pytest.raises(Exception, match="output_column must not be a column of the dataset, got 'translation_error'"):
        ours.translate(rows, model, output_column="translation_error", **OPTIONS).take_all()
