"""Which policies does the compiled engine have?"""

from __future__ import annotations

from collections.abc import Callable

from apex_sim.instance.kernel.chunked import advance_chunked
from apex_sim.instance.kernel.max_utilization import advance_max_utilization
from apex_sim.instance.kernel.no_evict import advance_no_evict
from apex_sim.instance.kernel.no_evict_chunked import advance_no_evict_chunked
from apex_sim.instance.kernel.orca import advance_orca
from apex_sim.instance.kernel.prefill_first import advance_prefill_first
from apex_sim.instance.kernel.sarathi import advance_sarathi
from apex_sim.instance.kernel.sglang import advance_sglang
from apex_sim.instance.kernel.splitfuse import advance_splitfuse
from apex_sim.instance.kernel.state import State
from apex_sim.instance.kernel.static import advance_static
from apex_sim.instance.kernel.unified import advance_unified

#: By the names of `apex_sim.instance.policies.POLICIES`; each runs an instance until nothing is left to do.
COMPILED_POLICIES: dict[str, Callable[[State], None]] = {
    "prefill-first": advance_prefill_first,
    "chunked": advance_chunked,
    "unified": advance_unified,
    "sglang": advance_sglang,
    "no-evict": advance_no_evict,
    "no-evict-chunked": advance_no_evict_chunked,
    "max-utilization": advance_max_utilization,
    "sarathi": advance_sarathi,
    "splitfuse": advance_splitfuse,
    "orca": advance_orca,
    "static": advance_static,
}
