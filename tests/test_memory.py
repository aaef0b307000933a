from __future__ import annotations

import pytest
from memory import peak_mib_of


def test_an_earlier_peak_hides_nothing() -> None:
    program = "len(bytearray(100 << 20))"
    assert peak_mib_of(program, "bytearray(40 << 20)") == pytest.approx(40, abs=2)
    assert peak_mib_of(program, "len(bytearray(40 << 20))") == pytest.approx(40, abs=2)
    assert peak_mib_of(program, "None") < 2
