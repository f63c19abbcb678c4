// SPDX-License-Identifier: Apache-2.0
// A packet that never stops to go through is dropped.
#include "begin.p4"

struct Meta {
    @field_list(1)
    bit<8> kept;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.data.a == 1) {
            resubmit_preserving_field_list(1);
        }
    }
}

#include "end.p4"
