"""Weights in 8 or 4 bits, quantised one by one while they are read.

``int8``: each row of a weight matrix as integers with one scale (torchao). ``nf4``: blocks of 64 numbers as indices
into 16 quantiles of a normal distribution, with a scale that is kept in 8 bits itself (QLoRA, arXiv 2305.14314, by
bitsandbytes). Only weights are quantised: a layer turns its matrix back and multiplies in the model's own dtype, so a
row of a batch does not depend on the others.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from unipic2_dit.weights import WEIGHTS_NAME, CheckpointError, read_weights

__all__ = ["Quantization", "check_quantization", "count_parameters", "fill_quantized", "stored_bytes"]

Quantization = Literal["int8", "nf4"]
"""How the matrices of a model's blocks are kept."""

_LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
_DEVICES = ("cpu", "cuda")


def check_quantization(quantization: str, device: torch.device | str | None = None) -> None:
    """Make sure that weights can be quantised here.

    Args:
        quantization: How.
        device: Where; by default the CPU.

    Raises:
        CheckpointError: If it is unknown, a library is missing, or the device can't compute with such weights.
    """
    if quantization not in get_args(Quantization):
        msg = f"quantization is {quantization!r}; known are 'int8', 'nf4' and None."
        raise CheckpointError(msg)
    library = _LIBRARIES[quantization]
    if find_spec(library) is None:
        msg = (
            f"Weights in {quantization} need {library}, which the extra `quantized` brings: run `pip install "
            f"{library}`, or load the model without quantization."
        )
        raise CheckpointError(msg)
    where = torch.device(device or "cpu").type
    if where not in _DEVICES:
        msg = f"Weights in {quantization} run on a CPU or a CUDA GPU, not on {where}: use --device, or no quantization."
        raise CheckpointError(msg)


def fill_quantized(
    model: nn.Module,
    folder: Path,
    quantization: Quantization,
    *,
    blocks: str,
    name: str = WEIGHTS_NAME,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Fill a model that is on the meta device with the weights of a folder.

    They are read, moved and quantised one by one: no more is in memory than what stays and one whole matrix.

    Args:
        model: The model. Its keys are those of the folder, which the caller has checked.
        folder: Folder of its weights.
        quantization: How the matrices of its blocks are kept.
        blocks: Name of the module whose linear layers are quantised; all else is small, and kept whole.
        name: File name of unsharded weights.
        dtype: Of what is kept whole, and of all computation.
        device: Where it goes.
    """
    linear = {key for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = {key for key in linear if key.startswith(f"{blocks}.")}
    if quantization == "nf4":
        for key in chosen:
            model.set_submodule(key, _nf4_layer(model.get_submodule(key), dtype))
        # What peft asks for when it puts an adapter around a layer.
        model.__dict__["is_loaded_in_4bit"] = True
    for key, read in read_weights(folder, name):
        owner, _, leaf = key.rpartition(".")
        module = model.get_submodule(owner)
        value = read.to(device, dtype, copy=True)  # what is read is a view of the whole file
        if leaf in dict(module.named_buffers(recurse=False)):
            module.register_buffer(leaf, value)
        elif owner in chosen and leaf == "weight":
            _set_quantized(module, value, quantization)
            _give_back()
        else:
            setattr(module, leaf, nn.Parameter(value, requires_grad=False))


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights and buffers as they are kept, quantised or not."""
    return sum(_bytes(each) for each in (*model.parameters(), *model.buffers()))


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model's weights stand for, quantised or not."""
    return sum(prod(_state(each).shape) if _state(each) else each.numel() for each in model.parameters())


def _bytes(tensor: Tensor) -> int:
    state = _state(tensor)
    if state is not None:  # bitsandbytes: indices, and beside them scales and tables
        return tensor.nbytes + sum(each.nbytes for each in state.as_dict(packed=True).values())
    if is_traceable_wrapper_subclass(tensor):  # torchao
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


def _state(tensor: Tensor) -> Any:
    return getattr(tensor, "quant_state", None)


def _nf4_layer(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a layer of the same size, still on the meta device."""
    assert isinstance(layer, nn.Linear)
    made: nn.Module = _import("bitsandbytes.nn").Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        quant_storage=dtype,
        device="meta",
    )
    # CPUs with bfloat16 instructions would repack the weights for a kernel that knows few sizes.
    made.__dict__["support_avx512bf16_for_cpu"] = False
    return made.eval()


def _set_quantized(module: nn.Module, weight: Tensor, quantization: Quantization) -> None:
    if quantization == "nf4":
        # Several numbers are packed as one of the model's dtype: T5 turns what it multiplies into the weights' dtype.
        packed = _import("bitsandbytes.nn").Params4bit(
            weight, requires_grad=False, quant_type="nf4", quant_storage=weight.dtype, module=module
        )
        module.weight = packed.to(weight.device)  # which quantises it, wherever it is
        return
    torchao = _import("torchao.quantization")
    module.weight = nn.Parameter(weight, requires_grad=False)
    torchao.quantize_(module, torchao.Int8WeightOnlyConfig(set_inductor_config=False))


def _give_back() -> None:
    """Give what was freed back to the system: glibc keeps whole matrices between quantised ones, in all a model's."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _import(name: str) -> Any:
    """Import a module of an extra, without its warnings about kernels of GPUs that are not here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return import_module(name)
    finally:
        logging.disable(before)
