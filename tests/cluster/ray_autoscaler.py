"""What Ray's own autoscaler would start for a demand, given a cluster's definition; no Ray runs."""

from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import (
    LabelSelectorOperator,  # pyright: ignore[reportAttributeAccessIssue]
)
from ray.core.generated.instance_manager_pb2 import (
    Instance,  # pyright: ignore[reportAttributeAccessIssue]
    InstanceUpdateEvent,  # pyright: ignore[reportAttributeAccessIssue]
)

FAILED, TIMED_OUT = Instance.ALLOCATION_FAILED, Instance.ALLOCATION_TIMEOUT


def from_ray_up(config: dict[str, Any]) -> AutoscalingConfig:
    """Read a definition of `ray up` as Ray's head does."""
    prepared = prepare_config(config)
    validate_config(prepared)
    prepared["auth"].pop("ssh_private_key", None)  # would be read, and isn't on this machine
    return AutoscalingConfig(prepared, skip_content_hash=True)


def from_kuberay(cluster: dict[str, Any]) -> AutoscalingConfig:
    """Read a RayCluster as Ray's autoscaler does in the head's pod."""
    derived = _derive_autoscaling_config_from_ray_cr(cluster)
    return AutoscalingConfig(derived, skip_content_hash=True)


def launched(
    config: AutoscalingConfig,
    demand: Mapping[str, float],
    *,
    count: int = 1,
    market: str = "",
    events: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Return how many nodes of each type are started for `count` times a demand.

    Args:
        config: the cluster.
        demand: resources.
        count: how many ask for it.
        market: the market-type that they select, if any.
        events: what happened to the last attempt to start a node of a type.
    """
    monitor = CloudResourceMonitor()
    for node_type, status in (events or {}).items():
        event = InstanceUpdateEvent(new_instance_status=status, instance_type=node_type)
        monitor.notify([event])
    is_in = LabelSelectorOperator.LABEL_OPERATOR_IN
    selectors = [[("ray.io/market-type", is_in, [market])]] if market else None
    asked = ResourceRequestUtil.make(dict(demand), label_selectors=selectors)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([asked] * count),
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    started = ResourceDemandScheduler(event_logger=None).schedule(request).to_launch
    return {each.instance_type: each.count for each in started}


def most_of_workers(config: AutoscalingConfig) -> dict[str, float]:
    """Return the CPUs and GPUs of all workers that a definition may have at once."""
    head = config.get_head_node_type()
    most: dict[str, float] = {}
    for name, kind in config.get_node_type_configs().items():
        for resource in ("CPU", "GPU") if name != head else ():
            number = kind.max_worker_nodes * kind.resources.get(resource, 0)
            most[resource] = most.get(resource, 0) + number
    return {resource: number for resource, number in most.items() if number}
