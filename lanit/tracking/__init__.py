"""MLflow: one experiment per dataset, one parent run per sweep, one child per (variant, N, seed, configuration).

`lanit track` makes the store before anything logs (processes that meet a missing database race to create it); training
logs through `TrainingRun`, which never waits for the store; `log_scores` and `log_tables` add what came out. MLflow
itself takes seconds to import, so only the functions that talk to the store import it.
"""

from lanit.tracking.results import log_scores, log_tables
from lanit.tracking.store import TrackOptions, add_arguments, make_store, read_store, ui_command
from lanit.tracking.training_run import TrainingRun

__all__ = [
    "TrackOptions",
    "TrainingRun",
    "add_arguments",
    "log_scores",
    "log_tables",
    "make_store",
    "read_store",
    "ui_command",
]
