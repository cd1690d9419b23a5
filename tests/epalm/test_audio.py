"""Sounds: the first seconds of any file, as the original's spectrogram, or refused in one sentence."""

import json
import math
import resource
from contextlib import suppress
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from epalm.errors import EPALMError
from epalm.media.audio import Sound, open_audio
from epalm.media.recipes import MEAN, RECIPES, STD, AudioRecipe, recipe_from_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "extras" / "preprocess.safetensors"
REAL = files("gradio") / "media_assets"
ORIGINAL, NEW = RECIPES["audio"]["epalm-audio"], RECIPES["audio"]["epalm-audio-16k"]
ZERO = -MEAN / (2 * STD)  # a frame of zeros after normalisation


def tone(seconds=1.0, rate=16_000, channels=1, hertz=440.0) -> np.ndarray:
    """(samples, channels) float32; channel i has i + 1 times the frequency."""
    time = np.arange(round(seconds * rate)) / rate
    waves = [0.4 * np.sin(2 * np.pi * hertz * (i + 1) * time) for i in range(channels)]
    return np.stack(waves, 1).astype(np.float32)


def sound_file(samples: np.ndarray, rate=16_000, format="WAV", subtype=None) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def encoded(samples: np.ndarray, codec: str, format: str, rate=48_000, pictures=False) -> bytes:
    """A sound track made by FFmpeg, with a video of two frames if `pictures`."""
    buffer = BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    with av.open(buffer, "w", format=format) as container:
        video = container.add_stream("libx264", rate=1) if pictures else None
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if video:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for i in range(2):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100 * i, np.uint8))
                container.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", layout)
        frame.sample_rate = rate
        for ready in av.AudioResampler(stream.format, layout, rate).resample(frame):
            container.mux(stream.encode(ready))
        for track in (video, stream) if video else (stream,):
            container.mux(track.encode(None))
    return buffer.getvalue()


def pitch(waveform: torch.Tensor, rate: int) -> float:
    """Strongest frequency, in hertz."""
    return waveform.numpy().size and float(torch.fft.rfft(waveform).abs().argmax()) * rate / len(waveform)


# Recipes


@pytest.mark.parametrize(
    ("waveform", "rate", "expected"),
    [
        ("audio_waveform_16k", 16_000, "audio_fbank_norm_T40"),
        ("audio_waveform_16k", 16_000, "audio_fbank_norm_T72"),
        ("audio_waveform_2ch_8k", 8_000, "audio_fbank_norm_2ch_8k_T60"),
    ],
)
def test_spectrogram_equals_the_originals(waveform, rate, expected):
    golden = load_file(GOLDEN)
    recipe = AudioRecipe.from_dict({**ORIGINAL.to_dict(), "frames": len(golden[expected])})
    out = recipe(Sound(golden[waveform], rate))
    assert out.dtype == torch.float32 and out.shape == golden[expected].shape
    assert (out - golden[expected]).abs().max() < 1e-4


def test_only_the_seconds_that_are_seen_are_read_and_they_give_the_same():
    content = sound_file(np.random.default_rng(0).normal(0, 0.1, (30 * 22_050, 2)), 22_050)
    for recipe in (ORIGINAL, NEW):
        sound = recipe.open(content)
        assert sound.waveform.shape[1] == round(22_050 * (10.255 + 0.1))
        assert (recipe(sound) - recipe(open_audio(content))).abs().max() < 1e-4


def test_short_sounds_are_filled_up_with_zeros():
    spectrogram = NEW(Sound(torch.from_numpy(tone(0.1).T), 16_000))
    assert spectrogram.shape == (1024, 128)
    assert (spectrogram[8:] - ZERO).abs().max() < 1e-6  # 0.1 s has eight windows
    assert (spectrogram[:8] - ZERO).abs().max() > 0.1


@pytest.mark.parametrize("samples", [1, 10, 399])
def test_sounds_shorter_than_a_window_are_heard(samples):
    for recipe in (ORIGINAL, NEW):
        spectrogram = recipe(Sound(torch.full((1, samples), 0.5), 16_000))
        assert spectrogram.shape == (1024, 128) and spectrogram.isfinite().all()


def test_original_hears_the_first_channel_and_new_adapters_all():
    silent_left = np.concatenate([np.zeros((16_000, 1)), tone()], 1).astype(np.float32)
    sound = Sound(torch.from_numpy(silent_left.T), 16_000)
    assert ORIGINAL(sound)[:98].max() == pytest.approx(-1.2776, abs=1e-4)  # silence
    assert NEW(sound)[:98].max() > 0.5


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 22_254, 44_100, 47_999, 48_000, 96_000, 192_000])
def test_new_adapters_hear_the_same_at_every_rate(rate):
    loudest = [
        NEW(Sound(torch.from_numpy(tone(2, r, hertz=1000).T), r))[20:150].mean(0) for r in (rate, 16_000)
    ]
    assert loudest[0].argmax() == loudest[1].argmax()
    assert float(loudest[0].max()) == pytest.approx(float(loudest[1].max()), abs=0.02)


@pytest.mark.parametrize("recipe", RECIPES["audio"].values(), ids=RECIPES["audio"])
def test_recipe_survives_json(recipe):
    assert recipe_from_dict("audio", json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("change", [{"channels": "left"}, {"sample_rate": "16k"}, {"hop": 10}])
def test_bad_recipe_is_refused(change):
    with pytest.raises(EPALMError):
        AudioRecipe.from_dict({**NEW.to_dict(), **change})


# Reading


FORMATS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"),
           ("OGG", "OPUS"), ("AIFF", None), ("MP3", None)]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "subtype", "channels"),
    [(f, s, n) for f, s in FORMATS for n in (1, 2, 6) if f != "MP3" or n <= 2],
)
def test_sound_files(format, subtype, channels):
    waveform, rate = open_audio(sound_file(tone(0.5, 48_000, channels), 48_000, format, subtype))
    assert waveform.dtype == torch.float32 and waveform.shape[0] == channels and rate == 48_000
    assert waveform.shape[1] == pytest.approx(24_000, abs=2500)  # lossy formats round up to whole frames
    assert float(waveform.std()) == pytest.approx(0.4 / 2**0.5, abs=0.03)
    assert pitch(waveform[0], rate) == pytest.approx(440, abs=4)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_rates_are_kept(rate):
    assert open_audio(sound_file(tone(0.1, rate), rate)).rate == rate


@pytest.mark.parametrize(
    ("codec", "format", "channels"),
    [("aac", "ipod", 1), ("aac", "ipod", 2), ("aac", "mp4", 6), ("libopus", "webm", 2), ("aac", "adts", 2)],
)
def test_sounds_in_film_containers(codec, format, channels):
    waveform, rate = open_audio(encoded(tone(0.5, 48_000, channels), codec, format))
    assert waveform.shape[0] == channels and rate == 48_000
    assert waveform.shape[1] == pytest.approx(24_000, abs=3000)
    assert pitch(waveform[0], rate) == pytest.approx(440, abs=4)


def test_sound_track_of_a_video():
    waveform, rate = open_audio(encoded(tone(0.5, 48_000, 2), "aac", "mp4", pictures=True))
    assert waveform.shape[0] == 2 and pitch(waveform[0], rate) == pytest.approx(440, abs=4)


def test_both_readers_give_the_same_samples(monkeypatch):
    content = sound_file(tone(0.5, channels=2), subtype="PCM_16")
    first = open_audio(content)
    monkeypatch.setattr("epalm.media.audio.read_with_soundfile", lambda file, seconds: None)
    second = open_audio(content)
    assert (first.waveform == second.waveform).all() and first.rate == second.rate
    assert open_audio(content, seconds=0.1).waveform.shape == (2, 1600)


def test_samples_that_are_no_numbers_are_silent():
    samples = tone(0.1)
    samples[5], samples[6] = np.nan, np.inf
    waveform, _ = open_audio(sound_file(samples, subtype="FLOAT"))
    assert waveform[0, 5] == 0 and waveform[0, 6] == 1


def test_real_files():
    rates = {path.name: open_audio(path).rate for path in (REAL / "audio").iterdir() if path.suffix != ".py"}
    assert len(rates) == 7 and set(rates.values()) == {8_000, 22_050, 32_000, 48_000}
    for path in [*(REAL / "audio").iterdir(), REAL / "videos" / "a.mp4"]:
        for recipe in (ORIGINAL, NEW):
            spectrogram = recipe(recipe.open(path))
            assert spectrogram.shape == (1024, 128) and spectrogram.isfinite().all()
            assert spectrogram.std() > 0.1


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_ten_minutes_take_no_more_memory_than_ten_seconds(tmp_path, format):
    path = tmp_path / "long"
    with soundfile.SoundFile(path, "w", 48_000, 2, format=format) as file:
        minute = np.zeros((60 * 48_000, 2), np.int16)
        for _ in range(10):
            file.write(minute)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waveform, _ = NEW.open(path)
    assert waveform.shape == (2, round(48_000 * 10.355))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KB; all of it has 230 MB


# Damage


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)]
)
def test_what_is_left_of_a_truncated_sound_is_used(format, subtype):
    whole = sound_file(np.random.default_rng(0).normal(0, 0.1, (160_000, 1)), 16_000, format, subtype)
    waveform, rate = open_audio(whole[: len(whole) // 2])
    assert rate == 16_000 and 60_000 < waveform.shape[1] < 100_000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "The file is empty."),
        (b"plain words\n" * 99, "The file is not a sound that can be read, or it is damaged or incomplete."),
        (
            encoded(tone(0.5), "aac", "ipod")[:500],
            "The file is not a sound that can be read, or it is damaged",
        ),
        (sound_file(tone(0)), "The file has no sound that can be read: it is damaged, incomplete or has no"),
        (sound_file(tone(1, 100), 100), "The file has 100 samples per second: sounds have 1000 to 768000."),
    ],
    ids=["empty", "text", "index cut off", "no samples", "slow"],
)
def test_bad_content_is_refused_in_one_sentence(content, sentence):
    with pytest.raises(EPALMError) as error:
        open_audio(content)
    assert str(error.value).startswith(sentence) and str(error.value).endswith(".")


def test_bad_paths_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(EPALMError, match=r"none\.wav does not exist\.$"):
        open_audio(tmp_path / "none.wav")
    with pytest.raises(EPALMError, match=r"is a folder, not a file\.$"):
        open_audio(tmp_path)
    with pytest.raises(EPALMError, match=r"muted_b\.mp4 has no sound track\.$"):
        open_audio(REAL / "videos" / "muted_b.mp4")


def test_decoders_do_not_write_to_the_terminal(capfd):
    for format in ("MP3", "OGG", "FLAC"):
        whole = sound_file(np.random.default_rng(0).normal(0, 0.1, (32_000, 1)), 16_000, format)
        middle = len(whole) // 2
        for content in (whole[:middle], whole[:middle] + b"\xff" * 700 + whole[middle + 700 :], whole[:99]):
            with suppress(EPALMError):
                open_audio(content)
    assert capfd.readouterr() == ("", "")


# What a Whisper encoder hears


def test_a_tone_is_at_its_place_in_the_whisper_spectrogram():
    time = torch.arange(2 * 8000) / 8000
    tone = RECIPES["audio"]["starter"].spectrogram(Sound(torch.sin(2 * math.pi * 1000 * time)[None], 8000))
    assert tone.shape == (200, 80)  # two seconds; behind it the media tensor has silence
    # Rows are equally spaced on Slaney's mel scale: 15 at 1000 Hz, 45.245 at 8000 Hz.
    assert int(tone.mean(0).argmax()) == round(15 / (45.245 / 81)) - 1


def test_the_whisper_spectrogram_spans_eighty_decibels_and_ignores_loudness():
    sound = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    loud, quiet = (RECIPES["audio"]["starter"](Sound(scale * sound, 16_000)) for scale in (0.5, 0.005))
    assert loud.shape == (80, 1000)
    assert (loud.max() - loud.min()).item() == pytest.approx(2.0, abs=1e-5)
    torch.testing.assert_close(loud, quiet, atol=1e-4, rtol=0)


def test_an_unknown_field_of_a_whisper_recipe_is_refused():
    with pytest.raises(EPALMError, match="unknown key 'second'; the closest valid key is 'seconds'"):
        recipe_from_dict("audio", {"name": "whisper", "second": 10})
