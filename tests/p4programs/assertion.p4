// SPDX-License-Identifier: Apache-2.0
// A packet for which an assertion does not hold is dropped.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        assert(h.data.a != 1);
        assume(h.data.a != 2);
    }
}

#include "end.p4"
