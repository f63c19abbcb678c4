// SPDX-License-Identifier: Apache-2.0
//
// From bytes to headers, as p4/program/parser.p4. The sum of what the program does not change is
// taken in passing: a checksum covers the payload, which no other part of the switch sees.

#ifndef FLOWFERRY_TOFINO_PARSER
#define FLOWFERRY_TOFINO_PARSER

parser ingress_parser(
    packet_in packet,
    out headers_t hdr,
    out local_t local,
    out ingress_intrinsic_metadata_t intrinsic)
{
    Checksum() covered;

    state start {
        packet.extract(intrinsic);
        packet.advance(PORT_METADATA_SIZE);
        transition select(intrinsic.ingress_port) {
            TOFINO_CPU_PORT: parse_packet_out;
            default:         parse_ethernet;
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

    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        covered.subtract({ hdr.ipv4.source, hdr.ipv4.destination });
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
        covered.subtract({ hdr.ipv6.source, hdr.ipv6.destination });
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

    state parse_ipv6_fragment {
        packet.extract(hdr.ipv6_fragment);
        transition select(hdr.ipv6_fragment.offset, hdr.ipv6_fragment.next_header) {
            (0, PROTOCOL_TCP): parse_tcp;
            (0, PROTOCOL_UDP): parse_udp;
            default:           accept;
        }
    }

    state parse_ipv6_options {
        local.extended = true;
        transition accept;
    }

    state parse_icmpv6_type {
        transition select(packet.lookahead<bit<8>>()) {
            NEIGHBOR_SOLICITATION: parse_neighbor;
            default:               parse_icmpv6;
        }
    }

    state parse_icmpv6 {
        packet.extract(hdr.icmpv6);
        covered.subtract({ hdr.icmpv6.checksum });
        covered.subtract_all_and_deposit(local.payload_sum);
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
        covered.subtract({ hdr.tcp.source_port, hdr.tcp.destination_port, hdr.tcp.checksum });
        covered.subtract_all_and_deposit(local.payload_sum);
        transition accept;
    }

    state parse_udp {
        packet.extract(hdr.udp);
        covered.subtract({ hdr.udp.source_port, hdr.udp.destination_port, hdr.udp.checksum });
        covered.subtract_all_and_deposit(local.payload_sum);
        transition select(hdr.udp.checksum) {
            0:       accept;
            default: parse_udp_checked;
        }
    }

    state parse_udp_checked {
        local.checked = true;
        transition accept;
    }
}

#endif
