"""Running a stage: from a merged recipe to a finished run. Imported only when something is really run."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from unipic2_train import home
from unipic2_train.callbacks.frozen import FrozenProofs
from unipic2_train.datamodule import ShardData
from unipic2_train.tracking import Run, RunError, Tracker, find_checkpoint, git_revision, package_versions, parent_of

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from unipic2_train.cli import Entry

__all__ = ["export_command", "parse", "run"]


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations and says what is wrong in one line instead of a hundred of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> None:  # noqa: ARG002
        """Print the message and exit with code 2."""
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


class StageCLI(LightningCLI):
    """Lightning's CLI over one stage, with a run folder, MLflow, and things made on first use."""

    def __init__(self, stage: str, entry: Entry, arguments: list[str], *, build: bool = True) -> None:
        self.stage, self.arguments, self.build = stage, arguments, build
        self.data: type[ShardData] = _imported(entry.data)
        super().__init__(
            _imported(entry.module),
            self.data,
            run=False,
            save_config_callback=None,
            parser_class=Parser,
            auto_configure_optimizers=False,
            seed_everything_default=0,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to the run and not to a class."""
        parser.add_argument("--run_dir", type=str | None, default=None, help="the run's folder (default: ./runs/NAME)")
        parser.add_argument("--resume", type=str | None, default=None, help="go on from this run or checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:  # noqa: ARG002
        """Parse our merged recipe and flags; ``sys.argv`` stays as it is, since Lightning starts rank 1 from it."""
        self.config = parser.parse_args(self.arguments)

    def before_instantiate_classes(self) -> None:
        """Make what the recipe refers to, before any process is spawned."""
        if not self.build:
            return
        for reference in sorted(set(home.references(self.config.as_dict()))):
            home.provide(reference)

    def instantiate_classes(self) -> None:
        """Build trainer, stage and data, unless only the configuration is wanted."""
        if self.build:
            self.data.check(self.config.data)
            self.run_record = _open_run(self.stage, self.config)
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run's folder and tracker, and have what is frozen proven so."""
        logger: Tracker | bool = False
        if self.config.trainer.logger is not False and rank_zero_only.rank == 0:
            logger = Tracker(self.run_record)
        else:
            self.run_record.write()
        trainer = super().instantiate_trainer(logger=logger, default_root_dir=self.run_record.folder, **kwargs)
        if not any(isinstance(callback, FrozenProofs) for callback in trainer.callbacks):
            trainer.callbacks.insert(0, FrozenProofs())
        return trainer

    def configuration(self) -> str:
        """Return one YAML text that reproduces the run alone."""
        config = self.config.clone()
        for key in ("config", "run_dir", "resume"):
            config.pop(key, None)
        return self.parser.dump(config, skip_none=False)


def parse(entry: Entry, arguments: list[str]) -> Namespace:
    """Return the validated configuration of a stage without building or making anything."""
    return StageCLI("parse", entry, arguments, build=False).config


def run(entry: Entry, stage: str, action: str, arguments: list[str]) -> Path:
    """Run an action of a stage and return the run's folder."""
    _quiet()
    cli = StageCLI(stage, entry, arguments)
    folder = cli.run_record.folder
    checkpoint = str(find_checkpoint(Path(cli.config.resume))) if cli.config.resume else None
    if cli.trainer.is_global_zero:
        _record(cli, checkpoint)
    try:
        if action != "fit":
            getattr(cli.trainer, action)(cli.model, cli.datamodule, ckpt_path=checkpoint, verbose=False)
            return folder
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint)
        scored = any(hasattr(callback, "test_samples") for callback in cli.trainer.callbacks)
        if scored and cli.datamodule.kinds_in("test"):
            cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    except SystemExit as error:  # Lightning's way to end after Ctrl-C, with code 1
        if cli.trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    _say_where(cli, folder)
    if dist.is_initialized():  # Not before: fit and test share the processes.
        dist.destroy_process_group()
    return folder


def export_command(arguments: list[str]) -> None:
    """Run ``unipic2-train export RUN --out DIR``: the averaged model of a run's newest checkpoint as a model folder."""
    parser = Parser(prog="unipic2-train export")
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    values = parser.parse_args(arguments)
    export_run(values.run, values.out)


def export_run(run: Path, out: Path) -> None:
    """Write a model folder from a training checkpoint.

    Args:
        run: A run's folder, or one of its checkpoints.
        out: Folder to write.
    """
    from unipic2_train.cli import STAGES, _layered

    checkpoint = find_checkpoint(Path(run))
    record = Run.reopen(checkpoint.parent.parent)
    # Any world size's checkpoint loads in one process. No batch is looked at: the pass only loads.
    layers = ["--config", str(record.folder / "config.yaml"), "--config", "hardware/cpu"]
    flags = ["--trainer.logger", "false", "--trainer.limit_val_batches", "0", "--resume", str(checkpoint)]
    _quiet()
    cli = StageCLI(record.stage, STAGES[record.stage], _layered(record.stage, [*layers, *flags]))
    cli.trainer.validate(cli.model, cli.datamodule, ckpt_path=str(checkpoint), verbose=False)
    from unipic2_train.callbacks.ema import averaged_weights

    with averaged_weights(cli.trainer):
        cli.model.export(Path(out), {"run": record.folder.name, "checkpoint": checkpoint.name})
    print(f"exported {checkpoint} to {out}")  # noqa: T201


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _open_run(stage: str, config: Namespace) -> Run:
    if config.resume and config.run_dir:
        msg = "--resume goes on in the run's own folder: leave --run_dir out, or start a new run from its export"
        raise RunError(msg)
    if config.resume:
        return Run.reopen(find_checkpoint(Path(config.resume)).parent.parent)
    return Run.start(stage, Path(config.run_dir) if config.run_dir else None)


def _record(cli: StageCLI, checkpoint: str | None) -> None:
    """Write what the run is into its folder and MLflow: configuration, code, versions, data and lineage."""
    folder = cli.run_record.folder
    folder.mkdir(parents=True, exist_ok=True)
    text = cli.configuration()
    partial = folder / ".config.yaml.partial"
    partial.write_text(text)
    partial.rename(folder / "config.yaml")
    data: LightningDataModule = cli.datamodule
    data.setup("fit")
    facts = {
        "git_revision": git_revision(),
        "data_manifest": data.manifest.digest,
        "parent": parent_of(cli.model) or "",
        "resumed_from": checkpoint or "",
        **{f"version/{name}": version for name, version in package_versions().items()},
    }
    for logger in cli.trainer.loggers:
        logger.text(text, "config.yaml")
        logger.log_hyperparams({"stage": cli.stage, **_headline(cli.config)})
        for key, value in facts.items():
            logger.tag(key, value)


def _headline(config: Namespace) -> dict[str, Any]:
    """Return the few values that a table of runs is read by."""
    keys = (
        "data.path", "data.size", "data.global_batch", "data.tasks", "data.seed", "trainer.max_steps",
        "trainer.precision", "trainer.devices", "model.kontext.checkpoint", "model.kontext.init", "model.kontext.seed",
        "model.metaquery.checkpoint", "model.metaquery.conditioner", "model.metaquery.vlm", "model.metaquery.seed",
        "model.train", "model.reference", "model.edit_reward.vlm", "model.edit_reward.train",
        "model.optimizer.learning_rate", "model.optimizer.warmup_steps", "model.optimizer.weight_decay",
    )  # fmt: skip
    return {key: config.get(key) for key in keys if key in config}


def _say_where(cli: StageCLI, folder: Path) -> None:
    if not cli.trainer.is_global_zero:
        return
    lines = [f"run:        {folder}"]
    for name, path in (("picture", "samples/test.png"), ("scores", "scores.md"), ("model", "export")):
        if (folder / path).exists():
            lines.append(f"{name + ':':12}{folder / path}")
    lines += [f"MLflow:     mlflow ui --backend-store-uri {logger._tracking_uri}" for logger in cli.trainer.loggers]
    print("\n".join(lines))  # noqa: T201


def _quiet() -> None:
    """Silence warnings that a person can do nothing about here; ours are errors or printed lines."""
    import logging

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_ours)
    warnings.filterwarnings("ignore", module=r"(lightning|torch|torchmetrics|mlflow|jsonargparse)\..*")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _is_ours(record: Any) -> bool:
    """Keep Lightning's advertisements and device inventory out of the run's output."""
    unwanted = ("Tip:", "TPU available", "GPU available", "`Trainer.", "HPU available")
    return not any(text in record.getMessage() for text in unwanted)
