"""Who a call speaks for, on each kind of listener."""

from __future__ import annotations

import pytest

from sira.kernel.errors import Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust import authenticate, tokens
from sira.kernel.trust.authenticate import CERTIFICATE, Authenticator, Transport
from sira.kernel.trust.authorities import Authorities
from sira.kernel.trust.certificates import issue, make_ca

NOW_S = 1_800_000_000.0
NOBODY = Principal("local", "default", "user", "anonymous")
AGENT = Principal("local", "lab", "agent", "a1")
USER = Principal("local", "lab", "user", "u1")
CA = make_ca("local", now_s=NOW_S)
VOUCHES = Authorities.from_pem(CA.certificate)
SHOWN = {CERTIFICATE: [issue(CA, AGENT, now_s=NOW_S, valid_s=100).certificate]}
ROOT = tokens.new_root_key()
TOKEN = tokens.mint(ROOT, USER, expires_s=NOW_S + 60)
BEARER = f"Bearer {TOKEN}"


class Clock:
    now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def authenticator(
    *, revoked: frozenset[str] = frozenset(), anonymous: Principal | None = NOBODY, **more: object
) -> Authenticator:
    verifier = tokens.TokenVerifier([tokens.public_key(ROOT)], cluster="local")
    words: dict[str, object] = {
        "tokens": verifier,
        "jwts": None,
        "authorities": VOUCHES,
        "clock_s": Clock(),
        **more,
    }
    return Authenticator(
        cluster="local",
        revoked=revoked,
        anonymous=anonymous,
        **words,  # type: ignore[arg-type]
    )


def test_what_is_shown_decides_and_a_token_comes_first() -> None:
    asked = authenticator()
    assert asked.authenticate({}, None, transport="plain").principal == NOBODY
    assert asked.authenticate({}, BEARER, transport="plain").principal == USER
    assert asked.authenticate({}, BEARER, transport="tls").principal == USER
    assert asked.authenticate(SHOWN, None, transport="mtls").principal == AGENT
    both = asked.authenticate(SHOWN, BEARER, transport="mtls")
    assert (both.principal, both.kind, both.expires_s) == (USER, "token", NOW_S + 60)
    assert {each.split(":")[0] for each in both.ids} == {"biscuit", "cert"}


@pytest.mark.parametrize("transport", ["tls", "mtls"])
def test_anonymous_is_for_plain_listeners_alone(transport: Transport) -> None:
    with pytest.raises(Unauthenticated):
        authenticator().authenticate({}, None, transport=transport)
    with pytest.raises(Unauthenticated):
        authenticator(anonymous=None).authenticate({}, None, transport="plain")


def test_a_certificate_counts_only_where_the_listener_has_verified_it() -> None:
    with pytest.raises(Unauthenticated):
        authenticator().authenticate(SHOWN, None, transport="tls")
    assert authenticator().authenticate(SHOWN, None, transport="plain").principal == NOBODY
    with pytest.raises(Unauthenticated, match="certificate"):
        authenticator().authenticate({}, BEARER, transport="mtls")


def test_a_certificate_stands_on_an_authority_of_now_also_beside_a_token() -> None:
    alone = authenticator().authenticate(SHOWN, None, transport="mtls")
    both = authenticator().authenticate(SHOWN, BEARER, transport="mtls")
    assert alone.grounds and set(both.grounds) > set(alone.grounds)
    other = Authorities.from_pem(make_ca("local", now_s=NOW_S).certificate)
    for authorization in (None, BEARER):
        with pytest.raises(Unauthenticated, match="vouches"):
            authenticator(authorities=other).authenticate(SHOWN, authorization, transport="mtls")


def test_a_wrong_token_is_never_anonymous() -> None:
    for text in ("", "Bearer", "Bearer ", "Basic abc", "Bearer x", "Bearer a.b.c", TOKEN):
        with pytest.raises(Unauthenticated) as caught:
            authenticator().authenticate({}, text, transport="plain")
        assert TOKEN[:20] not in str(caught.value)
    with pytest.raises(Unauthenticated, match="longer"):
        authenticator().authenticate({}, "Bearer " + "a" * 20_000, transport="plain")
    with pytest.raises(Unauthenticated, match="token_keys"):
        authenticator(tokens=None).authenticate({}, BEARER, transport="plain")


def test_a_bad_certificate_beside_a_good_token_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        authenticator().authenticate({CERTIFICATE: [b"x"]}, BEARER, transport="mtls")


def test_what_is_revoked_proves_nothing_in_any_block_and_any_narrowing() -> None:
    narrowed = tokens.narrow(TOKEN, topics=["lab.a"])
    ids = [block.id for block in tokens.describe(narrowed).blocks]
    asked = authenticator(revoked=frozenset({ids[1]}))
    assert asked.authenticate({}, BEARER, transport="plain").principal == USER
    for revoked in ids:
        with pytest.raises(Unauthenticated, match="revoked") as caught:
            authenticator(revoked=frozenset({revoked})).authenticate(
                {}, f"Bearer {narrowed}", transport="plain"
            )
        assert caught.value.details["id"] == revoked
    certificate = authenticator().authenticate(SHOWN, None, transport="mtls").ids
    for header in (None, BEARER):
        with pytest.raises(Unauthenticated, match="revoked"):
            authenticator(revoked=frozenset(certificate)).authenticate(
                SHOWN, header, transport="mtls"
            )


def test_what_is_remembered_ends_in_time_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    asked = authenticator(clock_s=clock)
    first = asked.authenticate({}, BEARER, transport="plain")
    assert asked.authenticate({}, BEARER, transport="plain") is first
    clock.now_s = NOW_S + 60
    with pytest.raises(Unauthenticated, match="ended"):
        asked.authenticate({}, BEARER, transport="plain")
    clock.now_s = NOW_S
    monkeypatch.setattr(authenticate, "CACHE_ENTRIES_MAX", 3)
    texts = [tokens.narrow(TOKEN, topics=[f"t{i}"]) for i in range(5)]
    held = [asked.authenticate({}, f"Bearer {text}", transport="plain") for text in texts]
    assert asked.authenticate({}, f"Bearer {texts[4]}", transport="plain") is held[4]
    assert asked.authenticate({}, f"Bearer {texts[0]}", transport="plain") is not held[0]
    monkeypatch.setattr(authenticate, "CACHE_BYTES_MAX", 100)
    again = asked.authenticate({}, f"Bearer {texts[1]}", transport="plain")
    assert asked.authenticate({}, f"Bearer {texts[1]}", transport="plain") is not again


def test_a_token_shown_on_one_transport_is_not_remembered_for_another() -> None:
    asked = authenticator()
    asked.authenticate({}, BEARER, transport="plain")
    with pytest.raises(Unauthenticated):
        asked.authenticate({}, BEARER, transport="mtls")
