"""When Python searches for garbage."""

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from limbeck import dispatch
from limbeck.garbage import loading, unsearched


@pytest.fixture
def searching() -> Iterator[None]:
    """Searches as in a new process, without what the tests have set aside."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.long
@pytest.mark.usefixtures("searching")
def test_what_was_loaded_is_old_and_still_garbage_once_it_is() -> None:
    begun = []
    gc.callbacks.append(lambda phase, info: begun.append(info["generation"]))
    try:
        with loading():
            made: list[list[object]] = [[] for _ in range(5000)]  # far more than begin a search
            made[0].append(made[0])
            assert begun == []
    finally:
        gc.callbacks.pop()
    old = {id(one) for one in gc.get_objects(generation=2)}
    assert gc.isenabled()
    assert all(id(one) in old for one in made)
    assert gc.get_freeze_count() == 0
    gc.collect()
    del made, old
    assert gc.collect() >= 1  # the list that holds itself


def test_what_the_process_has_set_aside_stays_aside() -> None:
    assert gc.get_freeze_count() > 0  # by the tests
    with loading():
        pass
    assert gc.get_freeze_count() > 0


def test_searches_stay_off_where_they_were_off_and_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), unsearched():
        _ = 1 / 0
    assert gc.isenabled()
    gc.disable()
    try:
        with unsearched():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_jobs_are_loaded_without_searches() -> None:
    tree = ast.parse(Path(dispatch.__file__).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    inside = {id(node) for block in blocks if ast.unparse(block.items[0]) == "loading()" for node in ast.walk(block)}
    imports = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    assert len(imports) >= 11
    assert all(id(node) in inside for node in imports)
