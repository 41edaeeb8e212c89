"""How well does a pre-training recipe learn, over seeds? One run a seed; scores, curves and a table.

A finished run is kept (``runs/pretrain-seeds/<recipe>-seed<N>/scores.json``), so a stop loses one run at most.

Example: ``.venv/bin/python benchmarks/pretrain_seeds.py --recipe pretrain/tiny --seeds 0 1 2``
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIGHTNING = Path(sys.executable).with_name("lightning")
# Two-sided 95% quantiles of Student's t by degrees of freedom: an interval over few seeds.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def main() -> None:
    """Run what is missing, then write JSON, Markdown and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pretrain/tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrain-seeds"), help="where the runs go")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="where the tables go")
    arguments = parser.parse_args()
    name = arguments.recipe.replace("/", "-")
    cells = [run_seed(arguments.recipe, seed, arguments.runs / f"{name}-seed{seed}") for seed in arguments.seeds]
    summary = {
        "command": f"python benchmarks/pretrain_seeds.py --recipe {arguments.recipe} --seeds "
        + " ".join(map(str, arguments.seeds)),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware(),
        "runs": cells,
        "means": {key: mean_interval([cell["metrics"][key] for cell in cells]) for key in headline(cells)},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot(cells, arguments.out / f"{name}.png")
    (arguments.out / f"{name}.md").write_text(page(arguments.recipe, name, summary))
    print((arguments.out / f"{name}.md").read_text())


def run_seed(recipe: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run one seed unless its result is there; return its scores, time and validation curve."""
    result = folder / "seed.json"
    if not result.exists():
        command = [str(LIGHTNING), "run", "pretrain", "--config", recipe, "--run_dir", str(folder)]
        command += ["--model.kontext.seed", str(seed), "--data.seed", str(seed)]
        start = time.monotonic()
        subprocess.run(command, check=True)
        scores = json.loads((folder / "scores.json").read_text())
        minutes, cores = (time.monotonic() - start) / 60, len(os.sched_getaffinity(0))
        cell = {"seed": seed, "minutes": minutes, "cores": cores, **scores, "curve": curve(folder)}
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps(cell))
        partial.rename(result)
    return json.loads(result.read_text())


def curve(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the validation scores by optimiser step, from the run's MLflow record."""
    from mlflow.tracking import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"
    run_id = json.loads((folder / "run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(uri)
    names = ("validation/t2i/exact", "validation/edit/exact")
    return {name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)] for name in names}


def headline(cells: list[dict[str, Any]]) -> list[str]:
    """Return the metrics that the table shows."""
    wanted = ("test/t2i/exact", "test/edit/exact", "test/t2i/geneval", "test/edit/copy_rate")
    return [key for key in wanted if all(key in cell["metrics"] for cell in cells)]


def mean_interval(values: list[float]) -> dict[str, float]:
    """Return mean and 95% interval over seeds (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": math.nan, "high": math.nan}
    half = STUDENT_T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def plot(cells: list[dict[str, Any]], file: Path) -> None:
    """Draw the validation curves of all seeds and their test scores."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, color in (("t2i", "tab:blue"), ("edit", "tab:orange")):
        for index, cell in enumerate(cells):
            points = cell["curve"][f"validation/{name}/exact"]
            label = {"t2i": "text-to-image", "edit": "editing"}[name] if index == 0 else None
            axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, alpha=0.7, label=label)
            axes.plot(points[-1][0], cell["metrics"][f"test/{name}/exact"], "*", color=color, markersize=10)
    axes.set(
        xlabel="optimiser steps",
        ylabel="exact scenes",
        xlim=(0, None),
        ylim=(0, 1),
        title="validation (dots) and test (stars) by seed",
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def page(recipe: str, name: str, summary: dict[str, Any]) -> str:
    """Return the Markdown page."""
    from unipic2_evals.report import markdown_table

    rows = [
        (
            cell["seed"],
            *(f"{cell['metrics'][key]:.3f}" for key in summary["means"]),
            f"{cell['minutes']:.1f}",
            cell["cores"],
        )
        for cell in summary["runs"]
    ]
    means = [f"{value['mean']:.3f} ({value['low']:.3f} - {value['high']:.3f})" for value in summary["means"].values()]
    table = markdown_table(
        ["seed", *(key.removeprefix("test/") for key in summary["means"]), "minutes", "cores"],
        [*rows, ("mean (95%)", *means, "", "")],
    )
    samples = {row["kind"]: row["total"] for row in summary["runs"][0]["rows"] if row["category"] == "all"}
    return f"""# Recipe `{recipe}`

Exact scenes on unseen test prompts ({", ".join(f"{count} {kind}" for kind, count in samples.items())} a seed), judged
by detector B, EMA weights. The interval of the mean is over seeds (Student's t). Minutes are of training and test, with
data and foundation made before (3 to 4 minutes on two cores); cores are those that the run was allowed to use.

{table}

![curves]({name}.png)

Command: `{summary["command"]}`. Date: {summary["date"]}. Hardware: {summary["hardware"]}.
Every category with its interval: [{name}.json]({name}.json).
"""


def hardware() -> str:
    """Return a short description of the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {model}, no GPU used"


if __name__ == "__main__":
    main()
