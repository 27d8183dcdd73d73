# shellcheck shell=bash
# A small cluster inside this machine, for tests: source this, then call what follows.
#
# `cluster_enter "$@"` starts the script again in namespaces of its own (processes, network, mounts, host name): nothing
# of it is seen outside, and everything ends with it. `cluster_nodes node1 node2` then makes nodes with addresses of
# their own on one bridge, whose names all of them know; `on node1 COMMAND` runs a command there.

# The bridge's network; the machine itself is .254 and is called `login`.
CLUSTER_NET=10.77.0

cluster_enter() {
  [ "${CLUSTER_INSIDE-}" != 1 ] || return 0
  local user=()
  # Without being root, one is root inside, where the system allows it.
  [ "$(id -u)" -eq 0 ] || user=(--user --map-root-user)
  if ! unshare "${user[@]}" --net true 2>/dev/null; then
    echo "$0: NOT RUN: this system allows no namespaces (try as root)" >&2
    exit 77
  fi
  # Whoever is started in the background has SIGINT ignored, and no shell below it could undo that.
  CLUSTER_INSIDE=1 exec unshare "${user[@]}" --mount --net --uts --pid --fork --kill-child --mount-proc \
    env --default-signal=INT "$0" "$@"
}

# Makes the nodes that are named, in namespaces of these names.
cluster_nodes() {
  local folder=$1 name index=1
  shift
  mount -t tmpfs tmpfs /run
  hostname login
  ip link set lo up
  ip link add cluster type bridge
  ip address add "$CLUSTER_NET.254/24" dev cluster
  ip link set cluster up
  printf '127.0.0.1 localhost\n%s.254 login\n' "$CLUSTER_NET" >"$folder/hosts"
  for name; do
    ip netns add "$name"
    ip link add "$name" type veth peer name eth0 netns "$name"
    ip link set "$name" master cluster up
    ip -n "$name" link set lo up
    ip -n "$name" address add "$CLUSTER_NET.$index/24" dev eth0
    ip -n "$name" link set eth0 up
    echo "$CLUSTER_NET.$index $name" >>"$folder/hosts"
    index=$((index + 1))
  done
  mount --bind "$folder/hosts" /etc/hosts
}

# Runs a command on a node, which then is the name of the host as well.
on() {
  local name=$1
  shift
  # shellcheck disable=SC2016 # expanded inside
  # Not by `ip netns exec`, which would mount another /sys.
  nsenter --net="/run/netns/$name" unshare --uts bash -c 'hostname "$1"; shift; exec "$@"' on "$name" "$@"
}
