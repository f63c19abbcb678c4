// SPDX-License-Identifier: Apache-2.0
// Standard metadata that a program reads: port, length, kind of packet.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = (bit<8>)s.ingress_port;
        h.data.c = (bit<16>)s.packet_length;
        h.data.b = (bit<8>)s.instance_type;
    }
}

#include "end.p4"
