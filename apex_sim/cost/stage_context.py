"""What does every operator of a stage need to know?"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.parts import Floats, Parts
from apex_sim.hardware.cluster import Cluster
from apex_sim.hardware.link import Group, Link
from apex_sim.model.model import Layer, Model
from apex_sim.plan.shape import Shape, Stage


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every operator of a stage needs to know; `joins_inputs` if it starts from two hidden states for a token."""

    cost: CostModel
    model: Model
    cluster: Cluster
    shape: Shape
    index: int
    joins_inputs: bool = False

    @property
    def stage(self) -> Stage:
        """The stage itself."""
        return self.shape.stages[self.index]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The stage's layers."""
        stage = self.stage
        return self.model.layers[stage.first_layer : stage.first_layer + stage.n_layers]

    @property
    def is_first(self) -> bool:
        """Whether the stage holds the embedding."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether the stage holds the LM head."""
        return self.index == len(self.shape.stages) - 1

    @property
    def tp_group(self) -> Group:
        """Devices that hold one copy of the stage's attention, which its collectives run over."""
        return self.cluster.group(self.stage.attention.n_shards)

    @property
    def all_devices(self) -> Group:
        """All devices of the stage."""
        return self.cluster.group(self.stage.n_devices)

    @property
    def joins_ffn(self) -> bool:
        """Whether the attention ranks share the FFN of a dense model, each device a part of its columns."""
        return self.stage.attention.attention_dp > 1 and self.model.is_dense

    @property
    def exchanges_tokens(self) -> bool:
        """Whether attention ranks send each token to its experts' devices, rather than gather all tokens on all.

        As engines do where each expert is whole on one device; beside experts that are cut, they gather (SGLang's
        expert parallelism page: `--moe-a2a-backend none` for "hybrid EP and TP setups").
        """
        return self.stage.attention.attention_dp > 1 and self.stage.ffn.ep > 1 and self.stage.ffn.tp == 1

    @property
    def next_link(self) -> Link:
        """Link to the following stage.

        A packed instance starts at a node's first free device, and its stages are consecutive; a spread one has each
        stage in another node.  All devices of a stage send at once, each its slice.
        """
        end = (self.index + 1) * self.stage.n_devices
        crosses = self.shape.n_devices > self.cluster.n_devices_per_node and end % self.cluster.n_devices_per_node == 0
        crosses = crosses or self.shape.placement == "spread"
        inter_node = self.cluster.inter_node.shared_by(min(self.stage.n_devices, self.cluster.n_devices_per_node))
        return inter_node if crosses else self.cluster.intra_node

    @property
    def price_key(self) -> tuple[object, ...]:
        """All that tells one stage's prices from another's of the same shape.

        Kinds of layers with their numbers, in the order in which they first come: sums are taken in that order.
        """
        layers = self.layers
        kinds = tuple((layer, layers.count(layer)) for layer in dict.fromkeys(layers))
        link = None if self.is_last else self.next_link
        return kinds, self.stage.attention, self.stage.ffn, self.is_first, self.is_last, link

    def all_reduce(self, n_bytes: Floats) -> Parts:
        """Price an all-reduce over the tensor-parallel group, with the engine's own kernel where it is allowed."""
        own = self.shape.preset.own_all_reduce if self.shape.scheduler.custom_all_reduce else "none"
        return self.cost.all_reduce(n_bytes, self.tp_group, own)
