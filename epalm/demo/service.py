"""What the page's handlers share: the models, who waits for them, and what is allowed."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from epalm.demo.flow import Flow
from epalm.demo.limits import Limits, RateLimit, sendable
from epalm.demo.metrics import Metrics
from epalm.demo.models import Models
from epalm.demo.problems import Refusal
from epalm.demo.uploads import Uploads
from epalm.media.reader import HERE, Reader
from epalm.model import EPALM

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
WAITING = 100  # requests on their way
KEPT = 3600.0  # seconds that uploaded files stay on the disk


@dataclass
class Service:
    """One running demo.

    Fields:
        rate: how often one client may ask.
        behind_proxy: whether a proxy in front says who the client is.
        reader: opens what visitors send; one in another process survives files that crash it.
    """

    models: Models
    limits: Limits = field(default_factory=Limits)
    flow: Flow = field(default_factory=lambda: Flow(WAITING))
    rate: RateLimit = field(default_factory=lambda: RateLimit(0))
    kept: float = KEPT
    behind_proxy: bool = False
    reader: Reader = HERE

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.flow.running, lambda: self.models.loaded)
        self.uploads = Uploads(Path(get_upload_folder()), self.kept, self.metrics.purged.inc)
        self.salt = secrets.token_bytes(16)

    @classmethod
    def of(cls, model: EPALM, licence: str = "") -> Service:
        """A demo of one model that is in memory already."""
        return cls(Models.of(model, licence))

    def file(self, upload: object, missing: str) -> Path:
        """Where an uploaded file lies.

        Args:
            upload: what the page or an API client sent: {"path": …}.
            missing: the sentence for those who sent none.
        Raises:
            Refusal: there is none, or it is no upload and no example.
        """
        path = upload.get("path") if isinstance(upload, dict) else None
        if not isinstance(path, str) or not path or "\0" in path or not sendable(path):
            raise Refusal("no-file", missing)
        resolved = Path(path).resolve()
        if not (resolved.is_relative_to(self.uploads.folder) or resolved.is_relative_to(EXAMPLES)):
            raise Refusal("no-file", "Only files that were uploaded here are read: upload it first.")
        if not os.path.isfile(resolved):  # Path.is_file raises an error if the name is too long
            raise Refusal(
                "no-file", f"{resolved.name} is no longer here, as uploads are deleted: give it once more."
            )
        return Path(path)

    def client(self, request: gr.Request | None) -> str:
        """Who asks, as an address that is forgotten when the server ends: only its salted hash is kept."""
        address = "" if request is None or request.client is None else request.client.host
        if request is not None and self.behind_proxy:
            address = request.headers.get("x-forwarded-for", address).split(",")[-1].strip()
        return hashlib.blake2b(address.encode(), key=self.salt, digest_size=6).hexdigest()
