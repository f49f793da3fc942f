"""Models of Hugging Face's hub: found in a folder, in the hub's cache or on the hub, and loaded.

Only the files that an encoder reads are fetched. Weights are read from safetensors only, and no
code that comes with a model is run. transformers and huggingface_hub take seconds to import, so
functions import them.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from raymc.errors import ConfigError, DataError, ResourceError
from raymc.features.encoders.weights import check_reachable, check_safetensors, one_line
from raymc.features.torchaudio_compat import load_torchaudio

UNKNOWN_LICENSE = "unknown: see the model's card"
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
_FETCHED = (
    *("config.json", "README.md", "preprocessor_config.json", "processor_config.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"),
    "sentencepiece.bpe.model",
)
_ALTERNATIVES = {
    "model.safetensors": ("model.safetensors.index.json",),
    "preprocessor_config.json": ("processor_config.json",),
    "tokenizer.json": (
        *("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model"),
        "sentencepiece.bpe.model",
    ),
}
_PARTS = {  # read with them where they are
    "model.safetensors": ("model-*.safetensors",),
    "tokenizer.json": (
        *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    ),
}


def is_model_name(name: str, weights: str | None) -> bool:
    """Return whether this may be a model's name: owner/model of the hub, or a `weights` folder."""
    in_folder = weights is not None and _folder(weights, name).joinpath("config.json").is_file()
    return in_folder or _HUB_NAME.fullmatch(name) is not None


def find_model(name: str, weights: str | None, *, files: tuple[str, ...]) -> Path:
    """Return the folder of a model on this machine, fetched from the hub if necessary.

    Files in the hub's cache are used without contacting the network.

    Args:
        name: owner/model, or owner/model@revision (a branch, tag or commit of the hub).
        weights: A folder with a folder owner/model inside, used instead of the hub.
        files: Names of the files that the encoder needs.
    """
    model, _, revision = name.partition("@")
    if weights is None:
        return _from_hub(model, revision or "main", files)
    folder = _folder(weights, model)
    missing = _missing(folder, files)
    if missing:
        raise ResourceError(f"{folder}: no {', no '.join(missing)}; put the files of {model} there")
    return folder


def files_of(folder: Path, needed: tuple[str, ...]) -> list[Path]:
    """Return the files in a model's folder that an encoder reads, which needs those names."""
    names = {name: (name, *_ALTERNATIVES.get(name, ()), *_PARTS.get(name, ())) for name in needed}
    return [file for read in names.values() for name in read for file in folder.glob(name)]


def _folder(weights: str, model: str) -> Path:
    return Path(weights).expanduser() / model


def _missing(folder: Path, files: tuple[str, ...]) -> list[str]:
    """The files that a folder lacks, including parts of its weights."""
    missing = [
        file
        for file in files
        if not any((folder / name).is_file() for name in (file, *_ALTERNATIVES.get(file, ())))
    ]
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        parts = read_json(index).get("weight_map", {})
        missing += [part for part in sorted(set(parts.values())) if not (folder / part).is_file()]
    return missing


def _from_hub(model: str, revision: str, files: tuple[str, ...]) -> Path:
    import_transformers()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = snapshot_download(
            model, revision=revision, allow_patterns=list(_FETCHED), local_files_only=True
        )
    except LocalEntryNotFoundError as error:
        # an incomplete snapshot may have the files that this encoder needs
        cached = getattr(error, "snapshot_path", None)
    if cached and not _missing(Path(cached), files):
        return Path(cached)
    otherwise = (
        f"without the network, put {', '.join(files)} of {model} into FOLDER/{model}/ and set "
        "weights to FOLDER"
    )
    if constants.HF_HUB_OFFLINE:
        raise ResourceError(
            f"{model} is not in the hub's cache here, and HF_HUB_OFFLINE forbids fetching it; "
            f"unset it, or {otherwise}"
        )
    check_reachable(f"{constants.ENDPOINT}/{model}", otherwise=otherwise)
    folder = _download(model, revision)
    missing = _missing(folder, files)
    if missing:
        hint = _hint_of_conversion(model) if "model.safetensors" in missing else ""
        raise ResourceError(f"{model}@{revision} has no {', no '.join(missing)} on the hub{hint}")
    return folder


def _download(model: str, revision: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_FETCHED)))
    except errors.GatedRepoError as error:
        raise ResourceError(
            f"{model} asks for consent: give it on the model's page of the hub, and set HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ConfigError(
            f"the hub has no {model}@{revision}, or it is private; check the name, or set HF_TOKEN"
        ) from error
    except Exception as error:  # the hub's client passes on any error of its network library
        raise ResourceError(
            f"{model} could not be fetched ({one_line(error)}); try again: files that have arrived "
            "are kept"
        ) from error


def _hint_of_conversion(model: str) -> str:
    """Where the hub's conversion of older weights is: its bot opens a pull request with them."""
    from huggingface_hub import get_repo_discussions

    otherwise = "; take a model that has them: weights in other formats may hide code"
    try:
        for request in get_repo_discussions(model, author="SFconvertbot"):
            if request.is_pull_request and request.status == "open":
                return f"; its conversion by the hub is {model}@{request.git_reference}"
    except Exception:  # it is only a hint
        return otherwise
    return otherwise


@dataclass(frozen=True)
class Pretrained:
    """A loaded model, in evaluation mode, in float32, on the CPU.

    `missing` are the names of the weights that no file has; they are random.
    """

    model: torch.nn.Module
    missing: frozenset[str]


def load_model(folder: Path) -> Pretrained:
    """Load the model of a folder; its architecture is the one that config.json names."""
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
    """Load the tokenizer of a folder."""
    transformers = import_transformers()
    with _understood(folder, transformers):
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )


def check_complete(folder: Path, missing: frozenset[str]) -> None:
    """Raise `DataError` for a model with random weights."""
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} weights that config.json asks for are in no file, such as "
            f"{min(missing)}; take both files from the same model"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file; raises `DataError` if there is none."""
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
    """Import transformers; torchaudio first, which it imports by itself where it is installed."""
    load_torchaudio()
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"{error.name} is not installed; models of the hub need it: pip install "
            "'raymc[encoders]'"
        ) from error
    return transformers


@contextmanager
def _understood(folder: Path, transformers: ModuleType) -> Iterator[None]:
    """Silence transformers' log, and turn its errors into one line."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    except Exception as error:  # damaged and foreign files raise errors of any kind
        raise DataError(
            f"{folder}: not a model that transformers {transformers.__version__} can load without "
            f"running code of its own ({one_line(error)}); fetch its files again, or take another"
        ) from error
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
