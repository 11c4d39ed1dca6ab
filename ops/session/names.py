"""What the name of a file and of its folders say of a frame.

The names capture programs make, by themselves or from the patterns their users choose:

    Light_Helix_300.0s_Bin1_2600MM_H_gain120_20260711-050003_0deg_-10.0C_0004.fit       ASIAIR, Seestar
    LBN527_LIGHT_L_300s_BIN1_-10C_GA0_20260914_045755_638_PA310_E.FIT                    Voyager
    2023-01-14_22-05-52_Ha_-10.00_300.00s_0001.fits                                      N.I.N.A.
    M51_600sec_1x1_L_frame1.fit                                                          SGP
    L_M42_0164_ISO800_10s__18C.CR2                                                       APT
    masterFlat_BIN-1_6248x4176_FILTER-Ha_mono.xisf                                       PixInsight WBPP

They have no order in common, but every part says itself what it is: so parts are looked for, not places.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePath

from skyloom.ops.formats.examine import SUFFIXES
from skyloom.ops.session.band import named_filter
from skyloom.ops.session.dates import named_date
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.kind import CALIBRATION, named_kind

FOLDERS = 3
"""How many folders above the file are read, the nearest first."""

_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})+$", re.IGNORECASE)
_SPELLED = re.compile(
    r"(?<![a-z])(h|o|s|n)[-_ ](alpha|beta|iii|ii)(?![a-z])|(?<![a-z])(dark|flat)[-_ ](flats?|darks?)(?![a-z])"
    r"|(?<![a-z])(l)-(extreme|enhance|ultimate|pro)(?![a-z])",
    re.IGNORECASE,
)
_APT = re.compile(r"(L|D|F|B|DF)_(?=(?:.*_)?ISO\d+_)")
_APT_KINDS = {"L": "light", "D": "dark", "F": "flat", "B": "bias", "DF": "flatdark"}
_START, _END = r"(?<![0-9A-Za-z.])", r"(?![0-9A-Za-z])"
_EXPOSURE = re.compile(rf"{_START}(\d+(?:\.\d+)?)[ -]?(s|sec|secs|ms){_END}", re.IGNORECASE)
_BINNING = re.compile(rf"{_START}(?:bin(?:ning)?[- ]?([1-9])(?:x[1-9])?|([1-9])x\2){_END}", re.IGNORECASE)
_GAIN = re.compile(rf"{_START}(?:gain|ga|iso)[- ]?(\d{{1,7}}(?:\.\d+)?){_END}", re.IGNORECASE)
_OFFSET = re.compile(rf"{_START}(?:offset|ofs)[- ]?(\d{{1,5}}(?:\.\d+)?){_END}", re.IGNORECASE)
_TEMPERATURE = re.compile(
    rf"(?:^|(?<=[ _]))(?:temp(?:erature)?-?)?(-?\d{{1,2}}(?:\.\d+)?) ?°?C{_END}", re.IGNORECASE
)
_ANGLE = re.compile(rf"{_START}(?:(\d{{1,3}}(?:\.\d+)?)deg|PA-?(\d{{1,3}})){_END}")
_CAMERA = re.compile(rf"{_START}((?:ASI)?\d{{3,4}}M[CM])(?: ?(?:Pro|Air|Duo))?{_END}")


def stem_of(name: str) -> str:
    """File name without its suffixes."""
    return _SUFFIX.sub("", name)


def words(name: str) -> list[str]:
    """Words of a file or folder name, suffixes gone."""
    joined = _SPELLED.sub(lambda m: "".join(g for g in m.groups() if g), stem_of(name))
    return [t for t in re.split(r"[^0-9A-Za-zα-ω]+", joined) if t]


class Name:
    """A path, read for what a header does not say. Nothing is looked for before it is asked for.

    Parameters
    ----------
    path
        File.
    """

    def __init__(self, path: str) -> None:
        file = PurePath(path)
        self.stem = stem_of(file.name)
        self._folder = str(file.parent)
        self._apt = _APT.match(file.name)

    @property
    def _file_words(self) -> list[str]:
        found = words(self.stem)
        # The letter in front of APT's names is the kind: L is no filter there.
        return found[1:] if self._apt else found

    def kind(self) -> Fact | None:
        """Kind of frame."""
        if self._apt:
            return Fact(_APT_KINDS[self._apt.group(1)], "file name")
        kind = named_kind(self._file_words)[0]
        if kind:
            return Fact(kind, "file name")
        kind = _folder_kind(self._folder)[0]
        return Fact(kind, "folder name") if kind else None

    def master(self, kind: str) -> Fact | None:
        """Where a frame of a known kind is called a master."""
        found = self._file_words
        lower = {w.lower() for w in found}
        if named_kind(found)[1] or "stacked" in lower or (kind in CALIBRATION and "master" in lower):
            return Fact(True, "file name")
        if kind in CALIBRATION and (_folder_kind(self._folder)[1] or _in_masters(self._folder)):
            return Fact(True, "folder name")
        return None

    def filter(self) -> Fact | None:
        """Filter."""
        found = named_filter(self._file_words)
        if found:
            return Fact(found, "file name")
        found = _folder_filter(self._folder)
        return Fact(found, "folder name") if found else None

    def exposure(self) -> Fact | None:
        """Seconds."""
        return self._part(_seconds)

    def binning(self) -> Fact | None:
        """Binning as "2x2"."""
        found = self._part(lambda text: _only(_BINNING, text))
        return None if found is None else Fact(f"{found.value}x{found.value}", found.origin)

    def gain_setting(self) -> Fact | None:
        """Gain or ISO."""
        return self._number(_GAIN)

    def offset_setting(self) -> Fact | None:
        """Offset."""
        return self._number(_OFFSET)

    def temperature(self) -> Fact | None:
        """°C."""
        return self._number(_TEMPERATURE)

    def rotation(self) -> Fact | None:
        """Degrees (ASIAIR "272deg", Voyager "PA310"); not of folders."""
        text = _only(_ANGLE, self.stem.replace("_", " "))
        return Fact(float(text) % 360.0, "file name") if text and float(text) <= 360.0 else None

    def camera(self) -> Fact | None:
        """Model, as ASIAIR writes it ("2600MC")."""
        text = _only(_CAMERA, self.stem.replace("_", " "))
        return Fact(text, "file name") if text else None

    def date(self) -> str:
        """Date of the file's name as ISO, "" for none."""
        return named_date(self.stem)

    def folder_day(self) -> str:
        """Day of the nearest folder that is named by one."""
        return _folder_day(self._folder)

    def _number(self, pattern: re.Pattern[str]) -> Fact | None:
        found = self._part(lambda text: _only(pattern, text))
        return None if found is None else Fact(float(found.value), found.origin)

    def _part(self, read: Callable[[str], str | float | None]) -> Fact | None:
        value = read(self.stem.replace("_", " "))
        if value:
            return Fact(value, "file name")
        for folder in _folders(self._folder):
            value = read(folder.replace("_", " "))
            if value:
                return Fact(value, "folder name")
        return None


def _only(pattern: re.Pattern[str], text: str) -> str:
    """The one thing a pattern finds; "" where it finds none, or different ones."""
    found = {next((g for g in m.groups() if g), "") for m in pattern.finditer(text)}
    return found.pop() if len(found) == 1 else ""


def _seconds(text: str) -> float | None:
    found = _EXPOSURE.findall(text)
    if len(found) != 1:
        return None
    return float(found[0][0][:12]) * (1e-3 if found[0][1].lower() == "ms" else 1.0)


@lru_cache(maxsize=4096)
def _folders(folder: str) -> tuple[str, ...]:
    return PurePath(folder).parts[::-1][:FOLDERS]


@lru_cache(maxsize=4096)
def _folder_kind(folder: str) -> tuple[str, bool]:
    return next((found for f in _folders(folder) if (found := named_kind(words(f)))[0]), ("", False))


@lru_cache(maxsize=4096)
def _folder_filter(folder: str) -> str:
    return next((found for f in _folders(folder) if (found := named_filter(words(f)))), "")


@lru_cache(maxsize=4096)
def _folder_day(folder: str) -> str:
    return next((found[:10] for f in _folders(folder) if (found := named_date(f))), "")


@lru_cache(maxsize=4096)
def _in_masters(folder: str) -> bool:
    return any(f.lower() in ("master", "masters") for f in _folders(folder))
