#!/usr/bin/env bash
# Sets up this checkout: tools/setup.sh GROUP...   (groups: runtime, offline, dev, tensorrt, ray, docs)
#
# Makes .venv with the pinned requirements of the groups, and .overlay with this project's interface
# package and, where it is missing, vision_msgs. Each step leaves a stamp of what it was made from and
# runs again only when that changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
overlay=$root/.overlay
stamps=$venv/.mtc
python=${PYTHON:-python3}

say() { printf '[setup] %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}
hash_of() { cat -- "$@" | sha256sum | cut -c1-16; }
is_fresh() { [ -f "$stamps/$1" ] && [ "$(<"$stamps/$1")" = "$2" ]; } # step, what it is made from
stamp() { printf '%s\n' "$2" >"$stamps/$1"; }

# `installation` where this Python can import the rclpy of a sourced ROS 2, otherwise `wheels`.
where_ros_is() {
  if [ -n "${AMENT_PREFIX_PATH-}" ] && [ -z "${_ROS_WHEELS_BOOTSTRAP_COMPLETE-}" ] &&
    "$python" -c 'import rclpy' 2>/dev/null; then
    echo installation
  else
    echo wheels
  fi
}

check_system() {
  local missing=() headers
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  if [ "$ros" = wheels ]; then
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [ -f "$headers/Python.h" ] || missing+=(python3-dev)
    command -v c++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
  fi
  [ ${#missing[@]} -eq 0 ] ||
    die "this machine lacks ${missing[*]}; install with: sudo apt-get install ${missing[*]}"
}

make_venv() {
  local source options=()
  source="$("$python" -c 'import sys; print(*sys.version_info[:3], sys.base_prefix)') $ros $root"
  is_fresh venv "$source" && return
  check_system
  say "making .venv with $("$python" -V), ROS 2 from ${ros/installation/the sourced installation}"
  rm -rf "$venv"
  [ "$ros" = wheels ] || options=(--system-site-packages)
  "$python" -m venv "${options[@]}" "$venv"
  mkdir "$stamps"
  stamp venv "$source"
}

# The message libraries of a ROS 2 compiled against NumPy 1 cannot be loaded with NumPy 2.
numpy_file() {
  local major=2
  [ "$ros" = wheels ] || major=$("$python" -c 'import numpy; print(numpy.__version__[0])')
  echo "requirements/numpy$major.txt"
}

install_requirements() { # group...
  local group files hash todo=() wanted=()
  for group in "$@"; do
    files=("requirements/$group.txt")
    [ "$group" != runtime ] || files+=(requirements/{build,openvino}.txt "$(numpy_file)")
    [ "$group-$ros" != runtime-wheels ] || files+=(requirements/ros.txt)
    hash=$(hash_of "${files[@]}")
    is_fresh "$group" "$hash" && continue
    todo+=("$group $hash")
    wanted+=("${files[@]/#/--requirement=}")
  done
  [ ${#todo[@]} -gt 0 ] || return 0
  say "installing pinned requirements: ${todo[*]% *}"
  "$venv/bin/pip" install --disable-pip-version-check "${wanted[@]}" | show_pip
  for group in "${todo[@]}"; do
    stamp "${group% *}" "${group#* }"
  done
}

# pip's output as progress: the current file on a terminal, two lines in a log.
show_pip() {
  local tty=0
  [ ! -t 1 ] || tty=1
  awk -v tty=$tty '
    /^ *(Downloading|Using cached|Processing) / {
      n++
      if (tty) { sub(/.*\//, "", $2); printf "\r\033[K[setup]   %d files, now %.60s", n, $2; fflush() }
    }
    /^Installing collected/ { printf "%s[setup]   %d files, unpacking\n", tty ? "\r\033[K" : "", n; fflush() }'
}

# Whether a sourced workspace or installation has an interface package; the overlay does not count.
is_elsewhere() { # package
  "$python" - "$1" "$overlay/" 2>/dev/null <<'PYTHON'
import importlib, sys
sys.exit((importlib.import_module(sys.argv[1]).__file__ or sys.argv[2]).startswith(sys.argv[2]))
PYTHON
}

build_overlay() {
  local sources options=() package packages=()
  for package in vision_msgs mtc_perception_interfaces; do
    [ "$ros" = installation ] && is_elsewhere "$package" || packages+=("$package")
  done
  [ ${#packages[@]} -gt 0 ] || return 0
  if [ "$ros" = installation ]; then
    command -v colcon >/dev/null ||
      die "colcon is missing; install with: sudo apt-get install python3-colcon-common-extensions"
  else
    options=("-DPython3_EXECUTABLE=$venv/bin/python"
      "-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES=$root/tools/ros_wheels.cmake")
    # shellcheck source=tools/ros_env.sh
    source tools/ros_env.sh
  fi
  sources=${packages[*]}$(hash_of "$stamps/venv" requirements/ros.txt tools/ros_wheels.cmake \
    interfaces/*/{package.xml,CMakeLists.txt} interfaces/*/{msg,srv}/*)
  [ -d "$overlay/install" ] && is_fresh overlay "$sources" && return
  say "building the interface packages ${packages[*]} (under a minute)"
  rm -rf "$overlay"
  mkdir "$overlay"
  colcon --log-base "$overlay/log" build --base-paths interfaces --merge-install \
    --packages-select "${packages[@]}" \
    --build-base "$overlay/build" --install-base "$overlay/install" \
    --cmake-args -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release "${options[@]}" \
    >"$overlay/build.txt" 2>&1 ||
    die "building ${packages[*]} failed: $(tail -n 20 "$overlay/build.txt")"
  stamp overlay "$sources"
}

install_project() {
  local sources
  sources=$(hash_of setup.py setup.cfg package.xml requirements/*.in)
  is_fresh project "$sources" && return
  say "installing this checkout (editable)"
  PYTHONWARNINGS=ignore "$venv/bin/pip" install --quiet --disable-pip-version-check \
    --editable . --no-deps --no-build-isolation
  stamp project "$sources"
}

command -v "$python" >/dev/null || die "$python not found: sudo apt-get install python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "$python is $("$python" -V), Python 3.10 or newer is needed: make PYTHON=python3.x ..."
# A Python of a virtual environment, even of this .venv, stands for the one that it was made with.
python=$("$python" -c 'import sys; print(sys._base_executable)')
exec 9<"$root"
flock 9 # one set-up at a time
ros=$(where_ros_is)
make_venv
install_requirements "$@"
build_overlay
install_project
say "ready: $("$venv/bin/python" -V), ROS 2 from ${ros/installation/the sourced installation}"
