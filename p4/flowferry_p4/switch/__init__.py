# SPDX-License-Identifier: Apache-2.0
"""The embedded P4 target: BMv2 JSON compiled to eBPF on tc, filled through P4Runtime.

    model, bmv2_json    the program typed, and as p4c wrote it; what is unknown is refused here
    compiler/    model to C (templates/ hold its shape), and the layout of maps
    clang, libbpf, attach    C to a program in the kernel, on an interface
    dataplane    a loaded program with its stores: entries, cells, profiles, replication, value_sets
    encoding, scan    keys and values as the maps hold them
    pins, bpffs, notebook    what outlives the process
    events, digests, idle    what a program reports besides packets
    ports, port_service, packet_io    interfaces and the CPU port
    schema, entities/, pipeline       P4Info and its messages against the stores
    arbitration, device, server       controllers, the switch, the P4Runtime service
    stf/         tests in p4c's STF form
    interpreter/, fuzz/    the same programs interpreted, and compared with

What of P4 it runs and refuses is in docs/switch.md, what of P4Runtime in docs/p4runtime.md.
"""
