#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Make the images in sockets/ again: see README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
space=ff-sockets
work=$(mktemp -d)
trap 'kill -9 "$program" 2>/dev/null || true; ip netns delete "$space"; rm -rf "$work"' EXIT
ip netns add "$space"
ip -n "$space" link set lo up
ip -n "$space" address add 192.0.2.1/32 dev lo
ip -n "$space" address add 2001:db8::1/128 dev lo nodad
cd /
setsid nsenter --net="/run/netns/$space" env -i python3 -S -E "$here/sockets.py" </dev/null >"$work/out" 2>&1 &
program=$!
timeout 10 sh -c "until grep -q ready '$work/out'; do sleep 0.1; done"

dump() { # into a new directory, with options
  mkdir "$work/$1"
  criu dump --tree "$program" --images-dir "$work/$1" --tcp-established --network-lock skip "${@:2}"
}

dump sockets --leave-running --external "net[$(stat -L -c %i "/run/netns/$space")]:space"
dump network
rm -rf "$here/sockets" "$here/network"
mkdir "$here/sockets" "$here/network"
cd "$work/sockets"
cp files.img fdinfo-*.img ids-*.img inventory.img pstree.img core-*.img mm-*.img netns-*.img \
  stats-dump tcp-stream-*.img "$here/sockets"
cd "$work/network"
cp inventory.img netns-*.img ifaddr-*.img route6-*.img "$here/network"
