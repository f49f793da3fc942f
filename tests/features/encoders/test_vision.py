import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import (
    PREPROCESSOR,
    VISION,
    clip,
    dinov2,
    shaken,
    siglip,
    write_config,
    write_model,
)

from raymc.errors import ConfigError, DataError, ResourceError
from raymc.features.encoders import visual_encoder, weights
from raymc.features.encoders.weights import in_batches

FRAMES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
CPU = torch.device("cpu")
Model = Any


def pixels() -> torch.Tensor:
    """The frames as the model wants them, by hand, in float64."""
    channels = [
        (FRAMES[..., i] / 255 - PREPROCESSOR["image_mean"][i]) / PREPROCESSOR["image_std"][i]
        for i in range(3)
    ]
    return torch.from_numpy(np.stack(channels, axis=1)).float()


def vit(**options: Any) -> Model:
    config = transformers.ViTConfig(**VISION)
    return shaken(transformers.ViTModel(config, **options))


def vit_classifier() -> Model:
    return shaken(transformers.ViTForImageClassification(transformers.ViTConfig(**VISION)))


def clip_vision() -> Model:
    return shaken(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)))


def clip_vision_projected() -> Model:
    config = transformers.CLIPVisionConfig(**VISION, projection_dim=24)
    return shaken(transformers.CLIPVisionModelWithProjection(config))


def siglip_without_head() -> Model:
    config = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
    return shaken(transformers.SiglipVisionModel(config))


def resnet() -> Model:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    return shaken(transformers.ResNetModel(config))


def last_layer(model: Model) -> torch.Tensor:
    return model(pixel_values=pixels()).last_hidden_state


def pooled(model: Model) -> torch.Tensor:
    return model(pixel_values=pixels()).pooler_output


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (clip, lambda model: pooled(model.vision_model)),
        (clip_vision, pooled),
        (clip_vision_projected, lambda model: pooled(model.vision_model)),
        (siglip, lambda model: pooled(model.vision_model)),
        (siglip_without_head, lambda model: last_layer(model).mean(1)),
        (dinov2, pooled),
        (vit, pooled),
        (lambda: vit(add_pooling_layer=False), lambda model: last_layer(model)[:, 0]),
        (vit_classifier, lambda model: last_layer(model.vit)[:, 0]),
        (resnet, lambda model: last_layer(model).mean((2, 3))),
    ],
    ids=[
        *("clip", "vision", "projected", "siglip", "headless"),
        *("dinov2", "vit", "poolerless", "classifier", "resnet"),
    ],
)
def test_tokens_are_what_the_library_computes(
    tmp_path: Path, make: Callable[[], Model], expected: Callable[[Model], torch.Tensor]
) -> None:
    model = make()
    write_model(tmp_path / "someone/small", model, preprocessor_config=PREPROCESSOR)
    encoder = visual_encoder("someone/small", fps=2.0, weights=str(tmp_path))
    tokens = encoder.encode(FRAMES)
    with torch.inference_mode():
        wanted = expected(model.eval()).numpy()
    assert tokens.dtype == np.float32
    assert tokens.shape == (40, encoder.dim) == wanted.shape
    np.testing.assert_allclose(tokens, wanted, atol=2e-5, rtol=1e-4)
    assert wanted.std(axis=0).mean() > 0.01  # frames can be told apart


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Folder of a small CLIP; the folder of weights is two above."""
    folder = tmp_path / "openai/clip-small"
    return write_model(folder, clip(), preprocessor_config=PREPROCESSOR)


def load(folder: Path, **options: Any) -> Any:
    weights = str(folder.parent.parent)
    return visual_encoder(f"{folder.parent.name}/{folder.name}", weights=weights, **options)


def test_a_token_depends_on_its_frame_alone(small: Path) -> None:
    encoder = load(small)
    tokens = encoder.encode(FRAMES)
    np.testing.assert_array_equal(encoder.encode(FRAMES), tokens)
    for i in (0, 31, 32, 39):
        np.testing.assert_allclose(encoder.encode(FRAMES[i : i + 1])[0], tokens[i], atol=1e-5)
    assert encoder.encode(FRAMES[:0]).shape == (0, 32)


def test_what_it_says_of_itself(small: Path) -> None:
    (small / "README.md").write_text("---\nlicense: apache-2.0\ntags: [vision]\n---\n# A model\n")
    encoder = load(small, fps=2.0)
    assert (encoder.name, encoder.rate_hz, encoder.dim) == ("openai/clip-small", 2.0, 32)
    assert (encoder.license, encoder.has_weights) == ("apache-2.0", True)
    picture = encoder.picture
    assert (picture.height, picture.width, picture.short_side) == (16, 16, 20)
    assert picture.interpolation == "bicubic"


@pytest.mark.parametrize("readme", [None, "", "# A model\n", "---\n: [\n---\n", "---\na\n---\n"])
def test_a_licence_that_is_not_stated_is_unknown(small: Path, readme: str | None) -> None:
    if readme is not None:
        (small / "README.md").write_text(readme)
    assert load(small).license == "unknown: see the model's card"


def test_loading_says_nothing_and_changes_no_settings(
    small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.logging.set_verbosity_warning()
    transformers.logging.enable_progress_bar()
    try:
        load(small)
        assert transformers.logging.get_verbosity() == logging.WARNING
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


def test_half_precision_weights_compute_in_float32(small: Path) -> None:
    tokens = load(small).encode(FRAMES)
    clip().half().save_pretrained(small)
    encoder = load(small)
    assert next(encoder.pooling.tower.parameters()).dtype == torch.float32
    np.testing.assert_allclose(encoder.encode(FRAMES), tokens, atol=0.05)


def test_sharded_weights_are_read(small: Path) -> None:
    tokens = load(small).encode(FRAMES)
    (small / "model.safetensors").unlink()
    clip().save_pretrained(small, max_shard_size="50KB")
    assert not (small / "model.safetensors").exists()
    np.testing.assert_array_equal(load(small).encode(FRAMES), tokens)
    next(iter(small.glob("model-00002*"))).unlink()
    with pytest.raises(ResourceError, match="no model-00002-of-"):
        load(small)


def test_frames_of_another_size_are_refused(small: Path) -> None:
    with pytest.raises(DataError, match="frames of 12 × 16 pixels; openai/clip-small expects 16"):
        load(small).encode(FRAMES[:, :12])


def cut(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: cut(f, 20_000), "model.safetensors: damaged, or not a safetensors file"),
        (lambda f: cut(f, 100), "model.safetensors: damaged, or not a safetensors file"),
        (lambda f: cut(f, 0), "model.safetensors: damaged, or not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK\3\4" * 99), "damaged, or not a safe"),
        (
            lambda f: (f / "config.json").write_text("{"),
            "not a model that transformers .* can load",
        ),
        (lambda f: (f / "config.json").write_text("{}"), "not a model that transformers .* can"),
        (lambda f: write_config(f, model_type="nonsense"), "has model type `nonsense`"),
        (lambda f: write_config(f, vision_config=7), "not a model that transformers .* can load"),
        (
            lambda f: write_config(f, vision_config={**VISION, "patch_size": 4}),
            r"don't fit config.json: .* has shape \[.*\] where \[.*\] is expected",
        ),
        (
            lambda f: write_config(f, vision_config={**VISION, "num_hidden_layers": 3}),
            "16 weights that config.json asks for are in no file, such as encoder.layers.2",
        ),
        (lambda f: (f / "preprocessor_config.json").write_text("?"), "config.json: not JSON"),
        (
            lambda f: (f / "preprocessor_config.json").write_text("[]"),
            "a list; expected a JSON obj",
        ),
    ],
)
def test_files_that_are_torn_or_do_not_fit(
    small: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(small)
    with pytest.raises(DataError, match=message) as raised:
        load(small)
    assert str(raised.value).startswith(str(small))
    assert "\n" not in str(raised.value)


def test_code_that_comes_with_a_model_is_not_run(small: Path) -> None:
    write_config(small, model_type="mine", auto_map={"AutoConfig": "m.C", "AutoModel": "m.M"})
    (small / "m.py").write_text("raise SystemExit('was run')")
    with pytest.raises(DataError, match="without running code of its own"):
        load(small)


def test_pickled_weights_are_not_read(small: Path) -> None:
    (small / "model.safetensors").rename(small / "pytorch_model.bin")
    with pytest.raises(
        ResourceError, match=r"no model.safetensors; put the files of openai/clip-sm"
    ):
        load(small)


def test_weights_that_the_tower_does_not_use_may_be_missing(small: Path) -> None:
    tokens = load(small).encode(FRAMES)
    text = json.loads((small / "config.json").read_text())["text_config"]
    write_config(small, text_config={**text, "num_hidden_layers": 3})
    np.testing.assert_array_equal(load(small).encode(FRAMES), tokens)


def test_a_model_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "someone/small"
    bert = shaken(transformers.BertModel(transformers.BertConfig(**VISION, vocab_size=9)))
    write_model(folder, bert, preprocessor_config=PREPROCESSOR)
    with pytest.raises(ConfigError, match="doesn't turn a picture of 16 × 16 pixels into a vector"):
        load(folder)


def test_a_model_that_masks_at_random_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(**{**VISION, "image_size": 32}, decoder_num_hidden_layers=1)
    values = {**PREPROCESSOR, "crop_size": 32, "size": 32}
    folder = tmp_path / "someone/small"
    write_model(folder, shaken(transformers.ViTMAEModel(config)), preprocessor_config=values)
    with pytest.raises(ConfigError, match="someone/small gives a picture other features each time"):
        load(folder)


def test_products_of_float16_are_close_and_what_exceeds_them_is_computed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a GPU, with a CPU's float16."""
    write_model(tmp_path / "someone/small", siglip(), preprocessor_config=PREPROCESSOR)
    tower = load(tmp_path / "someone/small")
    exact = tower.encode(FRAMES)
    monkeypatch.setattr(weights, "HALVED", ("cpu",))
    halved = tower.encode(FRAMES)
    assert halved.dtype == np.float32
    assert 0 < np.abs(halved - exact).max() < 0.01 * np.abs(exact).max()

    large = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(large.weight, 300.0)
    found = in_batches(torch.tensor([[1.0, 1.0], [300.0, 300.0]]), large.forward, CPU)
    np.testing.assert_allclose(found, [[600.0], [180_000.0]])  # float16 ends at 65,504


def test_batches_are_halved_until_they_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "AT_A_TIME", 8)
    asked: list[int] = []

    def run(items: list[int]) -> torch.Tensor:
        asked.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("a small GPU")
        return torch.tensor([[float(item)] for item in items])

    items = list(range(10))
    np.testing.assert_array_equal(in_batches(items, run, CPU)[:, 0], items)
    assert asked == [8, 4, 2, 2, 2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        in_batches([1, 2], lambda some: run([0] * 9), CPU)
