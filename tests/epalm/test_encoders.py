"""Frozen encoders: features equal the original's recorded ones; its weights load under library names."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    ASTConfig,
    ASTModel,
    BertConfig,
    TimesformerConfig,
    TimesformerModel,
)

from epalm.encoders import ast, timesformer, timm_image
from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoder
from epalm.encoders.original import encoder_from_file, encoder_from_recorded
from epalm.encoders.timm_image import TimmImageEncoder
from epalm.errors import EPALMError
from epalm.hub import wheels

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.name for path in GOLDEN.glob("*_a"))


def recorded(case: str) -> tuple[Encoder, dict[str, torch.Tensor], torch.Tensor]:
    """(encoder, its weights in the original's names, media) of a recorded case."""
    config = json.loads((GOLDEN / case / "config.json").read_text())["encoder"]
    state = load_file(GOLDEN / case / "encoder.safetensors")
    media = load_file(GOLDEN / case / "inputs.safetensors")["image"]
    return encoder_from_recorded(config, state), state, media


def tiny(architecture: str, **options) -> TimmImageEncoder:
    torch.manual_seed(0)
    return TimmImageEncoder(timm.create_model(architecture, num_classes=0, **options))


# Equal to the original


@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_recorded_ones(case):
    encoder, _, media = recorded(case)
    expected = load_file(GOLDEN / case / "expected.safetensors")
    features = [
        expected[f"vis_cls.{j}"] for j in range(sum(name.startswith("vis_cls.") for name in expected))
    ]
    actual = encoder(media, range(-len(features), 0))
    torch.testing.assert_close(actual, features, atol=1e-5, rtol=0)


def test_vit_feature_is_cls_of_the_block_output_through_the_final_norm():
    encoder, _, media = recorded("image_prenorm_a")
    vit = encoder.network
    hidden = vit.patch_embed(media)
    hidden = torch.cat([vit.cls_token.expand(len(media), -1, -1), hidden], dim=1) + vit.pos_embed
    for layer, block in enumerate(vit.blocks):
        hidden = block(hidden)
        torch.testing.assert_close(encoder(media, [layer])[0], vit.norm(hidden)[:, 0], atol=1e-6, rtol=0)
    assert vit.norm.eps == 1e-6


# Any encoder


@pytest.mark.parametrize("case", ["image_prenorm_a", "video_qa_a", "audio_caption_a"])
def test_layers_may_be_negative_repeated_and_in_any_order(case):
    encoder, _, media = recorded(case)
    depth = len(encoder.widths)
    every = encoder(media, range(depth))
    assert [feature.shape for feature in every] == [(len(media), width) for width in encoder.widths]
    chosen = encoder(media, [-1, 0, -1, 2 - depth])
    torch.testing.assert_close(chosen, [every[-1], every[0], every[-1], every[2]], atol=1e-6, rtol=0)
    with pytest.raises(EPALMError, match=f"layer {depth}.*has {depth} layers"):
        encoder(media, [depth])


@pytest.mark.parametrize("case", ["image_prenorm_a", "video_qa_a", "audio_caption_a"])
def test_encoders_are_frozen(case):
    encoder, _, media = recorded(case)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(media.requires_grad_(), [-1])[0].requires_grad


def test_media_follow_the_encoders_dtype():
    encoder, _, media = recorded("image_prenorm_a")
    assert encoder.to(torch.bfloat16)(media, [-1])[0].dtype == torch.bfloat16


def test_modalities():
    modalities = [recorded(case)[0].modality for case in ("image_prenorm_a", "video_qa_a", "audio_caption_a")]
    assert modalities == ["image", "video", "audio"]


# Convolutional networks and other timm models


@pytest.mark.parametrize(
    ("architecture", "widths"),
    [
        ("tf_efficientnet_lite2", (16, 24, 48, 120, 1280)),
        ("resnet18", (64, 64, 128, 256, 512)),
        ("mobilenetv3_small_050", (16, 8, 16, 24, 1024)),
        ("convnext_atto", (40, 80, 160, 320)),
    ],
)
def test_convolutional_networks_give_pooled_stages_and_last_what_the_classifier_sees(architecture, widths):
    encoder = tiny(architecture)
    image = torch.rand(2, 3, 64, 64)
    features = encoder(image, range(len(widths)))
    assert encoder.widths == widths
    assert [feature.shape for feature in features] == [(2, width) for width in widths]
    with torch.no_grad():
        final, stages = encoder.network.forward_intermediates(image)
        seen = encoder.network.forward_head(final, pre_logits=True)
    torch.testing.assert_close(features[-1], seen, atol=0, rtol=0)
    torch.testing.assert_close(features[0], stages[0].mean((2, 3)), atol=0, rtol=0)


def test_transformers_without_cls_are_pooled():
    encoder = tiny("vit_tiny_patch16_224", img_size=32, depth=3, class_token=False, global_pool="avg")
    features = encoder(torch.rand(2, 3, 32, 32), [0, 1, 2])
    assert not encoder.has_cls and [feature.shape for feature in features] == [(2, 192)] * 3


def test_register_and_distillation_tokens_are_not_mistaken_for_cls():
    encoder = tiny("vit_tiny_patch16_224", img_size=32, depth=2, reg_tokens=4)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        tokens = encoder.network.forward_features(image)  # (1, 1 + 4 + 4, 192)
    torch.testing.assert_close(encoder(image, [-1])[0], tokens[:, 0], atol=1e-6, rtol=0)


# Frames


def test_other_frame_counts_take_the_nearest_time_embedding():
    encoder, state, _ = recorded("video_qa_a")
    clip = torch.rand(2, 3, 8, 32, 32)
    resized = timesformer.from_original(state, frames=8)  # 4 stored -> 8, as when the original loads a file
    stored = resized.network.embeddings.time_embeddings
    torch.testing.assert_close(stored, state["model.time_embed"].repeat_interleave(2, dim=1))
    torch.testing.assert_close(encoder(clip, [0, -1]), resized(clip, [0, -1]), atol=1e-6, rtol=0)


def test_frame_count_and_size_may_change_from_clip_to_clip():
    encoder, _, media = recorded("video_qa_a")
    before = encoder(media, [-1])[0]
    for frames, height, width in ((1, 32, 32), (16, 32, 32), (4, 48, 64)):
        assert encoder(torch.rand(1, 3, frames, height, width), [-1])[0].shape == (1, 24)
    torch.testing.assert_close(encoder(media, [-1])[0], before, atol=0, rtol=0)


# The original's files


def test_timesformer_file(tmp_path):
    encoder, state, media = recorded("video_qa_a")
    torch.save({"epoch": 25, "model_state": state, "cfg": "…"}, tmp_path / "k600.pyth")
    loaded = load_encoder(tmp_path / "k600.pyth")
    assert loaded.modality == "video" and "head.weight" not in loaded.network.state_dict()
    torch.testing.assert_close(loaded(media, [-1]), encoder(media, [-1]), atol=0, rtol=0)


def test_timesformer_weights_of_an_image_vit_start_without_effect_of_time():
    _, state, media = recorded("video_qa_a")
    spatial = {
        key: value for key, value in state.items() if "temporal" not in key and "time_embed" not in key
    }
    converted = timesformer.convert(spatial, frames=4)
    for part in ("attention.attention.qkv.weight", "attention.output.dense.bias"):
        copied, source = f"encoder.layer.3.temporal_{part}", f"encoder.layer.3.{part}"
        assert torch.equal(converted[copied], converted[source])
    copied, source = "encoder.layer.3.temporal_layernorm.weight", "encoder.layer.3.layernorm_before.weight"
    assert torch.equal(converted[copied], converted[source])
    encoder = timesformer.from_original(spatial, frames=4)
    still = media[:, :, :1].expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(encoder(still, [-1]), encoder(media[:, :, :1], [-1]), atol=1e-5, rtol=0)


def test_timesformer_position_table_is_resized_to_the_nearest_rows():
    _, state, _ = recorded("video_qa_a")
    table = timesformer.convert(state, patches=8)["embeddings.position_embeddings"]
    stored = state["model.pos_embed"]
    assert torch.equal(table[:, :1], stored[:, :1])
    assert torch.equal(table[:, 1:], stored[:, 1:].repeat_interleave(2, dim=1))


def test_ast_keys_with_and_without_module_prefix():
    _, state, _ = recorded("audio_caption_a")
    plain = ast.convert(state)
    prefixed = ast.convert({f"module.{key}": value for key, value in state.items()})
    assert plain.keys() == prefixed.keys()
    assert not any("head" in key for key in plain)
    qkv = state["v.blocks.2.attn.qkv.weight"]
    assert torch.equal(plain["layers.2.attention.k_proj.weight"], qkv[24:48])


def test_ast_file(tmp_path):
    # The released file's sizes are the defaults: 12 heads, 128 mel bins, 1024 frames.
    reference, state, _ = recorded("audio_caption_a")
    state = {**state, "v.pos_embed": torch.rand(1, 1214, 24)}
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "audioset.pth")
    encoder = load_encoder(tmp_path / "audioset.pth")
    assert encoder.modality == "audio" and encoder.network.layernorm.eps == 1e-6
    assert encoder(torch.rand(1, 1024, 128), [-1])[0].shape == (1, 24)
    assert len(encoder.widths) == len(reference.widths)


def test_files_that_are_no_encoder(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(EPALMError, match="not a complete PyTorch weight file"):
        encoder_from_file(tmp_path / "text.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(EPALMError, match="neither TimeSformer nor AST"):
        encoder_from_file(tmp_path / "other.pth")
    with pytest.raises(EPALMError, match="do not make a vit encoder"):
        encoder_from_recorded({"type": "vit"}, {})
    with pytest.raises(EPALMError, match="'clip' is not an encoder type"):
        encoder_from_recorded({"type": "clip"}, {})


# Loading by id


def test_local_folders(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ASTModel(ASTConfig(**sizes, max_length=32, num_mel_bins=32)).save_pretrained(tmp_path / "ast")
    TimesformerModel(TimesformerConfig(**sizes, image_size=32, num_frames=2)).save_pretrained(
        tmp_path / "video"
    )
    vit = tiny("vit_tiny_patch16_224", img_size=32, depth=2)
    (tmp_path / "vit").mkdir()
    save_file(vit.network.state_dict(), tmp_path / "vit" / "model.safetensors")
    hub_config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": {"img_size": 32, "depth": 2},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    (tmp_path / "vit" / "config.json").write_text(json.dumps(hub_config))

    audio = load_encoder(tmp_path / "ast")
    assert audio.modality == "audio" and audio.network.layernorm.eps == 1e-6
    assert audio.network.layers[0].layernorm_before.eps == 1e-6
    video = load_encoder(tmp_path / "video", dtype=torch.float16)
    assert video.modality == "video" and next(video.parameters()).dtype == torch.float16
    image = load_encoder(tmp_path / "vit")
    picture = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(image(picture, [0, 1]), vit(picture, [0, 1]), atol=0, rtol=0)

    weights = tmp_path / "ast" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(EPALMError, match="ast could not be loaded"):
        load_encoder(tmp_path / "ast")


def test_starter_backbone(tmp_path, monkeypatch):
    network = timm.create_model("tf_efficientnet_lite2")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(wheels, "backbone_dir", lambda backbone, progress=None: tmp_path)
    encoder = load_encoder("starter/efficientnet-lite2")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = network.eval()(image)
        torch.testing.assert_close(network.classifier(encoder(image, [-1])[0]), logits, atol=1e-5, rtol=1e-5)
        both = encoder(image, [(-1, 5)])[0]  # side by side: what the classifier sees, and what it says
        torch.testing.assert_close(both[:, :1280], encoder(image, [-1])[0])
        torch.testing.assert_close(both[:, 1280:], logits.softmax(-1), atol=1e-5, rtol=1e-5)
    big = torch.rand(1, 3, 96, 96)  # the map of stage 3 is 6×6, so that each of the 3×3 places has 2×2
    grid, mean = encoder(big, [6, 3])
    torch.testing.assert_close(grid.view(1, 120, 9).mean(2), mean, atol=1e-5, rtol=1e-5)
    assert encoder.widths == (16, 24, 48, 120, 1280, 1000, 1080)
    assert encoder.widths.of([(-1, 5), 0]) == (2280, 16)
    with pytest.raises(EPALMError, match="no layer 7: the encoder has 5 layers and 2 of its head"):
        encoder(image, [7])
    with pytest.raises(EPALMError, match="starter/resnet is not a starter image encoder"):
        timm_image.load_starter("starter/resnet")


def test_unknown_backbones(tmp_path):
    with pytest.raises(EPALMError, match="no_such_net could not be loaded"):
        load_encoder("no_such_net")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(EPALMError, match="type 'bert'"):
        load_encoder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EPALMError, match=r"no readable config\.json"):
        load_encoder(tmp_path / "empty")
