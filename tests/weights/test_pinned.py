"""Published files with a known checksum, from a hub and a store of large files on the loopback."""

import hashlib
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import FileServer, Loopback, make_photos, make_run
from huggingface_hub import constants
from safetensors.torch import load_file

import sample
import smile
from smile.errors import UserError
from smile.system import download, verified
from smile.weights import __main__ as weights_command
from smile.weights import hub as hub_files
from smile.weights.export import export_transformers
from smile.weights.known import SMALL, STORAGE
from smile.weights.needed import BERT_VOCAB, missing
from smile.weights.pins import PINS, Pin
from smile.weights.run_folder import load_run

REPO = "Salesforce/blip-image-captioning-base"
NAME = "pytorch_model.bin"
REVISION = PINS[f"{REPO}/{NAME}"].revision
OTHER = "f" * 40  # another revision


class Hub(Loopback):
    """Answers as huggingface.co does: large files are in `store`, on another host.

    `repositories`: name → files. `asked`: repository, revision and file of each request's HEAD.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        super().__init__()
        self.repositories = repositories
        self.asked, self.logins = [], []
        self.store = FileServer()

    def close(self) -> None:
        self.store.close()
        super().close()

    def answer(self, handler) -> None:
        repo, _, rest = handler.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.logins.append(handler.headers.get("Authorization"))
        if handler.command == "HEAD":
            self.asked.append((repo, revision, name))
        content = self.repositories.get(repo, {}).get(name)
        is_large = name.endswith((".bin", ".pth"))
        handler.send_response(404 if content is None else 302 if is_large else 200)
        handler.send_header("X-Repo-Commit", OTHER if revision == "main" else revision)
        if content is None:
            handler.send_header("X-Error-Code", "EntryNotFound")
        elif is_large:
            handler.send_header("X-Linked-Size", str(len(content)))
            handler.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            handler.send_header("Location", f"{self.store.address}/{name}?signed")
        else:
            handler.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        body = content if content is not None and not is_large else b""
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return load_run(make_run(tmp_path_factory.mktemp("captioner") / "run"))


@pytest.fixture(scope="module")
def published(captioner, tmp_path_factory) -> dict[str, bytes]:
    """What the repository of blip-base has on its main branch: no model.safetensors."""
    folder = tmp_path_factory.mktemp("published")
    export_transformers(captioner, folder)
    weights = io.BytesIO()
    torch.save(load_file(folder / "model.safetensors"), weights)
    (folder / "model.safetensors").unlink()
    names = ("config.json", "preprocessor_config.json", "vocab.txt", "tokenizer_config.json")
    files = {name: (folder / name).read_bytes() for name in names}
    return files | {NAME: weights.getvalue(), "special_tokens_map.json": b"{}"}


@pytest.fixture
def cache(tmp_path, empty_caches, monkeypatch) -> Path:
    """The empty caches of a machine with a connection; the hub's."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(download, "wait", lambda seconds: None)
    monkeypatch.setattr(verified, "AT_ONCE", 0)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache, published, monkeypatch):
    """The hub, and in place of the published record that of its files."""
    hub = Hub({REPO: dict(published)})
    hub.store.files = {f"/{NAME}": published[NAME]}
    record = Pin(hashlib.sha256(published[NAME]).hexdigest(), len(published[NAME]), REVISION)
    monkeypatch.setitem(PINS, f"{REPO}/{NAME}", record)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    yield hub
    hub.close()


def snapshot(cache: Path, published: dict[str, bytes], *names: str, links: bool = True) -> Path:
    """A revision in the cache as the hub's client leaves it, with or without symbolic links."""
    repository = cache / f"models--{REPO.replace('/', '--')}"
    folder = repository / "snapshots" / OTHER
    for place in (repository / "blobs", repository / "refs", folder):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text(OTHER)
    for name in names or published:
        if links:
            blob = repository / "blobs" / hashlib.sha256(published[name]).hexdigest()
            blob.write_bytes(published[name])
            (folder / name).symlink_to(os.path.relpath(blob, folder))
        else:
            (folder / name).write_bytes(published[name])
    return folder


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- first words -----------------------------------------------------------------------------


def test_first_words_on_a_machine_without_a_run(hub, small, tmp_path, monkeypatch, run_script):
    """Cut, then resumed, then offline; and nothing is asked for that the hub does not have."""
    monkeypatch.chdir(tmp_path)
    [photo] = make_photos(tmp_path / "photos", 1)
    hub.store.cuts = [1000] * download.TRIES
    code, _, problem = run_script(sample.main, photo, "--json")
    assert code == 2
    assert "kept for the next try: try again" in problem and f"or --model {SMALL}" in problem
    hub.store.requests.clear()
    code, words, messages = run_script(sample.main, photo)
    assert (code, len(words.splitlines())) == (0, 1)
    assert hub.store.requests == [f"bytes={1000 * download.TRIES}-"]
    [line] = [line for line in messages.splitlines() if NAME in line]
    assert line.startswith(
        f"downloading {hub.address}/{REPO}/resolve/{REVISION}/{NAME} (0.1 MB) to"
    )
    assert {(repo, revision) for repo, revision, _ in hub.asked} == {(REPO, REVISION)}
    assert not any("safetensors" in name for _, _, name in hub.asked)
    hub.close()
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    assert run_script(sample.main, photo)[:2] == (0, words)


def test_an_offline_machine_is_told_all_that_is_missing(
    hub, small, tmp_path, monkeypatch, run_script
):
    """And gets a caption of the captioner that comes along."""
    monkeypatch.chdir(tmp_path)
    [photo] = make_photos(tmp_path / "photos", 1)
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    code, words, messages = run_script(sample.main, photo)
    assert code == 0
    names = f"config.json preprocessor_config.json vocab.txt {NAME}"
    [line] = [line for line in messages.splitlines() if "missing" in line]
    assert line == (
        "sample.py: blip-base: downloads are off (SMILE_OFFLINE is set): fetch what is missing "
        "where there is a connection, and copy it here; missing: "
        f"{names.replace(' ', ', ')} of {REPO} (0.1 MB) from {hub.address}/{REPO} to the folder "
        f"models--Salesforce--blip-image-captioning-base of {constants.HF_HUB_CACHE}; to put them "
        f"there: hf download {REPO} {names} --revision {REVISION}"
    )
    assert hub.asked == []
    hub.close()
    monkeypatch.delenv("SMILE_OFFLINE")
    assert run_script(sample.main, photo)[:2] == (0, words)
    code, _, messages = run_script(sample.main, photo, "--model", "blip-base")
    assert code == 2
    assert f"{hub.address} cannot be reached" in messages
    assert f"hf download {REPO} {names} --revision" in messages


@pytest.mark.parametrize("problem", ["cut", "refused", "gone", "a page", "no room"])
def test_a_caption_comes_whatever_stops_the_download(
    hub, small, tmp_path, monkeypatch, run_script, problem
):
    monkeypatch.chdir(tmp_path)
    [photo] = make_photos(tmp_path / "photos", 1)
    match problem:
        case "cut":
            hub.store.cuts = [1000] * download.TRIES
        case "refused":
            hub.store.status = 403
        case "gone":
            hub.repositories = {}
        case "a page":
            hub.store.kind = "text/html"
        case "no room":
            usage = download.shutil.disk_usage(tmp_path)
            monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    code, words, messages = run_script(sample.main, photo)
    assert code == 0 and words.startswith(f"{photo}: ") and f"by {SMALL}" in messages
    assert run_script(sample.main, photo, "--model", SMALL) == (0, words, "")
    hub.close()


# --- wrong bytes -----------------------------------------------------------------------------


def test_wrong_bytes_are_refused(hub, published, cache):
    content = published[NAME]
    hub.store.files[f"/{NAME}"] = content[:-1] + b"?"
    with pytest.raises(UserError, match=r"has the sha256 .*, expected") as caught:
        smile.load("blip-base")
    assert PINS[f"{REPO}/{NAME}"].sha256 in one_line(caught)
    assert not list(cache.rglob("*.part*"))
    hub.repositories[REPO][NAME] = b"changed" * 1000  # the hub says so itself
    hub.store.requests.clear()
    with pytest.raises(UserError, match="the file there has changed"):
        smile.load("blip-base")
    assert hub.store.requests == []
    hub.repositories[REPO][NAME] = hub.store.files[f"/{NAME}"] = content
    smile.load("blip-base")


@pytest.mark.parametrize("links", [True, False])
def test_a_cached_file_that_differs_is_refused(hub, published, cache, links):
    wrong = published | {NAME: published[NAME][:-1] + b"?"}
    folder = snapshot(cache, wrong, links=links)
    for _ in range(2):
        with pytest.raises(UserError, match=r"delete it to download .* again") as caught:
            smile.load("blip-base")
        found, expected = (hashlib.sha256(one[NAME]).hexdigest() for one in (wrong, published))
        blob = os.path.realpath(folder / NAME)
        size = len(published[NAME])
        assert one_line(caught).startswith(
            f"{blob} is {size} bytes with the SHA-256 {found}, "
            f"expected {size} bytes with the SHA-256 {expected}"
        )
    assert hub.asked == []
    smile.load(folder)
    Path(blob).unlink()
    smile.load("blip-base")


# --- what is there already -------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_another_revision_s_folder_is_taken_as_it_is(hub, published, cache, links, monkeypatch):
    snapshot(cache, published, links=links)
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    assert missing("blip-base", own_vocab=True) == []
    smile.load("blip-base")
    monkeypatch.setattr(verified, "digest", None)  # what was hashed once is not hashed again
    smile.load("blip-base")
    assert hub.asked == []


def test_another_revision_s_weights_are_not_downloaded_again(hub, published, cache):
    snapshot(cache, published, NAME)
    [lacking] = missing("blip-base", own_vocab=True)
    assert lacking.what.startswith("config.json, preprocessor_config.json, vocab.txt of")
    smile.load("blip-base")
    hub.asked.clear()
    smile.load("blip-base")
    assert hub.asked == hub.store.requests == []
    assert missing("blip-base", own_vocab=True) == []


def test_a_changed_file_is_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SMILE_CACHE", str(tmp_path / "smile"))
    monkeypatch.setattr(verified, "AT_ONCE", 0)
    path = tmp_path / "file"
    path.write_bytes(b"right")
    checksum = "sha256:" + hashlib.sha256(b"right").hexdigest()
    assert verified.has_checksum(path, checksum)
    path.write_bytes(b"wrong")
    os.utime(path, ns=(1, 1))
    assert not verified.has_checksum(path, checksum)


def test_weights_of_another_form_are_used_if_they_are_cached(hub, captioner, published, cache):
    """As transformers' own conversion leaves them; no record says what they should be."""
    folder = snapshot(cache, published, *(set(published) - {NAME}))
    export_transformers(captioner, folder.parent / "new")
    shutil.copy(folder.parent / "new" / "model.safetensors", folder)
    shutil.rmtree(folder.parent / "new")
    assert missing("blip-base", own_vocab=True) == []
    smile.load("blip-base")
    assert hub.asked == []


def test_a_token_goes_to_the_hub_alone(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    smile.load("blip-base")
    assert set(hub.logins) == {"Bearer hf_secret"}
    assert hub.store.logins == [None]


# --- the vocabulary comes with the model -----------------------------------------------------

BERT_FILE = "".join(f"word{n}\n" for n in range(30522)).encode()


@pytest.fixture
def bert(hub, monkeypatch):
    """The hub, with a vocabulary of bert-base-uncased's size."""
    repo, name = BERT_VOCAB
    record = PINS[f"{repo}/{name}"]
    record = replace(record, sha256=hashlib.sha256(BERT_FILE).hexdigest(), size=len(BERT_FILE))
    monkeypatch.setitem(PINS, f"{repo}/{name}", record)
    hub.repositories[repo] = {name: BERT_FILE}
    return hub


def blip_file(path: Path, rows: int) -> Path:
    """A file by BLIP's names, as far as `missing` reads it."""
    table = torch.zeros(rows, 2)
    torch.save({"model": {"text_decoder.bert.embeddings.word_embeddings.weight": table}}, path)
    return path


def test_the_vocabulary_is_bert_s_where_a_source_has_none(bert, tmp_path, monkeypatch):
    alone = blip_file(tmp_path / "alone.pth", 30524)
    other = blip_file(tmp_path / "other.pth", 20)
    (tmp_path / "beside").mkdir()
    beside = blip_file(tmp_path / "beside" / "model.pth", 30524)
    (beside.parent / "vocab.txt").write_bytes(b"[PAD]\n")
    run = make_run(tmp_path / "run")
    export_transformers(load_run(run), tmp_path / "folder")

    def lacks(source: object, **options: bool) -> list[str]:
        found = missing(str(source), **{"own_vocab": True} | options)
        return [piece.command.removeprefix("hf download ") for piece in found]

    repo, name = BERT_VOCAB
    vocabulary = f"{repo} {name} --revision {PINS[f'{repo}/{name}'].revision}"
    assert lacks(alone) == [vocabulary]
    for path in (beside, other, run, tmp_path / "folder"):
        assert lacks(path) == []
    assert lacks(alone, own_vocab=False) == []
    url = STORAGE + "model_base_caption_capfilt_large.pth"
    weights = f"curl -fL -C - --create-dirs -o {download.place_of(url)} {url}"
    assert lacks("blip-base-coco") == [vocabulary, weights]
    assert lacks("blip-base-coco", own_vocab=False) == [weights]
    space = "yuezih/BLIP-SMILE model/blip_smile_base.pth --repo-type space"
    assert lacks("blip-smile") == [vocabulary, space]
    assert lacks("someone/model") == ["someone/model"]
    with pytest.raises(UserError, match=r"blip-bse: no such.*mean blip-base\?"):
        missing("blip-bse", own_vocab=True)
    assert bert.asked == []
    path = hub_files.hub_file(*BERT_VOCAB)
    assert path.read_bytes() == BERT_FILE
    assert lacks(alone) == []
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    assert hub_files.hub_file(*BERT_VOCAB) == path
    with pytest.raises(
        UserError, match=r"downloads are off .*; missing: the weights model_base_cap"
    ):
        smile.load("blip-base-coco")


def test_the_vocabulary_is_fetched_before_the_weights(bert, monkeypatch):
    bert.repositories[BERT_VOCAB[0]] = {}
    bert.repositories["spaces/yuezih/BLIP-SMILE"] = {"model/blip_smile_base.pth": b"weights"}
    with pytest.raises(UserError, match=r"bert-base-uncased has no file 'vocab\.txt'"):
        smile.load("blip-smile")
    assert [repo for repo, _, _ in bert.asked] == [BERT_VOCAB[0]]


# --- inspect ---------------------------------------------------------------------------------


def test_inspect_says_whether_the_weights_are_verified(
    hub, published, cache, run_script, monkeypatch
):
    folder = snapshot(cache, published)
    digest = hashlib.sha256(published[NAME]).hexdigest()
    _, lines, _ = run_script(weights_command.main, "inspect", "blip-base")
    assert f"{NAME}: SHA-256 {digest}, verified, published as {REPO}/{NAME}" in lines
    blob = Path(os.path.realpath(folder / NAME))
    blob.write_bytes(published[NAME][:-1] + b"?")  # damage that a look at the name does not show
    code, _, problem = run_script(weights_command.main, "inspect", "blip-base")
    assert code == 2
    assert f"{blob} has the SHA-256" in problem
    blob.write_bytes(published[NAME])
    monkeypatch.delitem(PINS, f"{REPO}/{NAME}")
    _, lines, _ = run_script(weights_command.main, "inspect", folder)
    assert f"{NAME}: SHA-256 {digest}, unverified: no published checksum" in lines
