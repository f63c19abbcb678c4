# SPDX-License-Identifier: Apache-2.0
"""The embedded P4 target: BMv2 JSON compiled to eBPF on tc, filled through P4Runtime.

    bmv2_json   the program as p4c wrote it, typed; what is unknown is refused here
    compiler/   model to C (templates/ hold its shape), and the layout of maps
    clang, libbpf, attach    C to a program in the kernel, on an interface
    dataplane, entries       a loaded program: tables, counters
    ports, packet_io         interfaces and the CPU port
    schema, pipeline, arbitration, server    P4Runtime

Runs: header fields and parameters up to 128 bits, parsers without loops, select with masks,
lookahead, advance, verify; exact, lpm, ternary, range and optional matches, constant entries;
direct and indirect counters; adding, removing and copying headers; crc32, crc16 and csum16 hashes,
random; checksums over headers, and over the payload by adjustment.

Refuses by name, with the line in the P4 source: header stacks and unions, varbit, signed and wider
fields, registers, meters, action profiles, digests, clone, resubmit, recirculate, multicast,
truncate, idle timeouts, parser value sets, queueing metadata, verification of payload checksums.

Differs from BMv2: a counter counts a GSO packet as the packets it becomes, and its bytes once;
fields of invalid headers are zero, also in hashes; frames with a VLAN tag are dropped, because the
kernel keeps the tag outside of the packet's bytes.
"""
