"""Captioners from the hub, whichever files a repository has; the hub is a server of this file's."""

from pathlib import Path

import pytest
from helpers import Loopback, as_transformers_5, make_run

import smile
from smile.errors import UserError
from smile.weights import load as loading
from smile.weights.export import export_transformers
from smile.weights.run_folder import load_run

OPTIONAL = {
    "processor_config.json", "preprocessor_config.json", "generation_config.json",
    "tokenizer_config.json", "vocab.txt", "added_tokens.json", "tokenizer.json",
}  # fmt: skip
VOCABULARIES = {"tokenizer_config.json", "vocab.txt", "added_tokens.json", "tokenizer.json"}


class Hub(Loopback):
    """Serves a folder as the repository OWNER/NAME, whatever these are; `asked` are file names."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.asked: list[str] = []

    def answer(self, handler) -> None:
        name = handler.path.rpartition("/")[2]
        if handler.command == "HEAD":
            self.asked.append(name)
        path = self.folder / name
        handler.send_response(200 if path.is_file() else 404)
        content = path.read_bytes() if path.is_file() else b""
        if path.is_file():
            handler.send_header("ETag", f'"{name}"')
        else:
            handler.send_header("X-Error-Code", "EntryNotFound")
        handler.send_header("X-Repo-Commit", "0123456789" * 4)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)


@pytest.fixture
def captioner(tmp_path):
    return load_run(make_run(tmp_path / "run"))


@pytest.fixture
def hub(captioner, tmp_path, empty_caches, monkeypatch):
    """A hub with the captioner as `export` writes it."""
    from huggingface_hub import constants

    export_transformers(captioner, tmp_path / "repository")
    hub = Hub(tmp_path / "repository")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub
    hub.close()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["4", "5"])
def test_either_form_is_asked_for_once(hub, captioner, form, monkeypatch):
    if form == "5":
        as_transformers_5(hub.folder)
    loaded = smile.load("someone/blip-captioner-v1.5")
    assert loaded.tokenizer.vocab == captioner.tokenizer.vocab
    assert loaded.config.generate == captioner.config.generate
    assert set(hub.asked) >= OPTIONAL | {"config.json", "model.safetensors"}
    hub.asked.clear()
    assert smile.load("someone/blip-captioner-v1.5").tokenizer.vocab == loaded.tokenizer.vocab
    assert hub.asked == []  # nor for what the repository does not have
    hub.close()
    smile.load("someone/blip-captioner-v1.5")


def test_with_a_vocabulary_of_ones_own_none_is_fetched(hub, captioner, tmp_path):
    vocab = tmp_path / "vocab.txt"
    captioner.tokenizer.save(vocab)
    for name in VOCABULARIES:
        (hub.folder / name).unlink(missing_ok=True)
    loaded = smile.load("someone/my.blip", vocab=vocab)
    assert loaded.tokenizer.vocab == captioner.tokenizer.vocab
    assert not VOCABULARIES & set(hub.asked)


def test_without_any_vocabulary_the_option_is_named(hub):
    for name in VOCABULARIES:
        (hub.folder / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"its 20 tokens are not BERT's .*vocab=… \(--vocab\)"):
        smile.load("someone/my-blip")
    assert hub.asked.count("vocab.txt") == 1  # BERT's is not fetched, as it cannot fit


def test_bert_s_vocabulary_that_cannot_be_had_leads_to_the_option(tmp_path, monkeypatch):
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(loading, "BERT_VOCAB", ("nobody/nothing", "vocab.txt"))
    with pytest.raises(UserError, match=r"m\.pth has no vocab\.txt .*--vocab.*downloads are off"):
        loading._find_pieces(tmp_path / "m.pth", None, num_rows=30524)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip-captioner-v1.5", "v2.bins", "a.b-c_d"])
def test_a_local_folder_of_the_owners_name_settles_nothing(hub, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("someone").mkdir()
    smile.load(f"someone/{name}")
    (hub.folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no such file or folder; on the hub: .*config\.json"):
        smile.load(f"someone/other-{name}")


def test_a_slip_in_a_path_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/shapes"))
    with pytest.raises(UserError, match=r"no such file.*did you mean runs/shapes\?"):
        smile.load("runs/shapse")
    with pytest.raises(UserError, match="no such file or folder"):
        smile.load("someone/weights.pth")
    assert hub.asked == []
