"""The ten published eP-ALM adapters: their training data, backbones and download sources.

    from epalm.hub.zoo import ZOO, find, licence_notice
    preset = find("coco-caption-opt-2.7b")
    print(licence_notice(preset))

A preset has everything that `checkpoints.py` needs to turn an original `checkpoint_best.pth` into an adapter
folder. The checkpoints contain only connectors and soft prompt, so the names and shapes of their tensors also
follow from a preset (`Preset.key_shapes`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
)
from epalm.errors import EPALMError
from epalm.hub.download import Progress, download, download_from_hub

if TYPE_CHECKING:
    from epalm.media.recipes import Recipe


@dataclass(frozen=True)
class HubSource:
    """A file in a Hugging Face Space at a commit; `sha256` if it is known."""

    repo: str
    file: str
    revision: str
    sha256: str | None = None

    @property
    def url(self) -> str:
        return f"https://huggingface.co/spaces/{self.repo}/resolve/{self.revision}/{self.file}"

    def fetch(self, path: Path, progress: Progress | None = None) -> Path:
        """Fetch into the Hub's cache, whatever `path` is."""
        return download_from_hub(self.repo, self.file, self.revision, sha256=self.sha256, progress=progress)


@dataclass(frozen=True)
class Source:
    """A file to fetch over plain HTTP; `sha256` if it is known."""

    url: str
    sha256: str | None = None

    def fetch(self, path: Path, progress: Progress | None = None) -> Path:
        return download(self.url, path, sha256=self.sha256, progress=progress)


@dataclass(frozen=True)
class Backbone:
    """A frozen language model or encoder, with the width of its hidden states or [CLS] features."""

    id: str  # on the Hugging Face Hub
    title: str
    width: int
    layers: int
    licence: str
    commercial: bool  # whether the licence allows commercial use
    revision: str | None = None  # Hub commit


@dataclass(frozen=True)
class Result:
    """A result that the authors report for this adapter, rounded as in their README."""

    metric: str
    value: float


Task = Literal["caption", "qa"]
Modality = Literal["image", "video", "audio"]


@dataclass(frozen=True)
class Preset:
    """One published adapter. Injection, mask and generation are the paper's, the same for all ten."""

    name: str
    title: str
    task: Task
    modality: Modality
    lm: Backbone
    encoder: Backbone
    template: str  # of the text input; the tokenizer prepends BOS
    sources: tuple[HubSource | Source, ...]  # tried in this order
    shared_connector: bool = False
    prompt_mlp: bool = True
    prompt_length: int = 10
    start_layer: int = 19  # row 0 is overwritten before layers start_layer ≤ i < end_layer
    end_layer: int = 31
    injected: int = 6  # number of injected [CLS] features, from the encoder's last layers
    num_frames: int | None = None  # for video
    generation: GenerationConfig = GenerationConfig(num_beams=3, max_length=30, beam_scoring="reference")
    result: Result | None = None

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Encoder layers whose features are injected, shallowest first."""
        return tuple(range(-self.injected, 0))

    @property
    def key_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in the `model` entry of the original checkpoint."""
        width = self.lm.width  # these OPT models embed tokens in their hidden width
        shapes: dict[str, tuple[int, ...]] = {}
        for i in range(1 if self.shared_connector else self.injected):
            shapes[f"connector.{i}.weight"] = (width, self.encoder.width)
            shapes[f"connector.{i}.bias"] = (width,)
        shapes["prompt_module.prefix_embedding.0.weight"] = (self.prompt_length, width)
        for i in (1, 3) if self.prompt_mlp else ():
            shapes[f"prompt_module.prefix_embedding.{i}.weight"] = (width, width)
            shapes[f"prompt_module.prefix_embedding.{i}.bias"] = (width,)
        return shapes

    @property
    def config(self) -> AdapterConfig:
        """The config of the adapter folder."""
        width = self.lm.width
        task = TaskConfig(self.task, self.modality, self.template)
        if self.task == "qa":
            task = dataclasses.replace(task, answer_token=ANSWER_TOKEN)
        return AdapterConfig(
            lm=LMConfig(self.lm.id, width, width, self.lm.layers, "opt", self.lm.revision),
            encoder=EncoderConfig(
                self.encoder.id,
                self.feature_layers,
                (self.encoder.width,) * self.injected,
                self.encoder.revision,
            ),
            injection=InjectionConfig(self.start_layer, self.end_layer, mask="reference"),
            prompt=PromptConfig(self.prompt_length, self.prompt_mlp),
            task=task,
            generation=self.generation,
            recipe=self.recipe.to_dict(),
            shared_connector=self.shared_connector,
            description=f"{self.title}, published with the paper",
            metrics={self.result.metric: self.result.value} if self.result else {},
        )

    @property
    def recipe(self) -> Recipe:
        """The original's preprocessing for evaluation."""
        from epalm.media.recipes import RECIPES  # brings PyTorch

        names = {"image": "epalm", "video": f"epalm-video-{self.num_frames}", "audio": "epalm-audio"}
        return RECIPES[self.modality][names[self.modality]]

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(math.prod(shape) for shape in self.key_shapes.values())

    @property
    def megabytes(self) -> int:
        """Size of the checkpoint: float32 weights and AdamW's two moments of each."""
        return round(self.trainable * 12 / 1e6)


def find(name: str) -> Preset:
    """The preset of this name; EPALMError naming the closest one if there is none."""
    if name in ZOO:
        return ZOO[name]
    [closest] = difflib.get_close_matches(name.lower(), ZOO, n=1, cutoff=0.0)
    raise EPALMError(
        f"There is no published model '{name}': did you mean '{closest}'? `python -m epalm models` lists all."
    )


def licence_notice(preset: Preset) -> str:
    """The licences of a model's parts and their consequence, in one or two sentences."""
    parts = (preset.lm, preset.encoder)
    notice = f"{parts[0].title} is under the {parts[0].licence}, {parts[1].title} under {parts[1].licence}."
    if restricted := [part.title for part in parts if not part.commercial]:
        notice += f" Because of {' and '.join(restricted)}, this model is for non-commercial research only."
    return notice


def fetch_checkpoint(preset: Preset, folder: Path, progress: Progress | None = None) -> Path:
    """Fetch the original checkpoint of `preset` from the first source that works; returns its path.

    Interrupted downloads are resumed, and an existing file is used as it is.

    Args:
        folder: for files fetched over plain HTTP; the Hub has its own cache.
    Raises:
        EPALMError: no source works; the message says how to use a local copy.
    """
    path = folder / f"{preset.name}.pth"
    if path.exists():  # it was checked before it got this name
        return path
    local = (
        f"with a copy of the checkpoint, run `python -m epalm convert CHECKPOINT OUT --preset {preset.name}`."
    )
    if not preset.sources:
        raise EPALMError(f"No download source of {preset.name} is known; {local}")
    failures = []
    for source in preset.sources:
        try:
            return source.fetch(path, progress)
        except EPALMError as error:
            failures.append(str(error).removesuffix("."))
    raise EPALMError(f"{preset.name} could not be fetched: {'; '.join(failures)}; {local}")


def table() -> list[dict[str, str]]:
    """One row of text per published adapter, for the command line and the demo."""
    return [
        {
            "name": preset.name,
            "title": preset.title,
            "task": preset.task,
            "modality": preset.modality,
            "language model": preset.lm.id,
            "encoder": preset.encoder.id,
            "trained parameters": f"{preset.trainable / 1e6:.2f} M",
            "download": f"{preset.megabytes} MB",
            "reported": f"{preset.result.metric} {preset.result.value:g}" if preset.result else "",
            "licence": licence_notice(preset),
        }
        for preset in ZOO.values()
    ]


OPT_LICENCE = "OPT-175B licence (non-commercial research)"

OPT_2_7B = Backbone(
    id="facebook/opt-2.7b",
    title="OPT-2.7B",
    width=2560,
    layers=32,
    licence=OPT_LICENCE,
    commercial=False,
    revision="905a4b602cda5c501f1b3a2650a4152680238254",
)
OPT_6_7B = Backbone(
    id="facebook/opt-6.7b",
    title="OPT-6.7B",
    width=4096,
    layers=32,
    licence=OPT_LICENCE,
    commercial=False,
    revision="a45aa65bbeb77c1558bc99bedc6779195462dab0",
)

VIT_B = Backbone(
    id="timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    title="ViT-B/16",
    width=768,
    layers=12,
    licence="Apache-2.0",
    commercial=True,
    revision="2ec9fb3d7bb664aac471ac44582c94d18de33780",
)
VIT_L = Backbone(
    id="timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    title="ViT-L/16",
    width=1024,
    layers=24,
    licence="Apache-2.0",
    commercial=True,
)
TIMESFORMER = Backbone(
    id="facebook/timesformer-base-finetuned-k600",
    title="TimeSformer",
    width=768,
    layers=12,
    licence="CC-BY-NC 4.0",
    commercial=False,
)
AST = Backbone(
    id="MIT/ast-finetuned-audioset-10-10-0.4593",
    title="AST",
    width=768,
    layers=12,
    licence="BSD-3-Clause",
    commercial=True,
    revision="f826b80d28226b62986cc218e5cec390b1096902",
)

ANSWER_TOKEN = "</a>"
CAPTION = ""
QUESTION = "{question}?</a>"  # as in training, a question that ends in "?" gets a second one
COMMIT = "3eb682b3bdd4c30665f58015e4785efbba5a833b"  # of the authors' demo on the Hub


VQA_SHA256 = "ed245e9f9395937cc5297f6415ec89880fdcc13d48cc79f988c829f4632543a8"
GQA_SHA256 = "3d3dbbe0581762284cbcef7c4cf5bf5458bfa01a8393696792eba2e2c07df779"

VIDEO: dict[str, Any] = {"modality": "video", "encoder": TIMESFORMER}
AUDIO: dict[str, Any] = {"modality": "audio", "encoder": AST}
# The paper's eP-ALM pt-L: larger backbones, one shared connector, plain soft prompt, half precision.
LARGE: dict[str, Any] = {"lm": OPT_6_7B, "encoder": VIT_L, "shared_connector": True, "prompt_mlp": False}


def _preset(
    name: str,
    title: str,
    task: Task,
    folder: str,
    share: str,
    sha256: str | None = None,
    lm: Backbone = OPT_2_7B,
    encoder: Backbone = VIT_B,
    modality: Modality = "image",
    **settings: Any,
) -> Preset:
    """A published model: by default the paper's main one for images.

    Args:
        folder: where the authors' demo on the Hub has the checkpoint.
        share: of the authors' file server, named in their README.
    """
    return Preset(
        name=f"{name}-{lm.title.lower()}",
        title=f"{title} ({lm.title})",
        task=task,
        modality=modality,
        lm=lm,
        encoder=encoder,
        template=CAPTION if task == "caption" else QUESTION,
        sources=(
            HubSource("mshukor/eP-ALM", f"checkpoints/{folder}/checkpoint_best.pth", COMMIT, sha256),
            Source(f"https://nuage.isir.upmc.fr/index.php/s/{share}/download"),
        ),
        **settings,
    )


# fmt: off
PRESETS = (
    _preset("vqa", "VQA v2", "qa", "float32/ePALM_vqa", "SMTJqfL62KC88z5", VQA_SHA256),
    _preset("vqa", "VQA v2", "qa", "accelerate/ePALM_pt_L_acc_vqa", "aSrCTKXsKQxAE72", **LARGE),
    _preset("coco-caption", "COCO captioning", "caption", "float32/ePALM_caption", "y9KZr9CEpe42443",
            result=Result("CIDEr", 97)),
    _preset("coco-caption", "COCO captioning", "caption",
            "accelerate/ePALM_pt_L_acc_caption", "PNrytqFbJWJqdt3", **LARGE),
    _preset("gqa", "GQA", "qa", "float32/ePALM_gqa", "8rS84b4EH56CPZq", GQA_SHA256),
    _preset("gqa", "GQA", "qa", "accelerate/ePALM_pt_L_acc_gqa", "9o7gk5gWY5ZNKLM", **LARGE),
    _preset("msrvtt-caption", "MSR-VTT captioning", "caption",
            "float32/ePALM_video_caption_msrvtt", "nCj7mz7NHgeYokP", num_frames=16, **VIDEO),
    _preset("msrvtt-qa", "MSRVTT-QA", "qa",
            "float32/ePALM_video_qa_msrvtt", "RysMQzH9sSf5b7P", num_frames=8, **VIDEO),
    _preset("msvd-qa", "MSVD-QA", "qa",
            "float32/ePALM_video_qa_msvd", "LCdLN3xg35jGCP2", num_frames=8, **VIDEO),
    _preset("audiocaps", "AudioCaps captioning", "caption",
            "float32/ePALM_audio_caption", "ZeeZc9zdFSgFTFC", **AUDIO),
)
# fmt: on

ZOO: dict[str, Preset] = {preset.name: preset for preset in PRESETS}
