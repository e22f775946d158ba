"""The public suite, on GPT of every generation."""

import pytest

from megacontext.testing.model_conformance import BaseModelTests
from megacontext.testing.toy import toy_model
from nanochat.generations import GENERATIONS, named


@pytest.mark.parametrize("generation", GENERATIONS, scope="class")
class TestGPT(BaseModelTests):
    @pytest.fixture
    def model(self, generation):
        if named(generation).table_rounding is not None:
            self.shift_tolerance = 0.1  # tables rounded to bf16: a shift turns angles by up to 2^-9
        return toy_model(generation)
