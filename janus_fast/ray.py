"""Datasets of Ray translated by actors: ``janus_fast.ray.translate(dataset, model)``, with Ray 2.60 or newer."""

from . import inputs
from .files import refuse_numbers, results_of
from .installation import need
from .translator import Translator

need("ray", "janus_fast.ray")
import ray.data  # noqa: E402


def translate(
    dataset: "ray.data.Dataset", model, *, column: str = "text", output_column: str = "translation",
    workers: int | tuple[int, int] = 1, num_cpus: int = 1, num_gpus: int = 0, batch_size: int = 1024,
    max_batch_size: int = 32, batch_type: str = "examples", skip_errors: bool = False, preserve_order: bool = True,
    compute_type: str = "default", backend: str = "auto", **options,
) -> "ray.data.Dataset":  # fmt: skip
    """The dataset with a column more: the translation of the text in another, null where that is null.

    It is lazy, as all of Ray Data. Actors hold the model; one that dies is started anew, and its batch, of which
    nothing was handed on, translated again, so that no row is lost or comes twice. Each is given two batches at once,
    and Ray reads no further ahead than its memory allows.

    Args:
        dataset: whose ``column`` holds text.
        model: the name of a shipped model, or a model directory that every machine sees under this path.
        column, output_column: of sources, and of translations, which must be new.
        workers: how many actors, or the least and the most of them.
        num_cpus, num_gpus: what an actor takes of the cluster; as many threads, or one GPU, translate.
        batch_size: rows that an actor is given at once.
        max_batch_size, batch_type: what it decodes at once, in "examples" or "tokens", as in ``Translator.generate``.
        skip_errors: a row that is too long or fails gets null, and column ``{output_column}_error`` says why; without,
            it ends the execution.
        preserve_order: whether rows come in the order of ``dataset``.
        compute_type, backend: those of ``Translator``.
        options: those of ``Translator.translate_iterable``, but ``first_number``: samples are numbered from 0 in each
            batch.
    Raises:
        ValueError: an argument out of range.
    """
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    most = inputs.integer("translate: workers", most, 1)
    least = inputs.integer("translate: workers", least, 1, most)
    batch_size = inputs.integer("translate: batch_size", batch_size, 1)
    num_cpus = inputs.integer("translate: num_cpus", num_cpus, 1)
    num_gpus = inputs.integer("translate: num_gpus", num_gpus, 0, 1)
    if column == output_column:
        raise ValueError(f"translate: output_column must be another than column, got {output_column!r}")
    refuse_numbers(options)
    size = inputs.batch_limit(max_batch_size, batch_type, 32)
    made_by = {
        "model": model, "device": "cuda" if num_gpus else "cpu", "compute_type": compute_type,
        "intra_threads": num_cpus, "backend": backend,
    }  # fmt: skip
    options |= {"max_batch_size": size, "batch_type": batch_type, "read_batch_size": batch_size}
    if preserve_order:  # a matter of the context, which the caller's dataset would share
        dataset = ray.data.Dataset.copy(dataset, _deep_copy=True)
        dataset.context.execution_options.preserve_order = True
    return dataset.map_batches(
        _Actor, fn_constructor_args=(made_by, options, column, output_column, skip_errors), batch_size=batch_size,
        batch_format="pyarrow", zero_copy_batch=True, udf_modifying_row_count=False, num_cpus=num_cpus,
        num_gpus=num_gpus,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2),
    )  # fmt: skip


class _Actor:
    """A translator, and what it makes of a batch of rows."""

    def __init__(self, made_by: dict, options: dict, column: str, output_column: str, skip_errors: bool):
        self.translator = Translator(**made_by)
        self.options, self.column, self.output_column, self.skip_errors = options, column, output_column, skip_errors

    def __call__(self, batch):
        import pyarrow

        error_column, names = f"{self.output_column}_error", batch.column_names
        if self.column not in names:
            raise ValueError(f"translate: column must be a column of the dataset, got {self.column!r}")
        if self.output_column in names:
            raise ValueError(
                f"translate: output_column must not be a column of the dataset, got {self.output_column!r}"
            )
        if self.skip_errors and error_column in names:
            rule = "not be a column of the dataset, nor may that with _error"
            raise ValueError(f"translate: output_column must {rule}, got {self.output_column!r} and {error_column!r}")
        texts = batch.column(self.column).to_pylist()
        rows = [row for row, text in enumerate(texts) if text is not None]
        results = results_of(self.translator, [texts[row] for row in rows], 0, self.options, self.skip_errors)
        translations, errors = [None] * len(texts), [None] * len(texts)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Exception):
                errors[row] = str(result)
            else:
                translations[row] = result.hypotheses[0]
        batch = batch.append_column(self.output_column, pyarrow.array(translations, pyarrow.string()))
        if self.skip_errors:
            batch = batch.append_column(error_column, pyarrow.array(errors, pyarrow.string()))
        return batch
