"""What is deployed?  A list of shapes with their counts, behind a router."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from apex_sim.plan.routing import Routing
from apex_sim.plan.shape import Shape


@dataclass(frozen=True, slots=True)
class Plan:
    """(shape, count) pairs behind a router; `routing` holds the shares of a router that needs them.

    `note` tells the plan from others of the same cells, as in "seats 64, budget 2048".
    """

    instances: tuple[tuple[Shape, int], ...]
    router: str = "round-robin"
    routing: Routing | None = None
    note: str = ""

    @property
    def n_instances(self) -> int:
        """Instances of all shapes."""
        return sum(count for _, count in self.instances)

    @property
    def n_devices(self) -> int:
        """Devices that the plan holds."""
        return sum(shape.n_devices * count for shape, count in self.instances)

    def n_devices_of(self, device: str) -> int:
        """Return how many devices of one type the plan holds."""
        return sum(shape.n_devices * count for shape, count in self.instances if shape.device == device)

    @property
    def label(self) -> str:
        """Short name for tables, such as "DP2 TP4 PP1 bf16"."""
        devices = {shape.device for shape, _ in self.instances}
        names = [
            f"DP{count} {shape.label}{f' on {shape.device}' if len(devices) > 1 else ''}"
            for shape, count in self.instances
        ]
        return " + ".join(names) + (f", {self.note}" if self.note else "")

    def expand(self) -> list[Shape]:
        """Return the shape of each instance, in order."""
        return [shape for shape, count in self.instances for _ in range(count)]

    def as_dict(self) -> dict[str, object]:
        """Return what reports and `--json` say of the plan."""
        return {
            "label": self.label,
            "router": self.router,
            "routing": self.routing and asdict(self.routing),
            "n_devices": self.n_devices,
            "instances": [
                {
                    "count": count,
                    "device": shape.device,
                    "role": shape.role,
                    "clock_frac": shape.clock_frac,
                    "placement": shape.placement,
                    "tp": shape.tp,
                    "pp": shape.pp,
                    "attention_dp": shape.attention_dp,
                    "cp": shape.cp,
                    "ffn_tp": shape.stages[0].ffn.tp,
                    "ep": shape.ep,
                    "layers": [stage.n_layers for stage in shape.stages],
                    "weight_dtype": shape.precision.weight,
                    "activation_dtype": shape.precision.activation,
                    "kv_dtype": shape.precision.kv,
                    "preset": shape.preset.name,
                    "policy": shape.scheduler.policy,
                    "max_num_seqs": shape.scheduler.max_num_seqs,
                    "max_num_batched_tokens": shape.scheduler.max_num_batched_tokens,
                    "max_model_len": shape.scheduler.max_model_len,
                    "block_size_tokens": shape.scheduler.block_size_tokens,
                    "gpu_memory_utilization_frac": shape.scheduler.gpu_memory_utilization_frac,
                    "cuda_graphs": shape.scheduler.cuda_graphs,
                    "async_scheduling": shape.scheduler.async_scheduling,
                    "queue_order": shape.scheduler.queue_order,
                    "prediction_log_sd": shape.scheduler.prediction_log_sd,
                    "max_num_waiting": shape.scheduler.max_num_waiting,
                    "preemption": shape.scheduler.preemption,
                    "swap_bytes": shape.scheduler.swap_bytes,
                    "speculation": shape.scheduler.speculation and asdict(shape.scheduler.speculation),
                    "expert_imbalance": shape.scheduler.expert_imbalance,
                }
                for shape, count in self.instances
            ],
        }
