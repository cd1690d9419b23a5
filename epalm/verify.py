"""Compare this installation with a recorded run of the original: `python -m epalm verify CASE_DIR`.

A case is a folder with tiny weights, inputs and everything the original computed from them: encoder
features, connector outputs, the input of every LM layer, logits, losses, gradients, two optimizer steps,
and the tokens of greedy and beam search. It proves a port, a library update or a GPU correct.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from epalm.adapted import AdaptedLM
from epalm.adapter import Adapter
from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
)
from epalm.decoding import InjectedLM, text_loss
from epalm.encoders.base import Encoder
from epalm.encoders.original import encoder_from_recorded
from epalm.errors import EPALMError
from epalm.hub.checkpoints import adapter_from_original, original_name, read_original
from epalm.injection import injection_schedule, layers_per_token

HALF_TOLERANCE = {torch.float16: 3e-2, torch.bfloat16: 2e-1}  # relative to the largest recorded value


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison: largest error found, what is allowed, and whether it decides."""

    name: str
    error: float
    tolerance: float
    decides: bool = True

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def badness(self) -> float:
        """The error in units of what is allowed."""
        return self.error / self.tolerance if self.tolerance else self.error


@dataclasses.dataclass
class Case:
    """A recorded run, rebuilt with this installation's modules."""

    folder: Path
    config: dict[str, Any]
    adapted: AdaptedLM
    encoder: Encoder
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Case:
        """Read a case folder; EPALMError if it is none."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            tensors = [
                load_file(folder / f"{n}.safetensors") for n in ("lm", "encoder", "inputs", "expected")
            ]
            opt = config["opt_config"]
        except OSError as error:
            missing = Path(str(error.filename or "")).name or "a file that can be read"
            raise EPALMError(f"{folder} is not a recorded case: it lacks {missing}.") from None
        except (ValueError, KeyError, SafetensorError) as error:
            raise EPALMError(f"{folder} is not a recorded case ({error}).") from None
        lm_state, encoder_state, inputs, expected = tensors

        known = inspect.signature(OPTConfig).parameters
        lm = OPTForCausalLM(OPTConfig(**{k: v for k, v in opt.items() if k in known}))
        lm.load_state_dict(lm_state)
        encoder = encoder_from_recorded(config["encoder"], encoder_state)

        state = read_original(folder / "checkpoint.pth")
        adapter = adapter_from_original(state, _adapter_config(config, state), str(folder))
        for module in (lm, encoder):
            module.requires_grad_(False).eval()
        adapter.to(device, torch.float64 if dtype == torch.float64 else torch.float32)  # as it is trained
        placed = {k: v.to(device) for k, v in inputs.items()}
        torch.nn.Module.to(lm, device=device, dtype=dtype)
        adapted = AdaptedLM(InjectedLM(lm), adapter, tokenizer=None)
        return cls(folder, config, adapted, encoder.to(device=device, dtype=dtype), placed, expected)

    @property
    def lm(self) -> InjectedLM:
        return self.adapted.lm

    @property
    def adapter(self) -> Adapter:
        return self.adapted.adapter

    def checks(self) -> Iterator[Check]:
        """Run everything that was recorded; yields one result per quantity."""
        yield from self._forward_checks()
        exact = self.lm.dtype not in HALF_TOLERANCE
        for check in self._backward_and_generation_checks():
            yield check if exact else dataclasses.replace(check, decides=False)

    def _backward_and_generation_checks(self) -> Iterator[Check]:
        post_norm = not self.config["opt_config"]["do_layer_norm_before"]
        yield from self._training_checks(grad_tolerance=5e-4 if post_norm else 1e-4)
        for mode in sorted({k.split(".")[1] for k in self.inputs if k.startswith("gen.")}):
            for use_cache in (True, False):
                yield from self._generation_checks(mode, use_cache)

    def _compare(self, name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Check:
        if ours.shape != theirs.shape:
            return Check(f"{name} (shape {tuple(ours.shape)} for {tuple(theirs.shape)})", float("inf"), 0.0)
        tolerance = max(tolerance, HALF_TOLERANCE.get(self.lm.dtype, 0.0) * theirs.abs().max().item())
        error = (ours.detach().double().cpu() - theirs.double()).abs().max().item()
        return Check(name, float("inf") if error != error else error, tolerance)

    def _features(self) -> list[Tensor]:
        return self.encoder(self.inputs["image"], self.adapter.config.encoder.feature_layers)

    @torch.no_grad()
    def _forward_checks(self) -> Iterator[Check]:
        expected, config = self.expected, self.adapter.config
        schedule = torch.tensor(injection_schedule(config.injection, self.lm.num_layers, config.num_tokens))
        yield self._compare("injection schedule", schedule, expected["injection_schedule"], 0)

        features = self._features()
        pairs = [(f, expected[f"vis_cls.{j}"]) for j, f in enumerate(features)]
        yield _worst("encoder features", [self._compare("", a, b, 2e-4) for a, b in pairs])
        tokens = self.adapter.tokens(features)
        pairs = [(tokens[:, j, None], expected[f"connector_out.{j}"]) for j in range(config.num_tokens)]
        yield _worst("connector outputs", [self._compare("", a, b, 2e-4) for a, b in pairs])
        if self.adapter.prompt is not None:
            yield self._compare("soft prompt", self.adapter.prompt(), expected["prompt_embeds"], 2e-4)

        seen: dict[int, Tensor] = {}
        masks: dict[int, Tensor] = {}
        hooks = []
        for i, layer in enumerate(self.lm.family.layers(self.lm.base)):

            def remember(_module: Any, args: Any, kwargs: Any, i: int = i) -> None:
                seen[i], masks[i] = args[0][1], kwargs["attention_mask"][1, 0]

            hooks.append(layer.register_forward_pre_hook(remember, with_kwargs=True))
        logits = self.adapted(features, self.inputs["input_ids"], self.inputs["attention_mask"])
        for hook in hooks:
            hook.remove()
        recorded = [(i, expected[f"layer_in.{i}"]) for i in seen if f"layer_in.{i}" in expected]
        yield _worst("layer inputs", [self._compare("", seen[i], theirs, 2e-4) for i, theirs in recorded])
        mask = expected["final_layer_additive_mask_sample1"]
        yield self._compare("attention mask", (masks[max(masks)] < -1e4).int(), (mask < -1e4).int(), 0)
        yield self._compare("logits", logits, expected["logits"], 2e-4)

        losses = text_loss(logits, self.inputs["labels"])
        for name, ours in (("loss_per_token", losses), ("loss_per_sample", losses.sum(1))):
            yield self._relative(name.replace("_", " "), ours, expected[name], 1e-4)

    def _relative(self, name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Check:
        return self._compare(name, ours, theirs, tolerance * theirs.abs().max().item())

    def _loss(self) -> Tensor:
        """The original's training loss: summed over tokens, averaged over samples, weighted."""
        weight = self.config["epalm_config"].get("lm_loss_weight", 0.1)
        ids, mask, labels = (self.inputs[key] for key in ("input_ids", "attention_mask", "labels"))
        return self.adapted.loss(self._features(), ids, mask, labels).sum(1).mean() * weight

    def _parameters(self) -> dict[str, Tensor]:
        return {original_name(k): p for k, p in self.adapter.named_parameters()}

    def _training_checks(self, grad_tolerance: float) -> Iterator[Check]:
        loss = self._loss()
        loss.backward()
        yield self._relative("training loss", loss.detach(), self.expected["train_loss"], 1e-4)
        yield from self._gradient_checks(self._parameters(), grad_tolerance)
        self.adapter.zero_grad()
        # AdamW's first step is the gradient's sign: where a gradient is rounding noise, which differs between
        # processors, a step may go the other way. What counts is the closer of float32 and float64.
        device = "cpu" if self.lm.device.type == "mps" else str(self.lm.device)
        steps = [Case.load(self.folder, device, d)._two_steps() for d in (self.lm.dtype, torch.float64)]
        closer = [min(pair, key=Check.badness) for pair in zip(*steps, strict=True)]
        yield closer[0]
        yield _worst("parameters after two optimizer steps", closer[1:])

    def _two_steps(self) -> list[Check]:
        """The loss of both steps, and every parameter after them."""
        parameters, expected = self._parameters(), self.expected
        groups = [
            {
                "params": [parameters[n] for n in group["trainable"]],
                "weight_decay": group["weight_decay"],
                "lr": group["lr_after_scheduler_init"],
                "betas": tuple(group["betas"]),
                "eps": group["eps"],
            }
            for group in self.config["optimizer_groups"]
        ]
        optimizer = torch.optim.AdamW(groups)
        step_losses = []
        for step in range(2):
            for group, lr in zip(optimizer.param_groups, expected["step_lrs"][step].tolist(), strict=True):
                group["lr"] = lr
            optimizer.zero_grad()
            loss = self._loss()
            loss.backward()
            step_losses.append(loss.detach())
            optimizer.step()
        losses = self._relative("loss of two steps", torch.stack(step_losses), expected["step_losses"], 1e-4)
        return [losses, *self._step_checks(parameters)]

    def _gradient_checks(self, parameters: dict[str, Tensor], tolerance: float) -> Iterator[Check]:
        without = {name for name, p in parameters.items() if p.grad is None}
        wrong = without ^ set(self.config["params_with_no_grad"])
        yield Check("parameters without gradient", float(len(wrong)), 0.0)
        checks = [
            self._relative(name, p.grad, self.expected[f"grad.{name}"], tolerance)
            for name, p in parameters.items()
            if p.grad is not None
        ]
        yield _worst("gradients", checks)

    def _step_checks(self, parameters: dict[str, Tensor]) -> list[Check]:
        """The recording took its steps in float32: gradients within its rounding noise are left out."""
        lrs = {n: g["initial_lr"] for g in self.config["optimizer_groups"] for n in g["trainable"]}
        checks = []
        for name, p in parameters.items():
            theirs = self.expected[f"after2steps.{name}"]
            grad = self.expected.get(f"grad.{name}")
            clear = torch.ones_like(theirs, dtype=torch.bool)
            if grad is not None:
                clear = grad.abs() > max(1e-6, 1e-5 * grad.abs().max().item())
            ours = torch.where(clear, p.detach().cpu(), theirs.double())
            rounding = torch.finfo(torch.float32).eps * theirs.abs().max().item()
            checks.append(self._compare(name, ours, theirs, 1e-6 + 1e-4 * lrs[name] + rounding))
        return checks

    @torch.no_grad()
    def _generation_checks(self, mode: str, use_cache: bool) -> Iterator[Check]:
        settings, expected = self.config["generation"], self.expected
        ids, mask = self.inputs[f"gen.{mode}.input_ids"], self.inputs[f"gen.{mode}.attention_mask"]
        index = settings["prompts"][mode]["image_index"]  # "all", or the one sample of an unpadded prompt
        tokens = self.adapter.tokens(self._features())
        tokens = tokens if index == "all" else tokens[index : index + 1]
        kinds = sorted({key.split(".")[2] for key in expected if key.startswith(f"gen.{mode}.")})
        for kind in [k for k in kinds if k == "greedy" or (k.startswith("beam") and k[4:].isdigit())]:
            beams = 1 if kind == "greedy" else int(kind[4:])
            out: Any = self.lm.decode(
                ids,
                mask,
                self.adapted.prompt_rows(len(ids)),
                tokens,
                self.adapter.config.injection,
                GenerationConfig(beams, max_length=settings["max_length"], beam_scoring="reference"),
                use_cache,
                return_dict_in_generate=True,
                output_logits=True,
            )
            label = f"{mode} {kind} {'cached' if use_cache else 'uncached'}"
            theirs = expected[f"gen.{mode}.{kind}"]
            ours = out.sequences.cpu()
            same = ours.shape == theirs.shape
            wrong = (ours != theirs).sum().item() if same else theirs.numel()
            yield Check(f"{label}: tokens", float(wrong), 0.0)
            if f"gen.{mode}.{kind}_score" in expected:
                theirs = expected[f"gen.{mode}.{kind}_score"]
                yield self._compare(f"{label}: scores", out.sequences_scores, theirs, 2e-4)
            elif f"gen.{mode}.greedy_step_logits" in expected and same:
                recorded = expected[f"gen.{mode}.greedy_step_logits"]
                yield self._compare(f"{label}: step logits", torch.stack(out.logits), recorded, 2e-4)


def _adapter_config(config: dict[str, Any], state: dict[str, Tensor]) -> AdapterConfig:
    """The adapter config of a recorded case, as the original's option names say it."""
    opt, recorded, encoder = config["opt_config"], config["epalm_config"], config["encoder"]
    n = recorded.get("injected_hidden_states", 1)
    injection = InjectionConfig(
        config["start_layer_idx"], config["end_layer_idx"], opt["text_step"], mask="reference"
    )
    if opt["select_higher_step"]:
        step = max(layers_per_token(injection, n), injection.text_step)
        injection = dataclasses.replace(injection, text_step=step)
    prompt = None
    if recorded.get("prompt_tuning", False):
        prompt = PromptConfig(recorded.get("prompt_len", 10), mlp="prompt.mlp.0.weight" in state)
    return AdapterConfig(
        lm=LMConfig(
            "recorded", opt["hidden_size"], opt["word_embed_proj_dim"], opt["num_hidden_layers"], "opt"
        ),
        encoder=EncoderConfig("recorded", tuple(range(-n, 0)), (encoder["vis_dim"],) * n),
        injection=injection,
        prompt=prompt,
        task=TaskConfig("caption", "image", ""),
        generation=GenerationConfig(),
        recipe={},
        shared_connector=recorded.get("shared_connector") is not None,
    )


def _worst(name: str, checks: list[Check]) -> Check:
    if not checks:
        return Check(f"{name} (none recorded)", 0.0, 0.0)
    worst = max(checks, key=Check.badness)
    return dataclasses.replace(worst, name=f"{name} {worst.name}".strip())


def verify(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Check]:
    """All checks of one case.

    Args:
        dtype: of LM and encoder. In float16 and bfloat16 errors of the forward pass are measured against the
            largest recorded value; gradients and tokens are reported but do not decide, because rounding
            alone moves them (two nearly equal logits may swap).
    """
    return list(Case.load(folder, device, dtype).checks())
