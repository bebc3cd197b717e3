"""The application's branch of the one exception tree.

    FedFMError                      (fedfm_crypto.errors, the root)
      ApplicationError              anything the application refuses or cannot do
        DataError                   a data set: file, column, label, empty part
        ModelError                  a base model or an adapter: missing, wrong hash, wrong shape
          PrivacyGateError          a model that private training would not protect; not trained
        ConfigurationError          a setting or a charter section: unknown key, value out of range
        RobustnessError             scores that a robust rule cannot judge
        StorageError                durable state: schema version, missing or damaged database
        TransportError              sockets: port in use, peer refused, limit exceeded
        ServiceError                a running coordinator or client that cannot go on
          SplitViewFound            a client that was shown two histories of the log

Every message names what was found, what was expected and what to do about it; none holds a secret.
"""

from __future__ import annotations

from fedfm_crypto.errors import FedFMError


class ApplicationError(FedFMError):
    """Root of everything that secure_fedfm itself raises."""


class DataError(ApplicationError):
    """A data set cannot be used as given."""


class ModelError(ApplicationError):
    """A base model or adapter is missing, altered, or of another shape than agreed."""


class PrivacyGateError(ModelError):
    """Private training of this model would not be private, or not train it; nothing was trained."""


class ConfigurationError(ApplicationError):
    """A setting or charter section is unknown, of the wrong type or out of range."""


class RobustnessError(ApplicationError):
    """Scores are malformed, or too few for what a robust rule promises."""


class StorageError(ApplicationError):
    """The durable state of a service is missing, damaged or of another schema version."""


class TransportError(ApplicationError):
    """A connection could not be made, was refused, or broke a limit."""


class ServiceError(ApplicationError):
    """A coordinator or client process cannot continue."""


class SplitViewFound(ServiceError):
    """A client was shown two histories of the log; it keeps the evidence and takes no part."""
