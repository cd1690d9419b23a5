"""`reference: true`: what the original does while it trains, against its recorded cases and its formulas."""

import math
from pathlib import Path

import pytest
import torch
from transformers import TimesformerConfig, TimesformerModel
from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

from epalm.config import LMConfig
from epalm.encoders.timesformer import TimesformerEncoder
from epalm.verify import Case
from train.features.source import LiveFeatures, dropping, stochastic_depth
from train.regime import Original, make_optimizer
from train.settings import Optim, load_settings

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = Path(__file__).parents[2] / "train" / "configs" / "video"
STEPS, PER_EPOCH, EPOCHS = 10, 3, 8


def scheduled_rate(step: int, lr: float, warmup_lr: float, min_lr: float) -> float:
    """The original's rate of its first group; an epoch is too short here for its warm-up to rise."""
    epoch = step // PER_EPOCH
    if epoch == 0:
        return warmup_lr
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2


@pytest.mark.parametrize("name", ["image_prenorm_a", "image_shared_a", "video_qa_a", "audio_caption_a"])
def test_ten_steps_follow_the_formulas(name):
    """Groups as recorded from the original, its rates, and AdamW written out, in float64."""
    case, other = (Case.load(GOLDEN / name, dtype=torch.float64) for _ in range(2))
    first, second = case.config["optimizer_groups"]
    optim = Optim(
        epochs=EPOCHS,
        batch=1,
        lr=first["initial_lr"],
        prompt_lr=second["initial_lr"],
        min_lr=1e-5,
        warmup_lr=first["lr_after_scheduler_init"],
        warmup_blocks=4,
    )
    task = "qa" if "qa" in case.config["task"] else "caption"
    regime = Original(optim, task)
    groups = regime.groups(case.adapter)
    optimizer = make_optimizer(case.adapter, groups)
    begun = {key: p.detach().clone() for key, p in other._parameters().items()}
    moments = {key: (torch.zeros_like(p), torch.zeros_like(p)) for key, p in begun.items()}

    for step in range(STEPS):
        rates = regime.rates(groups, step, PER_EPOCH)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad()
        case._loss().backward()
        optimizer.step()

        parameters = other._parameters()
        other.adapter.zero_grad()
        other._loss().backward()
        rate = scheduled_rate(step, optim.lr, optim.warmup_lr, optim.min_lr)
        for recorded, lr in ((first, rate), (second, second["initial_lr"])):
            for key in recorded["trainable"]:
                p, (mean, square) = parameters[key], moments[key]
                if p.grad is None:
                    continue
                mean.mul_(0.9).add_(0.1 * p.grad)
                square.mul_(0.999).add_(0.001 * p.grad**2)
                move = mean / (1 - 0.9 ** (step + 1))
                size = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                p.data = p.data * (1 - lr * recorded["weight_decay"]) - lr * move / size

    theirs = other._parameters()
    moved = [key for key, p in theirs.items() if (p - begun[key]).abs().max() > 1e-4]
    assert len(moved) >= len(theirs) // 2
    for key, ours in case._parameters().items():
        torch.testing.assert_close(ours, theirs[key], rtol=0, atol=1e-10)


@pytest.fixture
def encoder() -> TimesformerEncoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
    network = TimesformerModel(TimesformerConfig(**sizes, image_size=32, num_frames=4))
    for layer in network.encoder.layer:
        torch.nn.init.normal_(layer.temporal_dense.weight)
    return TimesformerEncoder(network)


def test_the_video_encoder_drops_paths_in_training_only(encoder):
    clip = torch.randn(2, 3, 4, 32, 32)
    before = encoder(clip, range(3))
    drop_paths = stochastic_depth(encoder)
    assert [drop_path.drop_prob for drop_path in drop_paths] == pytest.approx([0, 0.05, 0.1])
    for ours, theirs in zip(encoder(clip, range(3)), before, strict=True):
        assert torch.equal(ours, theirs)
    for drop_path in drop_paths:
        drop_path.train()
    first, _, last = encoder(clip, range(3))
    assert torch.equal(first, before[0])  # a rate of 0
    assert not torch.equal(last, before[2])


def test_a_dropped_path_leaves_its_residual_alone_and_a_kept_one_is_scaled_up(encoder):
    """As in the original's blocks: the branches of attention over time, over space, and of the MLP."""
    hidden = torch.randn(1, 1 + 4 * 4, 24)  # 2 x 2 places, 4 frames
    network, layer = encoder.network, encoder.network.encoder.layer[2]
    network.config.num_frames, network.config.image_size = 4, 32
    drop_path = stochastic_depth(encoder)[2].train()
    drop_path.drop_prob = 1 - 1e-9  # all are dropped
    with torch.no_grad():
        out = layer(hidden)[0]
    bias = layer.temporal_dense.bias  # what joins time to the rest comes behind the path
    expected = hidden + torch.cat([torch.zeros(1), torch.ones(16)])[None, :, None] * bias
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("changes", "drops"), [([], True), (["reference=false"], False)])
def test_paths_are_dropped_in_reference_mode_alone(encoder, changes, drops):
    settings = load_settings(CONFIGS / "msvd-qa-opt-2.7b.yaml", changes)
    lm = LMConfig("facebook/opt-2.7b", 2560, 2560, 32, "opt")
    features = LiveFeatures(settings, settings.adapter_config(lm, (24,) * 12), encoder)
    modules = [layer.drop_path for layer in encoder.network.encoder.layer]
    with dropping(features.paths):
        training = [isinstance(module, TimesformerDropPath) and module.training for module in modules]
    assert training == [drops] * 3
    assert not any(module.training for module in modules if isinstance(module, TimesformerDropPath))
