"""Where the work runs and in which precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastprune.errors import FastpruneError
from fastprune.structure.projection import Projection, weight_view

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_LARGEST_FREED = 31 << 20
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"`` into the GPU where there is one, else the CPU.

    Raises:
        FastpruneError: a device this machine or this torch does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise FastpruneError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if resolved.type not in ("cpu", "cuda"):
        raise FastpruneError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise FastpruneError(
            f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA "
            "device(s); use --device cpu or a torch built for your driver"
        )
    return resolved


def resolve_dtype(dtype: str | torch.dtype = "auto") -> torch.dtype:
    """Turn a name into the type activations are computed in; ``"auto"`` is float32.

    Raises:
        FastpruneError: an unknown name.
    """
    if dtype == "auto":
        return torch.float32
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    try:
        return _DTYPES[str(dtype).removeprefix("torch.")]
    except KeyError:
        raise FastpruneError(f"unknown dtype {dtype!r}; use auto, {', '.join(_DTYPES)}") from None


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Run matrix products in ``dtype``; nothing to do for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def batch_tokens(model: nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """Tokens of one forward pass, where the caller leaves its size open.

    Enough to keep the device busy; few enough that a CPU's caches hold the activations of a layer,
    and that those of all layers, logits included, take little memory beside the model.
    """
    cuda = device_of(model).type == "cuda"
    most = 8192 if cuda else 4096 // dtype.itemsize
    # A backward pass keeps about two tensors for every product.
    outputs = sum(
        weight_view(module).shape[0] for module in model.modules() if isinstance(module, Projection)
    )
    bytes_per_token = 2 * outputs * dtype.itemsize
    return max(1, min(most, (1 << 32 if cuda else 1 << 28) // max(bytes_per_token, 1)))


def settle_allocator() -> None:
    """Let glibc keep the memory that a CPU's passes free, for the passes to come.

    It hands large blocks back to the system, and then pays for thousands of fresh pages in every
    pass, until it has seen a block of nearly 32 MiB come and go: its thresholds follow the largest.
    When that happens by chance, the same model is much faster from then on. Other allocators do not
    mind.
    """
    torch.empty(_LARGEST_FREED, dtype=torch.uint8)


def forward_tokens(model: nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """Tokens of one forward pass that no backward pass follows, however many variants they are of.

    Enough to keep the device busy; few enough that what one layer hands on takes little memory,
    predictions over a vocabulary in float64 included.
    """
    cuda = device_of(model).type == "cuda"
    most = 16384 if cuda else 4096 // dtype.itemsize
    widest = max(
        weight_view(module).shape[0] for module in model.modules() if isinstance(module, Projection)
    )
    # Logits, their distribution and the logarithm of that, of a variant and of the dense model.
    bytes_per_token = 6 * widest * torch.float64.itemsize
    return max(1, min(most, (1 << 33 if cuda else 1 << 29) // bytes_per_token))


def trace_bytes(device: torch.device) -> int:
    """How much of a teacher's work is kept for tuning instead of being done again."""
    return (3 << 29) if device.type == "cuda" else (1 << 29)


def held_bytes(device: torch.device) -> int:
    """How much of a student's half-finished work is kept while a site is solved."""
    return (1 << 30) if device.type == "cuda" else (1 << 28)


def variant_bytes(device: torch.device) -> int:
    """How much of what a layer hands on is kept for variants of a model, side by side."""
    return (1 << 28) if device.type == "cuda" else (1 << 26)


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def size_in_bytes(tensors: Iterable[Tensor]) -> int:
    """What the elements of tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def path_bytes(device: torch.device) -> int:
    """How large the Grams are, in float64, of the sites whose units are removed side by side.

    The removal takes some five times this.
    """
    return (1 << 31) if device.type == "cuda" else (1 << 28)


def backward_attention(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Attention kernels to use where a backward pass follows, or where one was used.

    Backward in half precision, torch's fused kernel for CPUs is several times slower than the
    unfused one.
    """
    if device.type == "cpu" and dtype != torch.float32:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def exact_products(x: Tensor) -> bool:
    """Whether a plain product of ``x`` is formed in its own precision.

    On a GPU float32 may mean TF32, and on a CPU bfloat16, as the user has set it.
    """
    return (
        x.is_cpu and x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "medium"
    )


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next(model.parameters()).device


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Dropout off and FFNs in one piece inside the block; afterwards all is as it was."""
    modules: list[Any] = [module for model in models for module in model.modules()]
    training = [module for module in modules if module.training]
    chunked = [
        (module, module.chunk_size_feed_forward)
        for module in modules
        if getattr(module, "chunk_size_feed_forward", 0)
    ]
    for model in models:
        model.eval()
    for module, _ in chunked:
        # In chunks a projection would be called several times a pass.
        module.chunk_size_feed_forward = 0
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, size in chunked:
            module.chunk_size_feed_forward = size


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block no weight asks for gradients; those that did do so again afterwards."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Within the block weights of half types are float32; afterwards they have their type again.

    The steps of training are smaller than what half types tell apart: added up there, most of them
    would be rounded away.
    """
    halves = {
        name: tensor.dtype
        for name, tensor in model.state_dict().items()
        if tensor.dtype in (torch.float16, torch.bfloat16)
    }
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in halves:
            tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in halves:
                tensor.grad = None
                tensor.data = tensor.data.to(halves[name])


@contextmanager
def cache_off(model: nn.Module) -> Iterator[None]:
    """No keys and values are kept for generation inside the block."""
    config: Any = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    if use_cache is not None:
        config.use_cache = False
    try:
        yield
    finally:
        if use_cache is not None:
            config.use_cache = use_cache


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move every tensor of a batch."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def is_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, also where that was wrapped into another error."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(
            words in str(error).lower() for words in _MEMORY_WORDS
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
