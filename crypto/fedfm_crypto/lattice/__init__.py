"""Lattice encryption: NTT, key-additive bulk encryption, collective BFV keys, SEAL formats.

The only part of ``fedfm_crypto`` that needs numba and TenSEAL; nothing outside this sub-package
imports either, and no other module of ``fedfm_crypto`` imports this one.
"""
