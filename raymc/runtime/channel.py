"""On Ray: events from a run's workers to the listeners on the driver."""

from collections.abc import Callable, Sequence
from threading import Event as Signal
from threading import Thread
from typing import Any

import ray

from raymc.events import Event, Listener, tell_each

SECONDS_BETWEEN_LOOKS = 0.1
_NODE_ID = "ray.io/node-id"  # a label that Ray gives each node


class Mailbox:
    """Keeps events until they are taken.

    Ray's own queue would not do: its actor may run the calls of one worker out of order.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Keep an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        taken, self._events = self._events, []
        return taken


class Channel:
    """While open, passes every event of the workers to all listeners, in each worker's order.

    An exception in a listener is raised when the channel is closed. Until then all listeners
    continue to receive events, also the one that raised.

    Attributes:
        mailbox: Where workers send events with `sender`.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        # on the driver's node, to live as long as the driver: the head may be lost before
        here = {_NODE_ID: ray.get_runtime_context().get_node_id()}
        self.mailbox: Any = ray.remote(num_cpus=0, label_selector=here)(Mailbox).remote()
        self._errors: list[Exception] = []
        self._is_closed = Signal()
        self._thread = Thread(target=self._listen, name="raymc-events", daemon=True)

    def __enter__(self) -> "Channel":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._is_closed.set()
        self._thread.join()
        ray.kill(self.mailbox)
        if kind is None and self._errors:
            raise self._errors[0]

    def _listen(self) -> None:
        while not self._is_closed.wait(SECONDS_BETWEEN_LOOKS):
            self._take()
        self._take()

    def _take(self) -> None:
        for event in ray.get(self.mailbox.take.remote()):
            tell_each(self._listeners, event, self._errors)


def sender(mailbox: Any) -> Callable[[Event], None]:
    """Return a function that sends an event without waiting; without a mailbox it does nothing."""
    if mailbox is None:
        return lambda event: None
    return lambda event: mailbox.put.remote(event)
