// SPDX-License-Identifier: Apache-2.0
// A packet is dropped in egress.
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
        if (h.data.a == 1) {
            mark_to_drop(s);
        }
        h.data.c = (bit<16>)s.egress_port;
    }
}

#include "end.p4"
