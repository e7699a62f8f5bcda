"""Settings: one schema, four origins, refusals that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sira.kernel import settings
from sira.kernel.errors import BadSetting


def test_every_setting_says_why_it_is_there_and_what_breaks() -> None:
    for spec in settings.SCHEMA.values():
        assert spec.reason and spec.breaks, spec.name
        assert spec.unit or spec.kind in (str, bool), spec.name
        assert json.loads(spec.json_schema())["default"] == spec.default
        assert spec.read(spec.default, "default") == spec.default


@pytest.mark.parametrize(
    ("text", "meant"), [("1", True), ("Yes", True), ("on", True), ("FALSE", False), ("0", False)]
)
def test_a_switch_is_read_from_the_environment(text: str, meant: bool) -> None:
    assert settings.load(environ={"SIRA_INSECURE": text}).insecure is meant


def test_what_is_no_switch_is_refused() -> None:
    for wrong in ("", "2", "maybe", "tru"):
        with pytest.raises(BadSetting, match="insecure"):
            settings.load(environ={"SIRA_INSECURE": wrong})


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("stall_s = 1\ndrain_s = 2\nkeepalive_s = 3\n")
    got = settings.load(
        flags={"stall_s": 9.0, "drain_s": None},
        environ={"SIRA_STALL_S": "5", "SIRA_DRAIN_S": "6"},
        file=file,
    )
    assert (got.stall_s, got.drain_s, got.keepalive_s, got.handshake_s) == (9.0, 6.0, 3.0, 10.0)
    origins = [got.origins[n] for n in ("stall_s", "drain_s", "keepalive_s", "handshake_s")]
    assert origins == ["flag", "environment", "file", "default"]


def test_the_file_of_the_data_folder_is_read_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / settings.FILE_NAME).write_text("topics_max = 77\n")
    assert settings.load(flags={"data_dir": str(tmp_path)}, environ={}).topics_max == 77
    assert settings.load(flags={}, environ={"SIRA_HOME": str(tmp_path)}).topics_max == 77
    other = settings.load(flags={"data_dir": str(tmp_path / "none")}, environ={})
    assert other.origins["topics_max"] == "default"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"stall_s": "soon"}, "stall_s"),
        ({"stall_s": 0}, "0.05"),
        ({"topics_max": 1.5}, "whole number"),
        ({"topics_max": True}, "not a number"),
        ({"log_level": "loud"}, "debug, info"),
        ({"listen": "7700"}, "HOST:PORT"),
        ({"listen": "localhost:70000"}, "HOST:PORT"),
        ({"stal_s": 1}, "stall_s"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_limits(
    flags: dict[str, object], said: str
) -> None:
    with pytest.raises(BadSetting, match=said):
        settings.load(flags=flags, environ={})


@pytest.mark.parametrize("text", ["stall_s = ", "\xff", "no_such_thing = 1"])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(BadSetting, match=r"bad\.toml"):
        settings.load(environ={}, file=file)


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"none\.toml"):
        settings.load(environ={"SIRA_CONFIG": str(tmp_path / "none.toml")})


def test_foreign_variables_are_not_ours_to_judge() -> None:
    got = settings.load(environ={"SIRA_URL": "sira://x:1", "SIRA_TEST_REDIS": "skip"})
    assert set(got.origins.values()) == {"default"}


def test_limits_for_clients_have_their_unit_in_the_name() -> None:
    limits = settings.load(environ={}).limits()
    assert limits["message_bytes_max"] == 16 << 30 and limits["publish_block_ms"] == 5_000
