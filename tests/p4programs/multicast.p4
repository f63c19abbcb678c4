// SPDX-License-Identifier: Apache-2.0
// Each member of the group gets the packet; egress tells them apart.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.mcast_grp = (bit<16>)h.data.a;
    }
}

EGRESS {
    apply {
        h.data.b = (bit<8>)s.egress_rid;
        h.data.c = (bit<16>)s.egress_port;
        h.data.d = (bit<32>)s.instance_type;
        if (s.egress_port == s.ingress_port) {
            mark_to_drop(s);
        }
    }
}

#include "end.p4"
