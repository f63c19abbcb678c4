// SPDX-License-Identifier: Apache-2.0
// Random numbers within their bounds.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        random(h.data.a, 8w7, 8w7);
        random(h.data.d, 32w0, 32w0xff);
    }
}

#include "end.p4"
