"""Transparency log, evidence bundle and offline verifier of secure-fedfm."""
