"""Scores of captions that need no model: text against text.

    references = References([tokenize_all(captions) for captions in captions_of_each_image])
    candidates = Candidates(tokenize_all(captions), references)
    bleu(candidates).scores[3].corpus, cider_d(candidates).per_image

ptb         words as the COCO scores count them
score       what every metric returns
ngrams      captions and references as counted n-grams
bleu        BLEU-1 to BLEU-4
rouge       ROUGE-L
cider       CIDEr and CIDEr-D
statistics  length, richness, novelty
"""
