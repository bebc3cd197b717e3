"""Differentially private training, piece by piece.

plan: the public settings (no torch). sampling: who is in a step. gradients: one gradient per row.
clipping: bounded and summed. release: noise on the integer grid. dp_sgd: the steps of one round.
gate: refuses a model whose gradients these would not protect. audit: tests that try to break it.
"""
