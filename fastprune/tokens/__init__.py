"""Fewer tokens on the way through a vision model: scores, schedules, and merging at run time.

``merging`` and ``reduction`` need nothing but a live model, so that checkpoints can be rebuilt with
them; ``schedule`` prices tokens, ``scores`` says what they are worth, ``reduce`` puts all together.
"""
