// SPDX-License-Identifier: Apache-2.0
// A clone from egress has what egress made of the packet.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
    }
}

EGRESS {
    apply {
        if (s.instance_type == 2) {
            h.data.c = 0xc10e;
        } else {
            h.data.b = 0xbb;
            clone(CloneType.E2E, 5);
        }
    }
}

#include "end.p4"
