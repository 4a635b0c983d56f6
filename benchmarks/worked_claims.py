"""What do published claims about serving look like in the simulator?  One part for each page of docs/worked/.

Run as `python benchmarks/worked_claims.py PART`; a part prints its page's tables and the CPU time that it took, and
draws docs/images/worked-PART.png.  Nothing here is fitted: settings are the publication's, costs the simulator's own.
"""

from __future__ import annotations

import sys
from importlib import import_module

from worked_setting import cpu_time

PARTS = ("paging", "sarathi", "splitfuse", "shortest")


def main() -> None:
    """Run the parts that are named, or all."""
    for part in sys.argv[1:] or PARTS:
        if part not in PARTS:
            sys.exit(f"no part {part!r}: choose from {', '.join(PARTS)}")
        with cpu_time(part):
            import_module(f"worked_{part}").run()


if __name__ == "__main__":
    main()
