// SPDX-License-Identifier: Apache-2.0
// One of everything that P4Runtime writes, for the tests of the service.
#include "begin.p4"

struct Meta {
    bit<2> colour;
}

header data_t {
    bit<16> a;
    bit<16> b;
    bit<8> c;
    bit<8> choice;
}

struct Headers {
    data_t data;
    data_t special;
}

struct learned_t {
    bit<16> a;
    bit<9> port;
}

PARSER {
    value_set<bit<16>>(2) specials;

    state start {
        packet.extract(h.data);
        transition select(h.data.a) {
            specials: special;
            _: accept;
        }
    }

    state special {
        packet.extract(h.special);
        transition accept;
    }
}

VERIFY {
    apply {}
}

INGRESS {
    counter(4, CounterType.packets_and_bytes) seen;
    meter(4, MeterType.packets) allowed;
    register<bit<32>>(4) notes;
    direct_counter(CounterType.packets_and_bytes) hits;
    direct_meter<bit<2>>(MeterType.bytes) rate;

    action send(bit<9> port) {
        s.egress_spec = port;
    }

    action copy(bit<16> group) {
        s.mcast_grp = group;
    }

    action drop() {
        mark_to_drop(s);
    }

    action counted(bit<9> port) {
        s.egress_spec = port;
        hits.count();
    }

    action metered(bit<9> port) {
        s.egress_spec = port;
        rate.read(m.colour);
    }

    table exact_keys {
        key = { h.data.a : exact; }
        actions = { counted; drop; @defaultonly NoAction; }
        counters = hits;
        size = 1024;
        default_action = NoAction();
    }

    table rates {
        key = { h.data.b : exact; }
        actions = { metered; drop; @defaultonly NoAction; }
        meters = rate;
        default_action = NoAction();
    }

    table rules {
        key = {
            h.data.a : ternary;
            h.data.b : range;
            s.ingress_port : optional;
        }
        actions = { send; copy; drop; @tableonly NoAction; }
        size = 128;
        default_action = drop();
    }

    table ages {
        key = { h.data.c : exact; }
        actions = { send; @defaultonly NoAction; }
        support_timeout = true;
        default_action = NoAction();
    }

    table fixed {
        key = { h.data.c : exact; }
        actions = { send; drop; }
        const entries = {
            1 : send(1);
            2 : drop();
        }
        const default_action = drop();
    }

    table begun {
        key = { h.data.c : exact; }
        actions = { send; drop; }
        entries = {
            1 : send(1);
            2 : drop();
        }
        default_action = drop();
    }

    table without_key {
        actions = { send; NoAction; }
        default_action = NoAction();
    }

    action_profile(8) shared;

    table members {
        key = { h.data.b : exact; }
        actions = { send; drop; @defaultonly NoAction; }
        implementation = shared;
    }

    @max_group_size(4)
    action_selector(HashAlgorithm.identity, 32w16, 32w8) spread;

    table groups {
        key = {
            h.data.b : exact;
            h.data.choice : selector;
        }
        actions = { send; drop; @defaultonly NoAction; }
        implementation = spread;
    }

    apply {
        seen.count((bit<32>)h.data.c);
        if (h.special.isValid()) {
            bit<2> colour;
            allowed.execute_meter<bit<2>>((bit<32>)0, colour);
            notes.write(1, (bit<32>)colour);
            clone(CloneType.I2E, 5);
        }
        rules.apply();
        ages.apply();
        rates.apply();
        exact_keys.apply();
        if (h.data.c == 0xf0) {
            fixed.apply();
            begun.apply();
            without_key.apply();
        }
        members.apply();
        groups.apply();
        digest<learned_t>(1, { h.data.a, s.ingress_port });
    }
}

EGRESS {
    apply {}
}

UPDATE {
    apply {}
}

DEPARSER {
    apply {
        packet.emit(h.data);
        packet.emit(h.special);
    }
}

V1Switch(parse(), verify_sums(), ingress(), egress(), update_sums(), deparse()) main;
