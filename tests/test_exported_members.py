"""`__all__` of the rooms that have one: sorted, and exactly what the room imports for others."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "primum"
ROOMS = [path.parent.name for path in sorted(SOURCE.glob("*/__init__.py")) if "__all__" in path.read_text()]


def _kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts them (RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_there_are_such_rooms() -> None:
    assert {"imaging", "secagg", "dp"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_the_list_is_sorted_complete_and_true(room: str) -> None:
    module = import_module(f"primum.{room}")
    listed = list(module.__all__)
    assert listed == sorted(listed, key=_kind)
    assert len(set(listed)) == len(listed)
    tree = ast.parse((SOURCE / room / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("primum")
        for alias in node.names
    }
    assert imported == {name for name in listed if name in imported}, imported - set(listed)
    assert all(hasattr(module, name) for name in listed)
