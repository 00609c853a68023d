#!/usr/bin/env bash
# Makes requirements/NAME.txt, exact versions, from what requirements/NAME.in declares.
#
#   tools/lock.sh            versions that are locked stay, as far as the declarations allow
#   tools/lock.sh --upgrade  the newest of everything
#
# Only what is declared is locked, not what it draws in: that differs between machines (a CPU's
# torch and a GPU's). build.txt and ros.txt are no dependencies of the package and kept by hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"

command -v uv >/dev/null || {
  echo "error: uv is missing; install it with: pip install uv" >&2
  exit 2
}

lock() { # lock, declarations, further arguments of uv
  local lock=$1 declarations=$2
  uv pip compile --quiet --no-deps --universal --python-version 3.10 --no-header --no-annotate \
    "${@:3}" --output-file "$lock.txt" "$declarations.in"
  sed -i "1i # Made by tools/lock.sh from $declarations.in." "$lock.txt"
  echo "$lock.txt"
}

for declarations in *.in; do
  name=${declarations%.in}
  [ "$name" = numpy ] || lock "$name" "$name" "$@"
done
lock numpy1 numpy --constraint <(echo 'numpy<2') "$@"
lock numpy2 numpy --constraint <(echo 'numpy>=2') "$@"
