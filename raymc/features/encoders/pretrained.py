"""Models in the format of transformers, from a folder that has them.

May import transformers, inside functions: it takes seconds. Weights are read from safetensors
only, and no code that comes with a model is run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from raymc.errors import DataError, ResourceError
from raymc.features.encoders.weights import check_safetensors, one_line
from raymc.features.torchaudio_compat import load_torchaudio

UNKNOWN_LICENSE = "unknown: see the model's card"


@dataclass(frozen=True)
class Pretrained:
    """A model, and what its files didn't say about it.

    Attributes:
        model: In evaluation mode, in float32, on the CPU.
        missing: Names of the weights that no file has: they are random.
    """

    model: torch.nn.Module
    missing: frozenset[str]


def load_model(folder: Path) -> Pretrained:
    """Load the model of a folder; its architecture is the one that config.json names.

    Raises:
        DataError: A file is torn or foreign, or the weights don't fit the architecture.
        ResourceError: transformers isn't installed.
    """
    transformers = import_transformers()
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file)
    with _understood(folder, transformers):
        model, report = transformers.AutoModel.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if report["mismatched_keys"]:
        key, found, expected = sorted(report["mismatched_keys"])[0]
        raise DataError(
            f"{folder}: the weights don't fit config.json: {key} has shape {list(found)} where "
            f"{list(expected)} is expected; take both files from the same model"
        )
    return Pretrained(model.eval(), frozenset(report["missing_keys"]))


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder.

    Raises:
        DataError: Its files are torn or foreign.
        ResourceError: transformers isn't installed.
    """
    transformers = import_transformers()
    with _understood(folder, transformers):
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )


def check_complete(folder: Path, missing: frozenset[str]) -> None:
    """Refuse a model of which a part would be random.

    Raises:
        DataError: Weights are missing.
    """
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} weights that config.json asks for are in no file, such as "
            f"{min(missing)}; take both files from the same model"
        )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: It can't be read, or is no object.
    """
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not JSON ({one_line(error)}); fetch it again") from error
    if not isinstance(values, dict):
        raise DataError(
            f"{file}: a {type(values).__name__}; expected a JSON object, fetch it again"
        )
    return values


def license_of(folder: Path) -> str:
    """The licence that a model's README names at its top, if there is one and it does."""
    file = folder / "README.md"
    parts = file.read_text("utf-8", "replace").split("---", 2) if file.is_file() else []
    try:
        card = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        card = None
    found = card.get("license") if isinstance(card, dict) else None
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found or UNKNOWN_LICENSE)


def import_transformers() -> ModuleType:
    """Import transformers; torchaudio first, which it imports by itself where it is installed.

    Raises:
        ResourceError: It isn't installed.
    """
    load_torchaudio()
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"{error.name} isn't installed; models of a hub need it: pip install 'raymc[encoders]'"
        ) from error
    return transformers


@contextmanager
def _understood(folder: Path, transformers: ModuleType) -> Iterator[None]:
    """Keep transformers quiet, and what it raises to one line."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    except Exception as error:  # a torn or foreign file may raise anything there
        raise DataError(
            f"{folder}: not a model that transformers {transformers.__version__} can load without "
            f"running code of its own ({one_line(error)}); fetch its files again, or take another"
        ) from error
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
