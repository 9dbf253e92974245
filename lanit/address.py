"""Where MLflow's store is: a database's file or a server's address, and never the password that opens it.

Stands on the ground beside `lanit.config`: the workflow needs it too, and whoever starts that may have no numpy.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lanit.config import LanitError

SQLITE = "sqlite:///"


def without_password(uri: str) -> str:
    """The address of a server without the name and the password in it; another URI as it is."""
    scheme, separator, rest = uri.partition("://")
    if not separator or not scheme.lower().startswith("http"):
        return uri
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def keep_password(uri: str) -> str:
    """Put the name and the password of a server's address where MLflow reads them, the environment; return the rest.

    Whatever is printed, logged or written of the address from then on, by MLflow too, holds no password.
    """
    bare = without_password(uri)
    if bare != uri:
        name, _, password = urlsplit(uri).netloc.rpartition("@")[0].partition(":")
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(name)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    return bare


def check_kind(uri: str, where: str) -> None:
    """Raise LanitError unless the URI is of a kind that is kept: a SQLite database or a server."""
    if not uri.startswith((SQLITE, "http://", "https://")) or uri == SQLITE:
        # Not the URI itself: whatever it is, it may hold a password.
        raise LanitError(f"{where} is not a database or a server; give sqlite:///… or http://…")
    if uri.startswith(SQLITE) and "?" in uri:
        raise LanitError(f"{where} {uri} holds a question mark, which a database's address cannot; name another folder")


def database_path(uri: str) -> Path | None:
    """Absolute path of a SQLite store's file; None for another store."""
    return Path(os.path.abspath(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def absolute_uri(uri: str) -> str:
    """The same store named independently of the working directory."""
    database = database_path(uri)
    return uri if database is None else f"{SQLITE}{database}"


def ui_command(uri: str, program: str = "mlflow") -> str:
    """The shell command that opens the UI on the store, its path relative to the working directory where possible."""
    database = database_path(uri)
    if database is None:
        return without_password(uri)  # a server already shows itself
    here = Path.cwd()
    shown = database.relative_to(here) if database.is_relative_to(here) else database
    return shlex.join([program, "ui", "--backend-store-uri", f"{SQLITE}{shown}", "--host", "127.0.0.1"])
