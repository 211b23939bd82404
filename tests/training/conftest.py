"""What tests of whole runs share."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

ALL_PROGRAMS = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}


@pytest.fixture(scope="session")
def cache_of_programs(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def programs_compiled_once(cache_of_programs):
    """Runs of the same experiment share their compiled programs through JAX's cache on disk."""
    settings = {"jax_compilation_cache_dir": str(cache_of_programs), **ALL_PROGRAMS}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
