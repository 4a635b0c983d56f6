"""How is a number drawn that both engines must know, in whatever order they ask?  A hash of what it is for.

The arguments are mixed one after the other.  Products of 32 by 31 bits stay inside 63, so that plain and compiled code
give the same bits; constants and shifts are those of the least biased function of two rounds in Wellons' search,
https://github.com/skeeto/hash-prospector .
"""

from __future__ import annotations

import math
from typing import Final

from apex_sim.machine_code import compiled, inner

_MASK: Final = 0xFFFFFFFF
#: What is drawn: whether a draft token is kept, and, from here on by stage, how tokens are routed to experts.
ACCEPTANCE: Final = 1
EXPERTS: Final = 100
#: A normal draw ends here on both sides, so that its mean stays 0.
_MOST_SIGMA: Final = 3.0


@inner
def _mixed(bits: int, value: int) -> int:
    """Return a word of 32 bits that depends on every bit of both; words that differ never lead to shifted streams."""
    return _scattered(bits ^ _scattered((value + 0x9E3779B9) & _MASK))


@inner
def _scattered(bits: int) -> int:
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & _MASK
    bits = ((bits ^ (bits >> 15)) * 0x735A2D97) & _MASK
    return bits ^ (bits >> 15)


@compiled
def uniform(seed: int, a: int, b: int, purpose: int) -> float:
    """Return a number in [0, 1), in steps of 2^-32; all arguments are 0 or more, below 2^63.

    Examples
    --------
    >>> [round(uniform(0, step, 0, 1), 3) for step in range(4)]
    [0.689, 0.112, 0.285, 0.13]
    """
    bits = _mixed(purpose & _MASK, seed & _MASK)
    bits = _mixed(bits, seed >> 32)
    bits = _mixed(bits, a & _MASK)
    bits = _mixed(bits, a >> 32)
    bits = _mixed(bits, b & _MASK)
    return bits / 4294967296.0


@compiled
def normal(seed: int, a: int, b: int, purpose: int) -> float:
    """Return a standard normal number, cut at three deviations (Box and Muller, Ann. Math. Stat. 29 (1958), 610)."""
    first, second = uniform(seed, a, b, 2 * purpose), uniform(seed, a, b, 2 * purpose + 1)
    drawn = math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)
    return max(-_MOST_SIGMA, min(_MOST_SIGMA, drawn))
