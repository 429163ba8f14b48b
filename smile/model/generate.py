"""From image features to captions: greedy, sampling and beam search, as BLIP does them.

BLIP searches with `transformers` 4.15 to 4.24, whose rules differ from today's, so they are written
out here. Lengths count the prompt; `[SEP]` is impossible before `min_length`; a beam's score is its
sum of log-probabilities divided by length ** length_penalty, the length counted with the prompt and
without `[SEP]`.

Any model with the verbs `decode(ids, features, cache=…)`, `logits(states)` and
`new_cache(features, max_length=…)` will do; none is imported. The prompt is read once per image,
then its cache is spread over the image's beams, which share the image's keys and values throughout.
Only the last position goes through the head, and images that are done leave the batch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smile.config import Config, GenerateConfig, override
from smile.errors import UserError


@dataclass(frozen=True)
class Hypothesis:
    """One caption found.

    ids: the tokens after the prompt, `[SEP]` left out.
    score: what the search ranked by: the sum of log-probabilities, penalties included, divided by
        length ** length_penalty.
    logprobs: the model's own log-probability of each of `ids`, and of `[SEP]` if the caption ended
        by it; their sum is the caption's.
    """

    ids: list[int]
    score: float
    logprobs: list[float]


def generate(
    model,
    features: Tensor,
    prompts: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    seeds: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """The `num_return` best captions of each image, best first.

    Args:
        features: (B, P, D), what the model's encoder gave.
        prompts: (B, T) ids that each caption continues, `[DEC]` first, without padding.
        sep_id: the token that ends a caption.
        options: sampling if `top_p`, `top_k` or `temperature` ask for it, else beam search, or
            greedy search with one beam.
        seeds: one per image, for sampling: an image's captions depend on its own seed alone,
            whatever the batch. 0, 1, … unless given.

    Raises:
        UserError: if the prompt leaves no room before `max_length`, or more captions are asked for
            than there are beams.
    """
    check_options(options, prompt_length=prompts.size(1))
    with torch.inference_mode():
        if options.samples:
            seeds = range(len(prompts)) if seeds is None else seeds
            return sample(
                model, features, prompts, sep_id=sep_id, options=options, seeds=list(seeds)
            )
        search = greedy_search if options.num_beams == 1 else beam_search
        return search(model, features, prompts, sep_id=sep_id, options=options)


def check_options(options: GenerateConfig, *, prompt_length: int) -> None:
    """Raises UserError where `generate` could not begin: see there."""
    if prompt_length >= options.max_length:
        raise UserError(
            f"max_length is {options.max_length}, but the prompt alone has {prompt_length} tokens: "
            "raise it, or shorten the prompt"
        )
    if options.conflict:
        raise UserError(options.conflict)


def asked_options(config: Config, settings: Mapping[str, Any]) -> GenerateConfig:
    """A captioner's `[generate]`, with the settings that somebody gave in place of its own.

    Raises:
        UserError: a setting is unknown or impossible, or of the search while another one samples,
            so that it would be ignored.
    """
    options = override(config, "generate", dict(settings)).generate
    asked = [
        _in_words(name, settings[name])
        for name, unused in (("num_beams", 1), ("early_stopping", False), ("do_sample", True))
        if settings.get(name, unused) != unused
    ]
    if not (options.samples and asked):
        return options
    usual = GenerateConfig()
    sampling = {
        name: value
        for name in ("do_sample", "top_p", "top_k", "temperature")
        if (value := getattr(options, name)) != getattr(usual, name)
    }
    whose = "" if settings.keys() & sampling.keys() else "the model's "
    names = ", ".join(_in_words(name, value) for name, value in sampling.items())
    raise UserError(
        f"{asked[0]} is for beam search, but {whose}{names} is for sampling: leave one of them out"
    )


def _in_words(name: str, value: Any) -> str:
    return name if value is True else f"{name} = {str(value).lower()}"


# One word after another ---------------------------------------------------------------------------


def greedy_search(
    model, features: Tensor, prompts: Tensor, *, sep_id: int, options: GenerateConfig
) -> list[list[Hypothesis]]:
    """The likeliest next word, again and again. Arguments as for `generate`."""

    def pick(logits: Tensor, rows: list[int]) -> Tensor:
        return logits.argmax(dim=-1)

    found = _extend(model, features, prompts, pick, sep_id=sep_id, options=options)
    return [[hypothesis] for hypothesis in found]


def sample(
    model,
    features: Tensor,
    prompts: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    seeds: list[int],
) -> list[list[Hypothesis]]:
    """Draws each next word: temperature, then top-k, then nucleus (Holtzman et al. 2020).

    Arguments as for `generate`; the `num_return` captions of an image are sorted by score.
    """
    copies = options.num_return
    generators = [_generator(seed, copy) for seed in seeds for copy in range(copies)]

    def pick(logits: Tensor, rows: list[int]) -> Tensor:
        probabilities = sampling_probabilities(logits, options).cpu()
        drawn = [
            torch.multinomial(p, 1, generator=generators[row])
            for p, row in zip(probabilities, rows, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)

    found = _extend(model, features, prompts, pick, sep_id=sep_id, options=options, copies=copies)
    groups = [found[i : i + copies] for i in range(0, len(found), copies)]
    return [sorted(group, key=lambda h: h.score, reverse=True) for group in groups]


def _generator(seed: int, copy: int) -> torch.Generator:
    """A source of randomness of its own for each caption, on the CPU: the same on every device.

    The generator heeds 32 bits of its seed only, so `seed` and `copy` are mixed into those.
    """
    mixed = hashlib.blake2b(f"{seed} {copy}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed))


def sampling_probabilities(logits: Tensor, options: GenerateConfig) -> Tensor:
    """(R, V) logits → the distribution that sampling draws from.

    Top-k keeps the k likeliest words; nucleus keeps the fewest likeliest words whose probabilities
    reach `top_p`, the one that crosses it included. What is kept is renormalised.
    """
    logits = logits / options.temperature
    if 0 < options.top_k < logits.size(-1):
        smallest = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if options.top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        before = ranked.cumsum(dim=-1) - ranked  # the mass of all likelier words
        ranked = ranked.masked_fill(before >= options.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ranked)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def _extend(
    model, features, prompts: Tensor, pick, *, sep_id: int, options: GenerateConfig, copies: int = 1
) -> list[Hypothesis]:
    """Continues `copies` captions per image, each next word chosen by `pick(logits, rows)`."""
    state = _Rows(model, features, prompts, copies=copies, max_length=options.max_length)
    found: dict[int, Hypothesis] = {}
    rows = list(range(len(state.ids)))  # which caption each row of the state is
    while rows:
        logits = state.logits.float()
        logprobs = logits.log_softmax(dim=-1)
        words = pick(constrain(logits, state.ids, sep_id=sep_id, options=options), rows)
        spoken = logprobs.gather(1, words[:, None])[:, 0]
        state.append(words, words.tolist(), spoken.tolist())
        full = state.ids.size(1) == options.max_length
        for slot, row in enumerate(rows):
            said, logprob = state.texts[slot]
            ended = said[-1] == sep_id
            if (ended or full) and row not in found:
                score = sum(logprob) / (state.ids.size(1) - ended) ** options.length_penalty
                found[row] = Hypothesis(said[:-1] if ended else said, score, logprob)
        # An image leaves when all its captions are done: until then its rows stay together.
        groups = [range(start, start + copies) for start in range(0, len(rows), copies)]
        going = [
            slot for group in groups if any(rows[s] not in found for s in group) for slot in group
        ]
        rows = [rows[slot] for slot in going]
        if rows:
            state.advance(going)
    return [found[row] for row in sorted(found)]


# Several at a time --------------------------------------------------------------------------------


def beam_search(
    model, features: Tensor, prompts: Tensor, *, sep_id: int, options: GenerateConfig
) -> list[list[Hypothesis]]:
    """Keeps the `num_beams` best beginnings at each length. Arguments as for `generate`.

    Each step ranks 2·num_beams continuations of an image, so that num_beams remain even if every
    beam could end; `[SEP]` ends a beam only when ranked within the first num_beams.
    """
    beams = options.num_beams
    state = _Rows(model, features, prompts, copies=beams, max_length=options.max_length)
    finished = [_Finished(options, prompts.size(1)) for _ in prompts]
    images = list(range(len(prompts)))  # the images still searched, in the order of the rows
    # All beams of an image begin alike, so only the first may be continued in the first step.
    totals = torch.full((len(images), beams), -1e9, device=prompts.device)
    totals[:, 0] = 0.0
    while images:
        logprobs = state.logits.float().log_softmax(dim=-1)
        scores = constrain(logprobs, state.ids, sep_id=sep_id, options=options)
        scores = (scores + totals.view(-1, 1)).view(len(images), -1)
        going = []
        length = state.ids.size(1)
        for image, steps in zip(images, _steps(scores, logprobs, beams), strict=True):
            kept = finished[image].take(steps, state.texts, sep_id)
            if not finished[image].cannot_improve(steps[0].total, length):
                going.append((image, kept))
        images = [image for image, _ in going]
        if not images:
            break
        steps = [step for _, kept in going for step in kept]
        state.branch(steps)
        if state.ids.size(1) == options.max_length:
            for row, step in enumerate(steps):
                finished[images[row // beams]].add(*state.texts[row], step.total)
            break
        totals = torch.tensor([step.total for step in steps], device=prompts.device)
        state.advance(None)
    return [image.best() for image in finished]


class _Step(NamedTuple):
    """A way to go on: the row to continue, the word, its log-probability, and the sum of all."""

    row: int
    word: int
    logprob: float
    total: float


def _steps(scores: Tensor, logprobs: Tensor, beams: int) -> list[list[_Step]]:
    """(B, beams·V) scores of B images, (B·beams, V) log-probabilities → 2·beams each, best first.

    All that a step has to know of the device's numbers is asked for here, at once: each question
    would have to wait until the device has caught up.
    """
    ranked, places = scores.topk(2 * beams, dim=1)
    spoken = logprobs.view_as(scores).gather(1, places)
    vocabulary = logprobs.size(1)
    numbers = torch.stack([spoken, ranked])
    columns = (places.tolist(), *numbers.tolist())
    # A place among an image's scores is its beam (and so its row) and the word after it.
    return [
        [
            _Step(image * beams + place // vocabulary, place % vocabulary, logprob, total)
            for place, logprob, total in zip(*row, strict=True)
        ]
        for image, row in enumerate(zip(*columns, strict=True))
    ]


class _Finished:
    """The best `num_beams` finished captions of one image."""

    def __init__(self, options: GenerateConfig, prompt_length: int):
        self.options = options
        self.prompt_length = prompt_length
        self.kept: list[Hypothesis] = []

    def take(self, steps: list[_Step], texts: list["_Text"], sep_id: int) -> list[_Step]:
        """Ends beams at `[SEP]`; returns the num_beams steps that go on."""
        beams, going = self.options.num_beams, []
        for rank, step in enumerate(steps):
            if step.word != sep_id:
                going.append(step)
            elif rank < beams:
                said, logprobs = texts[step.row]
                self.add(said, [*logprobs, step.logprob], step.total)
            if len(going) == beams:
                break
        return going

    def add(self, ids: list[int], logprobs: list[float], total: float) -> None:
        """Keeps a caption if it is among the best."""
        score = self._score(total, self.prompt_length + len(ids))
        full = len(self.kept) == self.options.num_beams
        if not full or score > self._worst():
            if full:
                self.kept.remove(min(self.kept, key=lambda h: h.score))
            self.kept.append(Hypothesis(ids, score, logprobs))

    def cannot_improve(self, best_total: float, length: int) -> bool:
        """True once this image is done.

        With early stopping, as soon as num_beams captions ended; else when the best running beam
        could not beat the worst one kept, if it ended at this length.
        """
        if len(self.kept) < self.options.num_beams:
            return False
        return self.options.early_stopping or self._worst() >= self._score(best_total, length)

    def best(self) -> list[Hypothesis]:
        """The `num_return` best captions, best first."""
        return sorted(self.kept, key=lambda h: h.score, reverse=True)[: self.options.num_return]

    def _score(self, total: float, length: int) -> float:
        return total / length**self.options.length_penalty

    def _worst(self) -> float:
        return min(h.score for h in self.kept)


# What both have in common -------------------------------------------------------------------------


_Text = tuple[list[int], list[float]]  # the words after the prompt, and their log-probabilities


class _Rows:
    """The captions being written: their words, their log-probabilities, their cache.

    `copies` rows for each image, which share its keys and values and, at first, the prompt's.
    Words are kept twice: `ids` for the model to read, `texts` for us, who need not ask the device.
    """

    def __init__(self, model, features: Tensor, prompts: Tensor, *, copies: int, max_length: int):
        self.model = model
        self.cache = model.new_cache(features, max_length=max_length, copies=copies)
        logits = model.logits(model.decode(prompts, None, cache=self.cache)[:, -1])
        self.cache.spread()
        self.logits = logits.repeat_interleave(copies, dim=0)  # (R, V) of each row's next word
        self.ids = prompts.repeat_interleave(copies, dim=0)  # (R, T), prompt included
        self.texts: list[_Text] = [([], []) for _ in self.ids]

    def append(self, ids: Tensor, words: list[int], logprobs: list[float]) -> None:
        """Adds a word to each row: (R) `ids` on the device, the same `words` for us."""
        self.ids = torch.cat([self.ids, ids[:, None]], dim=1)
        self.texts = [
            ([*said, word], [*before, logprob])
            for (said, before), word, logprob in zip(self.texts, words, logprobs, strict=True)
        ]

    def branch(self, steps: list[_Step]) -> None:
        """Row i goes on as `steps[i]` says; images that have no step any more leave."""
        rows, words, logprobs, _ = map(list, zip(*steps, strict=True))
        self._select(rows)
        self.append(torch.tensor(words, device=self.ids.device), words, logprobs)

    def advance(self, rows: list[int] | None) -> None:
        """Reads the last words; with `rows`, only those rows go on."""
        if rows is not None and len(rows) < len(self.ids):
            self._select(rows)
        states = self.model.decode(self.ids[:, -1:], None, cache=self.cache)
        self.logits = self.model.logits(states[:, -1])

    def _select(self, rows: list[int]) -> None:
        """Row i becomes what row `rows[i]` was."""
        self.texts = [self.texts[row] for row in rows]
        self.ids = self.ids[torch.tensor(rows, device=self.ids.device)]
        self.cache.select(torch.tensor(rows))


def constrain(scores: Tensor, ids: Tensor, *, sep_id: int, options: GenerateConfig) -> Tensor:
    """Applies the repetition penalty, forbids repeated n-grams, and `[SEP]` before `min_length`.

    Args:
        scores: (R, V), log-probabilities in beam search, logits in greedy search and sampling.
        ids: (R, T), the texts so far, prompt included.
    """
    scores = scores.clone()
    if options.repetition_penalty != 1.0:
        said = scores.gather(1, ids)
        penalty = options.repetition_penalty
        scores.scatter_(1, ids, torch.where(said < 0, said * penalty, said / penalty))
    if options.no_repeat_ngram_size > 0:
        _forbid_repeats(scores, ids, options.no_repeat_ngram_size)
    if ids.size(1) < options.min_length:
        scores[:, sep_id] = float("-inf")
    return scores


def _forbid_repeats(scores: Tensor, ids: Tensor, size: int) -> None:
    """Takes away each word that would complete an n-gram the row has already, in place."""
    if ids.size(1) < size:
        return
    grams = ids.unfold(1, size, 1)  # (R, T - n + 1, n)
    ending = ids[:, ids.size(1) - size + 1 :]  # the n - 1 words that a next word would complete
    again = (grams[:, :, :-1] == ending[:, None, :]).all(dim=2)
    rows, places = again.nonzero(as_tuple=True)
    scores[rows, grams[rows, places, -1]] = float("-inf")
