"""A form, asked about the sizes of a table."""

from __future__ import annotations

import numpy as np
import pytest

from apex_sim.cost.forms.gemm import gemm_time, quantise_time
from apex_sim.cost.measured.fitted import form_time, load_form
from apex_sim.hardware.device import load_device


@pytest.mark.parametrize("cold", [True, False])
def test_both_kernels_of_a_quantised_product_find_the_same_cache(cold: bool) -> None:
    """A loop over the same operands finds bf16 activations in L2 as it does the weights; serving finds neither."""
    l40s = load_device("l40s")
    fit = load_form(l40s, "gemm", "fp8-block")
    m, n, k = np.array([64.0, 4096.0]), np.array([4096.0, 4096.0]), np.array([8192.0, 8192.0])
    product = gemm_time(fit.coefficients, l40s, m, n, k, cold=cold).kernel_s
    quantise = quantise_time(fit.coefficients, l40s, m, 8192.0, cold=cold).kernel_s
    together = form_time(fit, "gemm", "fp8-block", l40s, {"m": m, "n": n, "k": k}, cold=cold).kernel_s
    assert together == pytest.approx(product + quantise)
