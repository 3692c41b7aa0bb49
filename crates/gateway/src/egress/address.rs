//! Which addresses are out on the internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is no host of the public internet, by IANA's registry of special-purpose IPv4 addresses, and
/// where clouds serve their machines' credentials. The first that fits gives the name.
const V4: [([u8; 4], u32, &str); 21] = [
    ([169, 254, 169, 254], 32, "cloud metadata"),
    // Alibaba Cloud.
    ([100, 100, 100, 200], 32, "cloud metadata"),
    // Azure: in a public block, and yet answered by the machine's own host.
    ([168, 63, 129, 16], 32, "cloud metadata"),
    // Oracle Cloud.
    ([192, 0, 0, 192], 32, "cloud metadata"),
    ([0, 0, 0, 0], 32, "unspecified"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([0, 0, 0, 0], 8, "reserved"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "documentation"),
    // The relays of 6to4.
    ([192, 88, 99, 0], 24, "reserved"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// The same for IPv6. What is not here is public if it is in 2000::/3, all that is assigned so far.
const V6: [([u16; 8], u32, &str); 13] = [
    // AWS, Google Cloud.
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    // Teredo, ORCHID and other tunnels and identifiers.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    // Deprecated, and a way around the table above: it tunnels to the IPv4 address in it.
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique-local"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// Returns what kind of address this is, or `None` if it belongs to the public internet.
///
/// An address that stands for an IPv4 one (IPv4-mapped, and NAT64 with its well-known prefix) is what
/// that one is.
pub(crate) fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => match stands_for(address) {
            Some(address) => not_public_v4(address),
            None => not_public_v6(address),
        },
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let differ = |net: [u8; 4]| address.to_bits() ^ Ipv4Addr::from(net).to_bits();
    let found = V4.iter().find(|(net, prefix, _)| differ(*net).leading_zeros() >= *prefix);
    found.map(|(.., kind)| *kind)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let differ = |net: [u16; 8]| address.to_bits() ^ Ipv6Addr::from(net).to_bits();
    let found = V6.iter().find(|(net, prefix, _)| differ(*net).leading_zeros() >= *prefix);
    let assigned = differ([0x2000, 0, 0, 0, 0, 0, 0, 0]).leading_zeros() >= 3;
    found.map(|(.., kind)| *kind).or((!assigned).then_some("reserved"))
}

/// Returns the IPv4 address that a packet to this one ends at.
fn stands_for(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let embedded = Ipv4Addr::from_bits(address.to_bits() as u32);
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] => Some(embedded),
        // RFC 6052. The prefixes of 64:ff9b:1::/48 are each network's own, and not public.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(embedded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn kind(address: &str) -> Option<&'static str> {
        not_public(address.parse().unwrap())
    }

    #[test]
    fn each_kind_of_address_is_known_by_its_name() {
        for (address, expected) in [
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("10.1.2.3", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("169.254.1.1", "link-local"),
            ("169.254.169.254", "cloud metadata"),
            ("100.100.100.200", "cloud metadata"),
            ("168.63.129.16", "cloud metadata"),
            ("192.0.0.192", "cloud metadata"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("100.127.255.255", "carrier-grade NAT"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("240.0.0.1", "reserved"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("192.0.2.1", "documentation"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("198.19.255.255", "benchmarking"),
            ("192.88.99.1", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::127.0.0.1", "IPv4-compatible"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "cloud metadata"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::a9fe:a9fe", "cloud metadata"),
            ("64:ff9b:1::8.8.8.8", "reserved"),
            ("2002:7f00:1::", "6to4"),
            ("2002:808:808::1", "6to4"),
            ("2001::1", "reserved"),
            ("2001:20::1", "reserved"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("fd00:ec2::254", "cloud metadata"),
            ("fd20:ce::254", "cloud metadata"),
            ("fc00::1", "unique-local"),
            ("fdff::1", "unique-local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("100::1", "reserved"),
            ("5f00::1", "reserved"),
            ("4000::1", "reserved"),
            ("1fff::1", "reserved"),
        ] {
            assert_eq!(kind(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn neighbours_of_what_is_not_public_are() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.114.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2000::",
            "2001:200::1",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
            "3ffe:ffff::1",
            "3fff:1000::1",
        ] {
            assert_eq!(kind(address), None, "{address}");
        }
    }

    /// By the predicates of the standard library, and by octets where it has none.
    fn is_public_v4(address: Ipv4Addr) -> bool {
        !(address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_documentation()
            || address.is_unspecified()
            || match address.octets() {
                [0 | 240.., ..] | [192, 0, 0, _] | [192, 88, 99, _] => true,
                [100, second, ..] => (64..128).contains(&second),
                [198, second, ..] => second == 18 || second == 19,
                octets => octets == [168, 63, 129, 16],
            })
    }

    /// Every bit pattern, those near the borders of the table more often than others.
    fn v4() -> impl Strategy<Value = Ipv4Addr> {
        let near =
            (0..V4.len(), any::<u32>(), 0..=32_u32, -2..=2_i32).prop_map(|(i, rest, keep, off)| {
                let (net, prefix, _) = V4[i];
                let host = u32::MAX.checked_shr(prefix.max(keep)).unwrap_or(0);
                let address = Ipv4Addr::from(net).to_bits() | (rest & host);
                Ipv4Addr::from_bits(address.wrapping_add_signed(off))
            });
        prop_oneof![any::<u32>().prop_map(Ipv4Addr::from_bits), near]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn public_v4_is_what_is_left(address in v4()) {
            prop_assert_eq!(not_public(IpAddr::V4(address)).is_none(), is_public_v4(address));
        }

        #[test]
        fn what_stands_for_a_v4_address_is_what_that_is(address in v4()) {
            let expected = not_public(IpAddr::V4(address));
            let mapped = address.to_ipv6_mapped();
            prop_assert_eq!(not_public(IpAddr::V6(mapped)), expected);
            let [a, b, c, d] = address.octets();
            let nat64 = format!("64:ff9b::{a}.{b}.{c}.{d}");
            prop_assert_eq!(kind(&nat64), expected);
        }

        #[test]
        fn tunnels_to_v4_are_never_public(address in v4(), rest: u64) {
            let [a, b, c, d] = address.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for address in [
                Ipv6Addr::new(0x2002, high, low, 0, (rest >> 48) as u16, 0, 0, rest as u16),
                Ipv6Addr::new(0x2001, 0, high, low, rest as u16, 0, !high, !low),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            ] {
                prop_assert!(not_public(IpAddr::V6(address)).is_some(), "{}", address);
            }
        }

        #[test]
        fn public_v6_is_global_unicast(bits: u128, top in 0..=0xffff_u16) {
            let address = Ipv6Addr::from_bits(bits >> 16 | u128::from(top) << 112);
            if not_public(IpAddr::V6(address)).is_none() {
                prop_assert!(matches!(address.segments()[0], 0x2000..=0x3fff), "{}", address);
                prop_assert!(!address.is_unique_local() && !address.is_unicast_link_local());
                prop_assert!(!address.is_loopback() && !address.is_multicast());
            } else {
                let [first, second, ..] = address.segments();
                prop_assert!(
                    !matches!(first, 0x2000..=0x3fff)
                        || first == 0x2002
                        || first == 0x2001 && (second < 0x200 || second == 0xdb8)
                        || first == 0x3fff && second < 0x1000,
                    "{}", address
                );
            }
        }
    }
}
