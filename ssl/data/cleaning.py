"""Cleaning of documents: Unicode normalisation, minimum length, removal of exact duplicates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal, cast

from rlgym.ssl.data.documents import Bad, Item

# Characters that never combine or reorder with the one before them in NFC or NFKC: Latin and ASCII, Chinese characters,
# Korean syllables. Between two of them a text can be cut and its parts normalised separately.
_SAFE = re.compile("[\x00-\u02ff\u3400-\u9fff\uac00-\ud7a3]")


def normalized(items: Iterable[Item], form: str) -> Iterator[Item]:
    """Normalise documents (NFC, NFKC) piece by piece, with the same result as for whole documents."""
    chosen = cast(Literal["NFC", "NFKC"], form)
    held = ""
    for item in items:
        if isinstance(item, Bad):
            held = ""
            yield item
            continue
        text, ends = held + item[0], item[1]
        at = len(text) if ends else _last_safe(text)
        yield unicodedata.normalize(chosen, text[:at]), ends
        held = text[at:]


def _last_safe(text: str) -> int:
    """Index of the last character before which the text can be cut; 0 if there is none."""
    for start in range(max(0, len(text) - 64), -64, -64):
        found = [match.start() for match in _SAFE.finditer(text, max(0, start), start + 64)]
        if found:
            return found[-1]
    return 0


class Filter:
    """Decides which documents to keep, and counts the others."""

    def __init__(self, min_length: int, deduplicate: bool) -> None:
        self.min_length, self.deduplicate = max(1, min_length), deduplicate
        self.too_short = self.duplicates = 0
        self._seen: set[bytes] = set()

    def keeps(self, characters: int, digest: bytes) -> bool:
        if characters < self.min_length:
            self.too_short += 1
            return False
        if self.deduplicate:
            key = digest[:16]  # half of a SHA-256 suffices and takes less memory, about 100 bytes per document
            if key in self._seen:
                self.duplicates += 1
                return False
            self._seen.add(key)
        return True
