"""What did the scripts of a published benchmark set, where its table of results leaves a cell empty?

By source, engine and model; a cell of the case itself always goes before.  What a script does not set is the engine's
own default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from apex_sim.preset.preset import Preset
from apex_sim.truth.case import Case, EngineSettings


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """Flags that a benchmark's script passes to its servers; None where it passes none.

    `spare_context_tokens` is what it adds to prompt and output for the longest context, `most_graph_tokens` the largest
    CUDA graph, `stream_tokens` how many tokens a stream sends together.
    """

    source: str
    gpu_memory_utilization_frac: float | None = None
    spare_context_tokens: int | None = None
    most_graph_tokens: int | None = None
    stream_tokens: int | None = None

    def fill(self, case: Case) -> tuple[Case, list[str]]:
        """Return the case with its empty cells filled in, and a note for each."""
        load, stated = case.load, case.settings
        chosen: dict[str, Any] = {}
        if stated.gpu_memory_utilization_frac is None and self.gpu_memory_utilization_frac is not None:
            chosen["gpu_memory_utilization_frac"] = self.gpu_memory_utilization_frac
        if stated.max_model_len is None and self.spare_context_tokens is not None and load.isl_tokens:
            chosen["max_model_len"] = load.isl_tokens + (load.osl_tokens or 0) + self.spare_context_tokens
        settings: EngineSettings = replace(stated, **chosen)
        if self.stream_tokens:
            chosen["tokens sent at a time"] = self.stream_tokens
        return replace(case, settings=settings), [f"{name}: {value}, {self.source}" for name, value in chosen.items()]

    def captured(self, preset: Preset) -> tuple[Preset, list[str]]:
        """Return the preset with CUDA graphs up to the size that the script asks for, and a note if it differs."""
        graphs, most = preset.graphs, self.most_graph_tokens
        if most is None or most <= graphs.sizes[-1]:
            return preset, []
        sizes = (*graphs.sizes, *range(graphs.sizes[-1] + 16, most + 1, 16))
        return replace(preset, graphs=replace(graphs, sizes=sizes)), [f"CUDA graphs up to {most} tokens, {self.source}"]


_INFERENCEX: Final = "https://github.com/SemiAnalysisAI/InferenceX, benchmarks"
_GPT_OSS: Final = PublishedSettings(
    f"{_INFERENCEX}/gptoss_fp4_h200.sh and gptoss_fp4_h100.sh",
    gpu_memory_utilization_frac=0.9,
    spare_context_tokens=200,
    most_graph_tokens=2048,
)
_DEEPSEEK: Final = PublishedSettings(
    f"{_INFERENCEX}/dsr1_fp8_h200.sh", gpu_memory_utilization_frac=0.82, stream_tokens=10
)
#: Start of the source's name, engine, and start of the model's name.
_PUBLISHED: Final = {
    ("inferencex", "vllm", "gpt-oss"): _GPT_OSS,
    ("silicon_inferencex", "vllm", "gpt-oss"): _GPT_OSS,
    ("inferencex", "sglang", "deepseek-r1"): _DEEPSEEK,
}


def settings_of_scripts(case: Case) -> PublishedSettings | None:
    """Return what the scripts behind `case` set; None where none is known."""
    deployment = case.deployment
    for (source, engine, model), settings in _PUBLISHED.items():
        if (
            case.source.lower().startswith(source)
            and deployment.engine.lower() == engine
            and deployment.model.lower().startswith(model)
        ):
            return settings
    return None
