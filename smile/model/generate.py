"""From image features to captions: greedy search, sampling and beam search, as in BLIP.

BLIP uses `transformers` 4.15 to 4.24, whose rules differ from today's. Lengths count the prompt.
`[SEP]` has probability 0 before `min_length`. A beam's score is its sum of log-probabilities
divided by length ** length_penalty, where the length counts the prompt but not `[SEP]`.

The model can be anything with the methods of `Model`. The prompt is decoded once per image, and its
cache is then copied for each beam; all beams share the image's keys and values. Logits are computed
at the last position only, and finished images leave the batch.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from smile.config import Config, GenerateConfig, override
from smile.errors import UserError
from smile.model.cache import DecoderCache
from smile.model.forbidden import Forbidden


@dataclass(frozen=True)
class Hypothesis:
    """A generated caption.

    ids: the tokens after the prompt, without `[SEP]`.
    score: the sum of log-probabilities, divided by length ** length_penalty. Captions are ranked
        by it. In beam search the log-probabilities include the repetition penalty.
    logprobs: the model's log-probability, without penalties, of each of `ids`, and of `[SEP]` if
        the caption ended with it. The caption's log-probability is their sum.
    """

    ids: list[int]
    score: float
    logprobs: list[float]


class Model(Protocol):
    """What `generate` needs of a model: a `Captioner`, or anything with these three methods."""

    def decode(self, ids: Tensor, features: None, *, cache: DecoderCache) -> Tensor: ...

    def logits(self, states: Tensor, /) -> Tensor: ...

    def new_cache(self, features: Tensor, *, max_length: int, copies: int) -> DecoderCache: ...


def generate(
    model: Model,
    features: Tensor,
    prompts: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    seeds: Sequence[int] | None = None,
    forbidden: Forbidden | None = None,
) -> list[list[Hypothesis]]:
    """The `num_return` best captions of each image, best first.

    Args:
        features: (B, P + 1, D), the encoder's output.
        prompts: (B, T) ids that each caption continues, `[DEC]` first, without padding.
        sep_id: the token that ends a caption.
        options: sampling if `options.samples`, else beam search; with one beam, greedy search.
        seeds: one per image, for sampling; 0, 1, … unless given. An image's captions depend on its
            seed only, not on the rest of the batch.
        forbidden: what `options.forbid` means for the model's tokens.

    Raises:
        UserError: the prompt leaves no room before `max_length`, `num_return` is above
            `num_beams`, or no token is left that may follow.
        ValueError: `options.forbid` is given without `forbidden`.
    """
    check_options(options, prompt_length=prompts.size(1))
    if options.forbid and forbidden is None:
        raise ValueError("options.forbid is given: expected `forbidden` for the model's tokens")
    with torch.inference_mode():
        if options.samples:
            seeds = range(len(prompts)) if seeds is None else seeds
            return sample(
                model,
                features,
                prompts,
                sep_id=sep_id,
                options=options,
                seeds=list(seeds),
                forbidden=forbidden,
            )
        search = greedy_search if options.num_beams == 1 else beam_search
        return search(model, features, prompts, sep_id=sep_id, options=options, forbidden=forbidden)


def check_options(options: GenerateConfig, *, prompt_length: int) -> None:
    """Raises UserError for the reasons that `generate` does."""
    if prompt_length >= options.max_length:
        raise UserError(
            f"max_length is {options.max_length}, but the prompt alone has {prompt_length} tokens: "
            "raise it, or shorten the prompt"
        )
    if options.conflict:
        raise UserError(options.conflict)


def asked_options(config: Config, settings: Mapping[str, Any]) -> GenerateConfig:
    """A captioner's `[generate]` settings, with `settings` in their place where given.

    Raises:
        UserError: a setting is unknown or impossible, or one for beam search is given although the
            options sample, so that it would be ignored.
    """
    options = override(config, "generate", dict(settings)).generate
    search = [
        _in_words(name, settings[name])
        for name, unused in (("num_beams", 1), ("early_stopping", False), ("do_sample", True))
        if settings.get(name, unused) != unused
    ]
    if not (options.samples and search):
        return options
    defaults = GenerateConfig()
    sampling = {
        name: value
        for name in ("do_sample", "top_p", "top_k", "temperature")
        if (value := getattr(options, name)) != getattr(defaults, name)
    }
    whose = "" if settings.keys() & sampling.keys() else "the model's "
    names = ", ".join(_in_words(name, value) for name, value in sampling.items())
    raise UserError(
        f"{search[0]} is for beam search, but {whose}{names} is for sampling: leave one of them out"
    )


def _in_words(name: str, value: Any) -> str:
    return name if value is True else f"{name} = {str(value).lower()}"


# Greedy search and sampling -----------------------------------------------------------------------


def greedy_search(
    model: Model,
    features: Tensor,
    prompts: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    forbidden: Forbidden | None = None,
) -> list[list[Hypothesis]]:
    """Always takes the most likely next token. Arguments as for `generate`."""

    def pick(logits: Tensor, captions: list[int], *, for_good: bool) -> Tensor:
        return logits.argmax(dim=-1)

    found = _extend(
        model, features, prompts, pick, sep_id=sep_id, options=options, forbidden=forbidden
    )
    return [[hypothesis] for hypothesis in found]


def sample(
    model: Model,
    features: Tensor,
    prompts: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    seeds: list[int],
    forbidden: Forbidden | None = None,
) -> list[list[Hypothesis]]:
    """Samples each next token: temperature, then top-k, then nucleus.

    Arguments as for `generate`. The `num_return` captions of an image are sorted by score.
    """
    copies = options.num_return
    generators = [_generator(seed, copy) for seed in seeds for copy in range(copies)]

    def pick(logits: Tensor, captions: list[int], *, for_good: bool) -> Tensor:
        probabilities = sampling_probabilities(logits, options).cpu()
        sampled = []
        for p, caption in zip(probabilities, captions, strict=True):
            generator = generators[caption]
            generator = generator if for_good else generator.clone_state()
            sampled.append(torch.multinomial(p, 1, generator=generator))
        return torch.cat(sampled).to(logits.device)

    found = _extend(
        model,
        features,
        prompts,
        pick,
        sep_id=sep_id,
        options=options,
        forbidden=forbidden,
        copies=copies,
    )
    groups = [found[i : i + copies] for i in range(0, len(found), copies)]
    return [sorted(group, key=lambda h: h.score, reverse=True) for group in groups]


def _generator(seed: int, copy: int) -> torch.Generator:
    """A generator for one caption, on the CPU, so that every device samples the same tokens.

    A generator reads only 32 bits of its seed, so `seed` and `copy` are hashed into 32 bits.
    """
    mixed = hashlib.blake2b(f"{seed} {copy}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed))


def sampling_probabilities(logits: Tensor, options: GenerateConfig) -> Tensor:
    """(R, V) logits → (R, V) probabilities to sample from.

    Top-k (Fan et al. 2018) keeps the k most likely tokens. Nucleus (Holtzman et al. 2020) keeps the
    smallest set of most likely tokens whose probabilities sum to at least `top_p`. What is kept is
    renormalised.
    """
    logits = logits / options.temperature
    if 0 < options.top_k < logits.size(-1):
        smallest = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if options.top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        before = ranked.cumsum(dim=-1) - ranked  # the sum over all more likely tokens
        ranked = ranked.masked_fill(before >= options.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ranked)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


class _Pick(Protocol):
    """(R, V) logits and the numbers of R captions → (R,) next tokens.

    Unless it is `for_good`, the next call picks by the same random numbers.
    """

    def __call__(self, logits: Tensor, captions: list[int], /, *, for_good: bool) -> Tensor: ...


def _extend(
    model: Model,
    features: Tensor,
    prompts: Tensor,
    pick: _Pick,
    *,
    sep_id: int,
    options: GenerateConfig,
    forbidden: Forbidden | None,
    copies: int = 1,
) -> list[Hypothesis]:
    """Continues `copies` captions of each image by what `pick` picks."""

    def picks(captions: list[int], scores: Tensor) -> Iterable[tuple[int, int]]:
        _check_possible(scores.amax(dim=1).min().item(), options)
        return enumerate(pick(scores, captions, for_good=False).tolist())

    limit = partial(constrain, sep_id=sep_id, options=options, forbidden=forbidden)
    state = _Rows(model, features, prompts, limit, copies=copies, max_length=options.max_length)
    found: dict[int, Hypothesis] = {}
    captions = list(range(len(state.ids)))  # the number of the caption in each row of the state
    while captions:
        logits = state.logits.float()
        logprobs = logits.log_softmax(dim=-1)
        scores = limit(logits, state.ids)
        if forbidden is not None:
            forbidden.look_ahead(scores, state.ids, partial(picks, captions), state.best_after)
        tokens = pick(scores, captions, for_good=True)
        state.append(tokens, tokens.tolist(), logprobs.gather(1, tokens[:, None])[:, 0].tolist())
        full = state.ids.size(1) == options.max_length
        for caption, (generated, token_logprobs) in zip(captions, state.texts, strict=True):
            ended = generated[-1] == sep_id
            if (ended or full) and caption not in found:
                score = sum(token_logprobs) / (state.ids.size(1) - ended) ** options.length_penalty
                ids = generated[:-1] if ended else generated
                found[caption] = Hypothesis(ids, score, token_logprobs)
        # An image leaves the batch when all its captions are finished. Until then, the rows of
        # finished captions continue too, and what they generate is ignored.
        groups = [range(start, start + copies) for start in range(0, len(captions), copies)]
        running = [
            row for group in groups if any(captions[r] not in found for r in group) for row in group
        ]
        captions = [captions[row] for row in running]
        if captions:
            state.advance(running)
    return [found[caption] for caption in sorted(found)]


# Beam search --------------------------------------------------------------------------------------


def beam_search(
    model: Model,
    features: Tensor,
    prompts: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    forbidden: Forbidden | None = None,
) -> list[list[Hypothesis]]:
    """Keeps the `num_beams` best unfinished captions in each step. Arguments as for `generate`.

    A step ranks 2·num_beams continuations of an image: at most num_beams of them end with `[SEP]`,
    so at least num_beams remain. `[SEP]` ends a beam only if it ranks among the first num_beams.
    """
    beams = options.num_beams
    limit = partial(constrain, sep_id=sep_id, options=options, forbidden=forbidden)
    state = _Rows(model, features, prompts, limit, copies=beams, max_length=options.max_length)
    finished = [_Finished(options, prompts.size(1)) for _ in prompts]
    images = list(range(len(prompts)))  # the unfinished images, in the order of the rows
    # All beams of an image start from the same prompt, so only the first counts in the first step.
    totals = torch.full((len(images), beams), -1e9, device=prompts.device)
    totals[:, 0] = 0.0
    while images:
        logprobs = state.logits.float().log_softmax(dim=-1)
        scores = limit(logprobs, state.ids)
        if forbidden is not None:
            picks = partial(_picks, totals=totals, logprobs=logprobs)
            forbidden.look_ahead(scores, state.ids, picks, state.best_after)
        running = []
        length = state.ids.size(1)
        for image, steps in zip(images, _steps(scores, totals, logprobs), strict=True):
            continued = finished[image].take(steps, state.texts, sep_id)
            if not finished[image].cannot_improve(steps[0].total, length):
                running.append((image, continued))
        images = [image for image, _ in running]
        if not images:
            break
        steps = [step for _, continued in running for step in continued]
        state.branch(steps)
        if state.ids.size(1) == options.max_length:
            for row, step in enumerate(steps):
                finished[images[row // beams]].add(*state.texts[row], step.total)
            break
        totals = torch.tensor([step.total for step in steps], device=prompts.device)
        totals = totals.view(-1, beams)
        state.advance(None)
    return [image.best() for image in finished]


class _Step(NamedTuple):
    """A continuation: the row, its next token, that token's log-probability, the beam's total."""

    row: int
    token: int
    logprob: float
    total: float


def _steps(scores: Tensor, totals: Tensor, logprobs: Tensor) -> list[list[_Step]]:
    """The best 2·beams continuations of each image.

    Each read from the device waits for it, so a step reads only here: three tensors at once.

    Args:
        scores: (B·beams, V) of each row's next token, to be added to its total.
        totals: (B, beams).
        logprobs: (B·beams, V).
    """
    images, beams = totals.shape
    scores = (scores + totals.view(-1, 1)).view(images, -1)
    totals, places = scores.topk(2 * beams, dim=1)  # a place is beam · V + token
    chosen = logprobs.view_as(scores).gather(1, places)
    vocab_size = logprobs.size(1)
    columns = (places.tolist(), *torch.stack([chosen, totals]).tolist())
    return [
        [
            _Step(image * beams + place // vocab_size, place % vocab_size, logprob, total)
            for place, logprob, total in zip(*row, strict=True)
        ]
        for image, row in enumerate(zip(*columns, strict=True))
    ]


def _picks(scores: Tensor, totals: Tensor, logprobs: Tensor) -> Iterator[tuple[int, int]]:
    """The row and token of each of `_steps`."""
    for steps in _steps(scores, totals, logprobs):
        yield from ((step.row, step.token) for step in steps)


class _Finished:
    """The best `num_beams` finished captions of one image."""

    def __init__(self, options: GenerateConfig, prompt_length: int):
        self.options = options
        self.prompt_length = prompt_length
        self.kept: list[Hypothesis] = []

    def take(self, steps: list[_Step], texts: list["_Text"], sep_id: int) -> list[_Step]:
        """Finishes beams that reach `[SEP]`; returns the num_beams steps that continue."""
        beams, running = self.options.num_beams, []
        for rank, step in enumerate(steps):
            if step.token != sep_id:
                running.append(step)
            elif rank < beams:
                generated, logprobs = texts[step.row]
                self.add(generated, [*logprobs, step.logprob], step.total)
            if len(running) == beams:
                break
        return running

    def add(self, ids: list[int], logprobs: list[float], total: float) -> None:
        """Keeps a caption if it is among the best."""
        score = self._score(total, self.prompt_length + len(ids))
        full = len(self.kept) == self.options.num_beams
        if not full or score > self._worst():
            if full:
                self.kept.remove(min(self.kept, key=lambda h: h.score))
            self.kept.append(Hypothesis(ids, score, logprobs))

    def cannot_improve(self, best_total: float, length: int) -> bool:
        """True when this image is finished.

        Nothing is finished before num_beams captions are kept. With early stopping, that is enough.
        Otherwise the best running beam, ended at this length, must not beat the worst one kept.
        """
        if len(self.kept) < self.options.num_beams:
            return False
        return self.options.early_stopping or self._worst() >= self._score(best_total, length)

    def best(self) -> list[Hypothesis]:
        """The `num_return` best captions, best first."""
        found = sorted(self.kept, key=lambda h: h.score, reverse=True)[: self.options.num_return]
        _check_possible(found[-1].score, self.options)
        return found

    def _score(self, total: float, length: int) -> float:
        penalty: float = length**self.options.length_penalty
        return total / penalty

    def _worst(self) -> float:
        return min(h.score for h in self.kept)


# Shared by all searches ---------------------------------------------------------------------------


_Text = tuple[list[int], list[float]]  # tokens after the prompt, and their log-probabilities


class _Rows:
    """The captions being generated: `copies` rows of each image, with the decoder's cache.

    Tokens are kept twice: in `ids` on the device for the model, and in `texts` for the search, so
    that it need not wait for the device.

    limit: scores and ids → scores of what may follow.
    """

    def __init__(
        self,
        model: Model,
        features: Tensor,
        prompts: Tensor,
        limit: Callable[[Tensor, Tensor], Tensor],
        *,
        copies: int,
        max_length: int,
    ):
        self.model, self.limit = model, limit
        self.cache = model.new_cache(features, max_length=max_length, copies=copies)
        logits = model.logits(model.decode(prompts, None, cache=self.cache)[:, -1])
        self.cache.spread()
        self.logits = logits.repeat_interleave(copies, dim=0)  # (R, V), of each row's next token
        self.ids = prompts.repeat_interleave(copies, dim=0)  # (R, T), with the prompt
        self.texts: list[_Text] = [([], []) for _ in self.ids]

    def append(self, ids: Tensor, tokens: list[int], logprobs: list[float]) -> None:
        """Adds a token to each row: (R,) `ids` on the device, and the same as a list, `tokens`."""
        self.ids = torch.cat([self.ids, ids[:, None]], dim=1)
        self.texts = [
            ([*generated, token], [*before, logprob])
            for (generated, before), token, logprob in zip(
                self.texts, tokens, logprobs, strict=True
            )
        ]

    def branch(self, steps: list[_Step]) -> None:
        """Row i becomes the continuation `steps[i]`; images without a step leave the batch."""
        rows, tokens, logprobs, _ = map(list, zip(*steps, strict=True))
        self._select(rows)
        self.append(torch.tensor(tokens, device=self.ids.device), tokens, logprobs)

    def advance(self, rows: list[int] | None) -> None:
        """Computes the logits of each row's next token; with `rows`, only those rows are kept."""
        if rows is not None and len(rows) < len(self.ids):
            self._select(rows)
        states = self.model.decode(self.ids[:, -1:], None, cache=self.cache)
        self.logits = self.model.logits(states[:, -1])

    def best_after(self, tokens: Tensor) -> Tensor:
        """(R,) next tokens → (R,), the score of the best token after each; no row takes one."""
        states = self.model.decode(tokens[:, None], None, cache=self.cache)
        self.cache.forget_last()
        logprobs = self.model.logits(states[:, -1]).float().log_softmax(dim=-1)
        return self.limit(logprobs, torch.cat([self.ids, tokens[:, None]], dim=1)).amax(dim=1)

    def _select(self, rows: list[int]) -> None:
        """Row i becomes what row `rows[i]` was."""
        self.texts = [self.texts[row] for row in rows]
        self.ids = self.ids[torch.tensor(rows, device=self.ids.device)]
        self.cache.select(torch.tensor(rows))


def _check_possible(score: float, options: GenerateConfig) -> None:
    """Raises UserError if the score of a caption is -∞: it could not be ended or continued."""
    if score == float("-inf"):
        raise UserError(
            f"forbid leaves fewer captions than num_return = {options.num_return}: forbid less"
        )


def constrain(
    scores: Tensor,
    ids: Tensor,
    *,
    sep_id: int,
    options: GenerateConfig,
    forbidden: Forbidden | None = None,
) -> Tensor:
    """Scores with the repetition penalty (Keskar et al. 2019), and -∞ for what may not follow.

    That is repeated n-grams (Paulus et al. 2018), `[SEP]` before `min_length`, and forbidden words.

    Args:
        scores: (R, V), log-probabilities in beam search, logits in greedy search and sampling.
        ids: (R, T), the captions so far, with the prompt.
    """
    scores = scores.clone()
    if options.repetition_penalty != 1.0:
        present = scores.gather(1, ids)
        penalty = options.repetition_penalty
        scores.scatter_(1, ids, torch.where(present < 0, present * penalty, present / penalty))
    if options.no_repeat_ngram_size > 0:
        _forbid_repeats(scores, ids, options.no_repeat_ngram_size)
    if ids.size(1) < options.min_length:
        scores[:, sep_id] = float("-inf")
    if forbidden is not None:
        forbidden.mask(scores, ids)
    return scores


def _forbid_repeats(scores: Tensor, ids: Tensor, size: int) -> None:
    """Sets to -∞, in place, the scores of tokens that would repeat an n-gram of their row."""
    if ids.size(1) < size:
        return
    grams = ids.unfold(1, size, 1)  # (R, T - n + 1, n)
    ending = ids[:, ids.size(1) - size + 1 :]  # the n - 1 tokens before the next one
    repeated = (grams[:, :, :-1] == ending[:, None, :]).all(dim=2)
    rows, places = repeated.nonzero(as_tuple=True)
    scores[rows, grams[rows, places, -1]] = float("-inf")
