"""The checksums of published files, as far as they are known: another file is refused."""

from dataclasses import dataclass

from smile.weights.known import STORAGE


@dataclass(frozen=True)
class Pin:
    """What is known of a published file; `size` in bytes.

    revision: the commit of the hub's repository that has the file; None: its main branch.
    """

    sha256: str | None = None
    size: int | None = None
    revision: str | None = None

    @property
    def checksum(self) -> str | None:
        """The form that `fetch` takes."""
        return self.sha256 and f"sha256:{self.sha256}"


# By URL, or by repository and file of the hub.
PINS = {
    STORAGE + "model_base_caption_capfilt_large.pth": Pin(
        sha256="96ac8749bd0a568c274ebe302b3a3748ab9be614c737f3d8c529697139174086",
        size=896_081_425,
    ),
    STORAGE + "model_base_capfilt_large.pth": Pin(
        sha256="8f5187458d4d47bb87876faf3038d5947eff17475edf52cf47b62e84da0b235f"
    ),
    STORAGE + "model_large_caption.pth": Pin(size=1_785_411_505),
    "Salesforce/blip-image-captioning-base/pytorch_model.bin": Pin(
        sha256="d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767",
        size=989_820_849,
        revision="82a37760796d32b1411fe092ab5d4e227313294b",
    ),
    "Salesforce/blip-image-captioning-large/pytorch_model.bin": Pin(
        sha256="66c8aec8d91b5e74b86bde343ed95fb53e9ccf9ffc77c5093890df662d234e04"
    ),
    "google-bert/bert-base-uncased/vocab.txt": Pin(
        sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        size=231_508,
        revision="86b5e0934494bd15c9632b12f734a8a67f723594",
    ),
    "openai/clip-vit-base-patch32/pytorch_model.bin": Pin(
        sha256="a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
        size=605_247_071,
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    ),
}


def pin_of(repo: str, name: str) -> Pin:
    """What is known of a file of a model on the hub."""
    return PINS.get(f"{repo}/{name}", Pin())


def pinned_weights(repo: str) -> str | None:
    """The file of weights of a model on the hub whose checksum is known."""
    for address, pin in PINS.items():
        folder, _, name = address.rpartition("/")
        if folder == repo and pin.sha256 is not None and not name.endswith(".txt"):
            return name
    return None


def published_as(sha256: str) -> str | None:
    """The address of the published file with this checksum, None if none is known."""
    return next((address for address, pin in PINS.items() if pin.sha256 == sha256), None)
