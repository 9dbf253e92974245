"""What the machine did not allow, in one sentence: no memory, no room, no right, no library.

Stands on the ground: the command line asks it of every error that no stage expected.
"""

from __future__ import annotations

import errno
import re

ADVICE = {
    errno.ENOSPC: "the disk is full: make room there, or write elsewhere",
    errno.EDQUOT: "the quota is used up: make room there, or write elsewhere",
    errno.EFBIG: "a file would be larger than the system or `ulimit -f` allows: raise the limit, or write elsewhere",
    errno.EROFS: "it lies in a read-only file system: write elsewhere",
    errno.EACCES: "this user has no right to: change its permissions, or give another path",
    errno.EPERM: "the system does not permit it: give another path",
    errno.EISDIR: "it is a folder, and a file belongs there: give another path",
    errno.ENOTDIR: "a part of the path is a file, and a folder belongs there: give another path",
    errno.EEXIST: "something else is there already: remove it, or give another path",
    errno.ENOENT: "nothing is there: give the path of what is",
    errno.ENAMETOOLONG: "the name is longer than the file system allows: give a shorter one",
    errno.ELOOP: "links there lead to themselves: give the path of the file itself",
    errno.EIO: "the disk reports an error: copy what is there to another",
    errno.ESTALE: "the network file system has lost it: start again",
    errno.EAGAIN: "the system gives no more processes or threads: raise `ulimit -u`",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine",
}
MEMORY = re.compile(
    "not enough memory|out of memory|can(no|')t allocate memory|cannot allocate|bad_alloc|failed to map segment|"
    "std::bad_array_new_length|DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED|can't start new thread|"
    "error return without exception set",  # Python's own, where memory ends within an import
    re.IGNORECASE,
)
LIBRARY = re.compile(r"(\S+\.so[.\d]*|\S+\.dylib|\S+\.dll): (cannot open shared object file|undefined symbol|version)")


def is_out_of_memory(error: BaseException) -> bool:
    """Is memory, or what threads take of it, what was lacking? Each library says so in words of its own."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError | OSError | SystemError) and bool(MEMORY.search(str(error)))


def explain(error: BaseException) -> str | None:
    """Return one sentence on an error that is the machine's, and None for one that is the program's."""
    if is_out_of_memory(error):
        return (
            f"there is not enough memory ({_line(error, MEMORY)}); raise the limit (`ulimit -v`, or the job's), or ask "
            "for less at a time: a smaller batch"
        )
    if isinstance(error, ImportError | OSError) and (found := LIBRARY.search(str(error))):
        return (
            f"the library {found[1]} cannot be loaded ({_line(error, LIBRARY)}); install it, or install torch and "
            "torchvision anew, of versions that go together (constraints.txt has some)"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package {error.name} is not installed here; install lanit with its dependencies"
    if isinstance(error, OSError) and error.errno in ADVICE:
        path = f"{error.filename} cannot be used" if error.filename is not None else "a file cannot be used"
        return f"{path} ({error.strerror}): {ADVICE[error.errno]}"
    if isinstance(error, OSError) and error.errno is None and str(error):  # a library's own: pyarrow's, Pillow's
        return f"a file cannot be used ({' '.join(str(error).split())[:300]}): give another path"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return f"a file cannot be used ({error}): {ADVICE[errno.ELOOP]}"
    return None


def _line(error: BaseException, pattern: re.Pattern[str]) -> str:
    """The line of an error's words that tells; some have a page around it."""
    told = next((line for line in str(error).splitlines() if pattern.search(line)), type(error).__name__)
    return " ".join(told.split())[:200].rstrip(".:; ")
