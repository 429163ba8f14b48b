"""Published numbers to compare with, measured on other images, pools and captions.

The SMILE paper (arXiv 2306.13460) on COCO, and the SMILE_Flickr8k project on Flickr8k. F.S. is
trained from scratch, PT pre-trained BLIP, FT fine-tuned. The paper does not define "lexical
diversity", so we have no value in that row.
"""

from dataclasses import dataclass

__all__ = ["AGREEMENT", "AGREEMENT_NOTE", "NOTE", "PUBLISHED", "PUBLISHED_ROWS", "Published"]

NOTE = (
    "Published on COCO (SMILE, arXiv 2306.13460) and Flickr8k (SMILE_Flickr8k): other images and "
    "pools, so a yardstick, not a test. Lexical diversity is not defined there."
)

# The rows of the table, by the key of our metric; "" if we have no metric that is the same.
PUBLISHED_ROWS = (
    ("length", "caption length"),
    ("", "lexical diversity"),
    ("clip_r1", "R@1 (CLIP)"),
    ("clip_r5", "R@5 (CLIP)"),
    ("clip_score", "CLIPScore"),
    ("ppl", "PPL"),
)


@dataclass(frozen=True)
class Published:
    """One published system: its name and its numbers in the order of PUBLISHED_ROWS."""

    data: str
    name: str
    values: tuple[float, float, float, float, float, float]


PUBLISHED = (
    Published("COCO", "F.S. MLE", (9.6, 0.6, 1.9, 6.3, 73.9, 56.2)),
    Published("COCO", "F.S. SMILE", (15.4, 0.7, 0.7, 2.5, 63.7, 86.7)),
    Published("COCO", "PT", (5.8, 1.0, 2.7, 8.6, 74.6, 573.4)),
    Published("COCO", "PT SMILE", (22.5, 4.9, 8.5, 20.1, 73.5, 113.7)),
    Published("COCO", "PT+FT", (10.0, 1.4, 6.7, 16.6, 77.2, 95.8)),
    Published("COCO", "PT+FT MLE", (10.0, 1.4, 6.5, 16.6, 77.2, 67.6)),
    Published("COCO", "PT+FT SMILE", (22.3, 4.5, 10.0, 24.5, 75.0, 95.6)),
    Published("COCO", "PT+FT 1:99", (19.8, 3.6, 10.9, 25.1, 76.2, 79.4)),  # 0.01 MLE, 0.99 SMILE
    Published("Flickr8k", "base", (11.24, 0.06, 10.18, 28.75, 30.27, 24792.0)),
    Published("Flickr8k", "SMILE", (23.33, 4.33, 12.62, 29.52, 73.23, 110.34)),
)

# Kendall's τ-c x 100 with the experts' ratings of Flickr8k, by the key of our metric.
AGREEMENT = {"clip_score": 51.2, "ref_clip_score": 53.0}
AGREEMENT_NOTE = "Published in CLIPScore's paper (arXiv 2104.08718), with CLIP ViT-B/32."
