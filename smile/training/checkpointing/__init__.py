"""A run that survives: what is saved, when, and how it resumes.

state        everything that the next step depends on
checkpoints  that state on disk; the last two are kept
resume       which settings must match to resume a run
folder       a run's folder, locked by one process
signals      signals to stop
manager      when to save and when to stop, with the messages
"""
