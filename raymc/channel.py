"""Events from workers to the driver: Ray's queue in between, a thread at this end. Ray layer."""

from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import ray
from ray.util.queue import Queue

from raymc.events import Event

_NODE_ID = "ray.io/node-id"  # a label that Ray gives each node

Listener = Callable[[Event], None]


class Channel:
    """Hands every event that workers send to the listeners, in order, while it is open.

    What a listener raises is raised when the channel is closed; until then all others are told
    all, and it is, too.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        # beside the driver, with which it lives and dies: not on a head that may be lost
        here = {_NODE_ID: ray.get_runtime_context().get_node_id()}
        self.queue = Queue(actor_options={"num_cpus": 0, "label_selector": here})
        self._errors: list[Exception] = []
        self._thread = Thread(target=self._listen, name="raymc-events", daemon=True)

    def __enter__(self) -> "Channel":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.queue.put(None)
        self._thread.join()
        self.queue.shutdown(force=True)
        if kind is None and self._errors:
            raise self._errors[0]

    def _listen(self) -> None:
        while (event := self.queue.get()) is not None:
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception as error:
                    self._errors.append(error)


def sender(queue: Queue | None) -> Callable[[Event], None]:
    """Return a function that sends an event without waiting; into nowhere if there is no queue."""
    if queue is None:
        return lambda event: None
    actor: Any = queue.actor
    return lambda event: actor.put_nowait.remote(event)
