"""Loads that a Debian guest runs by itself once it has started. Each says so on the console when it has ended."""

import images

# Kernel modules with RDTSC in them, and a program of little else; then Perl compiles each of its own: processes,
# files read, files written.
COMPILE = """#!/bin/sh
modprobe -a kvm jitterentropy_rng
said=$(/tsc)
n=0
for module in $(ls /usr/lib/x86_64-linux-gnu/perl-base/*.pm | head -n {count}); do
    perl -c "$module" > /var/tmp/object.$n 2>&1
    n=$((n + 1))
done
cat /var/tmp/object.* > /var/tmp/linked
sync
echo "load: done $n $said" > /dev/console
"""
# Clojure on a JVM: code compiled, run and patched while it runs, threads, garbage, signals for its own faults, and
# the time read all along, which must not go back.
JVM = """#!/bin/sh
cd /usr/share/java
exec > /dev/console 2>&1
java -Xmx160m -Xlog:disable -cp clojure.jar:spec.alpha.jar:core.specs.alpha.jar clojure.main -e '
(let [last-seen (atom 0) back (atom 0)
      look (fn [] (let [now (System/nanoTime)] (when (< now @last-seen) (swap! back inc)) (reset! last-seen now)))
      squares (fn [n] (look) (frequencies (map (fn [x] (mod (* x x) (+ n 97))) (range 3000))))
      kept (reduce (fn [sum n] (+ sum (count (squares n)))) 0 (range {count}))
      told (reduce + (pmap (fn [n] (hash (apply str (range n)))) (range 0 2000 100)))]
  (println "load:" (if (zero? @back) "done" "time went back") kept told))
(shutdown-agents)'
"""
UNIT = """[Unit]
After=redis-server.service
[Service]
Type=oneshot
ExecStart=/load.sh
"""
LOADS = {"compile": COMPILE, "jvm": JVM}
DONE = "load: done"


def install(disk, load, count, guests):
    """Has the guest of the image `disk` run `load`, so big as `count` says, when it starts. `guests` is where tiny
    guests were built."""
    images.put_program(disk, f"{guests}/tsc", "tsc")
    images.put(disk, LOADS[load].format(count=count), "load.sh", 0o755)
    images.put(disk, UNIT, "etc/systemd/system/load.service")
    images.link(disk, "etc/systemd/system/multi-user.target.wants/load.service", "../load.service")
