"""Sketches of vectors against the vectors themselves, and a store of them against all cosines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext.errors import StoreError
from megacontext.focus import sketch
from megacontext.focus.mean_store import MeanStore
from megacontext.focus.sketch import GROUP, Sketcher
from megacontext.tree.frame_file import FrameFile


def text_like(blocks: int, layers: int, width: int, seed: int = 0) -> np.ndarray:
    """(blocks, n, w): a common offset, topics that last for a while, and what each block says."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 1, width))  # some channels carry far more than others
    topics = rng.normal(0, 1, (24, layers, width))[np.sort(rng.integers(0, 24, blocks))]
    return ((rng.normal(0, 1, (blocks, layers, width)) + topics + 2) * scale).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def exact(vectors: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(blocks,) sums over layers of cosines, seen from the mean."""
    return (unit(vectors - vectors.mean(0)) * asked).sum((1, 2))


def like(vectors: np.ndarray, block: int, seed: int = 0) -> np.ndarray:
    """Directions (n, w) near to what a block says."""
    rng = np.random.default_rng(seed)
    said = vectors[block] - vectors.mean(0)
    return unit(unit(said) + 0.5 * unit(rng.normal(0, 1, said.shape))).astype(np.float32)


def filled(vectors: np.ndarray, file: FrameFile | None = None) -> MeanStore:
    store = MeanStore(*vectors.shape[1:], file)
    for vector in vectors:
        store.append(vector)
    return store


def frames(folder: Path, layers: int, width: int) -> FrameFile:
    return FrameFile.open(folder / "means.ctx", MeanStore.geometry(layers, width), fingerprint="a model")


@pytest.mark.parametrize(
    ("layers", "width", "bits", "error"), [(1, 16, 8, 0.005), (2, 64, 8, 0.005), (3, 192, 4, 0.01), (6, 192, 2, 0.02)]
)
def test_a_sketch_knows_cosines_as_well_as_its_bits_allow(layers, width, bits, error):
    vectors = text_like(3 * GROUP, layers, width)
    sketcher, centre = Sketcher(layers, width), vectors.mean(0)
    turned, asked = sketcher.turn(vectors), like(vectors, 77)
    data = np.stack([sketcher.pack(group, group.mean(0)) for group in turned.reshape(3, GROUP, layers, -1)])
    which = np.arange(0, 3 * GROUP, 5)
    found = sketcher.cosines(data, which, sketcher.turn(centre), sketcher.turn(asked))
    assert sketcher.bits == bits
    assert np.std(found - exact(vectors, asked)[which]) / layers < error
    assert data.shape == (3, sketcher.payload)
    assert sketcher.payload <= GROUP * 288 + 4 * GROUP * layers + 2 * layers * width + 8


def test_signs_alone_order_vectors_nearly_as_cosines_do():
    vectors = text_like(2 * GROUP, 4, 128)
    sketcher, asked = Sketcher(4, 128), like(vectors, 9)
    turned = sketcher.turn(vectors - vectors.mean(0))
    data = np.stack([sketcher.pack(group, 0 * group[0]) for group in turned.reshape(2, GROUP, 4, -1)])
    differing, wanted = sketcher.differing_signs(data, sketcher.turn(asked)), exact(vectors, asked)
    signs = (turned >= 0) != (sketcher.turn(asked) >= 0)
    assert np.array_equal(differing, signs.sum((1, 2)))
    assert np.corrcoef(-differing, wanted)[0, 1] > 0.9


def test_bits_are_counted_alike_with_and_without_numpys_own_count(monkeypatch):
    words = np.random.default_rng(0).integers(0, 1 << 63, (5, 3), dtype=np.uint64)
    counts = [sum(bin(int(word)).count("1") for word in row) for row in words]
    assert sketch._ones(words).sum(-1).tolist() == counts
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert sketch._ones(words).sum(-1).tolist() == counts


def test_turning_changes_no_length_and_no_angle():
    vectors = text_like(40, 3, 96)
    turned = Sketcher(3, 96).turn(vectors)
    flat, back = vectors.reshape(-1, 96), turned.reshape(-1, 96)
    np.testing.assert_allclose(back @ back.T, flat @ flat.T, rtol=1e-4, atol=1e-2)


def test_a_vector_takes_few_bytes_however_wide_the_model_is():
    for layers, width in ((1, 8), (6, 192), (6, 1024), (16, 1024), (40, 128)):
        assert Sketcher(layers, width).payload <= GROUP * 512
    vectors = text_like(4 * GROUP, 8, 1024)
    asked = like(vectors, 300)
    assert filled(vectors).likest(asked, len(vectors), 1) == [300]


@pytest.mark.parametrize(("layers", "width"), [(1, 16), (6, 192)])
def test_the_likest_blocks_are_those_of_a_search_through_all_vectors(layers, width):
    vectors = text_like(1500, layers, width)
    store = filled(vectors)
    recall = []
    for block in range(3, 1500, 150):
        asked = like(vectors, block, seed=block)
        found, wanted = store.likest(asked, 1500, 64), np.argsort(-exact(vectors, asked))
        assert wanted[0] in found[:2]
        assert set(wanted[:24].tolist()) <= set(found)
        recall.append(np.isin(wanted[:64], found).mean())
    assert np.mean(recall) > 0.9


def test_only_known_blocks_are_named_and_no_more_than_wanted():
    vectors = text_like(1500, 6, 192)
    store, asked = filled(vectors), like(vectors, 1400)
    for known in (1, 100, 128, 700, 1280, 1300, 1500):
        found = store.likest(asked, known, 64)
        assert len(found) == len(set(found)) == min(known, 64)
        assert max(found) < known
    assert MeanStore(6, 192).likest(asked, 0, 64) == []


def test_a_store_brought_back_answers_as_the_one_that_never_went_away(tmp_path):
    vectors, file = text_like(1400, 2, 96), frames(tmp_path, 2, 96)
    store = filled(vectors, file)
    again = MeanStore(2, 96, file)
    again.restore(store.state())
    asked = like(vectors, 700)
    assert again.likest(asked, 1400, 64) == store.likest(asked, 1400, 64)
    assert again.nbytes == store.nbytes
    assert not store.state()["closed"]
    for vector in text_like(200, 2, 96, seed=1):
        store.append(vector)
        again.append(vector)
    assert np.array_equal(again.centre, store.centre)
    assert again.likest(asked, 1600, 64) == store.likest(asked, 1600, 64)


def test_without_a_file_all_of_it_is_in_the_state():
    vectors = text_like(300, 2, 24)
    store, again = filled(vectors), MeanStore(2, 24)
    again.restore(store.state())
    assert again.likest(like(vectors, 5), 300, 9) == store.likest(like(vectors, 5), 300, 9)


def test_a_copy_has_the_same_vectors_and_writes_to_no_file(tmp_path):
    vectors, file = text_like(300, 2, 24), frames(tmp_path, 2, 24)
    store = filled(vectors, file)
    twin, places = store.copy(), file.places
    for vector in vectors:
        twin.append(vector)
    assert file.places == places
    again = MeanStore(2, 24)
    again.restore(twin.state())
    asked = like(vectors, 50)
    assert again.likest(asked, 600, 5) == twin.likest(asked, 600, 5)
    assert store.likest(asked, 600, 5) == filled(vectors).likest(asked, 300, 5)


def test_a_group_that_the_file_lost_is_left_out(tmp_path):
    vectors, file = text_like(600, 2, 24), frames(tmp_path, 2, 24)
    state = filled(vectors, file).state()
    file.forget(1)
    again = MeanStore(2, 24, file)
    again.restore(state)
    found = again.likest(like(vectors, 200), 600, 600)
    assert sorted(found) == [*range(128), *range(256, 600)]


def test_groups_that_a_disk_refuses_are_kept_in_the_state(tmp_path, monkeypatch):
    vectors, file = text_like(600, 2, 24), frames(tmp_path, 2, 24)
    store = MeanStore(2, 24, file)
    for number, vector in enumerate(vectors):
        if number == 200:
            monkeypatch.setattr(FrameFile, "write", lambda *_: (_ for _ in ()).throw(StoreError("no space")))
        store.append(vector)
    state = store.state()
    assert sorted(state["closed"]) == ["1", "2", "3"]
    again = MeanStore(2, 24, file)
    again.restore(state)
    assert again.likest(like(vectors, 400), 600, 64) == store.likest(like(vectors, 400), 600, 64)


def test_a_state_of_other_vectors_is_refused():
    state = filled(text_like(130, 2, 24)).state()
    with pytest.raises(ValueError, match="do not fit"):
        MeanStore(2, 25).restore(state)
    with pytest.raises(ValueError, match="do not fit"):
        MeanStore(2, 24).restore({**state, "count": 131})
    with pytest.raises(ValueError, match="do not fit"):
        MeanStore(2, 24).restore({**state, "closed": {"0": np.zeros(3, np.uint8)}})
