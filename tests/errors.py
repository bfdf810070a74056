"""Mistakes as tables have them: what is called, and the error of which the first line is as it stands there."""

import pytest


def assert_refused(call, kind, message):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).splitlines()[0] == message
