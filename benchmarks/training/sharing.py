"""What training by two processes takes where they share out the model (``--fsdp``), and where each holds all of it.

Either way two processes of one thread each, which torchrun starts and gloo connects, take updates of JANUS on 39
sentence pairs together; the first update is not timed. Memory is what a process has resident after them, and the most
that it had until then and until a checkpoint was written, above an interpreter with torch. The process that has most
counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import ROOT, machine, resident
from benchmarks.workload import CONFIGURATIONS

WAYS = {"whole": False, "fsdp": True}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sharing", description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGURATIONS, default="base", help="sizes (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--checkpoint-activations", action="store_true", help="compute activations again")
    parser.add_argument("--updates", type=int, default=3, help="that are timed (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = vars(parser.parse_args(argv))
    as_json, records = arguments.pop("json"), {}
    for way in WAYS:
        records[way] = measure({**arguments, "way": way})
        if not as_json:
            print(line(way, records[way]), flush=True)
    if as_json:
        print(json.dumps({**arguments, **records, "machine": machine(1)}, indent=1))
    return 0


def measure(job: dict) -> dict:
    """``seconds`` of an update, and bytes: of ``parameters``, ``resident``, ``peak`` and ``saving_peak``."""
    with tempfile.TemporaryDirectory(prefix="janus_fast-") as directory:
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", __name__,
             json.dumps(job), directory],
            check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr,
        )  # fmt: skip
        records = [json.loads(file.read_text()) for file in Path(directory).glob("*.json")]
    return {name: max(record[name] for record in records) for name in records[0]}


def line(way: str, record: dict) -> str:
    sizes = {name: f"{record[name] / 2**20:,.0f}" for name in ("parameters", "resident", "peak", "saving_peak")}
    return (
        f"{way}: {record['seconds']:.2f} s; parameters {sizes['parameters']} MiB; resident {sizes['resident']} MiB, "
        f"at most {sizes['peak']} MiB, and in writing a checkpoint {sizes['saving_peak']} MiB"
    )


def work(job: dict, directory: Path) -> None:
    """One of the processes."""
    import torch
    import torch.distributed.tensor  # counts as torch

    from benchmarks.peers.training import SENTENCES, configuration, generator, sentences
    from janus_fast.model import JanusModel
    from janus_fast.training.data import ParallelData
    from janus_fast.training.metrics import Window
    from janus_fast.training.options import TrainingOptions
    from janus_fast.training.processes import started_processes
    from janus_fast.training.trainer import Trainer

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # the first optimizer brings modules along, of more than 100 MiB
    with started_processes() as processes:
        idle = resident()
        torch.manual_seed(0)
        config = configuration(job["config"], dropout=0.1, activation="relu")
        options = TrainingOptions(
            precision=job["dtype"], checkpoint_activations=job["checkpoint_activations"], fsdp=WAYS[job["way"]]
        )
        data = ParallelData(*sentences(config.source_vocab_size), list(range(SENTENCES)))
        trainer = Trainer(JanusModel(config), data, directory, options, processes=processes)
        parameters = sum(p.nbytes for p in trainer.parameters)
        trainer.model.train()
        seconds = []
        with trainer.memory():
            for _ in range(job["updates"] + 1):
                processes.wait()
                began = time.perf_counter()
                batch = trainer.objective.pack(data.sources, data.targets, generator(), processes.share)
                trainer.step(iter([(0, 0, batch)]), Window())
                seconds.append(time.perf_counter() - began)
            # Linux counts pages on each processor and adds them up at times, so that a later reading may be smaller.
            held = resident()
            peak = max(held, resident(field="VmHWM"))
            trainer.save()
        record = {
            "seconds": statistics.median(seconds[1:]), "parameters": parameters, "resident": held - idle,
            "peak": peak - idle, "saving_peak": max(peak, resident(field="VmHWM")) - idle,
        }  # fmt: skip
        (directory / f"{processes.rank}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    work(json.loads(sys.argv[1]), Path(sys.argv[2]))
