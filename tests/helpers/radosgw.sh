#!/usr/bin/env bash
# A real S3 server on loopback for tests: Ceph's RADOS gateway, from Debian packages unpacked into a folder.
#
#   radosgw.sh start DIR [PORT]   prints its endpoint, key and secret as JSON; the monitor gets PORT + 1
#   radosgw.sh stop DIR
#
# Nothing is installed or left running outside DIR, and root is not needed. DIR/root keeps the packages for
# the next start, DIR/run/log says what went wrong. Objects are kept in memory, 2 GiB of them at most.
# Exit code 3: the packages cannot be had.
set -euo pipefail

usage="radosgw.sh start|stop DIR [PORT]"
command=${1:?$usage}
mkdir -p "${2:?$usage}"
dir=$(cd "$2" && pwd)
port=${3:-19004}
root=$dir/root
run=$dir/run
key=testkey
secret=testsecret

no_packages() {
  echo "$1" >&2
  exit 3
}

stop() {
  local pid_file pid
  for pid_file in "$run"/*.pid; do
    [ -e "$pid_file" ] || continue
    pid=$(cat "$pid_file")
    rm -f "$pid_file"
    # a pid of an earlier boot may be another program's now
    grep -qs "$run/ceph.conf" "/proc/$pid/cmdline" || continue
    kill -KILL "$pid"
    while [ -e "/proc/$pid/exe" ]; do sleep 0.05; done
  done
}

unpack() {
  [ -e "$root" ] && return
  local apt new=$dir/root.partial package
  apt=(-o "Dir::State::lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt" -o APT::Sandbox::User=root)
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || no_packages "this is no Debian: no apt-get"
  rm -rf "$new" && mkdir -p "$new" "$dir/apt/lists/partial" "$dir/apt/archives/partial" "$dir/debs"
  apt-get "${apt[@]}" -qq update >"$dir/apt/log" 2>&1 || no_packages "apt-get update failed: $(tail -1 "$dir/apt/log")"
  # what the simulation would install is what this machine lacks
  apt-get "${apt[@]}" --simulate --no-install-recommends install radosgw ceph-mon ceph-osd >"$dir/apt/plan" 2>&1 \
    || no_packages "no packages of Ceph here: $(tail -1 "$dir/apt/plan")"
  (cd "$dir/debs" && awk '/^Inst/ { print $2 }' "$dir/apt/plan" \
    | xargs apt-get "${apt[@]}" -qq download >"$dir/apt/log" 2>&1) \
    || no_packages "the packages of Ceph cannot be fetched: $(tail -1 "$dir/apt/log")"
  for package in "$dir"/debs/*.deb; do dpkg-deb --extract "$package" "$new"; done
  mv "$new" "$root"
  rm -rf "$dir/apt" "$dir/debs"
}

configure() {
  # "ms mon client mode": without it clients hang where authentication is off.
  # "paxos": waits meant for many monitors; this one agrees with itself.
  # "tcp_nodelay": without it every GET waits 40 ms for the client's delayed acknowledgement.
  cat >"$run/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = 127.0.0.1:$((port + 1))
public network = 127.0.0.0/8
ms bind ipv6 = false
ms mon client mode = crc
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
mon allow pool size one = true
osd crush chooseleaf type = 0
osd class dir = $lib/rados-classes
plugin dir = $lib/ceph
erasure code dir = $lib/ceph/erasure-code
run dir = $run
log file = $run/log/\$name.log
admin socket = $run/\$name.asok
pid file = $run/\$name.pid
crash dir = $run/log
[mon.a]
mon data = $run/mon
mon data avail crit = 1
mon data avail warn = 1
paxos propose interval = 0.02
paxos min wait = 0.01
[osd.0]
osd data = $run/osd
osd objectstore = memstore
memstore device bytes = 2G
[client.rgw.a]
rgw data = $run/rgw
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw enable apis = s3
CONF
}

wait_until() {
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "waited 30 s in vain for: $*"
  return 1
}

osd_is_up() { ceph osd stat | grep -q "1 up"; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port"); }

ceph() {
  PYTHONPATH=$root/usr/lib/python3/dist-packages timeout 30 \
    /usr/bin/python3 "$root/usr/bin/ceph" --conf "$run/ceph.conf" "$@"
}

launch() {
  set -x
  local conf=(--conf "$run/ceph.conf") osd_id
  monmaptool --create --add a "127.0.0.1:$((port + 1))" --fsid "$fsid" "$run/monmap"
  ceph-mon "${conf[@]}" --id a --mkfs --monmap "$run/monmap"
  ceph-mon "${conf[@]}" --id a
  osd_id=$(cat /proc/sys/kernel/random/uuid)
  ceph-osd "${conf[@]}" --id 0 --mkfs --osd-uuid "$osd_id"
  ceph osd new "$osd_id"
  ceph osd crush add osd.0 1 host=localhost root=default
  ceph-osd "${conf[@]}" --id 0
  wait_until osd_is_up
  radosgw "${conf[@]}" --name client.rgw.a
  wait_until answers
  radosgw-admin "${conf[@]}" user create --uid tests --display-name tests --access-key "$key" --secret-key "$secret"
}

start() {
  unpack
  [ -x /usr/bin/python3 ] || no_packages "Ceph's command needs /usr/bin/python3"
  stop
  rm -rf "$run"
  mkdir -p "$run"/{log,mon,osd,rgw}
  lib=$root/usr/lib/$(uname -m)-linux-gnu
  fsid=$(cat /proc/sys/kernel/random/uuid)
  export LD_LIBRARY_PATH=$lib:$lib/ceph:$root/lib/$(uname -m)-linux-gnu PATH=$root/usr/bin:$PATH
  configure
  # subtle: bash ignores -e inside a condition
  set +e
  (set -e; launch) >"$run/log/start" 2>&1
  local failed=$?
  set -e
  if [ $failed != 0 ]; then
    stop
    echo "the gateway did not start; the end of $run/log/start:" >&2
    tail -5 "$run/log/start" >&2
    exit 1
  fi
  echo "{\"endpoint\": \"http://127.0.0.1:$port\", \"key\": \"$key\", \"secret\": \"$secret\"}"
}

case $command in
  start) start ;;
  stop) stop ;;
  *) echo "$usage" >&2; exit 2 ;;
esac
