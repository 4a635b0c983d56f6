"""How is a number drawn that both engines must know, in whatever order they ask?  A hash of what it is for.

The finaliser of MurmurHash3 (Austin Appleby, public domain) over the arguments, one after the other, in arithmetic on
32 bits: 64-bit products wrap in compiled code as they do under a mask in Python, so that both give the same bits.
"""

from __future__ import annotations

import math
from typing import Final

from apex_sim.machine_code import compiled, inner

_MASK: Final = 0xFFFFFFFF
#: What the routing of tokens to experts is drawn for; drawings of other kinds have other numbers.
EXPERTS: Final = 100
#: A normal draw ends here on both sides, so that its mean stays 0.
_MOST_SIGMA: Final = 3.0


@inner
def _mixed(bits: int, value: int) -> int:
    bits = (int(bits) + int(value) + 0x9E3779B9) & _MASK
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & _MASK
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & _MASK
    return bits ^ (bits >> 16)


@compiled
def uniform(seed: int, a: int, b: int, purpose: int) -> float:
    """Return a number in [0, 1), in steps of 2^-32; all arguments are 0 or more, below 2^63.

    Examples
    --------
    >>> [round(uniform(0, step, 0, 1), 3) for step in range(4)]
    [0.599, 0.103, 0.924, 0.543]
    """
    bits = _mixed(purpose & _MASK, seed & _MASK)
    bits = _mixed(bits, seed >> 32)
    bits = _mixed(bits, a & _MASK)
    bits = _mixed(bits, a >> 32)
    bits = _mixed(bits, b)
    return bits / 4294967296.0


@compiled
def normal(seed: int, a: int, b: int, purpose: int) -> float:
    """Return a standard normal number, cut at three deviations (Box and Muller, Ann. Math. Stat. 29 (1958), 610)."""
    first, second = uniform(seed, a, b, 2 * purpose), uniform(seed, a, b, 2 * purpose + 1)
    drawn = math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)
    return max(-_MOST_SIGMA, min(_MOST_SIGMA, drawn))
