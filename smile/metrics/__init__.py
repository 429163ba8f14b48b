"""Scores of captions that need no network and no model: text against text.

references = References([tokenize_all(captions) for captions in captions_of_each_image])
candidates = Candidates(tokenize_all(captions), references)
bleu(candidates).scores[3].corpus, rouge_l(candidates).corpus, cider_d(candidates).per_image
"""

from .bleu import Bleu, bleu, bleu_from_counts
from .bootstrap import Bootstrap, Comparison, Interval, jackknife, jackknife_compare
from .cider import can_weigh, cider, cider_d
from .ngrams import Candidates, References
from .ptb import tokenize, tokenize_all
from .rouge import rouge_l
from .score import Score
from .statistics import CaptionStatistics, caption_statistics, repeats_at_tail

__all__ = [
    "Bleu",
    "Bootstrap",
    "Candidates",
    "CaptionStatistics",
    "Comparison",
    "Interval",
    "References",
    "Score",
    "bleu",
    "bleu_from_counts",
    "can_weigh",
    "caption_statistics",
    "cider",
    "cider_d",
    "jackknife",
    "jackknife_compare",
    "repeats_at_tail",
    "rouge_l",
    "tokenize",
    "tokenize_all",
]
