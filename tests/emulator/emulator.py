"""Builds the emulated kernels and calls them on NumPy arrays.

Objects are cached under build/emulator by the content of every file that can influence them.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ctypes import Structure, byref, c_bool, c_double, c_int, c_int32, c_int64, c_long, c_void_p
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RUN = HERE / "run.py"
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "emulator"
SCHEDULES = ("round_robin", "warp_greedy", "warp_greedy_reversed")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = [
    "-std=c++20", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    "-fno-strict-aliasing",  # CUDA reads and writes any type as words
]  # fmt: skip

bfloat16 = np.dtype([("bfloat16", np.uint16)])
"""Storage of bfloat16, which NumPy lacks; see `to_bfloat16` and `to_float64`."""

DTYPES = {np.dtype(np.float32): 0, bfloat16: 1, np.dtype(np.float16): 2, np.dtype(np.float64): 3}


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds to nearest even; NaN stays NaN."""
    single = np.asarray(values, np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(single), 0x7FC0, rounded).astype(np.uint16).view(bfloat16)


def to_float64(values: np.ndarray) -> np.ndarray:
    """The exact value of any element type the kernels read."""
    if values.dtype == bfloat16:
        bits = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32) << 16
        values = bits.view(np.float32)
    return values.astype(np.float64)


# ---- Building -----------------------------------------------------------------------------------


def build(sanitized: bool = False) -> Path:
    """The shared library with every emulated kernel."""
    headers = [p for d in (CSRC, HERE) for p in sorted(d.rglob("*")) if p.suffix in (".h", ".cuh")]
    flags = [*FLAGS, *(["-O1", *SANITIZERS] if sanitized else ["-O2"])]
    common = hashlib.sha256(" ".join(flags).encode())
    for header in headers:
        common.update(header.read_bytes())

    def compile_one(source: Path) -> Path:
        digest = common.copy()
        digest.update(source.read_bytes())
        made = BUILD / f"{source.stem}-{digest.hexdigest()[:16]}.o"
        includes = ["-I", str(HERE / "include"), "-I", str(CSRC)]
        _make(["g++", *flags, *includes, "-x", "c++", "-c", str(source)], made)
        return made

    BUILD.mkdir(parents=True, exist_ok=True)
    sources = [HERE / "entry.cpp", *sorted((CSRC / "kernels").glob("*.cu"))]
    # Tests that run side by side want the same objects: one makes them, the others wait.
    flavour = "sanitized" if sanitized else "plain"
    with (BUILD / f"{flavour}.lock").open("w") as lock, ThreadPoolExecutor(2) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = list(pool.map(compile_one, sources))
        name = hashlib.sha256(" ".join(o.name for o in objects).encode()).hexdigest()[:16]
        library = BUILD / f"emulator-{name}.so"
        link = ["g++", "-shared", *map(str, objects), *(SANITIZERS if sanitized else [])]
        _make(link, library)
    return library


def _make(command: list[str], output: Path) -> None:
    """Runs `command -o output` unless the output exists; a half-written file never does."""
    if output.exists():
        return
    partial = output.with_name(f"{output.name}.{os.getpid()}")
    done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    partial.replace(output)


# ---- Argument structs, field for field as in csrc/kernels/*.h -----------------------------------


def _struct(name: str, **fields: type) -> type[Structure]:
    return type(name, (Structure,), {"_fields_": list(fields.items())})


_Pair = c_int64 * 2
ARGS = {
    "mask_grad": _struct(
        "MaskGradArgs", x=c_void_p, grad=c_void_p, dtype=c_int32, samples=c_int64, tokens=c_int64,
        units=c_int64, group=c_int64, x_strides=_Pair, grad_strides=_Pair, valid=c_void_p,
        offsets=c_void_p, out=c_void_p,
    ),
    "fisher_outer": _struct(
        "FisherOuterArgs", grads=c_void_p, dtype=c_int32, rows=c_int64, row_stride=c_int64,
        sites=c_int64, sizes=c_void_p, blocks=c_void_p,
    ),
    "greedy_rearrange": _struct(
        "GreedyRearrangeArgs", blocks=c_void_p, masks=c_void_p, problems=c_int64, sites=c_int64,
        sizes=c_void_p, out=c_void_p,
    ),
    "gram": _struct(
        "GramArgs", x=c_void_p, dtype=c_int32, rows=c_int64, row_stride=c_int64, columns=c_void_p,
        selected=c_int64, valid=c_void_p, out=c_void_p, out_dtype=c_int32,
    ),
    "tuning_system": _struct(
        "TuningSystemArgs", gram=c_void_p, weight=c_void_p, cross=c_void_p, stat_dtype=c_int32,
        weight_dtype=c_int32, units=c_int64, group=c_int64, outputs=c_int64,
        weight_stride=c_int64, a=c_void_p, b=c_void_p,
    ),
    "block_lstsq": _struct(
        "BlockLstsqArgs", systems=c_void_p, rhs=c_void_p, dtype=c_int32, sites=c_int64,
        sizes=c_void_p, columns=c_int64, damping=c_double, out=c_void_p, info=c_void_p,
    ),
    "obs_greedy": _struct(
        "ObsGreedyArgs", inverse=c_void_p, weight=c_void_p, dtype=c_int32, sites=c_int64,
        sizes=c_void_p, groups=c_void_p, outputs=c_int64, order=c_void_p, curve=c_void_p,
        info=c_void_p,
    ),
    "trajectory_distance": _struct(
        "TrajectoryDistanceArgs", features=c_void_p, teacher=c_void_p, dtype=c_int32,
        variants=c_int64, rows=c_int64, width=c_int64, strides=_Pair, teacher_stride=c_int64,
        out=c_void_p,
    ),
    "path_step": _struct(
        "PathStepArgs", dtype=c_int32, paths=c_int64, units=c_int64, step=c_double, mask=c_void_p,
        dual=c_void_p, gate=c_void_p, crossing=c_void_p, gradient=c_void_p, threshold=c_void_p,
        kappa=c_void_p, alpha=c_void_p, nu=c_void_p,
    ),
    "hard_concrete": _struct(
        "HardConcreteArgs", dtype=c_int32, alpha=c_void_p, noise=c_void_p, sites=c_int64,
        sizes=c_void_p, shares=c_void_p, gates=c_void_p, slopes=c_void_p, open=c_void_p,
        sparsity=c_void_p, sparsity_slopes=c_void_p,
    ),
    "masked_norm": _struct(
        "MaskedNormArgs", dtype=c_int32, centered=c_bool, eps=c_double, rows=c_int64,
        width=c_int64, x=c_void_p, weight=c_void_p, bias=c_void_p, gate=c_void_p, y=c_void_p,
        mean=c_void_p, rstd=c_void_p,
    ),
    "masked_norm_backward": _struct(
        "MaskedNormBackwardArgs", dtype=c_int32, centered=c_bool, rows=c_int64, width=c_int64,
        dy=c_void_p, x=c_void_p, weight=c_void_p, bias=c_void_p, gate=c_void_p, mean=c_void_p,
        rstd=c_void_p, dx=c_void_p, dweight=c_void_p, dbias=c_void_p, dgate=c_void_p,
    ),
}  # fmt: skip


class Emulator:
    """The emulated operations. Arrays may be strided over rows; columns must be contiguous.

    Outputs are filled with NaN before the call where the operation overwrites them.
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for op, args in ARGS.items():
            size = getattr(self._library, f"sizeof_{op}")
            size.restype = c_long
            if size() != ctypes.sizeof(args):
                raise RuntimeError(f"{args.__name__} here differs from csrc/kernels/{op}.h")

    def schedule(self, name: str) -> None:
        self._library.emulator_schedule(c_int(SCHEDULES.index(name)))

    def limit_grid(self, blocks: int) -> None:
        """Launches at most so many blocks along each dimension of a grid; 0 = no limit."""
        self._library.emulator_grid_limit(c_int(blocks))

    def skip_barrier(self, file: str | None, line: int = 0) -> int:
        """Pretends that the barrier at `file:line` is not there; None brings it back.

        Returns how often the barrier skipped so far was met."""
        self._skipped = (file or "").encode()  # the library keeps the pointer
        met = self._library.emulator_skip_barrier
        met.restype = c_long
        return met(self._skipped, c_int(line if file else 0))

    def _call(self, op: str, workspace: bool = False, **values: object) -> None:
        args = ARGS[op](**{k: _argument(v) for k, v in values.items()})
        function = getattr(self._library, f"emulated_{op}")
        function.restype = c_int
        if workspace:
            needed = getattr(self._library, f"workspace_{op}")
            needed.restype = c_long
            scratch = np.full(needed(byref(args)), 0xFF, np.uint8)
            status = function(byref(args), _argument(scratch))
        else:
            status = function(byref(args))
        if status:
            raise RuntimeError(f"{op} returned status {status}")

    def mask_grad(self, x, grad, group, valid=None, offsets=None):
        packed = offsets is not None
        samples = len(offsets) - 1 if packed else x.shape[0]
        units = x.shape[-1] // group
        out = np.full((samples, units), np.nan, np.float32)

        def strides(a):
            return _Pair(0 if packed else _stride(a, 0), _stride(a, 0 if packed else 1))

        self._call(
            "mask_grad", workspace=True, x=x, grad=grad, dtype=DTYPES[x.dtype], samples=samples,
            tokens=x.shape[0 if packed else 1], units=units, group=group, x_strides=strides(x),
            grad_strides=strides(grad), valid=valid, offsets=offsets, out=out,
        )  # fmt: skip
        return out

    def fisher_outer(self, grads, sizes, out):
        self._call(
            "fisher_outer", workspace=True, grads=grads, dtype=DTYPES[grads.dtype],
            rows=grads.shape[0], row_stride=_stride(grads, 0), sites=len(sizes),
            sizes=_sizes(sizes), blocks=out,
        )  # fmt: skip
        return out

    def greedy_rearrange(self, blocks, sizes, masks):
        out = np.full(masks.shape, np.nan, np.float32)
        self._call(
            "greedy_rearrange", workspace=True, blocks=blocks, masks=masks,
            problems=masks.shape[0], sites=len(sizes), sizes=_sizes(sizes), out=out,
        )  # fmt: skip
        return out

    def gram(self, x, out, columns=None, valid=None):
        self._call(
            "gram", workspace=True, x=x, dtype=DTYPES[x.dtype], rows=x.shape[0],
            row_stride=_stride(x, 0), columns=columns, selected=out.shape[0], valid=valid, out=out,
            out_dtype=DTYPES[out.dtype],
        )  # fmt: skip
        return out

    def tuning_system(self, gram, weight, cross, group):
        units = gram.shape[0] // group
        a = np.full((units, units), np.nan, gram.dtype)
        b = np.full(units, np.nan, gram.dtype)
        self._call(
            "tuning_system", gram=gram, weight=weight, cross=cross,
            stat_dtype=DTYPES[gram.dtype], weight_dtype=DTYPES[weight.dtype], units=units,
            group=group, outputs=weight.shape[0], weight_stride=_stride(weight, 0), a=a, b=b,
        )  # fmt: skip
        return a, b

    def block_lstsq(self, systems, rhs, sizes, damping):
        out = np.full(rhs.shape, np.nan, rhs.dtype)
        info = np.full(len(sizes), -77, np.int32)
        self._call(
            "block_lstsq", workspace=True, systems=systems, rhs=rhs, dtype=DTYPES[rhs.dtype],
            sites=len(sizes), sizes=_sizes(sizes), columns=rhs.shape[1], damping=damping, out=out,
            info=info,
        )  # fmt: skip
        return out, info

    def obs_greedy(self, inverse, weight, sizes, groups):
        order = np.full(sum(sizes), -77, np.int32)
        curve = np.full(sum(sizes), np.nan, weight.dtype)
        info = np.full(len(sizes), -77, np.int32)
        self._call(
            "obs_greedy", workspace=True, inverse=inverse, weight=weight,
            dtype=DTYPES[weight.dtype], sites=len(sizes), sizes=_sizes(sizes),
            groups=_sizes(groups), outputs=weight.shape[1], order=order, curve=curve, info=info,
        )  # fmt: skip
        return order, curve, info

    def trajectory_distance(self, features, teacher, out):
        variants, rows, width = features.shape
        self._call(
            "trajectory_distance", workspace=True, features=features, teacher=teacher,
            dtype=DTYPES[features.dtype], variants=variants, rows=rows, width=width,
            strides=_Pair(_stride(features, 0), _stride(features, 1)),
            teacher_stride=_stride(teacher, 0), out=out,
        )  # fmt: skip
        return out

    def path_step(self, state, gradient, threshold, rates, step):
        """`state` is mask, dual, gate, crossing, updated in place; `rates` kappa, alpha, nu."""
        mask, dual, gate, crossing = state
        kappa, alpha, nu = rates
        self._call(
            "path_step", dtype=DTYPES[mask.dtype], paths=mask.shape[0], units=mask.shape[1],
            step=step, mask=mask, dual=dual, gate=gate, crossing=crossing, gradient=gradient,
            threshold=threshold, kappa=kappa, alpha=alpha, nu=nu,
        )  # fmt: skip

    def hard_concrete(self, alpha, noise, parts, shares):
        """`parts` are the sizes of the sites, the number of sublayers' gates, of hidden ones."""
        gates, slopes, sparsity_slopes = (np.full_like(alpha, np.nan) for _ in range(3))
        means, sparsity = np.full(len(parts), np.nan), np.full(1, np.nan)
        self._call(
            "hard_concrete", dtype=DTYPES[alpha.dtype], alpha=alpha, noise=noise,
            sites=len(shares), sizes=_sizes(parts), shares=shares, gates=gates, slopes=slopes,
            open=means, sparsity=sparsity, sparsity_slopes=sparsity_slopes,
        )  # fmt: skip
        return gates, slopes, means, sparsity[0], sparsity_slopes

    def masked_norm(self, x, weight, bias, gate, eps, centered):
        y, (mean, rstd) = np.full_like(x, np.nan), np.full((2, len(x)), np.nan, x.dtype)
        self._call(
            "masked_norm", dtype=DTYPES[x.dtype], centered=centered, eps=eps, rows=x.shape[0],
            width=x.shape[1], x=x, weight=weight, bias=bias, gate=gate, y=y, mean=mean, rstd=rstd,
        )  # fmt: skip
        return y, mean, rstd

    def masked_norm_backward(self, dy, x, weight, bias, gate, mean, rstd, centered):
        dx, gradients = np.full_like(x, np.nan), np.full((3, x.shape[1]), np.nan, x.dtype)
        dweight, dbias, dgate = gradients
        self._call(
            "masked_norm_backward", workspace=True, dtype=DTYPES[x.dtype], centered=centered,
            rows=x.shape[0], width=x.shape[1], dy=dy, x=x, weight=weight, bias=bias, gate=gate,
            mean=mean, rstd=rstd, dx=dx, dweight=dweight, dbias=dbias, dgate=dgate,
        )  # fmt: skip
        return dx, *gradients


def _argument(value: object) -> object:
    return value.ctypes.data_as(c_void_p) if isinstance(value, np.ndarray) else value


def _sizes(sizes) -> np.ndarray:
    return np.asarray(sizes, np.int64)


def _stride(array: np.ndarray, axis: int) -> int:
    return array.strides[axis] // array.itemsize
