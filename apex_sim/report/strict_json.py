"""How is a result written as JSON?"""

from __future__ import annotations

import json


def json_text(document: object) -> str:
    """Return `document` as JSON; NaN and infinity have no place in it.

    Examples
    --------
    >>> json_text({"n": 1})
    '{\\n  "n": 1\\n}\\n'
    """
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
