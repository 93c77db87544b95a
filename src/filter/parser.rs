//! Words and signs to an expression, by the grammar of pcap-filter(7): `and` and `or` bind equally, from left to
//! right; `not` binds closest. A value alone takes the qualifiers of the term before it: `port 80 or 443`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::expression::{Ends, Expression, Field, Over, Relation, Term, Version};
use super::lexer::{Sign, Token, signs};
use super::mistake::Mistake;
use super::names;
use crate::mirror::allowed::VniList;
use crate::mirror::networks::Network;
use crate::wire::inner::Mac;
use crate::wire::numbers::{ether_type, protocol};

/// Most terms of an expression.
const MOST_TERMS: usize = 1024;
/// Most parentheses and `not` inside each other.
const MOST_NESTED: usize = 64;
/// VLAN tags that are told apart.
const MOST_TAGS: u8 = 2;
/// Below this an EtherType is a length (IEEE 802.3 §3.2.6).
const LARGEST_LENGTH: u32 = 1500;

/// What an address, a port or a number behind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Proto,
    Vni,
    Source,
}

/// The protocol in front of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Ether,
    Ip(Version),
    Arp,
    Rarp,
    /// TCP, UDP or SCTP.
    Transport(u8),
}

/// What stands in front of a value.
#[derive(Clone, Copy, Debug)]
struct Qualifiers {
    prefix: Option<Prefix>,
    ends: Ends,
    kind: Kind,
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token<'a>],
    at: usize,
    terms: usize,
    nested: usize,
    /// Of the last value, for one that has none of its own.
    qualifiers: Option<Qualifiers>,
}

/// Understands an expression.
pub(super) fn parse(text: &str) -> Result<Expression, Mistake> {
    let tokens = signs(text)?;
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
        terms: 0,
        nested: 0,
        qualifiers: None,
    };
    if parser.sign() == Sign::End {
        return Err(
            parser.mistake("there is no term in it; without a filter every packet is taken")
        );
    }
    let (expression, _) = parser.expression(0)?;
    match parser.sign() {
        Sign::End => Ok(expression),
        Sign::Close => Err(parser.mistake("no '(' belongs to this ')'")),
        _ => Err(parser.mistake("'and' or 'or' is missing in front of this")),
    }
}

impl<'a> Parser<'a> {
    fn token(&self) -> Token<'a> {
        let end = Token {
            sign: Sign::End,
            at: 0,
            len: 1,
        };
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.copied().unwrap_or(end)
    }

    fn sign(&self) -> Sign<'a> {
        self.token().sign
    }

    /// The sign `ahead` places further.
    fn ahead(&self, ahead: usize) -> Sign<'a> {
        let token = self.tokens.get(self.at + ahead);
        token.map_or(Sign::End, |token| token.sign)
    }

    fn step(&mut self) -> Token<'a> {
        let token = self.token();
        self.at += 1;
        token
    }

    /// Steps past this sign, if it is next.
    fn take(&mut self, sign: Sign<'_>) -> bool {
        let is_next = self.sign() == sign;
        self.at += usize::from(is_next);
        is_next
    }

    /// A mistake in what is next.
    fn mistake(&self, reason: impl Into<String>) -> Mistake {
        self.mistake_in(self.token(), reason)
    }

    fn mistake_in(&self, token: Token<'_>, reason: impl Into<String>) -> Mistake {
        Mistake::new(self.text, token.at, token.len, reason.into())
    }

    /// Terms up to the end or a `)`. `tags`: how many tags the terms before have asked for. The answer says how many
    /// with these.
    fn expression(&mut self, tags: u8) -> Result<(Expression, u8), Mistake> {
        let (mut left, mut reached) = self.one(tags)?;
        loop {
            match self.sign() {
                Sign::And => {
                    self.at += 1;
                    let (right, deeper) = self.one(reached)?;
                    left = all(left, right);
                    reached = deeper;
                }
                Sign::Or => {
                    self.at += 1;
                    let (right, other) = self.one(tags)?;
                    left = any(left, right);
                    reached = reached.max(other);
                }
                _ => return Ok((left, reached)),
            }
        }
    }

    /// A term, `not` of one, or what stands in parentheses.
    fn one(&mut self, tags: u8) -> Result<(Expression, u8), Mistake> {
        if !matches!(self.sign(), Sign::Not | Sign::Open) {
            return self.term(tags);
        }
        self.nested += 1;
        if self.nested > MOST_NESTED {
            return Err(self.mistake(format!(
                "more than {MOST_NESTED} parentheses and 'not' inside each other"
            )));
        }
        let opening = self.step();
        let found = if opening.sign == Sign::Not {
            let (inner, _) = self.one(tags)?;
            (Expression::Not(Box::new(inner)), tags)
        } else {
            let found = self.expression(tags)?;
            if !self.take(Sign::Close) {
                return Err(match self.sign() {
                    Sign::End => self.mistake_in(opening, "this '(' is not closed"),
                    _ => self.mistake("'and', 'or' or ')' is missing in front of this"),
                });
            }
            found
        };
        self.nested -= 1;
        Ok(found)
    }

    fn term(&mut self, tags: u8) -> Result<(Expression, u8), Mistake> {
        self.terms += 1;
        if self.terms > MOST_TERMS {
            return Err(self.mistake(format!("more than {MOST_TERMS} terms")));
        }
        let token = self.token();
        let Sign::Word(word) = token.sign else {
            return Err(self.mistake(match token.sign {
                Sign::End => "a term is missing at the end",
                _ => "a term is missing in front of this",
            }));
        };
        let inherited = self.qualifiers.take();
        self.at += 1;
        let of_version = |version, number| Term::Protocol(Some(version), number);
        let term = match word {
            "ether" => return self.behind(token, Prefix::Ether, tags),
            "ip" => return self.behind(token, Prefix::Ip(Version::V4), tags),
            "ip6" => return self.behind(token, Prefix::Ip(Version::V6), tags),
            "arp" => return self.behind(token, Prefix::Arp, tags),
            "rarp" => return self.behind(token, Prefix::Rarp, tags),
            "tcp" => return self.behind(token, Prefix::Transport(protocol::TCP), tags),
            "udp" => return self.behind(token, Prefix::Transport(protocol::UDP), tags),
            "sctp" => return self.behind(token, Prefix::Transport(protocol::SCTP), tags),
            "src" | "dst" | "host" | "net" | "port" | "portrange" | "proto" | "vni" | "source" => {
                self.at -= 1;
                return self.qualified(None, tags);
            }
            "icmp" | "icmp6" if self.sign() == Sign::OpenBracket => self.field(word)?,
            "icmp" => of_version(Version::V4, protocol::ICMP),
            "icmp6" => of_version(Version::V6, protocol::ICMPV6),
            "igmp" => of_version(Version::V4, 2),
            "vrrp" => of_version(Version::V4, protocol::VRRP),
            "pim" => Term::Protocol(None, protocol::PIM),
            "ah" => Term::Protocol(None, protocol::AUTHENTICATION),
            "esp" => Term::Protocol(None, protocol::ESP),
            "broadcast" => Term::Broadcast,
            "multicast" => Term::Multicast,
            "truncated" => Term::Truncated,
            "inbound" => Term::Inbound,
            "outbound" => Term::Outbound,
            "less" => Term::Length(Relation::AtMost, self.number(u32::MAX)?),
            "greater" => Term::Length(Relation::AtLeast, self.number(u32::MAX)?),
            "len" => {
                let relation = self.relation()?;
                Term::Length(relation, self.number(u32::MAX)?)
            }
            "vlan" => return self.vlan(token, tags),
            word => {
                self.at -= 1;
                return self.value_alone(word, inherited, tags);
            }
        };
        Ok((Expression::Term(term), tags))
    }

    /// A value without a word in front of it.
    fn value_alone(
        &mut self,
        word: &str,
        inherited: Option<Qualifiers>,
        tags: u8,
    ) -> Result<(Expression, u8), Mistake> {
        let near = names::nearest_keyword(word);
        let hint = near.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
        let is_value = word.contains(|c: char| c.is_ascii_digit() || c == ':');
        if let Some(instead) = names::instead_of(word) {
            return Err(self.mistake(format!("'{word}' is not understood here: {instead}")));
        }
        let qualifiers = match inherited {
            Some(inherited) if is_value || near.is_none() => inherited,
            None if word.parse::<IpAddr>().is_ok() => Qualifiers {
                prefix: None,
                ends: Ends::Either,
                kind: Kind::Host,
            },
            _ if near.is_none() && is_value => {
                return Err(self.mistake(format!(
                    "nothing says what '{word}' is; write for example 'host {word}', 'net {word}' or 'port {word}'"
                )));
            }
            _ => {
                return Err(self.mistake(format!("'{word}' is no term of a filter{hint}")));
            }
        };
        self.value(qualifiers, tags)
    }

    /// What follows the name of a protocol.
    fn behind(
        &mut self,
        token: Token<'a>,
        prefix: Prefix,
        tags: u8,
    ) -> Result<(Expression, u8), Mistake> {
        let term = match (self.sign(), prefix) {
            (Sign::Word("src" | "dst" | "host" | "net" | "port" | "portrange" | "proto"), _) => {
                return self.qualified(Some(prefix), tags);
            }
            (Sign::OpenBracket, Prefix::Transport(protocol::TCP)) => self.field("tcp")?,
            (Sign::OpenBracket, _) => return Err(self.no_field()),
            (Sign::Word("broadcast"), Prefix::Ether) => {
                self.at += 1;
                Term::Broadcast
            }
            (Sign::Word("multicast"), Prefix::Ether) => {
                self.at += 1;
                Term::Multicast
            }
            (Sign::Word("multicast"), Prefix::Ip(version)) => {
                self.at += 1;
                Term::IpMulticast(version)
            }
            (Sign::Word("broadcast"), Prefix::Ip(_)) => {
                return Err(self.mistake(
                    "the mask of the network is not known here; write 'dst host ADDRESS', or 'broadcast' for Ethernet's",
                ));
            }
            (_, Prefix::Ether) => {
                return Err(self.mistake_in(
                    token,
                    "'ether' needs 'host', 'src', 'dst', 'proto', 'broadcast' or 'multicast' behind it",
                ));
            }
            (_, Prefix::Ip(version)) => Term::Ip(version),
            (_, Prefix::Arp) => Term::EtherType(ether_type::ARP),
            (_, Prefix::Rarp) => Term::EtherType(ether_type::RARP),
            (_, Prefix::Transport(number)) => Term::Protocol(None, number),
        };
        Ok((Expression::Term(term), tags))
    }

    /// `src`, `dst`, both with `or` or `and`; neither is either.
    fn ends(&mut self) -> Ends {
        let ends = match (self.sign(), self.ahead(1), self.ahead(2)) {
            (Sign::Word("src"), Sign::Or, Sign::Word("dst"))
            | (Sign::Word("dst"), Sign::Or, Sign::Word("src")) => (Ends::Either, 3),
            (Sign::Word("src"), Sign::And, Sign::Word("dst"))
            | (Sign::Word("dst"), Sign::And, Sign::Word("src")) => (Ends::Both, 3),
            (Sign::Word("src"), ..) => (Ends::Src, 1),
            (Sign::Word("dst"), ..) => (Ends::Dst, 1),
            _ => (Ends::Either, 0),
        };
        self.at += ends.1;
        ends.0
    }

    /// `[src|dst] [host|net|port|…] VALUE`.
    fn qualified(&mut self, prefix: Option<Prefix>, tags: u8) -> Result<(Expression, u8), Mistake> {
        let begin = self.at;
        let ends = self.ends();
        let token = self.token();
        let named = match token.sign {
            Sign::Word("host") => Some(Kind::Host),
            Sign::Word("net") => Some(Kind::Net),
            Sign::Word("port") => Some(Kind::Port),
            Sign::Word("portrange") => Some(Kind::PortRange),
            Sign::Word("proto") => Some(Kind::Proto),
            Sign::Word("vni") => Some(Kind::Vni),
            Sign::Word("source") => Some(Kind::Source),
            _ => None,
        };
        let kind = named.unwrap_or(Kind::Host);
        let fits = match (prefix, kind) {
            (None, _) => true,
            (Some(Prefix::Ether), kind) => matches!(kind, Kind::Host | Kind::Proto),
            (Some(Prefix::Ip(_)), kind) => matches!(kind, Kind::Host | Kind::Net | Kind::Proto),
            (Some(Prefix::Arp | Prefix::Rarp), kind) => matches!(kind, Kind::Host | Kind::Net),
            (Some(Prefix::Transport(_)), kind) => matches!(kind, Kind::Port | Kind::PortRange),
        };
        let has_ends = self.at > begin;
        let takes_ends = !matches!(kind, Kind::Proto | Kind::Vni | Kind::Source);
        if !fits {
            let reason = match prefix {
                Some(Prefix::Transport(_)) => "TCP, UDP and SCTP have 'port' and 'portrange'",
                Some(Prefix::Ether) => "'ether' has 'host' and 'proto'",
                Some(Prefix::Ip(_)) => "'ip' and 'ip6' have 'host', 'net' and 'proto'",
                _ => "'arp' and 'rarp' have 'host' and 'net'",
            };
            return Err(self.mistake(reason));
        }
        if has_ends && !takes_ends {
            return Err(
                self.mistake("'src' and 'dst' are for 'host', 'net', 'port' and 'portrange'")
            );
        }
        self.at += usize::from(named.is_some());
        let qualifiers = Qualifiers { prefix, ends, kind };
        if self.sign() == Sign::Open {
            // `port (80 or 443)`
            self.qualifiers = Some(qualifiers);
            return self.one(tags);
        }
        self.value(qualifiers, tags)
    }

    /// The value behind these qualifiers.
    fn value(&mut self, qualifiers: Qualifiers, tags: u8) -> Result<(Expression, u8), Mistake> {
        let token = self.token();
        let Sign::Word(word) = token.sign else {
            return Err(self.mistake("an address or a number is missing here"));
        };
        self.at += 1;
        let Qualifiers { prefix, ends, kind } = qualifiers;
        let read = match (kind, prefix) {
            (Kind::Host, Some(Prefix::Ether)) => mac(word).map(|mac| Term::Mac(ends, mac)),
            (Kind::Host, prefix) => host(word).and_then(|one| in_network(prefix, ends, one)),
            (Kind::Net, prefix) => {
                let mask = self.mask()?;
                net(word, mask).and_then(|network| in_network(prefix, ends, network))
            }
            (Kind::Port | Kind::PortRange, prefix) => {
                let number = match prefix {
                    Some(Prefix::Transport(number)) => Some(number),
                    _ => None,
                };
                let range = if kind == Kind::Port { port } else { port_range };
                range(word).map(|(first, last)| Term::Port(number, ends, first, last))
            }
            (Kind::Proto, Some(Prefix::Ether)) => ether_type_of(word).map(Term::EtherType),
            (Kind::Proto, prefix) => {
                let version = match prefix {
                    Some(Prefix::Ip(version)) => Some(version),
                    _ => None,
                };
                protocol_of(word).map(|number| Term::Protocol(version, number))
            }
            (Kind::Vni, _) => {
                let list = word.parse::<VniList>();
                list.map(Term::Vni).map_err(|error| error.to_string())
            }
            (Kind::Source, _) => {
                let network = word.parse::<Network>();
                network.map(Term::Source).map_err(|error| error.to_string())
            }
        };
        let term = read.map_err(|reason| self.mistake_in(token, reason))?;
        self.qualifiers = Some(qualifiers);
        Ok((Expression::Term(term), tags))
    }

    /// `mask 255.255.0.0` behind a network.
    fn mask(&mut self) -> Result<Option<u8>, Mistake> {
        if !self.take(Sign::Word("mask")) {
            return Ok(None);
        }
        let token = self.step();
        let mask = match token.sign {
            Sign::Word(word) => word.parse::<Ipv4Addr>().ok().map(u32::from),
            _ => None,
        };
        let mask = mask.filter(|mask| mask.leading_ones() + mask.trailing_zeros() >= 32);
        let Some(mask) = mask else {
            return Err(self.mistake_in(token, "this is no mask; write for example 255.255.0.0"));
        };
        Ok(u8::try_from(mask.leading_ones()).ok())
    }

    /// `vlan`, or `vlan 5`: one tag deeper than the `vlan` before it.
    fn vlan(&mut self, token: Token<'a>, tags: u8) -> Result<(Expression, u8), Mistake> {
        if tags == MOST_TAGS {
            return Err(self.mistake_in(
                token,
                "two VLAN tags are told apart, and this asks for a third one",
            ));
        }
        let id = match self.sign() {
            Sign::Word(word) if !names::is_keyword(word) => {
                let id = number(word).filter(|id| *id < 4096);
                let id = id.and_then(|id| u16::try_from(id).ok());
                let Some(id) = id else {
                    return Err(self.mistake(format!("'{word}' is no VLAN: they are 0 to 4095")));
                };
                self.at += 1;
                Some(id)
            }
            _ => None,
        };
        Ok((Expression::Term(Term::Vlan(tags, id)), tags + 1))
    }

    /// A number up to `most`.
    fn number(&mut self, most: u32) -> Result<u32, Mistake> {
        let token = self.step();
        let found = match token.sign {
            Sign::Word(word) => number(word).filter(|number| *number <= most),
            _ => None,
        };
        found.ok_or_else(|| {
            self.mistake_in(token, format!("a number from 0 to {most} is needed here"))
        })
    }

    fn relation(&mut self) -> Result<Relation, Mistake> {
        let token = self.step();
        match token.sign {
            Sign::Relation(relation) => Ok(relation),
            _ => Err(self.mistake_in(token, "=, !=, <, <=, > or >= is needed here")),
        }
    }

    fn no_field(&self) -> Mistake {
        self.mistake(
            "of a packet's bytes tcp[tcpflags], icmp[icmptype], icmp[icmpcode], icmp6[icmp6type] and icmp6[icmp6code] \
             can be asked for",
        )
    }

    /// `[tcpflags] & MASK == VALUE`, behind the protocol.
    fn field(&mut self, protocol: &str) -> Result<Term, Mistake> {
        let wrong = self.no_field();
        self.at += 1;
        let field = match (protocol, self.step().sign) {
            ("tcp", Sign::Word("tcpflags" | "13")) => Field::TcpFlags,
            ("icmp", Sign::Word("icmptype" | "0")) => Field::IcmpType,
            ("icmp", Sign::Word("icmpcode" | "1")) => Field::IcmpCode,
            ("icmp6", Sign::Word("icmp6type" | "0")) => Field::Icmp6Type,
            ("icmp6", Sign::Word("icmp6code" | "1")) => Field::Icmp6Code,
            _ => return Err(wrong),
        };
        if !self.take(Sign::CloseBracket) {
            return Err(wrong);
        }
        let mask = match self.take(Sign::BitAnd) {
            true => self.bits()?,
            false => u32::MAX,
        };
        let relation = self.relation()?;
        let mut value = self.bits()?;
        while self.take(Sign::BitOr) {
            value |= self.bits()?;
        }
        Ok(Term::Field(field, mask, relation, value))
    }

    /// A number, a name of one, or several of them in parentheses with `|`.
    fn bits(&mut self) -> Result<u32, Mistake> {
        if !self.take(Sign::Open) {
            let token = self.step();
            let found = match token.sign {
                Sign::Word(word) => number(word).or_else(|| names::constant(word)),
                _ => None,
            };
            return found.ok_or_else(|| {
                self.mistake_in(
                    token,
                    "a number or a name such as tcp-syn or icmp-echo is needed here",
                )
            });
        }
        let mut bits = 0;
        loop {
            // Not `bits`: parentheses inside each other would need a limit.
            let token = self.step();
            let found = match token.sign {
                Sign::Word(word) => number(word).or_else(|| names::constant(word)),
                _ => None,
            };
            bits |= found.ok_or_else(|| {
                self.mistake_in(
                    token,
                    "a number or a name such as tcp-syn or icmp-echo is needed here",
                )
            })?;
            if self.take(Sign::Close) {
                return Ok(bits);
            }
            if !self.take(Sign::BitOr) {
                return Err(self.mistake("'|' or ')' is needed here"));
            }
        }
    }
}

fn all(left: Expression, right: Expression) -> Expression {
    let mut parts = match left {
        Expression::All(parts) => parts,
        left => vec![left],
    };
    match right {
        Expression::All(more) => parts.extend(more),
        right => parts.push(right),
    }
    Expression::All(parts)
}

fn any(left: Expression, right: Expression) -> Expression {
    let mut parts = match left {
        Expression::Any(parts) => parts,
        left => vec![left],
    };
    match right {
        Expression::Any(more) => parts.extend(more),
        right => parts.push(right),
    }
    Expression::Any(parts)
}

/// A number as C writes it: `80` or `0x50`.
fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        None if word.bytes().all(|digit| digit.is_ascii_digit()) => word.parse().ok(),
        _ => None,
    }
}

fn in_network(prefix: Option<Prefix>, ends: Ends, network: Network) -> Result<Term, String> {
    let over = match prefix {
        Some(Prefix::Ip(version)) if (version == Version::V6) == network.is_ipv6() => Over::Ip,
        Some(Prefix::Arp) if !network.is_ipv6() => Over::Arp,
        Some(Prefix::Rarp) if !network.is_ipv6() => Over::Rarp,
        // ARP has none of IPv6.
        None if network.is_ipv6() => Over::Ip,
        None => Over::Any,
        Some(_) if network.is_ipv6() => {
            return Err("this is an address of IPv6; write 'ip6'".to_owned());
        }
        Some(_) => return Err("this is an address of IPv4; write 'ip'".to_owned()),
    };
    Ok(Term::Net(over, ends, network))
}

fn host(word: &str) -> Result<Network, String> {
    let Ok(address) = word.parse::<IpAddr>() else {
        return Err(if word.contains('/') {
            format!("'{word}' is no address; for a network write 'net {word}'")
        } else if mac(word).is_ok() {
            format!("'{word}' is a hardware address; write 'ether host {word}'")
        } else if number(word).is_some_and(|port| port <= 65_535) {
            format!("'{word}' is no address; for a port write 'port {word}'")
        } else {
            format!(
                "'{word}' is no address, and names are not looked up; write for example 10.0.0.1 or 2001:db8::1"
            )
        });
    };
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    Network::new(address, prefix).map_err(|error| error.to_string())
}

/// `10`, `10.1`, `172.16/12`, `10.0.0.0/8`, `2001:db8::/32`.
fn net(word: &str, mask: Option<u8>) -> Result<Network, String> {
    let bad = || {
        format!(
            "'{word}' is no network; write for example 10.0.0.0/8, 172.16/12, 10.1 or 2001:db8::/32"
        )
    };
    let (address, prefix) = match word.split_once('/') {
        Some((address, prefix)) => {
            let prefix = number(prefix).and_then(|prefix| u8::try_from(prefix).ok());
            (address, Some(prefix.ok_or_else(bad)?))
        }
        None => (word, None),
    };
    if prefix.is_some() && mask.is_some() {
        return Err("a network has a prefix length or a mask, not both".to_owned());
    }
    let given = prefix.or(mask);
    if address.contains(':') {
        let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
        if mask.is_some() {
            return Err("networks of IPv6 have a prefix length, no mask".to_owned());
        }
        return Network::new(address.into(), given.unwrap_or(128))
            .map_err(|error| error.to_string());
    }
    let octets: Option<Vec<u8>> = address
        .split('.')
        .map(|octet| number(octet).and_then(|octet| u8::try_from(octet).ok()))
        .collect();
    let octets = octets.filter(|octets| octets.len() <= 4).ok_or_else(bad)?;
    let mut whole = [0; 4];
    whole
        .iter_mut()
        .zip(&octets)
        .for_each(|(whole, octet)| *whole = *octet);
    let told = u8::try_from(octets.len() * 8).unwrap_or(32);
    Network::new(IpAddr::from(whole), given.unwrap_or(told)).map_err(|error| error.to_string())
}

fn port(word: &str) -> Result<(u16, u16), String> {
    let name = word.trim_start_matches('\\');
    let number = number(word).and_then(|port| u16::try_from(port).ok());
    let port = number.or_else(|| names::port(name)).ok_or_else(|| {
        if port_range(word).is_ok() {
            format!("'{word}' is a range; write 'portrange {word}'")
        } else {
            format!("'{word}' is no port; write a number up to 65535")
        }
    })?;
    Ok((port, port))
}

fn port_range(word: &str) -> Result<(u16, u16), String> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let port = |text| number(text).and_then(|port| u16::try_from(port).ok());
    match (port(first), port(last)) {
        // As tcpdump has it.
        (Some(first), Some(last)) => Ok((first.min(last), first.max(last))),
        _ => Err(format!(
            "'{word}' is no range of ports; write for example 6000-6008"
        )),
    }
}

fn protocol_of(word: &str) -> Result<u8, String> {
    let name = word.trim_start_matches('\\');
    let number = number(word).and_then(|number| u8::try_from(number).ok());
    number.or_else(|| names::protocol(name)).ok_or_else(|| {
        format!("'{word}' is no protocol of IP; write a number up to 255, or a name such as tcp, icmp6 or gre")
    })
}

fn ether_type_of(word: &str) -> Result<u16, String> {
    let name = word.trim_start_matches('\\');
    let number = number(word).filter(|number| *number > LARGEST_LENGTH);
    let number = number.and_then(|number| u16::try_from(number).ok());
    number.or_else(|| names::ether_type(name)).ok_or_else(|| {
        format!("'{word}' is no EtherType; write a number from 1501 to 65535 such as 0x88cc, or a name such as ip6, arp or lldp")
    })
}

/// `02:00:5e:10:00:01`, with `-` or `.` between, or `0200.5e10.0001`.
fn mac(word: &str) -> Result<Mac, String> {
    let bad = || format!("'{word}' is no hardware address; write for example 02:00:5e:10:00:01");
    let separator = word.chars().find(|c| matches!(c, ':' | '-' | '.'));
    let parts: Vec<&str> = match separator {
        Some(separator) => word.split(separator).collect(),
        None => vec![word],
    };
    let digits = |part: &str, most: usize| {
        let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        (is_hex && (1..=most).contains(&part.len())).then(|| u64::from_str_radix(part, 16).ok())?
    };
    let (bits, most) = match parts.len() {
        6 => (8, 2),
        3 => (16, 4),
        1 if word.len() == 12 => (48, 12),
        _ => return Err(bad()),
    };
    let mut address: u64 = 0;
    for part in parts {
        address = address << bits | digits(part, most).ok_or_else(bad)?;
    }
    let [_, _, mac @ ..] = address.to_be_bytes();
    Ok(mac)
}
