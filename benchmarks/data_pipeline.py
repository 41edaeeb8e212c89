"""Is the loader as fast as the machine decodes, and as others load?

    python benchmarks/data_pipeline.py                # about eight minutes
    python benchmarks/data_pipeline.py --rounds 3     # quicker, noisier

All rows decode the same JPEG bytes (photographs of 0.8, 1 and 3 megapixels) to the same 512x512 tensors by the same
resize and crop, and run in turns. Tensors are bytes, as a batch carries them to the device that makes floats of them.
``images/s`` of one process counts processor time, of the pipeline's processes together: what an idle core would take;
two workers need two cores at once and count wall clock. A ratio is the median over the rounds. The barest loop is:
read, Pillow draft decode, resize, to tensor. webdataset decodes as its manual says (``decode("pilrgb")``), and once
more with the draft decode that the barest loop has. datasets (Hugging Face) reads the same bytes from Parquet. Cached
latents and embeddings have the sizes of SD3's.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader

from unipic2_data.cache.build_latents import LatentBuild, PictureEncoder
from unipic2_data.cache.build_text import TextBuild, TextEncoder
from unipic2_data.cache.portion import Portion
from unipic2_data.cache.read import Cache, CacheConfig
from unipic2_data.loader import TrainLoader
from unipic2_data.manifest import Manifest, Shard, ShardWriter
from unipic2_data.pool import Pool
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import Image, Sample, sample_from_tar
from unipic2_data.transform import Transform

SIZE, BATCH, SEED = 512, 16, 0
ALL_CORES = sorted(os.sched_getaffinity(0))
EDGES = ((768, 1024), (1024, 1024), (1536, 2048))  # of the photographs
LATENTS = (2, 16, 64, 64)  # mean and log-variance of SD3's autoencoder at 512 px
TOKENS, WIDTH, CLIP_TOKENS, CLIP_WIDTH, POOLED = 333, 4096, 77, 2048, 2048  # of SD3's text encoders
FEW = 4  # pictures of a batch where the wall clock runs
WARM = 2  # batches before the clock starts
Batches = Iterator[Any]


def photographs(number: int) -> Iterator[bytes]:
    """Yield JPEGs: crops of the photographs that scikit-image ships, enlarged, with a little grain."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    found = [Pillow.open(folder / name).convert("RGB") for name in ("astronaut.png", "chelsea.png", "coffee.png")]
    for index in range(number):
        rng = keyed_rng(SEED, f"photograph-{index}")
        height, width = EDGES[index % len(EDGES)]
        whole = found[index % 7 % len(found)]
        scale = rng.uniform(0.5, 0.95) * min(whole.width / width, whole.height / height)
        left, top = rng.uniform(0, whole.width - scale * width), rng.uniform(0, whole.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        pixels = np.asarray(whole.resize((width, height), Pillow.Resampling.BICUBIC, box=box), np.float32)
        grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
        file = io.BytesIO()
        Pillow.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def make_data(folder: Path, number: int) -> Manifest:
    """Write the photographs as a data set, as plain webdataset reads it too, and as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards, rows = [], []
    pictures = list(photographs(number))
    for start in range(0, number, 32):
        with ShardWriter(folder, f"train/t2i-{start:05d}.tar", "train", "t2i") as writer:
            for index, data in enumerate(pictures[start : start + 32], start):
                writer.add(Sample(f"photo-{index}", "t2i", {"captions": [f"photograph {index}"]}, Image(data, "jpg")))
                rows.append({"image": {"bytes": data, "path": None}, "text": f"photograph {index}"})
        shards.append(writer.close())
    manifest = Manifest(folder, shards)
    manifest.save()
    pq.write_table(pa.Table.from_pylist(rows), folder / "photos.parquet", row_group_size=32)
    return manifest


def cover(image: Pillow.Image) -> Tensor:
    """Resize and centre-crop to SIZE, to a tensor (SIZE, SIZE, 3) of bytes: the transform of every row."""
    scale = max(SIZE / image.width, SIZE / image.height)
    width, height = SIZE / scale, SIZE / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return torch.from_numpy(np.array(image.resize((SIZE, SIZE), Pillow.Resampling.LANCZOS, box=box)))


def draft(data: bytes) -> Tensor:
    """Decode a JPEG no larger than needed, and bring it to SIZE."""
    with Pillow.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SIZE, SIZE))
        return cover(image)


def bare(manifest: Manifest, batch_size: int = BATCH) -> Batches:
    """The barest loop: read, draft decode, resize, to tensor; endless lists of pictures."""
    places = [
        (manifest.root / shard.path, *place) for shard in manifest.shards for place in manifest.offsets(shard).tolist()
    ]
    files = {path: os.open(path, os.O_RDONLY) for path, *_ in places}
    endless = cycle(places)
    while True:
        batch = []
        for path, start, length in islice(endless, batch_size):
            target = sample_from_tar(os.pread(files[path], length, start), "").target
            assert target is not None
            batch.append(draft(target.data))
        yield batch


def ours(manifest: Manifest, workers: int, seed: int = SEED, **options: Any) -> Batches:
    """Our loader."""
    return iter(TrainLoader(manifest, SIZE, BATCH, seed, num_workers=workers, **options))


def webdataset(manifest: Manifest, workers: int, seed: int, *, drafted: bool) -> Batches:
    """Plain webdataset: sequential reads, shards shuffled."""
    import webdataset as wds

    urls = [str(manifest.root / shard.path) for shard in manifest.shards]
    data = wds.WebDataset(urls, shardshuffle=100, seed=seed).repeat()
    if drafted:
        data = data.map(lambda sample: (draft(sample["target.jpg"]), sample["json"]))
    else:
        data = data.decode("pilrgb").map(lambda sample: (cover(sample["target.jpg"]), sample["json"]))
    return iter(wds.WebLoader(data.batched(BATCH), num_workers=workers, batch_size=None))


def hugging_face(manifest: Manifest, workers: int, seed: int) -> Batches:
    """`datasets` on Parquet: random access with a transform, under torch's loader."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset(
        "parquet",
        data_files=str(manifest.root / "photos.parquet"),
        split="train",
        cache_dir=str(manifest.root / "hugging-face"),
    )
    data = data.cast_column("image", datasets.Image())
    data = data.with_transform(
        lambda rows: {"pixels": [cover(image.convert("RGB")) for image in rows["image"]], "text": rows["text"]}
    )
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        data, BATCH, shuffle=True, num_workers=workers, generator=generator, persistent_workers=workers > 0
    )
    while True:
        yield from loader


def cpu_seconds() -> float:
    """Processor time of this process and its children, those that have ended too."""
    me = psutil.Process()
    return sum(me.cpu_times()[:4]) + sum(sum(child.cpu_times()[:2]) for child in me.children(recursive=True))


def rate(batches: Batches, number: int, clock: Callable[[], float] = cpu_seconds) -> float:
    """Pictures a second over so many batches of a pipeline in its stride."""
    start = clock()
    for _ in range(number):
        next(batches)
    return number * BATCH / (clock() - start)


def alone(make: Callable[[int], Batches], number: int, seed: int) -> float:
    """Start a pipeline with a seed of the order, measure it, and end its processes."""
    batches = make(seed)
    for _ in range(WARM):
        next(batches)
    found = rate(batches, number)
    del batches
    return found


def one_process(manifest: Manifest, rounds: int, number: int) -> dict[str, Any]:
    """Compare pipelines of one worker, in turns."""
    pipelines: dict[str, Callable[[int], Batches]] = {
        "barest loop": lambda _: bare(manifest),
        "ours, 1 worker": lambda seed: ours(manifest, 1, seed),
        "ours, no worker": lambda seed: ours(manifest, 0, seed),
        "webdataset, 1 worker": lambda seed: webdataset(manifest, 1, seed, drafted=False),
        "webdataset with draft decode, 1 worker": lambda seed: webdataset(manifest, 1, seed, drafted=True),
    }
    if importlib.util.find_spec("datasets"):
        pipelines["datasets on Parquet, 1 worker"] = lambda seed: hugging_face(manifest, 1, seed)
    found: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(rounds):
        for name in list(pipelines)[:: 1 if turn % 2 else -1]:
            found[name].append(alone(pipelines[name], number, turn))
            print(f"round {turn + 1}: {name:40} {found[name][-1]:7.1f} images/s", flush=True)
    return _against("ours, 1 worker", found)


def _against(own: str, found: dict[str, list[float]]) -> dict[str, Any]:
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(found[own], rates, strict=True)), 3)
        for name, rates in found.items()
    }
    medians = {name: round(statistics.median(rates), 1) for name, rates in found.items()}
    return {"images_per_s": medians, "own": own, "ratio of own to": ratios}


def _bare_process(root: Path, start: Any, stop: Any, done: Any, slot: int) -> None:
    torch.set_num_threads(1)
    batches = bare(Manifest.load(root), 1)
    next(batches)
    start.wait()
    for number in count(1):
        next(batches)
        done[slot] = number
        if stop.is_set():
            return


def bare_processes(manifest: Manifest, workers: int, seconds: float) -> float:
    """Pictures a second, by the wall, of so many processes that run the barest loop."""
    context = multiprocessing.get_context("fork")
    start, stop = context.Event(), context.Event()
    done = context.Array("q", workers, lock=False)
    processes = [
        context.Process(target=_bare_process, args=(manifest.root, start, stop, done, slot)) for slot in range(workers)
    ]
    for process in processes:
        process.start()
    time.sleep(1.0)
    start.set()
    time.sleep(0.5)
    before, begin = sum(done), time.perf_counter()
    time.sleep(seconds)
    found = (sum(done) - before) / (time.perf_counter() - begin)
    stop.set()
    for process in processes:
        process.join()
    return found


def loader_processes(manifest: Manifest, workers: int, seconds: float) -> float:
    """Pictures a second, by the wall, of our loader with so many workers."""
    batches = iter(TrainLoader(manifest, SIZE, FEW, SEED, num_workers=workers))
    for _ in range(4 * workers):
        next(batches)
    number, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        next(batches)
        number += FEW
    return number / (time.perf_counter() - begin)


def two_workers(manifest: Manifest, rounds: int, seconds: float) -> dict[str, Any]:
    """Compare how two workers scale with how two bare processes do."""
    rows: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(rounds):
        for name, run in (("ours", loader_processes), ("bare", bare_processes))[:: 1 if turn % 2 else -1]:
            rows[name].append(run(manifest, 2, seconds) / run(manifest, 1, seconds))
        print(f"round {turn + 1}: two workers x{rows['ours'][-1]:.2f}, processes x{rows['bare'][-1]:.2f}", flush=True)
    return {
        **{f"scaling of {name}": round(statistics.median(values), 3) for name, values in rows.items()},
        "ratio": round(statistics.median(a / b for a, b in zip(rows["ours"], rows["bare"], strict=True)), 3),
    }


def cached(manifest: Manifest, rounds: int, number: int) -> dict[str, Any]:
    """Compare reading a cache with decoding, both without workers; latents and embeddings have SD3's sizes."""
    generator = torch.Generator().manual_seed(SEED)

    embeds, pooled = torch.randn(TOKENS, WIDTH, generator=generator), torch.randn(POOLED, generator=generator)
    embeds[:CLIP_TOKENS, CLIP_WIDTH:] = 0

    def read(prompts: Any) -> tuple[Tensor, Tensor]:
        return embeds.expand(len(prompts), -1, -1), pooled.expand(len(prompts), -1)

    folder = manifest.root / "cache"
    portions = Portion.of(Pool.whole(manifest), (SIZE, SIZE))
    encoder = PictureEncoder("random", lambda pixels: torch.randn(len(pixels), *LATENTS, generator=generator))
    LatentBuild(folder / "latents", portions, encoder).run()
    errors = {}
    for dtype in ("bfloat16", "float8"):
        build = TextBuild(manifest.root / dtype / "text", portions, TextEncoder("random", read), dtype)
        errors[dtype] = round(build.run().error.relative, 5)
        (manifest.root / dtype / "latents").symlink_to(folder / "latents")

    def of(**config: Any) -> Callable[[int], Batches]:
        return lambda seed: ours(manifest, 0, seed, encoded=Cache(CacheConfig(**config), Transform.identity))

    pipelines: dict[str, Callable[[int], Batches]] = {
        "latents": of(path=str(folder), text=None),
        "decoding": lambda seed: ours(manifest, 0, seed),
        "latents and text, bfloat16": of(path=str(manifest.root / "bfloat16")),
        "latents and text, float8": of(path=str(manifest.root / "float8"), text="float8"),
    }
    found: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(rounds):
        for name, make in pipelines.items():
            found[name].append(alone(make, number if name == "decoding" else 8 * number, turn))
    return {**_against("latents", found), "relative error of text": errors}


def _megabytes() -> float:
    me = psutil.Process()
    return sum(one.memory_full_info().uss for one in [me, *me.children(recursive=True)]) / 2**20


def memory(manifest: Manifest, epochs: float, workers: int, batch: int, size: int) -> dict[str, float]:
    """Memory of a loader's processes (their own pages) after a tenth of the way, and at its end."""
    samples = sum(shard.samples for shard in manifest.shards)
    steps = int(epochs * samples / batch)
    batches = iter(TrainLoader(manifest, size, batch, SEED, num_workers=workers))
    for _ in range(max(steps // 10, 3)):
        next(batches)
    early = _megabytes()
    for _ in range(steps - max(steps // 10, 3)):
        next(batches)
    late = _megabytes()
    return {"samples": samples, "epochs": epochs, "MiB at a tenth": round(early, 1), "MiB at the end": round(late, 1),
            "growth": round(late / early, 3)}  # fmt: skip


def fresh_memory(*arguments: Any) -> dict[str, float]:
    """Measure memory in a process of its own: pages that a fork still shares with its parent would count later."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory_outside, arguments)


def _memory_outside(*arguments: Any) -> dict[str, float]:
    torch.set_num_threads(1)
    multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it has workers
    return memory(*arguments)


def many_shards(folder: Path, number: int, *, real: bool) -> Manifest:
    """Write a data set of so many shards of two small samples each; not real: links to one tar."""
    picture = io.BytesIO()
    Pillow.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "JPEG")
    shards = []
    for index in range(number if real else 1):
        with ShardWriter(folder, f"{index // 1000}/{index}.tar", "train", "t2i") as writer:
            for row in range(2):
                key = f"sample-{index}-{row}"
                writer.add(Sample(key, "t2i", {"captions": [key]}, Image(picture.getvalue(), "jpg")))
        shards.append(writer.close())
    for index in range(len(shards), number):
        path = folder / f"{index // 1000}/{index}.tar"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(folder / shards[0].path)
        path.with_suffix(".idx.npy").symlink_to(folder / shards[0].index)
        names = {"path": f"{index // 1000}/{index}.tar", "index": f"{index // 1000}/{index}.idx.npy"}
        shards.append(Shard(**{field: getattr(shards[0], field) for field in Shard.__slots__} | names))
    manifest = Manifest(folder, shards)
    manifest.save()
    return manifest


def start_of_iteration(folder: Path, number: int) -> dict[str, float]:
    """Seconds of processor and of the wall from nothing to the first batch."""
    many_shards(folder, number, real=False)
    begin, cpu = time.perf_counter(), time.process_time()
    next(iter(TrainLoader(Manifest.load(folder), 8, BATCH, SEED)))
    return {"shards": number, "seconds": round(time.perf_counter() - begin, 2),
            "processor seconds": round(time.process_time() - cpu, 2)}  # fmt: skip


def gates(result: dict[str, Any]) -> dict[str, bool]:
    """Return what had to hold, and whether it does."""
    ratios = result["one process"]["ratio of own to"]
    return {
        "gate: >= 0.9 of the barest loop": ratios["barest loop"] >= 0.9,
        "gate: >= 1.0 of webdataset": ratios["webdataset, 1 worker"] >= 1.0,
        "goal: >= 1.2 of webdataset": ratios["webdataset, 1 worker"] >= 1.2,
        "goal: faster than datasets on Parquet": ratios.get("datasets on Parquet, 1 worker", 0) > 1,
        "gate: two workers scale >= 0.9 as two processes": result["two workers"]["ratio"] >= 0.9,
        "gate: memory flat over an epoch": result["memory over an epoch"]["growth"] <= 1.05,
        "gate: memory flat over 10,000 shards": result["memory over 10,000 shards"]["growth"] <= 1.05,
        "gate: starts in <= 2 s with 100,000 shards": result["start of iteration"]["seconds"] <= 2,
        "gate: cached latents >= 10 x decoding": result["cached"]["ratio of own to"]["decoding"] >= 10,
    }


def measure(folder: Path, rounds: int, number: int, pictures: int) -> dict[str, Any]:
    """Run everything: on one core, but for the workers that need two."""
    os.sched_setaffinity(0, ALL_CORES[-1:])
    manifest = make_data(folder / "photos", pictures)
    size = sum(shard.bytes for shard in manifest.shards) / pictures
    print(f"{pictures} photographs of {size / 1024:.0f} KiB", flush=True)
    result: dict[str, Any] = {"photographs": pictures, "mean KiB": round(size / 1024)}
    result["one process"] = one_process(manifest, rounds, number)
    os.sched_setaffinity(0, ALL_CORES)
    result["two workers"] = two_workers(manifest, rounds + 2, 3.0)
    os.sched_setaffinity(0, ALL_CORES[-1:])
    result["cached"] = cached(manifest, rounds, number)
    result["memory over an epoch"] = fresh_memory(manifest, 4.0, 1, BATCH, SIZE)
    small = many_shards(folder / "small", 10_000, real=True)
    result["memory over 10,000 shards"] = fresh_memory(small, 1.0, 0, BATCH, 8)
    result["start of iteration"] = start_of_iteration(folder / "many", 100_000)
    return result


def page(document: dict[str, Any]) -> str:
    """Return the results as a Markdown page."""
    result = document["results"]
    lines = [f"# Data pipeline\n\n{__doc__.strip()}\n", f"{document['date']}, {document['cpu']}, seed {SEED}, "
             f"`{document['command']}`; {result['photographs']} photographs of {result['mean KiB']} KiB on average.\n",
             "| one process | images/s | ours is faster by |", "|---|---|---|"]  # fmt: skip
    one = result["one process"]
    lines += [f"| {name} | {value} | {one['ratio of own to'][name]} |" for name, value in one["images_per_s"].items()]
    if "datasets on Parquet, 1 worker" not in one["images_per_s"]:
        lines.append("| datasets on Parquet | not installed: `pip install datasets` | |")
    cache = result["cached"]
    lines += ["", "| cached at 512 px, no worker | images/s | latents alone are faster by |", "|---|---|---|"]
    lines += [
        f"| {name} | {value} | {cache['ratio of own to'][name]} |" for name, value in cache["images_per_s"].items()
    ]
    lines += ["", "| other | |", "|---|---|"]
    for name in ("two workers", "memory over an epoch", "memory over 10,000 shards", "start of iteration"):
        lines.append(f"| {name} | {', '.join(f'{key} {value}' for key, value in result[name].items())} |")
    errors = cache["relative error of text"]
    lines.append(f"| error of storing text | {', '.join(f'{key} {value}' for key, value in errors.items())} |")
    lines += ["", *(f"- {name}: {'met' if met else '**missed**'}" for name, met in document["gates"].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6, help="batches of 16 that a pipeline is timed over")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="data-pipeline-"))
    try:
        result = measure(folder, options.rounds, options.batches, options.pictures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    document = {
        "command": " ".join(["python", "benchmarks/data_pipeline.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "seed": SEED,
        "torch": torch.__version__,
        "pillow": Pillow.__version__,
        "gates": gates(result),
        "results": result,
    }
    text = page(document)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "data_pipeline.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.out / "data_pipeline.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
