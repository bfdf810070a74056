"""The code in docs/drop-in.md runs."""

import re
import sys
from pathlib import Path
from unittest import mock

import pytest

from janus_fast import engine

PAGE = (Path(__file__).parent.parent / "docs" / "drop-in.md").read_text(encoding="utf-8")


@pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_page_s_code_runs(code, capsys):
    with mock.patch.dict(sys.modules):
        exec(compile(code, "docs/drop-in.md", "exec"), {})  # noqa: S102
        assert capsys.readouterr().out or sys.modules["ctranslate2"].Translator


def test_the_page_names_every_option():
    from janus_fast.compat.ctranslate2.options import NAMES

    assert [name for name in NAMES if f"`{name}`" not in PAGE] == []
