"""Files of the hub; the hub is a server that this file starts on the loopback."""

import json
import os
from pathlib import Path

import pytest
from helpers import Loopback
from zygote import zygote

CONTENT = bytes(range(256)) * 400  # 102 400 bytes
HUB_FILES = (
    "/owner/model/resolve/main/config.json",
    "/spaces/owner/space/resolve/main/model/a.pth",
)
HUB_ERRORS = {
    "/owner/model/resolve/main/absent.bin": "EntryNotFound",
    "/owner/gated/resolve/main/a.bin": "GatedRepo",
    "/owner/nothing/resolve/main/a.bin": "RepoNotFound",
    "/owner/model/resolve/other/config.json": "RevisionNotFound",
}


class FakeHub(Loopback):
    """Answers as huggingface.co does for `resolve` addresses of one model and one space."""

    def answer(self, handler) -> None:
        self.requests.append((handler.command, handler.path))
        found = handler.path in HUB_FILES
        error = HUB_ERRORS.get(handler.path, "EntryNotFound")
        handler.send_response(200 if found else 403 if error == "GatedRepo" else 404)
        if found:
            handler.send_header("ETag", '"abc"')
        else:
            handler.send_header("X-Error-Code", error)
        handler.send_header("X-Repo-Commit", "0123456789" * 4)
        handler.send_header("Content-Length", str(len(CONTENT) if found else 0))
        handler.end_headers()
        if found and handler.command == "GET":
            handler.wfile.write(CONTENT)


@pytest.fixture(scope="module")
def hub():
    hub = FakeHub()
    yield hub
    hub.close()


PROGRAM = """
import json, sys
from smile.weights.hub import hub_file
from smile.errors import UserError
for arguments in json.loads(sys.argv[1]):
    try:
        print(hub_file(**arguments))
    except UserError as error:
        print("UserError", error)
"""


def ask(hub_address: str, tmp_path: Path, *arguments: dict, **environment: str) -> tuple[list, str]:
    """Calls `hub_file` in a process, as the hub's address is read at import; (answers, stderr)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": hub_address,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    words = ["-c", PROGRAM, json.dumps(arguments)]
    result = zygote().run(words, env=clean | settings | environment)
    result.check_returncode()
    return result.stdout.splitlines(), result.stderr


MODEL = {"repo_id": "owner/model", "filename": "config.json"}
SPACE = {"repo_id": "owner/space", "filename": "model/a.pth", "repo_type": "space"}


@pytest.mark.slow
def test_hub_files_are_downloaded_once(hub, tmp_path):
    answers, messages = ask(hub.address, tmp_path, MODEL, SPACE)
    assert [Path(answer).read_bytes() for answer in answers] == [CONTENT, CONTENT]
    assert all(Path(answer).is_relative_to(tmp_path / "hf") for answer in answers)
    lines = [line for line in messages.splitlines() if line.startswith("downloading")]
    place = f"(0.1 MB, unverified: no checksum of it is known) to {tmp_path / 'hf' / 'hub'}"
    assert lines == [f"downloading {hub.address}{path} {place}" for path in HUB_FILES]
    hub.requests.clear()
    again, messages = ask(hub.address, tmp_path, MODEL, SPACE)
    offline, _ = ask(hub.address, tmp_path, MODEL, SPACE, HF_HUB_OFFLINE="1")
    assert again == offline == answers
    assert hub.requests == []
    assert "downloading" not in messages


@pytest.mark.slow
def test_hub_errors_are_one_clear_line(hub, tmp_path):
    answers, _ = ask(
        hub.address,
        tmp_path,
        {**MODEL, "filename": "absent.bin"},
        {"repo_id": "owner/gated", "filename": "a.bin"},
        {"repo_id": "owner/nothing", "filename": "a.bin"},
        {**MODEL, "revision": "other"},
        {"repo_id": "a/b/c", "filename": "a.bin"},
    )
    expected = (
        f"UserError {hub.address}/owner/model has no file 'absent.bin': see ",
        f"UserError {hub.address}/owner/gated is gated: accept its conditions there",
        f"UserError {hub.address}/owner/nothing does not exist or is private",
        f"UserError {hub.address}/owner/model has no revision 'other'",
        "UserError 'a/b/c' is no repository of the Hugging Face hub",
    )
    assert len(answers) == len(expected)
    for answer, start in zip(answers, expected, strict=True):
        assert answer.startswith(start)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "SMILE_OFFLINE"])
def test_the_hub_offline_names_address_command_and_place(hub, tmp_path, name):
    hub.requests.clear()
    (answer,), _ = ask(hub.address, tmp_path, SPACE, **{name: "1"})
    assert answer.startswith(f"UserError {hub.address}{HUB_FILES[1]} is needed")
    assert f"downloads are off ({name} is set)" in answer
    assert "`hf download owner/space model/a.pth --repo-type space`" in answer
    assert f"copy its cache folder spaces--owner--space into {tmp_path / 'hf' / 'hub'}" in answer
    assert hub.requests == []


@pytest.mark.slow
def test_an_unreachable_hub_fails_at_once(tmp_path):
    closed = FakeHub()
    closed.close()
    (answer,), _ = ask(closed.address, tmp_path, MODEL)
    assert answer.startswith(
        f"UserError {closed.address}/owner/model/resolve/main/config.json cannot"
    )
    assert "or download the address and give the file's path instead" in answer
