"""Durable state: key files, SQLite journal, site folders."""
