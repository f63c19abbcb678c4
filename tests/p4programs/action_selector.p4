// SPDX-License-Identifier: Apache-2.0
// Entries that name a group, of which a hash picks a member.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action send(bit<9> port) {
        s.egress_spec = port;
    }

    action drop() {
        mark_to_drop(s);
    }

    action_selector(HashAlgorithm.identity, 32w16, 32w8) members;

    table t {
        key = {
            h.data.a : exact;
            h.data.b : selector;
        }
        actions = {
            send;
            drop;
        }
        implementation = members;
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
