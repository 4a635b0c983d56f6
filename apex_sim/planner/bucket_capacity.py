"""Which rate of each bucket's requests does one instance of a shape sustain within the study's limits?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from apex_sim.hardware.cluster import Cluster
from apex_sim.plan.plan import Plan
from apex_sim.plan.routing import Routing
from apex_sim.plan.shape import Shape
from apex_sim.planner.capacity import highest_rate
from apex_sim.planner.programs.bucket_mix import Buckets
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.space import default_max_model_len, enumerate_space
from apex_sim.planner.study import Study
from apex_sim.workload.arrivals import poisson
from apex_sim.workload.workload import Workload

#: Purpose of the random numbers that choose and time the requests of a bucket.
_BUCKET: Final = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A shape with what simulation says of it.

    Attributes
    ----------
    option : its capacities are the highest rates that it was seen to keep, bucket by bucket.
    ceiling_per_s : the lowest rates above those that it was seen to fail; where none failed, the highest asked.
    """

    shape: Shape
    option: ShapeOption
    ceiling_per_s: tuple[float, ...]

    @property
    def ceiling(self) -> ShapeOption:
        """The option with the rates that it fails for capacities."""
        return replace(self.option, capacity_per_s=self.ceiling_per_s)

    def scaled(self, factor: float) -> ShapeOption:
        """Return the option with so many times the capacity."""
        return replace(self.option, capacity_per_s=tuple(factor * rate for rate in self.option.capacity_per_s))


def columns_of(study: Study, buckets: Buckets, n_requests: int, ratio: float) -> Iterator[Column]:
    """Yield every shape of the study's space that its pools can run, with its capacities.

    Parameters
    ----------
    n_requests : of each bucket, drawn from the study's own.
    ratio : how far apart the rates that an instance keeps and fails may be.

    Raises
    ------
    InputError, UnsupportedError : as `enumerate_space` and `highest_rate`.
    """
    loads = [bucket_workload(study.workload, buckets, bucket, n_requests) for bucket in range(len(buckets.rate_per_s))]
    for pool in study.cluster.pools:
        for shape, reach in _shapes(study, pool, buckets).items():
            yield _column(study, pool, shape, loads[:reach], len(loads), ratio)


def bucket_workload(workload: Workload, buckets: Buckets, bucket: int, n_requests: int) -> Workload:
    """Return `n_requests` of one bucket as a Poisson load of the bucket's rate; each as often as any other, or nearly.

    Raises
    ------
    IndexError : there is no such bucket.
    """
    edges, rate_per_s = Routing(buckets.bucket_tokens, ((1.0,),) * len(buckets.rate_per_s)), buckets.rate_per_s[bucket]
    own = np.array([edges.bucket_of(int(tokens)) == bucket for tokens in workload.requests.prompt_tokens])
    rng = np.random.default_rng([workload.seed or 0, _BUCKET, bucket])
    rows = np.flatnonzero(own)
    rows = np.concatenate([rng.permutation(rows) for _ in range(-(-n_requests // len(rows)))])[:n_requests]
    arrival_s = poisson(rate_per_s, n_requests, rng)
    requests = replace(workload.requests.take(rows), arrival_s=arrival_s).arriving(arrival_s)
    name = f"{workload.name}, bucket {bucket}"
    return replace(workload, name=name, requests=requests, rate_per_s=rate_per_s, seed=workload.seed or 0)


def _shapes(study: Study, pool: Cluster, buckets: Buckets) -> dict[Shape, int]:
    """Return the shapes of the space that `pool` can run, each with how many buckets it takes, the shortest first.

    An engine refuses to start where its longest request does not fit its KV pool.  Behind a router by length it need
    not take the longest: where the study states no `max_model_len`, a shape gets that of as many buckets as fit.
    """
    alone = {"dp": [1], "allow_idle": True, "routers": [], "n_shapes": 1}
    one = replace(study, cluster=pool, space=study.space.model_copy(update=alone))
    found, known, n = dict[Shape, int](), set[Shape](), len(buckets.rate_per_s)
    for reach in range(n, 0, -1) if study.scheduler.max_model_len is None else (n,):
        longest = default_max_model_len(replace(study, workload=_of_buckets(study.workload, buckets, reach)))
        length = longest if study.scheduler.max_model_len is None else study.scheduler.max_model_len
        scheduler = study.scheduler.model_copy(update={"max_model_len": length})
        shapes = [plan.instances[0][0] for plan in enumerate_space(replace(one, scheduler=scheduler)).feasible]
        found |= {shape: reach for shape in shapes if _spread(shape) not in known}
        known |= {_spread(shape) for shape in shapes}
    return found


def _spread(shape: Shape) -> Shape:
    """Return the shape without what follows from the length of its longest request."""
    return replace(shape, scheduler=replace(shape.scheduler, max_model_len=1, max_num_batched_tokens=1))


def _of_buckets(workload: Workload, buckets: Buckets, n: int) -> Workload:
    """Return the requests of the first `n` buckets."""
    if n > len(buckets.bucket_tokens):
        return workload
    own = workload.requests.prompt_tokens <= buckets.bucket_tokens[n - 1]
    return replace(workload, requests=workload.requests.take(np.flatnonzero(own)))


def _column(study: Study, pool: Cluster, shape: Shape, loads: list[Workload], n_buckets: int, ratio: float) -> Column:
    """Return the column of a shape that takes the buckets of `loads` out of `n_buckets`."""
    kept, failed = [], []
    for load in loads:
        found = highest_rate(replace(study, cluster=pool, workload=load), Plan(((shape, 1),)), n_draws=1, ratio=ratio)
        kept.append(found.keeps_per_s or 0.0)
        asked = max(each.rate_per_s for each in found.judgements)
        failed.append((found.fails_per_s or asked) if found.keeps_per_s else 0.0)
    nothing = [0.0] * (n_buckets - len(loads))
    kept, failed = kept + nothing, failed + nothing
    device, n = pool.device, shape.n_devices
    name = f"{n}x{device.name} {shape.label}"
    option = ShapeOption(name, device.name, n, n * device.price_usd_per_h, n * device.max_w, tuple(kept))
    return Column(shape, option, tuple(failed))
