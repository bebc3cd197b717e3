"""Cryptographic primitives of secure-fedfm: bytes and arrays in, bytes and arrays out."""
