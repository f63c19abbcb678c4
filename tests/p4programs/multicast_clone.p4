// SPDX-License-Identifier: Apache-2.0
// A packet that is multicast and cloned.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.mcast_grp = 1;
        clone(CloneType.I2E, 5);
        h.data.b = 0xbb;
    }
}

#include "end.p4"
