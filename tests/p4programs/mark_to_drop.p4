// SPDX-License-Identifier: Apache-2.0
// A drop that a later choice of a port takes back.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        mark_to_drop(s);
        if (h.data.a == 1) {
            s.egress_spec = 3;
        }
    }
}

#include "end.p4"
