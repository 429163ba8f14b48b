"""A run that survives: what is saved, when, and how it resumes.

state        everything that the next step depends on
checkpoints  that state on disk: whole files, of which the last two are kept
resume       what must not change between a run and its --resume
folder       where a run lives, alone
signals      being asked to stop
manager      when to save, when to stop, what to say then
"""
