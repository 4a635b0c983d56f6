"""On what ground does a prediction stand: which engine, device and model family, under which load?"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.model.model import Model
from apex_sim.record.run import FleetRun
from apex_sim.workload.workload import Workload


@dataclass(frozen=True, slots=True)
class Footing:
    """What tells a validated prediction from one that is not.

    `family` is the model's architecture as Hugging Face names it; `layout` is parallelism and precision of each kind
    of instance; `n_at_once` is the mean number of requests in an instance, `prompt_tokens` their mean prompt; `load` is
    equal where plans were asked the same; `clock_frac` is the lowest clock of any instance.
    """

    preset: str
    device: str
    family: str
    model: str
    tp: tuple[int, ...]
    layout: str
    n_at_once: float
    prompt_tokens: float
    load: str = ""
    clock_frac: float = 1.0


def footing_of(model: Model, workload: Workload, run: FleetRun) -> Footing:
    """Return the ground of a simulated plan."""
    requests, shapes = workload.requests, [shape for shape, _ in run.plan.instances]
    prompt, output = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    layout = "+".join(
        f"TP{shape.tp} PP{shape.pp} ADP{shape.attention_dp} EP{shape.ep} {shape.precision.weight} {shape.precision.kv}"
        for shape in shapes
    )
    return Footing(
        preset="+".join(dict.fromkeys(shape.preset.name for shape in shapes)),
        device="+".join(dict.fromkeys(shape.device for shape in shapes)),
        family=model.architecture,
        model=model.name,
        tp=tuple(sorted({shape.tp for shape in shapes})),
        layout=layout,
        n_at_once=run.request_seconds / run.makespan_s / run.plan.n_instances if run.makespan_s else 0.0,
        prompt_tokens=prompt,
        load=f"{workload.load.kind} {workload.load.concurrency} {workload.rate_per_s} {requests.n} {prompt} {output}",
        clock_frac=min((shape.clock_frac for shape in shapes), default=1.0),
    )
