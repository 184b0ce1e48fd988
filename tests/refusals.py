"""How tests say that something is refused."""

import pytest

from advspur._checks import InputError


def refused(message, function, *args, **options):
    """A call raises an InputError of one line, in which `message` is found."""
    with pytest.raises(InputError, match=message) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
