"""The executor that the options of `options.ray_cluster` ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .console import refuse_idle_options

if TYPE_CHECKING:
    from tokenstore.conversion import RayExecutor

_ACTOR_OPTIONS = {
    "actors": "--actors",
    "gpus_per_actor": "--gpus-per-actor",
    "cpus_per_actor": "--cpus-per-actor",
}


def ray_executor(settings: dict[str, Any], local: str) -> RayExecutor | None:
    """Take the options of a Ray cluster out of `settings`, and return its executor; None without a cluster.

    `local` is the parameter that says how much is done at a time here. Options without use are refused.
    """
    actors = {name: settings.pop(name) for name in _ACTOR_OPTIONS if name in settings}
    ray = settings.pop("ray")
    refuse_idle_options({name: _ACTOR_OPTIONS[name] for name in actors}, "--ray ADDRESS", ray is None)
    refuse_idle_options({local: f"--{local}"}, "work without --ray ADDRESS", ray is not None)
    if ray is None:
        return None
    from tokenstore.conversion import RayExecutor

    settings[local] = None  # which is by default one a core of this machine
    return RayExecutor(ray, **actors)
