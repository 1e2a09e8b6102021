"""Errors a user can act on. Each message is one line that names the cause and the cure."""


class FastpruneError(Exception):
    """Base of every error fastprune raises on purpose; the command line prints it as one line."""


class UnsupportedModelError(FastpruneError):
    """The model's architecture has no declaration, or the declaration does not fit the model."""


class BudgetError(FastpruneError):
    """A budget that cannot be parsed or reached."""


class DataError(FastpruneError):
    """Calibration or evaluation data that cannot be used."""


class CheckpointError(FastpruneError):
    """A checkpoint that cannot be read or written."""


class NumericalError(FastpruneError):
    """Non-finite values where the method needs finite ones."""


class LatencyTableError(FastpruneError):
    """A latency table that cannot be read, written, measured or used for a model."""


class BatchError(FastpruneError):
    """A job file that cannot be understood, or a batch that cannot be run as asked."""
