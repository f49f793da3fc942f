"""Where models in the format of transformers come from: a folder, the hub's cache, the hub.

May import huggingface_hub, inside functions: it takes a second. A model is a folder here, and only
the files that an encoder reads are fetched.
"""

import re
from pathlib import Path

from raymc.errors import ConfigError, ResourceError
from raymc.features.encoders.pretrained import import_transformers, read_json
from raymc.features.encoders.weights import check_reachable, one_line

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


def is_model_name(name: str, weights: str | None) -> bool:
    """Tell whether this may name a model: owner/model of a hub, or a folder of `weights`."""
    in_folder = weights is not None and _folder(weights, name).joinpath("config.json").is_file()
    return in_folder or _HUB_NAME.fullmatch(name) is not None


def find_model(name: str, weights: str | None, *, files: tuple[str, ...]) -> Path:
    """The folder of a model on this machine, fetched from the hub if need be.

    What the hub's cache already holds is taken as it is, without a look at the network.

    Args:
        name: owner/model, or owner/model@revision (a branch, tag or commit of the hub).
        weights: A folder with a folder owner/model inside, used instead of the hub.
        files: Names of the files that the encoder needs.

    Raises:
        ConfigError: The hub has no such model or revision.
        ResourceError: Files are missing, and where to put them.
    """
    model, _, revision = name.partition("@")
    if weights is None:
        return _from_hub(model, revision or "main", files)
    folder = _folder(weights, model)
    missing = _missing(folder, files)
    if missing:
        raise ResourceError(f"{folder}: no {', no '.join(missing)}; put the files of {model} there")
    return folder


def _folder(weights: str, model: str) -> Path:
    return Path(weights).expanduser() / model


def _missing(folder: Path, files: tuple[str, ...]) -> list[str]:
    """What a folder lacks of some files, or of the parts that weights are stored in."""
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
        # of an incomplete snapshot, what this encoder needs may be there
        cached = getattr(error, "snapshot_path", None)
    if cached and not _missing(Path(cached), files):
        return Path(cached)
    otherwise = (
        f"without the network, put {', '.join(files)} of {model} into FOLDER/{model}/ and set "
        "weights to FOLDER"
    )
    if constants.HF_HUB_OFFLINE:
        raise ResourceError(
            f"{model} isn't in the hub's cache here, and HF_HUB_OFFLINE forbids to fetch it; unset "
            f"it, or {otherwise}"
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
            f"{model} asks for consent: give it on its page of the hub, and set HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ConfigError(
            f"the hub has no {model}@{revision} that it would show you; check the name, or set "
            "HF_TOKEN if it is private"
        ) from error
    except Exception as error:  # the hub's client raises what its network library does
        raise ResourceError(
            f"{model} could not be fetched ({one_line(error)}); what has arrived is kept: try again"
        ) from error


def _hint_of_conversion(model: str) -> str:
    """Where the hub's own conversion of older weights is: a pull request that its bot opened."""
    from huggingface_hub import get_repo_discussions

    otherwise = "; take a model that has them: weights in other formats may hide code"
    try:
        for request in get_repo_discussions(model, author="SFconvertbot"):
            if request.is_pull_request and request.status == "open":
                return f"; its conversion by the hub is {model}@{request.git_reference}"
    except Exception:  # a mere hint
        return otherwise
    return otherwise
