"""The commands ``lightning run`` and ``unipic2-train``.

``lightning run STAGE [fit|validate|test] [--config RECIPE ...] [--key value ...]`` runs a stage. Recipes are layered
(see ``recipes``), later ones win, and keys on the command line win over all of them. Everything up to ``--help`` and
unknown names is answered before any heavy library is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unipic2_train import home, recipes, usage

__all__ = ["STAGES", "WORKFLOWS", "lightning", "main", "parse_recipe", "run_stage"]

ACTIONS = ("fit", "validate", "test")


@dataclass(frozen=True)
class Entry:
    """A stage or workflow that can be run."""

    summary: str
    module: str = ""
    default: str = ""
    data: str = "unipic2_train.datamodule:ShardData"


STAGES = {
    "vae": Entry("train the small autoencoder of a foundation", "unipic2_train.stages.vae:VaeStage", "vae/tiny"),
    "vlm": Entry(
        "train the small vision-language model of a foundation",
        "unipic2_train.stages.vlm:VlmStage",
        "vlm/tiny",
        "unipic2_train.vlm.data:LessonData",
    ),
    "pretrain": Entry(
        "train text-to-image and editing together",
        "unipic2_train.stages.pretrain:PretrainStage",
        "pretrain/tiny",
    ),
    "connector": Entry(
        "align queries and a connector behind a frozen VLM with a frozen text-to-image model",
        "unipic2_train.stages.connector:ConnectorStage",
        "connector/tiny",
    ),
    "joint": Entry(
        "train connector and Kontext DiT together behind a frozen VLM",
        "unipic2_train.stages.joint:JointStage",
        "joint/tiny",
    ),
    "finetune": Entry(
        "adapt a model to your own pairs or captions (LoRA)",
        "unipic2_train.stages.finetune:FinetuneStage",
        "finetune/tiny",
    ),
    "edit-rl": Entry(
        "reinforce editing by what its own edits score (PDTR's first half)",
        "unipic2_train.stages.reinforce:ReinforceStage",
        "edit-rl/tiny",
        "unipic2_train.rl.data:RolloutData",
    ),
    "t2i-rl": Entry(
        "reinforce text-to-image by what its own pictures score (PDTR's second half)",
        "unipic2_train.stages.reinforce:ReinforceStage",
        "t2i-rl/tiny",
        "unipic2_train.rl.data:RolloutData",
    ),
    "edit-reward": Entry(
        "teach a vision-language model what a judge says of edits: a reward for edit-rl",
        "unipic2_train.stages.edit_reward:EditRewardStage",
        "edit-reward/tiny",
        "unipic2_train.edit_reward.data:ScoredEdits",
    ),
}
WORKFLOWS = {
    "foundation": Entry(
        "make the small stand-ins for downloaded weights: VAE, text encoders, scheduler, VLM", default="tiny"
    ),
    "encode": Entry(
        "run a recipe's VAE and text encoders over its data once, for `data.cache`",
        "unipic2_train.workflows.encode:run",
        "tiny",
    ),
    "pdtr": Entry(
        "reinforce editing, then text-to-image from what that exports",
        "unipic2_train.workflows.pdtr:run",
        "tiny",
    ),
}


class UsageError(ValueError):
    """A command line that can't be run; the message says how it should read."""


def lightning() -> None:
    """Console script ``lightning``."""
    _exit(_lightning, sys.argv[1:])


def main() -> None:
    """Console script ``unipic2-train``."""
    _exit(_main, sys.argv[1:])


def run_stage(name: str, arguments: list[str]) -> Path:
    """Run a stage with command-line arguments and return the run's folder.

    Raises:
        UsageError: Unknown action or missing value.
        RecipeError: A recipe that can't be found or read.
        SystemExit: A key or value that the stage does not accept (code 2, after one message).
    """
    action = "fit"
    if arguments and not arguments[0].startswith("-"):
        action, *arguments = arguments
        if action not in ACTIONS:
            msg = f"unknown action {action!r} after `run {name}`; known: {', '.join(ACTIONS)}"
            raise UsageError(msg)
    layered = _layered(name, arguments)
    from unipic2_train import runner  # heavy: what is wrong with the recipes has been said by now

    return runner.run(STAGES[name], name, action, layered)


def parse_recipe(path: Path) -> None:
    """Parse a shipped recipe against its stage's signature, without building anything.

    A stage's recipe lies in a folder of the stage's name, and its own layers in a folder below that, which are parsed
    on top of its default; ``home/`` recipes belong to ``home.provide``; any other file is a layer and is parsed on top
    of ``pretrain/tiny``.
    """
    name = path.relative_to(recipes.folder()).with_suffix("").as_posix()
    group = name.split("/")[0]
    if group == "home":
        home.check(name.split("/")[1])
        return
    from unipic2_train import runner

    stage = group if group in STAGES else "pretrain"
    layers = [name] if group in STAGES and name.count("/") == 1 else [STAGES[stage].default, name]
    arguments = _layered(stage, [part for layer in layers for part in ("--config", layer)])
    runner.parse(STAGES[stage], arguments)


def _layered(stage: str, arguments: list[str]) -> list[str]:
    """Put all recipes, merged into one text, before the other arguments, and ``--print_config`` behind them."""
    names, rest, printing = [], [], []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            value = next(words, None)
            if value is None:
                msg = f"--config needs a recipe: a name ({', '.join(recipes.available(stage))}) or a .yaml file"
                raise UsageError(msg)
            names.append(value)
        elif word.startswith("--config="):
            names.append(word.removeprefix("--config="))
        elif word.startswith("--print_config"):
            printing.append(word)
        else:
            rest.append(word)
    merged: dict[str, Any] = {}
    for name in names or _default_recipe(stage, rest):
        merged = recipes.merge(merged, recipes.resolve(name))
    return ["--config", yaml.safe_dump(merged, sort_keys=False), *rest, *printing]


def _default_recipe(stage: str, arguments: list[str]) -> list[str]:
    """Return the run's own configuration when one is resumed, else the stage's tiny recipe."""
    for index, word in enumerate(arguments):
        if word == "--resume" or word.startswith("--resume="):
            value = word.partition("=")[2] or (arguments[index + 1] if index + 1 < len(arguments) else "")
            for folder in (Path(value), Path(value).parent.parent):
                if (folder / "config.yaml").is_file():
                    return [str((folder / "config.yaml").resolve())]
    return [STAGES[stage].default]


def _lightning(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: lightning run STAGE|WORKFLOW ...\n\nSee `lightning run --help`; `lightning run model` is Fabric's."
        )
        return
    if arguments[0] != "run":
        _other_lightning(arguments)
    elif arguments[1:2] == ["model"]:
        _fabric(arguments[2:])
    else:
        _run(arguments[1:])


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: unipic2-train VERB ...\n\nverbs:\n  run   run a stage or workflow (the same as `lightning run`)\n"
              "  export   write a model folder from a training checkpoint\n"
              "  sample   make a benchmark's pictures in its official layout\n"
              "  reproduce   settle a claim of the report by a grid of runs over seeds\n"
              "  label-edits   sample edits and have a judge score them, for stage edit-reward\n"
              "  reward-server   serve a reward over HTTP, for runs on other machines")  # fmt: skip
        return
    if arguments[0] == "run":
        _run(arguments[1:])
    elif arguments[0] == "export":
        from unipic2_train import runner

        runner.export_command(arguments[1:])
    elif arguments[0] == "sample":
        from unipic2_train.benchmarks.command import sample
        from unipic2_train.verbs import call

        call(sample, "sample", arguments[1:])
    elif arguments[0] == "reproduce":
        from unipic2_train.reproduce.command import reproduce
        from unipic2_train.verbs import call

        call(reproduce, "reproduce", arguments[1:], positional=True)
    elif arguments[0] == "label-edits":
        from unipic2_train.edit_reward.command import label_edits, spelled_out
        from unipic2_train.verbs import call

        call(label_edits, "label-edits", spelled_out(arguments[1:]))
    elif arguments[0] == "reward-server":
        from unipic2_train.rewards.command import reward_server, spelled_out
        from unipic2_train.verbs import call

        call(reward_server, "reward-server", spelled_out(arguments[1:]))
    else:
        msg = f"unknown verb {arguments[0]!r}; known: run, export, sample, reproduce, label-edits, reward-server"
        raise UsageError(msg)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_run_help())
        return
    name, *rest = arguments
    if name in STAGES:
        run_stage(name, rest)
    elif name in WORKFLOWS:
        _run_workflow(name, rest)
    else:
        msg = f"no stage or workflow named {name!r}; known: {', '.join([*STAGES, *WORKFLOWS])}"
        raise UsageError(msg)


def _run_workflow(name: str, arguments: list[str]) -> None:
    if WORKFLOWS[name].module:
        if arguments[:1] in (["-h"], ["--help"]):
            print(usage.WORKFLOWS[name])
            return
        module, function = WORKFLOWS[name].module.split(":")
        getattr(importlib.import_module(module), function)(arguments)
        return
    preset = WORKFLOWS[name].default
    if arguments[:1] in (["-h"], ["--help"]):
        print(
            f"usage: lightning run {name} [--preset NAME]\n\n{WORKFLOWS[name].summary}; keeps them in {home.folder()}"
        )
        return
    if arguments[:1] == ["--preset"] and len(arguments) == 2:
        preset = arguments[1]
    elif arguments:
        msg = f"`lightning run {name}` takes only --preset NAME, not {' '.join(arguments)}"
        raise UsageError(msg)
    print(home.provide(f"home:{preset}/{name}"))
    if name == "foundation":
        print(home.provide(f"home:{preset}/vlm"))


def _run_help() -> str:
    width = max(map(len, [*STAGES, *WORKFLOWS])) + 2
    stages = "\n".join(
        f"  {name:{width}}{entry.summary} (default recipe: {entry.default})" for name, entry in STAGES.items()
    )
    workflows = "\n".join(f"  {name:{width}}{entry.summary}" for name, entry in WORKFLOWS.items())
    return f"""usage: lightning run STAGE [fit|validate|test] [--config RECIPE ...] [--key value ...]
       lightning run WORKFLOW [--preset NAME | --config RECIPE ...]

stages:
{stages}

workflows:
{workflows}

Recipes: a shipped name (pretrain/demo) or a .yaml file; several are layered, the last wins, keys win over all.
  lightning run pretrain                                    the tiny recipe; makes its data and foundation on first use
  lightning run pretrain --config pretrain/demo             another recipe
  lightning run pretrain --trainer.max_steps 100            change a key
  lightning run pretrain --print_config                     one file that reproduces the run alone
  lightning run pretrain --help                             every key, with types and defaults
  lightning run pretrain --resume runs/RUN                  go on where it stopped
  lightning run pretrain test --resume runs/RUN             score its newest checkpoint
shipped: {", ".join(recipes.available())}"""


def _fabric(arguments: list[str]) -> None:
    from lightning.fabric.cli import _main as fabric

    fabric(["run", *arguments])


def _other_lightning(arguments: list[str]) -> None:
    if importlib.util.find_spec("lightning_sdk") is None:
        msg = (
            f"`lightning {arguments[0]}` is a command of lightning-sdk, which is not installed; here `lightning run "
            "STAGE` runs a training stage (see `lightning run --help`)"
        )
        raise UsageError(msg)
    importlib.import_module("lightning_sdk.cli.entrypoint").main_cli()


def _exit(command: Any, arguments: list[str]) -> None:
    """Run a command; expected errors become one line and exit code 2, Ctrl-C becomes 130."""
    try:
        command(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        # ValueError is what this project raises for bad input; anything else is a defect and keeps its traceback.
        if os.environ.get("UNIPIC2_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
