"""Attacks on a federation's model: what malicious clients train on, and what they send."""
