// SPDX-License-Identifier: Apache-2.0
//
// What the switch remembers of flows and clients, on Tofino: a part of the control `ingress`, as
// p4/program/flows.p4.
//
// A register is reached once by a packet, so a flow has one cell, and what stands in it are several
// registers: whose it is and when that last spoke, the service, the backend. A cell is claimed by a
// flow's first packet when it is this flow's already, or when its owner was silent for a while;
// otherwise the flow is not remembered, and goes by its bucket.

Register<owner_t, bit<16>>(32768) flow_owners;
Register<bit<16>, bit<16>>(32768) flow_services;
Register<bit<16>, bit<16>>(32768) flow_backends;
Register<bit<32>, bit<16>>(32768) visitor_times;
Register<bit<32>, bit<16>>(32768) visitor_owners;
Register<bit<16>, bit<16>>(32768) visitor_backends;

// In units of 2^16 nanoseconds, 66 microseconds: two minutes.
const bit<32> TOFINO_IDLE = 1831055;

@hidden action read_clock() {
    local.now = from_parser.global_tstamp[47:16];
}

Hash<bit<32>>(HashAlgorithm_t.CRC32) flow_hash;
Hash<bit<32>>(HashAlgorithm_t.CRC32) flow_hash_ipv6;
Hash<bit<32>>(HashAlgorithm_t.CRC32) visitor_hash;
Hash<bit<32>>(HashAlgorithm_t.CRC32) visitor_hash_ipv6;

// What a cell says is one of 16 bits, by which of up to four comparisons hold: the chip puts out
// nothing else of them.
RegisterAction<owner_t, bit<16>, bit<16>>(flow_owners) meet_flow = {
    void apply(inout owner_t cell, out bit<16> found) {
        if (cell.flow == local.flow || cell.time == 0
            || local.now - cell.time > TOFINO_IDLE)
        {
            cell.flow = local.flow;
            cell.time = local.now;
        }
        found = this.predicate(
            cell.flow == local.flow,
            cell.time == 0,
            local.now - cell.time > TOFINO_IDLE);
    }
};

RegisterAction<owner_t, bit<16>, bit<16>>(flow_owners) look_for_flow = {
    void apply(inout owner_t cell, out bit<16> found) {
        if (cell.flow == local.flow) {
            cell.time = local.now;
        }
        found = this.predicate(
            cell.flow == local.flow,
            cell.time == 0,
            local.now - cell.time > TOFINO_IDLE);
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_services) recall_service = {
    void apply(inout bit<16> cell, out bit<16> found) {
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_services) note_service = {
    void apply(inout bit<16> cell, out bit<16> found) {
        cell = local.service_id;
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_backends) recall_backend = {
    void apply(inout bit<16> cell, out bit<16> found) {
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_backends) note_backend = {
    void apply(inout bit<16> cell, out bit<16> found) {
        cell = local.backend_id;
        found = cell;
    }
};

// Whose a client's cell is and when that last came are two registers: one compares with two values
// of a packet at most. So the time is that of whoever came last.
RegisterAction<bit<32>, bit<16>, bit<1>>(visitor_times) hear_visitor = {
    void apply(inout bit<32> cell, out bit<1> is_old) {
        is_old = 0;
        if (cell == 0 || (int<32>) (cell - local.visitor_oldest) < 0) {
            is_old = 1;
        }
        cell = local.now;
    }
};

RegisterAction<bit<32>, bit<16>, bit<1>>(visitor_owners) meet_visitor = {
    void apply(inout bit<32> cell, out bit<1> is_own) {
        is_own = 0;
        if (cell == local.visitor) {
            is_own = 1;
        }
    }
};

RegisterAction<bit<32>, bit<16>, bit<1>>(visitor_owners) claim_visitor = {
    void apply(inout bit<32> cell) {
        cell = local.visitor;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(visitor_backends) recall_visitor = {
    void apply(inout bit<16> cell, out bit<16> found) {
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(visitor_backends) note_visitor = {
    void apply(inout bit<16> cell, out bit<16> found) {
        cell = local.backend_id;
        found = cell;
    }
};

@hidden action client_is_source() {
    local.client = hdr.ipv4.source;
    local.client_port = local.source_port;
}

@hidden action client_is_source_ipv6() {
    local.client_ipv6 = local.source_ipv6;
    local.client_port = local.source_port;
}

@hidden action client_is_destination() {
    local.client = hdr.ipv4.destination;
    local.client_port = local.destination_port;
}

@hidden action client_is_destination_ipv6() {
    local.client_ipv6 = local.destination_ipv6;
    local.client_port = local.destination_port;
}

@hidden action client_is_itself() {
    local.client = hdr.ipv4.source;
    local.client_port = local.destination_port;
    local.destination = hdr.ipv4.source;
    local.translated = true;
}

@hidden action client_is_itself_ipv6() {
    local.client_ipv6 = local.source_ipv6;
    local.client_port = local.destination_port;
    local.destination_ipv6 = local.source_ipv6;
    local.translated = true;
}

@hidden action hash_flow() {
    local.flow = flow_hash.get({ local.client, local.protocol, local.client_port });
}

@hidden action hash_flow_ipv6() {
    local.flow = flow_hash_ipv6.get({ local.client_ipv6, local.protocol, local.client_port });
}

@hidden action hash_visitor() {
    local.visitor = visitor_hash.get({ hdr.ipv4.source, local.service_id });
}

@hidden action hash_visitor_ipv6() {
    local.visitor = visitor_hash_ipv6.get({ local.source_ipv6, local.service_id });
}
