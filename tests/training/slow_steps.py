"""A program: `raymc`, of which each worker rests for a moment before every step.

It looks for more nodes sooner than `raymc` does. The steps are right, and few while others wait for
something else to happen, so that a run of many epochs takes little of the machine. Ray sends what
belongs to a program along with it, so the workers get it too.
"""

import time
from typing import Any

from raymc.__main__ import main
from raymc.training import loop, on_ray
from raymc.training.worker import train_worker


def train_slowly(settings: dict[str, Any]) -> object:
    take = loop.train_step

    def rest(*given: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return take(*given, **named)

    loop.train_step = rest
    return train_worker(settings)


if __name__ == "__main__":
    on_ray.train_worker = train_slowly
    on_ray.RESIZE_SECONDS = 2.0
    main()
