"""Files written whole, and hashes of settings."""

from repro.files import atomic_write, canonical_hash


def test_atomic_write_replaces_whole_files(tmp_path):
    path = tmp_path / "deep" / "file"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_canonical_hash_does_not_depend_on_the_order_of_keys():
    assert canonical_hash({"a": 1, "b": [1, 2]}) == canonical_hash({"b": [1, 2], "a": 1})
    assert canonical_hash({"a": 1}) != canonical_hash({"a": 2})
