// SPDX-License-Identifier: Apache-2.0
// Copies whose egress gives them different headers.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.mcast_grp = 1;
    }
}

EGRESS {
    apply {
        if (s.egress_port == 2) {
            h.data.setInvalid();
        }
    }
}

#include "end.p4"
