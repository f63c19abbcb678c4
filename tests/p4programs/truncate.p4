// SPDX-License-Identifier: Apache-2.0
// A packet is cut to a length; a shorter one stays as it is.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.data.a == 1) {
            truncate(10);
        }
    }
}

#include "end.p4"
