"""`sira tls` and `sira token`: what they write is what a node believes. No node runs here."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from sira.kernel.trust import revocations, tokens
from sira.kernel.trust.certificates import principal_of_certificate
from tests.integration.command import Ended
from tests.integration.command import sira as command

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def sira(*words: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run a verb with --json: its envelopes are held to its schema."""
    return command(*words, "--json", env=env)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "keys"
    ended = sira(
        "tls", "init", str(folder), "--cluster", "c1", "--name", "n1",
        "--dns", "n1.example.org", "--ip", "10.0.0.1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.data["principal"] == "sira://c1/system/node/n1"
    assert {"n1.example.org", "localhost"} <= set(ended.data["dns"])
    assert {"10.0.0.1", "127.0.0.1"} <= set(ended.data["ips"])
    return folder


def test_init_makes_all_of_it_and_keys_are_for_their_owner_alone(made: Path) -> None:
    assert sorted(os.listdir(made)) == [
        "ca.key", "ca.pem", "node.key", "node.pem", "token.key", "token.pub",
    ]  # fmt: skip
    for path in made.iterdir():
        wanted = 0o600 if path.suffix == ".key" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_init_never_replaces_an_authority_unless_it_is_told_to(made: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    ended = sira("tls", "init", str(made))
    assert (ended.code, ended.data["code"]) == (3, "CONFLICT")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    (tmp_path / "token.key").write_text("mine")
    assert sira("tls", "init", str(tmp_path)).code == 3
    assert os.listdir(tmp_path) == ["token.key"]
    assert sira("tls", "init", str(tmp_path), "--force").code == 0
    assert (tmp_path / "token.key").read_text() != "mine"


def test_what_is_issued_is_a_principal_until_it_is_revoked(made: Path, tmp_path: Path) -> None:
    ended = sira(
        "tls", "issue", "lab/agent/a1", "--cluster", "c1", "--dir", str(made),
        "--out", str(tmp_path / "a1"), "--days", "1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    data = (tmp_path / "a1.pem").read_bytes()
    found = principal_of_certificate(data, cluster="c1", now_s=time.time())
    assert str(found.principal) == ended.data["principal"] == "sira://c1/lab/agent/a1"
    shown = sira("tls", "show", str(tmp_path / "a1.pem")).data
    assert (shown["principal"], shown["id"]) == (str(found.principal), found.ids[0])
    assert shown["valid_now"] and not shown["authority"]
    file = tmp_path / "revocations.toml"
    words = ["tls", "revoke", str(tmp_path / "a1.pem"), "--revocations", str(file)]
    assert sira(*words, "--reason", "lost").data["new"] == 1
    assert sira(*words).data["new"] == 0
    assert revocations.load(file) == set(found.ids)
    assert sira("tls", "revoke", str(made / "ca.pem"), "--revocations", str(file)).code == 3


def test_a_token_is_made_narrowed_shown_and_revoked(made: Path, tmp_path: Path) -> None:
    created = sira(
        "token", "create", "sira://c1/lab/agent/a1", "--key", str(made / "token.key"),
        "--action", "publish", "--topic", "lab.>", "--expires", "3600",
    )  # fmt: skip
    assert created.code == 0, created.err
    token = created.data["token"]
    ended = sira("token", "narrow", token, "--topic", "lab.a", "--out", str(tmp_path / "t"))
    assert (ended.code, ended.data["token"]) == (0, None)
    assert created.data["expires_ns"] == ended.data["expires_ns"] > time.time_ns()
    keys = made / "token.pub"
    verifier = tokens.TokenVerifier(tokens.parse_keys_file(keys.read_text()), cluster="c1")
    found = verifier.verify((tmp_path / "t").read_text().strip(), time.time())
    assert str(found.principal) == "sira://c1/lab/agent/a1" and found.scope is not None
    assert found.scope.denies("publish", "lab.a", time.time()) is None
    assert found.scope.denies("publish", "lab.b", time.time()) is not None
    shown = sira("token", "show", f"@{tmp_path / 't'}", "--keys", str(keys))
    assert shown.data["verified"] and [item["id"] for item in shown.items()] == list(found.ids)
    assert [item["rights"] for item in shown.items()] == [
        [[{"actions": ["publish"], "topics": ["lab.>"]}]],
        [[{"actions": [], "topics": ["lab.a"]}]],
    ]
    file = tmp_path / "revocations.toml"
    words = ["token", "revoke", f"@{tmp_path / 't'}", "--revocations", str(file)]
    assert sira(*words).data["ids"] == [found.ids[1]]
    assert sira(*words, "--whole").data["ids"] == [found.ids[0]]
    assert revocations.load(file) == set(found.ids)


def test_a_token_is_taken_from_the_environment(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "t"
    words = ["token", "create", "lab/user/u1", "--key", str(made / "token.key"), "--expires", "inf"]
    assert sira(*words, "--cluster", "c1", "--out", str(path)).data["expires_ns"] is None
    assert sira(*words, "--out", str(path)).data["code"] == "CONFLICT"
    shown = sira("token", "show", env={"SIRA_TOKEN_FILE": str(path), "SIRA_TOKEN": ""})
    assert shown.data["principal"] == "sira://c1/lab/user/u1"
    assert sira("token", "show", env={"SIRA_TOKEN_FILE": "", "SIRA_TOKEN": ""}).code == 2
    path.chmod(0o644)
    ended = sira("token", "show", f"@{path}")
    assert (ended.code, ended.data["code"]) == (3, "BAD_SETTING")


def test_a_key_of_the_wrong_kind_is_refused_and_not_repeated(made: Path) -> None:
    secret = (made / "token.key").read_text().split("/")[1].strip()
    ended = sira("token", "create", "lab/user/u1", "--key", str(made / "ca.key"))
    assert (ended.code, ended.data["code"]) == (3, "BAD_SETTING")
    ended = sira("token", "show", "AAAA", "--keys", str(made / "token.key"))
    assert ended.code == 3 and secret not in ended.out + ended.err
