"""A source listed and checked, as `shard plan` does it."""

from __future__ import annotations

from lanit.data.listing import Listing, check_listing, keys_of
from lanit.data.sources import open_source


def listing(**source) -> Listing:
    found = open_source(source).listing()
    keys_of(found.names)
    check_listing(found)
    return found


def by_split(found: Listing) -> dict[str, set[str]]:
    """Split → names of its images."""
    return {s: {n for n, split in zip(found.names, found.splits) if split == s} for s in set(found.splits)}
