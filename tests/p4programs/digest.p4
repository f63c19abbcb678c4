// SPDX-License-Identifier: Apache-2.0
// A digest to the control plane; the packet goes its way.
#include "begin.p4"

struct Meta {}

#include "data.p4"

struct learned_t {
    bit<8> a;
    bit<32> d;
    bit<9> port;
}

INGRESS {
    apply {
        s.egress_spec = 2;
        digest<learned_t>(1, { h.data.a, h.data.d, s.ingress_port });
    }
}

#include "end.p4"
