"""Training checkpoints: one folder format at any world size.

A checkpoint is a folder written by ``torch.distributed.checkpoint`` with the trainable parameters, the optimiser's
state and the EMA, plus ``meta.pt`` with everything small (loop progress, schedulers, callbacks, data cursor). Frozen
weights are never stored: their folder and hash are part of the meta data.

Every tensor is keyed by its parameter's name, never by position, so that a folder written by two ranks loads on one
and the other way round. A folder is written under a temporary name and renamed when it is complete: what carries the
final name is always whole.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.optim import Optimizer

__all__ = [
    "CheckpointError",
    "is_training_checkpoint",
    "load",
    "read_tensors",
    "remove",
    "save",
    "trainable_parameters",
]

META = "meta.pt"
MODEL, EMA, OPTIMIZER = "model", "ema", "optimizer"


class CheckpointError(ValueError):
    """A training checkpoint that can't be written or does not fit the run that loads it."""


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a stage trains, by name; parameters may be DTensors."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def is_training_checkpoint(path: Path) -> bool:
    """Tell whether ``path`` is a complete training checkpoint."""
    return (path / META).is_file() and (path / ".metadata").is_file()


def save(
    path: Path,
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    ema: Mapping[str, Tensor] | None,
    meta: dict[str, Any],
) -> None:
    """Write a checkpoint folder; on several ranks all of them call this.

    Args:
        path: Final folder. An older checkpoint of this name is replaced only when the new one is complete.
        module: Its trainable parameters are stored.
        optimizers: Their state tensors are stored by parameter name.
        ema: Averaged parameters by name, sharded as the parameters are; ``None`` if the run keeps none.
        meta: Small picklable values for ``meta.pt``.

    Raises:
        CheckpointError: The folder could not be written (disk full, no permission); nothing half-written remains.
    """
    tensors = _collect(module, optimizers, ema)
    temporary = path.with_name(f".{path.name}.partial")

    def start() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def finish() -> None:
        torch.save(meta, temporary / META)
        _replace(temporary, path)

    try:
        _on_first_rank(start)
        dcp.save(tensors, checkpoint_id=temporary, no_dist=not _is_distributed())
        _on_first_rank(finish)
    except (OSError, dcp.CheckpointException, RuntimeError) as error:
        if isinstance(error, dcp.CheckpointException) and any(
            isinstance(failure[0], KeyboardInterrupt) for failure in error.failures.values()
        ):
            raise KeyboardInterrupt from error
        msg = (
            f"could not write the checkpoint {path}: {_root_cause(error)}. Free space or choose another folder with "
            "--run_dir; checkpoints written before are intact."
        )
        raise CheckpointError(msg) from error
    finally:  # also on Ctrl-C
        if _is_first_rank():
            shutil.rmtree(temporary, ignore_errors=True)


def load(
    path: Path, module: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """Load a checkpoint folder into a module and its optimisers, in place and strictly.

    Returns:
        The meta data, and the EMA by parameter name (sharded as the parameters are) if the folder has one.

    Raises:
        CheckpointError: Not a complete checkpoint, or its tensors do not fit; the differences are listed.
    """
    if not is_training_checkpoint(path):
        msg = (
            f"{path} is not a complete training checkpoint (a folder with {META} and .metadata). Give a folder below "
            "runs/<run>/checkpoints, or the run's folder itself."
        )
        raise CheckpointError(msg)
    parameters = trainable_parameters(module)
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    _check_fits(path, parameters, stored)
    tensors = _template(parameters, stored, with_optimizer=bool(optimizers))
    dcp.load(tensors, checkpoint_id=path, no_dist=not _is_distributed())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{MODEL}/{name}"])
    for index, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, index, parameters, tensors)
    ema = {name: tensors[f"{EMA}/{name}"] for name in parameters if f"{EMA}/{name}" in tensors}
    # weights_only=False: meta.pt is written by this process's own stack and holds Lightning's plain containers.
    meta = torch.load(path / META, map_location="cpu", weights_only=False)
    return meta, ema or None


def read_tensors(path: Path, group: str) -> dict[str, Tensor]:
    """Read one group of full tensors ("model" or "ema") in one process, without a model: to compare checkpoints."""
    if not is_training_checkpoint(path):
        msg = f"{path} is not a complete training checkpoint"
        raise CheckpointError(msg)
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in stored.items()
        if key.startswith(f"{group}/") and isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(tensors, checkpoint_id=path, no_dist=True)
    return {key.removeprefix(f"{group}/"): value for key, value in tensors.items()}


def remove(path: Path) -> None:
    """Remove a checkpoint folder; a name that is gone already is fine."""
    shutil.rmtree(path, ignore_errors=True)


def _collect(module: nn.Module, optimizers: Sequence[Optimizer], ema: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    parameters = trainable_parameters(module)
    tensors: dict[str, Tensor] = {f"{MODEL}/{name}": parameter.detach() for name, parameter in parameters.items()}
    tensors |= {f"{EMA}/{name}": value for name, value in (ema or {}).items()}
    for index, optimizer in enumerate(optimizers):
        for name, parameter in parameters.items():
            for slot, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{OPTIMIZER}/{index}/{name}/{slot}"] = value
    return tensors


def _check_fits(path: Path, parameters: Mapping[str, Tensor], stored: Mapping[str, Any]) -> None:
    saved = {key.removeprefix(f"{MODEL}/"): entry.size for key, entry in stored.items() if key.startswith(f"{MODEL}/")}
    problems = [f"missing {name}" for name in parameters.keys() - saved.keys()]
    problems += [f"unexpected {name}" for name in saved.keys() - parameters.keys()]
    problems += [
        f"{name} is {tuple(saved[name])} in the checkpoint, {tuple(parameter.shape)} in this recipe"
        for name, parameter in parameters.items()
        if name in saved and tuple(saved[name]) != tuple(parameter.shape)
    ]
    if problems:
        listed = "\n  ".join(sorted(problems)[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        msg = (
            f"the checkpoint {path} does not fit this recipe's model (another preset, or other trained parts?):\n"
            f"  {listed}{more}\nResume with the recipe that wrote it: config.yaml in its run folder."
        )
        raise CheckpointError(msg)


def _template(
    parameters: Mapping[str, Tensor], stored: Mapping[str, Any], *, with_optimizer: bool
) -> dict[str, Tensor]:
    """Return empty tensors to load into: sharded like the parameter where the shape is the parameter's."""
    template: dict[str, Tensor] = {}
    for key, entry in stored.items():
        group = key.split("/", 1)[0]
        if group == OPTIMIZER and not with_optimizer:
            continue
        name = key.split("/")[2] if group == OPTIMIZER else key.split("/", 1)[1]
        parameter = parameters[name]
        if tuple(entry.size) == tuple(parameter.shape):
            template[key] = torch.empty_like(parameter, dtype=entry.properties.dtype, requires_grad=False)
        else:
            template[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
    return template


def _restore_optimizer(
    optimizer: Optimizer, index: int, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        prefix = f"{OPTIMIZER}/{index}/{name}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if id(parameter) in own and state:
            optimizer.state[parameter] = state


def _replace(source: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one, which is moved aside first and then removed."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _root_cause(error: BaseException) -> str:
    """Name the operating system's reason inside the wrappers of torch."""
    if isinstance(error, dcp.CheckpointException):
        causes = [failure[0] for failure in error.failures.values()]
        error = causes[0] if causes else error
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return f"{errno.errorcode.get(link.errno, link.errno)} ({link.strerror})"
        link = link.__cause__ or link.__context__
    if "PyTorchStreamWriter" in str(error) or "enforce fail" in str(error):  # torch.save's only word for a short write
        return "a file could not be written whole (disk full?)"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_first_rank() -> bool:
    return not _is_distributed() or dist.get_rank() == 0


def _on_first_rank(action: Callable[[], None]) -> None:
    """Run ``action`` on the first rank; if it fails all ranks raise, so that none waits for the others for ever.

    Raises:
        OSError: What ``action`` raised on the first rank.
        RuntimeError: Likewise.
    """
    failure: list[OSError | RuntimeError | None] = [None]
    if _is_first_rank():
        try:
            action()
        except (OSError, RuntimeError) as error:
            failure[0] = error
    if _is_distributed():
        dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]
