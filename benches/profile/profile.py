#!/usr/bin/env python3
"""Where the nanoseconds of a message go in the router: the kernel, encryption, QUIC, our code.

Starts `caplane-load run --rate max` for each cell, samples the router's CPU clock with perf while it measures, and shares the
CPU time of a message (from /proc) out over the programs' functions. Needs perf (Debian: linux-perf) and the right to use it.

    benches/profile/profile.py target/release [--cells 64:1350,1024:16368] [--top 10]
"""

import argparse
import collections
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Where a function belongs: the first rule that fits. `dso` is the program or library that perf found it in.
RULES = [
    ("kernel: copies", "kernel", re.compile(r"copy_(from|to)|_copy_|memcpy|csum")),
    ("kernel: the rest", "kernel", re.compile(r"")),
    ("AEAD and TLS", "", re.compile(r"aes|gcm|AEAD|CRYPTO|EVP|ghash|bssl|chacha", re.I)),
    ("our code: tables, choice, queues (core)", "", re.compile(r"caplane_core")),
    ("our code: connections, lanes, I/O (transport)", "", re.compile(r"caplane_transport")),
    ("our code: worker (router, wire)", "", re.compile(r"caplane")),
    ("QUIC (quiche)", "", re.compile(r"quiche|octets|btree")),
    ("allocator", "", re.compile(r"\bmi_|_mi_|malloc|\bfree\b|calloc|realloc")),
    ("copies (nearly all QUIC's)", "", re.compile(r"memmove|memcpy|memset")),
]
SECONDS = 5


def place(dso, symbol):
    """The name of the rule that fits."""
    for name, where, what in RULES:
        if (where == "kernel") == ("kernel" in dso) and what.search(symbol):
            return name
    return "the rest (C library, unknown)"


def router_of(load):
    """Process id of the router that this load generator started."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = Path(f"/proc/{load.pid}/task/{load.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().startswith("caplane-router"):
                return child
        time.sleep(0.1)
    raise SystemExit("profile: the load generator started no router")


def samples(data):
    """(part of all samples, dso, symbol) of what perf recorded."""
    fields = "overhead,dso,symbol"
    command = ["perf", "report", "-i", data, "--no-children", "--stdio", "-g", "none", "-F", fields]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        found = re.match(r"\s+([\d.]+)%\s+(\S+)\s+\[.\]\s+(.*)", line)
        if found:
            yield float(found[1]) / 100, found[2], found[3].strip()


def cell(programs, size, packet, top):
    """Measures one cell and prints it."""
    load = subprocess.Popen(
        [programs / "caplane-load", "run", "--rate", "max", "--size", size, "--udp-payload-max", packet]
        + ["--duration", str(SECONDS + 3)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    router = router_of(load)
    time.sleep(2.5)  # tables and warm-up; the self-test came before the router
    with tempfile.NamedTemporaryFile() as data:
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "2999", "-o", data.name, "-p", router]
        subprocess.run(record + ["--", "sleep", str(SECONDS)], check=True, capture_output=True)
        text, errors = load.communicate()
        cost = re.search(r"router\s+(\d+) ns of CPU a message", text)
        if load.returncode or not cost:
            raise SystemExit(f"profile: the load generator failed:\n{text}\n{errors}")
        shares, functions = collections.Counter(), []
        for part, dso, symbol in samples(data.name):
            shares[place(dso, symbol)] += part
            functions.append((part, place(dso, symbol), symbol))
    nanoseconds = int(cost[1])
    print(f"{size} B, packets of at most {packet} B: {nanoseconds} ns a message")
    for name, part in shares.most_common():
        print(f"  {part * nanoseconds:9.1f} ns  {part:6.1%}  {name}")
    for part, name, symbol in sorted(functions, reverse=True)[:top]:
        print(f"             {part:6.1%}  {symbol[:90]}  ({name})")
    sys.stdout.flush()


def main():
    """Measures all cells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path, help="the folder that caplane-load and caplane-router lie in")
    parser.add_argument("--cells", default="64:1350,1024:1350,16384:1350,64:16368,1024:16368,16384:16368",
                        help="payload bytes:largest UDP payload, ...")
    parser.add_argument("--top", type=int, default=0, help="print so many functions, too")
    arguments = parser.parse_args()
    for named in arguments.cells.split(","):
        size, packet = named.split(":")
        cell(arguments.programs, size, packet, arguments.top)


if __name__ == "__main__":
    main()
