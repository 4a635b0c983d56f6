"""Batching policies: each is one function from a scheduler's queue to the next batch."""

from apex_sim.instance.policies.chunked import schedule_chunked
from apex_sim.instance.policies.max_utilization import schedule_max_utilization
from apex_sim.instance.policies.no_evict import schedule_no_evict
from apex_sim.instance.policies.prefill_first import schedule_prefill_first
from apex_sim.instance.policies.sglang import schedule_sglang
from apex_sim.instance.policies.unified import schedule_unified

#: Policies that look prompts up in the prefix cache.
CACHING_POLICIES = ("unified",)
POLICIES = {
    "prefill-first": schedule_prefill_first,
    "chunked": schedule_chunked,
    "unified": schedule_unified,
    "sglang": schedule_sglang,
    "no-evict": schedule_no_evict,
    "max-utilization": schedule_max_utilization,
}
