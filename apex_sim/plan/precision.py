"""In which number formats do weights, activations and KV cache live?"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.model.model import Model
from apex_sim.units import BYTES_PER_NUMBER

#: What each weight format multiplies with: fp8, int8 and nvfp4 weights meet activations of their own format, the others
#: are weight-only, so that the matrix units see bf16.
ACTIVATION_OF_WEIGHT = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8-block": "fp8",
    "int8": "int8",
    "w8a16": "bf16",
    "w4a16": "bf16",
    "nvfp4": "nvfp4",
    "mxfp4": "bf16",
}
#: Key of `Device.peak_flops` that each activation format multiplies at.
PEAK_OF_ACTIVATION = {"bf16": "bf16", "fp8": "fp8", "int8": "int8", "nvfp4": "fp4"}
#: Bytes of a number on its way to experts whose weights are in these formats, elsewhere bf16's: fp8 with a 32-bit scale
#: for each 128 numbers of a token (DeepEP, Buffer.low_latency_dispatch with use_fp8).
DISPATCH_BYTES = {"fp8-block": 1 + 4 / 128}
WEIGHT_DTYPES = tuple(ACTIVATION_OF_WEIGHT)
KV_DTYPES = ("bf16", "fp8")


@dataclass(frozen=True, slots=True)
class Precision:
    """Number formats of one shape; names as in `apex_sim.units.BYTES_PER_NUMBER`."""

    weight: str = "bf16"
    kv: str = "bf16"

    @property
    def activation(self) -> str:
        """Format in which the matrix units multiply the quantised layers."""
        return ACTIVATION_OF_WEIGHT[self.weight]

    @property
    def label(self) -> str:
        """Short name for tables.

        Examples
        --------
        >>> Precision("fp8", "fp8").label
        'fp8 kv-fp8'
        """
        return self.weight if self.kv == "bf16" else f"{self.weight} kv-{self.kv}"

    def weight_dtype_of(self, model: Model, part: str) -> str:
        """Return the weight format of `part` ("attention", "ffn" or "experts") of `model`.

        Embeddings, LM head, norms and routers always stay bf16.  Where the checkpoint itself is quantised in this
        format, only the parts that it covers are (gpt-oss: the experts); otherwise all linear layers are.
        """
        if self.weight == model.weight_dtype and model.quantized_parts and part not in model.quantized_parts:
            return "bf16"
        return self.weight

    def kv_bytes(self) -> float:
        """Bytes of one stored KV number."""
        return BYTES_PER_NUMBER[self.kv]
