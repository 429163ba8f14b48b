"""Text metrics against pycocoevalcap: tokenising, BLEU, ROUGE-L and CIDEr of one caption per image.

    pip install pycocoevalcap    # and Java
    python tests/benchmarks/bench_text_metrics.py [--images 5000]

Captions are made up on the spot: words drawn by frequency like English's, references that share
some of them. Both sides score the same captions in one process and must agree to 1e-6.
"""

import argparse
import random
import time

import numpy as np
import project  # noqa: F401

from smile.metrics.text.bleu import bleu
from smile.metrics.text.cider import cider_d
from smile.metrics.text.ngrams import Candidates, References
from smile.metrics.text.ptb import tokenize_all
from smile.metrics.text.rouge import rouge_l


def make_captions(num_images: int, per_image: int, seed: int = 0) -> list[list[str]]:
    """Per image `per_image` captions of 6 to 16 words, half of them shared, with punctuation."""
    rng = random.Random(seed)
    # No one-letter words: after "c." pycocoevalcap's tokens depend on the next caption.
    words = ["".join(rng.choices("abcdeghilmnoprstuvwy", k=rng.randint(2, 9))) for _ in range(9000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    captions = []
    for _ in range(num_images):
        topic = rng.choices(words, weights, k=12)
        own = []
        for _ in range(per_image):
            said = [
                rng.choice(topic) if rng.random() < 0.5 else rng.choices(words, weights)[0]
                for _ in range(rng.randint(6, 16))
            ]
            said[2] += rng.choice(["", ",", "'s"])
            own.append(" ".join(said).capitalize() + rng.choice([" .", "."]))
        captions.append(own)
    return captions


def ours(captions: list[list[str]]) -> dict[str, float]:
    references = References([tokenize_all(image[1:]) for image in captions])
    candidates = Candidates(tokenize_all(image[0] for image in captions), references)
    scores = {f"BLEU-{n}": s.corpus for n, s in enumerate(bleu(candidates).scores, start=1)}
    return scores | {"ROUGE-L": rouge_l(candidates).corpus, "CIDEr": cider_d(candidates).corpus}


def theirs(captions: list[list[str]]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    said = {i: [{"caption": image[0]}] for i, image in enumerate(captions)}
    meant = {i: [{"caption": c} for c in image[1:]] for i, image in enumerate(captions)}
    said, meant = tokenizer.tokenize(said), tokenizer.tokenize(meant)
    bleus = Bleu(4).compute_score(meant, said, verbose=0)[0]
    scores = {f"BLEU-{n}": score for n, score in enumerate(bleus, start=1)}
    rouge, cider = Rouge().compute_score(meant, said)[0], Cider().compute_score(meant, said)[0]
    return scores | {"ROUGE-L": rouge, "CIDEr": cider}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--tiny", action="store_true", help="few images, as a test; Java or not")
    args = parser.parse_args()
    captions = make_captions(20 if args.tiny else args.images, per_image=6)
    results = {}
    for name, score in (("ours", ours), ("pycocoevalcap", theirs)):
        start = time.perf_counter()
        try:
            results[name] = score(captions)
        except ImportError as error:
            if args.tiny:
                print(f"{error}: nothing to compare with")
                return
            raise SystemExit(
                f"{error}: pip install pycocoevalcap, and have java, to compare"
            ) from error
        print(f"{name:14} {time.perf_counter() - start:6.2f} s")
    apart = max(abs(results["ours"][k] - v) for k, v in results["pycocoevalcap"].items())
    print(f"largest difference {apart:.1e}")
    if not np.isclose(apart, 0, atol=1e-6):
        raise SystemExit("the two do not agree")


if __name__ == "__main__":
    main()
