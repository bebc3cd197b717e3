"""Writing ownership marks into adapters, and keeping their keys. What a mark is: fedfm_audit."""
