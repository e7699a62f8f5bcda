"""Many subscribers, each on a connection of its own; `make soak` does it with a thousand."""

from __future__ import annotations

import pytest

from tests.soak import crowd


@pytest.mark.integration
def test_two_hundred_subscribers_all_get_all_of_two_hundred_messages() -> None:
    seen = crowd.run(200, 200, tell=print)
    print(seen)
    assert seen.problems == []
    assert seen.deliveries == 200 * 200
