"""Scores of captions that need no network and no model: text against text.

references = References([tokenize_all(captions) for captions in captions_of_each_image])
candidates = Candidates(tokenize_all(captions), references)
bleu(candidates).scores[3].corpus, rouge_l(candidates).corpus, cider_d(candidates).per_image
"""
