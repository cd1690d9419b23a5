"""Files that grow line by line: what a kill cut off is left out, and a long file is quickly gone on with."""

import tracemalloc

import pytest

from epalm.errors import EPALMError
from epalm.files import BLOCK, JsonLines, read_json_lines


@pytest.mark.parametrize("before", [0, 1, 3, BLOCK - 5, BLOCK - 4, BLOCK - 3, BLOCK, 2 * BLOCK + 7])
@pytest.mark.parametrize("torn", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_a_torn_last_line_is_cut_off_however_long_it_is(tmp_path, before, torn):
    path = tmp_path / "log.jsonl"
    whole = b'"' + b"x" * before + b'"\n' if before else b""
    path.write_bytes(whole + b"7" * torn)
    with JsonLines(path) as log:
        log.add("new")
    assert path.read_bytes() == whole + b'"new"\n'


def test_a_file_that_is_not_there_is_begun(tmp_path):
    with JsonLines(tmp_path / "new" / "log.jsonl") as log:
        log.add({"step": 1})
    assert read_json_lines(tmp_path / "new" / "log.jsonl") == [{"step": 1}]


def test_a_full_disk_is_one_sentence(tmp_path):
    with JsonLines(tmp_path / "log.jsonl") as log:
        log.file.close()
        log.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(EPALMError, match=r"log.jsonl cannot be written \(No space left on device\)\.$"):
            log.add({"step": 1})


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EPALMError, match="log.jsonl cannot be written"):
        JsonLines(tmp_path / "file" / "log.jsonl")


def test_a_long_file_is_not_read_to_go_on_with_it(tmp_path):
    """A training opens its log at every step."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' * 500_000)
    tracemalloc.start()
    try:
        JsonLines(path).close()
        assert tracemalloc.get_traced_memory()[1] < 10 * BLOCK
    finally:
        tracemalloc.stop()
