"""Ownership marks in adapters: claims, verification, disputes, leak tracing (audit/README.md)."""
