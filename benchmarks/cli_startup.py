"""How long do people wait for the command line before it answers?

python benchmarks/cli_startup.py [--repeats 5] [--out docs/results]

Prints a table and writes cli_startup.json: `lightning run --help`, `unipic2 --help` and `unipic2 serve --help`, and
`lightning run pretrain --print_config` beside the bare imports of the libraries that it needs (Lightning's CLI with its
MLflow logger, and the diffusers classes that a stage is made of). The commands take turns, so that a busy machine slows
all of them alike, and processor time stands beside the time on the clock; ratios are those of the medians. Each is a
process of its own with warm file caches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = """
import lightning.pytorch.cli
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
"""
LIGHTNING, UNIPIC2 = (str(Path(sys.executable).with_name(name)) for name in ("lightning", "unipic2"))
HELP = {
    "lightning run --help": [LIGHTNING, "run", "--help"],
    "unipic2 --help": [UNIPIC2, "--help"],
    "unipic2 serve --help": [UNIPIC2, "serve", "--help"],
}
COMMANDS = {
    **HELP,
    "bare imports": [sys.executable, "-c", IMPORTS],
    "lightning run pretrain --print_config": [LIGHTNING, "run", "pretrain", "--print_config"],
}
HELP_GOAL, RATIO_GOAL = 1.5, 1.3


def seconds(command: list[str], folder: str) -> dict[str, float]:
    """Run a command to its end in an empty folder; return its time on the clock and on the processor."""
    environment = {**os.environ, "UNIPIC2_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"clock": clock, "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def measure(repeats: int) -> dict[str, list[dict[str, float]]]:
    """Time all commands in turns, after one round that is not counted."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for name, command in COMMANDS.items():
                taken = seconds(command, folder)
                if turn:
                    times[name].append(taken)
    return times


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the result")
    options = parser.parse_args()
    times = measure(options.repeats)
    medians = {
        kind: {name: statistics.median(each[kind] for each in taken) for name, taken in times.items()}
        for kind in ("clock", "processor")
    }
    ratios = {
        kind: each["lightning run pretrain --print_config"] / each["bare imports"] for kind, each in medians.items()
    }
    print("| command | median s | fastest s | processor s |\n|---|---|---|---|")
    for name, taken in times.items():
        fastest = min(each["clock"] for each in taken)
        print(f"| `{name}` | {medians['clock'][name]:.2f} | {fastest:.2f} | {medians['processor'][name]:.2f} |")
    slowest = max(medians["clock"][name] for name in HELP)
    print(f"\nhelp: at most {slowest:.2f} s (goal {HELP_GOAL} s)")
    print(
        f"--print_config over bare imports: {ratios['clock']:.2f}, by processor time {ratios['processor']:.2f} "
        f"(goal {RATIO_GOAL})"
    )
    result = {
        "command": f"python benchmarks/cli_startup.py --repeats {options.repeats}",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "load_average": os.getloadavg(),
        "median_seconds": medians,
        "print_config_over_imports": ratios,
        "seconds": times,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cli_startup.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
