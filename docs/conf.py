"""The site: `.ci/docs` builds it, with warnings as errors.

Its sources are the pages where they are, in `docs`, `experiments` and
`notebooks`, so that links work on GitHub and on the site alike.
"""

import os
import pathlib
import sys
import urllib.request

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / '_ext'), str(HERE.parent)]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import lthjax  # noqa: E402  Found by the path above.

project = 'lthjax'
author = copyright = 'The lthjax authors'
version = release = lthjax.__version__

extensions = [
  'myst_nb',
  'site_pages',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.intersphinx',
  'sphinx.ext.napoleon',
  'sphinx_design',
  'sphinxcontrib.mermaid',
]
root_doc = 'docs/index'
include_patterns = [
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'README.md',
  'docs/**',
  'experiments/README.md',
  'experiments/results/*.md',
  'experiments/submissions/*.md',
  'notebooks/*.ipynb',
]
exclude_patterns = ['docs/_build', '**/.*']
nitpicky = True
default_role = 'py:obj'

# The notebooks hold their outputs: `tests/test_notebooks.py` executes them,
# two to thirty seconds each on two idle cores, and checks what they show. The
# site shows what is stored, from the full data sets, which takes no time and
# needs no data.
nb_execution_mode = 'off'
myst_enable_extensions = ['amsmath', 'colon_fence', 'dollarmath']
myst_heading_anchors = 4
myst_fence_as_directive = ['mermaid']
autosummary_generate = False  # `names.write_pages` writes them.
autodoc_typehints = 'none'  # Docstrings say it; trees spell out as unions.
autodoc_member_order = 'bysource'
napoleon_use_ivar = True


def reached(url: str) -> bool:
  """Returns whether an inventory can be read now; a build needs no network."""
  try:
    with urllib.request.urlopen(f'{url}objects.inv', timeout=5):
      return True
  except OSError:
    return False


# With LTHJAX_DOCS_NETWORK=1, types of these link to their own pages.
network = os.environ.get('LTHJAX_DOCS_NETWORK') == '1'
INVENTORIES = {
  'flax': 'https://flax.readthedocs.io/en/latest/',
  'jax': 'https://docs.jax.dev/en/latest/',
  'numpy': 'https://numpy.org/doc/stable/',
  'optax': 'https://optax.readthedocs.io/en/latest/',
  'python': 'https://docs.python.org/3/',
}
intersphinx_mapping = {
  name: (url, None)
  for name, url in INVENTORIES.items()
  if network and reached(url)
}
linkcheck_ignore = [] if network else ['https?://']

html_theme = 'sphinx_book_theme'
html_title = f'lthjax {version}'
html_show_sourcelink = html_copy_source = False
html_additional_pages = {'index': 'redirect.html'}
templates_path = ['_templates']
html_static_path = ['_static']
html_css_files = ['cards.css']
html_theme_options = {
  'collapse_navbar': True,
  'max_navbar_depth': 2,
  'show_navbar_depth': 1,
  'use_download_button': False,
  'use_fullscreen_button': False,
}
# A build of a release, which lies beside others: `.ci/site`.
if os.environ.get('LTHJAX_DOCS_VERSION'):
  html_theme_options['switcher'] = {
    'json_url': os.environ.get('LTHJAX_DOCS_ROOT', '/') + 'switcher.json',
    'version_match': os.environ['LTHJAX_DOCS_VERSION'],
  }
  html_theme_options['check_switcher'] = False
  html_sidebars = {
    '**': [
      'navbar-logo.html',
      'version-switcher.html',
      'search-button-field.html',
      'sbt-sidebar-nav.html',
    ]
  }
