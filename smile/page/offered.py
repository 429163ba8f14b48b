"""The captioners that the page offers: those of its command line, else the runs and known names."""

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from smile.config import GenerateConfig
from smile.errors import UserError
from smile.system.missing import shown_size
from smile.weights.known import KNOWN
from smile.weights.load import newest_first
from smile.weights.needed import local, published_pin
from smile.weights.pins import pinned_weights
from smile.weights.run_folder import MLE_FOLDER, is_run, run_config

LONGEST = 60  # tokens, where it is not known how many a captioner can write
DRAWN_REMARK = "trained on drawn scenes only, so of photos the captions make no sense"
SMALL_REMARK = (
    "small, and often wrong: it takes everything for people, dogs, sport or beaches; blip-base, "
    "one large download, has learned from far more photos"
)


@dataclass(frozen=True)
class Offer:
    """A captioner that can be chosen.

    source: what `smile.load` takes.
    note: what it is, and what choosing it costs.
    settings: how it writes captions unless asked otherwise, as far as known before it is loaded.
    drawn: whether it knows drawn scenes only, so that photos make no sense to it.
    remark: what to expect of its captions; "" if nothing is known.
    longest: how many tokens a caption of it can be asked to have at most.
    """

    source: str
    note: str = ""
    settings: GenerateConfig = field(default_factory=GenerateConfig)
    drawn: bool = False
    remark: str = ""
    longest: int = LONGEST

    @property
    def label(self) -> str:
        return f"{self.source} ({self.note})" if self.note else self.source


@dataclass(frozen=True)
class Offers:
    """What can be chosen, the first by default, and a line for each run that cannot be read."""

    models: tuple[Offer, ...]
    left_out: tuple[str, ...] = ()

    def __getitem__(self, source: str) -> Offer:
        return next(offer for offer in self.models if offer.source == source)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage: streamlit run app.py -- --model MODEL --model MODEL …")


def asked_models(words: Sequence[str]) -> list[str]:
    """The models of `streamlit run app.py -- --model A --model B`; none if none is named.

    Raises:
        UserError: there is something else on the command line.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", action="append", default=[])
    models = parser.parse_args(words).model
    if not all(models):
        parser.error("--model: found nothing, expected the name of a captioner")
    return list(dict.fromkeys(models))


def find_offers(asked: Sequence[str], *, runs: str | Path = "runs") -> Offers:
    """The models `asked` for; if there are none, what needs no download first.

    That is: a captioner that comes along, the runs (the newest first, those of drawn scenes last),
    and the published captioners.
    """
    if asked:
        return Offers(tuple(map(_offer, asked)))
    found, left_out = [], []
    for folder in newest_first(Path(runs)):
        for run in (folder, folder / MLE_FOLDER):
            try:
                if is_run(run):
                    found.append(_offer_of_run(str(run)))
            except UserError as error:
                left_out.append(str(error))
    known = [_offer(name) for name in KNOWN]
    along = [offer for offer in known if not KNOWN[offer.source].address]
    found.sort(key=lambda offer: offer.drawn)
    return Offers((*along, *found, *(o for o in known if o not in along)), tuple(left_out))


def _offer(source: str) -> Offer:
    """What is known of a captioner without loading it."""
    offer = Offer(source)
    if is_run(local(source)):
        with contextlib.suppress(UserError):  # loading it will say why
            offer = _offer_of_run(source)
    known = KNOWN.get(source)
    if known is None:
        return offer
    if known.address:
        return replace(offer, note=f"{known.meaning}{_cost(source)}")
    return replace(offer, note=known.meaning, remark=f"{source}: {SMALL_REMARK}")


def _offer_of_run(source: str) -> Offer:
    config = run_config(local(source))
    drawn = config.model.trained_on == "shapes"
    longest = min(config.decoder.max_positions, max(LONGEST, config.generate.max_length))
    offer = Offer(source, settings=config.generate, drawn=drawn, longest=longest)
    if not drawn:
        return offer
    return replace(offer, note="drawn scenes only", remark=f"{source}: {DRAWN_REMARK}")


def _cost(source: str) -> str:
    """What a published captioner costs before its first caption, as the end of a note."""
    hub = KNOWN[source].hub
    size = published_pin(source, (pinned_weights(hub) or "") if hub else "").size
    return f", one download of {shown_size(size)}" if size else ", one large download"
