"""Span and Grid against arithmetic on single tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.span import Grid, Span

grids = st.builds(Grid, block=st.integers(2, 5), fanout=st.integers(2, 4))
levels = st.integers(0, 3)
positions = st.integers(0, 2000)


@given(grids, levels, positions)
def test_a_node_covers_the_token_it_was_asked_for_and_lies_on_the_grid(grid, level, position):
    node = grid.node(level, position)
    assert node.start <= position < node.end
    assert grid.on_grid(node)
    assert node.end - node.start == grid.width(level)


@given(grids, levels)
def test_the_nodes_of_a_level_tile_history(grid, level):
    nodes = sorted({grid.node(level, position) for position in range(4 * grid.width(level))})
    assert [t for node in nodes for t in range(node.start, node.end)] == list(range(4 * grid.width(level)))


@given(grids, levels, positions)
def test_children_tile_their_parent_and_name_it(grid, level, position):
    parent = grid.parent(grid.node(level, position))
    children = grid.children(parent)
    assert len(children) == (1 if level == 0 else grid.fanout)
    assert [t for c in children for t in range(c.start, c.end)] == list(range(parent.start, parent.end))
    assert all(grid.parent(child) == parent and grid.on_grid(child) for child in children)


@given(grids, st.integers(0, 100))
def test_a_page_and_its_gist_cover_the_same_tokens(grid, block):
    page = grid.page(block)
    gist = grid.parent(page)
    assert (gist.start, gist.end, gist.level) == (page.start, page.end, 1)
    assert page == grid.node(0, block * grid.block)


@given(grids, st.integers(-3, 60), st.integers(-3, 60), st.integers(-2, 3))
def test_only_nodes_are_on_the_grid(grid, start, end, level):
    is_node = level >= 0 and start >= 0 and Span(start, end, level) == grid.node(level, start)
    assert grid.on_grid(Span(start, end, level)) == is_node


def test_an_exact_span_has_no_children():
    with pytest.raises(ValueError, match="has no children"):
        Grid().children(Grid().page(3))


@pytest.mark.parametrize(("block", "fanout"), [(1, 32), (32, 1), (0, 2)])
def test_a_grid_needs_blocks_and_groups_of_two(block, fanout):
    with pytest.raises(ValueError, match="at least 2"):
        Grid(block, fanout)
