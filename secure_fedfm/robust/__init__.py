"""Robust rules: from the Gram matrix of updates (or their sketches) to accept bits and weights."""
