// SPDX-License-Identifier: Apache-2.0
// And, or, not; what need not be evaluated has no effect.
#include "begin.p4"

struct Meta {
    bool seen;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        m.seen = h.data.a == 1 || h.data.b == 1;
        if (m.seen && !(h.data.c == 0)) {
            h.data.d = 1;
        } else {
            h.data.d = 0;
        }
    }
}

#include "end.p4"
