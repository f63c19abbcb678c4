// SPDX-License-Identifier: Apache-2.0
// A counter with an index: packets and bytes; an index beyond its end counts nothing.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    counter(16, CounterType.packets_and_bytes) seen;

    apply {
        s.egress_spec = 2;
        seen.count((bit<32>)h.data.a);
    }
}

#include "end.p4"
