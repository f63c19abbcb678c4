// SPDX-License-Identifier: Apache-2.0
// A clone of a packet whose headers ingress replaces.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        clone(CloneType.I2E, 5);
        if (h.data.a == 1) {
            h.data.setInvalid();
        }
    }
}

#include "end.p4"
