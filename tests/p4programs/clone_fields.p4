// SPDX-License-Identifier: Apache-2.0
// A clone with some metadata kept, and the rest at zero.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {
    @field_list(1)
    bit<16> kept;
    bit<16> lost;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        m.kept = 0x1234;
        m.lost = 0x5678;
        clone_preserving_field_list(CloneType.I2E, 5, 1);
    }
}

EGRESS {
    apply {
        if (s.instance_type == 1) {
            h.data.c = m.kept;
            h.data.d = (bit<32>)m.lost;
        }
    }
}

#include "end.p4"
