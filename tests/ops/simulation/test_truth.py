"""The truth as JSON: what every file is and what belongs to it."""

from __future__ import annotations

import json
from dataclasses import replace

from skyloom.ops.simulation.faults import FAULTS
from skyloom.ops.simulation.session import SimulatedSession


def test_files_sets_and_faults_refer_to_each_other(raw: SimulatedSession) -> None:
    session = replace(raw, faults=tuple(FAULTS), layout="scattered")
    truth = json.loads(json.dumps(session.truth()))
    files = {f["path"]: f for f in truth["files"]}
    assert list(files) == list(session.paths)
    for key, one in truth["sets"].items():
        assert len(one["files"]) == 3
        assert all(files[p]["set"] == key and files[p]["kind"] == one["kind"] for p in one["files"])
        assert all(one[role] in ("", *truth["sets"]) for role in ("bias", "dark"))
    for file in files.values():
        if file["kind"] == "light":
            for role in ("bias", "dark", "flat"):
                assert file[role] == "" or truth["sets"][file[role]]["kind"] == role
    assert [f["name"] for f in truth["faults"]] == list(FAULTS)
    assert all(p in files for f in truth["faults"] for p in f["lights"])
    assert truth["faults"][-1]["files"] != []
    assert len(truth["frames"]) == len(session.lights)


def test_calibrated_sessions_have_no_sets(raw: SimulatedSession) -> None:
    assert set(replace(raw, raw=False).truth()) == {"session", "frames"}
