"""METEOR and SPICE, which exist only in Java, through `pycocoevalcap`.

    pip install pycocoevalcap      # and a Java runtime (default-jre-headless)

METEOR (Denkowski and Lavie, 2014) then works. SPICE (Anderson et al., 2016) also needs Stanford's
CoreNLP, which pycocoevalcap downloads at first use; here it must already be there.
"""

import contextlib
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smile.errors import UserError, reason_of
from smile.evaluation.measured import Averaged

__all__ = ["meteor", "meteor_from_statistics", "spice"]

CORENLP = "stanford-corenlp-3.6.0.jar"

# METEOR 1.5's parameters for ranking English, and its weights of exact, stem, synonym and
# paraphrase matches.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.20, 0.60, 0.75
MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


def meteor(captions: Sequence[Sequence[str]], references: Sequence) -> Averaged:
    """METEOR of candidates (token lists) against the references of each.

    Raises:
        UserError: pycocoevalcap or Java is missing, or it fails.
    """
    folder = _pycocoevalcap()
    command = ["java", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    texts = [[" ".join(tokens) for tokens in image] for image in references]
    lines = [
        " ||| ".join(["SCORE", *image, " ".join(caption).replace("|||", "")])
        for caption, image in zip(captions, texts, strict=True)
    ]
    answers = _run(command, folder / "meteor", "\n".join(lines) + "\n", "METEOR").splitlines()
    try:
        statistics = np.array([[float(x) for x in answer.split()] for answer in answers])
        valid = statistics.shape == (len(captions), 23)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"METEOR's Java program gave an unexpected answer: {answers[:1]}")
    # A candidate equal to its reference has no fragmentation: METEOR counts 0 chunks for it.
    same = (statistics[:, 21:23] == statistics[:, 0:2]).all(axis=1) & (statistics[:, 20] == 1)
    statistics[same, 20] = 0
    return Averaged(statistics, meteor_from_statistics, meteor_from_statistics(statistics))


def meteor_from_statistics(counts: np.ndarray) -> np.ndarray:
    """(..., 23) → (...): METEOR of one image's counts, or of their sum over many.

    The counts are in METEOR's order, each pair for candidate and reference: words; function words;
    for each of four kinds of match, matched content words and matched function words; then chunks;
    then matched words.
    """
    lengths, functions = counts[..., 0:2], counts[..., 2:4]
    # (..., kind of match, content or function, candidate or reference)
    stages = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 2, 2)
    chunks, matched = counts[..., 20], counts[..., 21:23]
    weights = MATCH_WEIGHTS[:, None, None] * np.array([DELTA, 1 - DELTA])[:, None]
    matches = (stages * weights).sum(axis=(-3, -2))  # (..., 2)
    words = DELTA * (lengths - functions) + (1 - DELTA) * functions
    share = np.divide(matches, words, out=np.zeros_like(matches), where=words > 0)
    precision, recall = share[..., 0], share[..., 1]
    below = ALPHA * precision + (1 - ALPHA) * recall
    mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    total = matched.sum(axis=-1)
    scattered = np.divide(2 * chunks, total, out=np.zeros_like(total), where=total > 0)
    return mean * (1 - GAMMA * scattered**BETA)


def spice(captions: Sequence[Sequence[str]], references: Sequence) -> Averaged:
    """SPICE of token lists: the mean of the images' F-scores.

    Raises:
        UserError: pycocoevalcap, Java or Stanford's CoreNLP is missing.
    """
    folder = _pycocoevalcap()
    jar = folder / "spice" / "lib" / CORENLP
    if not jar.is_file():
        raise UserError(
            f"{CORENLP} of Stanford's CoreNLP is missing, which SPICE needs: get it with "
            "python -m pycocoevalcap.spice.get_stanford_models (500 MB)"
        )
    from pycocoevalcap.spice.spice import Spice

    texts = {i: [" ".join(tokens) for tokens in image] for i, image in enumerate(references)}
    candidates = {i: [" ".join(tokens)] for i, tokens in enumerate(captions)}
    with contextlib.redirect_stdout(None):
        try:
            _, scores = Spice().compute_score(texts, candidates)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"SPICE's Java program failed: {error}") from error
    per_image = np.array([score["All"]["f"] for score in scores], dtype=np.float64)
    return Averaged(np.nan_to_num(per_image), per_image=np.nan_to_num(per_image))


def _pycocoevalcap() -> Path:
    """The folder of the installed package."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise UserError("needs pycocoevalcap and Java: pip install pycocoevalcap")
    if shutil.which("java") is None:
        raise UserError("needs Java, and there is no `java` on the PATH")
    return Path(found.submodule_search_locations[0])


def _run(command: Sequence[str], folder: Path, text: str, name: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, input=text.encode(), capture_output=True, check=False
        )
    except OSError as error:
        raise UserError(f"{name}'s Java program cannot be started: {reason_of(error)}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{name}'s Java program failed: {' '.join(last)}")
    return done.stdout.decode()
