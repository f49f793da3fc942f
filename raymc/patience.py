"""Trying again while a server or storage is away. Pure."""

from typing import Any

import tenacity


def patience(*errors: type[Exception], seconds: float, **options: Any) -> tenacity.Retrying:
    """Return what calls a function again and again while it raises one of `errors`.

    Args:
        errors: of which it is known that they may pass.
        seconds: for how long; then the last error is raised.
        options: tenacity's further ones.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_exponential(multiplier=0.1, max=2),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
        **options,
    )
