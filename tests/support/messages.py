"""What tests demand of every message to the user."""


def one_line(error, *parts):
    """The message of `pytest.raises` is one line with a cure, and holds every part."""
    text = str(error.value)
    assert "\n" not in text
    assert ". " in text
    for part in parts:
        assert str(part) in text
