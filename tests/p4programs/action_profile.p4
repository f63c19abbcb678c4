// SPDX-License-Identifier: Apache-2.0
// Entries that name a member of an action profile.
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

    action_profile(8) members;

    table t {
        key = {
            h.data.a : exact;
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
