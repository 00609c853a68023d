# Source me (bash): puts the checkout's Python environment and its ROS 2 on the paths.
#
#   source tools/ros_env.sh
#
# With the ROS 2 wheels in .venv it does what a ROS installation's setup.bash does. Where a ROS 2
# installation is already sourced, that one stays in charge, and only the .venv and the overlay with
# the interface packages are added. Sourcing it twice changes nothing.

_mtc_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_mtc_venv="$_mtc_root/.venv"
_mtc_overlay="$_mtc_root/.overlay/install"

_mtc_prepend() { # variable, directory: only directories that exist, each once
  [ -d "$2" ] || return 0
  case ":${!1-}:" in
    *":$2:"*) ;;
    *) export "$1=$2${!1:+:${!1}}" ;;
  esac
}

export VIRTUAL_ENV="$_mtc_venv"
_mtc_prepend PATH "$_mtc_venv/bin"

if [ -d "$_mtc_venv/share/rclpy" ]; then
  _mtc_prepend AMENT_PREFIX_PATH "$_mtc_venv"
  _mtc_prepend CMAKE_PREFIX_PATH "$_mtc_venv"
  _mtc_prepend LD_LIBRARY_PATH "$_mtc_venv/lib"
  for _mtc_dir in "$_mtc_venv"/lib/python3*/site-packages/ros_*.libs; do
    _mtc_prepend LD_LIBRARY_PATH "$_mtc_dir"
  done
  # The wheels restart every Python process to set LD_LIBRARY_PATH, unless told that it is set.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  export ROS_DISTRO="${ROS_DISTRO:-kilted}"
  export RMW_IMPLEMENTATION="${RMW_IMPLEMENTATION:-rmw_fastrtps_cpp}"
fi

if [ -d "$_mtc_overlay/share" ]; then
  _mtc_prepend AMENT_PREFIX_PATH "$_mtc_overlay"
  _mtc_prepend CMAKE_PREFIX_PATH "$_mtc_overlay"
  _mtc_prepend LD_LIBRARY_PATH "$_mtc_overlay/lib"
  for _mtc_dir in "$_mtc_overlay"/{lib,local/lib}/python3*/{site,dist}-packages; do
    _mtc_prepend PYTHONPATH "$_mtc_dir"
  done
fi

# Camera images do not fit Fast DDS's default shared-memory segment: see config/fastdds.xml.
case "${ROS_DISTRO:-}" in
  humble | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$_mtc_root/config/fastdds.xml}" ;;
  *) export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$_mtc_root/config/fastdds.xml}" ;;
esac
# What runs from a checkout stays on this machine unless somebody asks for more.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"

unset -f _mtc_prepend
unset _mtc_root _mtc_venv _mtc_overlay _mtc_dir
