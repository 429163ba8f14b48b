"""The folder of tables: which are done, and by which model and settings.

00000.parquet          the captions of 00000.tar
00000.stats.json       how many, written last: what has both is done, anything else is not
_run.json              the model and settings; another run with others is refused
_parts.parquet         of a folder of images: which of them are in which part
.00000.parquet.lock    on a disk: a process is at work on it
"""

import json
import time
from pathlib import Path
from typing import Any

from smile.captioning.caption_file import differences
from smile.errors import UserError, first_few
from smile.scale.store import Claim, open_folder
from smile.system.files import expect, parse_json, writing

VERSION = 1  # of the files above
RUN = "_run.json"
TABLE, STATS = ".parquet", ".stats.json"


class Output:
    """The tables of one run, in a folder on a disk or a store, that many processes fill.

    Args:
        address: of the folder.
        run: what the captions depend on, JSON through and through; all of it has to be the same
            when another process, or a later run, adds to the folder, save "source".
    """

    def __init__(self, address: str, *, run: dict[str, Any]) -> None:
        self.address = address  # with its keys
        self.folder = open_folder(address)
        self.run = json.loads(json.dumps({"version": VERSION} | run))

    def prepare(self) -> None:
        """Says in the folder what it is for. Several processes may call it at once.

        Raises:
            UserError: it was made by another model or settings, or cannot be written.
        """
        address = self.folder.address
        names = self.folder.sizes()
        if RUN not in names:
            if any(name.endswith(TABLE) and name[0] not in "._" for name in names):
                raise UserError(
                    f"{address} holds tables, but no {RUN}, which tells the model and settings "
                    "that wrote them: name another --out"
                )
            text = json.dumps(self.run, indent=2, ensure_ascii=False) + "\n"
            self._publish_text(text, RUN, is_new=True)
        where = f"{address}/{RUN}"
        found = self.folder.read(RUN, lambda file: file.read())
        before = expect(parse_json(found, where), dict, where=where)
        if differing := differences(before, self.run):
            raise UserError(
                f"{address} was made with another model or settings: {first_few(differing, 8)}: "
                "name another --out"
            )

    def done(self) -> set[str]:
        """The names of the units that have their tables."""
        sizes = self.folder.sizes()
        named = {name.removesuffix(STATS) for name in sizes if name.endswith(STATS)}
        found = {name for name in named if sizes[name + STATS] and sizes.get(name + TABLE)}
        for name in found:
            if f".{name}{TABLE}.lock" in sizes:  # left by a process that was killed at the very end
                self.claim(name).release()
        return found

    def is_done(self, name: str) -> bool:
        return bool(self.folder.size(name + STATS) and self.folder.size(name + TABLE))

    def counts(self, name: str) -> dict[str, Any]:
        """How many images of a unit that is done have captions, how many failed."""
        what = name + STATS
        stats = parse_json(self.folder.read(what, lambda file: file.read()), what)
        return {f"num_{which}": stats[which] for which in ("described", "failed", "others")}

    def claim(self, name: str) -> Claim:
        """The right to make a unit's table."""
        return self.folder.claim(name + TABLE, name + STATS)

    def wait_for(self, name: str) -> None:
        """Waits up to 10 s for a process that was killed, and removes what it began of a unit."""
        for _ in range(100):
            claim = self.claim(name)
            claim.release()
            if claim.free:
                break
            time.sleep(0.1)

    def publish(self, table: Path, name: str, stats: dict[str, Any]) -> None:
        """Puts a finished table in its place, and then says that it is done."""
        self.folder.publish(table, name + TABLE)
        text = json.dumps({"version": VERSION} | stats, ensure_ascii=False) + "\n"
        self._publish_text(text, name + STATS)

    def _publish_text(self, text: str, name: str, *, is_new: bool = False) -> None:
        with self.folder.temporary(name) as temporary:
            with writing(temporary):
                temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
            publish = self.folder.publish_new if is_new else self.folder.publish
            publish(temporary, name)
