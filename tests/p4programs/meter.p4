// SPDX-License-Identifier: Apache-2.0
// A meter of two rates and three colours; without rates everything is green.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    meter(4, MeterType.packets) limit;

    apply {
        s.egress_spec = 2;
        h.data.b = 9;
        limit.execute_meter((bit<32>)h.data.a, h.data.b);
    }
}

#include "end.p4"
