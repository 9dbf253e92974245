"""torchrun whose exit status tells more: 75 where a training was told to stop and wants to be started again.

    python -m lanit.training.launch --standalone --nproc-per-node=2 -m lanit train …    # torchrun's own arguments

torchrun ends with 1 whatever its workers' status, and dies of signals that it does not know. A worker that has not
saved in time, `PATIENCE` or TORCH_ELASTIC_SHUTDOWN_TIMEOUT, is killed; the next start continues from the checkpoint
before.
"""

from __future__ import annotations

import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from lanit.training.stopping import START_AGAIN

PATIENCE = 110  # seconds that workers get to save; SLURM kills after the two minutes that the profile asks for


def main(arguments: list[str]) -> int:
    """Run torchrun; return 0, 75, or 1."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(PATIENCE))
    if "--standalone" in arguments:  # what a cluster tells torchrun of its nodes (PET_NNODES …) is of another job
        for name in [name for name in os.environ if name.startswith("PET_")]:
            del os.environ[name]
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # passed on to the workers as torchrun passes on SIGTERM
        signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        torchrun(arguments)
    except SignalException:
        return START_AGAIN
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        # Those that torchrun ended, since one had left, had saved as well: all leave together.
        if statuses - {-signal.SIGTERM} == {START_AGAIN}:
            return START_AGAIN
        print(f"a training process ended with status {', '.join(map(str, sorted(statuses)))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
