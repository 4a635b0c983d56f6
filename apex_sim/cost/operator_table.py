"""What do the operators of a step cost that depend on one size alone?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.basis import Basis
from apex_sim.cost.bound import split_kernel_s
from apex_sim.cost.operators import Named
from apex_sim.cost.parts import Floats


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """Costs of a group of operators at each knot of a size; rows are operators, columns knots, the first is zero.

    `bases` says for each row what its prices rest on; an operator that runs in several forms has several rows.
    `totals_s` has kernel, compute, memory and network time of all operators together at each knot, `bounds_s` the
    kernel time of each by what bounds it, (3, operators, knots) as in `apex_sim.cost.bound.BOUNDS`.
    """

    names: tuple[str, ...]
    bases: tuple[Basis, ...]
    kernel_s: Floats
    in_range: NDArray[np.bool_]
    n_launches: float
    gap_launches: float
    totals_s: Floats
    bounds_s: Floats

    def scaled(self, factor: float) -> OperatorTable:
        """Return the table with kernels that take `factor` times as long, at the same work and bytes."""
        return replace(
            self,
            kernel_s=self.kernel_s * factor,
            totals_s=self.totals_s * kernel_only(factor, 4),
            bounds_s=self.bounds_s * factor,
        )


def kernel_only(factor: float, n_columns: int) -> Floats:
    """Return what multiplies the columns of a table whose first is kernel time.

    Examples
    --------
    >>> kernel_only(1.5, 3).tolist()
    [1.5, 1.0, 1.0]
    """
    return np.array([factor] + [1.0] * (n_columns - 1))


def tabulate_operators(operators: list[Named], n_knots: int) -> OperatorTable:
    """Sum up `operators`, priced at all knots but the first, which stands for no work at all."""
    keys = list(dict.fromkeys((name, parts.basis.key) for name, parts in operators))
    kernel, compute, memory, network = (np.zeros((len(keys), n_knots)) for _ in range(4))
    bounds = np.zeros((3, len(keys), n_knots))
    in_range = np.ones((len(keys), n_knots), dtype=np.bool_)
    bases: dict[int, Basis] = {}
    for name, parts in operators:
        row = keys.index((name, parts.basis.key))
        kernel[row, 1:] += parts.kernel_s
        compute[row, 1:] += parts.compute_s
        memory[row, 1:] += parts.memory_s
        network[row, 1:] += parts.network_s
        bounds[:, row, 1:] += split_kernel_s(parts)
        in_range[row, 1:] &= parts.basis.in_range
        bases[row] = parts.basis
    return OperatorTable(
        tuple(name for name, _ in keys),
        tuple(bases[row] for row in range(len(keys))),
        kernel,
        in_range,
        sum(parts.n_launches for _, parts in operators),
        sum(parts.gap_launches for _, parts in operators),
        np.stack([part.sum(axis=0) for part in (kernel, compute, memory, network)], axis=-1),
        bounds,
    )
