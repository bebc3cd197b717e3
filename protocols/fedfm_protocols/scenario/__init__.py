"""Scripted runs of the protocol: what happens, what goes wrong on purpose, and what must follow."""
