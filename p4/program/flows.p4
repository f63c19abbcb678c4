// SPDX-License-Identifier: Apache-2.0
//
// What the switch remembers of flows and clients: a part of the control `ingress`, which includes
// it where its registers and actions belong.
//
// A flow is known by its client's end: address, protocol and port. Both directions have that in
// common, whatever is translated, so that one cell serves both:
//
//     63..48  of the hash of the client's end, what does not choose the set
//     47..32  service, 0 where the client reaches a backend by its own address
//     31..16  backend
//     15..0   when its last packet came
//
// A packet to a service looks for its service, one to a backend's own address and an answer for
// their backend. Services and backends are counted from 1, so that an empty cell is no flow's.
// Registers of clients are the same, with the hash of the client's address and the service.

register<bit<64>, bit<32>>(FLOW_CELLS) flows;
register<bit<64>, bit<32>>(CLIENT_CELLS) clients;

@hidden action read_clock() {
    meta.now = standard_metadata.ingress_global_timestamp[36:21];
}

@hidden action client_is_source() {
    meta.client = hdr.ipv4.source;
    meta.client_port = meta.source_port;
}

@hidden action client_is_source_ipv6() {
    meta.client_ipv6 = hdr.ipv6.source;
    meta.client_port = meta.source_port;
}

// A pod that reaches itself gets the answer that it has sent.
@hidden action client_is_destination() {
    meta.client = hdr.ipv4.destination;
    meta.client_port = meta.destination_port;
    if (hdr.ipv4.destination == HAIRPIN) {
        meta.client = hdr.ipv4.source;
        meta.destination = hdr.ipv4.source;
        meta.translated = true;
    }
}

@hidden action client_is_destination_ipv6() {
    meta.client_ipv6 = hdr.ipv6.destination;
    meta.client_port = meta.destination_port;
    if (hdr.ipv6.destination == HAIRPIN_IPV6) {
        meta.client_ipv6 = hdr.ipv6.source;
        meta.destination_ipv6 = hdr.ipv6.source;
        meta.translated = true;
    }
}

@hidden action hash_flow() {
    hash(
        meta.flow,
        HashAlgorithm.crc32,
        64w0,
        { meta.client, meta.protocol, meta.client_port },
        64w0x100000000);
}

@hidden action hash_flow_ipv6() {
    hash(
        meta.flow,
        HashAlgorithm.crc32,
        64w0,
        { meta.client_ipv6, meta.protocol, meta.client_port },
        64w0x100000000);
}

// The flow's cell or, where it has none, the one that it is to have.
@hidden action find_flow() {
    bit<32> first = (bit<32>) meta.flow[15:0] << 2;
    bit<64> cell_0;
    bit<64> cell_1;
    bit<64> cell_2;
    bit<64> cell_3;
    flows.read(cell_0, first);
    flows.read(cell_1, first + 1);
    flows.read(cell_2, first + 2);
    flows.read(cell_3, first + 3);

    bit<48> wanted = meta.flow[31:16] ++ meta.service_id ++ meta.backend_id;
    bit<48> mask = 0xFFFF0000FFFF;
    if (meta.served) {
        mask = 0xFFFFFFFF0000;
    } else if (meta.direct) {
        mask = 0xFFFFFFFFFFFF;
    }
    meta.known = true;
    if (((cell_0[63:16] ^ wanted) & mask) == 0) {
        meta.cell = cell_0;
        meta.cell_index = first;
    } else if (((cell_1[63:16] ^ wanted) & mask) == 0) {
        meta.cell = cell_1;
        meta.cell_index = first + 1;
    } else if (((cell_2[63:16] ^ wanted) & mask) == 0) {
        meta.cell = cell_2;
        meta.cell_index = first + 2;
    } else if (((cell_3[63:16] ^ wanted) & mask) == 0) {
        meta.cell = cell_3;
        meta.cell_index = first + 3;
    } else {
        meta.known = false;
        bit<16> oldest = meta.now - cell_0[15:0];
        bit<16> age;
        meta.cell_index = first;
        if (cell_0 == 0) {
            oldest = 0xFFFF;
        }
        age = meta.now - cell_1[15:0];
        if (cell_1 == 0) {
            age = 0xFFFF;
        }
        if (age > oldest) {
            oldest = age;
            meta.cell_index = first + 1;
        }
        age = meta.now - cell_2[15:0];
        if (cell_2 == 0) {
            age = 0xFFFF;
        }
        if (age > oldest) {
            oldest = age;
            meta.cell_index = first + 2;
        }
        age = meta.now - cell_3[15:0];
        if (cell_3 == 0) {
            age = 0xFFFF;
        }
        if (age > oldest) {
            meta.cell_index = first + 3;
        }
    }
}

// Answers are known by their backend. A client's port that begins a flow to one has ended the flow
// that it had there by another address, which answers must not find any more.
@hidden action forget_earlier() {
    bool begins = !meta.known;
    if (hdr.tcp.isValid()) {
        begins = (hdr.tcp.flags & 0x12) == 0x02;
    }
    if (begins) {
        bit<32> index = (bit<32>) meta.flow[15:0] << 2;
        bit<64> earlier = meta.flow[31:16] ++ 16w0 ++ meta.backend_id ++ 16w0;
        bit<64> mask = 0xFFFF0000FFFF0000;
        bit<64> cell;
        flows.read(cell, index);
        if (((cell ^ earlier) & mask) == 0 && index != meta.cell_index) {
            flows.write(index, 0);
        }
        index = index + 1;
        flows.read(cell, index);
        if (((cell ^ earlier) & mask) == 0 && index != meta.cell_index) {
            flows.write(index, 0);
        }
        index = index + 1;
        flows.read(cell, index);
        if (((cell ^ earlier) & mask) == 0 && index != meta.cell_index) {
            flows.write(index, 0);
        }
        index = index + 1;
        flows.read(cell, index);
        if (((cell ^ earlier) & mask) == 0 && index != meta.cell_index) {
            flows.write(index, 0);
        }
    }
}

// Time counts too: whoever speaks is not the one that makes room. It changes every two seconds, so
// that most packets write nothing.
@hidden action remember_flow() {
    bit<64> cell = meta.flow[31:16] ++ meta.service_id ++ meta.backend_id ++ meta.now;
    if (cell != meta.cell) {
        flows.write(meta.cell_index, cell);
    }
}

@hidden action recall_backend() {
    meta.backend_id = meta.cell[31:16];
    meta.recalled = true;
}

@hidden action recall_service() {
    meta.service_id = meta.cell[47:32];
}

@hidden action hash_visitor() {
    hash(
        meta.visitor,
        HashAlgorithm.crc32,
        64w0,
        { meta.client, meta.service_id },
        64w0x100000000);
}

@hidden action hash_visitor_ipv6() {
    hash(
        meta.visitor,
        HashAlgorithm.crc32,
        64w0,
        { meta.client_ipv6, meta.service_id },
        64w0x100000000);
}

// The backend that the client's last new flow went to, if that is not too long ago.
@hidden action find_visitor() {
    bit<32> first = (bit<32>) meta.visitor[14:0] << 1;
    bit<64> cell_0;
    bit<64> cell_1;
    clients.read(cell_0, first);
    clients.read(cell_1, first + 1);

    bit<32> wanted = meta.visitor[31:16] ++ meta.service_id;
    bit<64> cell = 0;
    meta.sought = true;
    meta.visitor_index = first;
    if (cell_0[63:32] == wanted) {
        cell = cell_0;
    } else if (cell_1[63:32] == wanted) {
        cell = cell_1;
        meta.visitor_index = first + 1;
    } else if (cell_0 != 0
        && (cell_1 == 0 || meta.now - cell_1[15:0] > meta.now - cell_0[15:0]))
    {
        meta.visitor_index = first + 1;
    }
    if (cell != 0 && meta.now - cell[15:0] < meta.client_time) {
        meta.returning = true;
        meta.backend_id = cell[31:16];
    }
}

@hidden action remember_visitor() {
    clients.write(
        meta.visitor_index,
        meta.visitor[31:16] ++ meta.service_id ++ meta.backend_id ++ meta.now);
}
