"""Is a draft token kept?  Draws that belong to a seed, a request and a place in its answer, never to an order of calls.

The same request therefore keeps the same tokens under every plan, routing and number of instances.
"""

from __future__ import annotations

from typing import Final

from apex_sim.machine_code import compiled

#: Sets these draws apart from any others of the same seed and request.
PURPOSE: Final = 0x5EED_ACCE
_WORD: Final = 0xFFFF_FFFF
_RANGE: Final = 4294967296.0


@compiled
def mixed(word: int) -> int:
    """Return a word of 32 bits in which every bit depends on every bit of `word`; different words stay different.

    Multiplications of 32 by 31 bits stay inside 63, so that plain and compiled code agree.  Constants and shifts are
    those of the least biased function of two rounds in Wellons' search, https://github.com/skeeto/hash-prospector .
    """
    word = ((word ^ (word >> 16)) * 0x21F0_AAAD) & _WORD
    word = ((word ^ (word >> 15)) * 0x735A_2D97) & _WORD
    return word ^ (word >> 15)


@compiled
def acceptance_draw(seed: int, request: int, position: int) -> float:
    """Return a number uniform in [0, 1) for the draft token at `position` of the answer to `request`.

    A draft token is kept where it lies below the probability.

    Examples
    --------
    >>> 0.0 <= acceptance_draw(1, 2, 3) < 1.0, acceptance_draw(1, 2, 3) == acceptance_draw(1, 2, 3)
    (True, True)
    """
    word = mixed(PURPOSE ^ (seed & _WORD))
    word = mixed(word ^ mixed((seed >> 32) & _WORD))
    word = mixed((word + request) & _WORD)
    return mixed(word ^ mixed(position & _WORD)) / _RANGE
