"""When does speculative decoding pay?  The tables of docs/worked/speculation.md.

    python benchmarks/worked_speculation.py

For each setting and batch: the time of a plain decode step, of one that verifies k draft tokens for each sequence, and
of the draft beside it; what that makes of an acceptance; and the acceptance, equal at all positions, that breaks even.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scipy.optimize import brentq

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.load import load_preset

#: Probabilities of acceptance that the tables show.
ACCEPTANCE = (0.5, 0.7, 0.85, 0.9)


@dataclass(frozen=True)
class Setting:
    """Model, draft and devices, with the context at which steps are priced."""

    model: str
    draft: str
    cluster: str
    tp: int
    context_tokens: int
    n_drafts: tuple[int, ...]
    weight_dtype: str | None = None
    batches: tuple[int, ...] = (1, 8, 32, 128, 256)


SETTINGS = (
    Setting("deepseek-r1", "mtp", "8xh200-sxm", 8, 2048, (1, 2, 3)),
    Setting("llama-3.1-70b", "llama-3.2-1b", "4xh100-sxm", 4, 2048, (1, 3, 5)),
    Setting("llama-3.3-70b", "llama-3.2-3b", "1xh100-sxm", 1, 500, (5,), "fp8", (1, 8, 32)),
)


#: Settings (by place), batches, draft tokens and probabilities next to which the page puts what others published.
CLAIMS = (
    (0, 1, 1, (0.82,)),
    (0, 1, 1, (0.9,)),
    (0, 32, 1, (0.9,)),
    (1, 1, 5, (0.5,) * 5),
    (1, 256, 5, (0.5,) * 5),
    (2, 1, 5, (0.73,) * 5),
)


@dataclass(frozen=True)
class Steps:
    """Device seconds of one step: plain, verifying, and the draft's; and the host's, which only a plain step hides."""

    plain_s: float
    verify_s: float
    draft_s: float
    host_s: float

    def speed_up(self, speculation: Speculation, with_host: bool = False) -> float:
        """Return tokens per second over those without speculation."""
        plain_s = max(self.plain_s, self.host_s) if with_host else self.plain_s
        step_s = self.verify_s + self.draft_s + (self.host_s if with_host else 0.0)
        return speculation.expected_tokens * plain_s / step_s


def constant(draft: str, n: int, frac: float) -> Speculation:
    """Return a speculation with one probability for all positions."""
    return Speculation(draft, n, (frac,) * n)


def leviathan(frac: float, n: int, cost_ratio: float) -> float:
    """Return the speed-up where verification costs one plain step (arXiv:2211.17192, theorem 3.8)."""
    return (1 - frac ** (n + 1)) / ((1 - frac) * (n * cost_ratio + 1))


def step_model(setting: Setting, speculation: Speculation | None) -> StepModel:
    """Return the step model of `setting`."""
    model, cluster, preset = load_model(setting.model), load_cluster(setting.cluster), load_preset("vllm-1")
    settings = resolve_settings(preset, cluster.device, 8192, tp=setting.tp, speculation=speculation)
    settings = replace(settings, max_num_seqs=max(setting.batches))
    precision = Precision(setting.weight_dtype or model.weight_dtype)
    shape = Shape(
        cluster.device.name, tensor_pipeline_stages((model.n_layers,), setting.tp), precision, settings, preset
    )
    return compile_step_model(model, cluster, shape, best_cost_model(cluster.device))


def steps(plain: StepModel, verifying: StepModel, batch: int, context: int, n: int) -> Steps:
    """Return what steps of `batch` sequences take."""
    alone, together, drafts = StepBatch(plain.windows), StepBatch(verifying.windows), DraftBatch(verifying.windows)
    for _ in range(batch):
        alone.add(context, 1, 1, is_decode=True)
        together.add(context, 1 + n, 1 + n, is_decode=True)
        drafts.add(context, 1 + n, True, is_decode=True)
    assert verifying.draft is not None
    return Steps(
        plain.stages[0].price(alone).device_s,
        verifying.stages[0].price(together).device_s,
        verifying.draft.price(drafts)[0],
        plain.host_s(alone),
    )


def break_even(found: Steps, draft: str, n: int) -> str:
    """Return the acceptance at which speculation neither wins nor loses on the device."""
    if found.speed_up(constant(draft, n, 1.0)) < 1:
        return "never"
    return f"{brentq(lambda frac: found.speed_up(constant(draft, n, frac)) - 1, 0.0, 1.0):.2f}"


def main() -> None:
    """Print one table for each setting."""
    for setting in SETTINGS:
        title = f"{setting.model}, draft {setting.draft}, TP{setting.tp} on {setting.cluster}"
        print(f"\n{title}, {setting.context_tokens} tokens of context, device time; with host time in brackets\n")
        fracs = " | ".join(f"{frac:g}" for frac in ACCEPTANCE)
        print(f"| batch | k | plain ms | verify ms | draft ms | {fracs} | formula at 0.85 | breaks even at |")
        print("|---" * (7 + len(ACCEPTANCE)) + "|")
        plain = step_model(setting, None)
        for n in setting.n_drafts:
            verifying = step_model(setting, constant(setting.draft, n, 0.5))
            for batch in setting.batches:
                found = steps(plain, verifying, batch, setting.context_tokens, n)
                gains = [constant(setting.draft, n, frac) for frac in ACCEPTANCE]
                shown = " | ".join(f"{found.speed_up(g):.2f} ({found.speed_up(g, True):.2f})" for g in gains)
                times = " | ".join(f"{1e3 * s:.2f}" for s in (found.plain_s, found.verify_s, found.draft_s))
                formula = leviathan(0.85, n, found.draft_s / n / found.plain_s)
                print(
                    f"| {batch} | {n} | {times} | {shown} | {formula:.2f} | {break_even(found, setting.draft, n)} |",
                    flush=True,
                )
    print("\n| model | batch | k | acceptance | tokens a step | device | with host | plain tokens/s | tokens/s |")
    print("|---" * 9 + "|")
    for place, batch, n, fracs in CLAIMS:
        setting, speculation = SETTINGS[place], Speculation(SETTINGS[place].draft, n, fracs)
        plain, verifying = step_model(setting, None), step_model(setting, speculation)
        found = steps(plain, verifying, batch, setting.context_tokens, n)
        per_s = 1 / max(found.plain_s, found.host_s)
        gain, served = found.speed_up(speculation), found.speed_up(speculation, with_host=True)
        print(
            f"| {setting.model} | {batch} | {n} | {fracs[0]:g} | {speculation.expected_tokens:.2f} | {gain:.2f} | "
            f"{served:.2f} | {per_s:.0f} | {per_s * served:.0f} |"
        )


if __name__ == "__main__":
    main()
