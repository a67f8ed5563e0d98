"""What a Python user calls: every public name is there, and stays what it is."""

import tlperf


def test_every_public_name_is_there_and_stays_what_it_is():
    """Twice: a room that is imported meanwhile must not take a function's name."""
    names = [name for name in tlperf.__all__ if name != "__version__"]
    first = {name: getattr(tlperf, name) for name in names}
    assert all(callable(found) for found in first.values())
    assert {name: getattr(tlperf, name) for name in names} == first
