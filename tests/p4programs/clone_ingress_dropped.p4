// SPDX-License-Identifier: Apache-2.0
// A clone lives on when its packet is dropped.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        clone(CloneType.I2E, 5);
        mark_to_drop(s);
    }
}

#include "end.p4"
