// SPDX-License-Identifier: Apache-2.0
// Conditions in conditions.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.data.a > 10) {
            if (h.data.b > 10) {
                h.data.c = 1;
            } else {
                h.data.c = 2;
            }
        } else if (h.data.b > 10) {
            h.data.c = 3;
        }
    }
}

#include "end.p4"
