"""Sounds as people have them: many channels, joined files, wrong names, damage in the samples."""

from io import BytesIO

import av
import numpy as np
import pytest
import torch

from epalm.media.audio import Sound, open_audio
from epalm.media.recipes import RECIPES
from epalm.media.transforms import mono
from tests.epalm.test_audio import pitch, sound_file, tone

# Of so many channels; FFmpeg's names.
LAYOUTS = {7: "6.1", 8: "7.1", 16: "hexadecagonal"}


def sound_track(codec: str, format: str, channels: int, rate=48_000, hertz=440.0, layout=None) -> bytes:
    """Two seconds of a tone, the same in all channels."""
    buffer = BytesIO()
    layout = layout or LAYOUTS.get(channels) or {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    samples = np.repeat(tone(2, rate, hertz=hertz), channels, axis=1)
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", layout)
        frame.sample_rate = rate
        for ready in av.AudioResampler(stream.format, layout, rate).resample(frame):
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def with_channel_tag(movie: bytes, tag: int) -> bytes:
    """A MOV file whose `chan` box says something else about the order of the channels."""
    start = movie.index(b"chan") + 8
    return movie[:start] + tag.to_bytes(4, "big") + movie[start + 4 :]


@pytest.mark.parametrize(
    ("codec", "format", "channels"),
    [("aac", "ipod", 7), ("aac", "ipod", 8), ("tta", "tta", 8), ("flac", "flac", 8), ("pcm_s16le", "mov", 8),
     ("libopus", "matroska", 8), ("wavpack", "wv", 8), ("pcm_s16le", "matroska", 16),
     ("pcm_s16le", "wav", 16), ("pcm_s16le", "mov", 16)],
)  # fmt: skip
def test_many_channels_are_heard(codec, format, channels):
    waveform, rate = open_audio(sound_track(codec, format, channels))
    assert waveform.shape[0] == channels and waveform.shape[1] == pytest.approx(2 * rate, abs=3000)
    for channel in (0, 1, channels - 1):
        if (codec, channel) != ("aac", 3):  # the channel for low frequencies
            assert pitch(waveform[channel], rate) == pytest.approx(440, abs=4)


@pytest.mark.parametrize("tag", [(122 << 16) | 6, (147 << 16) | 6, (121 << 16) | 6])
def test_any_order_of_the_channels_of_a_movie_is_heard(tag):
    for _ in range(5):  # a layout that is freed twice ends the process sooner or later
        waveform, rate = open_audio(with_channel_tag(sound_track("pcm_s16le", "mov", 6), tag))
        assert waveform.shape[0] == 6 and pitch(waveform[0], rate) == pytest.approx(440, abs=4)


def test_seven_channels_of_a_movie_are_heard():
    waveform, rate = open_audio(sound_track("pcm_s16le", "mov", 7))
    assert waveform.shape[0] == 7 and pitch(waveform[0], rate) == pytest.approx(440, abs=4)


@pytest.mark.parametrize(("codec", "format"), [("libmp3lame", "mp3"), ("aac", "adts"), ("ac3", "ac3")])
@pytest.mark.parametrize("rates", [(48_000, 48_000), (44_100, 48_000), (48_000, 32_000)], ids=str)
@pytest.mark.parametrize("channels", [(2, 1), (1, 2)], ids=str)
def test_joined_files_are_heard_at_the_right_pitch(codec, format, rates, channels):
    joined = b"".join(
        sound_track(codec, format, count, rate, hertz)
        for count, rate, hertz in zip(channels, rates, (440, 880), strict=True)
    )
    waveform, rate = open_audio(joined)
    assert rate == rates[0] and waveform.shape[0] == channels[0]
    assert waveform.shape[1] == pytest.approx(4 * rate, rel=0.05)
    assert pitch(waveform[0, : int(1.5 * rate)], rate) == pytest.approx(440, abs=5)
    assert pitch(waveform[0, int(2.5 * rate) :], rate) == pytest.approx(880, abs=5)


@pytest.mark.parametrize("name", ["sound.raw", "SOUND.RAW", "sound.wav", "sound"])
def test_content_and_not_the_name_decides(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(sound_file(tone(0.5)))
    waveform, rate = open_audio(path)
    assert rate == 16_000 and pitch(waveform[0], rate) == pytest.approx(440, abs=4)


def test_channels_that_cancel_each_other_are_heard_as_the_left_one():
    left = torch.from_numpy(tone().T)
    assert torch.equal(mono(torch.cat([left, -left])), left)
    assert torch.equal(mono(torch.cat([left, -0.9 * left])), left)
    assert torch.equal(mono(torch.cat([0 * left, left, -left])), left)  # the first that can be heard
    for recipe in (RECIPES["audio"]["epalm-audio-16k"], RECIPES["audio"]["starter"]):
        opposite, alone = (recipe(Sound(w, 16_000)) for w in (torch.cat([left, -left]), left))
        torch.testing.assert_close(opposite, alone, atol=1e-4, rtol=0)


def test_other_channels_are_heard_together():
    noise = torch.randn(6, 16_000, generator=torch.Generator().manual_seed(0))
    for waveform in (noise[:1], noise[:2], noise, torch.cat([noise[:1], 0 * noise[1:]])):
        assert torch.equal(mono(waveform), waveform.mean(0, keepdim=True))


@pytest.mark.parametrize("value", [3e38, -3e38, 1e12, np.inf, np.nan])
@pytest.mark.parametrize("share", [0.001, 1.0])
def test_samples_that_are_no_loudness_leave_the_spectrogram_finite(value, share):
    samples = tone(1, channels=2)
    samples[: max(1, int(share * len(samples)))] = value
    sound = open_audio(sound_file(samples, subtype="FLOAT"))
    assert sound.waveform.isfinite().all()
    for recipe in RECIPES["audio"].values():
        assert recipe(sound).isfinite().all()


def test_integers_stored_as_floats_keep_their_shape():
    samples = tone()
    sound = open_audio(sound_file(32_767 * samples, subtype="FLOAT"))
    torch.testing.assert_close(sound.waveform / 32_767, torch.from_numpy(samples.T), atol=1e-6, rtol=0)


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_all_parts_of_a_chained_ogg_file_are_heard(codec, rate):
    first, second = (
        sound_file(tone(1, r, hertz=h), r, "OGG", codec) for r, h in ((16_000, 440), (rate, 880))
    )
    waveform, rate = open_audio(first + second)
    assert waveform.shape[1] / rate == pytest.approx(2, abs=0.05)
    assert pitch(waveform[0, : rate * 9 // 10], rate) == pytest.approx(440, abs=4)
    assert pitch(waveform[0, rate * 11 // 10 :], rate) == pytest.approx(880, abs=4)
    assert open_audio(first + second, seconds=1.5).waveform.shape[1] == rate * 3 // 2
    assert torch.equal(open_audio(first + second, seconds=0.5).waveform, open_audio(first, 0.5).waveform)
