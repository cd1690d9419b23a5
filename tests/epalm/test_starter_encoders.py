"""The encoders of the starter: every frame of a video through an image encoder, sound through Whisper."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import gelu
from transformers import (
    ASTConfig,
    ASTModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Network

from epalm.encoders.frames import FrameEncoder
from epalm.encoders.load import load_encoder
from epalm.encoders.timm_image import TimmImageEncoder
from epalm.encoders.whisper import WhisperEncoder
from epalm.errors import EPALMError
from tests.epalm.test_encoders import tiny

# A video through an image encoder


def frames_encoder() -> FrameEncoder:
    return FrameEncoder(tiny("test_efficientnet"))


def moving_square(positions: list[int]) -> torch.Tensor:
    """(1, 3, 8, 160, 160): a bright square on grey, whose left edge is at each of `positions`."""
    clip = torch.zeros(1, 3, 8, 160, 160)
    for t, left in enumerate(positions):
        clip[:, :, t, 64:96, left : left + 32] = 2.0
    return clip


def test_a_clip_is_seen_as_the_mean_of_its_frames():
    encoder, clip = frames_encoder(), torch.randn(2, 3, 8, 160, 160)
    seen, _ = encoder(clip, (0, 1))
    each = [encoder.image(clip[:, :, t], [-1])[0] for t in range(8)]
    torch.testing.assert_close(seen, torch.stack(each).mean(0), atol=1e-5, rtol=0)


def test_the_classes_of_a_clip_are_the_mean_of_those_of_its_frames():
    image = TimmImageEncoder(timm.create_model("test_efficientnet", num_classes=7))
    encoder, clip = FrameEncoder(image), torch.randn(2, 3, 8, 160, 160)
    assert encoder.widths[2:] == (7,)
    [classes] = encoder(clip, [2])
    each = [image.network(clip[:, :, t]).softmax(-1) for t in range(8)]
    torch.testing.assert_close(classes, torch.stack(each).mean(0), atol=1e-5, rtol=0)


def test_an_encoder_of_frames_without_a_classifier_has_no_classes():
    with pytest.raises(EPALMError, match="no layer 2"):
        frames_encoder()(torch.zeros(1, 3, 8, 160, 160), [2])


def test_nothing_changes_in_a_still_clip():
    [changes] = frames_encoder()(moving_square([64] * 8), [1])
    assert changes.shape == (1, 175)
    assert changes.abs().max() == 0


def test_changes_are_where_and_when_something_moves():
    [changes] = frames_encoder()(moving_square([0, 16, 16, 16, 16, 16, 16, 128]), [1])
    grid = changes.view(7, 5, 5)  # step, row, column
    assert grid[1:6].abs().max() == 0
    assert grid[0].sum(0).argmax() < grid[6].sum(0).argmax()


def test_a_clip_of_other_length_is_refused():
    with pytest.raises(EPALMError, match="sees 8 frames.*gives 4"):
        frames_encoder()(torch.zeros(1, 3, 4, 160, 160), [0])


def test_an_encoder_of_frames_shares_the_image_encoder_that_is_loaded(tmp_path):
    image = tiny("test_efficientnet")
    encoder = load_encoder("frames/some/id", loaded={"some/id": image})
    assert encoder.network is image.network


def test_only_image_encoders_look_at_frames(tmp_path):
    ASTModel(ASTConfig(hidden_size=24, num_attention_heads=4, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(EPALMError, match="needs an image encoder"):
        load_encoder(f"frames/{tmp_path}")


def test_batch_norms_folded_into_convolutions_change_no_feature():
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval().requires_grad_(False)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1), norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 1.5), norm.bias.normal_(0, 0.1)
    media = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network.forward_intermediates(media)
        folded = TimmImageEncoder(network).network
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        final, stages = folded.forward_intermediates(media)
    for ours, theirs in zip([final, *stages], [before[0], *before[1]], strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


# Sound through a speech recogniser


def whisper_encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, max_source_positions=60
    )
    return WhisperEncoder(Network(config))


def test_the_last_layer_equals_the_librarys_output_averaged_over_thirds():
    encoder, sound = whisper_encoder(), torch.rand(1, 80, 120)
    expected = encoder.network(sound).last_hidden_state.view(3, 20, 16).mean(1).flatten()
    torch.testing.assert_close(encoder(sound, [-1])[0][0], expected)


def test_the_stem_says_how_each_channel_of_the_convolutions_varies_and_where_it_is_highest():
    encoder, sound = whisper_encoder(), torch.rand(1, 80, 120)
    network = encoder.network
    channels = gelu(network.conv2(gelu(network.conv1(sound))))[0]  # (16, 60)
    [stem] = encoder(sound, [2])  # after its two layers
    torch.testing.assert_close(stem[0], torch.cat([channels.std(1), channels.amax(1)]))


def test_the_last_layer_of_a_speech_recogniser_is_not_its_stem():
    encoder, sound = whisper_encoder(), torch.rand(1, 80, 120)
    torch.testing.assert_close(encoder(sound, [-1]), encoder(sound, [1]))


def test_silence_around_a_sound_changes_nothing():
    encoder, sound = whisper_encoder(), torch.rand(1, 80, 60)
    padded = torch.cat([torch.full((1, 80, 20), -1.0), sound, torch.full((1, 80, 40), -1.0)], dim=2)
    torch.testing.assert_close(encoder(padded, [0, 1]), encoder(sound, [0, 1]))


def test_sounds_of_different_length_in_one_batch_are_heard_as_alone():
    encoder, sounds = whisper_encoder(), torch.rand(2, 80, 120)
    sounds[1, :, 31:] = -1.0
    together = encoder(sounds, [0, 1])
    for i in range(2):
        torch.testing.assert_close([f[i : i + 1] for f in together], encoder(sounds[i : i + 1], [0, 1]))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_click_is_heard(frames):
    sound = torch.full((1, 80, 120), -1.0)
    sound[:, :, 50 : 50 + frames] = 1.0
    layer, stem = whisper_encoder()(sound, [-1, 2])
    assert (layer.shape, stem.shape) == ((1, 48), (1, 32))
    assert layer.isfinite().all() and stem.isfinite().all()


def test_digital_silence_is_heard_as_something_finite():
    [feature] = whisper_encoder()(torch.full((1, 80, 120), -1.5), [-1])
    assert feature.isfinite().all()
