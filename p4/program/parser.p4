// SPDX-License-Identifier: Apache-2.0
//
// From bytes to headers and back. The parser rejects nothing: what it cannot read stays without
// the header it should have, and the ingress control counts it under the right reason.

#ifndef FLOWFERRY_PARSER
#define FLOWFERRY_PARSER

#include "headers.p4"

parser packet_parser(
    packet_in packet,
    out headers_t hdr,
    inout metadata_t meta,
    inout standard_metadata_t standard_metadata)
{
    state start {
        transition select(standard_metadata.ingress_port) {
            CPU_PORT: parse_packet_out;
            default:  parse_ethernet;
        }
    }

    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition parse_ethernet;
    }

    state parse_ethernet {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: parse_ipv4;
            ETHERTYPE_IPV6: parse_ipv6;
            ETHERTYPE_ARP:  parse_arp;
            default:        accept;
        }
    }

    state parse_arp {
        packet.extract(hdr.arp);
        transition accept;
    }

    // With options, or in a later fragment, the next bytes are no TCP or UDP header.
    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition select(
            hdr.ipv4.version, hdr.ipv4.header_words, hdr.ipv4.fragment_offset, hdr.ipv4.protocol)
        {
            (4, 5, 0, PROTOCOL_TCP): parse_tcp;
            (4, 5, 0, PROTOCOL_UDP): parse_udp;
            default:                 accept;
        }
    }

    state parse_ipv6 {
        packet.extract(hdr.ipv6);
        transition select(hdr.ipv6.version, hdr.ipv6.next_header) {
            (6, PROTOCOL_TCP):          parse_tcp;
            (6, PROTOCOL_UDP):          parse_udp;
            (6, PROTOCOL_ICMPV6):       parse_icmpv6_type;
            (6, EXTENSION_FRAGMENT):    parse_ipv6_fragment;
            (6, EXTENSION_HOP_BY_HOP):  parse_ipv6_options;
            (6, EXTENSION_ROUTING):     parse_ipv6_options;
            (6, EXTENSION_DESTINATION): parse_ipv6_options;
            default:                    accept;
        }
    }

    // Of the first fragment alone the ports are known. None is translated.
    state parse_ipv6_fragment {
        packet.extract(hdr.ipv6_fragment);
        transition select(hdr.ipv6_fragment.offset, hdr.ipv6_fragment.next_header) {
            (0, PROTOCOL_TCP): parse_tcp;
            (0, PROTOCOL_UDP): parse_udp;
            default:           accept;
        }
    }

    state parse_ipv6_options {
        meta.extended = true;
        transition accept;
    }

    // A checksum covers what follows its header, so what is rewritten must not follow another.
    state parse_icmpv6_type {
        transition select(packet.lookahead<bit<8>>()) {
            NEIGHBOR_SOLICITATION: parse_neighbor;
            default:               parse_icmpv6;
        }
    }

    state parse_icmpv6 {
        packet.extract(hdr.icmpv6);
        transition accept;
    }

    state parse_neighbor {
        packet.extract(hdr.neighbor);
        transition select(hdr.ipv6.payload_length) {
            32:      parse_link_address;
            default: accept;
        }
    }

    state parse_link_address {
        packet.extract(hdr.link_address);
        transition accept;
    }

    state parse_tcp {
        packet.extract(hdr.tcp);
        transition accept;
    }

    state parse_udp {
        packet.extract(hdr.udp);
        transition accept;
    }
}

control packet_deparser(packet_out packet, in headers_t hdr)
{
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.arp);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.ipv6);
        packet.emit(hdr.ipv6_fragment);
        packet.emit(hdr.tcp);
        packet.emit(hdr.udp);
        packet.emit(hdr.icmpv6);
        packet.emit(hdr.neighbor);
        packet.emit(hdr.link_address);
    }
}

#endif
