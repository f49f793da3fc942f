"""Folders of finished runs, made from one trained bundle without training again."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from raymc.config import Config, from_dict, override, to_dict
from raymc.training.bundle import DESCRIPTION, WEIGHTS, digest_of
from raymc.training.runs import BUNDLE, CONFIG_FILE


def finished_run(
    runs: Path, name: str, bundle: Path, *, noise: float = 0.0, **settings: Any
) -> Path:
    """Make the folder of a run whose model is the bundle's with noise on its weights.

    Args:
        runs: where runs lie.
        name: of the run.
        bundle: the trained one.
        noise: standard deviation of what is added, over that of each tensor.
        settings: that the run has instead of the bundle's, `__` for the dots in their paths.
    """
    description = json.loads((bundle / DESCRIPTION).read_text())
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    config: Config = override(
        from_dict(description["config"]),
        {"run.name": name, "run.folder": str(runs), **changes},
    )
    copy = shutil.copytree(bundle, runs / name / BUNDLE)
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.numel() > 1
        else tensor
        for key, tensor in load_file(bundle / WEIGHTS).items()
    }
    save_file(weights, copy / WEIGHTS)
    description["config"] = to_dict(config)
    description["weights_sha256"] = hashlib.sha256((copy / WEIGHTS).read_bytes()).hexdigest()
    write_description(copy, description)
    (runs / name / CONFIG_FILE).write_text(json.dumps(to_dict(config)))
    return runs / name


def write_description(bundle: Path, description: dict[str, Any]) -> None:
    """Write a bundle's description with its digest."""
    described = {**description, "digest": digest_of(description)}
    (bundle / DESCRIPTION).write_text(json.dumps(described))
