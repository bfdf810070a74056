"""janus_fast itself, as a process among its peers."""

from benchmarks.process import serve


def prepare(job: dict):
    import janus_fast

    translator = janus_fast.Translator(
        job["model"], compute_type=job["compute_type"], intra_threads=job["intra_threads"],
        inter_threads=job["inter_threads"], backend=job["backend"],
    )  # fmt: skip

    forced = translator.config.forced_bos_token_id

    def decode() -> list[list[list[int]]]:
        results = []
        for sources in job["calls"]:
            prefixes = None if forced is None else [[forced]] * len(sources)
            results += translator.generate(
                sources, prefixes, mode=job["mode"], max_batch_size=job["batch"], **job["options"]
            )
        return [result.hypotheses for result in results]

    facts = {"version": janus_fast.__version__, "backend": translator.backend, "isa": translator.isa}
    return decode, facts


if __name__ == "__main__":
    serve(prepare)
