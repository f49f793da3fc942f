"""Small models with random weights, written as their own libraries write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raymc.features.torchaudio_compat import load_torchaudio

load_torchaudio()  # transformers imports it by itself

import transformers  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: E402
from torchaudio.pipelines import Wav2Vec2ASRBundle, Wav2Vec2Bundle  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VISION: dict[str, Any] = {**SIZES, "image_size": 16, "patch_size": 8}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (*_SPECIAL, *"the cat sat on a mat two dogs ran home".split())  # noqa: SIM905
TEXT: dict[str, Any] = {**SIZES, "vocab_size": 20, "max_position_embeddings": 12, "pad_token_id": 0}
PREPROCESSOR: dict[str, Any] = {
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "size": {"shortest_edge": 20},
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48, 0.45, 0.40],
    "image_std": [0.26, 0.27, 0.28],
}


def shaken(model: torch.nn.Module) -> Any:
    """The model with fixed weights, large enough that outputs differ from input to input."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data.mean().round() + 0.2 * noise  # scales of norms stay at 1
    return model.eval()


def clip() -> Any:
    text = {**TEXT, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return shaken(transformers.CLIPModel(config))


def siglip() -> Any:
    config = transformers.SiglipConfig(
        text_config={**TEXT, "bos_token_id": 2, "eos_token_id": 3}, vision_config=VISION
    )
    return shaken(transformers.SiglipModel(config))


def dinov2() -> Any:
    sizes = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    return shaken(transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)))


def bert() -> Any:
    return shaken(transformers.BertModel(transformers.BertConfig(**TEXT)))


def write_model(folder: Path, model: Any, **files: Mapping[str, Any]) -> Path:
    """Save a model; further files are named by keywords, without their `.json`."""
    model.save_pretrained(folder)
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def write_tokenizer(folder: Path) -> Any:
    numbers = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        eos_token="[SEP]",
        sep_token="[SEP]",
    )
    fast.save_pretrained(folder)
    return fast


def write_config(folder: Path, **changes: Any) -> None:
    """Change keys of a model's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


_SPEECH: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [
        (8, 10, 5),
        (8, 3, 2),
        (8, 3, 2),
        (8, 3, 2),
        (8, 3, 2),
        (8, 2, 2),
        (8, 2, 2),
    ],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 24,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
}


def base_bundle() -> Wav2Vec2Bundle:
    """As WAV2VEC2_BASE, but small."""
    return Wav2Vec2Bundle("small_base.pth", _SPEECH, 16_000, False, "Wav2Vec2")


def large_bundle() -> Wav2Vec2Bundle:
    """As WAV2VEC2_LARGE_LV60K: normalised wave forms, normalisation before each layer."""
    changes = {"extractor_mode": "layer_norm", "encoder_layer_norm_first": True}
    params = {**_SPEECH, **changes, "extractor_conv_bias": True}
    return Wav2Vec2Bundle("small_large.pth", params, 16_000, True, "Wav2Vec2")


def wavlm_bundle() -> Wav2Vec2Bundle:
    """As WAVLM_BASE, but small."""
    params = {**_SPEECH, "encoder_num_buckets": 8, "encoder_max_distance": 16}
    return Wav2Vec2Bundle("small_wavlm.pth", params, 16_000, False, "WavLM")


def asr_bundle() -> Wav2Vec2ASRBundle:
    """As WAV2VEC2_ASR_BASE_960H, with four characters."""
    params = {**_SPEECH, "aux_num_out": 5}
    return Wav2Vec2ASRBundle(
        "small_asr.pth", params, 16_000, False, "Wav2Vec2", _labels=("|", "E", "T", "'")
    )


def write_weights(folder: Path, bundle: Any, *, extra_rows: int = 0) -> Path:
    """Save random weights of a bundle's architecture, as torchaudio's files are."""
    from torchaudio.models import wav2vec2_model, wavlm_model

    make = wavlm_model if bundle._model_type == "WavLM" else wav2vec2_model
    params = dict(bundle._params)
    if extra_rows:
        params["aux_num_out"] += extra_rows
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(shaken(make(**params)).state_dict(), folder / bundle._path)
    return folder / bundle._path
