"""Who gets in over HTTP, as whom; TLS, its certificate exchanged; what services mount."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sira.kernel.identity import Principal
from sira.kernel.settings import load
from sira.kernel.trust import revocations, tokens
from sira.testing import Node
from tests.integration.command import sira as run
from tests.integration.door.keys import CLUSTER, Keys, principal

from .calls import Http, listening, rest, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def over_tls(keys: Keys) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(keys.folder / "ca.pem"))


@contextmanager
def with_tls(keys: Keys, **more: object) -> Iterator[tuple[Node, Http]]:
    names = ("cluster_name", "tls_cert", "tls_key", "token_keys", "reload_s")
    flags = {name: value for name, value in keys.flags().items() if name in names}
    with listening(over_tls(keys), **flags, **more) as both:
        yield both


def refused(**settings: str) -> str:
    """Run `sira up`, which does not start; return why."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder:
        ended = run("up", "--listen=127.0.0.1:0", *words, home=Path(folder))
    assert ended.code not in (0, 1) and not ended.out, ended
    return ended.err


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_who_one_is_and_without_one_nobody_gets_in(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    with with_tls(keys) as (_, http):
        http.post("/v1/publish/lab.x", "x").problem(401, "UNAUTHENTICATED")
        http.post("/v1/request/lab.x", "x").problem(401, "UNAUTHENTICATED")
        http.get("/v1/subscribe/lab.x").problem(401, "UNAUTHENTICATED")
        http.get("/metrics").problem(401, "UNAUTHENTICATED")
        assert http.get("/healthz").status == http.get("/readyz").status == 200
        ann, bob = (bearer(keys.token(principal(name, "clinic"))) for name in ("ann", "bob"))
        with http.events("lab.x", **bob) as events:
            assert http.post("/v1/publish/lab.x", "hello", **ann).json["matched"] == 1
            assert events.message()["principal"] == f"sira://{CLUSTER}/clinic/user/ann"
        stranger = bearer(Keys.new(tmp_path / "other").token(principal("ann", "clinic")))
        http.post("/v1/publish/lab.x", "x", **stranger).problem(401, "UNAUTHENTICATED")
        other = bearer(keys.token(principal("eve", "elsewhere")))
        with http.events("lab.x", **bob):
            assert http.post("/v1/publish/lab.x", "x", **other).json["matched"] == 0
        assert b"sira_frames_in_total" in http.get("/metrics", **ann).data


@pytest.mark.parametrize("shown", [{}, {"Authorization": "Bearer nonsense"}])
def test_a_stranger_learns_nothing_but_that_he_is_one(tmp_path: Path, shown: Any) -> None:
    """Whatever else is wrong with a call is judged for those who are known."""
    keys = Keys.new(tmp_path)
    ann = bearer(keys.token(principal("ann", "clinic")))
    wrong = [  # path, content type, body, and what it is answered with to somebody
        ("publish/lab.x", "image/png", b"x", 415),
        ("publish/lab.x?tll_s=1", "text/plain", b"x", 400),
        ("publish/lab.x?priority=9", "text/plain", b"x", 400),
        ("publish/lab.x?timeout_s=-1", "text/plain", b"x", 400),
        ("publish/lab.x", "application/json", b"{", 400),
        ("publish/lab.x", "text/plain; charset=latin1", b"x", 415),
        ("publish/lab.*", "text/plain", b"x", 400),
        ("request/lab.x?grade=disk", "text/plain", b"x", 400),
        ("request/lab.x", "application/x-npy", b"x", 400),
    ]
    with with_tls(keys) as (_, http):
        plain = http.post("/v1/publish/lab.x", "x", **shown).problem(401, "UNAUTHENTICATED")
        for path, kind, body, status in wrong:
            answer = http.post(f"/v1/{path}", body, kind, **shown)
            assert answer.problem(401, "UNAUTHENTICATED") == plain, path
            assert http.post(f"/v1/{path}", body, kind, **ann).status == status, path
        answer = http.get("/v1/subscribe/lab.x?group=a&group=b", **shown)
        assert answer.problem(401, "UNAUTHENTICATED") == plain
        assert http.get("/v1/subscribe/lab.x?group=a&group=b", **ann).status == 400


def test_a_stranger_is_told_before_his_body_is_there(tmp_path: Path) -> None:
    head = b"POST /v1/publish/lab.x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n"
    with with_tls(Keys.new(tmp_path)) as (_, http):
        made = http.connect()
        made.connect()
        assert made.sock is not None
        with made.sock as wire:
            wire.sendall(head)
            assert rest(wire).startswith(b"HTTP/1.1 401 ")


def test_plain_http_is_not_spoken_where_there_is_tls(tmp_path: Path) -> None:
    with with_tls(Keys.new(tmp_path)) as (_, http), pytest.raises(ConnectionError):
        Http(http.port).get("/healthz")


def test_a_revoked_token_ends_its_streams_and_opens_nothing(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    token = keys.token(principal("ann"))
    verifier = tokens.TokenVerifier([tokens.public_key(keys.root)], cluster=CLUSTER)
    ids = verifier.verify(token, 0).ids
    with (
        with_tls(keys) as (node, http),
        http.events("lab.x", **bearer(token)) as events,
    ):
        assert http.post("/v1/publish/lab.x", "x", **bearer(token)).status == 200
        assert events.message()["text"] == "x"
        revocations.add(node.data_dir / "data" / "revocations.toml", ids, reason="lost", now_s=0)
        said = events.next()
        assert said["event"] == "error" and "REVOKED" in said["data"], said
        assert events.next() == {}

        def refused() -> Any:
            """Until the listener has asked the node again, it says what ended its streams."""
            answer = http.post("/v1/publish/lab.x", "x", **bearer(token))
            if answer.status == 403:
                answer.problem(403, "REVOKED")
            return answer.status not in (200, 403) and answer

        until(refused, "it opens nothing").problem(401, "UNAUTHENTICATED")


def test_what_the_policy_forbids_is_403() -> None:
    with listening(policy="deny_all") as (_, http):
        for answer in (
            http.post("/v1/publish/lab.x", "x"), http.post("/v1/request/lab.x", "x"),
            http.get("/v1/subscribe/lab.x"), http.get("/metrics"),
        ):  # fmt: skip
            answer.problem(403, "DENIED")
        assert http.get("/readyz").status == 200


def test_a_new_certificate_holds_without_a_restart_and_a_bad_one_never(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    server = Principal(CLUSTER, "system", "node", "n1")

    def serial(http: Http) -> str:
        made = http.connect()
        made.connect()
        try:
            assert isinstance(made.sock, ssl.SSLSocket)
            found: Any = made.sock.getpeercert()
            return str(found["serialNumber"])
        finally:
            made.close()

    with with_tls(keys) as (node, http):
        before, pid = serial(http), node.pid
        (tmp_path / "node.key").write_text("no key")
        until(lambda: b"the old one stays" in node.log_path.read_bytes(), "it is refused")
        assert serial(http) == before
        keys.certificate("node", server, server=True)
        until(lambda: serial(http) != before, "the new one holds")
        assert node.pid == pid and http.get("/readyz").status == 200


def test_no_http_beyond_loopback_without_tls() -> None:
    assert "is reached by strangers, and there is no TLS" in refused(http="0.0.0.0:0")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.usefixtures("importable")
def test_a_mounted_application_is_told_who_calls(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    with with_tls(keys, http_mounts="/tiny=mounted:app", http_body_bytes_max=2_000) as (_, http):
        http.get("/tiny/x").problem(401, "UNAUTHENTICATED")
        http.get("/tiny/x", Authorization="Bearer nonsense").problem(401, "UNAUTHENTICATED")
        shown = bearer(keys.token(principal("ann", "clinic")))
        answer = http.post("/tiny/deep/x?a=b", "hi", **shown)
        assert answer.headers["x-tiny"] == "yes"
        assert answer.json["who"] == f"sira://{CLUSTER}/clinic/user/ann"
        assert answer.json["body"] == "hi"
        http.post("/tiny/x", "x" * 3_000, **shown).problem(413, "MESSAGE_TOO_LARGE")


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("mount", [
    "/tiny=mounted:nothing", "/tiny=no.such.module:app", "/v1=mounted:app", "tiny", "/a=mounted",
    "/a=mounted:__doc__",
])  # fmt: skip
def test_a_mount_that_is_wrong_ends_sira_up_and_says_why(mount: str) -> None:
    assert "http_mounts" in refused(http="127.0.0.1:0", http_mounts=mount)


def test_mounts_may_stand_in_a_table_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sira.toml"
    file.write_text('[http_mounts]\n"/a" = "one:app"\n"/b" = "two:app"\n')
    found = load(environ={}, file=file, flags={"data_dir": str(tmp_path)})
    assert found.http_mounts == "/a=one:app, /b=two:app"


def test_a_port_that_is_taken_ends_sira_up_and_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}" in refused(http=address)
