// SPDX-License-Identifier: Apache-2.0
// An entry meters the packets that hit it.
#include "begin.p4"

struct Meta {
    bit<8> colour;
}

#include "data.p4"

INGRESS {
    direct_meter<bit<8>>(MeterType.bytes) limit;

    action mark() {
        limit.read(m.colour);
    }

    table t {
        key = {
            h.data.a : exact;
        }
        actions = {
            mark;
            NoAction;
        }
        meters = limit;
        default_action = NoAction();
    }

    apply {
        s.egress_spec = 2;
        t.apply();
        h.data.b = m.colour;
    }
}

#include "end.p4"
