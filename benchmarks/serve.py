"""What does serving cost, and what does continuous batching bring?

    python benchmarks/serve.py                        # with the model of `make demo`; some minutes on an idle machine
    python benchmarks/serve.py --checkpoint DIR --rounds 3 --steps 8    # quicker, noisier

Five questions. *One request*: the median time of a request over HTTP relative to the same call of the model in this
process. *Sixteen*: pictures a second of 16 clients at once relative to one offline batch of 16. *Arrivals*: how long
requests of mixed lengths take when they come one by one, at a share of the rate that full batches reach, if they join
between steps and if a batch has to end before the next one starts. *Cold start*: until a server answers, relative to
importing what it imports. *Sixty-four* clients, each with one request after the other: errors, times, pictures a
second, and how much the memory of all the server's processes grows after each client's first request. The sides of a
ratio run in turns, so that whatever else the machine does hits both; a ratio is the median over the rounds. Each side
has all cores while the other is idle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil
import torch

from unipic2_apps.loading import default_checkpoint, load
from unipic2_apps.options import ModelOptions
from unipic2_apps.scheduler import Done, Event, Scheduler
from unipic2_unified import Request, UniPic2

PROMPTS = ["a red circle", "a blue square", "a green triangle and a red square", "two yellow circles"]
CLIENTS = 16
SHARES = (0.25, 0.5, 0.75, 0.9)
GATES = {"one_request": 1.15, "sixteen": 0.85, "cold_start": 1.3}
IMPORTS = "import torch, diffusers, transformers, unipic2_unified.model, fastapi, uvicorn"


class WholeBatches(Scheduler[int]):
    """The scheduler to compare with: nobody joins a batch that runs."""

    def _admit(self) -> list[Event[int]]:
        return [] if self.running else super()._admit()


@contextlib.contextmanager
def server(checkpoint: str, *options: str) -> Iterator[str]:
    """Run ``unipic2 serve`` and yield its address."""
    command = [sys.executable, "-m", "unipic2_apps", "serve", "--checkpoint", checkpoint, "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None  # it is piped
        seen = ""
        for line in process.stderr:
            seen += line
            if line.startswith("serving"):
                break
        found = re.search(r"at (http://\S+),", seen)
        if found is None:
            msg = f"error: the server did not start:\n{seen}"
            raise SystemExit(msg)
        try:
            yield found[1]
        finally:
            process.terminate()
            process.stderr.read()


def seconds(run: Callable[[], Any]) -> float:
    """Time a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(rounds: int, left: Callable[[], Any], right: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Time two calls in turns, after one round to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds + 1):
        pairs = [(times[0], left), (times[1], right)]
        for taken, run in pairs if index % 2 else pairs[::-1]:
            spent = seconds(run)
            if index:
                taken.append(spent)
    return times


def summary(served: list[float], direct: list[float]) -> dict[str, float]:
    """Medians, 95th percentiles and the ratio of two lists of times."""

    def late(times: list[float]) -> float:
        return sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]

    return {
        "server_p50_ms": round(statistics.median(served) * 1e3, 1),
        "server_p95_ms": round(late(served) * 1e3, 1),
        "direct_p50_ms": round(statistics.median(direct) * 1e3, 1),
        "ratio": round(statistics.median(a / b for a, b in zip(served, direct, strict=True)), 3),
    }


def compare(url: str, model: UniPic2, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Measure one request, and sixteen at once."""
    client = httpx2.Client(base_url=url, timeout=3600, limits=httpx2.Limits(max_connections=CLIENTS))

    def post(seed: int) -> None:
        body = {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": steps}
        client.post("/v1/images/generations", json=body).raise_for_status()

    requests = [Request(PROMPTS[seed % len(PROMPTS)], steps=steps, seed=seed) for seed in range(CLIENTS)]
    one = in_turns(4 * rounds, lambda: post(0), lambda: model.run(requests[:1]))
    with ThreadPoolExecutor(CLIENTS) as pool:
        many = in_turns(rounds, lambda: list(pool.map(post, range(CLIENTS))), lambda: model.run(requests))
    sixteen = summary(*many)
    sixteen["ratio"] = round(1 / sixteen["ratio"], 3)
    sixteen["server_pictures_per_s"] = round(CLIENTS / statistics.median(many[0]), 2)
    sixteen["offline_pictures_per_s"] = round(CLIENTS / statistics.median(many[1]), 2)
    return {"one_request": summary(*one), "sixteen": sixteen}


def arrivals(model: UniPic2, count: int, steps: int, max_rows: int) -> list[dict[str, Any]]:
    """Measure how long requests take that come one by one, joining or waiting for the batch to end."""
    lengths = [steps // 2, steps, 2 * steps]
    full = [Request(PROMPTS[0], steps=steps, seed=seed) for seed in range(max_rows)]
    model.run(full)
    capacity = max_rows / statistics.median(seconds(lambda: model.run(full)) for _ in range(3))
    mean_length = sum(lengths) / len(lengths) / steps
    rows = []
    for share in SHARES:
        rng = random.Random(0)
        rate = share * capacity / mean_length
        times = [0.0]
        while len(times) < count:
            times.append(times[-1] + rng.expovariate(rate))
        requests = [Request(rng.choice(PROMPTS), steps=rng.choice(lengths), seed=seed) for seed in range(count)]
        for name, kind in (("joining", Scheduler[int]), ("whole batches", WholeBatches)):
            taken = sorted(play(kind(model, max_rows=max_rows), requests, times))
            rows.append(
                {
                    "share_of_capacity": share,
                    "batching": name,
                    "requests_per_s": round(rate, 2),
                    "p50_ms": round(statistics.median(taken) * 1e3),
                    "p95_ms": round(taken[int(0.95 * (count - 1))] * 1e3),
                }
            )
    return rows


def play(scheduler: Scheduler[int], requests: list[Request], times: list[float]) -> list[float]:
    """Let requests come at their times; return how long each took."""
    taken: dict[int, float] = {}
    start, coming = time.perf_counter(), 0
    while len(taken) < len(requests):
        now = time.perf_counter() - start
        while coming < len(times) and times[coming] <= now:
            scheduler.add(coming, requests[coming])
            coming += 1
        if not scheduler:
            time.sleep(max(0.0, times[coming] - now))
        for event in scheduler.step():
            if isinstance(event, Done):
                taken[event.key] = time.perf_counter() - start - times[event.key]
    return list(taken.values())


def sixty_four(checkpoint: str, steps: int, each: int = 4) -> dict[str, float]:
    """Let 64 clients ask for pictures, one after the other, each several times."""
    clients = 64
    taken: list[float] = []
    errors: list[int] = []

    def grown() -> int:
        return sum(process.memory_info().rss for process in psutil.Process().children(recursive=True))

    with server(checkpoint, "--max-rows", str(CLIENTS), "--max-queue", str(clients)) as url:
        client = httpx2.Client(base_url=url, timeout=3600, limits=httpx2.Limits(max_connections=clients))

        def ask(seed: int) -> None:
            body = {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": steps}
            begin = time.perf_counter()
            answer = client.post("/v1/images/generations", json=body)
            taken.append(time.perf_counter() - begin)
            if answer.status_code != httpx2.codes.OK:
                errors.append(answer.status_code)

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(ask, range(clients)))
            before = grown()
            taken.clear()
            whole = seconds(lambda: list(pool.map(ask, range(clients * each))))
            after = grown()
    late = sorted(taken)[int(0.95 * (len(taken) - 1))]
    return {
        "requests": clients * (each + 1),
        "errors": len(errors),
        "p50_s": round(statistics.median(taken), 2),
        "p95_s": round(late, 2),
        "pictures_per_s": round(clients * each / whole, 2),
        "memory_grown_mb": round((after - before) / 2**20, 1),
    }


def cold_start(checkpoint: str, rounds: int) -> dict[str, float]:
    """Measure the time until a server answers against that of bare imports."""

    def start() -> None:
        with server(checkpoint) as url:
            httpx2.get(f"{url}/health").raise_for_status()
            taken.append(time.perf_counter())

    ratios, starts = [], []
    for _ in range(rounds):
        taken: list[float] = []
        bare = seconds(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True))
        begin = time.perf_counter()
        start()
        starts.append(taken[0] - begin)
        ratios.append(starts[-1] / bare)
    return {"start_s": round(statistics.median(starts), 2), "ratio": round(statistics.median(ratios), 3)}


def main() -> None:
    """Measure, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(default_checkpoint()), help="by default the model of `make demo`")
    parser.add_argument("--rounds", type=int, default=9, help="how often each side runs")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a request")
    parser.add_argument("--requests", type=int, default=80, help="requests of each point of the curves")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "serve.json")
    args = parser.parse_args()

    model = load(ModelOptions(checkpoint=args.checkpoint), cache_bytes=2**28)
    with server(args.checkpoint, "--max-rows", str(CLIENTS)) as url:
        measured: dict[str, Any] = compare(url, model, args.rounds, args.steps)
    measured["cold_start"] = cold_start(args.checkpoint, max(1, args.rounds // 3))
    for name, gate in GATES.items():
        ratio = measured[name]["ratio"]
        measured[name]["met"] = ratio >= gate if name == "sixteen" else ratio <= gate
        sign = ">=" if name == "sixteen" else "<="
        print(f"{name:<12} {ratio:>6} (gate {sign} {gate})  {measured[name]}", flush=True)
    measured["sixty_four"] = sixty_four(args.checkpoint, args.steps)
    print(f"sixty_four    {measured['sixty_four']}", flush=True)
    curves = arrivals(model, args.requests, args.steps, max_rows=8)
    print(f"{'share':>5} {'batching':<14} {'p50 ms':>8} {'p95 ms':>8}")
    for row in curves:
        print(f"{row['share_of_capacity']:>5} {row['batching']:<14} {row['p50_ms']:>8} {row['p95_ms']:>8}")
    result = {
        "question": "what serving costs, and what joining between denoising steps brings",
        "gates": GATES,
        **measured,
        "arrivals": curves,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/serve.py", *sys.argv[1:]]),
        "seed": 0,
        "steps": args.steps,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "device": str(model.device),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
