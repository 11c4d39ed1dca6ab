"""One run a project at a time: who holds it, and whether whoever left a mark is still there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skyloom.ops.errors import ConfigError, SkyloomError
from skyloom.workflows.places import ObjectPlace, Place, Taken

NAME = ".lock"
HEARTBEAT_SECONDS = 30.0
"""How often a holder shows that it lives, where the system does not tell."""
SILENT_SECONDS = 600.0
"""A holder on another machine that has not shown that it lives for so long is taken for dead."""

_held_here: set[str] = set()
"""Lock objects that this process holds."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Busy(ConfigError):
    """Another run is at work in the project."""

    exit_code = 5


@dataclass(frozen=True)
class Owner:
    """A process, so that it is not taken for another of the same number."""

    host: str
    pid: int
    boot: str
    """Which start of the machine ("" = unknown)."""
    born: str
    """When the process began, in the machine's own count ("" = unknown)."""
    since: float
    """When it took the project; seconds since the epoch."""

    @classmethod
    def me(cls) -> Owner:
        """Process that asks."""
        return cls(socket.gethostname(), os.getpid(), _boot(), _born(os.getpid()), round(time.time(), 3))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Owner from what it left, or None where that says nothing."""
        try:
            entry = json.loads(text)
            return cls(
                str(entry["host"]),
                int(entry["pid"]),
                str(entry["boot"]),
                str(entry["born"]),
                float(entry["since"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def to_json(self) -> str:
        """Text for `parse`."""
        return json.dumps(asdict(self))

    def is_same(self, other: Owner) -> bool:
        """Whether it is the same process, whenever it took the project."""
        return (self.host, self.pid, self.boot, self.born) == (other.host, other.pid, other.boot, other.born)

    def gone(self) -> str:
        """Why it cannot be at work any more, or "" where it may be (one on another machine always may)."""
        if self.host != socket.gethostname():
            return ""
        if self.boot and _boot() and self.boot != _boot():
            return "the machine was started anew since"
        if not Path("/proc").exists():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, 0)
                return ""
            return "its process is gone"
        now = _born(self.pid)
        if not now or (self.born and self.born != now):
            return "its process is gone"
        return ""

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, since {when}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _born(pid: int) -> str:
    try:
        # The name of the program, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def left_behind(owner: Owner) -> str:
    """What to tell of a run that ended without giving its project back."""
    why = owner.gone() or "it was stopped from outside"
    return f"the last run here ({owner}) did not end by itself: {why}; what it had done is kept" + (
        " (if the system killed it for want of memory: lower --workers or --memory)" if "process" in why else ""
    )


@contextmanager
def lock(project: Place) -> Iterator[str]:
    """Hold a project for this process.

    Yields
    ------
    str
        What to tell of an earlier run that died holding it, "" for nothing.

    Raises
    ------
    Busy
        If another run holds it.

    Notes
    -----
    The system's own lock dies with its process, also when that is killed or the machine loses its power. On file
    systems that know no locks a file stands for it, whose time of change shows that the holder lives; in an object
    store an object does.
    """
    if isinstance(project, ObjectPlace):
        with _held_object(project) as note:
            yield note
        return
    with (project / NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _busy(project, Owner.parse(file.read())) from None
        except OSError as failure:
            if failure.errno not in _NO_LOCKS:
                raise
            with _held_file(project) as note:
                yield note
            return
        file.seek(0)
        before = Owner.parse(file.read())
        file.truncate(0)
        file.write(Owner.me().to_json())
        file.flush()
        try:
            yield left_behind(before) if before is not None else ""
        finally:
            with suppress(OSError):
                file.truncate(0)


def _busy(project: object, owner: Owner | None) -> Busy:
    return Busy(
        f"project {project}: another run ({owner or 'of an unknown process'}) is at work here; "
        "wait for it or stop it"
    )


@contextmanager
def _held_file(project: Path) -> Iterator[str]:
    path = project / f"{NAME}.held"
    # Two threads of a process are two holders.
    mine = replace(Owner.me(), since=time.time_ns() / 1e9).to_json()
    note = ""
    while True:
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(mine)
            break
        try:
            text = path.read_text(encoding="utf-8")
            silent = _now(project) - path.stat().st_mtime
        except FileNotFoundError:
            continue
        owner = Owner.parse(text)
        if silent < SILENT_SECONDS and (owner is None or not owner.gone()):
            raise _busy(project, owner) from None
        if _take_over(path, stale=text, mine=mine):
            note = left_behind(owner) if owner is not None else ""
            break
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                path.touch()

    threading.Thread(target=beat, name="skyloom-lock", daemon=True).start()
    try:
        yield note
    finally:
        done.set()
        with suppress(FileNotFoundError):
            # One that was silent for too long finds another in its place.
            if path.read_text(encoding="utf-8") == mine:
                path.unlink()


def _take_over(path: Path, *, stale: str, mine: str) -> bool:
    """Put this run in a dead one's place, unless another does.

    The place is never empty meanwhile, or a third would find it free: whoever makes the claim on this very holder
    looks once more and writes over it.
    """
    claim = path.with_name(f"{path.name}.{hashlib.sha256(stale.encode()).hexdigest()[:16]}")
    try:
        with claim.open("x", encoding="utf-8") as file:
            file.write(mine)
    except FileExistsError:
        with suppress(FileNotFoundError):
            if _now(path.parent) - claim.stat().st_mtime > SILENT_SECONDS:
                raise Busy(
                    f"project {path.parent}: a run died as it took the project over from one that died before; "
                    f"remove {claim}"
                ) from None
        time.sleep(0.01)
        return False
    with suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == stale:
            # The claim becomes the holder's file.
            claim.replace(path)
            return True
    claim.unlink(missing_ok=True)
    return False


@contextmanager
def _held_object(project: ObjectPlace) -> Iterator[str]:
    """Hold an object that others may only write over when its holder is gone."""
    where, me, note = project / NAME, Owner.me(), ""
    name = str(where)
    text = me.to_json().encode()
    while True:
        try:
            tag = where.put(text, over=None)
            break
        except Taken:
            try:
                state = where.stat()
                owner = Owner.parse(where.read_text(errors="replace"))
                silent = _now(project) - state.st_mtime
            except FileNotFoundError:
                continue
            if owner == me:
                # The first answer was lost on its way, and it was asked again.
                tag = state.e_tag
                break
            # One that this process could not give back, as the store was gone, is nobody's.
            mine = owner is not None and owner.is_same(me) and name not in _held_here
            if silent < SILENT_SECONDS and not mine and (owner is None or not owner.gone()):
                raise _busy(project, owner) from None
            note = left_behind(owner) if owner is not None and not mine else ""
            # Of several that find it stale one writes it over.
            with suppress(Taken):
                tag = where.put(text, over=state.e_tag)
                break
    _held_here.add(name)
    done = threading.Event()
    held = [tag]

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with suppress(SkyloomError, OSError):
                try:
                    held[0] = where.put(text, over=held[0])
                except Taken:
                    if Owner.parse(where.read_text(errors="replace")) != me:
                        return  # taken for dead: it is another's now
                    held[0] = where.stat().e_tag

    thread = threading.Thread(target=beat, name="skyloom-lock", daemon=True)
    thread.start()
    try:
        yield note
    finally:
        done.set()
        _held_here.discard(name)
        # While the store is asked again and again nobody waits for it.
        thread.join(timeout=5.0)
        with suppress(SkyloomError, OSError):
            if Owner.parse(where.read_text(errors="replace")) == me:
                where.unlink()


def _now(project: Place) -> float:
    """Time by the clock of whoever keeps the files, which stamps them."""
    probe = project / f"{NAME}.now.{os.getpid()}.{threading.get_ident()}"
    if isinstance(probe, ObjectPlace):
        probe.write_bytes(b"")
    else:
        probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
