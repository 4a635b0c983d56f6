"""How long does an operator take, by physics-shaped forms fitted to measured kernels?

Every price names its fit, its held-out error and whether the shape lies inside the data.  What was never measured on a
device is priced by the roofline, and its basis says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from apex_sim.cost.basis import Basis
from apex_sim.cost.calibrated_collectives import CalibratedCollectives
from apex_sim.cost.coefficient_file import Fit, calibrated_devices
from apex_sim.cost.fits import BACK_END, Fits
from apex_sim.cost.forms.decode_attention import DecodeCoefficients, decode_attention_time
from apex_sim.cost.forms.elementwise import ElementwiseCoefficients, elementwise_time
from apex_sim.cost.forms.gemm import GemmCoefficients, gemm_time, quantise_time
from apex_sim.cost.forms.linear_attention import (
    LinearDecodeCoefficients,
    LinearHeads,
    LinearPrefillCoefficients,
    linear_decode_time,
    linear_prefill_time,
)
from apex_sim.cost.forms.mla_attention import LatentDecodeCoefficients, mla_decode_time, mla_prefill_time
from apex_sim.cost.forms.moe import MoeCoefficients, MoeShape, moe_time
from apex_sim.cost.forms.prefill_attention import Heads, PrefillBatch, PrefillCoefficients, prefill_attention_time
from apex_sim.cost.forms.routing import Routing, expert_load
from apex_sim.cost.forms.shares import KernelTime
from apex_sim.cost.parts import Floats, Parts, repeat
from apex_sim.cost.roofline import DEFAULT_ROUTING, Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.device import Device
from apex_sim.hardware.link import Group, Link
from apex_sim.preset.preset import OwnAllReduce
from apex_sim.units import BYTES_PER_NUMBER

#: Devices whose kernels are predicted from another's fits with their own datasheet, not fitted.
PREDICTED_FROM: Final = {"b300": "b200", "gb300": "gb200"}

#: Engines whose experts run one kernel with and without expert parallelism: cutlass_kernels/moe_gemm of TensorRT-LLM.
_ONE_KERNEL: Final = ("trtllm",)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Cost back end for devices with fitted kernels; make it with `calibrated_costs`.

    Parameters
    ----------
    fits : the device's, or another's for a prediction.
    fallback : prices what was never measured.
    routing : how tokens choose experts.
    """

    fits: Fits
    fallback: Roofline
    routing: Routing = DEFAULT_ROUTING

    def of_engine(self, engine: str) -> Calibrated:
        """Return the same back end with the kernels of an engine, where they were fitted by themselves."""
        return self if engine == self.fits.engine else replace(self, fits=self.fits.of_engine(engine))

    @property
    def device(self) -> Device:
        """The device whose datasheet figures scale the forms."""
        return self.fits.device

    @property
    def name(self) -> str:
        """Name of the back end, for reports."""
        return BACK_END

    @property
    def provenance(self) -> str:
        """What the figures rest on."""
        if self.fits.is_prediction:
            own = f"scaled by the datasheet of {self.device.name}: a prediction, no kernel of this device was fitted"
            return f"kernel forms fitted to {self.fits.fitted_device}, {own}"
        return f"kernel forms fitted to measured kernels of {self.device.name}; roofline where none was measured"

    @property
    def _collectives(self) -> CalibratedCollectives:
        return CalibratedCollectives(self.fits, self.fallback)

    def _fit(self, operator: str, precision: str, form: type[Any]) -> Fit[Any] | None:
        return self.fits.find(operator, precision, form)

    def _basis(self, fit: Fit[Any], **sizes: float | Floats) -> Basis:
        return self.fits.basis(fit, **sizes)

    def gemm(self, m: float | Floats, n: float, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price C[m, n] = A[m, k] B[k, n] by the fit of its weight format."""
        fit = self._fit("gemm", weight_dtype, GemmCoefficients)
        if fit is None:
            return self.fallback.gemm(m, n, k, weight_dtype, activation_dtype)
        time = gemm_time(fit.coefficients, self.device, m, n, k)
        return _parts(time, self._basis(fit, m=m, n=n, k=k))

    def quantise(self, m: float | Floats, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price the activation quantisation that was measured with the products of `weight_dtype`."""
        fit = self._fit("gemm", weight_dtype, GemmCoefficients)
        if fit is None:
            return self.fallback.quantise(m, k, weight_dtype, activation_dtype)
        return _parts(quantise_time(fit.coefficients, self.device, m, k), self._basis(fit, m=m, k=k))

    def moe(self, n_tokens: float | Floats, experts: ExpertSizes, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price one layer's experts on the fullest rank."""
        fit = self._fit("moe", weight_dtype, MoeCoefficients)
        kernel = experts.kernel
        if not kernel and experts.ep == 1 and self.fits.engine not in _ONE_KERNEL:
            kernel = "triton"  # with expert parallelism another runs, measured under the format's own name
        if kernel:
            fit = self._fit("moe", f"{weight_dtype}-{kernel}", MoeCoefficients) or fit
        if fit is None:
            return self.fallback.moe(n_tokens, experts, weight_dtype, activation_dtype)
        load = expert_load(n_tokens, experts.n_experts, experts.n_active_experts, experts.ep, self.routing)
        shape = MoeShape(
            experts.hidden_size,
            experts.width,
            experts.n_experts,
            experts.n_active_experts,
            experts.ep,
            experts.n_matrices,
        )
        time = moe_time(fit.coefficients, self.device, shape, n_tokens, load)
        basis = self._basis(
            fit,
            n_tokens=n_tokens,
            hidden_size=experts.hidden_size,
            width=experts.width,
            n_experts=experts.n_experts,
            top_k=experts.n_active_experts,
            ep=experts.ep,
        )
        return _parts(time, basis, 5.0)

    def prefill_attention(self, work: PrefillWork, sizes: AttentionSizes) -> Parts:
        """Price one varlen prefill launch, the write of its keys and values included."""
        fit = self._fit("prefill_attention", f"{sizes.kv_dtype}-kv", PrefillCoefficients)
        if fit is None:
            return self.fallback.prefill_attention(work, sizes)
        time = prefill_attention_time(
            fit.coefficients, self.device, _batch(work), _heads(sizes), sizes.window is not None
        )
        return _parts(time, self._basis(fit, **_head_sizes(sizes)), 2.0)

    def decode_attention(self, work: DecodeWork, sizes: AttentionSizes) -> Parts:
        """Price one decode launch on a cold cache."""
        fit = self._fit("decode_attention", f"{sizes.kv_dtype}-kv", DecodeCoefficients)
        if fit is None:
            return self.fallback.decode_attention(work, sizes)
        beyond: float | Floats = 0.0
        if sizes.window is not None:
            mean = np.asarray(work.context_tokens / work.n_sequences)
            beyond = np.clip((mean / sizes.window - 0.75) / 0.25, 0.0, 1.0)
        time = decode_attention_time(
            fit.coefficients,
            self.device,
            work.n_sequences,
            work.context_tokens,
            _heads(sizes),
            sizes.window is not None,
            beyond,
        )
        return _parts(time, self._basis(fit, **_decode_sizes(work), **_head_sizes(sizes)), 2.0)

    def latent_prefill(self, work: PrefillWork, sizes: LatentSizes) -> Parts:
        """Price one prefill launch of latent attention."""
        fit = self._fit("mla_prefill_attention", f"{sizes.kv_dtype}-kv", PrefillCoefficients)
        if fit is None or not sizes.is_measured:
            return self.fallback.latent_prefill(work, sizes)
        time = mla_prefill_time(fit.coefficients, self.device, _batch(work), sizes.n_heads)
        return _parts(time, self._basis(fit, num_heads=sizes.n_heads), 2.0)

    def latent_decode(self, work: DecodeWork, sizes: LatentSizes) -> Parts:
        """Price one decode launch of latent attention on a cold cache."""
        fit = self._fit("mla_decode_attention", f"{sizes.kv_dtype}-kv", LatentDecodeCoefficients)
        if fit is None or not sizes.is_measured:
            return self.fallback.latent_decode(work, sizes)
        time = mla_decode_time(
            fit.coefficients,
            self.device,
            work.n_sequences,
            work.context_tokens,
            sizes.n_heads,
            BYTES_PER_NUMBER[sizes.kv_dtype],
        )
        return _parts(time, self._basis(fit, num_heads=sizes.n_heads, **_decode_sizes(work)), 2.0)

    def linear_prefill(self, work: PrefillWork, heads: LinearHeads) -> Parts:
        """Price one prefill launch of linear attention, and what moves around the measured kernels."""
        fit = self._fit("linear_prefill", "bf16", LinearPrefillCoefficients)
        if fit is None:
            return self.fallback.linear_prefill(work, heads)
        time = linear_prefill_time(fit.coefficients, self.device, heads, work.n_query_tokens, work.n_sequences)
        around = self.fallback.linear_copies(work, heads)
        basis = self._basis(fit, **_linear_sizes(heads), batch_size=work.n_sequences, n_tokens=work.n_query_tokens)
        return replace(_parts(time, basis, 2.0 + around.n_launches), kernel_s=time.kernel_s + around.kernel_s)

    def linear_decode(self, work: DecodeWork, heads: LinearHeads) -> Parts:
        """Price one decode launch of linear attention on cold states."""
        fit = self._fit("linear_decode", "bf16", LinearDecodeCoefficients)
        if fit is None:
            return self.fallback.linear_decode(work, heads)
        time = linear_decode_time(fit.coefficients, self.device, heads, work.n_sequences)
        return _parts(time, self._basis(fit, **_linear_sizes(heads), batch_size=work.n_sequences), 2.0)

    def elementwise(
        self, n_rows: float | Floats, n_columns: float, bytes_per_number: float, n_launches: float = 1.0
    ) -> Parts:
        """Price memory-bound kernels; what the kernel before has written is mostly still in L2."""
        fit = self._fit("elementwise", "stream", ElementwiseCoefficients)
        if fit is None:
            return self.fallback.elementwise(n_rows, n_columns, bytes_per_number, n_launches)
        time = elementwise_time(fit.coefficients, self.device, n_rows, n_columns, bytes_per_number, cold=False)
        basis = self._basis(fit, n_rows=n_rows, n_columns=n_columns)
        return repeat(_parts(time, basis), n_launches)

    def all_reduce(self, n_bytes: float | Floats, group: Group, own: OwnAllReduce) -> Parts:
        """Price the all-reduce that vLLM picks; without kernels of its `own`, and over several nodes, NCCL's."""
        return self._collectives.all_reduce(n_bytes, group, own)

    def all_gather(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price NCCL's all-gather."""
        return self._collectives.nccl("all_gather", n_bytes, group)

    def all_to_all(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price NCCL's all-to-all."""
        return self._collectives.nccl("all_to_all", n_bytes, group)

    def send(self, n_bytes: float | Floats, link: Link) -> Parts:
        """Price a point-to-point copy; derived from the link, not measured."""
        return self.fallback.send(n_bytes, link)


def calibrated_costs(device: Device, routing: Routing = DEFAULT_ROUTING) -> Calibrated:
    """Return the calibrated back end of `device`.

    Raises
    ------
    UnsupportedError : no kernel of the device, nor of one that it is predicted from, was fitted.

    Examples
    --------
    >>> from apex_sim.hardware.device import load_device
    >>> calibrated_costs(load_device("h100-sxm")).gemm(1.0, 8192, 8192, "bf16", "bf16").basis.back_end
    'calibrated'
    """
    fitted = PREDICTED_FROM.get(device.name, device.name)
    if fitted not in calibrated_devices():
        raise UnsupportedError(
            f"no kernel times were fitted for {device.name}",
            where="cost model 'calibrated'",
            remedy=f"use the cost model 'roofline', or one of {', '.join(calibrated_devices())}",
        )
    return Calibrated(Fits(device, fitted), Roofline(device, routing), routing)


def best_cost_model(device: Device, routing: Routing = DEFAULT_ROUTING) -> Calibrated | Roofline:
    """Return the calibrated back end where the device has fitted kernels, else its roofline, which says what it is."""
    fitted = PREDICTED_FROM.get(device.name, device.name)
    return calibrated_costs(device, routing) if fitted in calibrated_devices() else Roofline(device, routing)


def _parts(time: KernelTime, basis: Basis, n_launches: float = 1.0) -> Parts:
    return Parts(time.kernel_s, time.compute_s, time.memory_s, 0.0 * time.kernel_s, n_launches, 0.0, basis)


def _batch(work: PrefillWork) -> PrefillBatch:
    return PrefillBatch(work.pairs, work.n_query_tokens, work.n_key_tokens, work.n_sequences)


def _heads(sizes: AttentionSizes) -> Heads:
    return Heads(sizes.n_q_heads, sizes.n_kv_heads, sizes.head_dim, BYTES_PER_NUMBER[sizes.kv_dtype])


def _head_sizes(sizes: AttentionSizes) -> dict[str, float]:
    return {"num_heads": sizes.n_q_heads, "num_key_value_heads": sizes.n_kv_heads, "head_dim": sizes.head_dim}


def _linear_sizes(heads: LinearHeads) -> dict[str, float | Floats]:
    return {
        "num_k_heads": heads.n_k_heads,
        "num_v_heads": heads.n_v_heads,
        "head_k_dim": heads.k_dim,
        "head_v_dim": heads.v_dim,
        "d_conv": heads.conv_kernel,
    }


def _decode_sizes(work: DecodeWork) -> dict[str, float | Floats]:
    return {"batch_size": work.n_sequences, "step": np.maximum(work.context_tokens / work.n_sequences - 1.0, 1.0)}
