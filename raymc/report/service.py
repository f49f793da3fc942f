"""The pages of `raymc serve`: one to drop a video on, and one that says how programs ask."""

from collections.abc import Mapping
from typing import Any

from raymc.report.page import render_template


def drop_page(title: str, *, labels: int, needs_token: bool, upload_bytes: int) -> str:
    """Return the page to drop a video on; it shows the timeline that the service answers with.

    Args:
        title: Name of the model.
        labels: How many labels it has.
        needs_token: Whether to ask for the service's token.
        upload_bytes: The largest video that the service takes.
    """
    return render_template(
        "service.html",
        page={
            "title": f"Labels of a video: {title}",
            "summary": [
                f"Drop a video to see which of {labels:,} labels show in it, and when.",
                "The video goes to this service, which deletes it once it has its labels.",
            ],
            "about": "raymc serve",
        },
        needs_token=needs_token,
        limit=upload_bytes,
    )


def api_page(schema: Mapping[str, Any]) -> str:
    """Return a page that tells of a service's OpenAPI schema, without loading anything."""
    calls = [
        {"method": method.upper(), "path": path, **call}
        for path, methods in schema["paths"].items()
        for method, call in methods.items()
    ]
    return render_template(
        "service_api.html",
        page={
            "title": schema["info"]["title"],
            "summary": [schema["info"]["summary"], "Programs read the schema in openapi.json."],
            "about": f"raymc serve, {schema['info']['version']}",
        },
        calls=calls,
        fields=[
            (name, field, _kind(kind))
            for name, part in schema["components"]["schemas"].items()
            if name not in ("HTTPValidationError", "ValidationError")
            for field, kind in part["properties"].items()
        ],
    )


def _kind(kind: Mapping[str, Any]) -> str:
    """Return the type of a field in words, such as `array of Segment`."""
    if "$ref" in kind:
        return str(kind["$ref"]).rpartition("/")[2]
    if "anyOf" in kind:
        return " or ".join(map(_kind, kind["anyOf"]))
    items = f" of {_kind(kind['items'])}" if "items" in kind else ""
    return f"{kind['type']}{items}"
