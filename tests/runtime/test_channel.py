"""Events from workers to the driver."""

from pathlib import Path
from typing import Any

import pytest
import ray

from raymc.events import Event, Warned
from raymc.runtime.channel import Channel, sender

EVENTS = [Warned(str(number)) for number in range(100)]


def send(channel: Channel) -> None:
    """Send all events from a process of their own."""

    @ray.remote(num_cpus=0)
    def work(mailbox: Any) -> None:
        for event in EVENTS:
            sender(mailbox)(event)
        ray.get(mailbox.put.remote(Warned("end")))

    ray.get(work.remote(channel.mailbox))


def test_events_come_in_order(ray_logs: Path) -> None:
    heard: list[Event] = []
    with Channel([heard.append]) as channel:
        send(channel)
    assert heard == [*EVENTS, Warned("end")]


def test_a_listener_that_fails_costs_the_others_nothing(ray_logs: Path) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise ValueError(f"no more of {event}")

    with pytest.raises(ValueError, match="message='0'"), Channel([fail, heard.append]) as channel:
        send(channel)
    assert heard == [*EVENTS, Warned("end")]
