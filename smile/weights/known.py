"""The captioners that have a name here: published checkpoints, and the one in this package."""

from dataclasses import dataclass
from pathlib import Path

STORAGE = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"


@dataclass(frozen=True)
class Known:
    """A captioner: what it is, and where to download it, or its folder in `MODELS`."""

    meaning: str
    hub: str = ""  # a repository in `transformers` format
    space: str = ""  # a file of a hub space, "owner/name:path"
    url: str = ""
    folder: str = ""

    @property
    def address(self) -> str:
        if self.hub:
            return f"https://huggingface.co/{self.hub}"
        if self.space:
            name, _, path = self.space.partition(":")
            return f"https://huggingface.co/spaces/{name}/resolve/main/{path}"
        return self.url


MODELS = Path(__file__).parent.parent / "models"
SMALL = "flickr8k-small"
KNOWN = {
    SMALL: Known(
        "7.5 M parameters, Flickr8k only, is included; for research and education", folder=SMALL
    ),
    "blip-base": Known("BLIP base, captioning", hub="Salesforce/blip-image-captioning-base"),
    "blip-large": Known("BLIP large, captioning", hub="Salesforce/blip-image-captioning-large"),
    "blip-base-pretrained": Known("BLIP base, pre-trained, 224 px", url=STORAGE + "model_base.pth"),
    "blip-large-pretrained": Known(
        "BLIP large, pre-trained, 224 px", url=STORAGE + "model_large.pth"
    ),
    "blip-base-capfilt": Known(
        "BLIP base, pre-trained with CapFilt-L, 224 px",
        url=STORAGE + "model_base_capfilt_large.pth",
    ),
    "blip-base-coco": Known(
        "BLIP base, fine-tuned on COCO captions, 384 px",
        url=STORAGE + "model_base_caption_capfilt_large.pth",
    ),
    "blip-large-coco": Known(
        "BLIP large, fine-tuned on COCO captions, 384 px", url=STORAGE + "model_large_caption.pth"
    ),
    "blip-smile": Known(
        "BLIP base, SMILE on COCO, 384 px", space="yuezih/BLIP-SMILE:model/blip_smile_base.pth"
    ),
    "blip-mle-smile": Known(
        "BLIP base, 0.01 MLE + 0.99 SMILE on COCO, 384 px",
        space="yuezih/BLIP-SMILE:model/blip_mle_smile_base.pth",
    ),
}
