// SPDX-License-Identifier: Apache-2.0
// Validity of a header as key.
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

    table t {
        key = {
            h.data.isValid() : exact @name("valid");
        }
        actions = {
            send;
            drop;
        }
        size = 16;
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
