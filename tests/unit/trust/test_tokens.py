"""Tokens: what is minted, what narrowing leaves, and what a hostile holder is told."""

from __future__ import annotations

import itertools
import math
import random

import biscuit_auth as biscuit
import pytest

from sira.kernel.errors import BadRequest, BadSetting, SiraError, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.topics import covers
from sira.kernel.trust import blocks, checks, tokens
from sira.kernel.trust.checks import Right
from sira.kernel.trust.credential import Credential

ROOT = tokens.new_root_key()
PUBLIC = tokens.public_key(ROOT)
WHO = Principal("local", "lab", "agent", "a1")
NOW_S = 1_800_000_000.0
VERIFIER = tokens.TokenVerifier([PUBLIC], cluster="local")


def verified(token: str, now_s: float = NOW_S) -> Credential:
    return VERIFIER.verify(token, now_s)


def allowed(token: str, action: str, resource: str, now_s: float = NOW_S) -> bool:
    scope = verified(token).scope
    assert scope is not None
    return scope.denies(action, resource, now_s) is None


def appended(source: str, token: str | None = None) -> str:
    """Append any Datalog, as a holder with the library alone does."""
    opened = biscuit.Biscuit.from_base64(token or tokens.mint(ROOT, WHO), biscuit.PublicKey(PUBLIC))
    return opened.append(biscuit.BlockBuilder(source)).to_base64()


# ---- what is true of a good token ---------------------------------------------------------------


def test_a_token_proves_its_principal_until_its_end_and_every_block_can_revoke_it() -> None:
    token = tokens.narrow(tokens.mint(ROOT, WHO, expires_s=NOW_S + 60), expires_s=NOW_S + 30)
    found = verified(token)
    assert (found.principal, found.kind, found.expires_s) == (WHO, "token", NOW_S + 30)
    assert len(found.ids) == 2 == len(set(found.ids))
    assert all(each.startswith("biscuit:") for each in found.ids)
    assert found.ids[0] == verified(tokens.narrow(token, topics=["x"])).ids[0]


def test_a_token_without_an_end_has_none() -> None:
    assert verified(tokens.mint(ROOT, WHO)).expires_s == math.inf


@pytest.mark.parametrize(
    ("action", "resource", "answer"),
    [
        ("publish", "lab.a.x", True),
        ("publish", "lab.a.x.y", False),
        ("publish", "lab.b.x", False),
        ("publish", "xlab.a.x", False),
        ("publish", "lab.a", False),
        ("subscribe", "lab.a.x", False),
        ("create_topic", "lab.a.x", False),
        ("publish", "_reply.00ff", True),
        ("call", "/sira.v1.Bus/Publish", True),
        ("administer", "node", False),
    ],
)
def test_a_narrowed_token_does_what_is_left_and_nothing_else(
    action: str, resource: str, answer: bool
) -> None:
    token = tokens.narrow(tokens.mint(ROOT, WHO), actions=["publish"], topics=["lab.a.*"])
    assert allowed(token, action, resource) is answer
    assert allowed(tokens.mint(ROOT, WHO), action, resource)


def test_one_of_the_minted_rights_is_enough() -> None:
    token = tokens.mint(
        ROOT, WHO, rights=[Right(("publish",), ("in.>",)), Right(("subscribe",), ("out.>",))]
    )
    assert allowed(token, "publish", "in.x") and allowed(token, "subscribe", "out.x")
    assert not allowed(token, "publish", "out.x") and not allowed(token, "subscribe", "in.x")


def test_narrowing_never_widens() -> None:
    token = tokens.narrow(tokens.mint(ROOT, WHO), topics=["lab.a"], expires_s=NOW_S + 10)
    wider = tokens.narrow(token, topics=[">", "_x.>", "sira.>"], expires_s=NOW_S + 1_000)
    assert verified(wider).expires_s == NOW_S + 10
    assert not allowed(wider, "publish", "lab.b")
    forged = appended('principal("sira://local/system/user/root"); action("publish");', token)
    with pytest.raises(Unauthenticated, match="facts or rules"):
        verified(forged)


def test_the_end_holds_at_each_decision_too() -> None:
    token = tokens.mint(ROOT, WHO, expires_s=NOW_S + 60)
    assert allowed(token, "publish", "x", NOW_S + 59)
    assert not allowed(token, "publish", "x", NOW_S + 60)


TOKENS = ("a", "b", "sira", "sir", "sirax", "_reply", "_", "*")


def test_an_expression_matches_exactly_the_names_and_patterns_inside_its_pattern() -> None:
    every = [
        ".".join(parts) for count in (1, 2, 3) for parts in itertools.product(TOKENS, repeat=count)
    ]
    every += [">", *(f"{each}.>" for each in every if each.count(".") < 2)]
    chosen = [*random.Random(7).sample(every, 40), ">", "*", "*.>", "a.>", "_reply.*"]
    for wide in chosen:
        asked = biscuit.Rule(
            "inside($r) <- r($r), $r.matches({re})", {"re": checks.expression(wide)}
        )
        builder = biscuit.AuthorizerBuilder()
        for name in every:
            builder.add_fact(biscuit.Fact("r({r})", {"r": name}))
        limits = builder.limits()
        limits.max_facts = 10_000
        builder.set_limits(limits)
        found = {fact.terms[0] for fact in builder.build_unauthenticated().query(asked)}
        wanted = {name for name in every if covers(wide, name) and not _left_out(wide, name)}
        assert found == wanted, wide
        assert checks.pattern_of(checks.expression(wide)) == wide


def _left_out(wide: str, name: str) -> bool:
    """Whether a wildcard in the first place leaves the name out (`covers` does not say)."""
    first, head = wide.split(".")[0], name.split(".")[0]
    return first in ("*", ">") and (head == "sira" or head.startswith("_"))


@pytest.mark.parametrize("topic", ["lab.é-1", "a\\b.c", "a(b)+.[x]?", "p|q.{3}", "$.^", "x,y or z"])
def test_names_of_strange_letters_are_themselves_in_a_token(topic: str) -> None:
    if " " in topic:
        with pytest.raises(SiraError):
            tokens.narrow(tokens.mint(ROOT, WHO), topics=[topic])
        return
    token = tokens.narrow(tokens.mint(ROOT, WHO), topics=[topic])
    assert allowed(token, "publish", topic) and not allowed(token, "publish", topic + "x")
    scope = verified(token).scope
    assert scope is not None and scope.readable(topic) == (topic,)


@pytest.mark.parametrize(
    ("topics", "pattern", "left"),
    [
        ((), "lab.>", ("lab.>",)),
        (("lab.a.>",), "lab.>", ("lab.a.>",)),
        (("lab.>",), "lab.a.*", ("lab.a.*",)),
        (("lab.*.x", "lab.a.>"), "lab.a.*", ("lab.a.x", "lab.a.*")),
        (("other",), "lab.>", ()),
        ((">",), "sira.>", ()),
        (("lab.a",), "_reply.ab", ("_reply.ab",)),
    ],
)
def test_a_subscription_is_cut_to_what_the_token_leaves(
    topics: tuple[str, ...], pattern: str, left: tuple[str, ...]
) -> None:
    token = tokens.mint(ROOT, WHO, rights=[Right(("subscribe",), topics)])
    scope = verified(token).scope
    assert scope is not None
    assert scope.readable(pattern) == left
    for each in left:
        assert scope.denies("subscribe", each, NOW_S) is None


def test_a_token_that_may_only_publish_may_read_nothing() -> None:
    scope = verified(tokens.narrow(tokens.mint(ROOT, WHO), actions=["publish"])).scope
    assert scope is not None and scope.readable(">") == ()


def test_any_holder_may_narrow_with_checks_of_the_standard() -> None:
    token = appended(
        'check if action("call") or resource($r), $r.starts_with("lab.") && $r != "lab.secret";'
        'reject if action("delete_topic");'
        "check if time($now), $now <= 2030-01-01T00:00:00Z;"
    )
    assert allowed(token, "publish", "lab.a") and not allowed(token, "publish", "lab.secret")
    assert not allowed(token, "delete_topic", "lab.a") and not allowed(token, "publish", "x")
    found = verified(token)
    assert found.expires_s == 1_893_456_001.0
    assert found.scope is not None and found.scope.readable("lab.>") is None


def test_a_check_of_time_that_cannot_be_read_is_believed_for_a_minute() -> None:
    token = appended("check if time($t), $t < 2030-01-01T00:00:00Z || $t < 2029-01-01T00:00:00Z;")
    assert verified(token).expires_s == NOW_S + tokens.UNREAD_TIME_S


def test_describe_tells_people_what_a_token_says_with_and_without_its_key() -> None:
    right = Right(("publish",), ("lab.>",))
    token = tokens.narrow(tokens.mint(ROOT, WHO, rights=[right]), topics=["lab.a"], expires_s=NOW_S)
    told = tokens.describe(token)
    assert (told.principal, told.verified, told.window.expires_s) == (str(WHO), False, NOW_S)
    assert [block.rights for block in told.blocks] == [((right,),), ((Right((), ("lab.a",)),),)]
    assert tokens.describe(token, public_keys=[PUBLIC]).verified
    with pytest.raises(Unauthenticated):
        tokens.describe(token, public_keys=[tokens.public_key(tokens.new_root_key())])


def test_a_narrowing_that_says_nothing_or_too_much_is_refused() -> None:
    token = tokens.mint(ROOT, WHO)
    with pytest.raises(BadRequest, match="nothing to narrow"):
        tokens.narrow(token)
    with pytest.raises(BadRequest, match="no action"):
        tokens.narrow(token, actions=["fly"])
    with pytest.raises(SiraError):
        tokens.narrow(token, topics=["a..b"])
    with pytest.raises(BadRequest, match="quotation"):
        tokens.narrow(token, topics=['a"b'])
    with pytest.raises(BadRequest, match="at most 32"):
        tokens.narrow(token, topics=[f"t{i}" for i in range(33)])
    with pytest.raises(BadRequest, match="cannot end"):
        tokens.narrow(token, expires_s=1e18)


def test_a_token_grows_to_its_limit_and_says_so() -> None:
    token = tokens.mint(ROOT, WHO)
    with pytest.raises(SiraError) as caught:
        for _ in range(blocks.BLOCKS_MAX + 1):
            token = tokens.narrow(token, actions=["publish"])
            verified(token)
    assert "blocks" in str(caught.value)
    token = tokens.mint(ROOT, WHO)
    with pytest.raises(BadRequest, match="characters"):
        for index in range(blocks.BLOCKS_MAX):
            token = tokens.narrow(
                token, topics=[f"{index}." + "x" * 230 + str(i) for i in range(9)]
            )


# ---- hostile ------------------------------------------------------------------------------------


def test_an_ended_token_one_that_has_not_begun_and_a_foreign_one_are_refused() -> None:
    with pytest.raises(Unauthenticated, match="ended 5 s ago") as caught:
        verified(tokens.mint(ROOT, WHO, expires_s=NOW_S - 5))
    assert caught.value.details["reason"] == "expired"
    with pytest.raises(Unauthenticated, match="holds only in"):
        verified(appended("check if time($t), $t > 2035-01-01T00:00:00Z;"))
    with pytest.raises(Unauthenticated, match="no key that is believed"):
        verified(tokens.mint(tokens.new_root_key(), WHO))
    with pytest.raises(Unauthenticated, match="of cluster 'other'"):
        verified(tokens.mint(ROOT, Principal("other", "lab", "agent", "a1")))


def test_a_token_cut_or_changed_anywhere_is_refused_and_never_repeated() -> None:
    token = tokens.narrow(tokens.mint(ROOT, WHO, expires_s=NOW_S + 60), topics=["lab.a"])
    chosen = random.Random(3).sample(range(len(token)), 150)
    wrong = [token[:cut] for cut in chosen]
    wrong += [token[:i] + ("A" if token[i] != "A" else "B") + token[i + 1 :] for i in chosen]
    wrong += [token + "\n", " " + token, token + "é", token * 2, "", "A", "=" * 8]
    for text in wrong:
        try:
            found = verified(text)
        except Unauthenticated as error:
            assert not text or len(text) < 20 or text[:20] not in str(error)
        else:  # the last character of base64 may have bits that nobody reads
            assert found.principal == WHO and text[:-3] == token[:-3]


@pytest.mark.parametrize(
    "source",
    [
        "n(0); n(1); check if n($a), n($b), n($c);",
        "n($x) <- action($x); check if n($x);",
        "check if [1, 2].all($a -> [1, 2].all($b -> $a + $b > 0));",
        'check if resource($r), $r.matches("(a{100}){100}");',
        'check if resource($r), $r.matches("\\\\w+");',
        'check if resource($r), $r.matches("(" + "a" + ")");',
        "check if resource($r), $r.matches($r);",
        'check if right("a", $r), resource($r);',
        "check if " + ", ".join(f"action($a{i})" for i in range(70)) + ";",
        'check if resource($r), $r + "a" + "b" + "c" + "d" + "e" + "f" + "g" + "h" + "i" != "";',
        'check if resource($r), $r == "a\\"b";',
        'check if resource($r), $r == "a\nb";',
        "check if true; " * (blocks.APPENDED_STATEMENTS_MAX + 1),
        "".join(f'check if resource($r), $r.matches("{"[a-z]*" * 20}{i}");' for i in range(9)),
    ],
)
def test_what_could_take_long_is_refused_before_it_is_run(source: str) -> None:
    with pytest.raises(Unauthenticated):
        verified(appended(source))


def test_a_third_partys_block_is_refused() -> None:
    opened = biscuit.Biscuit.from_base64(tokens.mint(ROOT, WHO), biscuit.PublicKey(PUBLIC))
    made = opened.third_party_request().create_block(
        biscuit.KeyPair().private_key, biscuit.BlockBuilder("check if true;")
    )
    signer = biscuit.KeyPair()
    made = opened.third_party_request().create_block(
        signer.private_key, biscuit.BlockBuilder("check if true;")
    )
    token = opened.append_third_party(signer.public_key, made).to_base64()
    with pytest.raises(Unauthenticated, match="third party"):
        verified(token)


@pytest.mark.parametrize(
    "source", ["", 'principal("a"); principal("b");', 'principal("sira://x");', "principal(7);"]
)
def test_a_token_whose_issuer_named_no_single_principal_is_refused(source: str) -> None:
    key = biscuit.PrivateKey(ROOT)
    with pytest.raises(Unauthenticated):
        verified(biscuit.BiscuitBuilder(source or "x(1);").build(key).to_base64())


def test_a_token_of_another_issuing_program_is_narrowed_with_its_public_key() -> None:
    made = biscuit.BiscuitBuilder(f'principal("{WHO}");').build(biscuit.PrivateKey(ROOT))
    with pytest.raises(Unauthenticated, match="give the public keys"):
        tokens.narrow(made.to_base64(), topics=["lab.a"])
    token = tokens.narrow(made.to_base64(), topics=["lab.a"], public_keys=[PUBLIC])
    assert allowed(token, "publish", "lab.a") and not allowed(token, "publish", "lab.b")


# ---- key files ----------------------------------------------------------------------------------


def test_key_files_say_what_they_are_and_are_read_back() -> None:
    other = tokens.public_key(tokens.new_root_key())
    text = tokens.keys_file([PUBLIC, other])
    assert tokens.parse_keys_file(text + "# old ones follow\n") == (PUBLIC, other)
    assert tokens.parse_key_file(tokens.key_file(ROOT)) == ROOT


@pytest.mark.parametrize(
    "text",
    [
        "",
        PUBLIC,
        "sira-token-keys 2\n" + PUBLIC,
        "sira-token-keys 1\n",
        tokens.key_file(ROOT),
        "sira-token-keys 1\n" + ROOT,
        "sira-token-keys 1\ned25519/02" + "00" * 31,
        "sira-token-keys 1\n" + "\n".join(f"ed25519/{i:064x}" for i in range(9)),
    ],
    ids=["nothing", "bare", "newer", "no key", "private", "private beside", "short", "too many"],
)
def test_a_wrong_file_of_keys_is_refused_without_telling_a_private_key(text: str) -> None:
    with pytest.raises(BadSetting) as caught:
        tokens.parse_keys_file(text)
    assert ROOT.partition("/")[2] not in str(caught.value)
    with pytest.raises(BadSetting):
        tokens.parse_key_file(tokens.keys_file([PUBLIC]))
