"""The receive window of a stream may be asked for, within limits."""

from __future__ import annotations

import pytest

from sira.client import transport
from sira.kernel.errors import BadRequest


def test_the_window_is_the_environments_or_256_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIRA_STREAM_WINDOW_BYTES", raising=False)
    assert transport.stream_window_bytes() == 256 << 10
    monkeypatch.setenv("SIRA_STREAM_WINDOW_BYTES", str(4 << 20))
    assert transport.stream_window_bytes() == 4 << 20


@pytest.mark.parametrize("asked", ["-1", "4MiB", "1", str(1 << 40), "٣"])
def test_a_window_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("SIRA_STREAM_WINDOW_BYTES", asked)
    with pytest.raises(BadRequest, match="SIRA_STREAM_WINDOW_BYTES"):
        transport.stream_window_bytes()
