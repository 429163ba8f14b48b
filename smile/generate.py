"""From image features to captions: greedy and beam search, as BLIP does them.

BLIP searches with `transformers` 4.15 to 4.24, whose rules differ from today's, so they are written
out here. Lengths count the prompt; `[SEP]` is impossible before `min_length`; a beam's score is its
sum of log-probabilities divided by length ** length_penalty, the length counted with the prompt and
without `[SEP]`.

Any model with the verbs `decode(ids, features, cache=…)`, `logits(states)` and
`new_cache(features, max_length=…)` will do; none is imported. The prompt is read once per image,
then its cache is spread over the image's beams, which share the image's keys and values throughout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smile.config import GenerateConfig


@dataclass(frozen=True)
class Hypothesis:
    """One caption found: the ids after the prompt (`[SEP]` left out) and what they are worth.

    `score` is what the search ranked by: the sum of log-probabilities, penalties included, divided
    by length ** length_penalty.
    """

    ids: list[int]
    score: float


def generate(
    model, features: Tensor, prompts: Tensor, *, sep_id: int, options: GenerateConfig
) -> list[Hypothesis]:
    """The best caption of each image.

    Args:
        features: (B, P, D), what the model's encoder gave.
        prompts: (B, T) ids that every caption continues, `[DEC]` first, without padding.
        sep_id: the token that ends a caption.
        options: the search's settings; `num_beams = 1` is greedy search.

    Raises:
        ValueError: if the prompt leaves no room before `max_length`.
    """
    if prompts.size(1) >= options.max_length:
        raise ValueError(
            f"max_length is {options.max_length}, but the prompt alone is {prompts.size(1)} tokens"
        )
    search = greedy_search if options.num_beams == 1 else beam_search
    with torch.inference_mode():
        return search(model, features, prompts, sep_id=sep_id, options=options)


def greedy_search(
    model, features: Tensor, prompts: Tensor, *, sep_id: int, options: GenerateConfig
) -> list[Hypothesis]:
    """The likeliest next word, again and again. Arguments as for `generate`."""
    cache = model.new_cache(features, max_length=options.max_length)
    ids, new = prompts, prompts
    images = torch.arange(len(prompts), device=ids.device)  # which image each row belongs to
    totals = torch.zeros(len(prompts), device=ids.device)
    found: dict[int, Hypothesis] = {}
    while len(images):
        logits = model.logits(model.decode(new, None, cache=cache)[:, -1]).float()
        logprobs = logits.log_softmax(dim=-1)
        logits = constrain(logits, ids, sep_id=sep_id, options=options)
        new = logits.argmax(dim=-1, keepdim=True)
        totals = totals + logprobs.gather(1, new)[:, 0]
        ended = new[:, 0] == sep_id
        ids = torch.cat([ids, new], dim=1)
        if ids.size(1) == options.max_length:
            ended = torch.ones_like(ended)
        if not ended.any():
            continue
        for row in ended.nonzero()[:, 0].tolist():
            words = ids[row, prompts.size(1) :].tolist()
            length = ids.size(1) - (words[-1] == sep_id)
            score = totals[row].item() / length**options.length_penalty
            found[images[row].item()] = Hypothesis(_until(words, sep_id), score)
        running = (~ended).nonzero()[:, 0]
        ids, new, images, totals = (t[running] for t in (ids, new, images, totals))
        cache.select(running, running)
    return [found[image] for image in range(len(prompts))]


class Finished:
    """The best `num_beams` finished hypotheses of one image."""

    def __init__(self, options: GenerateConfig):
        self.options = options
        self.kept: list[tuple[float, list[int]]] = []

    @property
    def worst(self) -> float:
        return min((score for score, _ in self.kept), default=float("inf"))

    def score(self, total: float, length: int) -> float:
        return total / length**self.options.length_penalty

    def add(self, ids: list[int], total: float) -> None:
        """Keeps `ids` (prompt included, without `[SEP]`) if it is among the best."""
        score = self.score(total, len(ids))
        full = len(self.kept) == self.options.num_beams
        if not full or score > self.worst:
            if full:
                self.kept.remove(min(self.kept, key=lambda item: item[0]))
            self.kept.append((score, ids))

    def cannot_improve(self, best_total: float, length: int) -> bool:
        """True once no running beam can beat the worst one kept, if it ended at this length."""
        full = len(self.kept) == self.options.num_beams
        return full and self.worst >= self.score(best_total, length)

    def best(self) -> tuple[float, list[int]]:
        return max(self.kept, key=lambda item: item[0])


def beam_search(
    model, features: Tensor, prompts: Tensor, *, sep_id: int, options: GenerateConfig
) -> list[Hypothesis]:
    """Keeps the `num_beams` best beginnings at each length. Arguments as for `generate`.

    Each step ranks 2·num_beams continuations of an image, so that num_beams remain even if every
    beam could end; `[SEP]` ends a beam only when ranked within the first num_beams.
    """
    beams, device = options.num_beams, prompts.device
    cache = model.new_cache(features, max_length=options.max_length)
    logits = model.logits(model.decode(prompts, None, cache=cache)[:, -1])
    logits = logits.repeat_interleave(beams, dim=0)
    ids = prompts.repeat_interleave(beams, dim=0)
    cache.select(torch.arange(len(prompts), device=device).repeat_interleave(beams))

    finished = [Finished(options) for _ in prompts]
    images = list(range(len(prompts)))  # the images still searched, in the order of the rows
    # All beams of an image begin alike, so only the first may be continued in the first step.
    totals = torch.full((len(images), beams), -1e9, device=device)
    totals[:, 0] = 0.0
    while True:
        scores = logits.float().log_softmax(dim=-1)
        scores = constrain(scores, ids, sep_id=sep_id, options=options)
        scores = (totals.view(-1, 1) + scores).view(len(images), -1)
        ranked, places = scores.topk(2 * beams, dim=1)
        parents = places // logits.size(-1)
        words = places % logits.size(-1)

        length, steps, going = ids.size(1), [], []
        for slot, image in enumerate(images):
            step = _advance(
                finished[image],
                ids[slot * beams : (slot + 1) * beams],
                list(zip(*(t[slot].tolist() for t in (ranked, parents, words)), strict=True)),
                sep_id,
            )
            if not finished[image].cannot_improve(ranked[slot, 0].item(), length):
                steps.append([(total, slot * beams + parent, word) for total, parent, word in step])
                going.append(slot)
        images = [images[slot] for slot in going]
        if not images:
            break
        flat = [item for step in steps for item in step]
        totals = torch.tensor([total for total, _, _ in flat], device=device).view(-1, beams)
        rows = torch.tensor([row for _, row, _ in flat], device=device)
        new = torch.tensor([[word] for _, _, word in flat], device=device)
        ids = torch.cat([ids[rows], new], dim=1)
        if ids.size(1) == options.max_length:
            for row, image in enumerate(images):
                for beam in range(beams):
                    total = totals[row, beam].item()
                    finished[image].add(ids[row * beams + beam].tolist(), total)
            break
        left = len(going) < cache.image[0][0].size(0)
        cache.select(rows, torch.tensor(going, device=device) if left else None)
        logits = model.logits(model.decode(new, None, cache=cache)[:, -1])

    best = [image.best() for image in finished]
    return [Hypothesis(ids[prompts.size(1) :], score) for score, ids in best]


def _advance(
    finished: Finished, ids: Tensor, candidates: list[tuple[float, int, int]], sep_id: int
) -> list[tuple[float, int, int]]:
    """One image's step: ends beams at `[SEP]`, returns the num_beams that go on.

    Candidates and result are (sum of log-probabilities, parent beam, word), best first.
    """
    beams = finished.options.num_beams
    going: list[tuple[float, int, int]] = []
    for rank, (total, parent, word) in enumerate(candidates):
        if word != sep_id:
            going.append((total, parent, word))
        elif rank < beams:
            finished.add(ids[parent].tolist(), total)
        if len(going) == beams:
            break
    return going


def constrain(scores: Tensor, ids: Tensor, *, sep_id: int, options: GenerateConfig) -> Tensor:
    """Applies the repetition penalty, then forbids `[SEP]` before `min_length`.

    Args:
        scores: (R, V), log-probabilities in beam search, logits in greedy search.
        ids: (R, T), the texts so far, prompt included.
    """
    if options.repetition_penalty != 1.0:
        said = scores.gather(1, ids)
        penalty = options.repetition_penalty
        said = torch.where(said < 0, said * penalty, said / penalty)
        scores = scores.scatter(1, ids, said)
    if ids.size(1) < options.min_length:
        scores = scores.clone()
        scores[:, sep_id] = float("-inf")
    return scores


def _until(ids: list[int], sep_id: int) -> list[int]:
    return ids[: ids.index(sep_id)] if sep_id in ids else ids
