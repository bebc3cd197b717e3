"""Lattice encryption: NTT, key-additive bulk encryption, collective BFV keys, encrypted scores.

The only part of ``fedfm_crypto`` that needs numba and TenSEAL; nothing outside this sub-package
imports either, and no other module of ``fedfm_crypto`` imports this one.  ``parameters``,
``seal_format``, ``residues``, ``portable_sums`` and ``sketch_format`` need neither: they are what
an auditor loads.
"""
