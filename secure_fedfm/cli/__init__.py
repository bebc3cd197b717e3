"""The command line: secure-fedfm VERB ..."""
