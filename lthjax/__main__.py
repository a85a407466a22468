"""`python -m lthjax`: versions for bug reports."""

import argparse

import lthjax


def main() -> None:
  """Prints the version alone with `--version`, and all versions without."""
  parser = argparse.ArgumentParser(
    prog='python -m lthjax',
    description='Prints versions and devices, for bug reports.',
  )
  parser.add_argument(
    '--version', action='version', version=f'lthjax {lthjax.__version__}'
  )
  parser.parse_args()
  lthjax.show_versions()


if __name__ == '__main__':
  main()
