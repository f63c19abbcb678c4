// SPDX-License-Identifier: Apache-2.0
// A clone from ingress is the packet as it arrived, and passes egress by itself.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.data.a == 1) {
            clone(CloneType.I2E, 5);
        }
        h.data.b = 0xbb;
    }
}

EGRESS {
    apply {
        h.data.c = (bit<16>)s.instance_type;
    }
}

#include "end.p4"
