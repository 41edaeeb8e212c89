"""The command line `unipic2-evals`: score what a model has made, and compare scores."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from unipic2_evals.http import HttpOptions
from unipic2_evals.local import LocalOptions
from unipic2_evals.mmmu import Variant
from unipic2_evals.scoring import Policy

__all__ = ["compare", "main", "score"]

Bench = Literal["geneval", "dpg", "gedit", "imgedit", "mmbench", "mmmu", "shapes"]


def score(
    bench: Bench,
    dir: Path,
    judge: str = "replay",
    answers: Path | None = None,
    judge_id: str | None = None,
    judge_revision: str | None = None,
    http: HttpOptions | None = None,
    local: LocalOptions | None = None,
    data: Path | None = None,
    sources: Path | None = None,
    prompts: Path | None = None,
    samples: int | None = None,
    threshold: float | None = None,
    counting_threshold: float | None = None,
    variant: Variant | None = None,
    missing: Policy = "error",
    failed: Policy = "drop",
    official: bool = True,
    report: Path | None = None,
) -> str:
    """Score a folder of images in a benchmark's official layout; write a table as JSON, Markdown and plot.

    Args:
        bench: The benchmark.
        dir: The folder. geneval: NNNNN/metadata.jsonl and NNNNN/samples/; dpg: ITEM_ID.png; gedit: the model's folder
            with fullset/; imgedit: KEY.png; shapes: the suite with the model's pictures; mmbench, mmmu: any folder
            for the model under test.
        judge: Who looks at the images: replay (only the answers in --answers), http (a served model), local
            (Mask2Former and CLIP for geneval), MODULE:FUNCTION (a function that returns a model), or the name of an
            installed detector. mmbench, mmmu: the model under test, which is asked the questions; rules judge.
        answers: JSONL file of what models said about the images; it is read, and appended to. Default:
            answers.jsonl in the folder of the report.
        judge_id: Whose answers are replayed, if the file holds those of several.
        judge_revision: Likewise, the revision; with MODULE:FUNCTION, what to call this version.
        http: An OpenAI-compatible server, as --http.url, --http.model, --http.revision, ...
        local: Checkpoints on this machine, as --local.detector, --local.clip, ...
        data: The benchmark's own file. geneval: the suite (optional: without it, whole prompts that are absent go
            unnoticed); dpg: dpg_bench.csv; gedit: the rows as Parquet or JSONL; imgedit: basic_edit.json;
            mmbench: TSV, JSONL or Parquet; mmmu: JSONL or Parquet.
        sources: imgedit: the folder of source images.
        prompts: The judge's official prompts. gedit: viescore/vie_prompts.py; imgedit: the JSON by edit type.
        samples: geneval, shapes: images a prompt (4). dpg: tiles a picture (4).
        threshold: geneval, shapes: score above which a detection counts (0.3; shapes: 0.5).
        counting_threshold: geneval, shapes: the same for counting prompts (0.9; shapes: 0.7).
        variant: mmmu: whose rules, lmms_eval (the default) or vlmevalkit.
        missing: What a missing image counts: zero, drop (as the official codes do), or error.
        failed: What an item counts whose answer holds no score: zero, drop (as the official codes do), or error.
        official: Keep the known quirks of the official code (true), or mend them (false).
        report: Folder for the report. Default: beside --dir, its name with "-scores" added.
    """
    from unipic2_evals.answers import Answers
    from unipic2_evals.judges import find_judge
    from unipic2_evals.runs import Options
    from unipic2_evals.runs.read import read_run
    from unipic2_evals.score_files import score_table, write_report
    from unipic2_evals.scoring import score_run

    options = Options(official, data, sources, prompts, samples, threshold, counting_threshold, variant)
    folder = report or dir.resolve().with_name(f"{dir.resolve().name}-scores")
    run = read_run(bench, dir, options)
    kept = Answers(answers or folder / "answers.jsonl")
    who, asker = find_judge(judge, kept, judge_id, judge_revision, http, local)
    result = score_run(run, kept, who, missing, failed, asker, _progress)
    paths = write_report(result, folder)
    counts = ", ".join(f"{number} {name}" for name, number in result["counts"].items())
    hint = "" if len(paths) == 3 else "no plot: pip install 'unipic2-evals[plot]'\n"
    return f"{score_table(result)}\n{counts}\n{hint}wrote {', '.join(map(str, paths))}"


def compare(a: Path, b: Path, page: Path = Path("comparison.html"), most: int = 200) -> str:
    """Compare two scored runs item by item: differences with intervals, and a page with the images that changed.

    Args:
        a: Report of the run to start from: the folder, or its scores.json.
        b: Report of the other run, by the same judge and rules.
        page: HTML file to write; it holds all its images.
        most: Items on the page at most, those that changed most.
    """
    from unipic2_evals.compare import compare_reports, comparison_table
    from unipic2_evals.page import comparison_page
    from unipic2_evals.score_files import read_report

    comparison = compare_reports(read_report(a), read_report(b))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(comparison_page(comparison, (str(a), str(b)), most), encoding="utf-8")
    return f"{comparison_table(comparison)}\n{len(comparison.changes)} items changed\nwrote {page}"


def main() -> None:
    """Run the command line; a ValueError is printed without traceback, exit code 2."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="unipic2-evals", description="Score images of benchmarks, and compare scores.")
    verbs = parser.add_subcommands()
    for name, verb in VERBS.items():
        added = ArgumentParser(description=(verb.__doc__ or "").partition("Args:")[0])
        added.add_function_arguments(verb, as_group=False, as_positional=name in POSITIONAL)
        verbs.add_subcommand(name, added, help=(verb.__doc__ or "").partition("\n")[0])
    # Options may be written with hyphens or underscores.
    args = [re.sub(r"^--[^=]+", lambda m: m[0][:2] + m[0][2:].replace("-", "_"), arg) for arg in sys.argv[1:]]
    chosen = parser.instantiate(parser.parse_args(args))
    try:
        print(VERBS[chosen.subcommand](**chosen[chosen.subcommand].as_dict()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        print("error: interrupted; answers so far are kept", file=sys.stderr)
        sys.exit(130)


def _progress(done: int, total: int) -> None:
    """Show how many calls are done; on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} calls", end="\n" if done == total else "", file=sys.stderr, flush=True)


VERBS: dict[str, Callable[..., str]] = {"score": score, "compare": compare}
POSITIONAL = {"compare"}
"""Verbs whose required arguments need no name."""
