"""What does the calibrated form say about the sizes of a kernel table?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from apex_sim.cost.calibrated import PREDICTED_FROM
from apex_sim.cost.coefficient_file import Fit, load_fit
from apex_sim.cost.forms.collectives import (
    CollectiveCoefficients,
    VllmAllReduceCoefficients,
    collective_time,
    vllm_all_reduce_time,
)
from apex_sim.cost.forms.decode_attention import DecodeCoefficients, decode_attention_time
from apex_sim.cost.forms.gemm import GemmCoefficients, gemm_time, quantise_time
from apex_sim.cost.forms.mla_attention import LatentDecodeCoefficients, mla_decode_time, mla_prefill_time
from apex_sim.cost.forms.moe import MoeCoefficients, MoeShape, moe_time
from apex_sim.cost.forms.prefill_attention import Heads, PrefillBatch, PrefillCoefficients, prefill_attention_time
from apex_sim.cost.forms.routing import ExpertLoad, expert_load
from apex_sim.cost.forms.shares import Floats, KernelTime
from apex_sim.cost.measured.datasheet import routing_of
from apex_sim.cost.measured.kernel_table import KV_BYTES, Sizes
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.device import Device

_COEFFICIENTS: Final[dict[str, type[Any]]] = {
    "gemm": GemmCoefficients,
    "prefill_attention": PrefillCoefficients,
    "decode_attention": DecodeCoefficients,
    "mla_prefill_attention": PrefillCoefficients,
    "mla_decode_attention": LatentDecodeCoefficients,
    "moe": MoeCoefficients,
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), CollectiveCoefficients),
}
#: Precision of the all-reduce kernels that vLLM brings along.
_VLLM: Final = "vllm"
#: Names of our sizes where a fit's range uses the table's columns.
_RANGE_NAMES: Final = {
    "batch_size": "n_sequences",
    "num_heads": "n_q_heads",
    "num_key_value_heads": "n_kv_heads",
    "window_size": "window",
    "top_k": "n_active_experts",
}

FormFit = Fit[Any]


def fitted_device(device: Device) -> str:
    """Return the name of the device whose fits price this one: its own, or that of the device it is predicted from."""
    return PREDICTED_FROM.get(device.name, device.name)


def load_form(device: Device, operator: str, precision: str) -> FormFit:
    """Return the fit of an operator, that of its parent for a device which is predicted from another.

    Raises
    ------
    UnsupportedError : there is none.
    """
    if operator not in _COEFFICIENTS:
        raise UnsupportedError(f"no form for {operator}", remedy="use the roofline back end")
    form = VllmAllReduceCoefficients if precision == _VLLM else _COEFFICIENTS[operator]
    return load_fit(fitted_device(device), operator, precision, form)


def form_time(fit: FormFit, operator: str, precision: str, device: Device, sizes: Sizes, *, cold: bool) -> KernelTime:
    """Return the time of each row; a GEMM's includes the quantisation of its activations, as its tables do.

    `cold` leaves nothing in L2, as serving does and a benchmark's loop does not.

    Examples
    --------
    >>> from apex_sim.hardware.device import load_device
    >>> h100 = load_device("h100-sxm")
    >>> sizes = {name: np.array([8192.0]) for name in "mnk"}
    >>> time = form_time(load_form(h100, "gemm", "bf16"), "gemm", "bf16", h100, sizes, cold=False)
    >>> bool(time.compute_s[0] < time.kernel_s[0] < 2 * time.compute_s[0])
    True
    """
    return _FORMS[operator](fit.coefficients, precision, device, sizes, cold)


def _gemm(c: GemmCoefficients, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    product = gemm_time(c, device, s["m"], s["n"], s["k"], cold=cold)
    quantise_s = np.asarray(quantise_time(c, device, s["m"], s["k"], cold=cold).kernel_s)  # type: ignore[arg-type]
    return KernelTime(product.kernel_s + quantise_s, product.compute_s, product.memory_s)


def _prefill(c: PrefillCoefficients, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    heads = Heads(s["n_q_heads"], s["n_kv_heads"], s["head_dim"], KV_BYTES[precision])
    windowed = (s["window"] > 0) & (s["n_key_tokens"] > s["window"] * s["n_sequences"])
    return prefill_attention_time(c, device, _batch(s), heads, windowed)  # type: ignore[arg-type]


def _decode(c: DecodeCoefficients, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    heads = Heads(s["n_q_heads"], s["n_kv_heads"], s["head_dim"], KV_BYTES[precision])
    windowed, beyond = s["window"] > 0, s["beyond_window_frac"]
    return decode_attention_time(
        c, device, s["n_sequences"], s["context_tokens"], heads, windowed, beyond, cold=cold  # type: ignore[arg-type]
    )  # fmt: skip


def _mla_prefill(c: PrefillCoefficients, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    return mla_prefill_time(c, device, _batch(s), s["n_heads"])


def _mla_decode(c: LatentDecodeCoefficients, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    return mla_decode_time(
        c, device, s["n_sequences"], s["context_tokens"], s["n_heads"], KV_BYTES[precision], cold=cold
    )


def _batch(s: Sizes) -> PrefillBatch:
    return PrefillBatch(s["pairs"], s["n_query_tokens"], s["n_key_tokens"], s["n_sequences"])


def _moe(c: MoeCoefficients, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    names = ("hidden_size", "width", "n_experts", "n_active_experts", "ep", "n_matrices")
    return moe_time(c, device, MoeShape(*(s[name] for name in names)), s["n_tokens"], _loads(s), cold=cold)


def _message(c: Any, precision: str, device: Device, s: Sizes, cold: bool) -> KernelTime:
    """Price each number of devices in turn; the forms take one."""
    n_bytes, degrees = np.broadcast_arrays(s["n_bytes"], s["n_devices"])
    times = np.empty((3, *n_bytes.shape))
    for degree in np.unique(degrees):
        mine = degrees == degree
        time = _collective(c, precision, device, n_bytes[mine], int(degree))
        times[:, mine] = time.kernel_s, time.compute_s, time.memory_s
    return KernelTime(*times)


def _collective(c: Any, precision: str, device: Device, n_bytes: Floats, n_devices: int) -> KernelTime:
    if precision != _VLLM:
        return collective_time(c, device, n_bytes, n_devices)
    nccl = load_fit(fitted_device(device), "all_reduce", "nccl", CollectiveCoefficients).coefficients
    return vllm_all_reduce_time(c, nccl, device, n_bytes, n_devices)


def _loads(s: Sizes) -> ExpertLoad:
    """Return the fullest rank's load of each row."""
    names = ("n_tokens", "n_experts", "n_active_experts", "ep", "routing_exponent")
    tokens, *layout = np.broadcast_arrays(*(s[name] for name in names))
    kinds, kind_of = np.unique(np.stack([part.ravel() for part in layout], axis=1), axis=0, return_inverse=True)
    parts: dict[str, Floats] = {}
    for index, (experts, active, ep, exponent) in enumerate(kinds):
        mine = kind_of.ravel() == index
        load = expert_load(tokens.ravel()[mine], int(experts), int(active), int(ep), routing_of(exponent))
        for name in load.__dataclass_fields__:
            value = np.asarray(getattr(load, name))
            parts.setdefault(name, np.empty((*value.shape[:-1], tokens.size)))[..., mine] = value
    return ExpertLoad(**{name: part.reshape((*part.shape[:-1], *tokens.shape)) for name, part in parts.items()})


_FORMS: Final[dict[str, Callable[[Any, str, Device, Sizes, bool], KernelTime]]] = {
    "gemm": _gemm,
    "prefill_attention": _prefill,
    "decode_attention": _decode,
    "mla_prefill_attention": _mla_prefill,
    "mla_decode_attention": _mla_decode,
    "moe": _moe,
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), _message),
}


def in_fitted_range(fit: FormFit, sizes: Sizes, n_rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each row whether all its sizes lie inside the data that the form was fitted to."""
    inside = np.ones(n_rows, dtype=bool)
    for name, (low, high) in fit.range.items():
        values = _size(sizes, name)
        if values is not None:
            inside &= (values >= low) & (values <= high)
    return inside


def _size(sizes: Sizes, name: str) -> Floats | None:
    if name == "isl":
        return sizes["n_query_tokens"] / sizes["n_sequences"]
    if name == "step":  # the cached context, without the token of this step
        return sizes["mean_context_tokens"] - 1.0
    ours = _RANGE_NAMES.get(name, name)
    if ours == "n_q_heads" and "n_heads" in sizes:
        ours = "n_heads"
    return sizes.get(ours)
