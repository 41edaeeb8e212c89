"""``unipic2-train sample``: pictures of a benchmark in its official layout.

What is slow to import is imported when it is used: ``--help`` and ``--check_data`` need no model.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from unipic2_train import home
from unipic2_train.benchmarks.readers import DataOptions, read_suite
from unipic2_train.benchmarks.suite import Suite

__all__ = ["sample"]


def sample(
    bench: str,
    checkpoint: str | None = None,
    out: Path | None = None,
    *,
    data: Path | None = None,
    sources: Path | None = None,
    samples: PositiveInt | None = None,
    language: str | None = None,
    check_data: bool = False,
    limit: PositiveInt | None = None,
    steps: PositiveInt = 50,
    guidance: float = 3.5,
    negative_prompt: str = "",
    height: PositiveInt | None = None,
    width: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
    batch_size: PositiveInt = 8,
    lora: str | None = None,
    lora_scale: float = 1.0,
    revision: str | None = None,
    vlm: str | None = None,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> str:
    """Make a benchmark's pictures in the layout that its official scorer and `unipic2-evals score` read.

    Finished pictures are kept, so a stopped command goes on when it is given again. Under torchrun the processes share
    the work; no picture depends on their number.

    Args:
        bench: geneval, dpg, gedit, imgedit, geneval2, gedit2 or shapes.
        checkpoint: Model folder in the official layout, Kontext or MetaQuery, a hub id or home:PRESET/THING.
        out: The output folder. gedit, gedit2: the model's folder; its name is the model's.
        data: The benchmark's own files. geneval: nothing (drawn again from its seed), or another suite in its format;
            dpg: dpg_bench/prompts; gedit: the dataset's Parquet file or folder, or JSONL; imgedit: basic_edit.json;
            geneval2: geneval2_data.jsonl; gedit2: the benchmark's folder; shapes: a suite of
            `unipic2-data shapesbench`.
        sources: imgedit: the folder of source images.
        samples: geneval: pictures a prompt (4). dpg: tiles a picture (4).
        language: gedit: only the instructions in en or cn.
        check_data: Only count what --data holds and compare with the published benchmark.
        limit: Make only the first so many files, to try something out; without it, the same folder is gone on with.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 turns it off.
        negative_prompt: What to lead away from.
        height: Height in px; by default the checkpoint's own or, for edits, the source's.
        width: Width in px, likewise.
        seed: Seed of the run; each picture's noise is a hash of it, the prompt's key and the picture's number.
        batch_size: Pictures that are sampled together.
        lora: LoRA adapter: a .safetensors file, or a folder with pytorch_lora_weights.safetensors.
        lora_scale: Weight of the adapter.
        revision: Revision of a hub id.
        vlm: The VLM of a MetaQuery checkpoint: folder, hub id or home:PRESET/vlm; by default vlm/ inside it.
        device: Where to run; by default a GPU if there is one (under torchrun each process its own).
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
    """
    folder = (out or Path(bench)).expanduser().resolve()
    suite = read_suite(bench, folder, DataOptions(data, sources, samples, language))
    if check_data:
        return _checked(suite)
    if checkpoint is None or out is None:
        msg = "sample needs --checkpoint (a model folder or hub id) and --out (a folder); --check_data needs neither"
        raise ValueError(msg)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for line in suite.deviations() if rank == 0 else ():
        print(f"warning: {line}", file=sys.stderr)  # noqa: T201
    if limit is not None:
        suite = replace(suite, works=suite.works[:limit], finish=None)  # the official lists name every picture

    from transformers.utils import logging

    from unipic2_dit.checkpoint import resolve_folder
    from unipic2_train.benchmarks import manifest
    from unipic2_train.benchmarks.sampling import SamplerOptions, make_suite, reconstruct
    from unipic2_unified import UniPic2

    logging.disable_progress_bar()  # one a text encoder would hide the bar of the files
    where, numbers = _device_and_dtype(device, dtype)
    source = resolve_folder(home.source(checkpoint), revision=revision)
    model = UniPic2.from_pretrained(
        source,
        vlm=None if vlm is None else home.source(vlm),
        dtype=numbers,
        device=where,
        lora=() if lora is None else [(lora, lora_scale)],
    )
    options = SamplerOptions(steps, guidance, negative_prompt, height, width, seed, batch_size)
    facts = {
        **manifest.suite_facts(suite, seed),
        "model": manifest.model_facts(source, checkpoint, revision, lora, lora_scale) | manifest.vlm_facts(model),
        "sampler": manifest.sampler_facts(model, options),
    }
    manifest.enter(folder, facts, rank)
    if suite.prepare and rank == 0:
        suite.prepare(folder)
    made, kept = make_suite(model, suite, folder, options, rank, world_size)
    if suite.bench == "shapes" and rank == 0:
        reconstruct(model, folder)
    return f"{made} files made, {kept} were there: {folder}"


def _checked(suite: Suite) -> str:
    """Return what was counted.

    Raises:
        ValueError: If it is not what the published benchmark has.
    """
    wrong = suite.deviations()
    if wrong:
        raise ValueError("; ".join(wrong))
    counts = ", ".join(f"{count} {name}" for name, count in suite.counts.items())
    return f"{suite.bench}: {counts}, as published; sha256 {suite.digest}"


def _device_and_dtype(device: str | None, dtype: str) -> tuple[str, Any]:
    import torch

    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    where = device or gpu
    auto = torch.bfloat16 if where.startswith("cuda") else torch.float32
    return where, {"auto": auto, "float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
