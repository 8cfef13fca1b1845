"""Counts the operations of a traced program, loops with all their iterations; peaks of chips.

XLA's own count (`compiled.cost_analysis()`) takes the body of a loop once, however often it runs,
and a streamed correlation is all loops. The count here reads the program as JAX traced it (the
jaxpr), so it is the same on every backend, and includes what the backward pass recomputes.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import partial_eval

# Device kinds as JAX names them -> peak of dense bfloat16 products, FLOP/s of one device.
_PEAKS = (
    # Cloud TPU's pages of each version: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e.
    ("TPU v4", 275e12),
    ("TPU v5 lite|TPU v5e", 197e12),
    ("TPU v5|TPU v5p", 459e12),
    ("TPU v6 lite|TPU v6e", 918e12),
    # NVIDIA's data sheets of A100, H100 and H200, without sparsity.
    ("NVIDIA A100.*", 312e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H200", 989e12),
)

# They compute nothing: they move, select or name numbers, or draw them, which XLA does not count.
_FREE = frozenset(
    [
        "broadcast_in_dim",
        "concatenate",
        "copy",
        "copy_p",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "iota",
        "name",
        "optimization_barrier",
        "pad",
        "platform_index",
        "random_bits",
        "random_fold_in",
        "random_seed",
        "random_split",
        "random_unwrap",
        "random_wrap",
        "reshape",
        "rev",
        "scatter",
        "sharding_constraint",
        "slice",
        "sort",
        "split",
        "squeeze",
        "stack",
        "stop_gradient",
        "threefry2x32",
        "transpose",
        "unstack",
    ]
)
# One operation for each number that they read.
_REDUCTIONS = frozenset(
    [
        "argmax",
        "argmin",
        "cumlogsumexp",
        "cummax",
        "cummin",
        "cumprod",
        "cumsum",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_prod",
        "reduce_sum",
        "scatter-add",
        "select_and_scatter_add",
    ]
)
# XLA counts these apart, as `transcendentals`.
_TRANSCENDENTAL = frozenset(
    [
        "atan2",
        "cbrt",
        "cos",
        "erf",
        "erf_inv",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "logistic",
        "pow",
        "rsqrt",
        "sin",
        "sqrt",
        "tan",
        "tanh",
    ]
)


class UnknownTripCountError(ValueError):
    """The program has a loop whose number of iterations depends on its data."""


class Operations(NamedTuple):
    """Floating-point operations; a multiplication and an addition are one each.

    Attributes:
      products: of matrix products and convolutions, which a chip's peak refers to.
      others: elementwise operations and sums.
    """

    products: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        return self.products + self.others


def count(program: Any, platform: str) -> Operations:
    """Counts the operations of a jaxpr.

    Of a branch, the alternative with the most operations is taken, or that of the platform.

    Args:
      program: a `Jaxpr` or `ClosedJaxpr`, such as `jax.jit(f).trace(x).jaxpr`. Of a program for
        several devices, the operations are those of all devices together.
      platform: `cpu`, `gpu` or `tpu`: some operations are done another way on another platform.

    Raises:
      UnknownTripCountError: it has a `while` loop, which does not say how often it runs.
    """
    jaxpr = getattr(program, "jaxpr", program)
    # Derivatives leave operations behind whose results nobody reads; XLA removes them, too.
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    products = others = 0.0
    for equation in jaxpr.eqns:
        found = _of_equation(equation, platform)
        products, others = products + found.products, others + found.others
    return Operations(products, others)


def _of_equation(equation: Any, platform: str) -> Operations:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return Operations(products=_dot(equation))
    if name == "conv_general_dilated":
        return Operations(products=_convolution(equation))
    if name == "while":
        raise UnknownTripCountError("a loop does not say how often it runs")
    inner = [count(program, platform) for program in _programs(parameters)]
    if name == "cond":
        if platforms := parameters.get("branches_platforms"):
            names = {platform} if platform != "gpu" else {"cuda", "rocm"}
            chosen = (names_of is None or names & set(names_of) for names_of in platforms)
            return next(found for found, own in zip(inner, chosen, strict=True) if own)
        return max(inner, key=lambda found: found.total)
    if inner and not name.startswith(("reduce_", "scatter", "select_and_")):
        times = 1
        if name == "scan":
            times = parameters["length"]
        elif name == "shard_map":
            times = parameters["mesh"].size
        elif name == "pallas_call":
            times = math.prod(parameters["grid_mapping"].grid)
        return Operations(
            times * sum(found.products for found in inner),
            times * sum(found.others for found in inner),
        )
    if name in _FREE or name in _TRANSCENDENTAL:
        return Operations()
    if name.startswith("reduce_window"):
        window = math.prod(parameters["window_dimensions"])
        return Operations(others=window * _size(equation.outvars))
    return Operations(
        others=_size(equation.invars[:1] if name in _REDUCTIONS else equation.outvars)
    )


def _programs(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation calls, as `jit`, `scan`, `cond` and derivatives do."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(part, "eqns") or hasattr(getattr(part, "jaxpr", None), "eqns"):
                yield part


def _size(variables: list[Any]) -> float:
    return float(sum(math.prod(variable.aval.shape) for variable in variables))


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * _size(equation.outvars) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    """Products with padding, and with the zeros that a dilation inserts, are not counted."""
    p = equation.params
    axes = p["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    pairs = 1.0
    for place, window in enumerate(p["window_strides"]):
        dilation, spread = p["lhs_dilation"][place], p["rhs_dilation"][place]
        first = np.arange(result[axes.out_spec[2 + place]]) * window - p["padding"][place][0]
        read = first[:, None] + np.arange(kernel[axes.rhs_spec[2 + place]]) * spread
        length = (image[axes.lhs_spec[2 + place]] - 1) * dilation + 1
        pairs *= np.count_nonzero((read >= 0) & (read < length) & (read % dilation == 0))
    batch, channels = (result[axis] for axis in axes.out_spec[:2])
    return 2 * pairs * batch * channels * kernel[axes.rhs_spec[1]]


def peak(device: jax.Device) -> float | None:
    """The device's peak of dense bfloat16 products in FLOP/s; None where it is not known."""
    for kinds, rate in _PEAKS:
        if re.fullmatch(kinds, device.device_kind):
            return rate
    return None
