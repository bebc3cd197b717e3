"""The secure-fedfm application: training, transport, services and command line."""

__version__ = "0.1.0"
