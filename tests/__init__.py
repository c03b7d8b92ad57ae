import pytest

pytest.register_assert_rewrite("tests.made_data", "tests.programs", "tests.runs")  # They assert for the test modules.
