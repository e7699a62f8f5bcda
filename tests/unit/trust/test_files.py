"""Secrets and revocations on disk: who may read them, and that no writer loses another's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sira.kernel.errors import BadRequest, BadSetting, Conflict
from sira.kernel.trust import revocations
from sira.kernel.trust.secrets import (
    SECRET_BYTES_MAX,
    read_secret,
    read_secret_text,
    write_secret,
)

SECRET = b"hunter2-hunter2"
NOW_S = 1_800_000_000.0


def test_a_secret_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        write_secret(path, SECRET + b"\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (read_secret(path), read_secret_text(path)) == (SECRET + b"\n", SECRET.decode())
    assert os.listdir(tmp_path) == ["key"]


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_secret(path, b"old")
    with pytest.raises(Conflict, match="already there"):
        write_secret(path, SECRET)
    assert read_secret(path) == b"old"
    write_secret(path, SECRET, replace=True)
    assert read_secret(path) == SECRET and os.listdir(tmp_path) == ["key"]


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "key").symlink_to("target")
    with pytest.raises(Conflict):
        write_secret(tmp_path / "key", SECRET)
    write_secret(tmp_path / "key", SECRET, replace=True)
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert not (tmp_path / "key").is_symlink()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o777])
def test_a_secret_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_secret(path, SECRET)
    path.chmod(mode)
    with pytest.raises(BadSetting, match=f"{mode:04o}") as caught:
        read_secret(path)
    assert "hunter2" not in str(caught.value) and str(path) in str(caught.value)


def test_what_is_no_plain_file_is_no_secret(tmp_path: Path) -> None:
    write_secret(tmp_path / "key", SECRET)
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "aside").symlink_to("pipe")
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name, why in (
        ("dangling", "No such file"),
        ("loop", "Too many levels"),
        ("aside", "no plain file"),
        ("pipe", "no plain file"),
        ("folder", "no plain file"),
        ("missing", "No such file"),
    ):
        with pytest.raises(BadSetting, match=why) as caught:
            read_secret(tmp_path / name)
        assert "hunter2" not in str(caught.value)


def test_a_link_is_followed_to_a_secret_and_to_nothing_less(tmp_path: Path) -> None:
    """As Kubernetes mounts them: key -> ..data/key, ..data -> ..2026_01_01."""
    (tmp_path / "..2026_01_01").mkdir()
    write_secret(tmp_path / "..2026_01_01" / "key", SECRET)
    (tmp_path / "..data").symlink_to("..2026_01_01")
    (tmp_path / "key").symlink_to("..data/key")
    assert read_secret(tmp_path / "key") == SECRET
    (tmp_path / "..2026_01_01" / "key").chmod(0o644)
    with pytest.raises(BadSetting, match="0644") as caught:
        read_secret(tmp_path / "key")
    assert "defaultMode" in caught.value.help


def test_a_secret_that_is_too_long_or_no_text_is_refused(tmp_path: Path) -> None:
    write_secret(tmp_path / "long", b"x" * (SECRET_BYTES_MAX + 1))
    with pytest.raises(BadSetting, match="longer"):
        read_secret(tmp_path / "long")
    write_secret(tmp_path / "bytes", SECRET + b"\xff")
    with pytest.raises(BadSetting, match="UTF-8") as caught:
        read_secret_text(tmp_path / "bytes")
    assert "hunter2" not in repr(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_no_secret(tmp_path: Path) -> None:
    write_secret(tmp_path / "key", SECRET)
    os.chown(tmp_path / "key", 12_345, 12_345)
    with pytest.raises(BadSetting, match="belongs to user 12345"):
        read_secret(tmp_path / "key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_service_reads_what_root_has_handed_to_its_group(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_secret(path, SECRET)
    os.chown(path, 0, 12_345)
    source = Path(read_secret.__code__.co_filename).read_text()
    code = (
        "import os, sys\nsource = sys.stdin.read()\nspace = {'__name__': 'x'}\n"
        "exec(compile(source, 'secrets', 'exec'), space)\nfd = os.open('.', os.O_RDONLY)\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345); os.fchdir(fd)\n"
        "try: print(space['read_secret']('key'))\nexcept Exception as error: print(error)"
    )
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)

    def asked() -> str:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, input=source, text=True,
            capture_output=True, check=True,
        ).stdout  # fmt: skip

    path.chmod(0o640)
    assert "hunter2" in asked()
    path.chmod(0o660)
    assert "0660" in asked()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be written"):
        write_secret(tmp_path / "none" / "key", SECRET)


# ---- revocations --------------------------------------------------------------------------------


def test_what_is_added_is_revoked_and_what_stood_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "revocations.toml"
    assert revocations.add(path, ["cert:5f", "jwt:a-1"], 'a "b" \\ é', now_s=NOW_S)
    path.write_text(path.read_text() + "# a note of mine\n")
    new = revocations.add(path, ["cert:5f", "biscuit:00ff"], "lost", now_s=NOW_S)
    assert new == {"biscuit:00ff"}
    assert revocations.load(path) == {"cert:5f", "jwt:a-1", "biscuit:00ff"}
    assert path.read_text().startswith('format = "sira-revocations 1"')
    assert "# a note of mine" in path.read_text() and os.listdir(tmp_path) == [path.name]


def test_those_who_revoke_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "revocations.toml"
    code = (
        "import sys\nfrom sira.kernel.trust import revocations\n"
        "for i in range(10): revocations.add(sys.argv[1], [f'jwt:{sys.argv[2]}-{i}'], '', now_s=1)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), str(i)]) for i in range(3)]
    assert [each.wait() for each in running] == [0, 0, 0]
    assert len(revocations.load(path)) == 30


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cert:5f",
        'format = "sira-revocations 2"',
        'format = "sira-revocations 1"\nrevoked = ["cert:5f"]',
        'format = "sira-revocations 1"\n[[revoked]]\nid = "5f"',
        'format = "sira-revocations 1"\n[[revoked]]\nid = "cert:5F"',
        'format = "sira-revocations 1"\n[[revoked]]\nid = "cert:5f\\n"',
        'format = "sira-revocations 1"\n[[revoked]]\nserial = "cert:5f"',
        'format = "sira-revocations 1"\n[[revoke]]\nid = "cert:5f"',
    ],
)
def test_a_wrong_file_revokes_nothing_in_silence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "revocations.toml"
    path.write_text(text)
    with pytest.raises(BadSetting):
        revocations.load(path)
    with pytest.raises(BadSetting):
        revocations.add(path, ["cert:5f"], "", now_s=NOW_S)
    assert path.read_text() == text


def test_ids_and_reasons_that_could_not_be_read_back_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "revocations.toml"
    for id_ in (
        "",
        "cert:",
        "cert:0x5f",
        "biscuit:xyz",
        'jwt:"\n[x]',
        "user:a",
        "jwt:" + "a" * 300,
    ):
        with pytest.raises(BadRequest):
            revocations.add(path, [id_], "", now_s=NOW_S)
    for reason in ("a\nb", "x" * 300):
        with pytest.raises(BadRequest):
            revocations.add(path, ["cert:5f"], reason, now_s=NOW_S)
    assert not path.exists()
    with pytest.raises(BadSetting):
        revocations.add(tmp_path / "none" / "x", ["cert:5f"], "", now_s=NOW_S)
