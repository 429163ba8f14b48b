"""Search and sampling against exhaustive search, transformers, definitions and each other."""

import math
from itertools import product

import pytest
import torch
from golden_fixtures import load_golden
from helpers import make_transformers

import smile
from smile.config import Config, DecoderConfig, GenerateConfig, ViTConfig
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.forbidden import Forbidden
from smile.model.generate import constrain, generate, sampling_probabilities
from smile.model.tokenizer import Tokenizer

SEP = 2


class TableModel:
    """A language model of a few words whose next word depends on the last two and on the image.

    It has the verbs that `generate` asks for; its cache holds the words.
    """

    def __init__(self, vocabulary: int, *, seed: int = 0, spread: float = 2.0):
        generator = torch.Generator().manual_seed(seed)
        shape = (8, vocabulary, vocabulary, vocabulary)
        self.table = torch.randn(shape, generator=generator, dtype=torch.float64) * spread

    class Cache:
        def __init__(self, features, copies):
            self.images, self.copies = features[:, 0, 0].long(), copies
            self.ids = None

        def spread(self):
            self.ids = self.ids.repeat_interleave(self.copies, dim=0)

        def select(self, rows):
            self.ids = self.ids[rows]
            self.images = self.images[rows[:: self.copies] // self.copies]

        def forget_last(self):
            self.ids = self.ids[:, :-1]

    def new_cache(self, features, *, max_length, copies=1):
        return self.Cache(features, copies)

    def decode(self, ids, features, *, cache):
        cache.ids = ids if cache.ids is None else torch.cat([cache.ids, ids], dim=1)
        images = cache.images.repeat_interleave(len(cache.ids) // len(cache.images))
        return self.table[images, cache.ids[:, -2], cache.ids[:, -1]][:, None]

    def logits(self, states):
        return states

    def logprob(self, image: int, ids: list[int], start: int) -> float:
        total = 0.0
        for i in range(start, len(ids)):
            row = self.table[image, ids[i - 2], ids[i - 1]].log_softmax(dim=0)
            total += row[ids[i]].item()
        return total


def features_of(images: list[int]) -> torch.Tensor:
    return torch.tensor(images, dtype=torch.float64)[:, None, None].expand(-1, 1, 1)


def search(model, images, *, seeds=None, prompt=(0, 1), **options):
    prompts = torch.tensor([prompt] * len(images))
    options = GenerateConfig(**{"min_length": 0, "max_length": 6} | options)
    return generate(model, features_of(images), prompts, sep_id=SEP, options=options, seeds=seeds)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("min_length", [0, 5])
def test_many_beams_are_exhaustive_search(length_penalty, min_length):
    model, vocabulary = TableModel(4), 4
    expected = {}
    for words in range(1, 5):
        for ids in product(range(vocabulary), repeat=words):
            ended = ids[-1] == SEP
            if SEP in ids[:-1] or (not ended and words < 4):
                continue
            length = 2 + words - ended
            if ended and length < min_length:
                continue
            total = model.logprob(3, [0, 1, *ids], 2)
            expected[ids[: words - ended]] = total / length**length_penalty
    ranked = sorted(expected.items(), key=lambda item: -item[1])[:5]
    # 4 words of 4 kinds: 256 beams hold every beginning, so nothing is pruned away.
    found = search(
        model,
        [3],
        num_beams=256,
        num_return=5,
        length_penalty=length_penalty,
        min_length=min_length,
    )
    assert [tuple(h.ids) for h in found[0]] == [ids for ids, _ in ranked]
    assert [h.score for h in found[0]] == pytest.approx([score for _, score in ranked], rel=1e-4)


class TieFreeModel(TableModel):
    """Surer from word to word, or texts of the same triples would have the same probability."""

    def decode(self, ids, features, *, cache):
        return super().decode(ids, features, cache=cache) * self.sureness(cache.ids.size(1))

    @staticmethod
    def sureness(length: int) -> float:
        return 1 + length / 10


def plain_beam_search(
    model: TieFreeModel, image: int, prompt: tuple[int, ...], options: GenerateConfig
) -> list[tuple[list[int], float]]:
    """BLIP's beam search of one image, a beam at a time: (words, score), best first."""
    count, beams, finished = options.num_beams, [(0.0, list(prompt))], []

    def finish(total: float, ids: list[int]) -> None:
        finished.append((ids[len(prompt) :], total / len(ids) ** options.length_penalty))
        finished.sort(key=lambda found: -found[1])
        del finished[count:]

    for length in range(len(prompt), options.max_length):
        ways = []
        for total, ids in beams:
            row = model.table[image, ids[-2], ids[-1]] * model.sureness(length)
            for word, score in enumerate(row.log_softmax(dim=0).tolist()):
                score *= options.repetition_penalty if word in ids else 1  # it is below 0
                if word != SEP or length >= options.min_length:
                    ways.append((total + score, ids, word))
        ways = sorted(ways, key=lambda way: -way[0])[: 2 * count]
        for total, ids, word in ways[:count]:
            if word == SEP:
                finish(total, ids)
        beams = [(total, [*ids, word]) for total, ids, word in ways if word != SEP][:count]
        best = ways[0][0] / length**options.length_penalty
        if len(finished) == count and (options.early_stopping or finished[-1][1] >= best):
            return finished
    for total, ids in beams:
        finish(total, ids)
    return finished


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"length_penalty": 2.0, "num_beams": 2},
        {"length_penalty": -1.0},
        {"early_stopping": True, "length_penalty": 2.0},
        {"min_length": 6, "repetition_penalty": 1.5},
    ],
)
def test_beam_search_keeps_to_its_rules(options):
    """`[SEP]` ends a beam only from among the first num_beams, among all the other rules."""
    options = {"num_beams": 3, "min_length": 0, "max_length": 9} | options
    options["num_return"] = options["num_beams"]
    for seed in range(4):
        model = TieFreeModel(5, seed=seed, spread=1.0)
        found = search(model, list(range(8)), **options)
        for image, hypotheses in enumerate(found):
            expected = plain_beam_search(model, image, (0, 1), GenerateConfig(**options))
            assert [h.ids for h in hypotheses] == [ids for ids, _ in expected]
            scores = [score for _, score in expected]
            assert [h.score for h in hypotheses] == pytest.approx(scores, rel=1e-4)


@torch.no_grad()
def test_a_captioner_finds_what_scoring_every_caption_finds():
    """With its cache, word by word, what one pass over each whole caption says is likeliest."""
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[SEP]", "a", "dog", "cat"])
    size, sep = tokenizer.vocab_size, tokenizer.sep_id
    sizes = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
    config = Config(
        vit=ViTConfig(image_size=16, patch_size=8, **sizes),
        decoder=DecoderConfig(vocab_size=size, features_dim=16, max_positions=40, **sizes),
    )
    torch.manual_seed(0)
    captioner = Captioner(config=config, tokenizer=tokenizer).init_weights().eval()
    for parameter in captioner.parameters():
        parameter.mul_(6)
    images = torch.randn(2, 3, 16, 16)
    captions = list(product(range(size), repeat=3))
    ids = torch.tensor([[*tokenizer.prompt_ids(""), *caption] for caption in captions])
    logprobs = captioner(images, ids.repeat(2, 1)).log_softmax(dim=-1)[:, :-1]
    words = logprobs.gather(2, ids[:, 1:].repeat(2, 1)[..., None])[..., 0].view(2, -1, 3)
    settings = {"num_beams": size**2, "min_length": 0, "max_length": 4, "length_penalty": 1.0}
    found = captioner.describe(images, prompts="", num_return=4, **settings)
    for image in range(2):
        scores = {}
        for caption, row in zip(captions, words[image].tolist(), strict=True):
            said = caption[: caption.index(sep)] if sep in caption else caption
            ended = len(said) < 3
            scores[said] = sum(row[: len(said) + ended]) / (1 + len(said))
        best = sorted(scores, key=scores.get, reverse=True)[:4]
        pieces = [[tokenizer.ids[piece] for piece, _ in c.tokens] for c in found[image]]
        assert [tuple(i for i in ids if i != sep) for ids in pieces] == best


def test_greedy_is_one_beam():
    model = TableModel(9)
    from smile.model.generate import beam_search

    options = GenerateConfig(num_beams=1, min_length=0, max_length=12)
    prompts = torch.tensor([[0, 1]] * 8)
    beams = beam_search(model, features_of(range(8)), prompts, sep_id=SEP, options=options)
    greedy = search(model, list(range(8)), num_beams=1, max_length=12)
    assert [h[0].ids for h in greedy] == [h[0].ids for h in beams]
    assert len({len(h[0].ids) for h in greedy}) > 2  # images ended at different steps


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return": 2},
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 2, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_length": 6},
        {"top_p": 0.8, "num_return": 3},
        {"top_k": 4, "temperature": 0.7, "repetition_penalty": 1.1},
    ],
)
def test_a_batch_gives_what_each_image_gives_alone(options):
    model, images = TableModel(12, seed=1), [0, 1, 2, 3, 4, 5, 6, 7]
    seeds = [100 + image for image in images]
    together = search(model, images, seeds=seeds, max_length=14, **options)
    alone = [
        search(model, [image], seeds=[seed], max_length=14, **options)[0]
        for image, seed in zip(images, seeds, strict=True)
    ]
    assert together == alone
    backwards = search(model, images[::-1], seeds=seeds[::-1], max_length=14, **options)
    assert backwards[::-1] == together


def test_log_probabilities_are_the_models_own():
    """Whatever penalties steered the search, each token's log-probability is the plain one."""
    model = TableModel(9)
    for options in ({"num_beams": 3, "num_return": 3}, {"top_p": 0.9, "num_return": 3}):
        [found] = search(model, [5], max_length=9, repetition_penalty=1.3, **options)
        for hypothesis in found:
            ended = len(hypothesis.logprobs) > len(hypothesis.ids)
            ids = [0, 1, *hypothesis.ids, *[SEP] * ended]
            assert sum(hypothesis.logprobs) == pytest.approx(model.logprob(5, ids, 2), rel=1e-5)
            assert len(hypothesis.logprobs) == len(ids) - 2


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3}, {"temperature": 1.5}])
def test_a_score_is_the_log_probability_for_its_length(settings):
    """Divided by length ** length_penalty; the length counts the prompt, but not [SEP]."""
    options = {"length_penalty": 0.5, "max_length": 6, **settings}
    found = [hypotheses[0] for hypotheses in search(TableModel(6), list(range(8)), **options)]
    for hypothesis in found:
        expected = sum(hypothesis.logprobs) / (2 + len(hypothesis.ids)) ** 0.5
        assert hypothesis.score == pytest.approx(expected)
    assert any(len(h.logprobs) > len(h.ids) for h in found)  # ended with [SEP]


def test_seeds_repeat_and_differ():
    model = TableModel(12)
    options = {"temperature": 1.5, "max_length": 12}
    first = search(model, [1, 1, 1], seeds=[7, 8, 7], **options)
    assert first[0] == first[2] != first[1]
    assert search(model, [1], seeds=[7], **options)[0] == first[0]
    several = search(model, [1], seeds=[7], num_return=6, **options)[0]
    assert len({tuple(h.ids) for h in several}) > 1
    scores = [h.score for h in several]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_sampling_follows_the_distribution():
    model = TableModel(5, spread=1.0)
    draws = 4000
    found = search(model, [2] * draws, seeds=list(range(draws)), max_length=3, do_sample=True)
    firsts = torch.tensor([h[0].ids[0] if h[0].ids else SEP for h in found])
    observed = torch.bincount(firsts, minlength=5) / draws
    expected = model.table[2, 0, 1].softmax(dim=0).float()
    assert torch.allclose(observed, expected, atol=4 * math.sqrt(0.25 / draws))


def test_nucleus_keeps_exactly_the_defined_mass():
    """The smallest set of likeliest words that reaches top_p, with the word that crosses it."""
    generator = torch.Generator().manual_seed(0)
    for top_p in (0.05, 0.3, 0.9, 0.999, 1.0):
        logits = torch.randn(50, 40, generator=generator, dtype=torch.float64) * 3
        full = logits.softmax(dim=-1)
        kept = sampling_probabilities(logits, GenerateConfig(top_p=top_p))
        for original, probabilities in zip(full, kept, strict=True):
            ranked = sorted(original.tolist(), reverse=True)
            size = next(n for n in range(1, 41) if sum(ranked[:n]) >= top_p - 1e-12)
            chosen = probabilities > 0
            assert int(chosen.sum()) == size
            assert original[chosen].min() >= ranked[size - 1]
            mass = original[chosen].sum()
            assert torch.allclose(probabilities[chosen], original[chosen] / mass)
            assert probabilities.sum().item() == pytest.approx(1.0)


def test_top_k_and_temperature():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    kept = sampling_probabilities(logits, GenerateConfig(top_k=2, temperature=0.5))
    e = math.exp
    assert kept[0].tolist() == pytest.approx([0, e(6) / (e(6) + e(4)), e(4) / (e(6) + e(4)), 0])
    assert (sampling_probabilities(logits, GenerateConfig(top_k=9)) > 0).all()


def test_constraints_by_hand():
    scores = torch.tensor([[-1.0, 2.0, -3.0, 0.5]])
    ids = torch.tensor([[0, 1, 0]])
    options = GenerateConfig(repetition_penalty=2.0, min_length=4, num_beams=1)
    # 0 and 1 were said: -1 doubles, 2 halves. Three tokens so far, so [SEP] must wait.
    assert constrain(scores, ids, sep_id=2, options=options).tolist() == [
        [-2.0, 1.0, -math.inf, 0.5]
    ]
    options = GenerateConfig(min_length=3)
    assert constrain(scores, ids, sep_id=2, options=options)[0, 2] == -3.0
    options = GenerateConfig(no_repeat_ngram_size=2, min_length=0)
    # After "0 1 0", the pair "0 1" must not come again.
    assert constrain(scores, ids, sep_id=2, options=options)[0].isinf().tolist() == [
        False, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 2}, {"do_sample": True}])
@pytest.mark.parametrize("goes_on", [1e-6, 0.9])
def test_a_forbidden_word_is_begun_only_where_it_may_well_go_on(settings, goes_on):
    """As likely as "cat" is, it must not lead to an unlikely "cattle" instead of a likely "dog"."""
    vocabulary = ["[PAD]", "[UNK]", "[SEP]", "cat", "##tle", "dog", "[DEC]", "[ENC]"]
    model, tokenizer = TableModel(8), Tokenizer(vocabulary)
    cat, tle, dog = 3, 4, 5
    model.table[:] = torch.full((8,), -100.0, dtype=torch.float64)
    model.table[..., SEP] = 0.0
    model.table[:, 0, 1, [cat, dog, SEP]] = torch.tensor([0.98, 0.02, 1e-9]).double().log()
    model.table[:, 1, cat, [tle, SEP]] = torch.tensor([goes_on, 1 - goes_on]).double().log()
    forbidden = Forbidden(["cat"], tokenizer, prompt_length=2, max_length=6)
    options = GenerateConfig(min_length=0, max_length=6, forbid=("cat",), **settings)
    prompts = torch.tensor([[0, 1]] * 8)
    found = generate(
        model, features_of(range(8)), prompts, sep_id=SEP, options=options, forbidden=forbidden
    )
    expected = [cat, tle] if goes_on > 0.5 else [dog]
    assert [hypotheses[0].ids for hypotheses in found].count(expected) >= (
        7 if options.samples else 8
    )
    with pytest.raises(ValueError, match="forbidden"):
        generate(model, features_of(range(8)), prompts, sep_id=SEP, options=options)


def test_no_repeated_ngrams_in_what_comes_out():
    model = TableModel(5, seed=3)
    for size in (1, 2, 3):
        options = {"num_beams": 1, "max_length": 20, "no_repeat_ngram_size": size, "min_length": 4}
        [[found]] = search(model, [4], **options)
        ids = [0, 1, *found.ids]
        grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        assert len(set(grams)) == len(grams)
        [[free]] = search(model, [4], **options | {"no_repeat_ngram_size": 0})
        assert free.ids != found.ids


def test_early_stopping_ends_the_search_sooner():
    """With it, the first num_beams captions to end are all there is to choose from."""
    model = TableModel(6, seed=2)
    plain = [h[0].score for h in search(model, list(range(8)), num_beams=2, max_length=20)]
    early = search(model, list(range(8)), num_beams=2, max_length=20, early_stopping=True)
    early = [h[0].score for h in early]
    assert all(a >= b - 1e-9 for a, b in zip(plain, early, strict=True))
    assert plain != early


def test_impossible_requests_are_refused():
    model = TableModel(5)
    with pytest.raises(UserError, match="max_length is 2, but the prompt alone has 2"):
        search(model, [0], max_length=2)
    with pytest.raises(UserError, match="num_return is 4, but num_beams only 3"):
        search(model, [0], num_beams=3, num_return=4)


def test_caption_takes_any_prompt_per_image():
    """Empty, short and long prompts in one batch: each image as if it were alone."""
    golden = load_golden("a")
    captioner = golden.captioner
    captioner.tokenizer = smile.model.tokenizer.Tokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", *map(str, range(202))]
    )
    images = golden.expected["image"]
    prompts = ["", "a photo of ", "a photo "]
    settings = {"max_length": 12, "min_length": 6, "num_beams": 2}
    together = captioner.describe(images, prompts=prompts, **settings)
    for i, prompt in enumerate(prompts):
        [alone] = captioner.describe(images[i : i + 1], prompts=prompt, **settings)
        assert alone[0].text == together[i][0].text
        assert alone[0].logprob == pytest.approx(together[i][0].logprob, rel=1e-4)
        assert sum(logprob for _, logprob in alone[0].tokens) == pytest.approx(alone[0].logprob)
    with pytest.raises(UserError, match=r"generate\.num_beam.*did you mean generate\.num_beams"):
        captioner.describe(images, num_beam=2)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3, "length_penalty": 0.0}])
def test_same_captions_as_transformers(settings, tmp_path):
    """Random weights of base proportions, all of one length: the library finds what we find."""
    theirs = make_transformers(tmp_path, vit=(96, 3, 3), text=(96, 3, 3), vocab=300)
    ours = smile.load(tmp_path)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    lengths = {"max_length": 20, "min_length": 20}
    prompt = [298, 4, 5, 6]
    prompts = torch.tensor([[*prompt, 3]] * 4)
    expected = theirs.generate(pixel_values=images, input_ids=prompts, **lengths, **settings)
    found = ours.describe(images, prompts="a picture of ", **lengths, **settings)
    ids = [[ours.tokenizer.ids[piece] for piece, _ in captions[0].tokens] for captions in found]
    assert ids == [row[4:20].tolist() for row in expected]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 1}], ids=str)
def test_a_step_asks_for_the_device_s_numbers_once(options, monkeypatch):
    """However many images and ended captions: each question waits for the device to catch up."""
    asked = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__"):
        method = getattr(torch.Tensor, name)

        def noting(tensor, method=method, name=name):
            asked.append(name)
            return method(tensor)

        monkeypatch.setattr(torch.Tensor, name, noting)
    found = search(TableModel(9), list(range(8)) * 5, max_length=12, **options)
    steps = max(len(h.ids) + 1 for [h] in found)
    assert len(asked) <= 2 * steps  # of one moment: words, and their log-probabilities
