// SPDX-License-Identifier: Apache-2.0
// Ethernet, VLAN tags and IPv4, as they come over a wire.
#include "begin.p4"

struct Meta {}

header ethernet_t {
    bit<48> destination;
    bit<48> source;
    bit<16> kind;
}

header ipv4_t {
    bit<4> version;
    bit<4> words;
    bit<8> service;
    bit<16> size;
    bit<32> fragment;
    bit<8> ttl;
    bit<8> protocol;
    bit<16> checksum;
    bit<32> source;
    bit<32> destination;
}

struct Headers {
    ethernet_t ethernet;
    ipv4_t ipv4;
}

PARSER {
    state start {
        packet.extract(h.ethernet);
        transition select(h.ethernet.kind) {
            0x0800: ipv4;
            default: accept;
        }
    }

    state ipv4 {
        packet.extract(h.ipv4);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.ethernet);
        packet.emit(h.ipv4);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.ipv4.isValid()) {
            h.ipv4.ttl = h.ipv4.ttl - 1;
        }
        bit<48> other = h.ethernet.source;
        h.ethernet.source = h.ethernet.destination;
        h.ethernet.destination = other;
    }
}

#include "end.p4"
