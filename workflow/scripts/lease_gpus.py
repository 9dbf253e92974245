"""Run a command with K GPUs of its own: python lease_gpus.py K COMMAND…

Snakemake counts GPUs but does not say which: two jobs at once would share the first. A lease is a lock on a file, which
the command inherits and the system releases when it ends, however it ends. For K = 0 the command sees no GPU. GPUs are
leased by their UUID, for nvidia-smi's numbers need not be CUDA's; a GPU that is divided into MIG devices by those of
its parts. Where CUDA_VISIBLE_DEVICES is set, by the user or by SLURM for an allocation that several jobs may share, the
GPUs are taken from those that it names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time

HIDDEN = ("", "-1", "NoDevFiles", "void", "none")  # what CUDA_VISIBLE_DEVICES is where there are to be none


def main(count: int, command: list[str]) -> None:
    """Become `command`, with CUDA_VISIBLE_DEVICES naming `count` GPUs that no other lease holds."""
    in_slurm = "SLURM_JOB_ID" in os.environ
    devices = list_devices() if count or not in_slurm else []
    if devices and not count:
        print(
            f"note: this job asks for no GPU, and the machine shows {len(devices)}; "
            "--workflow-profile profiles/gpu gives a training one",
            file=sys.stderr,
        )
    if len(devices) < count:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = "this machine shows" if named is None else f"CUDA_VISIBLE_DEVICES, which is {named!r}, names"
        sys.exit(f"{count} GPUs are asked for, and {shown} {len(devices)}; ask for fewer, or run on its CPUs")
    if count or not in_slurm:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(devices, count) if count else [])
    os.execvp(command[0], command)


def list_devices() -> list[str]:
    """Names of the GPUs that may be used: UUIDs where the machine tells them.

    As CUDA does, the list that CUDA_VISIBLE_DEVICES gives ends before the first name that is none of the machine's.
    """
    there = _ask()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [name for gpu in there for name in gpu["parts"] or [gpu["uuid"]]]
    names = []
    for name in (part.strip() for part in allowed.split(",")):
        if name in HIDDEN:
            break
        found = name if not there else _find(name, there)
        if found is None:
            print(f"warning: CUDA_VISIBLE_DEVICES names {name!r}, which is no GPU of this machine", file=sys.stderr)
            break
        if found not in names:
            names.append(found)
    return names


def lease(devices: list[str], count: int) -> list[str]:
    """Wait until `count` of `devices` are free, and hold them until this process and what it becomes have ended."""
    while True:
        held = {}
        for device in devices:
            path = os.path.join(tempfile.gettempdir(), f"lanit-gpu-{os.getuid()}-{_file_name(device)}.lock")
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


def _ask() -> list[dict]:
    """The machine's GPUs as `nvidia-smi -L` lists them: `index`, `uuid`, and `parts`, the UUIDs of its MIG devices."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    gpus: list[dict] = []
    for line in told.splitlines():
        if match := re.match(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", line):
            gpus.append({"index": match[1], "uuid": match[2], "parts": []})
        elif gpus and (match := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)):
            gpus[-1]["parts"].append(match[1])
    return gpus


def _find(name: str, there: list[dict]) -> str | None:
    """The UUID of what CUDA_VISIBLE_DEVICES calls `name`: a number, a UUID or the beginning of one, a MIG device."""
    if name.isdigit():  # nvidia-smi counts by the bus; CUDA does where it is told to, and a UUID means one GPU to both
        return there[int(name)]["uuid"] if int(name) < len(there) else None
    if name.startswith("MIG-GPU-"):  # the older name of a MIG device, which nvidia-smi does not list
        return name
    known = [uuid for gpu in there for uuid in (gpu["uuid"], *gpu["parts"])]
    found = [uuid for uuid in known if uuid.startswith(name)]
    return found[0] if len(found) == 1 else None


def _file_name(device: str) -> str:
    """A device in a file's name; a number, where no UUID is known, is another GPU in every SLURM job."""
    if device.isdigit() and "SLURM_JOB_ID" in os.environ:
        device = f"{os.environ['SLURM_JOB_ID']}-{device}"
    plain = re.sub(r"[^\w.-]+", "_", device)
    return plain if plain == device else f"{plain}-{hashlib.sha256(device.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit("usage: python lease_gpus.py K COMMAND…")
    main(int(sys.argv[1]), sys.argv[2:])
