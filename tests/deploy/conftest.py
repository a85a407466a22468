"""What tests of deployment share."""

import os
import warnings

import pytest

from lthjax import deploy
from lthjax.deploy import _compile


@pytest.fixture(scope='module')
def compiled():
  """Builds the kernels once; without them the fallback is tested."""
  if _compile.supported() is None and os.environ.get('LTHJAX_KERNELS') != '0':
    deploy.build_kernels()
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', '.*without compiled kernels')
    yield
