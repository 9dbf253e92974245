"""Run a command with K GPUs of its own: python lease_gpus.py K COMMAND…

Snakemake counts GPUs but does not say which: two jobs at once would share the first. A lease is a lock on a file, which
the command inherits and the system releases when it ends, however it ends. For K = 0 the command sees no GPU. Under
SLURM, which names a job's GPUs itself, it runs as it is. Where CUDA_VISIBLE_DEVICES is set, the GPUs are taken from
those that it names.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time


def main(count: int, command: list[str]) -> None:
    """Become `command`, with CUDA_VISIBLE_DEVICES naming `count` GPUs that no other lease holds."""
    if "SLURM_JOB_ID" not in os.environ:
        devices = list_devices()
        if devices and not count:
            print(
                f"note: this job asks for no GPU, and the machine shows {len(devices)}; "
                "--workflow-profile profiles/gpu gives a training one",
                file=sys.stderr,
            )
        if len(devices) < count:
            sys.exit(
                f"{count} GPUs are asked for, and this machine shows {len(devices)}; ask for fewer, or run on its CPUs"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(devices, count) if count else [])
    os.execvp(command[0], command)


def list_devices() -> list[str]:
    """Names of the GPUs that may be used."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, encoding="utf-8", check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def lease(devices: list[str], count: int) -> list[str]:
    """Wait until `count` of `devices` are free, and hold them until this process and what it becomes have ended."""
    while True:
        held = {}
        for device in devices:
            path = os.path.join(tempfile.gettempdir(), f"lanit-gpu-{os.getuid()}-{device}.lock")
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            held[device] = lock
            if len(held) == count:
                for kept in held.values():
                    os.set_inheritable(kept, True)
                return list(held)
        for lock in held.values():  # none is kept while waiting for another: no two jobs wait for each other
            os.close(lock)
        time.sleep(1)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit("usage: python lease_gpus.py K COMMAND…")
    main(int(sys.argv[1]), sys.argv[2:])
