// SPDX-License-Identifier: Apache-2.0
// The conditional operator.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = h.data.a > 10 ? 9w2 : 9w3;
        h.data.d = h.data.a == 0 ? (h.data.b == 0 ? 32w1 : 32w2) : 32w3;
    }
}

#include "end.p4"
