"""janus_fast itself, as a process among its peers."""

import time

from benchmarks.process import serve

PROFILED = 5  # decodes


def prepare(job: dict):
    import janus_fast

    translator = janus_fast.Translator(
        job["model"], compute_type=job["compute_type"], intra_threads=job["intra_threads"],
        inter_threads=job["inter_threads"], backend=job["backend"],
    )  # fmt: skip

    forced = translator.config.forced_bos_token_id

    def translate() -> list[list[list[str]]]:
        results = []
        for texts in job["texts"]:
            results += translator.translate(texts, mode=job["mode"], max_batch_size=job["batch"], **job["options"])
        return [[text.split() for text in result.hypotheses] for result in results]

    def decode() -> list[list[list[int]]]:
        results = []
        for sources in job["calls"]:
            prefixes = None if forced is None else [[forced]] * len(sources)
            results += translator.generate(
                sources, prefixes, mode=job["mode"], max_batch_size=job["batch"], **job["options"]
            )
        return [result.hypotheses for result in results]

    def profile() -> dict[str, list[float]]:
        """Seconds of a decode, of all threads together, by stage: work, and waiting for the other threads."""
        engine = translator._backend
        decode()
        engine.profile()
        began = time.perf_counter()
        for _ in range(PROFILED):
            decode()
        seconds = (time.perf_counter() - began) * job["intra_threads"] * job["inter_threads"]
        stages = engine.profile()
        stages["the rest"] = seconds - sum(map(sum, stages.values())), 0.0
        return {stage: [each / PROFILED for each in times] for stage, times in stages.items()}

    facts = {"version": janus_fast.__version__, "backend": translator.backend, "isa": translator.isa}
    return translate if job["texts"] else decode, facts, profile


if __name__ == "__main__":
    serve(prepare)
