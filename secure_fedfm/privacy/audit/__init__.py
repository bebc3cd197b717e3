"""Tests that try to break the privacy of private training; each says what it cannot show.

paired: the real training path on neighbouring data, step by step. monte_carlo: the released
numbers, many times over. one_run: canaries in a single release. subject: a model to try it on.
"""
