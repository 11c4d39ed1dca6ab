"""Object stores: addresses such as s3://bucket/night/a.fits, and what is read there.

Who is let in is looked up in the environment and the usual files by each process for itself. It is never part of
an address, of a message, or of anything that is written.
"""

from __future__ import annotations

import configparser
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

from skyloom.ops.errors import CapacityError, ConfigError, SkyloomError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
RETRY_SECONDS = 180.0
"""How long a store that answers with errors, or not at all, is asked again."""
_RETRIES = 1000  # the time is what bounds them
_METADATA_SERVER = ("169.254.169.254", 80)
"""Where a machine of Amazon's cloud learns its role."""
_GRANTED_BY = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_REFUSED = ("PermissionDeniedError", "UnauthenticatedError")


class StoreTrouble(CapacityError):
    """An object store that does not answer or lets nobody in. No frame is left out for it."""


class NoSuchBucket(ConfigError):
    """A bucket that is not there, or of another region."""


class ObjectState(NamedTuple):
    """What a store says of an object, named as `os.stat_result` does."""

    st_size: int
    st_mtime_ns: int
    """Time of its last change; many stores count seconds."""
    e_tag: str
    """Another one says that the content was written anew."""

    @property
    def st_mtime(self) -> float:
        """Time of its last change (s)."""
        return self.st_mtime_ns / 1e9


def is_address(text: object) -> bool:
    """Whether a text is the address of something in a store, and not a path."""
    return "://" in str(text)


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An address in an object store, with the faces of `pathlib.Path` that reading needs."""

    bucket: str
    """Such as "s3://bucket"."""
    key: str
    """What follows, without slashes at its ends."""

    @classmethod
    def of(cls, address: str) -> Self:
        """Parse an address.

        Raises
        ------
        ConfigError
            If it is none of a store that is known, or has a password in it.
        """
        scheme, _, rest = address.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme not in SCHEMES or not bucket:
            known = ", ".join(f"{s}://BUCKET/…" for s in SCHEMES)
            raise ConfigError(f"{scheme}://{bucket}: no address that is known; give a folder, or {known}")
        if "@" in bucket:
            raise ConfigError(
                f"{scheme}://…@{bucket.rpartition('@')[2]}: keys and passwords are taken from the environment "
                "only (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or ~/.aws), leave them out of the address"
            )
        return cls(f"{scheme}://{bucket}", "/".join(p for p in key.split("/") if p))

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def as_posix(self) -> str:
        """The address."""
        return str(self)

    @property
    def parts(self) -> tuple[str, ...]:
        """Bucket, and the parts of the key."""
        return (self.bucket, *self.key.split("/")) if self.key else (self.bucket,)

    @property
    def name(self) -> str:
        """Last part."""
        return self.parts[-1].rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """End of the name, with its dot."""
        stem, dot, end = self.name.rpartition(".")
        return f".{end}" if stem and dot and end else ""

    @property
    def parent(self) -> Self:
        """What it lies in."""
        return type(self)(self.bucket, self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> Self:
        parts = self.key.split("/") if self.key else []
        for part in str(name).split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                parts.append(part)
        return type(self)(self.bucket, "/".join(parts))

    def joinpath(self, *names: str) -> Self:
        """Go down several steps."""
        return self / "/".join(names)

    @property
    def store(self) -> ObjectStore:
        """The bucket, opened once a process."""
        return opened(self.bucket)

    def stat(self) -> ObjectState:
        """Size, time and tag.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        SkyloomError
            If the store cannot be asked.
        """
        import obstore

        with said(self):
            return state_of(obstore.head(self.store, self.key))

    def exists(self) -> bool:
        """Whether there is such an object (a folder is none)."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """All of the object."""
        import obstore

        with said(self):
            return bytes(obstore.get(self.store, self.key).bytes())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of the object as text."""
        return self.read_bytes().decode(encoding, errors)

    def read_start(self, count: int) -> tuple[bytes, ObjectState]:
        """Up to `count` bytes of its beginning, and its state, with one request."""
        import obstore

        with said(self):
            try:
                found = obstore.get(self.store, self.key, options={"range": (0, count)})
                return bytes(found.bytes()), state_of(found.meta)
            except obstore.exceptions.BaseError:
                # Stores refuse any range of what is empty.
                state = state_of(obstore.head(self.store, self.key))
                if state.st_size:
                    raise
                return b"", state

    def read_end(self, count: int) -> bytes:
        """Up to `count` bytes of its end."""
        import obstore

        with said(self):
            try:
                return bytes(obstore.get(self.store, self.key, options={"range": {"suffix": count}}).bytes())
            except obstore.exceptions.NotSupportedError:
                size = obstore.head(self.store, self.key)["size"]
                return bytes(obstore.get_range(self.store, self.key, start=max(size - count, 0), end=size))

    def read_ranges(self, starts: Sequence[int], ends: Sequence[int], *, near: int) -> list[bytes]:
        """Several ranges at a time; those no further apart than `near` bytes with one request."""
        import obstore

        with said(self):
            found = obstore.get_ranges(self.store, self.key, starts=starts, ends=ends, coalesce=near)
        return [bytes(part) for part in found]

    def children(self) -> tuple[list[Self], list[Self]]:
        """Folders and objects right below."""
        import obstore

        with said(self):
            found = obstore.list_with_delimiter(self.store, self.key or None)
        folders = [type(self)(self.bucket, p) for p in sorted(found["common_prefixes"])]
        return folders, [type(self)(self.bucket, p) for p in sorted(o["path"] for o in found["objects"])]

    def listed(self) -> list[tuple[Self, ObjectState]]:
        """All objects below, sorted, with their states."""
        import obstore

        with said(self):
            found = [o for part in obstore.list(self.store, self.key or None, chunk_size=1000) for o in part]
        return sorted((type(self)(self.bucket, o["path"]), state_of(o)) for o in found)


def scratch_base() -> Path:
    """Folder for large files that are on their way: TMPDIR, else one on a disk (/tmp often lies in memory)."""
    disk = Path("/var/tmp")
    if not os.environ.get("TMPDIR") and os.access(disk, os.W_OK):
        return disk
    return Path(tempfile.gettempdir())


def state_of(meta: Any) -> ObjectState:
    """State from what obstore says of an object."""
    # Whole microseconds: a float of today's seconds has no room for nanoseconds.
    modified = round(meta["last_modified"].timestamp() * 1e6) * 1000
    return ObjectState(int(meta["size"]), modified, str(meta["e_tag"] or ""))


def opened(root: str) -> ObjectStore:
    """Store of a bucket, or of what lies below an address in it; opened once a process.

    Raises
    ------
    ConfigError
        If the package is missing, or nothing says who is to be let in.
    """
    return _opened(root)


@lru_cache(maxsize=256)
def _opened(root: str) -> ObjectStore:
    place = ObjectPath.of(root)
    try:
        from obstore.store import S3Store, from_url
    except ImportError:
        raise ConfigError(
            f"{place.bucket}: object stores need a package more: pip install 'skyloom[objects]'"
        ) from None
    client: Any = {"timeout": "600s", "read_timeout": "120s", "connect_timeout": "10s"}
    retry: Any = {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2},
    }
    with said(place):
        if not place.bucket.startswith("s3://"):
            return from_url(str(place), client_options=client, retry_config=retry)
        settings = _s3_settings(place.bucket)
        if str(settings.get("endpoint", "")).startswith("http://"):
            client["allow_http"] = True
        name = place.bucket.partition("://")[2]
        return S3Store(name, prefix=place.key or None, config=settings, client_options=client, retry_config=retry)


# A fork must not share what its parent has open.
os.register_at_fork(after_in_child=_opened.cache_clear)


def _s3_settings(bucket: str) -> Any:
    """What the environment does not tell obstore by itself: endpoint, region, and keys that lie in files."""
    environment, profile = os.environ, _profile()
    settings = {}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint := endpoint or profile.get("endpoint_url"):
        if "@" in urlsplit(endpoint).netloc:
            raise ConfigError(f"{bucket}: leave user and password out of AWS_ENDPOINT_URL")
        settings["endpoint"] = endpoint
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region")
    settings["region"] = region or "us-east-1"
    if environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        settings["skip_signature"] = "true"
    elif not any(environment.get(name) for name in _GRANTED_BY):
        if "aws_access_key_id" in profile and "aws_secret_access_key" in profile:
            settings["access_key_id"] = profile["aws_access_key_id"]
            settings["secret_access_key"] = profile["aws_secret_access_key"]
            if token := profile.get("aws_session_token"):
                settings["session_token"] = token
        elif not _has_role():
            raise ConfigError(
                f"{bucket}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or keep them in "
                "~/.aws/credentials (AWS_PROFILE says which); AWS_SKIP_SIGNATURE=true asks for what is public"
            )
    return settings


def _profile() -> dict[str, str]:
    """Entries of the chosen profile in the usual files."""
    name = os.environ.get("AWS_PROFILE") or "default"
    home = Path("~/.aws").expanduser()
    found: dict[str, str] = {}
    for path, section in (
        (os.environ.get("AWS_CONFIG_FILE") or home / "config", name if name == "default" else f"profile {name}"),
        (os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", name),
    ):
        parser = configparser.RawConfigParser()
        # A file that cannot be read says nothing; its lines are not for messages.
        with suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
            if parser.has_section(section):
                found |= {k: v.strip() for k, v in parser.items(section)}
    return found


def _has_role() -> bool:
    """Whether this machine has somebody to ask for its role."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    try:
        socket.create_connection(_METADATA_SERVER, timeout=1.0).close()
    except OSError:
        return False
    return True


@contextmanager
def said(address: ObjectPath | str) -> Iterator[None]:
    """Turn what a store says into one clear line.

    What it says itself is not passed on: it can hold identities of keys and what was signed.
    An object that is not there stays a FileNotFoundError.
    """
    try:
        yield
    except SkyloomError:
        raise
    except FileNotFoundError as failure:
        if "NoSuchBucket" in str(failure):
            raise _no_bucket(address) from None
        raise FileNotFoundError(2, "no such object", str(address)) from None
    except Exception as failure:
        if not type(failure).__module__.startswith("obstore"):
            raise
        raise in_words(failure, address) from None


def in_words(failure: Exception, address: ObjectPath | str) -> SkyloomError:
    """One line on a failure of obstore's."""
    kind, text = type(failure).__name__, str(failure)
    code = next(iter(re.findall(r"<Code>(\w{1,60})</Code>", text)), "")
    status = next(iter(re.findall(r"status code: (\d{3})", text)), "")
    what = " ".join(p for p in (f"HTTP {status}" if status else "", code) if p)
    if code == "NoSuchBucket":
        return _no_bucket(address)
    if kind in _REFUSED or status in ("401", "403"):
        return StoreTrouble(
            f"{address}: the store does not allow it ({what or 'refused'}); look at the credentials in the "
            "environment and at what they may do there"
        )
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed") or status in ("301", "307"):
        return NoSuchBucket(f"{address}: the bucket is in another region ({what}); set AWS_REGION")
    if status.startswith("5") or status == "429" or "error sending request" in text or "timed out" in text.lower():
        return StoreTrouble(
            f"{address}: the store does not answer ({what or 'no connection'}), asked again for up to "
            f"{RETRY_SECONDS:.0f} s; what is done is kept: run the same command again when it does"
        )
    return StoreTrouble(f"{address}: the store refuses ({what or kind})")


def _no_bucket(address: ObjectPath | str) -> NoSuchBucket:
    bucket = ObjectPath.of(str(address)).bucket
    return NoSuchBucket(f"{bucket}: there is no such bucket; make it, or look at AWS_ENDPOINT_URL and AWS_REGION")
