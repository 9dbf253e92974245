"""MLflow: one experiment per dataset, one parent run per sweep, one child per (variant, N, seed, configuration).

Training logs through `TrainingRun`, which never waits for the store; `log_scores` and `log_tables` add what came out,
and `enter_run` what a store that could not be reached lacks of a training. Each of them opens the store by its address
and makes what is not there. MLflow itself takes seconds to import, so only what talks to the store imports it.
"""

from lanit.address import ui_command
from lanit.tracking.enter import enter_run
from lanit.tracking.results import has_tables, log_scores, log_tables
from lanit.tracking.store import TrackOptions, make_store, read_store
from lanit.tracking.training_run import TrainingRun

__all__ = [
    "TrackOptions",
    "TrainingRun",
    "enter_run",
    "has_tables",
    "log_scores",
    "log_tables",
    "make_store",
    "read_store",
    "ui_command",
]
