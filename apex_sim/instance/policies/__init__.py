"""Batching policies: each is one function from a scheduler's queue to the next batch."""

from apex_sim.instance.policies.chunked import schedule_chunked
from apex_sim.instance.policies.max_utilization import schedule_max_utilization
from apex_sim.instance.policies.no_evict import schedule_no_evict
from apex_sim.instance.policies.no_evict_chunked import schedule_no_evict_chunked
from apex_sim.instance.policies.orca import schedule_orca
from apex_sim.instance.policies.prefill_first import schedule_prefill_first
from apex_sim.instance.policies.sarathi import schedule_sarathi
from apex_sim.instance.policies.sglang import schedule_sglang
from apex_sim.instance.policies.splitfuse import schedule_splitfuse
from apex_sim.instance.policies.static import schedule_static
from apex_sim.instance.policies.unified import schedule_unified

#: Policies that look prompts up in the prefix cache.
CACHING_POLICIES = ("unified",)
POLICIES = {
    "prefill-first": schedule_prefill_first,
    "chunked": schedule_chunked,
    "unified": schedule_unified,
    "sglang": schedule_sglang,
    "no-evict": schedule_no_evict,
    "no-evict-chunked": schedule_no_evict_chunked,
    "max-utilization": schedule_max_utilization,
    "sarathi": schedule_sarathi,
    "splitfuse": schedule_splitfuse,
    "orca": schedule_orca,
    "static": schedule_static,
}
