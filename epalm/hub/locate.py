"""Find a model's adapters: shipped, a published checkpoint, a local folder, or a hub repository."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from epalm.adapter import CONFIG, WEIGHTS
from epalm.config import AdapterConfig
from epalm.errors import EPALMError, reason
from epalm.hub.checkpoints import convert
from epalm.hub.wheels import cache_root
from epalm.hub.zoo import ZOO, fetch_checkpoint

INSTALLED = Path(__file__).parents[1] / "assets" / "starter"  # in an installed wheel
STARTER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "assets" / "starter"


def locate(name: str, revision: str | None, token: str | bool | None, say: Callable[[str], None]) -> Path:
    """The local folder of a model's adapters, downloaded and converted if needed."""
    if name == "starter":
        return STARTER
    if name in ZOO:
        return published(name, say)
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or name.count("/") != 1:
        near = difflib.get_close_matches(name.lower(), ["starter", *ZOO], n=1)
        hint = f"did you mean '{near[0]}'? There are" if near else "give"
        raise EPALMError(
            f"'{name}' is not a model: {hint} 'starter', published models (see `python -m epalm models`), "
            "adapter folders, and hub ids such as 'user/adapter'."
        )
    try:
        patterns = [CONFIG, WEIGHTS, f"*/{CONFIG}", f"*/{WEIGHTS}"]
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
    except (OSError, ValueError, HTTPError, HfHubHTTPError, HFValidationError) as error:
        raise EPALMError(
            f"{name} is not a local folder and could not be fetched from the hub; "
            f"check the name and the network ({reason(error)})."
        ) from error


def published(name: str, say: Callable[[str], None]) -> Path:
    """The adapter folder of a published model, made on first use by one process while others wait."""
    folder, preset = cache_root() / "adapters" / name, ZOO[name]
    if (folder / CONFIG).exists():  # it is written last
        return folder
    shown = -1

    def percent(done: int, total: int | None) -> None:
        nonlocal shown
        part = 10 * done // total if total else shown
        if part > shown:
            shown = part
            say(f"  {10 * part} % of {total // 1_000_000 if total else '?'} MB")

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / CONFIG).exists():
                say(f"Downloading the published checkpoint of {preset.title} ({preset.megabytes} MB) …")
                checkpoint = fetch_checkpoint(preset, cache_root() / "downloads", percent)
                convert(checkpoint, folder, name)
    except OSError as error:  # no permission, no space
        raise EPALMError(
            f"The cache folder {folder.parent} cannot be written ({error.strerror or error}): "
            "set EPALM_CACHE to a folder that can."
        ) from error
    return folder


def adapter_folders(folder: Path) -> dict[str, Path]:
    """Name -> folder of every adapter in a model folder.

    A folder holds one adapter, or several in subfolders that its `config.json` lists as "adapters".
    """
    try:
        listed = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("adapters")
    except (OSError, ValueError, AttributeError):
        listed = None  # loading it as a single adapter's config reports the error
    if listed is None:
        task = AdapterConfig.load(folder / CONFIG).task
        return {f"{task.modality}-{task.name}": folder}
    names = listed if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and name and "." not in name for name in names):
        raise EPALMError(
            f"{folder / CONFIG} must list its adapters as subfolders without dots, but lists {listed!r}."
        )
    return {name: folder / name for name in names}
